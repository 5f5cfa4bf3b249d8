"""What we note in the API's own database: rows archived, keys still to be validated, flags that an index knows of, who may swap."""

import uuid

from psycopg import errors

from ingestion_dagster.catalog.tables import NEXT, PREVIOUS
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.postgres import Connection

RETIRED = "catalog_retired"
"""Schema of the generation before the previous one, until it is dropped."""

TAKE_SECONDS = 60.0
"""How long to wait for somebody else's swap to end."""

LOCK = 0x1A6CA7A1
"""Number of the advisory lock under which schemas and tables of ours are made."""

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
COMMENT ON TABLE catalog_previous.archived_rows IS 'rows of others that lost their partner at a promotion, and come back with it';

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

CREATE TABLE IF NOT EXISTS catalog_previous.generations (
    oid    oid PRIMARY KEY,
    suffix text NOT NULL
);
COMMENT ON TABLE catalog_previous.generations IS 'which refresh made a table, for when somebody writes over its comment';

CREATE TABLE IF NOT EXISTS catalog_previous.swaps (
    model    text PRIMARY KEY,
    holder   text NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE catalog_previous.swaps IS 'who may swap the tables of a media type: whoever has taken it last';
"""

_THERE = "SELECT to_regclass('catalog_previous.swaps') IS NOT NULL"

_PATIENCE = "SELECT set_config('lock_timeout', %(timeout)s, true)"

_TAKE = """
INSERT INTO catalog_previous.swaps (model, holder) VALUES (%(model)s, %(holder)s)
ON CONFLICT (model) DO UPDATE SET holder = excluded.holder, taken_at = excluded.taken_at
"""

_HOLDER = "SELECT holder FROM catalog_previous.swaps WHERE model = %(model)s FOR UPDATE"


def ensure(api: Connection) -> tuple[str, ...]:
    """Make what is missing of our schemas and tables in the API's database, and return the names of the schemas that were.

    Repeatable, and safe to do twice at once. Raises `ConfigurationError` if the role may not.
    """
    if not _missing(api) and api.execute(_THERE).fetchone() == (True,):
        return ()
    try:
        with api.transaction():
            api.execute("SELECT pg_advisory_xact_lock(%(lock)s)", {"lock": LOCK})
            missing = _missing(api)
            for name in missing:
                api.execute(_SCHEMAS[name])
            api.execute(_RECORDS)
    except errors.InsufficientPrivilege:
        raise ConfigurationError(
            f"the role of INGESTION_CATALOG_API_DATABASE_URL may not make schemas {', '.join(_SCHEMAS)}, or tables in them: grant it "
            "CREATE on the database, or make them for it, with it as their owner"
        ) from None
    return missing


def take(api: Connection, model: str) -> str:
    """Become the one who may swap the tables of a media type, in a transaction of its own; what `demand` knows us by.

    Waits for a swap that is being made, such as one whose COMMIT is under way; psycopg's `LockNotAvailable` if that takes too long, as with
    a COMMIT that waits for a standby. Whoever had it before can swap nothing any more, even if it wakes up later.
    """
    holder = uuid.uuid4().hex
    with api.transaction():
        api.execute(_PATIENCE, {"timeout": f"{TAKE_SECONDS:g}s"})
        api.execute(_TAKE, {"model": model, "holder": holder})
    return holder


def demand(api: Connection, model: str, holder: str) -> None:
    """In the caller's transaction, until it ends: nobody else may swap. Raises `Transient` (`overtaken`) if somebody else may already."""
    row = api.execute(_HOLDER, {"model": model}).fetchone()
    if row is None or row[0] != holder:
        raise Transient("overtaken", f"another process has taken over the promotion of {model}, and this one may swap nothing any more")


def _missing(api: Connection) -> tuple[str, ...]:
    return tuple(row[0] for row in api.execute(_MISSING, {"names": list(_SCHEMAS)}))
