"""Sending the rows of a file: one person's rows in order, people side by side, rows that do not get through, and runs beside each other."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.http import Http
from ingestion_dagster.residents import dispatch, send, upkeep
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.residents.identity import hasher
from ingestion_dagster.residents.journal import Locks
from ingestion_dagster.residents.people import keys_of, lock_ids
from ingestion_dagster_tests.residents.scene import Residents, Row, api, contact_tracing, nsss, residents
from ingestion_dagster_tests.residents.test_identity import prepared

__all__ = ["api", "residents"]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for: neither after a loss, nor between two passes, nor for another's locks."""
    monkeypatch.setattr(send, "_TRIES", 0)
    monkeypatch.setattr(dispatch, "_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(dispatch, "_LONGEST_LOOK", 0.05)


@pytest.fixture
def failing(residents: Residents) -> Iterator[Counter[str]]:
    """How often the API is still to answer 500 to create calls of persons, by first name; it remembers in which order it took others."""
    left: Counter[str] = Counter()
    known = type(residents.api.store).find_resident

    def find(body: Any) -> int | None:
        name = body["FirstName"]
        if left[name] > 0:
            left[name] -= 1
            raise RuntimeError("on purpose")
        return known(residents.api.store, body)

    vars(residents.api.store)["find_resident"] = find
    yield left
    residents.be_well()


def first_name(number: int) -> str:
    return nsss(number)["first_name"]


def person(number: int, place: int) -> Row:
    """One of several rows of a person, each with a surname and an id of its own."""
    return nsss(number, ID=f"{number}-{place}", last_name=f"Name{chr(ord('a') + place)}")


# Order


def test_a_persons_rows_are_sent_in_the_order_of_the_file(residents: Residents) -> None:
    residents.api.settings.change(latency_ms=2, race_ms=2)
    rows = [person(number, place) for place in range(4) for number in range(8)]
    residents.drop("nsss/a.csv", rows)
    residents.run()
    assert residents.counts == (8, 32, 32)
    found = [residents.api.store.resident(number) for number in range(1, 9)]
    assert {each["LastName"] for each in found if each} == {"Named"}, "the last row is the one that stands"


def test_people_are_sent_side_by_side_and_not_more_than_allowed(residents: Residents) -> None:
    residents.api.settings.change(latency_ms=10)
    residents.drop("contact_tracing/a.csv", [contact_tracing(number) for number in range(40)])
    residents.run(residents_requests_in_flight=5)
    assert 3 <= residents.api.calls.most_at_once <= 5


def test_one_person_with_many_rows_does_not_hold_up_others(residents: Residents) -> None:
    residents.api.settings.change(latency_ms=5)
    residents.drop("nsss/a.csv", [*(person(0, place) for place in range(20)), *(nsss(number) for number in range(1, 20))])
    residents.run(residents_requests_in_flight=4)
    assert residents.counts == (20, 39, 39)
    assert residents.api.calls.most_at_once >= 3


@pytest.mark.usefixtures("hasty")
def test_a_persons_later_rows_wait_for_one_that_did_not_get_through(residents: Residents, failing: Counter[str]) -> None:
    failing[first_name(1)] = 1
    residents.drop("nsss/a.csv", [person(1, 0), person(1, 1), nsss(2)])
    residents.run()
    assert residents.counts == (2, 3, 3)
    found = [residents.api.store.resident(number) for number in (1, 2)]
    assert {each["FirstName"]: each["LastName"] for each in found if each}[first_name(1)] == "Nameb"
    assert max(attempts for (attempts,) in residents.query("SELECT attempts FROM residents.rows")) <= 1


# Rows that do not get through


@pytest.mark.usefixtures("hasty")
def test_a_row_that_never_gets_through_is_given_up_if_others_do(residents: Residents, failing: Counter[str]) -> None:
    failing[first_name(2)] = 1000
    residents.drop("nsss/a.csv", [nsss(1), nsss(2), nsss(3)])
    residents.run()
    report = residents.report("nsss")
    assert report.codes == {2: "http_server_error"}
    assert (report.rows[1]["status"], report.rows[1]["attempts"]) == ("failed", 3)
    assert residents.counts[1] == 2


@pytest.mark.usefixtures("hasty")
def test_a_row_alone_is_not_given_up_as_fast_for_the_api_may_be_down(residents: Residents, failing: Counter[str]) -> None:
    failing[first_name(1)] = 1000
    residents.drop("nsss/a.csv", [nsss(1)])
    for attempts in (3, 6, 9, 12):
        with pytest.raises(Transient) as trouble:
            residents.run()
        assert trouble.value.code == "http_server_error"
        assert residents.query("SELECT step, attempts FROM residents.rows") == [("creating" if attempts < 10 else "failed", attempts)]
        assert (residents.state("a.csv")["status"], residents.state("a.csv")["attempts"]) == ("ready", 0)
    residents.run()
    assert residents.report("nsss").rows[0]["attempts"] == 12
    assert residents.report("nsss").codes == {1: "http_server_error"}


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(("kind", "rows"), [("429", 1), ("503", 1), ("reset", 3)])
def test_an_outage_charges_no_row_however_often_runs_end_in_it(
    residents: Residents, monkeypatch: pytest.MonkeyPatch, kind: str, rows: int
) -> None:
    monkeypatch.setattr(Http, "pause", lambda self, _attempt, asked: None if asked and asked > self.longest_asked else 0.01)
    residents.go_wrong("any", kind, until=True, **({"retry_after": "3600"} if kind == "429" else {}))
    residents.drop("nsss/a.csv", [nsss(number) for number in range(rows)])
    for _ in range(3):
        with pytest.raises(Transient):
            residents.run(residents_api_patience_seconds=0.5)
    assert residents.query("SELECT DISTINCT step IN ('validated', 'creating'), attempts FROM residents.rows") == [(True, 0)]
    assert (residents.state("a.csv")["status"], residents.state("a.csv")["attempts"]) == ("ready", 0)


@pytest.mark.usefixtures("hasty")
def test_a_row_that_gets_through_at_last_is_done(residents: Residents, failing: Counter[str]) -> None:
    failing[first_name(1)] = 2
    residents.drop("nsss/a.csv", [nsss(1), nsss(2)])
    residents.run()
    assert residents.report("nsss").codes == {}
    assert residents.counts == (2, 2, 2)


# Runs beside each other


def test_two_runs_with_the_same_people_in_two_files_make_nobody_twice(residents: Residents) -> None:
    residents.api.settings.change(race_ms=3)
    people = range(12)
    residents.drop("nsss/a.csv", [nsss(number) for number in people])
    residents.drop("spl/b.csv", spl_of(people))
    residents.drop("contact_tracing/c.csv", [contact_tracing(number) for number in people])
    with residents.database.connect() as connection:
        upkeep.sync(connection, residents.settings)

    def run(dataset: str) -> None:
        residents.run(datasets=[dataset], run_id=dataset)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, ["nsss", "spl", "contact_tracing"]))
    assert residents.counts == (12, 36, 24)


def spl_of(people: range) -> list[Row]:
    columns = (*DATASETS["spl"].required, *DATASETS["spl"].expected)
    own = [nsss(number) for number in people]
    return [
        dict.fromkeys(columns, "")
        | {
            "Traced_NHSNUMBER": row["nhs_number"],
            "PatientFirstName": row["first_name"],
            "PatientSurname": row["last_name"],
            "DateOfBirth": "19630222",
            "category": "Added by GP",
        }
        for row in own
    ]


def locked(residents: Residents, until: Callable[[], Any]) -> Any:
    """What comes of something that is done while another session has the locks of person 1."""
    ids = lock_ids(keys_of(prepared(nsss(1)), "nsss"), hasher(residents.settings).of)

    async def hold() -> Any:
        async with Locks.open(residents.database, 60) as theirs:
            for number in ids:
                await theirs._ask("SELECT pg_advisory_lock(%(id)s)", {"id": number})
            return await asyncio.to_thread(until)

    return asyncio.run(hold())


@pytest.mark.usefixtures("hasty")
def test_a_person_that_another_run_sends_is_left_and_others_are_sent(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(2)])

    def run() -> None:
        with pytest.raises(Transient) as trouble:
            residents.run()
        assert trouble.value.code == "rows_left"

    locked(residents, run)
    assert residents.counts == (1, 1, 1)
    assert residents.query("SELECT step, attempts FROM residents.rows ORDER BY 1") == [("done", 0), ("validated", 0)]
    residents.run()
    assert residents.counts == (2, 2, 2)


def test_a_run_that_lost_its_locks_writes_nothing_more(residents: Residents) -> None:
    residents.api.settings.change(latency_ms=20)
    residents.drop("nsss/a.csv", [nsss(number) for number in range(60)])

    def end_the_locks() -> None:
        for _ in range(500):
            ended = residents.query(
                "SELECT pg_terminate_backend(pid) FROM (SELECT DISTINCT l.pid FROM pg_locks AS l "
                "JOIN pg_database AS d ON d.oid = l.database AND d.datname = current_database() WHERE l.locktype = 'advisory') AS those"
            )
            if ended and residents.counts[0] > 5:
                return

    with ThreadPoolExecutor(1) as pool:
        ending = pool.submit(end_the_locks)
        with pytest.raises(Transient) as trouble:
            residents.run(residents_requests_in_flight=2)
        ending.result()
    assert trouble.value.code == "database_gave_way"
    assert residents.counts[0] < 60
    residents.run()
    assert residents.counts == (60, 60, 60)
