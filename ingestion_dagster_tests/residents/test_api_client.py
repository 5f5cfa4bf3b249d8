"""The client of the Here to Help API: what it believes, what it never tells, and that it keeps to what the API can take."""

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from ingestion_dagster.engine.breaker import Breaker
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.http import Http, Lost
from ingestion_dagster.engine.rate import Rate
from ingestion_dagster.residents.api_client import HereToHelp, Rejected, open_api
from ingestion_dagster.residents.model import Note
from ingestion_dagster.sandbox.here_to_help import KEY
from ingestion_dagster_tests.residents.talking import NOW, REQUEST, Talk, hasty, serving, talk, talking

NOTE = Note("marker-author", "marker-note")

CALLS: dict[str, Callable[[HereToHelp], Awaitable[Any]]] = {
    "create": lambda api: api.create({**REQUEST, "FirstName": "marker"}),
    "get": lambda api: api.help_request(1),
    "notes": lambda api: api.notes_of(1, 1),
    "list": lambda api: api.requests_of(1),
    "add_request": lambda api: api.add_request(1, {"HelpNeeded": "marker"}),
    "note": lambda api: api.add_note(1, 1, NOTE, NOW),
    "search": lambda api: api.find_residents("marker", "marker", dob_day="marker"),
    "ping": lambda api: api.ping(),
}
WRITES = ("create", "add_request", "note")
READS = tuple(name for name in CALLS if name not in WRITES)


def answering(
    body: bytes, what: Callable[[HereToHelp], Awaitable[Any]], status: int = 200, key: str = "k", **headers: str
) -> tuple[Any, list[web.Request]]:
    """What comes of a call to a server that always answers the same; and what it was asked."""
    asked: list[web.Request] = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(request)
        return web.Response(body=body, status=status, headers=headers)

    async def run() -> Any:
        app = web.Application()
        app.router.add_route("*", "/{anything:.*}", handle)
        async with serving(app) as url, hasty(retries=1).open() as client:
            return await what(HereToHelp(client, f"{url}marker-host/api/", key))

    return asyncio.run(run()), asked


def raised_by(call: Callable[[], Any], kind: type[Exception]) -> Exception:
    """The exception, of exactly this kind and without a word of what was asked, sent or answered."""
    with pytest.raises(kind) as raised:
        call()
    assert type(raised.value) is kind
    assert "marker" not in "".join(traceback.format_exception_only(raised.value))
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None or raised.value.__suppress_context__
    return raised.value


@pytest.mark.parametrize("base", ["api", "api/"])
def test_the_base_may_end_with_a_slash_or_not(base: str):
    async def go(both: Talk) -> None:
        async with open_api(both.url.removesuffix("api/") + base, KEY, requests_per_second=1000, in_flight=2, patience_seconds=1) as api:
            await api.ping()
            assert (await api.create(REQUEST)).help_request_id == 1
            assert (await api.help_request(1)).resident_id == 1

    talk(go)
    with pytest.raises(ConfigurationError, match="INGESTION_RESIDENTS_API_URL"):
        HereToHelp(None, "host/api/", "k")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", CALLS)
def test_a_key_that_is_not_accepted_is_said_to_be_the_reason(name: str):
    async def go(both: Talk) -> None:
        both.api._headers["x-api-key"] = "marker-key"  # pragma: allowlist secret
        await CALLS[name](both.api)

    assert "INGESTION_RESIDENTS_API_KEY" in str(raised_by(lambda: talk(go), ConfigurationError))


@pytest.mark.parametrize(
    ("status", "body"), [(404, b""), (404, b'{"title":"marker"}'), (200, b"<html>marker"), (201, b"\n <!DOCTYPE html>")]
)
@pytest.mark.parametrize("name", ["create", "ping"])
def test_an_address_that_is_no_api_is_said_to_be_the_reason(name: str, status: int, body: bytes):
    error = raised_by(lambda: answering(body, CALLS[name], status), ConfigurationError)
    assert "ends in api/" in str(error)


@pytest.mark.parametrize("name", ["get", "list", "note"])
def test_a_web_page_that_says_not_found_is_not_taken_for_a_record_that_was_deleted(name: str):
    raised_by(lambda: answering(b"<html>marker", CALLS[name], 404), ConfigurationError)
    error = raised_by(lambda: answering(b'{"title": "marker"}', CALLS[name], 404), Rejected)
    assert isinstance(error, Rejected)
    assert error.code == "api_not_found"


@pytest.mark.parametrize("name", CALLS)
def test_a_redirect_is_not_followed_for_it_would_take_the_key_along(name: str):
    raised_by(lambda: answering(b"", CALLS[name], 302, Location="/marker"), ConfigurationError)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("status", [400, 409, 415, 422])
def test_what_is_rejected_is_not_asked_again_nor_is_its_reason_told(name: str, status: int):
    error = raised_by(lambda: answering(b'"Record not created. marker"', CALLS[name], status), Rejected)
    assert isinstance(error, Rejected)
    assert error.code == "api_rejected"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b'"marker"', b"{}", b"[1]", b'{"Id": 0}', b'{"Id": "1"}', b'{"Id": true}', b'{"Id": 1.0}', b'[{"Id": null}]'],
)
@pytest.mark.parametrize("name", WRITES)
def test_a_reply_to_what_was_written_that_cannot_be_believed_is_a_lost_one(name: str, body: bytes):
    error = raised_by(lambda: answering(body, CALLS[name], 201), Lost)
    assert isinstance(error, Lost)
    assert error.code == "api_bad_answer"


@pytest.mark.parametrize("name", WRITES)
def test_only_201_means_that_it_was_done(name: str):
    error = raised_by(lambda: answering(b"7" if name == "add_request" else b'{"Id": 7}', CALLS[name], 200), Lost)
    assert isinstance(error, Lost)
    assert error.code == "api_bad_answer"


@pytest.mark.parametrize("body", [b"", b"{", b'"marker"', b"<html>marker", b'{"Id": 0}', b'[{"Id": -1, "CaseNote": 5}]', b"[[]]"])
@pytest.mark.parametrize("name", [name for name in READS if name != "ping"])
def test_an_answer_that_cannot_be_believed_is_asked_for_again(name: str, body: bytes):
    error = raised_by(lambda: answering(body, CALLS[name]), Transient)
    assert isinstance(error, Transient)
    assert error.code == "api_bad_answer"


def test_the_answer_for_another_request_is_not_taken_for_ours():
    raised_by(lambda: answering(b'{"Id": 2, "ResidentId": 1}', CALLS["get"]), Transient)


@pytest.mark.parametrize("body", [b'{"success": false}', b"{}", b"[]", b"true"])
def test_a_health_check_that_does_not_say_well_is_no_good(body: bytes):
    raised_by(lambda: answering(body, CALLS["ping"]), Transient)


@pytest.mark.parametrize("kind", ["500", "503", "429", "hang", "reset", "bad_json"])
@pytest.mark.parametrize("name", CALLS)
def test_nothing_of_a_person_is_in_what_a_failure_says(name: str, kind: str, caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")

    async def go(both: Talk) -> None:
        body = {**REQUEST, "FirstName": "marker"}
        both.sandbox.store.create_request(both.sandbox.store.create_resident(body), body)
        both.go_wrong(name, kind, until=True)
        await CALLS[name](both.api)

    lost = name in WRITES and kind != "429"
    raised_by(lambda: talk(go, hasty(retries=1, silence_timeout=0.1)), Lost if lost else Transient)
    assert "marker" not in caplog.text


def test_an_answer_of_fifty_megabytes_is_not_read_to_its_end():
    sent = 0

    async def handle(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(50):
            await answer.write(b" " * 1024**2)
            sent += 1
        return answer

    async def run() -> None:
        app = web.Application()
        app.router.add_route("*", "/{anything:.*}", handle)
        async with serving(app) as url, hasty(retries=0).open() as client:
            await HereToHelp(client, url, "k").help_request(1)

    raised_by(lambda: asyncio.run(run()), Transient)
    assert sent < 30


def test_the_key_is_in_a_header_and_blanks_of_a_search_are_left_out():
    found, asked = answering(b"[]", lambda api: api.find_residents("Ann & Bo", "O'Null +%", dob_year="1963", uprn=" "))
    assert found == ()
    assert dict(asked[0].query) == {"FirstName": "Ann & Bo", "LastName": "O'Null +%", "DobYear": "1963"}
    assert asked[0].headers["x-api-key"] == "k"


@pytest.mark.parametrize("names", [("", "B"), ("A", " "), ("", "")])
def test_a_search_for_everybody_is_never_made(names: tuple[str, str]):
    with pytest.raises(ValueError, match="everybody"):
        answering(b"[]", lambda api: api.find_residents(*names))


def test_what_was_sent_comes_back_as_it_was_sent():
    async def go(both: Talk) -> None:
        body = {**REQUEST, "Metadata": {"spl_id": "9", "deep": [1, {"a": None}]}, "LastName": 'Nu"ll\\'}
        assert (await both.api.create(body)).help_request_id == 1
        found = await both.api.help_request(1)
        assert (found.first_name, found.last_name, found.nhs_number) == ("Testy", 'Nu"ll\\', "9990000115")
        assert (found.nhs_ctas_id, found.help_needed, found.notes) == ("e95hx001", "Welfare Call", ())
        assert found.metadata == body["Metadata"]
        assert found.recorded_at is not None
        assert abs(found.recorded_at - datetime.now(UTC)) < timedelta(minutes=1)
        (resident,) = await both.api.find_residents("TESTY", 'nu"LL\\')
        assert (resident.id, resident.fields["NhsNumber"]) == (1, "9990000115")

    talk(go)


def test_requests_of_the_hidden_type_are_shown_when_asked_for():
    async def go(both: Talk) -> None:
        await both.api.create({**REQUEST, "HelpNeeded": "EUSS"})
        assert await both.api.add_request(1, {"CallbackRequired": False, "HelpNeeded": "Shielding"}) == 2
        assert [each.help_needed for each in await both.api.requests_of(1)] == ["Shielding"]
        assert [each.help_needed for each in await both.api.requests_of(1, "EUSS")] == ["EUSS", "Shielding"]
        assert await both.api.requests_of(99) == ()

    talk(go)


def test_notes_arrive_whatever_is_in_them_and_raw_ones_are_told_as_they_are():
    strange = 'a "quoted" \\ note,\nwith [brackets], {"note": "inside"}, \u2028 and \U0001f600'

    async def go(both: Talk) -> None:
        await both.api.create(REQUEST)
        await both.api.add_note(1, 1, Note("a", strange), NOW)
        assert (await both.api.help_request(1)).notes == (strange,)
        both.sandbox.store.add_note(1, 1, "raw, [and] {unparseable")
        assert (await both.api.help_request(1)).notes is None
        assert await both.api.notes_of(1, 1) == (strange, "raw, [and] {unparseable")

    talk(go)


@pytest.mark.parametrize(
    ("recorded", "moment"),
    [
        ('"2026-11-20T08:54:45.1234567"', NOW.replace(microsecond=123456)),
        ('"2026-11-20T08:54:45Z"', NOW),
        ('"2026-11-20T09:54:45+01:00"', NOW),
        ('"soon"', None),
        ("null", None),
    ],
)
def test_when_a_request_was_recorded_is_read_as_the_api_writes_it(recorded: str, moment: datetime | None):
    found, _ = answering(b'{"Id": 1, "ResidentId": 1, "DateTimeRecorded": %s}' % recorded.encode(), CALLS["get"])
    assert found.recorded_at == moment


@pytest.mark.parametrize("metadata", [b"null", b'"not json"', b'"[1]"', b"7"])
def test_metadata_that_is_no_object_tells_nothing(metadata: bytes):
    found, _ = answering(b'{"Id": 1, "ResidentId": 1, "Metadata": %s}' % metadata, CALLS["get"])
    assert found.metadata == {}


def test_created_is_told_from_matched_by_the_servers_clock_not_by_ours():
    created, _ = answering(b'{"Id": 1}', CALLS["create"], 201, Date="Tue, 23 Feb 2021 15:18:33 GMT")
    assert created.not_before is not None
    behind = datetime(2021, 2, 23, 15, 18, 33, tzinfo=UTC) - created.not_before
    assert timedelta(seconds=2) <= behind < timedelta(seconds=4)
    created, _ = answering(b'{"Id": 1}', CALLS["create"], 201, Date="whenever")
    assert created.not_before is None


def test_a_request_that_was_given_before_is_known_for_one_that_was_there():
    async def go(both: Talk) -> None:
        assert not (await both.api.create(REQUEST)).seen_before
        assert (await both.api.create(REQUEST)).seen_before

    talk(go)


def test_at_eighty_a_second_hardly_anything_is_throttled_and_requests_overlap():
    async def go() -> None:
        async with (
            talking(rate=100, burst=10, latency_ms=100) as both,
            open_api(both.url, KEY, requests_per_second=80, in_flight=32, patience_seconds=5) as api,
        ):
            begun = time.monotonic()
            await asyncio.gather(*(api.ping() for _ in range(240)))
            seconds = time.monotonic() - begun
            told = both.sandbox.calls.told()
            # None is, on a machine that has time for us; what it has held up comes at once, and may be more than the ten at a time.
            assert told["throttled"] <= 12
            assert told["total"] == 240 + told["throttled"]
            assert told["max_per_second"] <= 90 + told["throttled"]
            assert told["max_at_once"] <= 32
            # One after the other they would come to ten a second. How much of the 80 is used is the benchmark's to say.
            assert 240 / seconds > 40

    asyncio.run(go())


def test_one_retry_after_makes_everybody_wait():
    async def go() -> list[float]:
        http = hasty(rate=Rate(1000), breaker=Breaker())
        async with talking(http) as both:
            both.go_wrong("ping", "429", retry_after="1")
            begun = time.monotonic()
            first = asyncio.create_task(both.api.ping())
            await asyncio.sleep(0.1)
            await asyncio.gather(first, *(both.api.ping() for _ in range(5)))
            assert both.asked("ping") == 7
            return [time.monotonic() - begun]

    (seconds,) = asyncio.run(go())
    assert 1.0 <= seconds < 3


def failing(patience: float, first_pause: float = 0.05) -> Http:
    breaker = Breaker(patience=patience, first_pause=first_pause, longest_pause=0.2)
    return hasty(rate=Rate(1000), breaker=breaker, retries=5)


def test_an_api_that_fails_for_a_while_is_waited_for_and_nothing_is_lost():
    async def go() -> None:
        async with talking(failing(patience=10)) as both:
            both.go_wrong("any", "503", until=True)
            waiting = [asyncio.create_task(both.api.ping()) for _ in range(60)]
            await asyncio.sleep(1)
            asked = both.asked("ping")
            # 32 were under way when it opened; from then on one at a time has gone to see, seldom.
            assert 10 <= asked < 60
            both.sandbox.faults.clear()
            await asyncio.gather(*waiting)

    asyncio.run(go())


def test_an_api_that_fails_for_too_long_is_given_up_by_all_at_once():
    async def go() -> None:
        async with talking(failing(patience=0.5)) as both:
            both.go_wrong("any", "503", until=True)
            found = await asyncio.gather(*(both.api.ping() for _ in range(40)), return_exceptions=True)
            assert {each.code for each in found if isinstance(each, Transient)} == {"http_unavailable"}
            assert len(found) == 40
            begun = time.monotonic()
            with pytest.raises(Transient, match="http_unavailable"):
                await both.api.ping()
            assert time.monotonic() - begun < 0.1

    asyncio.run(go())
