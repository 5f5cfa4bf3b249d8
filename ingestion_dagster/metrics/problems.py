"""What can be wrong with a metric file: every code with its meaning, and the collector that reports all of them."""

from enum import StrEnum
from typing import Final

from ingestion_dagster.engine.errors import Problem, Refused

LISTED_PROBLEMS: Final = 100
"""Problems listed for one file; the rest are only counted."""


class Code(StrEnum):
    """A stable problem code; `meaning` is its line in the documentation."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> "Code":
        """Pair the code with its meaning."""
        code = str.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    UNREADABLE_JSON = "unreadable_json", "The content is not JSON in UTF-8, or is nested too deeply."
    NOT_AN_OBJECT = "not_an_object", "The content is JSON, but not one object."
    MISSING_FIELD = "missing_field", "A required field is absent."
    NULL_FIELD = "null_field", "A field is null that needs a value."
    WRONG_TYPE = "wrong_type", "A field holds another type than its own."
    TEXT_TOO_LONG = "text_too_long", "A text is longer than its column."
    BAD_CHARACTER = "bad_character", "A text holds a NUL character or half a surrogate pair, which Postgres cannot store."
    UNKNOWN_THEME = "unknown_theme", "The parent theme is not in the reference list."
    UNKNOWN_CHILD_THEME = "unknown_child_theme", "The child theme is not one of its parent theme."
    UNKNOWN_TOPIC = "unknown_topic", "The topic is not one of its child theme."
    UNKNOWN_METRIC_GROUP = "unknown_metric_group", "The metric group is not in the reference list."
    BAD_METRIC_NAME = "bad_metric_name", "The metric is not <topic>_<metric group>_<alphanumeric detail>."
    UNKNOWN_GEOGRAPHY_TYPE = "unknown_geography_type", "The geography type is not in the reference list."
    BAD_GEOGRAPHY_CODE = "bad_geography_code", "The geography code breaks the rule of its geography type."
    GEOGRAPHY_NAME_CODE_MISMATCH = "geography_name_code_mismatch", "The geography's name is not the one its type and code allow."
    DEPRECATED_GEOGRAPHY = "deprecated_geography", "The geography has been replaced by another."
    BAD_AGE = "bad_age", "The age is neither 'all', nor NN-NN with the lower age first, nor NN+."
    UNKNOWN_SEX = "unknown_sex", "The sex is not in the reference list."
    UNKNOWN_FREQUENCY = "unknown_frequency", "The metric frequency is not in the reference list."
    BAD_DATE = "bad_date", "A date is not an ISO date."
    BAD_DATETIME = "bad_datetime", "A date-time is not an ISO date or date-time between the years 1 and 9999 in UTC."
    PERIOD_OUT_OF_ORDER = "period_out_of_order", "A period ends before it starts."
    BAD_EPIWEEK = "bad_epiweek", "An epiweek is not a whole number from 1 to 53."
    VALUE_NOT_A_NUMBER = "value_not_a_number", "A value is NaN or infinite."
    VALUE_OUT_OF_RANGE = "value_out_of_range", "A value rounds to 10 million or more, either side of zero."
    CONFIDENCE_INCOMPLETE = "confidence_incomplete", "One confidence bound is given without the other."
    CONFIDENCE_OUT_OF_ORDER = "confidence_out_of_order", "A value lies outside its confidence bounds."
    MIXED_PUBLIC_FLAGS = "mixed_public_flags", "Points of one file disagree on is_public."
    PUBLIC_FLAG_CONTRADICTS_PREFIX = "public_flag_contradicts_prefix", "is_public disagrees with the metric's OFF-SENS_ prefix."
    FILE_NAME_CONTRADICTS_PREFIX = "file_name_contradicts_prefix", "The file name and the metric disagree on the OFF-SENS_ prefix."
    DELAY_PERIOD_ENDED = "delay_period_ended", "A point outside the reporting delay period follows one inside it."
    METRIC_REHOMED = "metric_rehomed", "The metric is known under another topic or metric group; found when its rows are merged."
    TOO_MANY_PROBLEMS = "too_many_problems", "More problems were found than are listed."
    PREFIX_NEARLY_NON_PUBLIC = (
        "prefix_nearly_non_public",
        "The metric begins almost, but not exactly, with OFF-SENS_; a warning if every point says that it is public.",
    )
    PUBLIC_FLAG_MISSING = "public_flag_missing", "Warning: points carry no is_public; it follows from the metric's prefix."


CODES: Final[dict[str, str]] = {code.value: code.meaning for code in Code}


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
