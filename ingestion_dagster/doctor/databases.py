"""The databases: whether each can be reached, is of the right version, lets us do what we need, and has our time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import LiteralString

import psycopg
from psycopg.conninfo import make_conninfo

from ingestion_dagster.catalog.places import API_DATABASE, UPSTREAM_DATABASE
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.doctor.examination import Said, ok, problem, warning
from ingestion_dagster.engine import embedded_postgres
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import OLDEST_SERVER, Connection, Database, serves_us
from ingestion_dagster.migrations import HEAD
from ingestion_dagster.settings import Settings

CONNECT_SECONDS = 4
SKEWED_SECONDS, FAR_OFF_SECONDS = 5.0, 60.0
FEW_CONNECTIONS = 10
_OLDEST_UPSTREAM = 140_000

SCHEMAS = ("ledger", "metrics", "cubic", "residents", "life_events", "catalog")

LACKING = """
SELECT n.nspname || '.' || c.relname
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = ANY(%(schemas)s) AND c.relkind IN ('r', 'p')
  AND (NOT has_schema_privilege(n.oid, 'USAGE') OR NOT has_table_privilege(c.oid, 'SELECT') OR NOT has_table_privilege(c.oid, 'INSERT')
       OR NOT has_table_privilege(c.oid, 'UPDATE') OR NOT has_table_privilege(c.oid, 'DELETE'))
ORDER BY 1
"""

CONNECTIONS = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
       - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
       current_setting('max_connections')::int
"""

UNREADABLE = """
SELECT wanted FROM unnest(%(relations)s::text[]) AS wanted
WHERE to_regclass(wanted) IS NOT NULL AND NOT has_table_privilege(to_regclass(wanted), 'SELECT') ORDER BY 1
"""
ABSENT = "SELECT wanted FROM unnest(%(relations)s::text[]) AS wanted WHERE to_regclass(wanted) IS NULL ORDER BY 1"

NOT_OURS = """
SELECT c.relname FROM pg_class AS c
WHERE c.oid = ANY(SELECT to_regclass(wanted) FROM unnest(%(relations)s::text[]) AS wanted) AND NOT pg_has_role(c.relowner, 'USAGE')
ORDER BY 1
"""
NO_SCHEMA = """
SELECT wanted FROM unnest(ARRAY['catalog_next', 'catalog_previous', 'catalog_retired']) AS wanted
WHERE NOT has_database_privilege(current_database(), 'CREATE')
  AND NOT coalesce((SELECT has_schema_privilege(oid, 'CREATE') FROM pg_namespace WHERE nspname = wanted), false) ORDER BY 1
"""
PUBLISHED = """
SELECT DISTINCT p.pubname FROM pg_publication_tables AS t JOIN pg_publication AS p ON p.pubname = t.pubname
WHERE NOT p.puballtables AND NOT pg_has_role(p.pubowner, 'USAGE')
  AND to_regclass(format('%%I.%%I', t.schemaname, t.tablename))
      = ANY(SELECT to_regclass(wanted) FROM unnest(%(relations)s::text[]) AS wanted)
ORDER BY 1
"""

Now = Callable[[], datetime]


def utc_now() -> datetime:
    """This machine's time."""
    return datetime.now(UTC)


def ledger(settings: Settings, now: Now = utc_now) -> Iterator[Said]:
    """The database of the ledger."""
    database = _meant(settings, settings.database_url, "INGESTION_DATABASE_URL", None)
    if database is None:
        yield _not_started()
        return
    with _connected(database) as connection:
        yield from _server(connection, OLDEST_SERVER, now)
        yield from _schema(connection)
        yield from _room(connection)


def upstream(settings: Settings, now: Now = utc_now) -> Iterator[Said]:
    """The database that the catalogue is refreshed from."""
    database = _meant(settings, settings.catalog_upstream_url, "INGESTION_CATALOG_UPSTREAM_URL", UPSTREAM_DATABASE)
    if database is None:
        yield _not_started()
        return
    relations = sorted({table.upstream for media in MEDIA_TYPES.values() for table in media.tables})
    with _connected(database) as connection:
        yield from _server(connection, _OLDEST_UPSTREAM, now, must_write=False)
        if absent := _names(connection, ABSENT, relations):
            yield problem(f"upstream lacks {absent}", "make them, or name what they are called in the registry")
        if unreadable := _names(connection, UNREADABLE, relations):
            yield problem(f"{unreadable} may not be read", f"GRANT SELECT ON {unreadable} TO the role of INGESTION_CATALOG_UPSTREAM_URL")
        if not absent and not unreadable:
            yield ok(f"{', '.join(relations)} can be read")


def api_database(settings: Settings, now: Now = utc_now) -> Iterator[Said]:
    """The database of the API whose tables are refreshed."""
    database = _meant(settings, settings.catalog_api_database_url, "INGESTION_CATALOG_API_DATABASE_URL", API_DATABASE)
    if database is None:
        yield _not_started()
        return
    relations = sorted({f"public.{table.name}" for media in MEDIA_TYPES.values() for table in media.tables})
    with _connected(database) as connection:
        yield from _server(connection, OLDEST_SERVER, now)
        said = []
        if others := _names(connection, NOT_OURS, relations):
            said.append(problem(f"{others} belong to a role that ours is no member of", "make our role a member of their owner"))
        if no_schema := ", ".join(row[0] for row in connection.execute(NO_SCHEMA)):
            said.append(
                problem(f"our role can neither make nor use {no_schema}", "GRANT CREATE ON DATABASE to it, or make these schemas for it")
            )
        if published := _names(connection, PUBLISHED, relations):
            said.append(
                warning(
                    f"publications of others hold these tables: {published}", "make our role a member of their owner: a swap cannot follow"
                )
            )
        yield from said or [ok("the tables, and the schemas beside them, can be swapped by our role")]
        yield from _room(connection)


def _meant(settings: Settings, url: str | None, variable: str, embedded: str | None) -> Database | None:
    """The database that is meant; None for an embedded one that is not there yet. It is not started."""
    if url:
        return Database.at(url, variable)
    if settings.environment == "production":
        raise ConfigurationError(f"production needs a database of its own: set {variable}")
    server = embedded_postgres.running(settings.home_folder)
    if server is None:
        return None
    if embedded is None:
        return Database.at(server.url())
    with psycopg.connect(server.conninfo(), autocommit=True, connect_timeout=CONNECT_SECONDS) as connection:
        if connection.execute("SELECT FROM pg_database WHERE datname = %s", [embedded]).fetchone() is None:
            return None
    return Database.at(server.url(embedded), variable)


def _not_started() -> Said:
    return ok("the embedded one is meant, and does not run: whoever needs it first starts it")


@contextmanager
def _connected(database: Database) -> Iterator[Connection]:
    """A connection that does not wait for ever. Raises `ConfigurationError` if there is none to be had."""
    limits = make_conninfo(database.conninfo, connect_timeout=CONNECT_SECONDS, application_name="ingestion doctor")
    try:
        connection = psycopg.connect(limits, autocommit=True, options="-c timezone=UTC -c statement_timeout=5s")
    except psycopg.OperationalError as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigurationError(f"{database.variable}: it cannot be reached: {said[-1].strip()}") from None
    with connection:
        yield connection


def _server(connection: Connection, oldest: int, now: Now, *, must_write: bool = True) -> Iterator[Said]:
    version = connection.info.server_version
    shown = f"Postgres {version // 10_000}.{version % 10_000}"
    if version < oldest:
        yield problem(f"{shown} is too old", f"use Postgres {oldest // 10_000} or newer")
    else:
        yield ok(shown)
    row = connection.execute("SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool").fetchone()
    if must_write and row == (True,):
        yield problem("it takes no writes: a standby, or switched to read only", "point the URL to the primary")
    yield _time(connection, now)


def _time(connection: Connection, now: Now) -> Said:
    before = now()
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    after = now()
    assert row is not None
    seconds = abs((row[0] - (before + (after - before) / 2)).total_seconds())
    if seconds < SKEWED_SECONDS:
        return ok(f"its clock and ours agree to {seconds:.1f} s")
    said = f"its clock and ours are {seconds:.0f} s apart"
    advice = "have both kept by NTP: leases, ages and days of landing go by them"
    return problem(said, advice) if seconds >= FAR_OFF_SECONDS else warning(said, advice)


def _schema(connection: Connection) -> Iterator[Said]:
    found = None
    if connection.execute("SELECT to_regclass('ledger.alembic_version')").fetchone() != (None,):
        row = connection.execute("SELECT version_num FROM ledger.alembic_version").fetchone()
        found = str(row[0]) if row else None
    if found is None:
        yield problem(f"it has no schema yet; this version needs {HEAD}", "run 'ingestion db upgrade' once")
        return
    if found < HEAD:
        yield problem(f"its schema is at revision {found}, this version needs {HEAD}", "run 'ingestion db upgrade' once")
    elif found > HEAD and not serves_us(connection):
        yield problem(f"its schema is at revision {found}, newer than this version's {HEAD}", "install the newer version")
    else:
        yield ok(f"its schema is at revision {found}")
    lacking = [row[0] for row in connection.execute(LACKING, {"schemas": list(SCHEMAS)})]
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        yield problem(
            f"our role lacks privileges on {', '.join(lacking[:3])}{more}", "grant SELECT, INSERT, UPDATE, DELETE, or connect as the owner"
        )


def _room(connection: Connection) -> Iterator[Said]:
    row = connection.execute(CONNECTIONS).fetchone()
    assert row is not None
    left, most = row
    said = f"{left} of {most} connections are left"
    yield (
        ok(said)
        if left >= FEW_CONNECTIONS
        else warning(said, "raise max_connections, or see who holds them: SELECT * FROM pg_stat_activity")
    )


def _names(connection: Connection, query: LiteralString, relations: list[str]) -> str:
    return ", ".join(str(row[0]) for row in connection.execute(query, {"relations": relations}))
