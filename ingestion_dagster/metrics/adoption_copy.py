"""The rows of the original's tables, copied into those of this project, with a count of what cannot be held here, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from psycopg import sql

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.metrics import adoption_sql
from ingestion_dagster.metrics.originals import BEFORE, ORIGINALS

LEFT_BEHIND_REASONS = {
    "null_parent": "belong to no theme, sub-theme, topic, metric group or geography type",
    "parent_left_behind": "belong to a row that is left behind",
    "null_label": "have no metric, metric group, geography, stratum or age",
    "null_sex": "have no sex",
    "null_refresh_date": "have no refresh date",
    "negative_epiweek": "have an epiweek below zero",
    "label_left_behind": "bear a metric, geography, stratum or age that is left behind",
    "not_public_without_prefix": "are not public, of a metric without OFF-SENS_: here they would become public",
    "metric_at_home_elsewhere": "name a topic or metric group that is not the metric's own",
    "duplicate": "say the same as a newer row",
}
CHANGE_REASONS = {
    "made_non_public": "were public, of OFF-SENS_ metrics, and no longer are",
    "year_or_month_from_date": "had a year or month other than that of their date",
}


@dataclass(frozen=True, slots=True)
class TableAdopted:
    """What became of one table's rows. `created` counts rows that only API rows named before."""

    rows: int
    left_behind: Mapping[str, int] = field(default_factory=dict)
    changed: Mapping[str, int] = field(default_factory=dict)
    created: int = 0


def copied(connection: Connection) -> dict[str, TableAdopted]:
    """Copy all rows; what became of each table's, by its name. Raises `ConfigurationError` if rows that could be held find no series."""
    tables: dict[str, TableAdopted] = {}
    for name, copy in adoption_sql.COPY_SUPPORTING.items():
        left = {reason: rows for reason, rows in connection.execute(copy.reasons) if reason}
        tables[name] = TableAdopted(connection.execute(copy.insert).rowcount, left)
    for name, original in ORIGINALS.items():
        connection.execute(adoption_sql.SET_SEQUENCE.format(original=name, target=original.target))
    _key_series(connection, tables)
    for name, statement in adoption_sql.COPY_FACTS.items():
        tables[name] = _copied_facts(connection, name, statement)
    connection.execute(adoption_sql.ANALYZE_FACTS)
    return tables


def _key_series(connection: Connection, tables: dict[str, TableAdopted]) -> None:
    """Find which rows can be held, create the series that they belong to, and what they name and the supporting tables lack."""
    for statement in (adoption_sql.KEYS, adoption_sql.JUDGE_KEYS, adoption_sql.LABELS, *adoption_sql.JUDGE_LABELS):
        connection.execute(statement)
    for name, statement in adoption_sql.CREATE_SUPPORTING.items():
        tables[name] = replace(tables[name], created=connection.execute(statement).rowcount)
    for statement in (adoption_sql.ANALYZE_SUPPORTING, adoption_sql.KEY_LABELS, adoption_sql.CREATE_SERIES, *adoption_sql.KEY_SERIES):
        connection.execute(statement)
    unkeyed = _count(connection, adoption_sql.UNKEYED)
    if unkeyed:
        raise ConfigurationError(f"nothing was changed: the rows of {unkeyed} series find no series here; report it")


def _copied_facts(connection: Connection, name: str, statement: str) -> TableAdopted:
    rows = connection.execute(statement).rowcount
    left: dict[str, int] = dict(connection.execute(adoption_sql.LEFT_BEHIND[name]).fetchall())
    total = _count(connection, sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(BEFORE, name)))
    duplicates = total - rows - sum(left.values())
    if duplicates:
        left["duplicate"] = duplicates
    made_non_public, redated = connection.execute(adoption_sql.CHANGED[name]).fetchone() or (0, 0)
    changed = {"made_non_public": made_non_public, "year_or_month_from_date": redated}
    return TableAdopted(rows, left, {code: count for code, count in changed.items() if count})


def still_wrong(connection: Connection) -> list[str]:
    """What is taken over and still does not work here as it should."""
    by_hand = []
    rehomed = _count(connection, adoption_sql.GROUPS_OF_ANOTHER_TOPIC)
    if rehomed:
        by_hand.append(f"{rehomed} metrics have a metric group of another topic; their files are refused until metrics.metric is mended")
    api_only, core_only = connection.execute(adoption_sql.ONE_SIDED).fetchone() or (0, 0)
    if api_only or core_only:
        by_hand.append(
            f"as before, {api_only} dates of series stand in api_time_series only and {core_only} in core_time_series only; a file that "
            "changes such a date, or insists by force_write, evens them out"
        )
    by_hand += [
        f"publication {name} publishes every new table, those of schema {BEFORE} and metrics too: see to its subscribers"
        for (name,) in connection.execute(adoption_sql.WIDE_PUBLICATIONS)
    ]
    return by_hand


def _count(connection: Connection, query: str | sql.Composed) -> int:
    row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0
