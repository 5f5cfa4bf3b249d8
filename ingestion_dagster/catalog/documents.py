"""How a row becomes a search document, the fast way: SQL writes most of its JSON, Python adds what a text is looked for in."""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from psycopg import sql

from ingestion_dagster.catalog import documents_sql as statements
from ingestion_dagster.catalog import plain_documents
from ingestion_dagster.catalog.documents_sql import OwnFields
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection

Row = tuple[int, bytes | None, str | None, str | None, str | None]
"""Id; the JSON of a document without its end (None: the row has no document); title, description, and the JSON of the tags."""

BETWEEN_VALUES = "\0"
"""Stands between title, description and tag names in the text that sensitive terms are looked for in. No value can hold it."""

_LARGEST_FLOAT = 3.4028234663852886e38
"""Of the 32 bits that an index has for an accuracy."""


@dataclass(frozen=True, slots=True)
class DocumentSpec:
    """Of one media type."""

    model: str
    own: OwnFields = field(default_factory=OwnFields)

    def query(
        self,
        relation: sql.Composable,
        *,
        deleted: str | None,
        mature: str | None,
        fields: Collection[str] = (),
        columns: Collection[str] | None = None,
        ids: bool = False,
    ) -> sql.Composed:
        """The rows of a relation as `documents` takes them, by id: parameters `first` and `last` (both inclusive) and `limit`.

        `deleted`, `mature`: moderation tables of schema public; None: there is none. `fields`: what documents have besides. `columns`:
        those of the relation, if some may be missing (they count as null). With `ids` the parameter is `ids` instead, a list.
        Raises `ConfigurationError` for a field that this media type does not have. To be fetched in binary.
        """
        self._check(fields)
        return statements.rows(self.own, relation, deleted, mature, fields, columns, ids=ids)

    def documents(self, rows: Iterable[Row]) -> Iterator[tuple[int, bytes | None, str]]:
        """Id, JSON source, and the text that sensitive terms are looked for in, of each row. None: the row has no document."""
        for number, head, title, description, tags in rows:
            if head is None:
                yield number, None, ""
                continue
            texts: dict[str, Any] = {}
            looked_at = []
            if title is not None:
                texts["title"] = title
                looked_at.append(title)
            if description is not None:
                texts["description"] = description
                looked_at.append(description)
            if tags is not None:
                named = _tags(tags)
                if named:
                    texts["tags"] = named
                    looked_at.extend([tag["name"] for tag in named])
            end = b"," + orjson.dumps(texts)[1:] if texts else b"}"
            yield number, head + end, BETWEEN_VALUES.join(looked_at)

    def expected(self, relation: sql.Composable, *, deleted: str | None, first: int | None = None, last: int | None = None) -> sql.Composed:
        """The exact number of documents that a relation gives, of all ids or of those from `first` to `last`."""
        return statements.expected(relation, deleted, first, last)

    def plain_rows(self, relation: sql.Composable, *, deleted: str | None, mature: str | None) -> sql.Composed:
        """Rows as `plain` takes them, with every column and `deleted` and `mature`: parameter `ids`, a list."""
        return statements.plain_rows(relation, deleted, mature)

    def plain(self, row: Mapping[str, Any], fields: Collection[str] = ()) -> dict[str, Any] | None:
        """The document of a row, computed apart from `query` and `documents`, so that each can be held against the other.

        The row is a mapping of columns to Python values; None: it has no document.
        """
        self._check(fields)
        return plain_documents.document(self.own.plain, row, fields)

    def _check(self, fields: Collection[str]) -> None:
        if unknown := sorted(set(fields) - set(self.own.offered)):
            raise ConfigurationError(
                f"documents of {self.model} cannot have the fields {', '.join(unknown)} (INGESTION_CATALOG_FIELDS); "
                f"there are {', '.join(self.own.offered)}"
            )


IMAGE = DocumentSpec(
    "image", OwnFields({"width": "integer", "height": "integer"}, parts=statements.OF_IMAGES, plain=plain_documents.of_image)
)
AUDIO = DocumentSpec(
    "audio",
    OwnFields(
        {
            "filetype": "text",
            "duration": "integer",
            "alt_files": "jsonb",
            "bit_rate": "integer",
            "sample_rate": "integer",
            "genres": "text[]",
        },
        parts=statements.OF_AUDIO,
        plain=plain_documents.of_audio,
        more=("bit_rate", "sample_rate", "genres", "duration"),
    ),
)


def plain(spec: DocumentSpec, row: Mapping[str, Any], fields: Collection[str] = ()) -> dict[str, Any] | None:
    """`DocumentSpec.plain`."""
    return spec.plain(row, fields)


def columns_of(connection: Connection, schema: str, table: str) -> frozenset[str]:
    """The columns of a table."""
    return frozenset(row[0] for row in connection.execute(statements.COLUMNS, {"schema": schema, "table": table}))


def _tags(text: str) -> list[dict[str, Any]]:
    try:
        listed = orjson.loads(text)
    except orjson.JSONDecodeError:
        # A number that no float holds: jsonb does.
        listed = json.loads(text)
    if not isinstance(listed, list):
        return []
    named = []
    for tag in listed:
        if not isinstance(tag, dict):
            continue
        name = tag.get("name")
        if not isinstance(name, str):
            continue
        accuracy = tag.get("accuracy")
        # A tag of a person has none; one of a machine has a float.
        if accuracy is not None and (accuracy := _accuracy(accuracy)) is not None:
            named.append({"name": name, "accuracy": accuracy})
        else:
            named.append({"name": name})
    return named


def _accuracy(value: object) -> float | int | None:
    """A number that an index takes, or None."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST_FLOAT <= value <= _LARGEST_FLOAT:
        return None
    return value
