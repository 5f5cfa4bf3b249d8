"""A platform of a few lines, which remembers every request and goes wrong as it is told."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import orjson
from aiohttp import web

CLIENT_ID, CLIENT_SECRET = "publisher", "a secret & more"  # pragma: allowlist secret


@dataclass
class StandIn:
    """What was asked, and what is to go wrong."""

    url: str = ""
    events: Counter[str] = field(default_factory=Counter)
    """How often it has taken an event of an id."""
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    token_forms: list[dict[str, str]] = field(default_factory=list)
    token_headers: list[dict[str, str]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0

    latency: float = 0.0
    expires_in: Any = 3600
    tokens: set[str] = field(default_factory=set)
    """Those that it still takes."""
    token_answers: list[tuple[int, Any]] = field(default_factory=list)
    """Statuses and bodies of the next answers to requests for a token; afterwards all is well."""
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Statuses and headers of the next answers to events; afterwards all is well."""
    refused: dict[str, int] = field(default_factory=dict)
    """Statuses for events of these ids, as long as they stand here."""
    always: int | None = None
    until: float = float("inf")
    """Until when it answers `always` (monotonic)."""
    token_always: int | None = None
    lost: int = 0
    """So many replies are lost after the event was taken."""
    says: str = "PLACEHOLDER of SYNTHETIC"
    """What is in the body of every answer that is none of the above."""

    def forget(self) -> None:
        """As if it had just been started."""
        self.__dict__.update(StandIn(self.url).__dict__)

    async def token(self, request: web.Request) -> web.Response:
        self.token_forms.append({name: str(value) for name, value in (await request.post()).items()})
        self.token_headers.append(dict(request.headers))
        if self.token_always:
            return web.Response(status=self.token_always, text=self.says)
        if self.token_answers:
            status, content = self.token_answers.pop(0)
            return web.json_response(content, status=status)
        if (self.token_forms[-1].get("client_id"), self.token_forms[-1].get("client_secret")) != (CLIENT_ID, CLIENT_SECRET):
            return web.json_response({"error": "invalid_client", "error_description": self.says}, status=400)
        token = f"token-{len(self.token_forms)}"
        self.tokens.add(token)
        return web.json_response({"access_token": token, "expires_in": self.expires_in, "token_type": "Bearer"})

    async def post(self, request: web.Request) -> web.Response:
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        try:
            return await self._post(request)
        finally:
            self.in_flight -= 1

    async def _post(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if self.latency:
            await asyncio.sleep(self.latency)
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.tokens:
            return web.Response(status=401, text=self.says)
        if self.always and time.monotonic() < self.until:
            return web.Response(status=self.always, text=self.says)
        if self.answers:
            status, headers = self.answers.pop(0)
            return web.Response(status=status, headers={"Content-Type": "text/plain"} | headers, body=self.says.encode())
        event_id = orjson.loads(body)["id"]
        if event_id in self.refused:
            return web.Response(status=self.refused[event_id], text=self.says)
        self.events[event_id] += 1
        if self.lost:
            self.lost -= 1
            assert request.transport is not None
            request.transport.close()
        return web.Response(status=201)


@contextmanager
def standing_in() -> Iterator[StandIn]:
    """A stand-in in a thread of its own, from a start to its end."""
    stand_in = StandIn()
    started: SimpleQueue[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = SimpleQueue()

    async def serve() -> None:
        app = web.Application()
        app.router.add_post("/oauth2/token", stand_in.token)
        app.router.add_post("/events", stand_in.post)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        until = asyncio.Event()
        started.put((f"http://127.0.0.1:{runner.addresses[0][1]}", asyncio.get_running_loop(), until))
        await until.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    stand_in.url, loop, until = started.get(timeout=10)
    try:
        yield stand_in
    finally:
        loop.call_soon_threadsafe(until.set)
        thread.join(10)
