"""The set-based statements that copy the rows of the original dashboard's tables.

These stand in schema `metrics_before` by then; the tables of this project are empty.
"""

# ruff: noqa: S608 - fragments of our own are put together here, never values

from dataclasses import dataclass
from typing import LiteralString

WIDE_PUBLICATIONS = """
SELECT p.pubname FROM pg_publication AS p
WHERE p.puballtables
   OR EXISTS (SELECT FROM pg_publication_namespace AS n WHERE n.pnpubid = p.oid AND n.pnnspid = 'public'::regnamespace)
ORDER BY 1
"""

# Supporting rows. A reason is null for a row that is taken over.


@dataclass(frozen=True, slots=True)
class Copy:
    """How a table's rows are told apart, and copied."""

    reasons: LiteralString
    insert: LiteralString
    left_behind: LiteralString


def _copy(original: LiteralString, target: LiteralString, columns: LiteralString, reason: LiteralString = "NULL::text") -> Copy:
    return Copy(
        reasons=f"SELECT {reason} AS reason, count(*) FROM metrics_before.{original} AS o GROUP BY reason",
        insert=f"""
INSERT INTO metrics.{target} (id, {columns})
SELECT id, {columns} FROM metrics_before.{original} AS o WHERE ({reason}) IS NULL ORDER BY id
""",
        left_behind=_rows_left(original, target, reason),
    )


def _rows_left(original: LiteralString, target: LiteralString, reason: LiteralString, joined: LiteralString = "") -> LiteralString:
    return f"""
SELECT o.*, {reason} AS reason FROM metrics_before.{original} AS o {joined}
WHERE NOT EXISTS (SELECT FROM metrics.{target} AS taken_over WHERE taken_over.id = o.id)
"""


def _child_of(parent: LiteralString, column: LiteralString) -> LiteralString:
    return f"""CASE
    WHEN o.{column} IS NULL THEN 'null_parent'
    WHEN NOT EXISTS (SELECT FROM metrics.{parent} AS p WHERE p.id = o.{column}) THEN 'parent_left_behind'
END"""


COPY_SUPPORTING = {
    "data_theme": _copy("data_theme", "theme", "name, created_dt"),
    "data_subtheme": _copy("data_subtheme", "sub_theme", "name, created_dt, theme_id", _child_of("theme", "theme_id")),
    "data_topic": _copy("data_topic", "topic", "name, sub_theme_id", _child_of("sub_theme", "sub_theme_id")),
    "data_metricgroup": _copy("data_metricgroup", "metric_group", "name, topic_id", _child_of("topic", "topic_id")),
    "data_metric": _copy(
        "data_metric",
        "metric",
        "name, topic_id, metric_group_id",
        f"coalesce({_child_of('topic', 'topic_id')}, {_child_of('metric_group', 'metric_group_id')})",
    ),
    "data_geographytype": _copy("data_geographytype", "geography_type", "name"),
    "data_geography": _copy(
        "data_geography", "geography", "name, geography_type_id, geography_code", _child_of("geography_type", "geography_type_id")
    ),
    "data_stratum": _copy("data_stratum", "stratum", "name"),
    "data_age": _copy("data_age", "age", "name"),
}

# New rows get ids that no row of the original ever had.
SET_SEQUENCE: LiteralString = """
SELECT setval(pg_get_serial_sequence('metrics.{target}', 'id'), highest)
FROM (SELECT greatest((SELECT max(id) FROM metrics_before.{original}),
                      pg_sequence_last_value(pg_get_serial_sequence('metrics_before.{original}', 'id')::regclass)) AS highest) AS used
WHERE highest > 0
"""

GROUPS_OF_ANOTHER_TOPIC = """
SELECT count(*) FROM metrics.metric AS m JOIN metrics.metric_group AS g ON g.id = m.metric_group_id WHERE g.topic_id <> m.topic_id
"""

# Facts. What decides over a row, but for its own refresh date and epiweek, is said once for all rows that share their labels.

_COUNTED = """count(*) AS rows, count(*) FILTER (WHERE refresh_date IS NULL) AS undated,
       count(*) FILTER (WHERE refresh_date IS NOT NULL AND {misnumbered}) AS misnumbered,
       max(refresh_date) FILTER (WHERE NOT {misnumbered}) AS newest, NULL::text AS reason, NULL::bigint AS series_id"""

KEYS: LiteralString = f"""
CREATE TEMP TABLE adopted_key ON COMMIT DROP AS
SELECT 'data_coretimeseries' AS fact, metric_id, geography_id, stratum_id, age_id, sex, is_public,
       {_COUNTED.format(misnumbered="epiweek < 0")}
FROM metrics_before.data_coretimeseries GROUP BY metric_id, geography_id, stratum_id, age_id, sex, is_public
UNION ALL
SELECT 'data_coreheadline', metric_id, geography_id, stratum_id, age_id, sex, is_public, {_COUNTED.format(misnumbered="false")}
FROM metrics_before.data_coreheadline GROUP BY metric_id, geography_id, stratum_id, age_id, sex, is_public
"""

JUDGE_KEYS = """
UPDATE adopted_key AS k SET reason = CASE
    WHEN k.metric_id IS NULL OR k.geography_id IS NULL OR k.stratum_id IS NULL OR k.age_id IS NULL THEN 'null_label'
    WHEN k.sex IS NULL THEN 'null_sex'
    WHEN NOT EXISTS (SELECT FROM metrics.metric AS m WHERE m.id = k.metric_id)
      OR NOT EXISTS (SELECT FROM metrics.geography AS g WHERE g.id = k.geography_id)
      OR NOT EXISTS (SELECT FROM metrics.stratum AS s WHERE s.id = k.stratum_id)
      OR NOT EXISTS (SELECT FROM metrics.age AS a WHERE a.id = k.age_id) THEN 'label_left_behind'
    WHEN NOT k.is_public AND (SELECT m.is_public FROM metrics.metric AS m WHERE m.id = k.metric_id) THEN 'not_public_without_prefix'
END
"""

LABELS: LiteralString = f"""
CREATE TEMP TABLE adopted_label ON COMMIT DROP AS
SELECT theme, sub_theme, topic, metric_group, metric, geography_type, geography, geography_code, age, stratum, sex, is_public,
       NULL::bigint AS metric_id, NULL::bigint AS geography_id, NULL::bigint AS stratum_id, NULL::bigint AS age_id,
       {_COUNTED.format(misnumbered="epiweek < 0")}
FROM metrics_before.data_apitimeseries
GROUP BY theme, sub_theme, topic, metric_group, metric, geography_type, geography, geography_code, age, stratum, sex, is_public
"""

JUDGE_LABELS: tuple[LiteralString, ...] = (
    """
UPDATE adopted_label SET reason = CASE
    WHEN metric_group IS NULL OR age IS NULL THEN 'null_label'
    WHEN sex IS NULL THEN 'null_sex'
    WHEN NOT is_public AND NOT starts_with(metric, 'OFF-SENS_') THEN 'not_public_without_prefix'
END
""",
    # A metric has one home (topic and group): where the original's own rows have it, else where its newest row says.
    """
CREATE TEMP TABLE adopted_home ON COMMIT DROP AS
SELECT DISTINCT ON (metric) metric, theme, sub_theme, topic, metric_group, first = 0 AS is_known
FROM (
    SELECT 0 AS first, NULL::timestamptz AS newest, m.name AS metric, th.name AS theme, st.name AS sub_theme, t.name AS topic,
           g.name AS metric_group
    FROM metrics.metric AS m
    JOIN metrics.metric_group AS g ON g.id = m.metric_group_id
    JOIN metrics.topic AS t ON t.id = m.topic_id
    JOIN metrics.sub_theme AS st ON st.id = t.sub_theme_id
    JOIN metrics.theme AS th ON th.id = st.theme_id
    UNION ALL
    SELECT 1, newest, metric, theme, sub_theme, topic, metric_group FROM adopted_label WHERE reason IS NULL AND newest IS NOT NULL
) AS said
ORDER BY metric, first, newest DESC, theme, sub_theme, topic, metric_group
""",
    """
UPDATE adopted_label AS l SET reason = 'metric_at_home_elsewhere'
FROM adopted_home AS h
WHERE l.reason IS NULL AND l.metric = h.metric
  AND (l.theme, l.sub_theme, l.topic, l.metric_group) IS DISTINCT FROM (h.theme, h.sub_theme, h.topic, h.metric_group)
""",
)

_NEW = "FROM adopted_home AS h WHERE NOT h.is_known"
_HELD = "FROM adopted_label AS l WHERE l.reason IS NULL AND l.newest IS NOT NULL"

# What API rows name and the core side lacks is created, as loading those rows would.
CREATE_SUPPORTING: dict[str, LiteralString] = {
    "data_theme": f"INSERT INTO metrics.theme (name) SELECT h.theme {_NEW} EXCEPT SELECT name FROM metrics.theme ORDER BY 1",
    "data_subtheme": f"""
INSERT INTO metrics.sub_theme (name, theme_id)
SELECT h.sub_theme, (SELECT id FROM metrics.theme WHERE name = h.theme) {_NEW}
EXCEPT SELECT name, theme_id FROM metrics.sub_theme ORDER BY 1, 2
""",
    "data_topic": f"""
INSERT INTO metrics.topic (name, sub_theme_id)
SELECT h.topic, (SELECT st.id FROM metrics.sub_theme AS st JOIN metrics.theme AS th ON th.id = st.theme_id
                 WHERE st.name = h.sub_theme AND th.name = h.theme) {_NEW}
EXCEPT SELECT name, sub_theme_id FROM metrics.topic ORDER BY 1, 2
""",
    "data_metricgroup": f"""
INSERT INTO metrics.metric_group (name, topic_id)
SELECT h.metric_group, (SELECT t.id FROM metrics.topic AS t JOIN metrics.sub_theme AS st ON st.id = t.sub_theme_id
                        JOIN metrics.theme AS th ON th.id = st.theme_id
                        WHERE t.name = h.topic AND st.name = h.sub_theme AND th.name = h.theme) {_NEW}
EXCEPT SELECT name, topic_id FROM metrics.metric_group ORDER BY 1, 2
""",
    "data_metric": """
INSERT INTO metrics.metric (name, topic_id, metric_group_id)
SELECT h.metric, t.id, g.id
FROM adopted_home AS h
JOIN metrics.theme AS th ON th.name = h.theme
JOIN metrics.sub_theme AS st ON st.name = h.sub_theme AND st.theme_id = th.id
JOIN metrics.topic AS t ON t.name = h.topic AND t.sub_theme_id = st.id
JOIN metrics.metric_group AS g ON g.name = h.metric_group AND g.topic_id = t.id
WHERE NOT h.is_known ORDER BY 1
""",
    "data_geographytype": f"""
INSERT INTO metrics.geography_type (name) SELECT l.geography_type {_HELD} EXCEPT SELECT name FROM metrics.geography_type ORDER BY 1
""",
    "data_geography": f"""
INSERT INTO metrics.geography (name, geography_type_id, geography_code)
SELECT l.geography, (SELECT id FROM metrics.geography_type WHERE name = l.geography_type), l.geography_code {_HELD}
EXCEPT SELECT name, geography_type_id, geography_code FROM metrics.geography ORDER BY 2, 3, 1
""",
    "data_stratum": f"INSERT INTO metrics.stratum (name) SELECT l.stratum {_HELD} EXCEPT SELECT name FROM metrics.stratum ORDER BY 1",
    "data_age": f"INSERT INTO metrics.age (name) SELECT l.age {_HELD} EXCEPT SELECT name FROM metrics.age ORDER BY 1",
}

KEY_LABELS = """
UPDATE adopted_label AS l SET metric_id = m.id, geography_id = g.id, stratum_id = s.id, age_id = a.id
FROM metrics.metric AS m, metrics.geography AS g, metrics.geography_type AS gt, metrics.stratum AS s, metrics.age AS a
WHERE l.reason IS NULL AND l.newest IS NOT NULL AND m.name = l.metric AND gt.name = l.geography_type
  AND g.geography_type_id = gt.id AND g.name = l.geography AND g.geography_code IS NOT DISTINCT FROM l.geography_code
  AND s.name = l.stratum AND a.name = l.age
"""

CREATE_SERIES = """
INSERT INTO metrics.series (metric_id, geography_id, stratum_id, age_id, sex, is_public, newest_refresh_date)
SELECT k.metric_id, k.geography_id, k.stratum_id, k.age_id, k.sex, m.is_public, max(k.newest)
FROM (
    SELECT metric_id, geography_id, stratum_id, age_id, sex, newest FROM adopted_key WHERE reason IS NULL AND newest IS NOT NULL
    UNION ALL
    SELECT metric_id, geography_id, stratum_id, age_id, sex, newest FROM adopted_label WHERE reason IS NULL AND newest IS NOT NULL
) AS k
JOIN metrics.metric AS m ON m.id = k.metric_id
GROUP BY k.metric_id, k.geography_id, k.stratum_id, k.age_id, k.sex, m.is_public
ORDER BY 1, 2, 3, 4, 5
"""

_KEY_SERIES = """
UPDATE {keyed} AS k SET series_id = s.id
FROM metrics.series AS s
WHERE k.reason IS NULL AND s.metric_id = k.metric_id AND s.geography_id = k.geography_id AND s.stratum_id = k.stratum_id
  AND s.age_id = k.age_id AND s.sex = k.sex
"""
KEY_SERIES: tuple[LiteralString, ...] = (
    _KEY_SERIES.format(keyed="adopted_key"),
    _KEY_SERIES.format(keyed="adopted_label"),
    "ANALYZE adopted_key; ANALYZE adopted_label",
)

UNKEYED = """
SELECT (SELECT count(*) FROM adopted_key WHERE reason IS NULL AND newest IS NOT NULL AND series_id IS NULL)
     + (SELECT count(*) FROM adopted_label WHERE reason IS NULL AND newest IS NOT NULL AND series_id IS NULL)
"""

_OF_KEY = """k.metric_id = o.metric_id AND k.geography_id = o.geography_id AND k.stratum_id = o.stratum_id AND k.age_id = o.age_id
   AND k.sex = o.sex AND k.is_public = o.is_public"""
# No geography code is as long as what stands for one that is null.
_OF_LABEL = """l.metric = o.metric AND l.geography = o.geography AND l.age = o.age AND l.stratum = o.stratum AND l.sex = o.sex
   AND l.topic = o.topic AND l.metric_group = o.metric_group AND l.theme = o.theme AND l.sub_theme = o.sub_theme
   AND l.geography_type = o.geography_type AND l.is_public = o.is_public
   AND coalesce(l.geography_code, 'no code at all') = coalesce(o.geography_code, 'no code at all')"""
_POINT_COLUMNS = "refresh_date, embargo, date, epiweek, metric_frequency, in_reporting_delay_period, force_write, metric_value"
_POINT_VALUES = """o.refresh_date, o.embargo, o.date, o.epiweek, o.metric_frequency, o.in_reporting_delay_period, o.force_write,
       o.metric_value"""

# In the order of the index; of rows that say the same, the one written last is kept.
COPY_FACTS: dict[str, LiteralString] = {
    "data_coreheadline": f"""
INSERT INTO metrics.core_headline
    (id, series_id, refresh_date, embargo, period_start, period_end, force_write, metric_value, lower_confidence, upper_confidence)
SELECT o.id, k.series_id, o.refresh_date, o.embargo, o.period_start, o.period_end, o.force_write, o.metric_value, o.lower_confidence,
       o.upper_confidence
FROM metrics_before.data_coreheadline AS o
JOIN adopted_key AS k ON k.fact = 'data_coreheadline' AND k.series_id IS NOT NULL AND {_OF_KEY}
ORDER BY k.series_id, o.period_end, o.id DESC
ON CONFLICT ON CONSTRAINT core_headline_version DO NOTHING
""",
    "data_coretimeseries": f"""
INSERT INTO metrics.core_time_series (id, series_id, {_POINT_COLUMNS})
SELECT o.id, k.series_id, {_POINT_VALUES}
FROM metrics_before.data_coretimeseries AS o
JOIN adopted_key AS k ON k.fact = 'data_coretimeseries' AND k.series_id IS NOT NULL AND {_OF_KEY}
WHERE o.refresh_date IS NOT NULL AND o.epiweek >= 0
ORDER BY k.series_id, o.date, o.id DESC
ON CONFLICT ON CONSTRAINT core_time_series_version DO NOTHING
""",
    "data_apitimeseries": f"""
INSERT INTO metrics.api_time_series (id, series_id, {_POINT_COLUMNS})
SELECT o.id, l.series_id, {_POINT_VALUES}
FROM metrics_before.data_apitimeseries AS o
JOIN adopted_label AS l ON l.series_id IS NOT NULL AND {_OF_LABEL}
WHERE o.refresh_date IS NOT NULL AND o.epiweek >= 0
ORDER BY l.series_id, o.date, o.id DESC
ON CONFLICT ON CONSTRAINT api_time_series_version DO NOTHING
""",
}

_LEFT = """
SELECT reason, sum(rows)::bigint FROM {counted} AND reason IS NOT NULL GROUP BY reason
UNION ALL
SELECT 'null_refresh_date', sum(undated)::bigint FROM {counted} AND reason IS NULL HAVING sum(undated) > 0
UNION ALL
SELECT 'negative_epiweek', sum(misnumbered)::bigint FROM {counted} AND reason IS NULL HAVING sum(misnumbered) > 0
"""
LEFT_BEHIND: dict[str, LiteralString] = {
    "data_coreheadline": _LEFT.format(counted="adopted_key WHERE fact = 'data_coreheadline'"),
    "data_coretimeseries": _LEFT.format(counted="adopted_key WHERE fact = 'data_coretimeseries'"),
    "data_apitimeseries": _LEFT.format(counted="adopted_label WHERE true"),
}

# What decides over a row, as text: in it nulls are equal to each other and to nothing else.
_KEY = "ROW({row}.metric_id, {row}.geography_id, {row}.stratum_id, {row}.age_id, {row}.sex, {row}.is_public)::text"
_LABEL = """ROW({row}.theme, {row}.sub_theme, {row}.topic, {row}.metric_group, {row}.metric, {row}.geography_type, {row}.geography,
       {row}.geography_code, {row}.age, {row}.stratum, {row}.sex, {row}.is_public)::text"""
_ROW_REASON = "coalesce(counted.reason, CASE WHEN o.refresh_date IS NULL THEN 'null_refresh_date'{misnumbered} ELSE 'duplicate' END)"
_POINT_REASON = _ROW_REASON.format(misnumbered=" WHEN o.epiweek < 0 THEN 'negative_epiweek'")


def _counted(fact: LiteralString) -> LiteralString:
    return f"LEFT JOIN adopted_key AS counted ON counted.fact = '{fact}' AND {_KEY.format(row='counted')} = {_KEY.format(row='o')}"


ROWS_LEFT_BEHIND: dict[str, LiteralString] = {name: copy.left_behind for name, copy in COPY_SUPPORTING.items()} | {
    "data_coreheadline": _rows_left(
        "data_coreheadline", "core_headline", _ROW_REASON.format(misnumbered=""), _counted("data_coreheadline")
    ),
    "data_coretimeseries": _rows_left("data_coretimeseries", "core_time_series", _POINT_REASON, _counted("data_coretimeseries")),
    "data_apitimeseries": _rows_left(
        "data_apitimeseries",
        "api_time_series",
        _POINT_REASON,
        f"LEFT JOIN adopted_label AS counted ON {_LABEL.format(row='counted')} = {_LABEL.format(row='o')}",
    ),
}
"""By original, its rows that are left behind, each with its reason."""

_CHANGED = """
SELECT count(*) FILTER (WHERE o.is_public AND NOT s.is_public), count(*) FILTER (WHERE {redated})
FROM metrics.{target} AS t
JOIN metrics.series AS s ON s.id = t.series_id
JOIN metrics_before.{original} AS o ON o.id = t.id
"""
_REDATED = "o.year <> extract(year FROM o.date) OR o.month IS DISTINCT FROM extract(month FROM o.date)::smallint"
CHANGED: dict[str, LiteralString] = {
    "data_coreheadline": _CHANGED.format(target="core_headline", original="data_coreheadline", redated="false"),
    "data_coretimeseries": _CHANGED.format(target="core_time_series", original="data_coretimeseries", redated=_REDATED),
    "data_apitimeseries": _CHANGED.format(target="api_time_series", original="data_apitimeseries", redated=_REDATED),
}
"""Rows taken over that readers see otherwise than before: made non-public, and with another year or month."""

# What an equal file would not mend: it is compared with the API rows.
ONE_SIDED = """
SELECT (SELECT count(*) FROM (SELECT series_id, date FROM metrics.api_time_series
                              EXCEPT SELECT series_id, date FROM metrics.core_time_series) AS api_only),
       (SELECT count(*) FROM (SELECT series_id, date FROM metrics.core_time_series
                              EXCEPT SELECT series_id, date FROM metrics.api_time_series) AS core_only)
"""

ANALYZE_SUPPORTING = """
ANALYZE metrics.theme, metrics.sub_theme, metrics.topic, metrics.metric_group, metrics.metric, metrics.geography_type, metrics.geography,
    metrics.stratum, metrics.age, adopted_key, adopted_label
"""
ANALYZE_FACTS = "ANALYZE metrics.series, metrics.core_headline, metrics.core_time_series, metrics.api_time_series"
