"""A proxy before a search cluster that does to requests what a bad day does."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import orjson


@dataclass
class Exchange:
    """A request, and the ways to answer it."""

    handler: BaseHTTPRequestHandler
    upstream: str
    method: str
    path: str
    body: bytes

    @property
    def ids(self) -> list[int]:
        """The ids of a bulk body's items."""
        return [int(next(iter(orjson.loads(line).values()))["_id"]) for line in self.body.splitlines()[::2]]

    def forward(self, body: bytes | None = None) -> tuple[int, bytes]:
        """What the cluster answers."""
        parts = urlsplit(self.upstream)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        try:
            headers = {name: value for name, value in self.handler.headers.items() if name.lower() in ("content-type", "authorization")}
            connection.request(self.method, self.path, self.body if body is None else body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def answer(self, status: int, body: bytes, kind: str = "application/json") -> None:
        """Answer it."""
        self.handler.send_response(status)
        self.handler.send_header("Content-Type", kind)
        self.handler.send_header("Content-Length", str(len(body)))
        self.handler.end_headers()
        if self.method != "HEAD":
            self.handler.wfile.write(body)

    def drop(self) -> None:
        """Close the connection."""
        self.handler.close_connection = True

    def cut(self, body: bytes) -> None:
        """Answer half of it."""
        self.handler.send_response(200)
        self.handler.send_header("Content-Type", "application/json")
        self.handler.send_header("Content-Length", str(len(body)))
        self.handler.end_headers()
        self.handler.wfile.write(body[: len(body) // 2])
        self.handler.close_connection = True


Fault = Callable[[Exchange], object]
"""What is done to one request."""


def passes(exchange: Exchange) -> None:
    """Nothing is done to it."""
    exchange.answer(*exchange.forward())


def status(code: int, kind: str = "some_exception") -> Fault:
    """The cluster answers so, and does nothing."""
    return lambda exchange: exchange.answer(code, orjson.dumps({"error": {"type": kind, "reason": "a secret value"}, "status": code}))


def dropped(exchange: Exchange) -> None:
    """The connection breaks off before the cluster has the request."""
    exchange.drop()


def lost(exchange: Exchange) -> None:
    """The cluster does it, and its answer is lost."""
    exchange.forward()
    exchange.drop()


def cut(exchange: Exchange) -> None:
    """The cluster does it, and its answer breaks off."""
    exchange.cut(exchange.forward()[1])


def page(exchange: Exchange) -> None:
    """Something in between answers with a page."""
    exchange.answer(200, b"<html>sign in</html>", "text/html")


def short(exchange: Exchange) -> None:
    """The answer lacks an item."""
    _, body = exchange.forward()
    content: dict[str, Any] = orjson.loads(body)
    content["items"].pop()
    exchange.answer(200, orjson.dumps(content))


def overloaded(keep: Callable[[int], bool], code: int = 429) -> Fault:
    """The cluster takes only the items whose ids are to be kept; the others it could not take now."""

    def fault(exchange: Exchange) -> None:
        lines = exchange.body.splitlines(keepends=True)
        kept = b"".join(lines[2 * at] + lines[2 * at + 1] for at, id_ in enumerate(exchange.ids) if keep(id_))
        taken = iter(orjson.loads(exchange.forward(kept)[1])["items"] if kept else [])
        error = {"type": "rejected_execution_exception", "reason": "full"}
        items = [next(taken) if keep(id_) else {"index": {"_id": str(id_), "status": code, "error": error}} for id_ in exchange.ids]
        exchange.answer(200, orjson.dumps({"errors": True, "items": items}))

    return fault


@dataclass
class FaultyProxy:
    """What comes by, and what is to be done to it: `faults` to one bulk request each, `before` to every request."""

    upstream: str
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    otherwise: Fault = passes
    before: Callable[[Exchange], bool] = lambda exchange: False
    """Whether it has answered the request itself."""
    bulks: list[list[int]] = field(default_factory=list)
    """The ids of each bulk request that came, in order."""

    def handle(self, exchange: Exchange) -> None:
        """Answer a request, or not."""
        if self.before(exchange):
            return
        if "/_bulk" not in exchange.path:
            passes(exchange)
            return
        self.bulks.append(exchange.ids)
        (self.faults.pop(0) if self.faults else self.otherwise)(exchange)


@contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    """A proxy before the cluster at this URL."""
    proxy = FaultyProxy(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            proxy.handle(Exchange(self, upstream, self.command, self.path, body))

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Tests say what went wrong."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
