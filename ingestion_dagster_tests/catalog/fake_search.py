"""A search engine in memory that keeps the contract, writes down every call, and fails when a test tells it to."""

import fnmatch
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from ingestion_dagster.catalog.search import AliasMove, BulkResult, Found, Hit, IndexDefinition, Query, Rejected, SearchEngine
from ingestion_dagster.engine.errors import Problem, Refused

Fault = Callable[[str, tuple[Any, ...]], None]


class FakeSearch(SearchEngine):
    """`calls`: (method, arguments) in order. `fault`: called before and after every call as (`method.before|after`, arguments); may raise.

    `poison`: ids that `bulk` refuses for good. State is shared by all who hold the object; put documents are visible at once.
    """

    def __init__(self) -> None:
        self.documents: dict[str, dict[int, bytes]] = {}
        self.labels: dict[str, dict[str, Any]] = {}
        self.definitions: dict[str, IndexDefinition] = {}
        self.aliases: dict[str, set[str]] = {}
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.fault: Fault | None = None
        self.poison: set[int] = set()
        self.ready = True
        self.trouble: tuple[str, ...] = ()
        self.finished: dict[str, int] = {}
        self.closed = 0
        self._lock = threading.RLock()

    def seen(self) -> Counter[str]:
        """How often each method was called."""
        return Counter(name for name, _ in self.calls)

    def put(self, index: str, documents: Mapping[int, Mapping[str, Any]], label: Mapping[str, Any] | None = None) -> None:
        """An index with documents, for a test's scene; no call is written down."""
        self.documents[index] = {number: orjson.dumps(dict(source)) for number, source in documents.items()}
        self.labels[index] = dict(label or {})

    def sources(self, name: str) -> dict[int, dict[str, Any]]:
        """All documents of an index or alias, by id; no call is written down."""
        return {number: orjson.loads(source) for index in self._behind(name) for number, source in self.documents[index].items()}

    def create(self, index: str, definition: IndexDefinition) -> None:
        def work() -> None:
            if index in self.documents or index in self.aliases:
                raise Refused(Problem("index_exists", index, "take another name"))
            if index != index.lower() or not index or index[0] in "-_+" or any(sign in index for sign in ' "*\\<|,>/?#:'):
                raise Refused(Problem("bad_index_name", index, "no engine takes this name"))
            self.documents[index] = {}
            self.labels[index] = dict(definition.label)
            self.definitions[index] = definition

        self._call("create", (index,), work)

    def exists(self, name: str) -> bool:
        return self._call("exists", (name,), lambda: name in self.documents or bool(self.aliases.get(name)))

    def behind(self, alias: str) -> tuple[str, ...]:
        return self._call("behind", (alias,), lambda: tuple(sorted(self.aliases.get(alias, ()))))

    def aliases_of(self, index: str) -> tuple[str, ...]:
        return self._call("aliases_of", (index,), lambda: self._aliases_of(index))

    def indexes(self, prefix: str) -> tuple[str, ...]:
        return self._call("indexes", (prefix,), lambda: tuple(sorted(name for name in self.documents if name.startswith(prefix))))

    def label(self, index: str) -> Mapping[str, Any]:
        return self._call("label", (index,), lambda: dict(self.labels[self._real(index)]))

    def bulk(self, index: str, documents: Sequence[tuple[int, bytes]]) -> BulkResult:
        def work() -> BulkResult:
            self._real(index)
            rejected = tuple(Rejected(number, "document_refused", "mapper_parsing") for number, _ in documents if number in self.poison)
            taken = {number: source for number, source in documents if number not in self.poison}
            self.documents[index].update(taken)
            return BulkResult(len(documents) - len(rejected), rejected)

        return self._call("bulk", (index, [number for number, _ in documents]), work)

    def delete_documents(self, index: str, ids: Sequence[int]) -> int:
        def work() -> int:
            there = self._documents(index)
            return sum(there.pop(number, None) is not None for number in set(ids))

        return self._call("delete_documents", (index, tuple(ids)), work)

    def update_documents(self, index: str, ids: Sequence[int], fields: Mapping[str, Any]) -> int:
        def work() -> int:
            there = self._documents(index)
            known = [number for number in set(ids) if number in there]
            for number in known:
                there[number] = orjson.dumps(orjson.loads(there[number]) | dict(fields))
            return len(known)

        return self._call("update_documents", (index, tuple(ids), dict(fields)), work)

    def finish(self, index: str, *, replicas: int = 1) -> None:
        self._call("finish", (index, replicas), lambda: self.finished.update({self._real(index): replicas}))

    def refresh(self, index: str) -> None:
        self._call("refresh", (index,), lambda: None)

    def wait_ready(self, index: str, seconds: float) -> bool:
        return self._call("wait_ready", (index, seconds), lambda: self.ready)

    def count(self, name: str) -> int:
        return self._call("count", (name,), lambda: len(self._found(name)))

    def get(self, index: str, ids: Sequence[int]) -> dict[int, Mapping[str, Any]]:
        def work() -> dict[int, Mapping[str, Any]]:
            there = self._documents(index)
            return {number: orjson.loads(there[number]) for number in ids if number in there}

        return self._call("get", (index, tuple(ids)), work)

    def search(self, name: str, query: Query) -> Found:
        return self._call("search", (name, query), lambda: self._search(name, query))

    def switch(self, moves: Iterable[AliasMove]) -> None:
        wanted = tuple(moves)

        def work() -> None:
            for move in wanted:
                if move.alias in self.documents:
                    raise Refused(Problem("alias_is_index", move.alias, "an index has this name"))
                if move.to is not None:
                    self._real(move.to)
            for move in wanted:
                self.aliases[move.alias] = {move.to} if move.to is not None else set()

        self._call("switch", wanted, work)

    def delete_index(self, index: str) -> bool:
        def work() -> bool:
            if self._aliases_of(index):
                raise Refused(Problem("index_has_aliases", index, "move its aliases first"))
            self.labels.pop(index, None)
            return self.documents.pop(index, None) is not None

        return self._call("delete_index", (index,), work)

    def problems(self, seconds: float = 3) -> tuple[str, ...]:
        return self._call("problems", (seconds,), lambda: self.trouble)

    def close(self) -> None:
        self.closed += 1

    def _call(self, name: str, arguments: tuple[Any, ...], work: Callable[[], Any]) -> Any:
        with self._lock:
            self.calls.append((name, arguments))
            if self.fault:
                self.fault(f"{name}.before", arguments)
            result = work()
            if self.fault:
                self.fault(f"{name}.after", arguments)
            return result

    def _aliases_of(self, index: str) -> tuple[str, ...]:
        return tuple(sorted(alias for alias, indexes in self.aliases.items() if index in indexes))

    def _real(self, index: str) -> str:
        if index not in self.documents:
            raise Refused(Problem("no_such_index", index, "there is none of this name"))
        return index

    def _behind(self, name: str) -> tuple[str, ...]:
        return (name,) if name in self.documents else tuple(sorted(self.aliases.get(name, ()))) or (self._real(name),)

    def _documents(self, name: str) -> dict[int, bytes]:
        (index,) = self._behind(name)
        return self.documents[index]

    def _found(self, name: str) -> dict[int, bytes]:
        return {number: source for index in self._behind(name) for number, source in self.documents[index].items()}

    def _search(self, name: str, query: Query) -> Found:
        hits = [Hit(number, 1.0, source) for number, source in sorted(self.sources(name).items()) if _matches(source, query)]
        if query.newest_first:
            hits.sort(key=lambda hit: str(hit.source.get("created_on", "")), reverse=True)
        return Found(len(hits), tuple(hits[: query.limit]))


def _matches(source: Mapping[str, Any], query: Query) -> bool:
    if not query.mature and source.get("mature") is True:
        return False
    for field, values in query.filters.items():
        found = source.get(field)
        if not set(found if isinstance(found, list) else [found]) & set(values):
            return False
    tags = [str(tag.get("name", "")) for tag in source.get("tags") or []]
    texts = {"title": [str(source.get("title", ""))], "description": [str(source.get("description", ""))], "tags": tags}
    texts["creator"] = [str(source.get("creator", ""))]
    wanted = (
        (query.title, ("title",)),
        (query.creator, ("creator",)),
        (query.tags, ("tags",)),
        (query.text, ("title", "description", "tags")),
    )
    return all(_has_words(words, [text for field in fields for text in texts[field]]) for words, fields in wanted if words)


def _has_words(words: str, texts: list[str]) -> bool:
    there = " ".join(texts).lower().split()
    return all(fnmatch.filter(there, word) for word in words.lower().replace('"', "").split() if not word.startswith("-"))
