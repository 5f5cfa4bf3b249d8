"""What is asked of the Here to Help API, and what its answers must be to be believed; never what is in them in a message."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.residents.model import Note
from ingestion_dagster.residents.notes import joined_texts, stored_text, written

if TYPE_CHECKING:
    import aiohttp

    from ingestion_dagster.engine.http import Client, Receive

T = TypeVar("T")

BAD_ANSWER = "api_bad_answer"
REJECTED = "api_rejected"
NOT_THERE = "api_not_found"

_MAX_BODY = 5 * 1024**2
_CHUNK = 1 << 16
_CLOCKS = timedelta(seconds=2)
_URL = "set INGESTION_RESIDENTS_API_URL to its base, which ends in api/"
_NOT_THE_API = f"there is no Here to Help API at this address: {_URL}"
_CREATE = "v3/help-requests"
_SEARCHED = (
    *("FirstName", "LastName", "DobDay", "DobMonth", "DobYear", "Postcode", "Uprn"),
    *("NhsNumber", "EmailAddress", "ContactTelephoneNumber", "ContactMobileNumber"),
)
_PERSONAL = (*_SEARCHED, "AddressFirstLine", "AddressSecondLine", "AddressThirdLine")
PHONES = frozenset({"ContactTelephoneNumber", "ContactMobileNumber"})


class Rejected(Exception):
    """The API does not take this. `code` says which kind: api_rejected, api_not_found.

    It says so with a plain text of whatever went wrong inside it, its database too: that `may_pass`. What it finds wrong with the call
    itself will be wrong again.
    """

    def __init__(self, code: str, *, may_pass: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.may_pass = may_pass


@dataclass(frozen=True, slots=True)
class Created:
    """What a create call gave: a request that is new, or one that was there before."""

    help_request_id: int
    not_before: datetime | None
    """By the server's clock: a request recorded before this was there already. None: its answers show no clock."""
    seen_before: bool
    """This client was given the same one before."""


@dataclass(frozen=True, slots=True)
class HelpRequest:
    """A help request with its resident. Texts that are null or missing are ""."""

    id: int
    resident_id: int
    first_name: str = field(repr=False)
    last_name: str = field(repr=False)
    nhs_number: str = field(repr=False)
    nhs_ctas_id: str = field(repr=False)
    person: Mapping[str, str] = field(repr=False)
    """What is kept of the resident, by the names that a create call has for it."""
    help_needed: str
    metadata: Mapping[str, Any] = field(repr=False)
    notes: tuple[str, ...] | None = field(repr=False)
    """Texts of its notes; None: ask `notes_of`, they cannot be told apart here."""
    recorded_at: datetime | None


@dataclass(frozen=True, slots=True)
class Listed:
    """A help request as a resident's list shows it."""

    id: int
    help_needed: str
    nhs_ctas_id: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Resident:
    """A resident as a search finds them; texts that are null or missing are ""."""

    id: int
    fields: Mapping[str, str] = field(repr=False)
    """By the names that a create call has for them: FirstName, DobDay, NhsNumber …"""


@asynccontextmanager
async def open_api(
    url: str,
    key: str,
    *,
    requests_per_second: float,
    in_flight: int,
    patience_seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator["HereToHelp"]:
    """The API at a base URL, with or without a slash at its end, for the event loop that runs now."""
    from ingestion_dagster.engine.breaker import Breaker
    from ingestion_dagster.engine.http import Http
    from ingestion_dagster.engine.rate import Rate

    http = Http(
        connections=in_flight,
        retries=5,
        first_pause=0.5,
        longest_pause=8.0,
        longest_asked=patience_seconds,
        request_timeout=60.0,
        rate=Rate(requests_per_second),
        breaker=Breaker(patience=patience_seconds),
    )
    async with http.open() as client:
        yield HereToHelp(client, url, key, clock)


class HereToHelp:
    """The API. Every method may raise `Transient` and `ConfigurationError`; those that write, `Lost` and `Rejected` too."""

    def __init__(self, client: "Client", url: str, key: str, clock: Callable[[], float] = time.monotonic) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(f"INGESTION_RESIDENTS_API_URL is no address: {_URL}")
        self._client = client
        self._base = url.rstrip("/") + "/"
        self._headers = {"x-api-key": key, "Accept": "application/json"}
        self._clock = clock
        self._is_the_api = False
        """Whether an answer has been believed: if so, a web page in its place is trouble that passes."""
        self.before_write: Callable[[], Awaitable[None]] | None = None
        """Called right before something is written; what it raises keeps that from being done."""
        self._shown: tuple[datetime, float] | None = None
        """What the server's clock showed last, and ours then."""
        self._given: set[int] = set()

    async def ping(self) -> None:
        """Return if the API is there, takes the key, and says that it is well. Raises `Transient` if it does not say so."""
        answer = await self._get("v3/healthcheck/ping", is_always_there=True)
        if not isinstance(answer, dict) or answer.get("success") is not True:
            raise Transient(BAD_ANSWER, "the API answers its health check, and not that it is well")

    async def create(self, request: Mapping[str, Any]) -> Created:
        """Create a help request, and a resident if none matches; or find the one that there is."""
        begun = self._clock()
        answer = await self._post(_CREATE, dict(request), lambda body: _id(_object(body).get("Id")), is_always_there=True)
        seen_before = answer in self._given
        self._given.add(answer)
        return Created(answer, self.not_before(begun), seen_before)

    def begin(self) -> float:
        """The moment at which a call is about to be made, for `not_before`."""
        return self._clock()

    def not_before(self, begun: float) -> datetime | None:
        """Such a moment by the server's clock, and a little earlier, for clocks differ; None as long as no answer has shown it."""
        if self._shown is None:
            return None
        moment, ours = self._shown
        return moment + timedelta(seconds=begun - ours) - _CLOCKS

    async def help_request(self, help_request_id: int) -> HelpRequest:
        """A help request with its resident. Raises `Rejected` (api_not_found) if there is none, `Transient` for another."""
        found = _object(await self._get(f"{_CREATE}/{help_request_id}"))
        request = _request(found)
        if request.id != help_request_id:
            raise Transient(BAD_ANSWER, "the API answered with another help request than it was asked for")
        return request

    async def notes_of(self, resident_id: int, help_request_id: int) -> tuple[str, ...]:
        """The texts of the notes of one request."""
        notes = _objects(await self._get(f"v4/residents/{resident_id}/help-requests/{help_request_id}/case-notes"))
        return tuple(stored_text(_string(note.get("CaseNote"))) for note in notes)

    async def requests_of(self, resident_id: int, include_type: str | None = None) -> tuple[Listed, ...]:
        """A resident's requests; those of type EUSS only if they are included by name. None for a resident who is unknown."""
        params = None if include_type is None else {"includeType": include_type}
        found = _objects(await self._get(f"v4/residents/{resident_id}/help-requests", params))
        return tuple(Listed(_id(each.get("Id")), _string(each.get("HelpNeeded")), _string(each.get("NhsCtasId"))) for each in found)

    async def add_request(self, resident_id: int, body: Mapping[str, Any]) -> int:
        """Give a resident one more request, whatever they have; its id."""
        return await self._post(f"v4/residents/{resident_id}/help-requests", dict(body), _id)

    async def add_note(self, resident_id: int, help_request_id: int, note: Note, now: datetime) -> None:
        """Add a note to a request, whatever notes it has."""
        path = f"v4/residents/{resident_id}/help-requests/{help_request_id}/case-notes"
        await self._post(path, {"CaseNote": written(note, now)}, lambda body: _id(_object(body).get("Id")))

    async def find_residents(
        self,
        first_name: str,
        last_name: str,
        *,
        dob_day: str = "",
        dob_month: str = "",
        dob_year: str = "",
        postcode: str = "",
        uprn: str = "",
    ) -> tuple[Resident, ...]:
        """Residents with exactly these; case and blanks do not count. What is "" is not looked at.

        Raises `ValueError` without both names: such a search finds everybody.
        """
        if not first_name.strip() or not last_name.strip():
            raise ValueError("without both names a search finds everybody")
        asked = {
            "FirstName": first_name,
            "LastName": last_name,
            "DobDay": dob_day,
            "DobMonth": dob_month,
            "DobYear": dob_year,
            "Postcode": postcode,
            "Uprn": uprn,
        }
        found = _objects(await self._get("v4/residents", {name: value for name, value in asked.items() if value.strip()}))
        return tuple(Resident(_id(each.get("Id")), {name: _string(each.get(name)) for name in _SEARCHED}) for each in found)

    async def pause(self, attempt: int) -> None:
        """Give the API time to end what it may still be doing, after so many replies that were lost."""
        await self._client.pause(attempt)

    async def _get(self, path: str, params: Mapping[str, str] | None = None, *, is_always_there: bool = False) -> Any:
        receive = self._receive(200, lambda body: body, is_always_there)
        return await self._client.get(self._base + path, receive, params=params, headers=self._headers)

    async def _post(self, path: str, body: Any, believe: Callable[[Any], T], *, is_always_there: bool = False) -> T:
        receive = self._receive(201, believe, is_always_there)
        return await self._client.request(
            "POST", self._base + path, receive, json=body, headers=self._headers, repeat=False, ready=self.before_write
        )

    def _receive(self, expected: int, believe: Callable[[Any], T], is_always_there: bool) -> "Receive[T]":
        """Takes an answer of the status expected, and believes it or not.

        Where a path is always there, nothing in its place, or a web page, means that this is not the API.
        """

        async def receive(answer: "aiohttp.ClientResponse") -> T:
            self._look_at_clock(answer)
            if answer.status in (401, 403):
                raise ConfigurationError(
                    f"the Here to Help API answered {answer.status}: it does not accept the key in INGESTION_RESIDENTS_API_KEY, "
                    "or INGESTION_RESIDENTS_API_URL is not its base"
                )
            if 300 <= answer.status < 400:
                raise ConfigurationError(f"the Here to Help API sends elsewhere ({answer.status}): {_URL}")
            if answer.status == 404:
                if is_always_there or _is_page(await _body(answer)):
                    raise ConfigurationError(_NOT_THE_API)
                raise Rejected(NOT_THERE)
            if answer.status >= 400:
                raise Rejected(REJECTED, may_pass=answer.status == 400 and _is_text(await _body(answer)))
            body = await _body(answer)
            if _is_page(body):
                if is_always_there:
                    raise ConfigurationError(_NOT_THE_API)
                raise Transient(BAD_ANSWER, "the API answered with a web page")
            if answer.status != expected:
                raise Transient(BAD_ANSWER, f"the API answered {answer.status} where {expected} means that it was done")
            try:
                believed = believe(orjson.loads(body))
            except orjson.JSONDecodeError:
                raise Transient(BAD_ANSWER, "the API's answer is no JSON") from None
            self._is_the_api = True
            return believed

        return receive

    def _look_at_clock(self, answer: "aiohttp.ClientResponse") -> None:
        try:
            moment = parsedate_to_datetime(answer.headers.get("Date", ""))
        except (ValueError, TypeError, IndexError):
            return
        self._shown = (moment if moment.tzinfo else moment.replace(tzinfo=UTC), self._clock())


def _is_page(body: bytes) -> bool:
    return body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")


async def _body(answer: "aiohttp.ClientResponse") -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_chunked(_CHUNK):
        body += chunk
        if len(body) > _MAX_BODY:
            raise Transient(BAD_ANSWER, f"the API's answer is larger than {_MAX_BODY} bytes")
    return bytes(body)


def _is_text(body: bytes) -> bool:
    try:
        return isinstance(orjson.loads(body), str)
    except orjson.JSONDecodeError:
        return False


def _request(found: Mapping[str, Any]) -> HelpRequest:
    case_notes = found.get("CaseNotes")
    return HelpRequest(
        id=_id(found.get("Id")),
        resident_id=_id(found.get("ResidentId")),
        first_name=_string(found.get("FirstName")),
        last_name=_string(found.get("LastName")),
        nhs_number=_string(found.get("NhsNumber")),
        nhs_ctas_id=_string(found.get("NhsCtasId")),
        person={name: _string(found.get(name)) for name in _PERSONAL},
        help_needed=_string(found.get("HelpNeeded")),
        metadata=_metadata(found.get("Metadata")),
        notes=joined_texts(None if case_notes is None else _string(case_notes)),
        recorded_at=_moment(found.get("DateTimeRecorded")),
    )


def _metadata(found: Any) -> Mapping[str, Any]:
    """An object, or the JSON text of one, as the API gives it; whatever else was stored there tells us nothing."""
    if isinstance(found, str):
        try:
            found = orjson.loads(found)
        except orjson.JSONDecodeError:
            return {}
    return found if isinstance(found, dict) else {}


def _moment(found: Any) -> datetime | None:
    """A moment; the API leaves out the zone, and means UTC."""
    try:
        moment = datetime.fromisoformat(_string(found))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _id(found: Any) -> int:
    if type(found) is not int or found <= 0:
        raise Transient(BAD_ANSWER, "the API's answer has something else where an id should be")
    return found


def _string(found: Any) -> str:
    if found is None:
        return ""
    if not isinstance(found, str):
        raise Transient(BAD_ANSWER, "the API's answer has something else where a text should be")
    return found


def _object(found: Any) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise Transient(BAD_ANSWER, "the API's answer is not the object that it should be")
    return found


def _objects(found: Any) -> list[Mapping[str, Any]]:
    if not isinstance(found, list):
        raise Transient(BAD_ANSWER, "the API's answer is not the list that it should be")
    return [_object(each) for each in found]
