"""The sandbox's events platform in a thread of the test, plain clients that ask it, and a supplier that it calls back."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlencode, urlsplit

from ingestion_dagster.sandbox.events_platform import EventsPlatform
from ingestion_dagster.sandbox.events_platform_parties import ACQUIRER, ADMINISTRATOR, PUBLISHER
from ingestion_dagster.sandbox.events_platform_schema import GRO
from ingestion_dagster.sandbox.events_platform_switches import Settings
from ingestion_dagster.sandbox.events_platform_tokens import new_key
from ingestion_dagster_tests.sandbox.asking import Answer
from ingestion_dagster_tests.sandbox.running import running

KEY = new_key()
TIME = "2031-02-04T09:30:00"
RECORD: dict[str, Any] = {
    "hash": "h1",
    "registrationId": "900000001",
    "eventTime": TIME,
    "dateOfDeath": "2031-02-01",
    "verificationLevel": "03",
    "partialMonthOfDeath": None,
    "partialYearOfDeath": None,
    "forenames": "TESTY ANNE",
    "surname": "PLACEHOLDER",
    "maidenSurname": None,
    "sex": "F",
    "dateOfBirth": "",
    "addressLine1": "FLAT 0",
    "addressLine2": "1 SYNTHETIC STREET",
    "addressLine3": "NOWHERE",
    "addressLine4": None,
    "postcode": "ZZ99 9ZZ",
    "qualifierText": "ON OR ABOUT",
}


@dataclass
class Supplier:
    """The private API that the platform calls back: what it knows, how it answers, and what it was asked."""

    known: dict[str, Any] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    """By id: the statuses of the next answers in place of the right ones."""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Operation, id, and the Authorization that came with it."""
    url: str = ""
    goes_on: threading.Event = field(default_factory=threading.Event)
    """Cleared, it does not answer."""

    def __post_init__(self) -> None:
        self.goes_on.set()

    def answer(self, operation: str, data_id: str) -> tuple[int, Any]:
        if self.statuses.get(data_id):
            return self.statuses[data_id].pop(0), None
        if data_id not in self.known:
            return 404, None
        return 200, self.known[data_id] if operation == "enrich" else {"id": self.known.pop(data_id) and data_id}

    def calls(self, operation: str) -> list[str]:
        return [data_id for each, data_id, _ in self.asked if each == operation]


@contextmanager
def supplying() -> Iterator[Supplier]:
    """A supplier, while it answers."""
    supplier = Supplier()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65536  # an answer in two writes waits for the other side's delayed acknowledgement

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            operation = self.path.removeprefix("/life-events/")
            supplier.asked.append((operation, body["id"], self.headers.get("Authorization")))
            supplier.goes_on.wait(timeout=20)
            status, value = supplier.answer(operation, body["id"])
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        block_on_close = False
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        supplier.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield supplier
        finally:
            supplier.goes_on.set()
            server.shutdown()
            thread.join(timeout=10)


@dataclass
class Client:
    """Asks the platform as one of its clients; without one, without a token."""

    url: str
    client: tuple[str, str] | None = None
    token: str | None = None

    def as_(self, client: tuple[str, str]) -> "Client":
        return Client(self.url, client)

    def ask(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
        if self.client and self.token is None:
            self.token = self.login()
        sent = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.token}"} if self.token else {}) | (headers or {})
        return self.send(method, path, raw if raw is not None else None if body is None else json.dumps(body).encode(), sent)

    def send(self, method: str, path: str, content: bytes | None, headers: dict[str, str]) -> Answer:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)
        try:
            connection.request(method, path, content, headers)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def form(self, headers: dict[str, str] | None = None, /, **form: str) -> Answer:
        """A call of the token endpoint."""
        sent = {"Content-Type": "application/x-www-form-urlencoded"} | (headers or {})
        return self.send("POST", "/oauth2/token", urlencode(form).encode(), sent)

    def login(self) -> str:
        assert self.client
        answer = self.form(grant_type="client_credentials", client_id=self.client[0], client_secret=self.client[1])
        assert answer.status == 200, answer
        return str(answer.json["access_token"])

    def get(self, path: str, **query: Any) -> Any:
        """What is answered with 200."""
        answer = self.ask("GET", path + (f"?{urlencode(query, doseq=True)}" if query else ""))
        assert answer.status == 200, answer
        return answer.json

    def publish(self, data_id: str, event_type: str = GRO, **more: Any) -> Answer:
        return self.ask("POST", "/events", {"eventType": event_type, "eventTime": TIME, "id": data_id} | more)

    def ids(self, **query: Any) -> list[str]:
        return [each["id"] for each in self.get("/events", **query)["data"]]

    def switch(self, path: str, body: Any = None, method: str = "POST") -> Any:
        """A call below /sandbox."""
        answer = self.ask(method, f"/sandbox/{path}", body)
        assert answer.status == 200, answer
        return answer.json

    def fault(self, kind: str, op: str = "any", **more: Any) -> None:
        self.switch("faults", {"kind": kind, "op": op, **more})

    def state(self) -> dict[str, Any]:
        return dict(self.switch("state", method="GET"))


@dataclass
class Everybody:
    """One client of each kind, and the server they ask."""

    platform: EventsPlatform
    publisher: Client
    acquirer: Client
    admin: Client
    nobody: Client


def platform(**more: Any) -> EventsPlatform:
    """A platform in memory whose delete job makes no turn by itself."""
    return EventsPlatform(settings=Settings(delete_seconds=0), signing_key=KEY, **more)


@contextmanager
def answering(server: EventsPlatform) -> Iterator[Everybody]:
    """Clients of it, while it runs."""
    try:
        with running(server) as url:
            nobody = Client(url)
            yield Everybody(server, nobody.as_(PUBLISHER), nobody.as_(ACQUIRER), nobody.as_(ADMINISTRATOR), nobody)
    finally:
        server.close()
