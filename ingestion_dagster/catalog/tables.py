"""The API's tables of the catalogue: what they are copied from, and how one that is missing is made."""

from dataclasses import dataclass

LIVE, NEXT, PREVIOUS = "public", "catalog_next", "catalog_previous"
"""Schemas of the API database: what readers see, what is being made, and what was there before."""

Columns = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A table of the API: its name, the upstream relation that it is copied from, and what moderates it."""

    name: str
    upstream: str
    columns: Columns
    """Name and type with constraints, for a table that is missing; `id` first."""
    indexes: tuple[str, ...] = ()
    """Further definitions for a table that is missing, `{table}` standing for its qualified name."""
    constraints: tuple[str, ...] = ()
    """Named table constraints for a table that is missing, primary key among them."""
    identity: str = "identifier"
    """SQL expression over the table's columns by which a row is the same in the next refresh, and keeps its id."""
    deleted: str | None = None
    """Moderation table (identifier uuid primary key) of rows that must not be copied."""
    mature: str | None = None
    """Moderation table (identifier uuid primary key) of rows that are mature."""
    cleaned: bool = False
    """Whether its rows are cleaned on the way."""
    defaults: tuple[tuple[str, str], ...] = ()
    """Column and SQL expression of what upstream does not have; `now()` in it is the moment that all rows are of."""

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of its identity."""
        return tuple(name.strip() for name in self.identity.strip("()").split(","))


_HEAD: Columns = (
    ("id", "integer NOT NULL"),
    ("created_on", "timestamptz NOT NULL"),
    ("updated_on", "timestamptz NOT NULL"),
)

_SOURCE: Columns = (
    ("identifier", "uuid NOT NULL"),
    ("provider", "varchar(80)"),
    ("source", "varchar(80)"),
    ("foreign_identifier", "varchar(1000)"),
    ("foreign_landing_url", "varchar(1000)"),
    ("url", "varchar(1000)"),
    ("thumbnail", "varchar(1000)"),
)

_RIGHTS: Columns = (
    ("filesize", "integer"),
    ("license", "varchar(50) NOT NULL"),
    ("license_version", "varchar(25)"),
    ("creator", "varchar(2000)"),
    ("creator_url", "varchar(2000)"),
    ("title", "varchar(5000)"),
    ("last_synced_with_source", "timestamptz"),
    ("removed_from_source", "boolean NOT NULL"),
    ("meta_data", "jsonb"),
    ("view_count", "integer DEFAULT 0"),
    ("tags", "jsonb"),
    ("watermarked", "boolean"),
    ("filetype", "varchar(80)"),
    ("standardized_popularity", "double precision"),
    ("category", "varchar(80)"),
)

_SOUND: Columns = (
    ("audio_set_position", "integer"),
    ("genres", "varchar(80)[]"),
    ("duration", "integer"),
    ("bit_rate", "integer"),
    ("sample_rate", "integer"),
    ("alt_files", "jsonb"),
    ("audio_set_foreign_identifier", "varchar(1000)"),
)

_SET: Columns = (
    ("foreign_identifier", "varchar(1000)"),
    ("title", "varchar(2000)"),
    ("foreign_landing_url", "varchar(1000)"),
    ("creator", "varchar(2000)"),
    ("creator_url", "varchar(2000)"),
    ("url", "varchar(1000)"),
    ("filesize", "integer"),
    ("filetype", "varchar(80)"),
    ("thumbnail", "varchar(1000)"),
    ("provider", "varchar(80)"),
)

_PLAIN = ("category", "foreign_identifier", "provider", "source", "last_synced_with_source")
_PATTERN = ("category", "foreign_identifier", "provider", "source", "url")


def _constraints(table: str, *unique: str) -> tuple[str, ...]:
    return (
        f"CONSTRAINT {table}_pkey PRIMARY KEY (id)",
        *(f"CONSTRAINT {table}_{columns.replace(', ', '_')}_key UNIQUE ({columns})" for columns in unique),
    )


def _indexes(table: str, plain: tuple[str, ...], pattern: tuple[str, ...]) -> tuple[str, ...]:
    return (
        *(f"CREATE INDEX {table}_{column}_idx ON {{table}} USING btree ({column})" for column in plain),
        *(f"CREATE INDEX {table}_{column}_like ON {{table}} USING btree ({column} varchar_pattern_ops)" for column in pattern),
    )


def media_table(
    name: str,
    *own: tuple[str, str],
    indexed: tuple[str, ...] = (),
    deleted: str | None = None,
    mature: str | None = None,
    cleaned: bool = False,
) -> TableSpec:
    """The table of a media type, copied from the upstream relation of the same name: what all of them have, and columns of its own.

    `own`: name and type each; `indexed`: those of them that are looked for.
    """
    return TableSpec(
        name=name,
        upstream=name,
        columns=(*_HEAD, *_SOURCE, *own, *_RIGHTS),
        indexes=_indexes(name, (*_PLAIN, *indexed), (*_PATTERN, *indexed)),
        constraints=_constraints(name, "identifier", "url", "foreign_identifier, provider"),
        deleted=deleted,
        mature=mature,
        cleaned=cleaned,
    )


IMAGE = media_table(
    "image", ("width", "integer"), ("height", "integer"), deleted="api_deletedimage", mature="api_matureimage", cleaned=True
)

AUDIO = media_table("audio", *_SOUND, indexed=("audio_set_foreign_identifier",), deleted="api_deletedaudio", mature="api_matureaudio")

AUDIOSET = TableSpec(
    name="audioset",
    upstream="audioset_view",
    columns=(*_HEAD, *_SET),
    constraints=_constraints("audioset", "url", "foreign_identifier, provider"),
    identity="(foreign_identifier, provider)",
    defaults=(("created_on", "now()"), ("updated_on", "now()")),
)
