"""The table side of metrics: staging, and the set-based statements that bring staged files into the tables.

A file's rows reach `core_*` and `api_time_series` in one transaction. What counts as a change, and which row replaces which,
is said per statement; the rules follow the reader contract of the UKHSA dashboard (newest refresh date among released rows).
"""

# ruff: noqa: S608 - fragments of our own are put together here, never values

from typing import LiteralString

STAGING = """
CREATE TEMP TABLE IF NOT EXISTS stage_file (
    ord integer PRIMARY KEY, theme text, sub_theme text, topic text, metric_group text, metric text, geography_type text,
    geography text, geography_code text, age text, stratum text, sex text, metric_frequency text, refresh_date timestamptz, is_full boolean,
    series_id bigint, round integer, newest_refresh_date timestamptz, newest_by_refresh boolean
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS stage_point (
    ord integer, date date, epiweek smallint, scaled bigint, metric_value double precision, embargo timestamptz,
    in_reporting_delay_period boolean, force_write boolean
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS stage_headline (
    ord integer, period_start timestamptz, period_end timestamptz, scaled bigint, scaled_lower bigint, scaled_upper bigint,
    embargo timestamptz
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS changed_date (
    ord integer, series_id bigint, date date, refresh_date timestamptz, written boolean, held boolean
) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE IF NOT EXISTS changed_period (
    ord integer, series_id bigint, period_start timestamptz, period_end timestamptz, refresh_date timestamptz
) ON COMMIT DELETE ROWS;
TRUNCATE stage_file, stage_point, stage_headline, changed_date, changed_period
"""

COPY_FILES = """
COPY stage_file (ord, theme, sub_theme, topic, metric_group, metric, geography_type, geography, geography_code, age, stratum, sex,
                 metric_frequency, refresh_date, is_full) FROM STDIN (FORMAT BINARY)
"""
FILE_TYPES = ["int4", *["text"] * 12, "timestamptz", "bool"]

COPY_POINTS = """
COPY stage_point (ord, date, epiweek, scaled, metric_value, embargo, in_reporting_delay_period, force_write)
FROM STDIN (FORMAT BINARY)
"""
POINT_TYPES = ["int4", "date", "int2", "int8", "float8", "timestamptz", "bool", "bool"]

COPY_HEADLINES = """
COPY stage_headline (ord, period_start, period_end, scaled, scaled_lower, scaled_upper, embargo) FROM STDIN (FORMAT BINARY)
"""
HEADLINE_TYPES = ["int4", "timestamptz", "timestamptz", "int8", "int8", "int8", "timestamptz"]

# A metric has one home (topic and group). A file that names another is not half-written: it is taken out before anything is.
METRICS_AT_HOME_ELSEWHERE = """
WITH home AS (
    SELECT DISTINCT ON (metric) metric, theme, sub_theme, topic, metric_group
    FROM (
        SELECT 0 AS first, -1 AS ord, m.name AS metric, th.name AS theme, st.name AS sub_theme, t.name AS topic, g.name AS metric_group
        FROM metrics.metric AS m
        JOIN metrics.metric_group AS g ON g.id = m.metric_group_id
        JOIN metrics.topic AS t ON t.id = m.topic_id
        JOIN metrics.sub_theme AS st ON st.id = t.sub_theme_id
        JOIN metrics.theme AS th ON th.id = st.theme_id
        WHERE m.name IN (SELECT metric FROM stage_file)
        UNION ALL
        SELECT 1, ord, metric, theme, sub_theme, topic, metric_group FROM stage_file
    ) AS known
    ORDER BY metric, first, ord
), strays AS (
    DELETE FROM stage_file AS f USING home AS h
    WHERE f.metric = h.metric
      AND (f.theme, f.sub_theme, f.topic, f.metric_group) IS DISTINCT FROM (h.theme, h.sub_theme, h.topic, h.metric_group)
    RETURNING f.ord
), points AS (
    DELETE FROM stage_point AS p USING strays WHERE p.ord = strays.ord
), headlines AS (
    DELETE FROM stage_headline AS h USING strays WHERE h.ord = strays.ord
)
SELECT ord FROM strays
"""

# Ordered, so that two runs that meet the same new names wait for each other instead of deadlocking; NOT EXISTS, so that the
# identity sequences do not run away on names already known.
SUPPORTING: tuple[LiteralString, ...] = (
    """
INSERT INTO metrics.theme (name)
SELECT DISTINCT f.theme FROM stage_file AS f
WHERE NOT EXISTS (SELECT FROM metrics.theme AS known WHERE known.name = f.theme)
ORDER BY 1
ON CONFLICT DO NOTHING
""",
    """
INSERT INTO metrics.sub_theme (name, theme_id)
SELECT DISTINCT f.sub_theme, th.id FROM stage_file AS f
JOIN metrics.theme AS th ON th.name = f.theme
WHERE NOT EXISTS (SELECT FROM metrics.sub_theme AS known WHERE known.name = f.sub_theme AND known.theme_id = th.id)
ORDER BY 1, 2
ON CONFLICT DO NOTHING
""",
    """
INSERT INTO metrics.topic (name, sub_theme_id)
SELECT DISTINCT f.topic, st.id FROM stage_file AS f
JOIN metrics.theme AS th ON th.name = f.theme
JOIN metrics.sub_theme AS st ON st.name = f.sub_theme AND st.theme_id = th.id
WHERE NOT EXISTS (SELECT FROM metrics.topic AS known WHERE known.name = f.topic AND known.sub_theme_id = st.id)
ORDER BY 1, 2
ON CONFLICT DO NOTHING
""",
    """
INSERT INTO metrics.metric_group (name, topic_id)
SELECT DISTINCT f.metric_group, t.id FROM stage_file AS f
JOIN metrics.theme AS th ON th.name = f.theme
JOIN metrics.sub_theme AS st ON st.name = f.sub_theme AND st.theme_id = th.id
JOIN metrics.topic AS t ON t.name = f.topic AND t.sub_theme_id = st.id
WHERE NOT EXISTS (SELECT FROM metrics.metric_group AS known WHERE known.name = f.metric_group AND known.topic_id = t.id)
ORDER BY 1, 2
ON CONFLICT DO NOTHING
""",
    """
INSERT INTO metrics.metric (name, topic_id, metric_group_id)
SELECT DISTINCT f.metric, t.id, g.id FROM stage_file AS f
JOIN metrics.theme AS th ON th.name = f.theme
JOIN metrics.sub_theme AS st ON st.name = f.sub_theme AND st.theme_id = th.id
JOIN metrics.topic AS t ON t.name = f.topic AND t.sub_theme_id = st.id
JOIN metrics.metric_group AS g ON g.name = f.metric_group AND g.topic_id = t.id
WHERE NOT EXISTS (SELECT FROM metrics.metric AS known WHERE known.name = f.metric)
ORDER BY 1
ON CONFLICT DO NOTHING
""",
    """
INSERT INTO metrics.geography_type (name)
SELECT DISTINCT f.geography_type FROM stage_file AS f
WHERE NOT EXISTS (SELECT FROM metrics.geography_type AS known WHERE known.name = f.geography_type)
ORDER BY 1
ON CONFLICT DO NOTHING
""",
    """
INSERT INTO metrics.geography (name, geography_type_id, geography_code)
SELECT DISTINCT f.geography, gt.id, f.geography_code FROM stage_file AS f
JOIN metrics.geography_type AS gt ON gt.name = f.geography_type
WHERE NOT EXISTS (
    SELECT FROM metrics.geography AS known
    WHERE known.geography_type_id = gt.id AND known.geography_code = f.geography_code AND known.name = f.geography)
ORDER BY 2, 3, 1
ON CONFLICT DO NOTHING
""",
    """
INSERT INTO metrics.stratum (name)
SELECT DISTINCT f.stratum FROM stage_file AS f
WHERE NOT EXISTS (SELECT FROM metrics.stratum AS known WHERE known.name = f.stratum)
ORDER BY 1
ON CONFLICT DO NOTHING
""",
    """
INSERT INTO metrics.age (name)
SELECT DISTINCT f.age FROM stage_file AS f
WHERE NOT EXISTS (SELECT FROM metrics.age AS known WHERE known.name = f.age)
ORDER BY 1
ON CONFLICT DO NOTHING
""",
)

# Names are looked up table by table, in the order written: to weigh the orders of ten tables takes ten times longer than the look-up.
IN_WRITTEN_ORDER = "SET LOCAL join_collapse_limit = 1"
IN_ANY_ORDER = "SET LOCAL join_collapse_limit = DEFAULT"

_SERIES_OF_FILES = """
    FROM stage_file AS f
    JOIN metrics.theme AS th ON th.name = f.theme
    JOIN metrics.sub_theme AS st ON st.name = f.sub_theme AND st.theme_id = th.id
    JOIN metrics.topic AS t ON t.name = f.topic AND t.sub_theme_id = st.id
    JOIN metrics.metric_group AS mg ON mg.name = f.metric_group AND mg.topic_id = t.id
    JOIN metrics.metric AS m ON m.name = f.metric AND m.topic_id = t.id AND m.metric_group_id = mg.id
    JOIN metrics.geography_type AS gt ON gt.name = f.geography_type
    JOIN metrics.geography AS g ON g.geography_type_id = gt.id AND g.geography_code = f.geography_code AND g.name = f.geography
    JOIN metrics.stratum AS s ON s.name = f.stratum
    JOIN metrics.age AS a ON a.name = f.age
"""

SERIES: LiteralString = f"""
INSERT INTO metrics.series (metric_id, geography_id, stratum_id, age_id, sex, is_public)
SELECT DISTINCT m.id, g.id, s.id, a.id, f.sex, m.is_public
{_SERIES_OF_FILES}
WHERE NOT EXISTS (
    SELECT FROM metrics.series AS known
    WHERE known.metric_id = m.id AND known.geography_id = g.id AND known.stratum_id = s.id AND known.age_id = a.id AND known.sex = f.sex)
ORDER BY 1, 2, 3, 4, 5
ON CONFLICT DO NOTHING
"""

KEY_FILES: LiteralString = f"""
UPDATE stage_file AS target
SET series_id = keyed.series_id, newest_by_refresh = keyed.newest_by_refresh, round = keyed.round
FROM (
    SELECT f.ord, known.id AS series_id, position('alert' IN f.topic) > 0 AS newest_by_refresh,
           row_number() OVER (PARTITION BY known.id ORDER BY f.ord) AS round
    {_SERIES_OF_FILES}
    JOIN metrics.series AS known
      ON known.metric_id = m.id AND known.geography_id = g.id AND known.stratum_id = s.id AND known.age_id = a.id AND known.sex = f.sex
) AS keyed
WHERE target.ord = keyed.ord
"""

# In id order, so that two runs over the same series take turns. Whoever waited reads what the other one wrote.
LOCK_SERIES = """
SELECT id FROM metrics.series WHERE id IN (SELECT series_id FROM stage_file) ORDER BY id FOR NO KEY UPDATE
"""

READ_HISTORY = """
UPDATE stage_file AS f SET newest_refresh_date = s.newest_refresh_date
FROM metrics.series AS s WHERE s.id = f.series_id AND f.round = %(round)s
"""

# Per date, what the file says against the newest version known, released or not. A date not held is written, late file or
# not; a held one only if the file is not late and says something else (or insists, by force_write, under a newer refresh date).
# Where the newest file is the whole truth, a late one has nothing to add.
COMPARE_DATES = """
INSERT INTO changed_date (ord, series_id, date, refresh_date, written, held)
SELECT i.ord, i.series_id, i.date, i.refresh_date,
       k.version IS NULL
           OR (NOT i.late AND (i.version IS DISTINCT FROM k.version OR (i.insists AND k.refresh_date < i.refresh_date))) AS written,
       k.version IS NOT NULL
FROM (
    SELECT f.ord, f.series_id, p.date, f.refresh_date, f.refresh_date < f.newest_refresh_date AS late, bool_or(p.force_write) AS insists,
           array_agg((p.metric_value, p.epiweek, p.in_reporting_delay_period, p.embargo, f.metric_frequency)
                     ORDER BY p.metric_value, p.epiweek, p.in_reporting_delay_period, p.embargo) AS version
    FROM stage_file AS f
    JOIN stage_point AS p ON p.ord = f.ord
    WHERE f.round = %(round)s AND f.newest_refresh_date IS NOT NULL AND NOT (f.is_full AND f.refresh_date < f.newest_refresh_date)
    GROUP BY f.ord, f.series_id, p.date, f.refresh_date, f.newest_refresh_date
) AS i
LEFT JOIN (
    SELECT a.series_id, a.date, a.refresh_date, a.revisions > 1 AS superseding,
           array_agg((a.metric_value, a.epiweek, a.in_reporting_delay_period, a.embargo, a.metric_frequency::text)
                     ORDER BY a.metric_value, a.epiweek, a.in_reporting_delay_period, a.embargo) AS version
    FROM (
        SELECT *, dense_rank() OVER newest_first AS rank,
               count(*) OVER (PARTITION BY series_id, date) AS revisions
        FROM metrics.api_time_series
        WHERE series_id IN (SELECT series_id FROM stage_file WHERE round = %(round)s AND newest_refresh_date IS NOT NULL)
        WINDOW newest_first AS (PARTITION BY series_id, date ORDER BY refresh_date DESC)
    ) AS a
    WHERE a.rank = 1
    GROUP BY a.series_id, a.date, a.refresh_date, a.revisions
) AS k ON k.series_id = i.series_id AND k.date = i.date
WHERE k.version IS NULL
   OR k.superseding
   OR (NOT i.late AND (i.version IS DISTINCT FROM k.version OR (i.insists AND k.refresh_date < i.refresh_date)))
"""

# A correction under the same refresh date takes the place of what was said under it before.
REPLACE_SAME_REFRESH: tuple[LiteralString, ...] = (
    """
DELETE FROM metrics.core_time_series AS t USING changed_date AS c
WHERE c.written AND c.held AND t.series_id = c.series_id AND t.date = c.date AND t.refresh_date = c.refresh_date
""",
    """
DELETE FROM metrics.api_time_series AS t USING changed_date AS c
WHERE c.written AND c.held AND t.series_id = c.series_id AND t.date = c.date AND t.refresh_date = c.refresh_date
""",
)

# Into a series of which the table holds no row nothing can conflict but points of one file: there the check of every row is saved,
# which is a tenth of a first load. Sorted, so that the pages of the unique index are filled one after the other.
_KNOWN_SERIES = """
    FROM stage_file AS f
    JOIN stage_point AS p ON p.ord = f.ord
    WHERE f.round = %(round)s
      AND (f.newest_refresh_date IS NOT NULL OR EXISTS (SELECT FROM metrics.{table} AS t WHERE t.series_id = f.series_id))
      AND (f.newest_refresh_date IS NULL
           OR EXISTS (SELECT FROM changed_date AS c WHERE c.written AND c.ord = p.ord AND c.date = p.date))
ON CONFLICT DO NOTHING
"""
_NEW_SERIES = """
    FROM stage_file AS f
    JOIN stage_point AS p ON p.ord = f.ord
    WHERE f.round = %(round)s AND f.newest_refresh_date IS NULL
      AND NOT EXISTS (SELECT FROM metrics.{table} AS t WHERE t.series_id = f.series_id)
    ORDER BY f.series_id, p.date, p.{value}, p.epiweek, p.in_reporting_delay_period, p.embargo
"""
_ONE_OF_EACH = "DISTINCT ON (f.series_id, p.date, p.{value}, p.epiweek, p.in_reporting_delay_period, p.embargo)"

_INSERT_CORE = """
INSERT INTO metrics.core_time_series
    (series_id, refresh_date, embargo, date, epiweek, metric_frequency, in_reporting_delay_period, force_write, metric_value)
SELECT {distinct} f.series_id, f.refresh_date, p.embargo, p.date, p.epiweek, f.metric_frequency, p.in_reporting_delay_period,
       p.force_write, p.scaled * 0.0001
{points}
"""

_INSERT_API = """
WITH written AS (
    INSERT INTO metrics.api_time_series
        (series_id, refresh_date, embargo, date, epiweek, metric_frequency, in_reporting_delay_period, force_write, metric_value)
    SELECT {distinct} f.series_id, f.refresh_date, p.embargo, p.date, p.epiweek, f.metric_frequency, p.in_reporting_delay_period,
           p.force_write, p.metric_value
    {points}
    RETURNING series_id
), counted AS (
    SELECT series_id, count(*) AS points FROM written GROUP BY series_id
)
SELECT f.ord, counted.points FROM counted JOIN stage_file AS f ON f.series_id = counted.series_id AND f.round = %(round)s
"""


def _insert(template: str, table: str, value: str) -> tuple[str, str]:
    """Into series the table knows, then into those it does not."""
    known, new = _KNOWN_SERIES.format(table=table), _NEW_SERIES.format(table=table, value=value)
    return template.format(distinct="", points=known), template.format(distinct=_ONE_OF_EACH.format(value=value), points=new)


INSERT_CORE = _insert(_INSERT_CORE, "core_time_series", "scaled")
INSERT_API = _insert(_INSERT_API, "api_time_series", "metric_value")

_SUPERSEDED_DATE = """
DELETE FROM metrics.{table} AS t USING changed_date AS c
WHERE c.held AND t.series_id = c.series_id AND t.date = c.date AND EXISTS (
    SELECT FROM metrics.{table} AS newer
    WHERE newer.series_id = t.series_id AND newer.date = t.date AND newer.refresh_date > t.refresh_date
      AND (newer.embargo IS NULL OR newer.embargo <= %(now)s OR newer.embargo <= t.embargo))
"""

# After the insert: a row goes once a newer one is released, or will be released no later than itself.
DELETE_SUPERSEDED_DATES = (_SUPERSEDED_DATE.format(table="core_time_series"), _SUPERSEDED_DATE.format(table="api_time_series"))

# A headline series shows one figure, so its file counts as one: against what the newest refresh date known says, the figures of
# its periods are either all equal, or all written (comparing with older rows would take a figure that comes back for one that
# never left). A late figure is written for a period not held, and only where no row outranks it by then: else nobody reads it.
COMPARE_PERIODS = """
INSERT INTO changed_period (ord, series_id, period_start, period_end, refresh_date)
SELECT c.ord, c.series_id, c.period_start, c.period_end, c.refresh_date
FROM (
    SELECT i.*, bool_or(i.version IS DISTINCT FROM k.version) OVER (PARTITION BY i.ord) AS is_news
    FROM (
        SELECT f.ord, f.series_id, h.period_start, h.period_end, f.refresh_date, f.newest_by_refresh,
               f.refresh_date < f.newest_refresh_date AS late, f.is_full, min(coalesce(h.embargo, '-infinity')) AS released_from,
               array_agg((h.scaled, h.scaled_lower, h.scaled_upper, h.embargo) ORDER BY h.scaled, h.embargo) AS version
        FROM stage_file AS f
        JOIN stage_headline AS h ON h.ord = f.ord
        WHERE f.round = %(round)s
        GROUP BY f.ord, f.series_id, h.period_start, h.period_end, f.refresh_date, f.newest_by_refresh, f.newest_refresh_date, f.is_full
    ) AS i
    LEFT JOIN (
        SELECT h.series_id, h.period_start, h.period_end,
               array_agg(((h.metric_value * 10000)::bigint, (h.lower_confidence * 10000)::bigint, (h.upper_confidence * 10000)::bigint,
                          h.embargo) ORDER BY h.metric_value, h.embargo) AS version
        FROM (
            SELECT *, dense_rank() OVER (PARTITION BY series_id ORDER BY refresh_date DESC) AS rank
            FROM metrics.core_headline
            WHERE series_id IN (SELECT series_id FROM stage_file WHERE round = %(round)s)
        ) AS h
        WHERE h.rank = 1
        GROUP BY h.series_id, h.period_start, h.period_end
    ) AS k ON k.series_id = i.series_id AND k.period_start = i.period_start AND k.period_end = i.period_end
) AS c
WHERE CASE
    WHEN c.late AND c.is_full THEN false
    WHEN c.late THEN NOT EXISTS (
        SELECT FROM metrics.core_headline AS held
        WHERE held.series_id = c.series_id
          AND ((held.period_start = c.period_start AND held.period_end = c.period_end)
               OR ((c.newest_by_refresh OR held.period_end >= c.period_end)
                   AND (held.embargo IS NULL OR held.embargo <= greatest(%(now)s, c.released_from)))))
    ELSE c.is_news
END
"""

REPLACE_SAME_REFRESH_PERIODS = """
DELETE FROM metrics.core_headline AS h USING changed_period AS c
WHERE h.series_id = c.series_id AND h.period_start = c.period_start AND h.period_end = c.period_end AND h.refresh_date = c.refresh_date
"""

INSERT_HEADLINES = """
WITH written AS (
    INSERT INTO metrics.core_headline
        (series_id, refresh_date, embargo, period_start, period_end, metric_value, lower_confidence, upper_confidence)
    SELECT f.series_id, f.refresh_date, h.embargo, h.period_start, h.period_end,
           h.scaled * 0.0001, h.scaled_lower * 0.0001, h.scaled_upper * 0.0001
    FROM stage_file AS f
    JOIN stage_headline AS h ON h.ord = f.ord
    JOIN changed_period AS c ON c.ord = h.ord AND c.period_start = h.period_start AND c.period_end = h.period_end
    WHERE f.round = %(round)s
    ON CONFLICT DO NOTHING
    RETURNING series_id
), counted AS (
    SELECT series_id, count(*) AS points FROM written GROUP BY series_id
)
SELECT f.ord, counted.points FROM counted JOIN stage_file AS f ON f.series_id = counted.series_id AND f.round = %(round)s
"""

# Among rows of different refresh dates, as readers order them: by period, except for alert topics. Rows of one file stay.
DELETE_SUPERSEDED_HEADLINES = """
DELETE FROM metrics.core_headline AS h USING stage_file AS f
WHERE f.round = %(round)s AND h.series_id = f.series_id AND EXISTS (
    SELECT FROM metrics.core_headline AS newer
    WHERE newer.series_id = h.series_id AND newer.refresh_date > h.refresh_date
      AND (f.newest_by_refresh OR newer.period_end >= h.period_end)
      AND (newer.embargo IS NULL OR newer.embargo <= %(now)s OR newer.embargo <= h.embargo))
"""

REMEMBER_REFRESH = """
UPDATE metrics.series AS s SET newest_refresh_date = f.refresh_date
FROM stage_file AS f
WHERE f.round = %(round)s AND s.id = f.series_id AND (s.newest_refresh_date IS NULL OR s.newest_refresh_date < f.refresh_date)
"""

LATE_FILES = "SELECT ord FROM stage_file WHERE round = %(round)s AND refresh_date < newest_refresh_date"

# Waits for a boot to end. What is a duplicate, and what is known, may only be asked afterwards.
AWAIT_TURN = "LOCK TABLE metrics.theme IN ROW EXCLUSIVE MODE"

# A batch begins with the themes: from here to the end of the transaction there is no other, while readers, and rows of others that refer
# to supporting tables, come and go. DELETE, not TRUNCATE, which would show an empty table to whoever began to read before.
CLEAR: tuple[LiteralString, ...] = (
    "LOCK TABLE metrics.theme, metrics.series IN SHARE ROW EXCLUSIVE MODE",
    "DELETE FROM metrics.core_time_series",
    "DELETE FROM metrics.api_time_series",
    "DELETE FROM metrics.core_headline",
    "DELETE FROM metrics.withdrawn_core_time_series",
    "DELETE FROM metrics.withdrawn_api_time_series",
    "DELETE FROM metrics.withdrawn_core_headline",
    "UPDATE metrics.series SET newest_refresh_date = NULL WHERE newest_refresh_date IS NOT NULL",
)

WRONGLY_PUBLIC = """
SELECT count(*) FROM metrics.series AS s JOIN metrics.metric AS m ON m.id = s.metric_id
WHERE s.is_public AND starts_with(m.name, 'OFF-SENS_')
"""
