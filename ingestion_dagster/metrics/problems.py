"""What can be wrong with a metric file: every code, and the collector that reports all of them."""

from enum import StrEnum
from typing import Final

from ingestion_dagster.engine.errors import Problem, Refused

LISTED_PROBLEMS: Final = 100
"""Problems listed for one file; the rest are only counted."""


class Code(StrEnum):
    """A stable problem code; `codes.toml` says what each means."""

    UNREADABLE_JSON = "unreadable_json"
    NOT_AN_OBJECT = "not_an_object"
    MISSING_FIELD = "missing_field"
    NULL_FIELD = "null_field"
    WRONG_TYPE = "wrong_type"
    TEXT_TOO_LONG = "text_too_long"
    BAD_CHARACTER = "bad_character"
    UNKNOWN_THEME = "unknown_theme"
    UNKNOWN_CHILD_THEME = "unknown_child_theme"
    UNKNOWN_TOPIC = "unknown_topic"
    UNKNOWN_METRIC_GROUP = "unknown_metric_group"
    BAD_METRIC_NAME = "bad_metric_name"
    UNKNOWN_GEOGRAPHY_TYPE = "unknown_geography_type"
    BAD_GEOGRAPHY_CODE = "bad_geography_code"
    GEOGRAPHY_NAME_CODE_MISMATCH = "geography_name_code_mismatch"
    DEPRECATED_GEOGRAPHY = "deprecated_geography"
    BAD_AGE = "bad_age"
    UNKNOWN_SEX = "unknown_sex"
    UNKNOWN_FREQUENCY = "unknown_frequency"
    BAD_DATE = "bad_date"
    BAD_DATETIME = "bad_datetime"
    PERIOD_OUT_OF_ORDER = "period_out_of_order"
    BAD_EPIWEEK = "bad_epiweek"
    VALUE_NOT_A_NUMBER = "value_not_a_number"
    VALUE_OUT_OF_RANGE = "value_out_of_range"
    CONFIDENCE_INCOMPLETE = "confidence_incomplete"
    CONFIDENCE_OUT_OF_ORDER = "confidence_out_of_order"
    MIXED_PUBLIC_FLAGS = "mixed_public_flags"
    PUBLIC_FLAG_CONTRADICTS_PREFIX = "public_flag_contradicts_prefix"
    FILE_NAME_CONTRADICTS_PREFIX = "file_name_contradicts_prefix"
    DELAY_PERIOD_ENDED = "delay_period_ended"
    METRIC_REHOMED = "metric_rehomed"
    TOO_MANY_PROBLEMS = "too_many_problems"
    PREFIX_NEARLY_NON_PUBLIC = "prefix_nearly_non_public"
    PUBLIC_FLAG_MISSING = "public_flag_missing"


class Findings:
    """The problems of one file in the order found. Callers pass places and messages that hold no value of the file."""

    def __init__(self) -> None:
        self.count = 0
        self._listed: list[Problem] = []

    def add(self, code: Code, place: str, message: str) -> None:
        """Count a problem, and keep it unless enough are listed already."""
        self.count += 1
        if self.count <= LISTED_PROBLEMS:
            self._listed.append(Problem(code.value, place, message))

    def refuse_if_any(self) -> None:
        """Raise `Refused` with everything found."""
        if not self.count:
            return
        if self.count > LISTED_PROBLEMS:
            message = f"{self.count} problems in all; the first {LISTED_PROBLEMS} are listed"
            raise Refused(*self._listed, Problem(Code.TOO_MANY_PROBLEMS.value, "file", message))
        raise Refused(*self._listed)
