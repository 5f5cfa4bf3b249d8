"""What of the API's database a refresh needs to be there: its live tables, the moderation tables, and the schemas of ours."""

from psycopg import errors, sql

from ingestion_dagster.catalog import swap_records
from ingestion_dagster.catalog.registry import MediaType
from ingestion_dagster.catalog.tables import LIVE, TableSpec
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection

_THERE = "SELECT to_regclass(%(name)s) IS NOT NULL"

_SEQUENCE = "CREATE SEQUENCE IF NOT EXISTS {sequence} AS integer"
_DEFAULT = "ALTER TABLE {table} ALTER COLUMN id SET DEFAULT nextval({sequence}::regclass)"

_DELETED = """
CREATE TABLE {table} (
    identifier uuid PRIMARY KEY,
    created_on timestamptz NOT NULL DEFAULT now(),
    updated_on timestamptz NOT NULL DEFAULT now()
)
"""

_MATURE = """
CREATE TABLE {table} (
    identifier uuid PRIMARY KEY,
    created_on timestamptz NOT NULL DEFAULT now()
)
"""


def ensure(api: Connection, media: MediaType) -> tuple[str, ...]:
    """Make what is missing, empty, and return its names; what is there stays as it is. Repeatable, and safe to do twice at once.

    The default of `id` is a sequence that no table owns: it stays where it is when tables are swapped. Raises
    `ConfigurationError` if the role may not create what is missing.
    """
    schemas = swap_records.ensure(api)
    try:
        with api.transaction():
            api.execute("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": swap_records.LOCK})
            return (*schemas, *(name for table in media.tables for name in _table(api, table)))
    except errors.InsufficientPrivilege:
        raise ConfigurationError(
            f"the role of INGESTION_CATALOG_API_DATABASE_URL may not create tables that are missing in schema {LIVE}: grant it CREATE on "
            "that schema, or make them for it"
        ) from None


def _table(api: Connection, table: TableSpec) -> tuple[str, ...]:
    made = []
    if not _is(api, _THERE, f"{LIVE}.{table.name}"):
        _live(api, table)
        made.append(table.name)
    for name, definition in ((table.deleted, _DELETED), (table.mature, _MATURE)):
        if name and not _is(api, _THERE, f"{LIVE}.{name}"):
            api.execute(sql.SQL(definition).format(table=sql.Identifier(LIVE, name)))
            made.append(name)
    return tuple(made)


def _live(api: Connection, table: TableSpec) -> None:
    name, sequence = sql.Identifier(LIVE, table.name), sql.Identifier(LIVE, f"{table.name}_id_seq")
    # The definitions are constants of `tables`.
    columns = [sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(kind)) for column, kind in table.columns]
    parts = [*columns, *(sql.SQL(constraint) for constraint in table.constraints)]
    api.execute(sql.SQL("CREATE TABLE {} ({})").format(name, sql.SQL(", ").join(parts)))
    for definition in table.indexes:
        api.execute(sql.SQL(definition).format(table=name))
    api.execute(sql.SQL(_SEQUENCE).format(sequence=sequence))
    api.execute(sql.SQL(_DEFAULT).format(table=name, sequence=sql.Literal(f"{LIVE}.{table.name}_id_seq")))


def _is(api: Connection, statement: str, name: str) -> bool:
    return api.execute(statement, {"name": name}).fetchone() == (True,)
