"""A Slack of our own on loopback: `chat.postMessage`, `chat.update` and an incoming webhook, with answers that can be set."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "xoxb-0123-secret"  # pragma: allowlist secret
CHANNEL_ID = "C0123456"


@dataclass
class Answer:
    """What Slack says to one request. `hangs_up`: it takes the message and closes the connection without a word."""

    status: int = 200
    error: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    hangs_up: bool = False


@dataclass
class Slack:
    """Messages by their time stamps as readers of the channel see them, and every call that was made."""

    url: str = ""
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def api_url(self) -> str:
        """Where its Web API is."""
        return f"{self.url}/api/"

    @property
    def webhook_url(self) -> str:
        """An incoming webhook of it."""
        return f"{self.url}/services/T0/B0/hook-secret"

    @property
    def texts(self) -> list[str]:
        """What readers see, message by message."""
        return [message["blocks"][0]["text"]["text"] for message in self.messages.values()]

    def take(self, path: str, content: dict[str, Any], authorization: str | None) -> tuple[Answer, bytes]:
        """Answer one request."""
        with self._lock:
            self.calls.append((path, content))
            answer = self.answers.pop(0) if self.answers else Answer()
            method = path.rpartition("/")[2]
            if method.startswith("chat.") and authorization != f"Bearer {TOKEN}":
                return answer, b'{"ok": false, "error": "invalid_auth"}'
            if answer.error or answer.status != 200:
                return answer, json.dumps({"ok": False, "error": answer.error}).encode()
            if method == "chat.update":
                if content["channel"] != CHANNEL_ID or content["ts"] not in self.messages:
                    return answer, b'{"ok": false, "error": "message_not_found"}'
                self.messages[content["ts"]] |= content
                return answer, b'{"ok": true}'
            stamp = f"170000000{len(self.calls)}.000100"
            self.messages[stamp] = dict(content)
            if method == "chat.postMessage":
                return answer, json.dumps({"ok": True, "channel": CHANNEL_ID, "ts": stamp}).encode()
            return answer, b"ok"


@contextmanager
def slack_server() -> Iterator[Slack]:
    """Such a Slack for as long as the block lasts."""
    slack = Slack()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer, body = slack.take(self.path, content, self.headers["Authorization"])
            if answer.hangs_up:
                self.close_connection = True
                return
            self.send_response(answer.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing is logged."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    slack.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield slack
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
