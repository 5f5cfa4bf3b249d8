"""What the daily checks ask of the metric tables: agreement, freshness and row counts. Reads, but for the counts it keeps."""

# ruff: noqa: S608 - fragments of our own are put together here, never values

# Both tables hold a point under the same series, date, refresh date, epiweek, embargo and delay flag. Their values differ by rounding:
# four decimals after eleven significant digits in core, as delivered in api.
_SAME_POINT = """
    a.series_id = c.series_id AND a.date = c.date AND a.refresh_date = c.refresh_date AND a.epiweek = c.epiweek
    AND a.embargo IS NOT DISTINCT FROM c.embargo AND a.in_reporting_delay_period = c.in_reporting_delay_period
    AND abs(a.metric_value - c.metric_value::double precision) <= 0.0001 + abs(a.metric_value) * 1e-10
"""

_TOPICS = """
    JOIN metrics.metric AS m ON m.id = s.metric_id
    JOIN metrics.topic ON topic.id = m.topic_id
    JOIN metrics.sub_theme ON sub_theme.id = topic.sub_theme_id
    JOIN metrics.theme ON theme.id = sub_theme.theme_id
"""

DISAGREEMENTS = f"""
SELECT theme.name, sub_theme.name, topic.name, count(*) FILTER (WHERE alone.in_core), count(*) FILTER (WHERE NOT alone.in_core)
FROM (
    SELECT c.series_id, true AS in_core FROM metrics.core_time_series AS c
    WHERE NOT EXISTS (SELECT FROM metrics.api_time_series AS a WHERE {_SAME_POINT})
    UNION ALL
    SELECT a.series_id, false FROM metrics.api_time_series AS a
    WHERE NOT EXISTS (SELECT FROM metrics.core_time_series AS c WHERE {_SAME_POINT})
) AS alone
JOIN metrics.series AS s ON s.id = alone.series_id
{_TOPICS}
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""

# One row of a series tells its frequency; headlines have none.
REFRESHED = f"""
SELECT theme.name, sub_theme.name, topic.name, max(s.newest_refresh_date),
       min(CASE frequency.letter WHEN 'D' THEN 1 WHEN 'W' THEN 7 WHEN 'F' THEN 14 WHEN 'M' THEN 31 WHEN 'Q' THEN 92 WHEN 'A' THEN 366 END)
FROM metrics.series AS s
{_TOPICS}
LEFT JOIN LATERAL (
    SELECT t.metric_frequency AS letter FROM metrics.api_time_series AS t WHERE t.series_id = s.id ORDER BY t.date DESC LIMIT 1
) AS frequency ON true
WHERE s.newest_refresh_date IS NOT NULL
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""

# Points, not their versions, which come and go: a date of a series counts once, and so does a headline.
COUNT_ROWS = f"""
INSERT INTO metrics.topic_row_counts (counted_at, theme, sub_theme, topic, fact, rows)
SELECT now(), theme.name, sub_theme.name, topic.name, counted.fact, sum(counted.rows)
FROM (
    SELECT 'core_headline' AS fact, series_id, 1 AS rows FROM metrics.core_headline GROUP BY series_id
    UNION ALL
    SELECT 'core_time_series', series_id, count(DISTINCT date) FROM metrics.core_time_series GROUP BY series_id
    UNION ALL
    SELECT 'api_time_series', series_id, count(DISTINCT date) FROM metrics.api_time_series GROUP BY series_id
) AS counted
JOIN metrics.series AS s ON s.id = counted.series_id
{_TOPICS}
GROUP BY 2, 3, 4, 5
RETURNING theme, sub_theme, topic, fact, rows
"""

LAST_ROW_COUNTS = """
SELECT theme, sub_theme, topic, fact, rows FROM metrics.topic_row_counts
WHERE counted_at = (SELECT max(counted_at) FROM metrics.topic_row_counts)
"""

COUNTS = (LAST_ROW_COUNTS, COUNT_ROWS)
