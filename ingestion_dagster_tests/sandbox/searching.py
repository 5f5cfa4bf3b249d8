"""A plain client of OpenSearch, for tests that ask it as it is."""

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Search:
    """Asks below the base URL of a node. Whatever is no success raises AssertionError, but for `status`."""

    url: str

    def get(self, path: str, body: Any = None) -> Any:
        return self._asked("GET", path, body)

    def put(self, path: str, body: Any) -> Any:
        return self._asked("PUT", path, body)

    def post(self, path: str, body: Any = None) -> Any:
        return self._asked("POST", path, body)

    def status(self, method: str, path: str, body: Any = None) -> int:
        return self._ask(method, path, body)[0]

    def bulk(self, *lines: Any) -> Any:
        return self._asked("POST", "/_bulk?refresh=true", "".join(f"{json.dumps(line)}\n" for line in lines))

    def _asked(self, method: str, path: str, body: Any) -> Any:
        status, answer = self._ask(method, path, body)
        assert status < 300, (method, path, status, answer)
        return answer

    def _ask(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        try:
            content = body if body is None or isinstance(body, str) else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()
