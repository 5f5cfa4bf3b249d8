"""A small acquirer for the events platform: reads its events, says that it has consumed them, tells how many, never what of."""

import http.client
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson

from ingestion_dagster.sandbox.events_platform_parties import ACQUIRER

PAGE = 100
_PAUSE = 0.1
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class PlatformError(Exception):
    """The platform gave an answer that an acquirer cannot go on with; the text names the call and the status alone."""


@dataclass(frozen=True, slots=True)
class Consumed:
    """What a page of events has come to."""

    listed: int = 0
    enriched: int = 0
    """Those whose data came."""
    values: int = 0
    """How many fields of those held something."""
    gone: int = 0
    """Those that there is no data of any more; consumed all the same."""
    unavailable: int = 0
    """Those whose supplier did not answer; left for the next time."""
    consumed: int = 0


def consume(platform_url: str, client_id: str = ACQUIRER[0], client_secret: str = ACQUIRER[1]) -> Iterator[Consumed]:
    """Read and consume all events that wait for this acquirer, page by page; what each page has come to.

    Raises `PlatformError`, and `OSError` if nobody answers.
    """
    with closing(_Acquirer(platform_url, client_id, client_secret)) as acquirer:
        seen: set[str] = set()
        number = 0
        while listed := acquirer.page(number):
            new = [event for event in listed if event not in seen]
            seen.update(new)
            if new:
                yield acquirer.work_off(new)
            else:
                # Nothing but what was left: consumed events leave the pages, those stay.
                number += 1


def await_deletion(platform_url: str, seconds: float = 60.0) -> int:
    """Wait until the platform has had everything deleted that was consumed; how many events that are by now.

    Raises `TimeoutError` with the number of those that are left.
    """
    deadline = time.monotonic() + seconds
    with closing(_Connection(platform_url)) as connection:
        while True:
            state = connection.ask("GET", "/sandbox/state", {200})[1]
            if not state["deletable"]:
                return int(state["deleted"])
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{state['deletable']} consumed events are not deleted yet")
            time.sleep(_PAUSE)


class _Connection:
    """Asks the platform, over one connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname or "", parts.port, timeout=30)
        self._prefix = parts.path.rstrip("/")

    def close(self) -> None:
        """End it."""
        self._connection.close()

    def ask(
        self, method: str, path: str, expected: set[int], headers: dict[str, str] | None = None, body: str | None = None
    ) -> tuple[int, Any]:
        """Status and JSON of an answer. Raises `PlatformError` for a status that is not expected."""
        self._connection.request(method, self._prefix + path, body, headers or {})
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status not in expected:
            raise PlatformError(f"{method} {path.partition('?')[0]}: {answer.status}")
        return answer.status, orjson.loads(content) if content else None


class _Acquirer:
    """An acquirer with its token, which is renewed once it is refused."""

    def __init__(self, url: str, client_id: str, client_secret: str) -> None:
        self._connection = _Connection(url)
        self._form = urlencode({"grant_type": "client_credentials", "client_id": client_id, "client_secret": client_secret})
        self._token = ""

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def page(self, number: int) -> list[str]:
        """The ids of the events on a page."""
        query = urlencode({"page[number]": number, "page[size]": PAGE})
        return [each["id"] for each in self._ask("GET", f"/events?{query}", {200})[1]["data"]]

    def work_off(self, events: list[str]) -> Consumed:
        """Get each event and consume it, unless its supplier does not answer."""
        enriched = values = gone = unavailable = consumed = 0
        for event in events:
            status, document = self._ask("GET", f"/events/{event}", {200, 404, 503})
            if status == 503:
                unavailable += 1
                continue
            if status == 200:
                enriched += 1
                values += sum(value is not None for value in document["data"]["attributes"]["eventData"].values())
            else:
                gone += 1
            # 404: consumed by another that comes as this client.
            consumed += self._ask("DELETE", f"/events/{event}", {204, 404})[0] == 204
        return Consumed(len(events), enriched, values, gone, unavailable, consumed)

    def _ask(self, method: str, path: str, expected: set[int]) -> tuple[int, Any]:
        for attempt in (1, 2):
            if not self._token:
                self._token = self._connection.ask("POST", "/oauth2/token", {200}, _FORM, self._form)[1]["access_token"]
            headers = {"Authorization": f"Bearer {self._token}"}
            answer = self._connection.ask(method, path, expected | ({401} if attempt == 1 else set()), headers)
            if answer[0] != 401:
                break
            self._token = ""
        return answer
