"""Reading back: documents of an index against their rows, field by field, and titles that must lead to the documents that have them."""

import hashlib
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from psycopg import sql
from psycopg.rows import dict_row

from ingestion_dagster.catalog import gates_sql
from ingestion_dagster.catalog.documents import BETWEEN_VALUES
from ingestion_dagster.catalog.registry import MediaType, filtered_name, index_name
from ingestion_dagster.catalog.search import Query, SearchEngine
from ingestion_dagster.catalog.tables import LIVE, NEXT
from ingestion_dagster.engine.postgres import Connection

DOCUMENTS = 200
"""Documents that are read back."""

TITLES = 20
"""Titles that are looked for."""

_MOST_HITS = 100
_WORD = re.compile(r"[A-Za-z]{4,}")
_STOPPED = frozenset({"into", "such", "that", "their", "then", "there", "these", "they", "this", "will", "with"})
_FILTERS = ("provider", "source", "license")


@dataclass(frozen=True, slots=True)
class KnownTitle:
    """A document and a query by words of its title, and by keywords that it has, which must find it."""

    id: int
    query: Query


def places(suffix: str, count: int) -> list[float]:
    """Where in the range of ids to look, from 0 up to but not 1: both ends, and others that depend on the suffix alone."""
    digests = (hashlib.sha256(f"{suffix} {number}".encode()).digest() for number in range(count - 2))
    return sorted([0.0, 1 - 2**-53, *(int.from_bytes(digest[:6], "big") / 2**48 for digest in digests)])


def differences(
    api: Connection,
    engine: SearchEngine,
    media: MediaType,
    suffix: str,
    fields: Collection[str] = (),
    *,
    refused: Collection[int] = (),
    count: int = DOCUMENTS,
) -> tuple[int, list[str]]:
    """Read documents back from the index of a refresh: how many were compared, and a line for each that is not as its row says.

    Lines name ids and fields, never values. `refused`: ids of documents that the index has refused, which another gate judges. What
    moderation has changed since the index was filled is no difference: the promotion brings it up to date.
    """
    rows = _rows(api, media, _ids(api, media, suffix, count))
    found = engine.get(index_name(media.name, suffix), [row["id"] for row in rows])
    lines = []
    for row in rows:
        if row["deleted"] or row["id"] in refused:
            continue
        wanted = media.documents.plain(row, fields)
        lines += _line(row["id"], _json(wanted), found.get(row["id"]), moderated=row["mature"])
    return len(rows), lines


def filtered_differences(
    api: Connection,
    engine: SearchEngine,
    media: MediaType,
    suffix: str,
    is_sensitive: Callable[[str], bool],
    *,
    refused: Collection[int] = (),
    count: int = DOCUMENTS,
) -> tuple[int, list[str]]:
    """Look rows up in the filtered index: how many, and a line for each that is there and is sensitive, or the other way round."""
    rows = _rows(api, media, _ids(api, media, suffix, count))
    found = engine.get(filtered_name(media.name, suffix), [row["id"] for row in rows])
    lines = []
    for row in rows:
        document = media.documents.plain(row)
        if document is None or row["id"] in refused:
            continue
        texts = [document.get("title"), document.get("description"), *(tag["name"] for tag in document.get("tags", []))]
        if is_sensitive(BETWEEN_VALUES.join(text for text in texts if text)) == (row["id"] in found):
            lines.append(f"document {row['id']} is {'sensitive, and there' if row['id'] in found else 'not sensitive, and not there'}")
    return len(rows), lines


def known_titles(api: Connection, media: MediaType, suffix: str, refused: Collection[int] = (), *, count: int = TITLES) -> list[KnownTitle]:
    """Queries by titles of some documents that were not refused; those without two plain words in their title are left out."""
    statement = gates_sql.TITLES.format(relation=sql.Identifier(NEXT, media.table.name), deleted=moderated(api, media.table.deleted))
    found = []
    ids = [number for number in _ids(api, media, suffix, count) if number not in refused]
    for number, title, *keywords in api.execute(statement, {"ids": ids}):
        words = [word for word in _WORD.findall(_plain_part(title)) if word.lower() not in _STOPPED]
        if len(words) >= 2:
            filters = {name: [str(value)] for name, value in zip(_FILTERS, keywords, strict=True) if value}
            filters |= {"license": [keywords[-1].lower()]}
            found.append(KnownTitle(number, Query(title=" ".join(words[:6]), filters=filters, mature=True, limit=_MOST_HITS)))
    return found


def is_found(engine: SearchEngine, index: str, known: KnownTitle) -> bool:
    """Whether the document is among what is found; where more is found than is shown, that much is enough."""
    found = engine.search(index, known.query)
    return found.total > len(found.hits) or any(hit.id == known.id for hit in found.hits)


def _ids(api: Connection, media: MediaType, suffix: str, count: int) -> list[int]:
    statement = gates_sql.SAMPLE_IDS.format(relation=sql.Identifier(NEXT, media.table.name))
    return [row[0] for row in api.execute(statement, {"places": places(suffix, count)})]


def _rows(api: Connection, media: MediaType, ids: Sequence[int]) -> list[dict[str, Any]]:
    table = media.table
    moderation = {"deleted": if_there(api, table.deleted), "mature": if_there(api, table.mature)}
    statement = media.documents.plain_rows(sql.Identifier(NEXT, table.name), **moderation)
    with api.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(statement, {"ids": list(ids)}).fetchall()


def if_there(api: Connection, moderation: str | None) -> str | None:
    """A moderation table, if the API's database has it."""
    there = moderation and api.execute("SELECT to_regclass(%s)", [f"{LIVE}.{moderation}"]).fetchone() != (None,)
    return moderation if there else None


def moderated(api: Connection, moderation: str | None) -> sql.Composable:
    """A condition on `staged`: its identifier is in a moderation table."""
    name = if_there(api, moderation)
    return gates_sql.IS_MODERATED.format(moderation=sql.Identifier(LIVE, name)) if name else sql.SQL("false")


def _json(document: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """As it comes back from an index."""
    return None if document is None else orjson.loads(orjson.dumps(document))


def _line(number: int, wanted: Mapping[str, Any] | None, held: Mapping[str, Any] | None, *, moderated: bool) -> list[str]:
    if wanted is None or held is None:
        problem = {(True, False): "should not be there", (False, True): "is not there"}.get((wanted is None, held is None))
        return [f"document {number} {problem}"] if problem else []
    names = sorted(name for name in wanted.keys() | held.keys() if not _same(wanted.get(name), held.get(name)))
    if moderated and "mature" in names:
        names.remove("mature")
    return [f"document {number} differs in {', '.join(names)}"] if names else []


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-6)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    return bool(one == other)


def _plain_part(title: str) -> str:
    """The title, cut where it could be more than plain words: another script, or a word that goes on behind an apostrophe or a digit."""
    return " ".join(word for word in title.split() if re.fullmatch(r"[A-Za-z]+[,.;:!?]?", word))
