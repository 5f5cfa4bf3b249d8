"""Many documents in one request: bodies bounded by number and bytes, and what became of each item."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ingestion_dagster.catalog.opensearch_calls import UNAVAILABLE, Answered, Calls, Failed, path, reported
from ingestion_dagster.catalog.search import Rejected
from ingestion_dagster.catalog.search_refusals import DOCUMENT_REFUSED, DOCUMENT_TOO_LARGE, no_such_index
from ingestion_dagster.engine.faults import fault_point

_FIELD = re.compile(
    r"failed to parse field \[([\w.\-]{1,100})\]"
    r"|object mapping for \[([\w.\-]{1,100})\]"
    r'|Document contains at least one immense term in field="([\w.\-]{1,100})"'
)


@dataclass(frozen=True, slots=True)
class Item:
    """One document's part of a body: action and, if there is one, source; a line each."""

    id: int
    lines: bytes = field(repr=False)


@dataclass(slots=True)
class Outcome:
    """What became of many items: the documents that were there for a deletion or an update, or are now; those refused for good."""

    done: int = 0
    missing: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    retries: int = 0


def indexed(id_: int, source: bytes) -> Item:
    """A document to put. A line break of JSON stands between values only; as a body's line it must not be there."""
    return Item(id_, b'{"index":{"_id":"%d"}}\n%b\n' % (id_, source.replace(b"\n", b" ")))


def updated(id_: int, changes: bytes) -> Item:
    """A document some of whose fields are to be set, to `changes` (JSON)."""
    return Item(id_, b'{"update":{"_id":"%d","retry_on_conflict":5}}\n{"doc":%b}\n' % (id_, changes))


def deleted(id_: int) -> Item:
    """A document to delete."""
    return Item(id_, b'{"delete":{"_id":"%d"}}\n' % id_)


def bodies(items: Iterable[Item], most: int, most_bytes: int) -> Iterator[list[Item]]:
    """Items in order, in parts of at most so many and so many bytes; one always fits."""
    part: list[Item] = []
    size = 0
    for item in items:
        if part and (len(part) >= most or size + len(item.lines) > most_bytes):
            yield part
            part, size = [], 0
        part.append(item)
        size += len(item.lines)
    if part:
        yield part


@dataclass(frozen=True, slots=True)
class Bulk:
    """Requests of many items to one index."""

    calls: Calls
    index: str
    most: int
    most_bytes: int

    def send(self, items: Iterable[Item]) -> Outcome:
        """Have all items done or refused for good. Raises `Transient`, and `Refused` (`no_such_index`)."""
        outcome = Outcome()
        for part in bodies(items, self.most, self.most_bytes):
            self._send(part, outcome)
        return outcome

    def _send(self, items: list[Item], outcome: Outcome) -> None:
        patience = self.calls.patience()
        waiting = [items]
        while waiting:
            sent = waiting.pop()
            try:
                fault_point("catalog.bulk.before")
                answers = self._answers(sent, patience.left)
                fault_point("catalog.bulk.after")
                again = _settled(self.index, sent, answers, outcome)
            except Failed as failed:
                waiting.append(sent)
                patience.wait(failed)
                outcome.retries += 1
                continue
            except Answered as answer:
                waiting += _without_too_large(self.index, sent, answer, outcome)
                continue
            if len(again.items) < len(sent):
                patience.progressed()
            if again.items:
                waiting.append(again.items)
                patience.wait(again.failed)
                outcome.retries += 1

    def _answers(self, items: Sequence[Item], seconds: float) -> list[Any]:
        body = b"".join(item.lines for item in items)
        wanted = "items.*._id,items.*.status,items.*.result,items.*.error.type,items.*.error.reason"
        answer = self.calls.once("POST", path(self.index, "_bulk"), body, seconds, filter_path=wanted)
        answers = answer.get("items") if isinstance(answer, Mapping) else None
        if not isinstance(answers, list) or [_id(part) for part in answers] != [str(item.id) for item in items]:
            raise Failed(UNAVAILABLE, "the search cluster's answer does not have what was sent")
        return [next(iter(part.values())) for part in answers]


@dataclass(slots=True)
class _Again:
    items: list[Item] = field(default_factory=list)
    failed: Failed = field(default_factory=lambda: Failed(UNAVAILABLE, ""))


def _settled(index: str, items: Sequence[Item], answers: Sequence[Mapping[str, Any]], outcome: Outcome) -> _Again:
    """Count what was done and refused; what is to be sent again."""
    again = _Again()
    blocked: Exception | None = None
    for item, answer in zip(items, answers, strict=True):
        status = int(answer.get("status", 0))
        if 200 <= status < 300:
            outcome.done += 1
            continue
        error = reported(status, answer.get("error"))
        if isinstance(error, Failed) or status == 409:
            again.items.append(item)
            again.failed = (
                error if isinstance(error, Failed) else Failed(UNAVAILABLE, "others change the same documents at the same time (409)")
            )
        elif not isinstance(error, Answered):
            blocked = error
        elif error.kind == "index_not_found_exception":
            raise no_such_index(index)
        elif status == 404:
            outcome.missing += 1
        else:
            outcome.rejected.append(Rejected(item.id, DOCUMENT_REFUSED, _reason(error)))
    if blocked is not None:
        raise blocked
    return again


def _without_too_large(index: str, items: list[Item], answer: Answered, outcome: Outcome) -> list[list[Item]]:
    """What to send instead of a body that the cluster does not take: its halves, or nothing of a single document too large."""
    if answer.kind == "index_not_found_exception":
        raise no_such_index(index)
    if answer.status != 413:
        raise answer.refused()
    if len(items) == 1:
        outcome.rejected.append(
            Rejected(items[0].id, DOCUMENT_TOO_LARGE, f"{len(items[0].lines)} bytes are more than the search cluster takes")
        )
        return []
    half = len(items) // 2
    return [items[half:], items[:half]]


def _id(part: Any) -> str | None:
    answer = next(iter(part.values()), None) if isinstance(part, dict) else None
    return str(answer.get("_id")) if isinstance(answer, dict) else None


def _reason(error: Answered) -> str:
    """Type and field of an error; its own reason quotes the document."""
    found = _FIELD.match(error.reason)
    return f"{error.kind} at field {next(filter(None, found.groups()))}" if found else error.kind
