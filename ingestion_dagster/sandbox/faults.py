"""What is to go wrong on a server of the sandbox, as often as it is told to.

Every server has its own kinds of faults by operation, and its own words for a status; all else is the same everywhere: a fault is for one
operation or any, so many times or until it is cleared, and some calls go well first.

`hang` never answers, `reset` ends the connection before anything is done, `html` answers with a page, and a status is answered in place
of acting. `slow_then_ok` acts late, `lost` acts and does not tell, `bad_json` acts and garbles the answer. Whatever else a server has is
explained where its kinds stand.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from aiohttp import web

from ingestion_dagster.sandbox.serving import Handler

ANY = "any"
UNTOLD = frozenset({"hang", "reset", "html"})
"""Kinds of which nothing is done and nothing told; every server has them."""

_HTML = "<!DOCTYPE html><html><body><h1>Scheduled maintenance</h1></body></html>"
_FOR_EVER = 3600.0

Words = Callable[[str, str], web.Response | None]
"""What a server answers to an operation for a kind of its own, a status above all; None if it acts all the same."""


@dataclass
class Fault:
    """What is to go wrong: with an operation or any, so many `times` or until it is cleared; `skip` calls go well first."""

    kind: str
    op: str = ANY
    times: int = 1
    skip: int = 0
    until: bool = False
    of: str | None = None
    """Only with calls that are about this."""
    retry_after: str | None = None
    seconds: float = 2.0
    """How slow `slow_then_ok` is."""


@dataclass
class Faults:
    """The faults that wait for their calls; `kinds` says which there are, by operation."""

    kinds: Mapping[str, frozenset[str]]
    words: Words
    waiting: list[Fault] = field(default_factory=list)

    def add(self, kind: str, op: str = ANY, **how: Any) -> None:
        """Have something go wrong; `how` as in `Fault`. Raises `ValueError` or `TypeError` for what cannot."""
        kinds = frozenset[str]().union(*self.kinds.values()) if op == ANY else self.kinds.get(op, frozenset())
        if str(kind) not in kinds:
            raise ValueError(f"no fault of this kind: {op} {kind}; there are {', '.join(sorted(kinds)) or f'no calls of {op}'}")
        self.waiting.append(Fault(str(kind), op, **how))

    def clear(self) -> None:
        """All goes well from now on."""
        self.waiting.clear()

    def take(self, operation: str, *about: str) -> Fault | None:
        """The fault of this call, which is then used up; None if all is well with it."""
        for fault in self._fitting(operation, about):
            if fault.skip > 0:
                fault.skip -= 1
                continue
            fault.times -= 1
            return fault
        return None

    def _fitting(self, operation: str, about: tuple[str, ...]) -> Iterator[Fault]:
        for fault in self.waiting:
            is_left = fault.until or fault.times > 0
            if is_left and fault.op in (operation, ANY) and fault.kind in self.kinds[operation] and fault.of in (None, *about):
                yield fault

    async def answer(self, request: web.Request, operation: str, fault: Fault) -> web.Response | None:
        """The answer in place of the right one; None if the call goes on."""
        match fault.kind:
            case "hang":
                await asyncio.sleep(_FOR_EVER)
            case "slow_then_ok":
                await asyncio.sleep(fault.seconds)
                return None
            case "reset":
                return aborted(request)
            case "html":
                return web.Response(text=_HTML, content_type="text/html")
        answer = self.words(operation, fault.kind)
        if answer is not None and fault.retry_after is not None:
            answer.headers["Retry-After"] = str(fault.retry_after)
        return answer

    def routes(self) -> list[tuple[str, str, Handler]]:
        """The calls that show, add and clear faults: method, path and what answers."""
        return [("GET", "faults", self._show), ("POST", "faults", self._add), ("DELETE", "faults", self._clear)]

    async def _show(self, _request: web.Request) -> web.Response:
        return web.json_response([asdict(fault) for fault in self.waiting])

    async def _add(self, request: web.Request) -> web.Response:
        try:
            self.add(**await request.json())
        except (TypeError, ValueError) as error:
            return not_so(error)
        return web.json_response({})

    async def _clear(self, _request: web.Request) -> web.Response:
        self.clear()
        return web.json_response({})


def not_so(error: Exception) -> web.Response:
    """The answer to a switch that there is not."""
    return web.json_response({"message": str(error)}, status=400)


def garble(answer: web.StreamResponse) -> None:
    """Leave half of an answer, so that it is none."""
    if isinstance(answer, web.Response) and isinstance(answer.body, bytes):
        answer.body = answer.body[: len(answer.body) // 2] + b"{"


def aborted(request: web.Request) -> web.Response:
    """No answer: the connection ends without a word."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
