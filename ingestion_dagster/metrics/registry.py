"""What the metrics pipeline knows by name: its file types and its target tables. An entry here is an asset, its checks, its docs."""

from dataclasses import dataclass

from ingestion_dagster.metrics.rules import reference

HEADLINE = reference().groups.headline

FILE_TYPES: dict[str, str] = reference().groups.groups
"""The metric groups of the UKHSA dashboard, by the name that a file's `metric_group` carries, with what they hold.

An entry in `reference/metric_groups.json` is a file type: its rule, its asset, its checks, its dataset."""

TIME_SERIES_TYPES = tuple(name for name in FILE_TYPES if name != HEADLINE)

Columns = tuple[tuple[str, str, str], ...]
"""Name, type and description each."""

_HEADER_FIELDS: Columns = (
    ("parent_theme", "string", "Theme."),
    ("child_theme", "string", "Sub-theme, one of its theme."),
    ("topic", "string", "Topic, one of its sub-theme."),
    ("metric_group", "string", "File type."),
    ("metric", "string", "Name of the metric; OFF-SENS_… if it is not public."),
    ("geography_type", "string", "Kind of geography."),
    ("geography", "string", "Name of the geography."),
    ("geography_code", "string", "Statistical or organisation code."),
    ("age", "string", "all, NN-NN or NN+."),
    ("sex", "string", "male, female or all."),
    ("stratum", "string", "Stratum."),
    ("refresh_date", "date-time", "When the producer refreshed the file."),
)
_POINT_FIELDS: Columns = (
    ("embargo", "date-time", "Of a point: before this instant it is not released."),
    ("metric_value", "number", "Of a point: its value; null points are passed over."),
    ("is_public", "boolean", "Of a point: must agree with the metric's prefix."),
)
_HEADLINE_FIELDS: Columns = (
    *_HEADER_FIELDS,
    ("period_start", "date-time", "Of a point: start of its period."),
    ("period_end", "date-time", "Of a point: end of its period."),
    *_POINT_FIELDS,
    ("lower_confidence", "number", "Of a point: lower confidence bound."),
    ("upper_confidence", "number", "Of a point: upper confidence bound."),
)
_TIME_SERIES_FIELDS: Columns = (
    *_HEADER_FIELDS,
    ("metric_frequency", "string", "annual, quarterly, monthly, fortnightly, weekly or daily."),
    ("date", "date", "Of a point: its date."),
    ("epiweek", "integer", "Of a point: epidemiological week, 1 to 53."),
    *_POINT_FIELDS,
    ("in_reporting_delay_period", "boolean", "Of a point: reports are outstanding."),
    ("force_write", "boolean", "Of a point: to be written although its value is known."),
)
FIELDS: dict[str, Columns] = {name: _HEADLINE_FIELDS if name == HEADLINE else _TIME_SERIES_FIELDS for name in FILE_TYPES}
"""The fields of each file type: those of the file, then those of its points."""


@dataclass(frozen=True, slots=True)
class TargetTable:
    """A table in schema `metrics`, the view under its original name, and which file types feed it."""

    name: str
    view: str
    description: str
    columns: Columns
    fed_by: tuple[str, ...] = tuple(FILE_TYPES)
    parent: str | None = None
    """The table whose rows this one's belong to; its lineage runs through it."""
    is_fact: bool = False

    def sources(self, column: str) -> tuple[str, ...]:
        """The fields of a file that a column's values come from; none for identities and references between tables."""
        if column == "name":
            return _SOURCES.get(self.name, (self.name,))
        if column in {"id", "created_dt"} or (column.endswith("_id") and not self.is_fact):
            return ()
        return _SOURCES.get(column, (column,))


_SOURCES = {
    "theme": ("parent_theme",),
    "sub_theme": ("child_theme",),
    "metric_id": ("metric",),
    "geography_id": ("geography_type", "geography", "geography_code"),
    "stratum_id": ("stratum",),
    "age_id": ("age",),
    "year": ("date",),
    "month": ("date",),
    "is_public": ("metric",),
}
"""Where a column, or the names in a table, come from under another name."""


_ID = ("id", "bigint", "Identity of the row.")
_NAME = ("name", "character varying(50)", "Name as files give it.")
_VERSION = (
    ("refresh_date", "timestamp with time zone", "When the producer refreshed the file that this row came with."),
    ("embargo", "timestamp with time zone", "Before this instant the row is not released; null: released."),
    ("force_write", "boolean", "The producer insisted on this row although its value was known."),
    ("is_public", "boolean", "False for metrics named OFF-SENS_…; held by the database."),
)
_SERIES_KEYS = (
    ("metric_id", "bigint", "Row of metric."),
    ("geography_id", "bigint", "Row of geography."),
    ("stratum_id", "bigint", "Row of stratum."),
    ("age_id", "bigint", "Row of age."),
    ("sex", "character varying(3)", "m, f or all."),
)
_POINT = (
    ("metric_frequency", "character varying(1)", "A, Q, M, F, W or D: annual to daily."),
    ("date", "date", "Date of the point."),
    ("year", "smallint", "Year of the date."),
    ("month", "smallint", "Month of the date."),
    ("epiweek", "smallint", "Epidemiological week, 1 to 53, as the file gives it."),
    ("in_reporting_delay_period", "boolean", "The value may still change because reports are outstanding."),
)

TABLES: dict[str, TargetTable] = {
    table.name: table
    for table in (
        TargetTable(
            "theme", "data_theme", "Parent themes.", (_ID, _NAME, ("created_dt", "timestamp with time zone", "When it was first seen."))
        ),
        TargetTable(
            "sub_theme",
            "data_subtheme",
            "Child themes of a theme.",
            (_ID, _NAME, ("theme_id", "bigint", "Row of theme."), ("created_dt", "timestamp with time zone", "When it was first seen.")),
            parent="theme",
        ),
        TargetTable(
            "topic",
            "data_topic",
            "Topics of a child theme.",
            (_ID, _NAME, ("sub_theme_id", "bigint", "Row of sub_theme.")),
            parent="sub_theme",
        ),
        TargetTable(
            "metric_group",
            "data_metricgroup",
            "Metric groups of a topic.",
            (_ID, _NAME, ("topic_id", "bigint", "Row of topic.")),
            parent="topic",
        ),
        TargetTable(
            "metric",
            "data_metric",
            "Metrics; a name belongs to one topic and group.",
            (
                _ID,
                ("name", "character varying(100)", "Name as files give it."),
                ("topic_id", "bigint", "Row of topic."),
                ("metric_group_id", "bigint", "Row of metric_group."),
            ),
            parent="metric_group",
        ),
        TargetTable("geography_type", "data_geographytype", "Kinds of geography.", (_ID, _NAME)),
        TargetTable(
            "geography",
            "data_geography",
            "Geographies by type, code and name.",
            (
                _ID,
                ("name", "character varying(100)", "Name as files give it."),
                ("geography_code", "character varying(9)", "Statistical or organisation code."),
                ("geography_type_id", "bigint", "Row of geography_type."),
            ),
            parent="geography_type",
        ),
        TargetTable("stratum", "data_stratum", "Strata.", (_ID, _NAME)),
        TargetTable("age", "data_age", "Age bands.", (_ID, _NAME)),
        TargetTable(
            "core_headline",
            "data_coreheadline",
            "Headline figures by period.",
            (
                _ID,
                *_SERIES_KEYS,
                ("period_start", "timestamp with time zone", "Start of the period."),
                ("period_end", "timestamp with time zone", "End of the period."),
                ("metric_value", "numeric(11,4)", "The figure."),
                ("lower_confidence", "numeric(11,4)", "Lower confidence bound."),
                ("upper_confidence", "numeric(11,4)", "Upper confidence bound."),
                *_VERSION,
            ),
            fed_by=(HEADLINE,),
            is_fact=True,
        ),
        TargetTable(
            "core_time_series",
            "data_coretimeseries",
            "Points of all time series, keyed by their supporting rows.",
            (_ID, *_SERIES_KEYS, *_POINT, ("metric_value", "numeric(11,4)", "The value, to four decimals."), *_VERSION),
            fed_by=TIME_SERIES_TYPES,
            is_fact=True,
        ),
        TargetTable(
            "api_time_series",
            "data_apitimeseries",
            "Points of all time series with every label as text, as the public API reads them.",
            (
                _ID,
                *((label, "character varying(50)", "Label.") for label in ("theme", "sub_theme", "topic", "metric_group")),
                ("metric", "character varying(100)", "Label."),
                ("geography_type", "character varying(50)", "Label."),
                ("geography", "character varying(100)", "Label."),
                ("geography_code", "character varying(9)", "Label."),
                ("age", "character varying(50)", "Label."),
                ("stratum", "character varying(50)", "Label."),
                ("sex", "character varying(3)", "m, f or all."),
                *_POINT,
                ("metric_value", "double precision", "The value as delivered."),
                *_VERSION,
            ),
            fed_by=TIME_SERIES_TYPES,
            is_fact=True,
        ),
    )
}
"""The twelve target tables, in the order in which a file's rows reach them."""
