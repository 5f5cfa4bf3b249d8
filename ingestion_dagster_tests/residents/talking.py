"""The sandbox's Here to Help API and a client of it, in the event loop of one test."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from aiohttp import web

from ingestion_dagster.engine.http import Http
from ingestion_dagster.residents.api_client import HereToHelp
from ingestion_dagster.residents.model import Note, Person, Prepared
from ingestion_dagster.sandbox.here_to_help import KEY
from ingestion_dagster.sandbox.here_to_help import HereToHelp as Sandbox

T = TypeVar("T")

NOW = datetime(2026, 11, 20, 8, 54, 45, tzinfo=UTC)
HASTY = Http(connections=32, first_pause=0.02, longest_pause=0.1, silence_timeout=0.3, request_timeout=2.0)

AUTHOR = "Data Ingestion: Self Isolation"
REQUEST = {
    "FirstName": "Testy",
    "LastName": "McFictional",
    "DobDay": "22",
    "DobMonth": "2",
    "DobYear": "1963",
    "NhsNumber": "9990000115",
    "NhsCtasId": "e95hx001",
    "HelpNeeded": "Welfare Call",
    "CallbackRequired": True,
}
PREPARED = Prepared(
    REQUEST,
    Person("Testy", "McFictional", "9990000115", "1963-02-22"),
    "e95hx001",
    (Note(AUTHOR, "Day 4 Outcome: well"), Note(AUTHOR, 'Comments: says "call\nlater" \\ at 5')),
    Note(AUTHOR, "--- self-reported ---"),
)
"""A row of the longest way: notes, and a request for shielding beside its own."""


def prepared(*, notes: tuple[Note, ...] = (), shielding_note: Note | None = None, without: tuple[str, ...] = (), **fields: Any) -> Prepared:
    """Such a row with other fields, and no more than what is said."""
    request = {name: value for name, value in {**REQUEST, **fields}.items() if name not in without}
    text = {name: str(request.get(name, "")) for name in ("FirstName", "LastName", "NhsNumber")}
    person = Person(text["FirstName"], text["LastName"], text["NhsNumber"])
    return Prepared(request, person, str(request.get("NhsCtasId", "")), notes, shielding_note)


@dataclass
class Talk:
    """A server whose state can be reached into, and a client that knows its key."""

    sandbox: Sandbox
    api: HereToHelp
    url: str

    def go_wrong(self, operation: str, kind: str, **how: Any) -> None:
        """Make the server misbehave."""
        self.sandbox.faults.add(kind, operation, **how)

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many residents, requests and notes there are."""
        counts = self.sandbox.store.counts()
        return counts["residents"], counts["help_requests"], counts["case_notes"]

    def asked(self, operation: str) -> int:
        """How many calls of an operation came."""
        return sum(count for (each, _), count in self.sandbox.calls.ended.items() if each == operation)


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    """The address of a server of one's own, with a slash behind it."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def talking(http: Http = HASTY, **settings: float) -> AsyncIterator[Talk]:
    """Both, for as long as the block lasts; the server lets everything through unless told otherwise."""
    sandbox = Sandbox()
    sandbox.settings.change(**{"rate": 0, **settings})
    sandbox.switchboard.bucket.fill()
    async with serving(sandbox.app()) as url, http.open() as client:
        yield Talk(sandbox, HereToHelp(client, f"{url}api", KEY), f"{url}api/")
    sandbox.store.close()


def talk(what: Callable[[Talk], Awaitable[T]], http: Http = HASTY, **settings: float) -> T:
    """What comes of a conversation."""

    async def run() -> T:
        async with talking(http, **settings) as both:
            return await what(both)

    return asyncio.run(run())


def hasty(**options: Any) -> Http:
    """A client that does not wait for long."""
    return replace(HASTY, **options)
