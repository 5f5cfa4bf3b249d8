"""The contract of the sandbox's Here to Help API: what it takes, gives and refuses, and the shapes of it."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.sandbox.here_to_help import HereToHelp
from ingestion_dagster.sandbox.here_to_help_schema import REQUEST, RESIDENT
from ingestion_dagster.sandbox.here_to_help_store import Store
from ingestion_dagster.sandbox.usage import Settings
from ingestion_dagster_tests.sandbox.asking import Client, answering

PERSON = {"FirstName": "Testy", "LastName": "McFictional", "NhsNumber": "9990000115"}
ONE = "v4/residents/1/help-requests/1/case-notes"


def test_create_answers_with_an_id_and_where_it_is(client: Client):
    answer = client.ask("POST", "v3/help-requests", PERSON)
    assert (answer.status, answer.json) == (201, {"Id": 1})
    assert answer.headers["Location"] == "api/v3/help-requests/1"
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"


def test_get_shows_all_fields_of_person_and_request(client: Client):
    client.create(**PERSON, HelpNeeded="Shielding", Metadata={"nsss_id": "é", "a": [1, None]}, IsOnBehalf=False, OnBehalfFirstName="O")
    found = client.get("v3/help-requests/1")
    more = {"Id", "ResidentId", "CaseNotes", "Metadata", "AssignedTo", "HelpRequestCalls"}
    assert set(found) == more | set(RESIDENT) | set(REQUEST)
    assert (found["Id"], found["ResidentId"], found["FirstName"], found["HelpNeeded"]) == (1, 1, "Testy", "Shielding")
    assert (found["IsOnBehalf"], found["OnBehalfFirstName"]) == (False, "O")
    assert (found["AssignedTo"], found["HelpRequestCalls"], found["CaseNotes"]) == (None, [], "[]")
    assert found["Metadata"] == '{"a": [1, null], "nsss_id": "é"}'


def test_a_callback_is_required_unless_refused_and_metadata_may_be_absent(client: Client):
    client.create(**PERSON)
    assert client.get("v3/help-requests/1")["CallbackRequired"] is True
    assert client.get("v3/help-requests/1")["Metadata"] is None
    client.create(**PERSON, CallbackRequired=False)
    assert client.get("v3/help-requests/2")["CallbackRequired"] is False


def test_the_time_of_recording_is_now_with_fractions_unless_given(client: Client):
    client.create(**PERSON)
    now = client.get("v3/help-requests/1")["DateTimeRecorded"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", now)
    assert abs(datetime.fromisoformat(now) - datetime.now(UTC)) < timedelta(minutes=1)
    client.create(**PERSON, DateTimeRecorded="2021-02-23T15:18:33.1234567Z")
    assert client.get("v3/help-requests/2")["DateTimeRecorded"] == "2021-02-23T15:18:33.1234567Z"


def test_names_of_fields_come_in_any_case_and_unknown_ones_are_passed_over(client: Client):
    client.create(firstname="Testy", LASTNAME="McFictional", Nonsense=5)
    assert client.get("v4/residents/1")["FirstName"] == "Testy"
    assert client.get("v4/residents/1")["LastName"] == "McFictional"


def test_notes_are_joined_as_they_are_stored(client: Client):
    client.create(**PERSON)
    assert client.note(1, 1, '{"note": "a \\" b"}').status == 201
    assert client.get("v3/help-requests/1")["CaseNotes"] == '[{"note": "a \\" b"}]'
    client.note(1, 1, "raw")
    client.note(1, 1, "")
    assert client.get("v3/help-requests/1")["CaseNotes"] == '[{"note": "a \\" b"}, raw, ]'


@pytest.mark.parametrize(("notes", "joined"), [([""], "[]"), (["", ""], "[, ]"), ([], "[]")], ids=["one", "two", "none"])
def test_empty_notes_are_notes(client: Client, notes: list[str], joined: str):
    client.create(**PERSON)
    for note in notes:
        client.create(**PERSON, CaseNotes=note)
    assert client.counts()[2] == len(notes)
    assert [each["CaseNotes"] for each in client.get("v4/residents/1/help-requests")][1:] == ["[]"] * len(notes)
    for note in notes:
        client.note(1, 1, note)
    assert client.get("v3/help-requests/1")["CaseNotes"] == joined


def test_a_note_answers_with_what_was_kept(client: Client):
    client.create(**PERSON, HelpNeeded="Shielding")
    answer = client.note(1, 1, "n")
    assert answer.status == 201
    assert answer.json == {"Id": 1, "ResidentId": 1, "HelpRequestId": 1, "CaseNote": "n", "HelpNeeded": "Shielding"}


@pytest.mark.parametrize(("resident", "request_id"), [(9, 1), (1, 9)], ids=["resident", "request"])
def test_a_note_for_nobody_is_an_error_of_the_server(client: Client, resident: int, request_id: int):
    client.create(**PERSON)
    assert client.note(resident, request_id, "n").status == 500
    assert client.counts() == (1, 1, 0)


def test_a_note_is_kept_on_a_request_of_another_person(client: Client):
    client.create(**PERSON)
    client.create(NhsNumber="9990000123")
    assert client.note(2, 1, "n").status == 201
    assert client.get("v3/help-requests/1")["CaseNotes"] == "[n]"


def test_notes_are_listed_by_person_and_by_request(client: Client):
    client.create(**PERSON, HelpNeeded="Shielding", CaseNotes="one")
    client.create(**PERSON, HelpNeeded="EUSS", CaseNotes="two")
    one, two = ({"Id": n, "ResidentId": 1, "HelpRequestId": n, "CaseNote": text} for n, text in ((1, "one"), (2, "two")))
    assert client.get("v4/residents/1/case-notes") == [one]
    assert client.get("v4/residents/1/case-notes", includeType="EUSS") == [one, two]
    assert client.get("v4/residents/1/help-requests/2/case-notes") == [two]
    assert client.get("v4/residents/9/case-notes") == []


def test_requests_of_one_kind_are_hidden_unless_asked_for(client: Client):
    client.create(**PERSON, HelpNeeded="Shielding")
    client.create(**PERSON, HelpNeeded="EUSS")
    client.create(NhsNumber="9990000123")
    assert [each["Id"] for each in client.get("v4/residents/1/help-requests")] == [1]
    assert [each["Id"] for each in client.get("v4/residents/1/help-requests", includeType="EUSS")] == [1, 2]
    assert client.get("v4/residents/9/help-requests") == []
    assert not set(RESIDENT) & set(client.get("v4/residents/1/help-requests")[0])


def test_a_request_more_is_never_found_to_be_an_old_one(client: Client):
    client.create(**PERSON, HelpNeeded="Shielding")
    body = {"HelpNeeded": "Shielding", "CallbackRequired": False, "Metadata": {"nsss_id": "1"}}
    answer = client.ask("POST", "v4/residents/1/help-requests", body)
    assert (answer.status, answer.body) == (201, b"2")
    assert client.ask("POST", "v4/residents/1/help-requests", body).json == 3
    found = client.get("v4/residents/1/help-requests/3")
    assert (found["HelpNeeded"], found["CallbackRequired"], found["Metadata"]) == ("Shielding", False, None)
    assert client.ask("POST", "v4/residents/9/help-requests", body).status == 500
    assert client.counts() == (1, 3, 0)


def test_a_request_of_another_is_empty_and_no_error(client: Client):
    client.create(**PERSON)
    found = client.get("v4/residents/2/help-requests/1")
    assert (found["Id"], found["ResidentId"], found["HelpNeeded"]) == (0, 0, None)
    assert client.get("v4/residents/1/help-requests/9")["Id"] == 0


def test_a_person_is_created_once_found_and_overwritten(client: Client):
    answer = client.ask("POST", "v4/residents", PERSON | {"ContactTelephoneNumber": "1"})
    assert (answer.status, answer.json["Id"], answer.json["LastName"]) == (201, 1, "McFictional")
    assert client.ask("POST", "v4/residents", PERSON).json["Id"] == 1
    answer = client.ask("PATCH", "v4/residents/1", {"FirstName": "New", "LastName": None, "ContactTelephoneNumber": "2"})
    assert (answer.json["FirstName"], answer.json["LastName"], answer.json["ContactTelephoneNumber"]) == ("New", "McFictional", "2")
    assert client.get("v4/residents/1") == answer.json
    assert set(answer.json) == {"Id", *RESIDENT}
    assert client.ask("GET", "v4/residents/9").status == client.ask("PATCH", "v4/residents/9", {}).status == 404


def test_a_search_is_exact_but_for_spaces_and_case_and_an_empty_one_finds_everyone(client: Client):
    client.create(FirstName="Mary Ann", LastName="O'Nullworth", DobDay="02", DobMonth="5", DobYear="1963", Postcode="ZZ99 3VZ", Uprn="1")
    client.create(FirstName="Mary", LastName="O'Nullworth", Postcode="ZZ993VZ")

    def found(**query: str) -> list[int]:
        return [each["Id"] for each in client.get("v4/residents", **query)]

    assert found() == found(FirstName=" ", Postcode="") == [1, 2]
    assert found(FirstName="maryann", LastName="o'nullworth") == [1]
    assert found(Firstname="Mary") == [2]
    assert found(FirstName="Mar") == []
    assert found(Postcode="zz993vz") == [1, 2]
    assert found(Postcode="zz993vz", Uprn=" 1") == [1]
    assert found(DobDay="02", DobMonth="5", DobYear="1963") == [1]
    assert found(DobDay="2", DobMonth="5", DobYear="1963") == []


def test_a_request_is_overwritten_by_what_is_not_null(client: Client):
    client.create(**PERSON, HelpNeeded="Shielding", CaseNotes="old", Metadata={"nsss_id": "1"})
    body = {"HelpNeeded": "EUSS", "CallbackRequired": None, "FirstName": "New", "CaseNotes": "new"}
    answer = client.ask("PATCH", "v3/help-requests/1", body)
    assert answer.status == 200
    found = client.get("v3/help-requests/1")
    assert (found["HelpNeeded"], found["CallbackRequired"], found["FirstName"]) == ("EUSS", True, "New")
    assert (found["CaseNotes"], found["Metadata"]) == ("[new]", '{"nsss_id": "1"}')
    assert client.ask("PATCH", "v3/help-requests/9", {}).status == 404


def test_ping(client: Client):
    assert client.get("v3/healthcheck/ping") == {"success": True}


@pytest.mark.parametrize("key", [None, "", "wrong", "schlüssel"], ids=["none", "empty", "wrong", "foreign"])
@pytest.mark.parametrize("path", ["v3/help-requests", "v3/healthcheck/ping", "v9/nothing"])
def test_nothing_is_told_without_the_key(client: Client, key: str | None, path: str):
    answer = client.ask("POST", path, PERSON, key=key)
    assert (answer.status, answer.json) == (403, {"message": "Forbidden"})
    assert client.counts() == (0, 0, 0)


@pytest.mark.parametrize("path", ["v3/help-requests/9", "v3/nothing", "v9/nothing"])
def test_what_is_not_there_is_told_as_a_problem(client: Client, path: str):
    answer = client.ask("GET", path)
    assert (answer.status, answer.json["status"]) == (404, 404)
    assert answer.headers["Content-Type"].startswith("application/problem+json")


MALFORMED: dict[str, Any] = {
    "nothing": b"",
    "null": b"null",
    "list": b"[]",
    "cut": b'{"FirstName": "Te',
    "number_for_text": b'{"FirstName": 5}',
    "boolean_for_text": b'{"NhsNumber": true}',
    "object_for_text": b'{"CaseNotes": {}}',
    "nan_for_text": b'{"FirstName": NaN}',
    "nan_in_metadata": b'{"Metadata": {"nsss_id": NaN}}',
    "infinity": b'{"Metadata": Infinity}',
    "text_for_boolean": b'{"CallbackRequired": "true"}',
    "number_for_boolean": b'{"CallbackRequired": 1}',
    "no_time": b'{"DateTimeRecorded": "yesterday"}',
    "time_as_displayed": b'{"DateTimeRecorded": "23/02/2021 15:18"}',
    "no_such_day": b'{"DateTimeRecorded": "2021-02-30T00:00:00Z"}',
    "number_for_time": b'{"DateTimeRecorded": 5}',
    "other_case": b'{"firstNAME": 5}',
    "not_utf8": b'{"FirstName": "\xff"}',
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_cannot_be_read_is_refused_and_nothing_is_done(client: Client, case: str):
    answer = client.ask("POST", "v3/help-requests", raw=MALFORMED[case])
    assert (answer.status, answer.json["status"]) == (400, 400)
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert client.counts() == (0, 0, 0)


@pytest.mark.parametrize(
    "raw", [b'{"CaseNote": "a "quoted" word"}', b'{"CaseNote": 5}', b'{"CaseNote": "line\nbreak"}'], ids=["quote", "number", "line"]
)
def test_a_note_that_was_put_together_by_hand_is_refused(client: Client, raw: bytes):
    client.create(**PERSON)
    assert client.ask("POST", ONE, raw=raw).status == 400
    assert client.counts()[2] == 0


@pytest.mark.parametrize(
    "number", ["x", "-1", "99999999999", "9" * 5000, "1.0"], ids=["word", "negative", "large", "very_large", "fraction"]
)
def test_an_id_that_is_none_is_refused(client: Client, number: str):
    assert client.ask("GET", f"v3/help-requests/{number}").status == 400
    assert client.ask("GET", f"v4/residents/{number}/help-requests").status == 400


def test_a_body_that_does_not_say_it_is_json_is_refused(client: Client):
    assert client.ask("POST", "v3/help-requests", PERSON, Content_Type="text/plain").status == 415
    assert client.ask("POST", "v3/help-requests", PERSON, Content_Type="application/json; charset=utf-8").status == 201


def test_what_the_database_cannot_keep_is_refused_in_a_word(client: Client):
    answer = client.ask("POST", "v3/help-requests", {"FirstName": "a\0b"})
    assert (answer.status, answer.json[:20]) == (400, "Record not created. ")
    client.create(**PERSON)
    assert client.note(1, 1, "a\0b").status == 500


def test_the_usage_plan_lets_a_burst_through_and_then_as_many_as_it_fills():
    with answering(HereToHelp(settings=Settings(rate=0.01, burst=3))) as client:
        answers = [client.ask("GET", "v3/healthcheck/ping") for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert answers[-1].json == {"message": "Too Many Requests"}
        assert client.ask("GET", "v3/healthcheck/ping", key="wrong").status == 403
        assert client.get("/admin/requests")["throttled"] == 1
        client.set(rate=0)
        assert client.ask("GET", "v3/healthcheck/ping").status == 200


def test_the_plan_is_the_real_ones_unless_it_is_set(client: Client):
    assert Settings() == Settings(latency_ms=0, rate=100, burst=200, race_ms=0)


def test_what_is_kept_outlives_the_server(tmp_path: Path):
    file = tmp_path / "here_to_help.sqlite3"
    with answering(HereToHelp(Store(file))) as client:
        client.create(**PERSON, Metadata={"nsss_id": "1"}, CaseNotes="n")
        before = client.get("/admin/dump")
    with answering(HereToHelp(Store(file))) as client:
        assert client.get("/admin/dump") == before
        assert client.create(**PERSON, Metadata={"nsss_id": "1"}) == 1
        assert client.create(**PERSON, Metadata={"nsss_id": "2"}) == 2
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_of_an_older_sandbox_is_begun_anew(tmp_path: Path):
    file = tmp_path / "here_to_help.sqlite3"
    store = Store(file)
    store.create_resident(PERSON)
    store._database.execute("PRAGMA user_version = 0")
    store.close()
    store = Store(file)
    assert store.counts() == {"residents": 0, "help_requests": 0, "case_notes": 0}
    store.close()
