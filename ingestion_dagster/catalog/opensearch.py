"""The search cluster: OpenSearch, or Elasticsearch as far as these calls go, over HTTP."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from ingestion_dagster.catalog import bulk as bulks
from ingestion_dagster.catalog.bulk import Bulk, Item, Outcome
from ingestion_dagster.catalog.mapping import BOOST, POPULARITY
from ingestion_dagster.catalog.opensearch_calls import UNAVAILABLE, Answered, Calls, Failed, Waiting, path
from ingestion_dagster.catalog.search import (
    SOURCE_FIELDS,
    AliasMove,
    BulkResult,
    Found,
    Hit,
    IndexDefinition,
    Query,
    Rejected,
    SearchEngine,
)
from ingestion_dagster.catalog.search_refusals import (
    DOCUMENT_REFUSED,
    alias_is_index,
    check_limit,
    check_name,
    index_exists,
    index_has_aliases,
    is_name,
    mapping_refused,
    no_such_index,
)
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused, Transient
from ingestion_dagster.engine.faults import fault_point

_AT_ONCE = 1000
_LONGEST_WAIT = 30.0
_ATTEMPTS = 3
_WRITE_BLOCK = "index.blocks.read_only_allow_delete"


class OpenSearch(SearchEngine):
    """A search cluster. Safe to share between threads; a request is made again while that may help, `patience_seconds` at most."""

    def __init__(self, calls: Calls, bulk_documents: int, bulk_bytes: int) -> None:
        self._calls = calls
        self._bulk_documents = bulk_documents
        self._bulk_bytes = bulk_bytes

    @classmethod
    def at(
        cls,
        url: str,
        *,
        bulk_documents: int = 2000,
        bulk_bytes: int = 8 * 1024 * 1024,
        patience_seconds: float = 120,
        waiting: Waiting | None = None,
    ) -> "OpenSearch":
        """The cluster at a URL, which may hold user and password. Nothing is asked yet. Raises `ConfigurationError`.

        A bulk request has at most so many documents and bytes (one document always fits).
        """
        return cls(Calls.at(url, waiting or Waiting(patience_seconds)), bulk_documents, bulk_bytes)

    def create(self, index: str, definition: IndexDefinition) -> None:
        """See `SearchEngine`. An index that an attempt has made whose answer was lost is known by its label."""
        check_name(index)
        label = orjson.loads(orjson.dumps(definition.label))
        body = {"settings": definition.settings, "mappings": {**definition.mappings, "_meta": label}}
        patience = self._calls.patience()
        fault_point("catalog.index_create.before")
        while True:
            try:
                self._calls.once("PUT", path(index), body, patience.left)
                break
            except Failed as failed:
                patience.wait(failed)
            except Answered as answer:
                if patience.retries and answer.kind == "resource_already_exists_exception" and self.label(index) == label:
                    break
                raise _not_made(index, answer) from None
        fault_point("catalog.index_create.after")

    def exists(self, name: str) -> bool:
        """See `SearchEngine`."""
        return is_name(name) and bool(self._calls.ask("HEAD", path(name)))

    def behind(self, alias: str) -> tuple[str, ...]:
        """See `SearchEngine`."""
        if not is_name(alias):
            return ()
        return tuple(sorted(self._found("GET", path("_alias", alias)) or ()))

    def aliases_of(self, index: str) -> tuple[str, ...]:
        """See `SearchEngine`."""
        if not is_name(index):
            return ()
        found = (self._found("GET", path(index, "_alias")) or {}).get(index, {})
        return tuple(sorted(found.get("aliases", ())))

    def indexes(self, prefix: str) -> tuple[str, ...]:
        """See `SearchEngine`. Those of the cluster's own, whose names begin with a dot, are none."""
        if prefix and not is_name(prefix):
            return ()
        found = self._found("GET", path("_cat", "indices") + f"/{prefix}*", format="json", h="index", expand_wildcards="all") or []
        return tuple(sorted(row["index"] for row in found if row["index"].startswith(prefix) and not row["index"].startswith(".")))

    def label(self, index: str) -> Mapping[str, Any]:
        """See `SearchEngine`."""
        found = self._asked(index, "GET", path(index, "_mapping"))
        if index not in found:
            raise no_such_index(index)
        label: Mapping[str, Any] = found[index]["mappings"].get("_meta", {})
        return label

    def bulk(self, index: str, documents: Sequence[tuple[int, bytes]]) -> BulkResult:
        """See `SearchEngine`. Whether the index is there is asked first: many clusters make one that they are sent documents for."""
        empty = [Rejected(id_, DOCUMENT_REFUSED, "mapper_parsing_exception: no JSON") for id_, source in documents if not source.strip()]
        outcome = self._sent(index, (bulks.indexed(id_, source) for id_, source in documents if source.strip()))
        return BulkResult(outcome.done, (*empty, *outcome.rejected), outcome.retries)

    def delete_documents(self, index: str, ids: Sequence[int]) -> int:
        """See `SearchEngine`. One whose deletion was answered, and the answer lost, is not counted."""
        return self._sent(index, map(bulks.deleted, dict.fromkeys(ids))).done

    def update_documents(self, index: str, ids: Sequence[int], fields: Mapping[str, Any]) -> int:
        """See `SearchEngine`. Raises `Refused` (`document_refused`) for a value that the mapping does not take."""
        changes = orjson.dumps(fields)
        outcome = self._sent(index, (bulks.updated(id_, changes) for id_ in dict.fromkeys(ids)))
        if outcome.rejected:
            refused = outcome.rejected[0]
            raise Refused(Problem(refused.code, f"document {refused.id}", refused.reason))
        return outcome.done

    def finish(self, index: str, *, replicas: int = 1) -> None:
        """See `SearchEngine`."""
        fault_point("catalog.index_finish.before")
        self._asked(index, "PUT", path(index, "_settings"), {"index": {"number_of_replicas": replicas}})
        self.refresh(index)
        settings = self._settings(index)
        if int(settings["number_of_replicas"]) != replicas and "auto_expand_replicas" not in settings:
            raise Transient(UNAVAILABLE, f"the number of replicas of {index} is not what it was set to")
        fault_point("catalog.index_finish.after")

    def refresh(self, index: str) -> None:
        """See `SearchEngine`."""
        shards = self._asked(index, "POST", path(index, "_refresh"))["_shards"]
        if shards["failed"]:
            raise Transient(UNAVAILABLE, f"{shards['failed']} shards of {index} could not be refreshed")

    def wait_ready(self, index: str, seconds: float) -> bool:
        """See `SearchEngine`. A cluster holds at most one copy of a shard on each data node."""
        deadline = self._calls.waiting.clock() + seconds
        if not self.exists(index):
            return False
        while True:
            left = max(0.0, deadline - self._calls.waiting.clock())
            settings = self._settings(index)
            nodes = int(self._calls.ask("GET", "/_cluster/health", filter_path="number_of_data_nodes")["number_of_data_nodes"])
            copies = int(settings["number_of_shards"]) * min(1 + int(settings["number_of_replicas"]), max(1, nodes))
            if self._has_copies(index, copies, min(left, _LONGEST_WAIT)):
                return True
            if left <= _LONGEST_WAIT:
                return False

    def count(self, name: str) -> int:
        """See `SearchEngine`."""
        found = self._whole(name, self._asked(name, "GET", path(name, "_count")))
        return int(found["count"])

    def get(self, index: str, ids: Sequence[int]) -> dict[int, Mapping[str, Any]]:
        """See `SearchEngine`."""
        sources: dict[int, Mapping[str, Any]] = {}
        distinct = list(dict.fromkeys(ids))
        if not distinct:
            self._must_exist(index)
        for start in range(0, len(distinct), _AT_ONCE):
            body = {"ids": [str(id_) for id_ in distinct[start : start + _AT_ONCE]]}
            for found in self._asked(index, "POST", path(index, "_mget"), body)["docs"]:
                if "error" in found:
                    raise _not_read(index, found["error"])
                if found.get("found"):
                    sources[int(found["_id"])] = found["_source"]
        return sources

    def search(self, name: str, query: Query) -> Found:
        """See `SearchEngine`."""
        check_limit(query)
        body = search_body(query)
        found = self._whole(name, self._asked(name, "POST", path(name, "_search"), body, allow_partial_search_results="false"))
        hits = found["hits"]
        return Found(
            int(hits["total"]["value"]),
            tuple(Hit(int(hit["_id"]), float(hit["_score"] or 0.0), hit["_source"]) for hit in hits["hits"]),
        )

    def switch(self, moves: Iterable[AliasMove]) -> None:
        """See `SearchEngine`. Verified: raises `Transient` if others move the same aliases at the same time."""
        moves = tuple(moves)
        for move in moves:
            self._check_move(move)
        for _ in range(_ATTEMPTS):
            actions = [action for move in moves for action in self._actions(move)]
            if actions:
                fault_point("catalog.alias_switch.before")
                self._moved(moves, actions)
                fault_point("catalog.alias_switch.after")
            if all(self.behind(move.alias) == (() if move.to is None else (move.to,)) for move in moves):
                return
        raise Transient(UNAVAILABLE, "the aliases are not what they were set to: somebody else moves them")

    def delete_index(self, index: str) -> bool:
        """See `SearchEngine`.

        No alias can come in between: while the aliases are looked at, the index has a block under which none can be added. If this process
        is killed then, the block stays until the cluster's disk monitor takes it away, or the index is deleted.
        """
        if not is_name(index) or index not in (self._found("GET", path(index, "_alias")) or ()):
            return False
        if aliases := self.aliases_of(index):
            raise index_has_aliases(index, aliases)
        try:
            self._calls.ask("PUT", path(index, "_settings"), {_WRITE_BLOCK: True})
            if aliases := self.aliases_of(index):
                self._calls.ask("PUT", path(index, "_settings"), {_WRITE_BLOCK: None})
                raise index_has_aliases(index, aliases)
            fault_point("catalog.index_delete.before")
            self._calls.ask("DELETE", path(index))
            fault_point("catalog.index_delete.after")
        except Answered as answer:
            if answer.status != 404:
                raise answer.refused() from None
        return True

    def problems(self, seconds: float = 3) -> tuple[str, ...]:
        """See `SearchEngine`. A cluster that lacks a replica (yellow) is not well."""
        try:
            health = self._calls.once("GET", "/_cluster/health", None, seconds, timeout=f"{max(1, int(seconds))}s")
        except Failed as failed:
            return (failed.message,)
        except (Transient, ConfigurationError) as error:
            return (str(error),)
        except Answered as answer:
            return (f"the search cluster answered {answer}",)
        status = health.get("status") if isinstance(health, Mapping) else None
        return () if status == "green" else (f"the search cluster is {status}",)

    def close(self) -> None:
        """See `SearchEngine`."""
        self._calls.close()

    def _asked(self, name: str, method: str, where: str, body: Any = None, **params: Any) -> Any:
        """The answer about an index or alias. Raises `Refused` (`no_such_index`)."""
        check_name(name)
        try:
            return self._calls.ask(method, where, body, **params)
        except Answered as answer:
            raise (no_such_index(name) if answer.status == 404 else answer.refused()) from None

    def _found(self, method: str, where: str, **params: Any) -> Any:
        """The answer; None if there is no such thing."""
        try:
            return self._calls.ask(method, where, **params)
        except Answered as answer:
            if answer.status == 404:
                return None
            raise answer.refused() from None

    def _must_exist(self, name: str) -> None:
        check_name(name)
        if not self.exists(name):
            raise no_such_index(name)

    def _sent(self, index: str, items: Iterable[Item]) -> Outcome:
        self._must_exist(index)
        return Bulk(self._calls, index, self._bulk_documents, self._bulk_bytes).send(items)

    def _settings(self, index: str) -> Mapping[str, Any]:
        found = self._asked(index, "GET", path(index, "_settings"))
        settings: Mapping[str, Any] = next(iter(found.values()))["settings"]["index"]
        return settings

    def _has_copies(self, index: str, copies: int, seconds: float) -> bool:
        params = {"wait_for_active_shards": str(copies), "wait_for_no_initializing_shards": "true", "timeout": f"{int(seconds * 1000)}ms"}
        patience = self._calls.patience()
        while True:
            try:
                health = self._calls.once("GET", path("_cluster", "health", index), None, seconds + _LONGEST_WAIT, ignore=(408,), **params)
                return not health["timed_out"] and int(health["active_shards"]) >= copies
            except Failed as failed:
                patience.wait(failed)
            except Answered as answer:
                raise answer.refused() from None

    def _whole(self, name: str, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """An answer that all shards have given."""
        if found.get("timed_out") or found["_shards"]["failed"]:
            raise Transient(UNAVAILABLE, f"not all shards of {name} have answered")
        return found

    def _check_move(self, move: AliasMove) -> None:
        check_name(move.alias)
        if self.exists(move.alias) and not self.behind(move.alias):
            raise alias_is_index(move.alias)
        if move.to is not None and move.to not in (self._asked(move.to, "GET", path(move.to, "_alias"))):
            raise no_such_index(move.to)

    def _actions(self, move: AliasMove) -> list[dict[str, Any]]:
        before = self.behind(move.alias)
        actions: list[dict[str, Any]] = [
            {"remove": {"index": index, "alias": move.alias, "must_exist": False}} for index in before if index != move.to
        ]
        if move.to is not None and move.to not in before:
            actions.append({"add": {"index": move.to, "alias": move.alias}})
        return actions

    def _moved(self, moves: Sequence[AliasMove], actions: Sequence[Mapping[str, Any]]) -> None:
        try:
            self._calls.ask("POST", "/_aliases", {"actions": actions})
        except Answered as answer:
            if answer.kind == "invalid_alias_name_exception":
                raise alias_is_index(", ".join(move.alias for move in moves)) from None
            # An index of before may have been deleted meanwhile; what must be there is looked at once more.
            if answer.status != 404:
                raise answer.refused() from None
            for move in moves:
                self._check_move(move)


def search_body(query: Query) -> dict[str, Any]:
    """A reader's query in the search API's words."""
    must: list[dict[str, Any]] = [
        {"simple_query_string": {"query": text, "fields": list(fields), "default_operator": "and", "flags": "NOT|PHRASE|PREFIX|WHITESPACE"}}
        for text, fields in (
            (query.text, SOURCE_FIELDS),
            (query.title, ("title",)),
            (query.creator, ("creator",)),
            (query.tags, ("tags.name",)),
        )
        if text is not None and text.strip()
    ]
    asked: dict[str, Any] = {
        "must": must or [{"constant_score": {"filter": {"match_all": {}}, "boost": 0.0}}],
        "filter": [{"terms": {name: list(values)}} for name, values in query.filters.items()],
    }
    if not query.mature:
        asked["must_not"] = [{"term": {"mature": True}}]
    body: dict[str, Any] = {"size": query.limit, "track_total_hits": True, "query": {"bool": asked}}
    if query.newest_first:
        body["sort"] = [{"created_on": {"order": "desc", "unmapped_type": "date"}}, {"id": {"order": "desc", "unmapped_type": "long"}}]
        return body
    asked["should"] = [{"rank_feature": {"field": POPULARITY, "boost": BOOST}}]
    if query.text is not None and query.text.strip():
        title = {"query": query.text, "fields": ["title"], "boost": BOOST, "flags": "PHRASE|PREFIX|WHITESPACE"}
        asked["should"].append({"simple_query_string": title})
    return body


def _not_made(index: str, answer: Answered) -> Exception:
    if answer.kind == "resource_already_exists_exception" or "already exists as alias" in answer.reason:
        return index_exists(index)
    if answer.kind == "invalid_index_name_exception":
        return Refused(Problem("bad_index_name", "index", "the search cluster does not take this name"))
    if answer.kind == "validation_exception":
        return ConfigurationError("the search cluster takes no more shards: delete indexes, or raise cluster.max_shards_per_node")
    return mapping_refused(index, answer.kind)


def _not_read(index: str, error: Mapping[str, Any]) -> Exception:
    if error.get("type") == "index_not_found_exception":
        return no_such_index(index)
    return Transient(UNAVAILABLE, f"a document of {index} could not be read ({error.get('type')})")
