"""What a swap notes in the API's own database: rows archived, foreign keys still to be validated, flags that an index knows of."""

from ingestion_dagster.catalog.tables import NEXT, PREVIOUS
from ingestion_dagster.engine.postgres import Connection

RETIRED = "catalog_retired"
"""Schema of the generation before the previous one, until it is dropped."""

_LOCK = 0x1A6CA7A1

_MISSING = """
SELECT name FROM unnest(%(names)s::text[]) AS name WHERE to_regnamespace(name) IS NULL
"""

_SCHEMAS = {NEXT: "CREATE SCHEMA catalog_next", PREVIOUS: "CREATE SCHEMA catalog_previous", RETIRED: "CREATE SCHEMA catalog_retired"}

_RECORDS = """
CREATE TABLE IF NOT EXISTS catalog_previous.archived_rows (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_name text NOT NULL,
    key_name   text NOT NULL,
    referenced text NOT NULL,
    suffix     text,
    row        jsonb NOT NULL,
    at         timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE catalog_previous.archived_rows IS 'rows of other tables that lost their partner at a promotion; they come back with it';

CREATE TABLE IF NOT EXISTS catalog_previous.pending_keys (
    referenced text NOT NULL,
    schema     text NOT NULL,
    table_name text NOT NULL,
    key_name   text NOT NULL,
    PRIMARY KEY (schema, table_name, key_name)
);
COMMENT ON TABLE catalog_previous.pending_keys IS 'foreign keys that a swap has re-pointed and that are still to be validated';

CREATE TABLE IF NOT EXISTS catalog_previous.seen_flags (
    generation text NOT NULL,
    table_name text NOT NULL,
    identifier uuid NOT NULL,
    at_fill    boolean NOT NULL,
    PRIMARY KEY (generation, table_name, identifier)
);
COMMENT ON TABLE catalog_previous.seen_flags IS 'rows of a moderation table that the index of a generation may know of';
"""

_THERE = "SELECT to_regclass('catalog_previous.seen_flags') IS NOT NULL"


def ensure(api: Connection) -> None:
    """Make what is missing of our schemas and tables in the API's database. Repeatable, and safe to do twice at once."""
    if not api.execute(_MISSING, {"names": list(_SCHEMAS)}).fetchall() and api.execute(_THERE).fetchone() == (True,):
        return
    with api.transaction():
        api.execute("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": _LOCK})
        for (name,) in api.execute(_MISSING, {"names": list(_SCHEMAS)}).fetchall():
            api.execute(_SCHEMAS[name])
        api.execute(_RECORDS)
