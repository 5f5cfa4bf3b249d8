"""The twelve tables of the original dashboard: how they must look to be taken over, and that nobody uses them meanwhile."""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection

BEFORE = "metrics_before"
"""Schema in which the original's tables stand after the adoption."""

# What every table of the original must look like: types as `format_type` writes them. UKHSA data-dashboard-api, commit b2126dcd.
_LABEL_50, _LABEL_100, _DAY_AND_TIME = "character varying(50)", "character varying(100)", "timestamp with time zone"
_FACT = {
    "embargo": _DAY_AND_TIME,
    "force_write": "boolean not null",
    "is_public": "boolean not null",
}
_KEYS = {"metric_id": "bigint", "geography_id": "bigint", "stratum_id": "bigint", "age_id": "bigint"}
_POINT = _FACT | {
    "metric_frequency": "character varying(1) not null",
    "sex": "character varying(3)",
    "year": "smallint not null",
    "month": "smallint",
    "epiweek": "smallint not null",
    "date": "date not null",
    "refresh_date": _DAY_AND_TIME,
    "in_reporting_delay_period": "boolean not null",
}
_NAMED = {"id": "bigint not null", "name": f"{_LABEL_50} not null"}


@dataclass(frozen=True, slots=True)
class Original:
    """A table of the original: the table that takes its rows in, its columns, and what a reader of our view of its name reads."""

    target: str
    columns: dict[str, str]
    reads: tuple[str, ...]

    @property
    def is_fact(self) -> bool:
        """Whether our view of its name joins tables, so that nobody can write to it."""
        return len(self.reads) > 1


def _supporting(target: str, columns: dict[str, str]) -> Original:
    return Original(target, columns, (target,))


ORIGINALS = {
    "data_theme": _supporting("theme", _NAMED | {"created_dt": f"{_DAY_AND_TIME} not null"}),
    "data_subtheme": _supporting("sub_theme", _NAMED | {"created_dt": f"{_DAY_AND_TIME} not null", "theme_id": "bigint"}),
    "data_topic": _supporting("topic", _NAMED | {"sub_theme_id": "bigint"}),
    "data_metricgroup": _supporting("metric_group", _NAMED | {"topic_id": "bigint"}),
    "data_metric": _supporting("metric", _NAMED | {"name": f"{_LABEL_100} not null", "topic_id": "bigint", "metric_group_id": "bigint"}),
    "data_geographytype": _supporting("geography_type", _NAMED),
    "data_geography": _supporting(
        "geography",
        _NAMED | {"name": f"{_LABEL_100} not null", "geography_type_id": "bigint", "geography_code": "character varying(9)"},
    ),
    "data_stratum": _supporting("stratum", _NAMED),
    "data_age": _supporting("age", _NAMED),
    "data_coreheadline": Original(
        "core_headline",
        {"id": "bigint not null"}
        | _FACT
        | _KEYS
        | {
            "sex": "character varying(3) not null",
            "refresh_date": f"{_DAY_AND_TIME} not null",
            "period_start": f"{_DAY_AND_TIME} not null",
            "period_end": f"{_DAY_AND_TIME} not null",
            "metric_value": "numeric(11,4) not null",
            "lower_confidence": "numeric(11,4)",
            "upper_confidence": "numeric(11,4)",
        },
        ("core_headline", "series"),
    ),
    "data_coretimeseries": Original(
        "core_time_series",
        {"id": "bigint not null"} | _POINT | _KEYS | {"metric_value": "numeric(11,4) not null"},
        ("core_time_series", "series"),
    ),
    "data_apitimeseries": Original(
        "api_time_series",
        {"id": "bigint not null"}
        | _POINT
        | {
            "metric_value": "double precision not null",
            "theme": f"{_LABEL_50} not null",
            "sub_theme": f"{_LABEL_50} not null",
            "topic": f"{_LABEL_50} not null",
            "metric_group": _LABEL_50,
            "metric": f"{_LABEL_100} not null",
            "geography_type": f"{_LABEL_50} not null",
            "geography": f"{_LABEL_100} not null",
            "geography_code": "character varying(9)",
            "age": _LABEL_50,
            "stratum": f"{_LABEL_50} not null",
        },
        (
            *("api_time_series", "series", "series_labels", "theme", "sub_theme", "topic", "metric_group", "metric"),
            *("geography_type", "geography", "stratum", "age"),
        ),
    ),
}
"""By name, parents before their children."""

SERIES_COLUMNS = ("id", "metric_id", "geography_id", "stratum_id", "age_id", "sex", "is_public")
"""What our views read of a series: all but its newest refresh date, which may be that of an embargoed row."""

# `oids` are those of the tables.
_RELATIONS = """
SELECT c.relname, c.relkind::text, c.oid
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = ANY(%(names)s)
"""

_REVISION = "SELECT to_regclass('ledger.alembic_version')", "SELECT version_num FROM ledger.alembic_version"

_COLUMNS = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' not null' ELSE '' END
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
WHERE c.oid = ANY(%(oids)s) AND a.attnum > 0 AND NOT a.attisdropped
"""

_USERS_OF_TABLES = """
SELECT DISTINCT l.pid, a.usename, a.application_name
FROM pg_locks AS l LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.granted AND l.relation = ANY(%(oids)s) AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def originals_are_there(connection: Connection) -> bool:
    """Whether all twelve stand in schema public as tables. Raises `ConfigurationError` if some do, or something else has their names."""
    found = connection.execute(_RELATIONS, {"schema": "public", "names": list(ORIGINALS)}).fetchall()
    kinds = {name: kind for name, kind, _ in found}
    is_migrated = _is_migrated(connection)
    if not kinds or (set(kinds.values()) == {"v"} and is_migrated):
        return False
    others = sorted(name for name, kind in kinds.items() if kind != "r")
    if others:
        raise ConfigurationError(
            f"cannot be adopted: {', '.join(others)} in schema public are not tables. Only the dashboard's own twelve tables are taken over"
        )
    missing = [name for name in ORIGINALS if name not in kinds]
    if missing:
        raise ConfigurationError(f"cannot be adopted: of the dashboard's twelve tables {', '.join(missing)} are missing in schema public")
    if is_migrated:
        raise ConfigurationError("cannot be adopted: beside the dashboard's twelve tables this database has those of this project already")
    kept = connection.execute(_RELATIONS, {"schema": BEFORE, "names": list(ORIGINALS)}).fetchall()
    if kept:
        names = ", ".join(sorted(name for name, _, _ in kept))
        raise ConfigurationError(f"cannot be adopted: schema {BEFORE} already holds {names}; rename that schema first")
    return True


def _is_migrated(connection: Connection) -> bool:
    versions, revision = _REVISION
    if connection.execute(versions).fetchone() == (None,):
        return False
    row = connection.execute(revision).fetchone()
    return row is not None and str(row[0]) >= "0002"


def locked(connection: Connection, schema: str, names: Sequence[str]) -> list[int]:
    """Nobody else reads or writes these tables until the transaction ends. Raises `ConfigurationError` that says who does not let go."""
    tables = sql.SQL(", ").join(sql.Identifier(schema, name) for name in names)
    statement = sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(tables)
    try:
        with connection.transaction():
            connection.execute(statement)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        users = connection.execute(_USERS_OF_TABLES, {"oids": _oids(connection, schema, names)}).fetchall()
        sessions = "; ".join(_session(*user) for user in users) or "sessions that have ended since"
        raise ConfigurationError(
            f"nothing was changed: {', '.join(names)} cannot be locked, they are used by {sessions}. Stop what uses them and try again"
        ) from None
    return _oids(connection, schema, names)


def _oids(connection: Connection, schema: str, names: Sequence[str]) -> list[int]:
    return [oid for _, _, oid in connection.execute(_RELATIONS, {"schema": schema, "names": list(names)})]


def _session(pid: int | None, user: str | None, application: str | None) -> str:
    if pid is None:
        return "a prepared transaction (see pg_prepared_xacts)"
    return f"session {pid} (user {user or 'unknown'}, application '{application or 'unknown'}')"


def refuse_other_columns(connection: Connection, oids: list[int]) -> None:
    """Raise `ConfigurationError` that names every column which the original has and these tables do not, or the other way round."""
    found: dict[str, dict[str, str]] = {name: {} for name in ORIGINALS}
    for table, column, kind in connection.execute(_COLUMNS, {"oids": oids}):
        found[table][column] = kind
    wrong = []
    for table, original in ORIGINALS.items():
        for column, kind in original.columns.items():
            if column not in found[table]:
                wrong.append(f"{table}.{column} is missing")
            elif found[table][column] not in (kind, f"{kind} not null"):
                wrong.append(f"{table}.{column} is {found[table][column]}, not {kind}")
        wrong += [f"{table}.{column} is none of the original's columns" for column in sorted(found[table].keys() - original.columns.keys())]
    if wrong:
        raise ConfigurationError(f"cannot be adopted: {'; '.join(wrong)}")
