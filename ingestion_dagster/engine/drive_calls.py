"""Calls of the Drive API through Google's client: as a service account, patiently, and without a word of what the answers say.

The client sees good answers only. Its own retries would send a request again whose answer was lost, and its log quotes what was
answered, names of files among it; so whatever else comes back is judged here.
"""

import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar
from weakref import finalize

from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.pauses import asked_for

T = TypeVar("T")

_SCOPE = "https://www.googleapis.com/auth/drive"
_GOOD = frozenset({200, 201, 204, 206, 308})  # 308: a part of an upload has arrived
_RATES = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "sharingRateLimitExceeded"})
_REASON = re.compile(r"[A-Za-z_]{1,64}")
_CREDENTIALS = "INGESTION_DRIVE_CREDENTIALS"


class Answered(Exception):
    """Drive has answered, and it is no. `reason` is one of Google's codes ("notFound"), or ""."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason


class Passing(Exception):
    """No answer, or one that may be another next time. What was asked for may have been done all the same."""

    def __init__(self, kind: str, asked: float | None = None) -> None:
        super().__init__(kind)
        self.kind = kind
        self.asked = asked


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a call is made, and for how long; times are seconds.

    A pause is drawn from between 0 and `first_pause`, then twice that, and so on; Retry-After is waited for on top, if there is time.
    """

    attempts: int = 5
    seconds: float = 180.0
    first_pause: float = 1.0
    longest_pause: float = 32.0
    timeout: float = 60.0
    """For a piece of an answer."""
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic


class Tries:
    """The attempts at one call."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._made = 0
        self._until = patience.clock() + patience.seconds

    def wait(self, failed: Passing) -> None:
        """Pause before the next attempt. Raises `Transient` if that was the last."""
        patience = self._patience
        self._made += 1
        pause = patience.chance() * min(patience.longest_pause, patience.first_pause * 2.0 ** (self._made - 1)) + (failed.asked or 0.0)
        if self._made >= patience.attempts or patience.clock() + pause > self._until:
            message = f"Google Drive did not do what it was asked for in {self._made} attempts ({failed.kind}); the next run asks again"
            raise Transient("drive_unavailable", message) from None
        patience.sleep(pause)


class DriveCalls:
    """The API, as one service account. Safe to share between threads: each has a connection of its own.

    `api_url` stands in for https://www.googleapis.com; where tokens come from is said in the key file.
    """

    def __init__(self, credentials: Path, api_url: str | None = None, patience: Patience | None = None) -> None:
        self.patience = patience or Patience()
        self._file = credentials
        self._api_url = api_url
        self._own = threading.local()
        self._reading = threading.Lock()
        self._renewing = threading.Lock()
        self._account: Any = None

    def call(self, ask: Callable[[Any, Tries], T]) -> T:
        """What `ask` gives, which is given the API's files and is repeated while what goes wrong may pass: it has to be repeatable.

        Raises `Transient` (`drive_unavailable`) when patience ends, `Answered` for a refusal of this very request, and
        `ConfigurationError` if no request of this account can succeed.
        """
        tries = Tries(self.patience)
        while True:
            try:
                with _judged():
                    return ask(self._files(), tries)
            except Passing as failed:
                tries.wait(failed)
            except Answered as answered:
                self._raise_if_closed(answered)
                raise

    def get(self, request: Callable[[Any], Any]) -> Any:
        """The answer to one request that changes nothing: metadata. Raises as `call` does."""

        def ask(files: Any, _tries: Tries) -> Any:
            answer = request(files).execute()
            if not isinstance(answer, dict):
                raise Passing("an answer that is none")
            return answer

        return self.call(ask)

    def read(self, request: Callable[[Any], Any]) -> bytes:
        """The answer to one request that changes nothing: content. Raises as `call` does."""
        return self.call(lambda files, _tries: bytes(request(files).execute()))

    def upload(self, request: Any, tries: Tries) -> Any:
        """Send an upload that is resumable, and after a lost answer ask how far it has come; the answer to the whole.

        Raises `Passing` if it has to begin anew, when it may have been done.
        """
        while True:
            try:
                with _judged():
                    _progress, done = request.next_chunk()
                if isinstance(done, dict):
                    return done
            except Passing as failed:
                if request.resumable_uri is None:
                    raise
                tries.wait(failed)
            except Answered as answered:
                if request.resumable_uri is None or answered.status not in (404, 410):
                    raise
                raise Passing("an upload was forgotten") from None

    @property
    def account(self) -> str:
        """Whom folders have to be shared with."""
        return str(getattr(self._account, "service_account_email", "the service account"))

    def _files(self) -> Any:
        account = self._credentials()
        if getattr(self._own, "account", None) is not account:
            import httplib2
            from googleapiclient.discovery import build_from_document

            http = httplib2.Http(timeout=self.patience.timeout)
            http.redirect_codes = http.redirect_codes - {308}
            document = {**_document(), "rootUrl": f"{self._api_url.rstrip('/')}/"} if self._api_url else _document()
            transport = _Transport(http, account, self._renewing)
            self._own.files = build_from_document(document, http=transport).files()
            self._own.account = account
        return self._own.files

    def _credentials(self) -> Any:
        with self._reading:
            if self._account is None:
                from google.auth.exceptions import GoogleAuthError
                from google.oauth2.service_account import Credentials

                try:
                    self._account = Credentials.from_service_account_file(str(self._file), scopes=[_SCOPE])  # type: ignore[no-untyped-call]
                except OSError as error:
                    raise ConfigurationError(
                        f"the key file of the service account cannot be read ({error.strerror}): correct {_CREDENTIALS}"
                    ) from None
                except (GoogleAuthError, ValueError, KeyError, TypeError, AttributeError):
                    raise ConfigurationError(
                        f"the file that {_CREDENTIALS} names is no key of a service account: create one (JSON) in the Google Cloud console"
                    ) from None
            return self._account

    def _raise_if_closed(self, answered: Answered) -> None:
        if answered.status == 401:
            with self._reading:
                self._account = None  # the file may hold another key by the next call
            raise ConfigurationError(
                f"Google does not accept the service account's key ({answered.reason or 401}): see that the clock is right, or create "
                f"another key and put it where {_CREDENTIALS} says"
            ) from None
        if answered.reason in ("accessNotConfigured", "SERVICE_DISABLED"):
            raise ConfigurationError(
                "the Drive API is not enabled in the service account's project: enable it in the Google Cloud console"
            ) from None


class _Transport:
    """What the client takes for an HTTP connection: gives it good answers, and raises `Answered` or `Passing` for all others.

    It signs requests itself: google-auth's own connection asks another service of Google's, beside and unasked, where it may be used.
    """

    def __init__(self, http: Any, account: Any, renewing: threading.Lock) -> None:
        self._http = http
        finalize(self, http.close)
        self._account = account
        self._renewing = renewing

    def request(self, uri: str, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None, **others: Any) -> Any:
        """Send a request, with another token if the first is not taken; the answer and its body."""
        from google.auth.exceptions import RefreshError, TransportError
        from httplib2 import HttpLib2Error

        try:
            response, content = self._signed(uri, method, body, headers or {}, others)
            if response.status == 401:
                response, content = self._signed(uri, method, body, headers or {}, others, refused=True)
        except RefreshError as error:
            raise (Passing("no token") if error.retryable else Answered(401, "invalid_grant")) from None
        except (TransportError, HttpLib2Error, HTTPException, OSError) as error:
            self._http.close()  # it would go on with a connection that is broken
            raise Passing(type(error).__name__) from None
        if response.status in _GOOD:
            if content and "alt=media" not in uri and response.get("content-type", "").startswith("text/html"):
                raise Passing("a page in place of an answer")
            return response, content
        reason = _reason(content)
        if response.status in (408, 429) or response.status >= 500 or reason in _RATES:
            raise Passing(reason or str(response.status), asked_for(response.get("retry-after", "")))
        raise Answered(response.status, reason)

    def _signed(self, uri: str, method: str, body: Any, headers: dict[str, str], others: dict[str, Any], *, refused: bool = False) -> Any:
        from google_auth_httplib2 import Request

        used = self._account.token
        with self._renewing:
            if not self._account.valid or (refused and self._account.token == used):
                self._account.refresh(Request(self._http))
        # What is unpacked on the way could be anything's size.
        sent = {name: value for name, value in headers.items() if name.lower() != "accept-encoding"} | {"accept-encoding": "identity"}
        self._account.apply(sent)
        return self._http.request(uri, method, body=body, headers=sent, **others)


@contextmanager
def _judged() -> Iterator[None]:
    """What the client cannot make sense of is an answer that may be another next time: a page of a proxy, half a listing."""
    from googleapiclient.errors import Error

    try:
        yield
    except (Error, json.JSONDecodeError, UnicodeDecodeError):
        raise Passing("an answer that is none") from None


@cache
def _document() -> dict[str, Any]:
    from googleapiclient.discovery_cache import get_static_doc

    document: dict[str, Any] = json.loads(get_static_doc("drive", "v3"))
    document.pop("mtlsRootUrl", None)
    return document


def _reason(content: bytes) -> str:
    """Google's code in an error's body; "" if there is none. Whatever else stands there may quote names."""
    try:
        error = json.loads(content)["error"]
        reason = error["errors"][0]["reason"] if error.get("errors") else error["status"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return ""
    return reason if isinstance(reason, str) and _REASON.fullmatch(reason) else ""
