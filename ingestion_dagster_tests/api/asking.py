"""The private API in a thread of the test, and a plain client that asks it."""

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

from ingestion_dagster.api.server import Server, bound


@dataclass(frozen=True)
class Answer:
    """What came back; names of headers are in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def __str__(self) -> str:
        return f"{self.headers} {self.body.decode('utf-8', 'replace')}"


@dataclass(frozen=True)
class Client:
    """Asks a server on loopback."""

    port: int
    token: str | None = None

    def ask(self, method: str, path: str, body: Any = None, *, raw: Any = None, **headers: str) -> Answer:
        """One request on a connection of its own; a body is JSON unless it is `raw`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = raw if raw is not None else None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, content, sent)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def enrich(self, event_id: Any, **headers: str) -> Answer:
        """Ask for an event."""
        return self.ask("POST", "/life-events/enrich", {"id": event_id}, **headers)

    def delete(self, event_id: Any, **headers: str) -> Answer:
        """Ask for an event's deletion."""
        return self.ask("POST", "/life-events/delete", {"id": event_id}, **headers)


@contextmanager
def answering(app: FastAPI, token: str | None = None) -> Iterator[Client]:
    """The API until the block ends, on a free port."""
    ready = threading.Event()
    with bound("127.0.0.1", 0) as listening:
        server = Server(app, ready.set)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            assert ready.wait(30), "the API does not start"
            yield Client(listening.getsockname()[1], token)
        finally:
            server.end()
            thread.join(30)
