"""A search engine in a folder, for a laptop and for tests: what the search cluster does, without one."""

import heapq
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
import tantivy

from ingestion_dagster.catalog.embedded_fields import ID, LEVELS, SOURCE, Fields, NotTaken, UnknownMapping, share
from ingestion_dagster.catalog.embedded_folder import SearchFolder
from ingestion_dagster.catalog.embedded_query import Searching
from ingestion_dagster.catalog.mapping import BOOST, POPULARITY
from ingestion_dagster.catalog.search import AliasMove, BulkResult, Found, Hit, IndexDefinition, Query, Rejected, SearchEngine
from ingestion_dagster.catalog.search_refusals import (
    DOCUMENT_REFUSED,
    alias_is_index,
    check_limit,
    check_name,
    mapping_refused,
    no_such_index,
)
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient
from ingestion_dagster.engine.faults import fault_point

_WRITER_BYTES = 64 * 1024 * 1024
_READ_AT_ONCE = 1000
_LOOKED_AT = 1000
"""Documents, the best by steps of popularity, that are put in their exact order."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """An index that this process reads; `made` tells it from a later one of the same name."""

    made: os.stat_result
    fields: Fields
    index: tantivy.Index


class EmbeddedSearch(SearchEngine):
    """Indexes under a folder. What is put is on disk, and seen by readers, when `bulk` returns; nothing is replicated.

    Any number of processes may use the folder; those that write to one index take turns.
    """

    def __init__(self, root: Path) -> None:
        self._folder = SearchFolder(root)
        self._opened: dict[str, _Opened] = {}
        self._opening = threading.Lock()

    @classmethod
    def at(cls, url: str) -> "EmbeddedSearch":
        """The engine of a folder, as `file:///folder`. Nothing is made yet. Raises `ConfigurationError`."""
        parts = urlsplit(url)
        folder = Path(unquote(parts.path))
        if parts.scheme != "file" or parts.netloc not in ("", "localhost") or not folder.is_absolute() or folder == Path("/"):
            raise ConfigurationError("INGESTION_CATALOG_SEARCH_URL names no folder; it reads file:///folder")
        return cls(folder)

    def create(self, index: str, definition: IndexDefinition) -> None:
        """See `SearchEngine`."""
        check_name(index)
        try:
            fields = Fields(definition.mappings)
        except UnknownMapping as error:
            raise mapping_refused(index, str(error)) from None
        kept = {"settings": definition.settings, "mappings": definition.mappings, "label": definition.label}
        with _disk(), self._folder.made(index, kept) as data:
            tantivy.Index(fields.schema, path=str(data)).config_reader("manual")

    def exists(self, name: str) -> bool:
        """See `SearchEngine`."""
        return self._folder.has(name) or name in self._folder.aliases()

    def behind(self, alias: str) -> tuple[str, ...]:
        """See `SearchEngine`. There is one at most."""
        index = self._folder.aliases().get(alias)
        return () if index is None else (index,)

    def aliases_of(self, index: str) -> tuple[str, ...]:
        """See `SearchEngine`."""
        return tuple(sorted(alias for alias, behind in self._folder.aliases().items() if behind == index))

    def indexes(self, prefix: str) -> tuple[str, ...]:
        """See `SearchEngine`."""
        return tuple(name for name in self._folder.names() if name.startswith(prefix))

    def label(self, index: str) -> Mapping[str, Any]:
        """See `SearchEngine`."""
        label: Mapping[str, Any] = self._folder.definition(self._named(index))["label"]
        return label

    def bulk(self, index: str, documents: Sequence[tuple[int, bytes]]) -> BulkResult:
        """See `SearchEngine`. All of it is one commit, bounded in memory: readers see all or none."""
        rejected: list[Rejected] = []
        with self._writing(index) as (fields, writer):
            for id_, source in documents:
                try:
                    document = fields.document(id_, source)
                except NotTaken as error:
                    rejected.append(Rejected(id_, DOCUMENT_REFUSED, str(error)))
                    continue
                writer.delete_documents_by_term(ID, id_)
                writer.add_document(document)
        return BulkResult(len(documents) - len(rejected), tuple(rejected))

    def delete_documents(self, index: str, ids: Sequence[int]) -> int:
        """See `SearchEngine`."""
        with self._writing(index) as (_, writer):
            there = self._sources(self._resolved(index), ids)
            for id_ in there:
                writer.delete_documents_by_term(ID, id_)
        return len(there)

    def update_documents(self, index: str, ids: Sequence[int], fields: Mapping[str, Any]) -> int:
        """See `SearchEngine`. Raises `Refused` (`document_refused`) for a value that the mapping does not take; then nothing is changed."""
        with self._writing(index) as (known, writer):
            there = self._sources(self._resolved(index), ids)
            for id_, source in there.items():
                try:
                    document = known.document(id_, orjson.dumps(_merged(orjson.loads(source), fields)))
                except NotTaken as error:
                    raise Refused(Problem(DOCUMENT_REFUSED, f"document {id_}", str(error))) from None
                writer.delete_documents_by_term(ID, id_)
                writer.add_document(document)
        return len(there)

    def finish(self, index: str, *, replicas: int = 1) -> None:
        """See `SearchEngine`. There is nothing to replicate."""
        del replicas
        self.refresh(index)

    def refresh(self, index: str) -> None:
        """See `SearchEngine`."""
        self._searcher(index)

    def wait_ready(self, index: str, seconds: float) -> bool:
        """See `SearchEngine`. It always is, if it is there."""
        del seconds
        return self.exists(index)

    def count(self, name: str) -> int:
        """See `SearchEngine`."""
        return self._searcher(name)[1].num_docs

    def get(self, index: str, ids: Sequence[int]) -> dict[int, Mapping[str, Any]]:
        """See `SearchEngine`."""
        return {id_: orjson.loads(source) for id_, source in self._sources(self._resolved(index), ids).items()}

    def search(self, name: str, query: Query) -> Found:
        """See `SearchEngine`."""
        check_limit(query)
        fields, searcher = self._searcher(name)
        asked = Searching(fields, searcher).query(query)
        newest = query.newest_first and "created_on" in fields.by_name
        looked_at = max(_LOOKED_AT, query.limit)
        found = searcher.search(asked, looked_at, order_by_field="created_on") if newest else searcher.search(asked, looked_at)
        best = _ordered(fields, searcher, found.hits, newest)[: query.limit]
        hits = tuple(Hit(id_, score, orjson.loads(_source(searcher, address))) for score, id_, address in best)
        return Found(found.count or 0, hits)  # type: ignore[attr-defined]

    def switch(self, moves: Iterable[AliasMove]) -> None:
        """See `SearchEngine`."""
        moves = tuple(moves)
        with _disk(), self._folder.changing():
            aliases = self._folder.aliases()
            for move in moves:
                check_name(move.alias)
                if self._folder.has(move.alias):
                    raise alias_is_index(move.alias)
                if move.to is None:
                    aliases.pop(move.alias, None)
                elif self._folder.has(move.to):
                    aliases[move.alias] = move.to
                else:
                    raise no_such_index(move.to)
            self._folder.set_aliases(aliases)

    def delete_index(self, index: str) -> bool:
        """See `SearchEngine`. Who is reading it goes on."""
        with _disk():
            return self._folder.delete(index)

    def problems(self, seconds: float = 3) -> tuple[str, ...]:
        """See `SearchEngine`."""
        del seconds
        folder = next(place for place in (self._folder.root, *self._folder.root.parents) if place.exists())
        return () if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK) else ("the folder of the search index cannot be written",)

    def close(self) -> None:
        """See `SearchEngine`."""
        with self._opening:
            self._opened.clear()

    @staticmethod
    def _named(name: str) -> str:
        check_name(name)
        return name

    def _resolved(self, name: str) -> str:
        """The index that a name means. Raises `Refused` (`no_such_index`)."""
        index = self._folder.aliases().get(self._named(name), name)
        if not self._folder.has(index):
            raise no_such_index(name)
        return index

    @contextmanager
    def _writing(self, name: str) -> Iterator[tuple[Fields, tantivy.IndexWriter]]:
        """A writer, when it is our turn; what was written is on disk at the end of the body, and nothing of it if the body fails."""
        index = self._resolved(name)
        with _disk(), self._folder.writing(index):
            opened = self._open(index)
            writer = opened.index.writer(_WRITER_BYTES, 1)
            try:
                yield opened.fields, writer
                fault_point("catalog.embedded_commit.before")
                writer.commit()
                fault_point("catalog.embedded_commit.after")
            except BaseException:
                writer.rollback()
                raise
            finally:
                writer.wait_merging_threads()

    def _searcher(self, name: str) -> tuple[Fields, tantivy.Searcher]:
        """A view of an index as it is now. Between two looks an alias may have moved, and what it led to be gone."""
        deadline = time.monotonic() + 1
        while True:
            try:
                with _disk(), self._opening:
                    opened = self._open(self._resolved(name), locked=True)
                    opened.index.reload()
                    return opened.fields, opened.index.searcher()
            except (Refused, Transient):
                if time.monotonic() > deadline or not self.exists(name):
                    raise
                time.sleep(0.01)

    def _open(self, index: str, *, locked: bool = False) -> _Opened:
        if not locked:
            with self._opening:
                return self._open(index, locked=True)
        data = self._folder.data(index)
        try:
            made = data.stat()
        except FileNotFoundError:
            raise no_such_index(index) from None
        opened = self._opened.get(index)
        if opened is None or not os.path.samestat(opened.made, made):
            fields = Fields(self._folder.definition(index)["mappings"])
            found = tantivy.Index.open(str(data))
            # Else a thread watches the folder as long as the index is open.
            found.config_reader("manual")
            opened = self._opened[index] = _Opened(made, fields, found)
        return opened

    def _sources(self, index: str, ids: Sequence[int]) -> dict[int, bytes]:
        fields, searcher = self._searcher(index)
        sources: dict[int, bytes] = {}
        distinct = list(dict.fromkeys(ids))
        for start in range(0, len(distinct), _READ_AT_ONCE):
            wanted = distinct[start : start + _READ_AT_ONCE]
            found = searcher.search(tantivy.Query.term_set_query(fields.schema, ID, wanted), len(wanted), count=False)
            addresses = [address for _, address in found.hits]
            for id_, address in zip(searcher.fast_field_values(ID, addresses), addresses, strict=True):
                sources[int(id_ or 0)] = _source(searcher, address)
        return sources


def _ordered(
    fields: Fields, searcher: tantivy.Searcher, hits: Sequence[tuple[Any, tantivy.DocAddress]], newest: bool
) -> list[tuple[float, int, tantivy.DocAddress]]:
    """Score, id and address of what was found, in its exact order; newest first without scores."""
    addresses = [address for _, address in hits]
    ids = [int(id_ or 0) for id_ in searcher.fast_field_values(ID, addresses)]
    if newest:
        in_order = sorted(
            zip(hits, ids, strict=True), key=lambda found: (found[0][0] is not None, found[0][0] or 0, found[1]), reverse=True
        )
        return [(0.0, id_, address) for (_, address), id_ in in_order]
    scores = [float(score) for score, _ in hits]
    if POPULARITY in fields.by_name:
        for place, feature in enumerate(searcher.fast_field_values(POPULARITY, addresses)):
            scores[place] += _within_step(float(feature or 0))
    return heapq.nlargest(len(hits), zip(scores, ids, addresses, strict=True), key=lambda found: (found[0], -found[1]))


def _within_step(feature: float) -> float:
    """What the step of a feature is short of what it counts for."""
    return BOOST * (share(feature) - max(1, round(LEVELS * share(feature))) / LEVELS) if feature else 0.0


def _source(searcher: tantivy.Searcher, address: tantivy.DocAddress) -> bytes:
    return bytes(searcher.doc(address).get_first(SOURCE) or b"")


def _merged(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A document with some fields set; objects are set field by field."""
    merged = dict(content)
    for name, value in changes.items():
        before = merged.get(name)
        merged[name] = _merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged


@contextmanager
def _disk() -> Iterator[None]:
    """What the disk, or the index on it, does not do. Its messages may hold paths, and are left out."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise Transient("search_unavailable", f"the folder of the search index does not do it ({type(error).__name__})") from None
