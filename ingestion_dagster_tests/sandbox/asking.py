"""The sandbox's Here to Help API in a thread of the test, and a plain client that asks it."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from ingestion_dagster.sandbox.here_to_help import BASE, KEY, HereToHelp
from ingestion_dagster_tests.sandbox.running import running


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Client:
    """Asks below the base URL, or, for a path that begins with a slash, below the server's root."""

    url: str

    def ask(self, method: str, path: str, body: Any = None, *, key: str | None = KEY, raw: bytes | None = None, **headers: str) -> Answer:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
        sent = {"Content-Type": "application/json"} | ({"x-api-key": key} if key is not None else {})
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = raw if raw is not None else None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, path if path.startswith("/") else parts.path + path, content, sent)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def get(self, path: str, **query: str) -> Any:
        """What is answered with 200."""
        answer = self.ask("GET", path + (f"?{urlencode(query)}" if query else ""))
        assert answer.status == 200, answer
        return answer.json

    def create(self, **body: Any) -> int:
        """A create call; the id of the request."""
        answer = self.ask("POST", "v3/help-requests", body)
        assert answer.status == 201, answer
        return int(answer.json["Id"])

    def resident_of(self, **body: Any) -> int:
        """A create call; the id of the person it was found to be of."""
        return int(self.get(f"v3/help-requests/{self.create(**body)}")["ResidentId"])

    def note(self, resident: int, request: int, text: str) -> Answer:
        return self.ask("POST", f"v4/residents/{resident}/help-requests/{request}/case-notes", {"CaseNote": text})

    def counts(self) -> tuple[int, int, int]:
        counts = self.get("/admin/counts")
        return counts["residents"], counts["help_requests"], counts["case_notes"]

    def fault(self, kind: str, op: str = "any", **more: Any) -> None:
        answer = self.ask("POST", "/admin/faults", {"kind": kind, "op": op, **more}, key=None)
        assert answer.status == 200, answer

    def set(self, **settings: float) -> None:
        answer = self.ask("POST", "/admin/settings", settings, key=None)
        assert answer.status == 200, answer


@contextmanager
def answering(api: HereToHelp) -> Iterator[Client]:
    """A client of it, while it runs."""
    try:
        with running(api) as url:
            yield Client(f"{url}{BASE}")
    finally:
        api.store.close()
