"""The statements that read rows as documents. Values of our own stand in them as literals, never any of a row."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from ingestion_dagster.catalog import plain_documents

_OFFERED = ("foreign_landing_url", "creator_url", "license_version", "thumbnail", "license_url", "meta_data")

COLUMNS = "SELECT column_name::text FROM information_schema.columns WHERE table_schema = %(schema)s AND table_name = %(table)s"

_USED_BY_ALL = (
    "identifier", "created_on", "provider", "source", "url", "title", "creator", "license", "category", "standardized_popularity",
    "meta_data", "tags", "removed_from_source", "foreign_landing_url", "creator_url", "license_version", "thumbnail",
)  # fmt: skip
_TYPES = {
    "identifier": "uuid", "created_on": "timestamptz", "standardized_popularity": "double precision", "meta_data": "jsonb", "tags": "jsonb",
    "removed_from_source": "boolean",
}  # fmt: skip

_ROWS = """
SELECT t.id::bigint,
       CASE WHEN t.removed_from_source IS TRUE OR {deleted} THEN NULL
            ELSE convert_to(concat_ws(',', {parts}), 'UTF8') END,
       t.title::text,
       CASE WHEN jsonb_typeof(t.meta_data -> 'description') = 'string' THEN left(t.meta_data ->> 'description', 2000) END,
       t.tags::text
FROM {source} AS t
CROSS JOIN LATERAL (
    SELECT {popularity} AS popularity, {authority} AS authority OFFSET 0
) AS ranks
WHERE {which}
ORDER BY t.id
LIMIT %(limit)s
"""

# A rank feature is a positive normal float of 32 bits, or the index refuses its document.
_POPULARITY = """CASE WHEN t.standardized_popularity BETWEEN 1e-300 AND 1
                     THEN CASE WHEN t.standardized_popularity * 100 >= 1.1754943508222875e-38 THEN t.standardized_popularity * 100 END
                     WHEN t.standardized_popularity > 1 AND t.standardized_popularity < 'Infinity' THEN 100 END"""

_AUTHORITY = """CASE WHEN t.meta_data -> 'authority_boost' IS NULL
                    THEN CASE WHEN t.provider = 'stocksnap' THEN 85
                              WHEN t.provider IN ('thorvaldsensmuseum', 'svgsilh', 'smithsonian', 'rijksmuseum', 'museumsvictoria', 'met',
                                                  'mccordsmuseum', 'digitaltmuseum', 'clevelandmuseum', 'brooklynmuseum') THEN 90
                              WHEN t.provider IN ('flickr', 'behance', 'thingiverse', 'sketchfab', 'deviantart') THEN 75
                         END::double precision
                    WHEN jsonb_typeof(t.meta_data -> 'authority_boost') = 'number'
                    THEN CASE WHEN (t.meta_data -> 'authority_boost')::numeric >= 1.1754943508222875e-38
                              THEN least((t.meta_data -> 'authority_boost')::numeric, 100)::double precision END
                    WHEN jsonb_typeof(t.meta_data -> 'authority_boost') = 'string'
                         AND length(t.meta_data ->> 'authority_boost') <= 255
                         AND t.meta_data ->> 'authority_boost' ~ '^ *[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]{1,3})? *$'
                    THEN CASE WHEN (t.meta_data ->> 'authority_boost')::numeric >= 1.1754943508222875e-38
                              THEN least((t.meta_data ->> 'authority_boost')::numeric, 100)::double precision END
                END"""

EXTENSION = """'"extension":' || to_json(nullif(lower(substring(split_part(split_part(t.url, '?', 1), '#', 1)
                                              FROM '[.]([^./]+)$') COLLATE "C"), ''))::text"""

_COMMON = (
    "'{\"id\":' || t.id",
    "'\"identifier\":\"' || t.identifier || '\"'",
    """CASE WHEN t.created_on >= '0001-01-01 00:00:00+00' AND t.created_on < '10000-01-01 00:00:00+00'
            THEN '"created_on":' || to_json(t.created_on)::text END""",
    """'"mature":' || CASE WHEN {mature} THEN 'true'
            WHEN t.meta_data -> 'mature' IS NULL THEN 'false'
            WHEN t.meta_data -> 'mature' IN ('"true"', '"false"') THEN t.meta_data ->> 'mature'
            ELSE nullif((t.meta_data -> 'mature')::text, 'null') END""",
    '\'"license":\' || to_json(lower(t.license COLLATE "C"))::text',
    "'\"provider\":' || to_json(t.provider)::text",
    "'\"source\":' || to_json(t.source)::text",
    "'\"creator\":' || to_json(t.creator)::text",
    "'\"url\":' || to_json(t.url)::text",
    "'\"category\":' || to_json(t.category)::text",
    "'\"standardized_popularity\":' || ranks.popularity",
    "'\"authority_boost\":' || ranks.authority",
    "'\"max_boost\":' || greatest(coalesce(ranks.popularity, 1), coalesce(ranks.authority, 1))",
    "'\"min_boost\":' || least(coalesce(ranks.popularity, 1), coalesce(ranks.authority, 1))",
)

OF_IMAGES = (
    EXTENSION,
    """CASE WHEN t.height > t.width THEN '"aspect_ratio":"tall"' WHEN t.height < t.width THEN '"aspect_ratio":"wide"'
            WHEN t.height = t.width THEN '"aspect_ratio":"square"' END""",
    """CASE WHEN t.width::bigint * t.height < 307200 THEN '"size":"small"' WHEN t.width::bigint * t.height < 1440000 THEN '"size":"medium"'
            WHEN t.width::bigint * t.height >= 1440000 THEN '"size":"large"' END""",
)

OF_AUDIO = (
    """'"extension":' || CASE WHEN jsonb_typeof(t.alt_files) = 'array' AND t.alt_files <> '[]'
            THEN (SELECT jsonb_agg(f.value -> 'filetype' ORDER BY f.ordinality)::text
                  FROM jsonb_array_elements(CASE WHEN jsonb_typeof(t.alt_files) = 'array' THEN t.alt_files END) WITH ORDINALITY AS f
                  WHERE jsonb_typeof(f.value -> 'filetype') = 'string')
            ELSE to_json(t.filetype)::text END""",
    "'\"filetype\":' || to_json(t.filetype)::text",
    """CASE WHEN t.duration = 0 THEN NULL
            WHEN t.duration < 30000 THEN '"length":"shortest"' WHEN t.duration < 120000 THEN '"length":"short"'
            WHEN t.duration < 600000 THEN '"length":"medium"' WHEN t.duration >= 600000 THEN '"length":"long"' END""",
)

_ON_DEMAND = {
    "genres": "'\"genres\":' || to_json(CASE WHEN cardinality(t.genres) > 0 THEN t.genres END)::text",
    "license_url": """CASE WHEN jsonb_typeof(t.meta_data -> 'license_url') = 'string'
                           THEN '"license_url":' || (t.meta_data -> 'license_url')::text END""",
    "meta_data": "CASE WHEN jsonb_typeof(t.meta_data) = 'object' AND t.meta_data <> '{}' THEN '\"meta_data\":' || t.meta_data::text END",
}


@dataclass(frozen=True, slots=True)
class OwnFields:
    """What documents of one media type have and others have not, in SQL and in Python: each can be held against the other."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns that these fields are made of, with their types."""
    parts: tuple[str, ...] = (EXTENSION,)
    """Members of a JSON object as SQL text, of a row `t`; null: the document has no such field."""
    plain: Callable[[Mapping[str, Any]], dict[str, Any]] = plain_documents.extension_of_url
    """The same fields of a row as Python values; None: the document has no such field."""
    more: tuple[str, ...] = ()
    """Of these columns, those that are a field only if that is asked for."""

    @property
    def offered(self) -> tuple[str, ...]:
        """Fields that documents have only if they are asked for."""
        return (*_OFFERED, *self.more)


def rows(
    own: OwnFields,
    relation: sql.Composable,
    deleted: str | None,
    mature: str | None,
    fields: Collection[str],
    columns: Collection[str] | None,
    *,
    ids: bool,
) -> sql.Composed:
    """The statement of `DocumentSpec.query`."""
    # In the order in which they are offered, so that the same fields make the same statement.
    wanted = [_ON_DEMAND.get(name) or f"'\"{name}\":' || to_json(t.{name})::text" for name in own.offered if name in fields]
    parts = (*_COMMON, *own.parts, *wanted)
    is_mature = moderated(mature)
    return sql.SQL(_ROWS).format(
        deleted=moderated(deleted),
        parts=sql.SQL(", ").join(_part(part, is_mature) for part in parts),
        source=_source(own, relation, columns),
        popularity=sql.SQL(_POPULARITY),
        authority=sql.SQL(_AUTHORITY),
        which=sql.SQL("t.id = ANY(%(ids)s)" if ids else "t.id >= %(first)s AND t.id <= %(last)s"),
    )


def expected(relation: sql.Composable, deleted: str | None, first: int | None, last: int | None) -> sql.Composed:
    """The statement of `DocumentSpec.expected`."""
    which: sql.Composable = sql.SQL("true") if first is None or last is None else sql.SQL("t.id BETWEEN {} AND {}").format(first, last)
    gone: sql.Composable = sql.SQL("")
    if deleted is not None:
        gone = sql.SQL("AND NOT EXISTS (SELECT FROM {} AS d WHERE d.identifier = t.identifier)").format(sql.Identifier("public", deleted))
    return sql.SQL("SELECT count(*) FROM {} AS t WHERE t.removed_from_source IS NOT TRUE AND {} {}").format(relation, which, gone)


def plain_rows(relation: sql.Composable, deleted: str | None, mature: str | None) -> sql.Composed:
    """The statement of `DocumentSpec.plain_rows`."""
    return sql.SQL("SELECT t.*, {} AS deleted, {} AS mature FROM {} AS t WHERE t.id = ANY(%(ids)s) ORDER BY t.id").format(
        moderated(deleted), moderated(mature), relation
    )


def moderated(table: str | None) -> sql.Composable:
    """The condition that a row `t` is in a moderation table."""
    if table is None:
        return sql.SQL("false")
    return sql.SQL("EXISTS (SELECT FROM {} AS m WHERE m.identifier = t.identifier)").format(sql.Identifier("public", table))


def _part(text: str, is_mature: sql.Composable) -> sql.Composable:
    before, mark, after = text.partition("{mature}")
    return sql.Composed([sql.SQL(before), is_mature, sql.SQL(after)]) if mark else sql.SQL(text)


def _source(own: OwnFields, relation: sql.Composable, columns: Collection[str] | None) -> sql.Composable:
    """The relation, with what it lacks as nulls."""
    missing = [] if columns is None else [name for name in (*_USED_BY_ALL, *own.columns) if name not in columns]
    if not missing:
        return relation
    types = {**_TYPES, **own.columns}
    nulls = [sql.SQL("NULL::{} AS {}").format(sql.SQL(types.get(name, "text")), sql.Identifier(name)) for name in missing]
    return sql.SQL("(SELECT *, {} FROM {})").format(sql.SQL(", ").join(nulls), relation)
