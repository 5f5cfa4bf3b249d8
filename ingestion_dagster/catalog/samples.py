"""An upstream to try the catalogue with: the rows of `source_data/catalog` in the tables that upstream has them in."""

import gzip
import json
from typing import Any, cast

from psycopg import errors, sql

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.home import project_file
from ingestion_dagster.engine.postgres import Connection, Database

FOLDER = "catalog"
MARKER = "sample rows that came with ingestion_dagster"
"""Comment of the tables that were made here."""

_LOCK = 0x5A3B1E57
_CHUNK = 1 << 18

_COMMON = """
    identifier uuid PRIMARY KEY,
    created_on timestamptz NOT NULL,
    updated_on timestamptz NOT NULL,
    ingestion_type varchar(80),
    provider varchar(80),
    source varchar(80),
    foreign_identifier varchar(1000),
    foreign_landing_url varchar(1000),
    url varchar(1000) NOT NULL UNIQUE,
    thumbnail varchar(1000),
    {sizes},
    filesize integer,
    license varchar(50) NOT NULL,
    license_version varchar(25),
    creator varchar(2000),
    creator_url varchar(2000),
    title varchar(5000),
    meta_data jsonb,
    tags jsonb,
    watermarked boolean,
    last_synced_with_source timestamptz,
    removed_from_source boolean NOT NULL,
    filetype varchar(80),
    category varchar(80),
    {more}
    standardized_popularity double precision,
    UNIQUE (provider, foreign_identifier)
"""
_SOUND = """
    genres varchar(80)[],
    audio_set jsonb,
    audio_set_position integer,
    alt_files jsonb,
    audio_set_foreign_identifier varchar(1000),
"""
TABLES = {
    "image": f"CREATE TABLE image ({_COMMON.format(sizes='width integer, height integer', more='')})",
    "audio": f"CREATE TABLE audio ({_COMMON.format(sizes='duration integer, bit_rate integer, sample_rate integer', more=_SOUND)})",
}
"""How upstream's tables are made. They have no integer id: the API's numbers are given here."""

_SETS = """
UPDATE audio SET audio_set_foreign_identifier = audio_set ->> 'foreign_identifier' WHERE audio_set IS NOT NULL
"""

VIEW = """
CREATE VIEW audioset_view AS
SELECT DISTINCT
    (audio_set ->> 'foreign_identifier')::varchar(1000) AS foreign_identifier,
    (audio_set ->> 'title')::varchar(2000) AS title,
    (audio_set ->> 'foreign_landing_url')::varchar(1000) AS foreign_landing_url,
    (audio_set ->> 'creator')::varchar(2000) AS creator,
    (audio_set ->> 'creator_url')::varchar(2000) AS creator_url,
    (audio_set ->> 'url')::varchar(1000) AS url,
    (audio_set ->> 'filesize')::integer AS filesize,
    (audio_set ->> 'filetype')::varchar(80) AS filetype,
    (audio_set ->> 'thumbnail')::varchar(1000) AS thumbnail,
    provider
FROM audio
WHERE audio_set IS NOT NULL
"""

_HAS_OWN = """
SELECT EXISTS (
    SELECT FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
      AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e'))
"""


def fill_upstream(database: Database) -> None:
    """Make the tables and the view of upstream and load the sample rows, in one transaction; nothing if the database has any table.

    Two processes at once take turns. Raises `ConfigurationError` if this installation has no sample rows.
    """
    with database.connect() as connection:
        if _has_own(connection):
            return
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
            if not _has_own(connection):
                _make(connection)


def expected(model: str) -> dict[str, Any]:
    """What a first refresh of the sample rows counts, by the generator's own reckoning.

    `rows`, `rows_by_provider`, `removed`, `documents`, `documents_by_source`, `documents_by_license`, `mature`, `sensitive` (with the list
    of terms that comes with the package), `filtered`, `phrase` (a term that is on no list, and how many documents have it),
    `cleaned_rows`, `fixed_fields`, `dropped_tags`, `all_tags_dropped`, `audiosets`.
    """
    counts = json.loads((project_file("source_data") / FOLDER / "expected.json").read_bytes())
    return cast("dict[str, Any]", counts[model])


def make_tables(connection: Connection) -> None:
    """Make upstream's tables and view, empty."""
    for table, statement in TABLES.items():
        connection.execute(statement)
        connection.execute(sql.SQL("CREATE INDEX ON {} (updated_on)").format(sql.Identifier(table)))
        connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(sql.Identifier(table), sql.Literal(MARKER)))
    connection.execute(VIEW)


def _make(connection: Connection) -> None:
    folder = project_file("source_data") / FOLDER
    make_tables(connection)
    for table in TABLES:
        path = folder / f"{table}.csv.gz"
        try:
            with gzip.open(path, "rb") as file:
                header = file.readline().decode().strip()
                columns = sql.SQL(", ").join(map(sql.Identifier, header.split(",")))
                statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT csv)").format(sql.Identifier(table), columns)
                with connection.cursor().copy(statement) as copy:
                    while chunk := file.read(_CHUNK):
                        copy.write(chunk)
        except (OSError, EOFError, errors.DataError, errors.UndefinedColumn) as error:
            raise ConfigurationError(f"{path} cannot be used ({type(error).__name__}): install the package again") from None
    connection.execute(_SETS)
    for table in TABLES:
        connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table)))


def _has_own(connection: Connection) -> bool:
    return connection.execute(_HAS_OWN).fetchone() == (True,)
