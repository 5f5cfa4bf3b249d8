"""The switches of the sandbox's Here to Help API: each fault does what it says and no more, and what is counted is what happened."""

import http.client
import json
import threading
import time
from typing import Any

import pytest

from ingestion_dagster.sandbox.here_to_help import KINDS, HereToHelp
from ingestion_dagster.sandbox.usage import Bucket, Calls, Settings
from ingestion_dagster_tests.sandbox.asking import Answer, Client

PERSON = {"FirstName": "Testy", "LastName": "McFictional", "NhsNumber": "9990000115"}
CUT = (ConnectionError, http.client.HTTPException)


def create(client: Client, **body: Any) -> Answer:
    return client.ask("POST", "v3/help-requests", PERSON | body)


@pytest.mark.parametrize("kind", ["429", "500", "503", "403"])
def test_a_status_in_place_of_the_answer_and_nothing_is_done(client: Client, kind: str):
    client.fault(kind, "create", retry_after="7")
    answer = create(client)
    assert (answer.status, answer.headers.get("Retry-After")) == (int(kind), "7")
    assert client.counts() == (0, 0, 0)
    assert create(client).status == 201


def test_reset_ends_the_connection_before_anything_is_done(client: Client):
    client.fault("reset", "create")
    with pytest.raises(CUT):
        create(client)
    assert client.counts() == (0, 0, 0)
    assert create(client).status == 201


def test_lost_does_the_work_and_does_not_tell(client: Client):
    client.fault("lost", "create")
    with pytest.raises(CUT):
        create(client, CaseNotes="n")
    assert client.counts() == (1, 1, 1)
    client.fault("lost", "note")
    with pytest.raises(CUT):
        client.note(1, 1, "m")
    assert client.counts() == (1, 1, 2)


def test_partial_leaves_an_orphan(client: Client):
    client.fault("partial", "create")
    assert create(client).status == 500
    assert client.counts() == (1, 0, 0)
    assert create(client).json == {"Id": 1}
    assert client.counts() == (1, 1, 0)


def test_partial_of_any_waits_for_a_create_call(client: Client):
    client.fault("partial")
    assert client.get("v3/healthcheck/ping") == {"success": True}
    assert create(client).status == 500


def test_html_and_garbled_answers(client: Client):
    client.fault("html", "create")
    answer = create(client)
    assert (answer.status, answer.headers["Content-Type"][:9]) == (200, "text/html")
    assert client.counts() == (0, 0, 0)
    client.fault("bad_json", "create")
    answer = create(client)
    assert answer.status == 201
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.body)
    assert client.counts() == (1, 1, 0)


def test_slow_then_ok(client: Client):
    client.fault("slow_then_ok", "create", seconds=0.3)
    began = time.monotonic()
    assert create(client).status == 201
    assert time.monotonic() - began >= 0.3


def test_hang_answers_nobody_and_holds_nobody_else_up(client: Client):
    client.fault("hang", "create")
    parts = client.url.split("/")[2].split(":")
    connection = http.client.HTTPConnection(parts[0], int(parts[1]), timeout=0.3)
    headers = {"x-api-key": "sandbox-here-to-help", "Content-Type": "application/json"}
    connection.request("POST", "/api/v3/help-requests", b"{}", headers)
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()
    assert create(client).status == 201


def test_a_fault_is_for_one_operation_for_so_many_times_after_so_many(client: Client):
    client.fault("500", "create", times=2, skip=1)
    client.create(**PERSON)
    assert client.ask("GET", "v3/help-requests/1").status == 200
    assert [create(client).status for _ in range(3)] == [500, 500, 201]


def test_until_lasts_until_it_is_cleared(client: Client):
    client.fault("503", until=True)
    assert {client.ask("GET", "v3/healthcheck/ping").status for _ in range(5)} == {503}
    assert create(client).status == 503
    assert client.ask("DELETE", "/admin/faults", key=None).status == 200
    assert create(client).status == 201


@pytest.mark.parametrize(
    ("op", "method", "path"),
    [
        ("create", "POST", "v3/help-requests"),
        ("get", "GET", "v3/help-requests/1"),
        ("notes", "GET", "v4/residents/1/help-requests/1/case-notes"),
        ("notes", "GET", "v4/residents/1/case-notes"),
        ("note", "POST", "v4/residents/1/help-requests/1/case-notes"),
        ("list", "GET", "v4/residents/1/help-requests"),
        ("add_request", "POST", "v4/residents/1/help-requests"),
        ("search", "GET", "v4/residents"),
        ("resident", "GET", "v4/residents/1"),
        ("patch", "PATCH", "v3/help-requests/1"),
        ("ping", "GET", "v3/healthcheck/ping"),
    ],
    ids=lambda value: value.replace("/", "_"),
)
def test_every_operation_can_be_singled_out(client: Client, op: str, method: str, path: str):
    client.create(**PERSON)
    client.fault("503", op)
    assert client.ask(method, path, {} if method != "GET" else None).status == 503
    assert client.get("/admin/requests")["operations"][op]["503"] == 1
    assert client.ask(method, path, {} if method != "GET" else None).status < 300


@pytest.mark.parametrize(
    "fault",
    [{"kind": "418"}, {"kind": "500", "op": "nothing"}, {"kind": "partial", "op": "get"}, {"kind": "500", "colour": "red"}, {"op": "any"}],
    ids=["kind", "op", "parts", "field", "missing"],
)
def test_a_fault_there_is_not_is_refused(client: Client, fault: dict[str, str]):
    assert client.ask("POST", "/admin/faults", fault, key=None).status == 400
    assert create(client).status == 201


@pytest.mark.parametrize(
    "settings", [{"colour": 1}, {"rate": "fast"}, {"rate": -1}, {"rate": True}], ids=["name", "text", "negative", "boolean"]
)
def test_a_setting_there_is_not_is_refused(client: Client, settings: dict[str, Any]):
    before = client.get("/admin/settings")
    assert client.ask("POST", "/admin/settings", {"latency_ms": 5} | settings, key=None).status == 400
    assert client.get("/admin/settings") == before


def test_calls_take_as_long_as_is_set_side_by_side(client: Client):
    client.set(latency_ms=300)
    began = time.monotonic()
    together(*[lambda: client.ask("GET", "v3/healthcheck/ping")] * 8)
    assert 0.3 <= time.monotonic() - began < 2.0
    assert client.get("/admin/requests")["max_at_once"] > 1


def test_two_that_create_a_person_at_once_make_two_if_there_is_a_gap(client: Client):
    client.set(race_ms=300)
    ids = together(lambda: client.create(**PERSON), lambda: client.create(**PERSON))
    assert (sorted(ids), client.counts()) == ([1, 2], (2, 2, 0))


def test_two_that_create_one_request_at_once_make_two_if_there_is_a_gap(client: Client):
    body = PERSON | {"Metadata": {"nsss_id": "1"}}
    client.ask("POST", "v4/residents", PERSON)
    client.set(race_ms=300)
    ids = together(lambda: client.create(**body), lambda: client.create(**body))
    assert (sorted(ids), client.counts()) == ([1, 2], (1, 2, 0))
    client.set(race_ms=0)
    assert client.create(**body) == 1


def test_two_that_create_a_person_at_once_make_one_without_a_gap(client: Client):
    body = PERSON | {"Metadata": {"nsss_id": "1"}}
    assert set(together(*[lambda: client.create(**body)] * 8)) == {1}
    assert client.counts() == (1, 1, 0)


def test_what_is_counted_is_what_happened(client: Client):
    create(client)
    create(client, FirstName=5)
    client.ask("GET", "v3/help-requests/9")
    client.ask("GET", "v3/help-requests/1", key="wrong")
    client.fault("429", "get")
    client.ask("GET", "v3/help-requests/1")
    client.fault("lost", "get")
    with pytest.raises(CUT):
        client.ask("GET", "v3/help-requests/1")
    told = client.get("/admin/requests")
    assert told["operations"] == {"any": {"403": 1}, "create": {"201": 1, "400": 1}, "get": {"404": 1, "429": 1, "lost": 1}}
    assert (told["total"], told["throttled"], told["max_per_second"] in range(1, 7)) == (6, 0, True)


def test_reset_forgets_persons_faults_and_counts_and_keeps_the_settings(client: Client):
    create(client)
    client.fault("500", until=True)
    client.set(burst=7)
    assert client.ask("POST", "/admin/reset", key=None).status == 200
    assert client.counts() == (0, 0, 0)
    assert client.get("/admin/requests")["total"] == 0
    assert client.get("/admin/settings")["burst"] == 7
    assert create(client).json == {"Id": 1}


def test_a_dump_of_the_same_doings_is_the_same(client: Client):
    def doings() -> Any:
        client.create(**PERSON, Metadata={"nsss_id": "1"}, HelpNeeded="Shielding", CaseNotes="n")
        client.create(NhsNumber="9990000123")
        return client.get("/admin/dump")

    first = doings()
    client.ask("POST", "/admin/reset", key=None)
    assert doings() == first
    assert [each["id"] for each in first["residents"]] == [1, 2]
    assert first["help_requests"][0]["metadata"] == {"nsss_id": "1"}
    assert first["help_requests"][0]["resident_id"] == 1
    assert first["case_notes"] == [{"id": 1, "resident_id": 1, "help_request_id": 1, "case_note": "n"}]


def test_the_bucket_fills_at_its_rate_and_no_higher_than_its_brim():
    now = 0.0
    bucket = Bucket(Settings(rate=10, burst=5), clock=lambda: now)
    assert [bucket.takes() for _ in range(6)] == [True] * 5 + [False]
    now = 0.25
    assert [bucket.takes() for _ in range(3)] == [True, True, False]
    now = 100.0
    assert sum(bucket.takes() for _ in range(20)) == 5


def test_the_busiest_second_is_any_second_not_one_of_the_clock():
    now = 0.0
    calls = Calls(clock=lambda: now)
    for moment in (0.0, 0.8, 0.9, 1.1, 1.2, 1.3, 5.0):
        now = moment
        calls.came()
        calls.went("ping", "200")
    assert (calls.most, calls.told()["total"]) == (5, 7)


def test_every_kind_of_fault_is_tried_here():
    assert {"429", "500", "503", "403", "hang", "reset", "lost", "slow_then_ok", "html", "bad_json", "partial"} == frozenset().union(
        *KINDS.values()
    )


def test_admin_is_neither_limited_nor_counted_nor_faulty(client: Client, api: HereToHelp):
    client.set(rate=0.001, burst=0)
    client.fault("503", until=True)
    for path in ("/admin/counts", "/admin/requests", "/admin/dump", "/admin/settings", "/healthz", "/openapi.json"):
        assert client.ask("GET", path, key=None).status == 200
    assert api.calls.told()["total"] == 0


def together(*calls: Any) -> list[Any]:
    """What each of them gives, done at once."""
    given: list[Any] = []
    threads = [threading.Thread(target=lambda call=call: given.append(call())) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(given) == len(calls)
    return given
