"""The point policy in SQL: what a newer file lacks is withdrawn from the tables, kept beside them, and brought back."""

_COLUMNS = {
    "core_time_series": """id, series_id, refresh_date, embargo, date, epiweek, metric_frequency, in_reporting_delay_period, force_write,
        metric_value""",
    "api_time_series": """id, series_id, refresh_date, embargo, metric_value, date, epiweek, metric_frequency, in_reporting_delay_period,
        force_write""",
    "core_headline": """id, series_id, refresh_date, embargo, period_start, period_end, force_write, metric_value, lower_confidence,
        upper_confidence""",
}
_SAME_PLACE = {
    "core_time_series": "{a}.date = {b}.date",
    "api_time_series": "{a}.date = {b}.date",
    "core_headline": "{a}.period_start = {b}.period_start AND {a}.period_end = {b}.period_end",
}
_STAGED = {"core_time_series": "stage_point", "api_time_series": "stage_point", "core_headline": "stage_headline"}

# A file of a topic with policy full is the whole truth about its series, once any of its points is released: what it lacks goes.
_WITHDRAW = """
WITH withdrawing AS (
    SELECT f.ord, f.series_id, f.refresh_date
    FROM stage_file AS f
    WHERE f.round = %(round)s AND f.is_full AND f.refresh_date >= f.newest_refresh_date AND (
        NOT EXISTS (SELECT FROM {staged} AS p WHERE p.ord = f.ord)
        OR EXISTS (SELECT FROM {staged} AS p WHERE p.ord = f.ord AND (p.embargo IS NULL OR p.embargo <= %(now)s)))
), known_again AS (
    DELETE FROM metrics.withdrawn_{table} AS t USING withdrawing AS f, {staged} AS p
    WHERE t.series_id = f.series_id AND p.ord = f.ord AND {same_as_staged} AND (p.embargo IS NULL OR p.embargo <= %(now)s)
), gone AS (
    DELETE FROM metrics.{table} AS t USING withdrawing AS f
    WHERE t.series_id = f.series_id AND NOT EXISTS (SELECT FROM {staged} AS p WHERE p.ord = f.ord AND {same_as_staged})
    RETURNING t.*, f.ord, f.refresh_date AS withdrawn_by
), kept AS (
    INSERT INTO metrics.withdrawn_{table} ({columns}, withdrawn_by) SELECT {columns}, withdrawn_by FROM gone
)
SELECT ord, count(*) FROM gone GROUP BY ord
"""

# Under policy keep nothing is ever withdrawn: what was, under another policy, comes back before the file is compared with what is held,
# unless it has been superseded meanwhile.
_RESTORE = """
WITH back AS (
    DELETE FROM metrics.withdrawn_{table} AS w USING stage_file AS f
    WHERE f.round = %(round)s AND NOT f.is_full AND w.series_id = f.series_id
    RETURNING w.*
)
INSERT INTO metrics.{table} ({columns})
SELECT {columns} FROM back WHERE NOT EXISTS (
    SELECT FROM metrics.{table} AS t
    WHERE t.series_id = back.series_id AND {same_as_back} AND t.refresh_date >= back.refresh_date
      AND (t.refresh_date = back.refresh_date OR t.embargo IS NULL OR t.embargo <= %(now)s OR t.embargo <= back.embargo))
ON CONFLICT DO NOTHING
"""


def _per_fact(template: str, table: str) -> str:
    same = _SAME_PLACE[table]
    return template.format(
        table=table,
        columns=_COLUMNS[table],
        staged=_STAGED[table],
        same_as_staged=same.format(a="t", b="p"),
        same_as_back=same.format(a="t", b="back"),
    )


WITHDRAW = {table: _per_fact(_WITHDRAW, table) for table in _COLUMNS}
RESTORE = {table: _per_fact(_RESTORE, table) for table in _COLUMNS}

ANYTHING_WITHDRAWN = """
SELECT EXISTS (SELECT FROM metrics.withdrawn_api_time_series) OR EXISTS (SELECT FROM metrics.withdrawn_core_time_series)
    OR EXISTS (SELECT FROM metrics.withdrawn_core_headline)
"""
