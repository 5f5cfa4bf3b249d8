"""A row on its way to the API: whatever breaks off, and wherever, there is one of each in the end, and none with the wrong person."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import orjson
import pytest

from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.http import Lost
from ingestion_dagster.residents.api_client import Rejected
from ingestion_dagster.residents.model import Action, Note, Prepared, Progress, Step
from ingestion_dagster.residents.send import send
from ingestion_dagster_tests.residents.talking import AUTHOR, NOW, PREPARED, Talk, hasty, prepared, talk


class Crash(Exception):
    """The process is gone."""


class Ledger:
    """Keeps the progress of one row, and crashes as often as it is told to: at the n-th save, before or after it is kept."""

    def __init__(self, *crashes: tuple[int, str]) -> None:
        self.kept = Progress()
        self.saves = 0
        self.steps: list[Step] = []
        self._crashes = set(crashes)

    async def save(self, progress: Progress) -> None:
        self.saves += 1
        if (self.saves, "before") in self._crashes:
            raise Crash
        self.kept = progress
        self.steps.append(progress.step)
        if (self.saves, "after") in self._crashes:
            raise Crash

    async def send(self, both: Talk, row: Prepared = PREPARED) -> Progress:
        """Send a row; what is returned and what was kept last are the same."""
        sent = await send(both.api, row, self.kept, self.save, lambda: NOW)
        assert sent == self.kept
        return sent

    async def send_until_over(self, both: Talk, row: Prepared = PREPARED) -> Progress:
        """Begin anew from what was kept after each crash."""
        for _ in range(5):
            try:
                return await self.send(both, row)
            except (Crash, Transient):
                continue
        raise AssertionError("it never ends")


def texts(both: Talk) -> list[str]:
    return [orjson.loads(each["case_note"])["note"] for each in both.sandbox.store.dump()["case_notes"]]


async def undisturbed(both: Talk) -> Any:
    await Ledger().send(both)
    return summary(both)


def summary(both: Talk) -> Any:
    kept = both.sandbox.store.dump()
    return kept["residents"], kept["help_requests"], sorted(texts(both))


def test_a_row_takes_all_its_steps_and_each_is_kept_before_the_next():
    async def go(both: Talk) -> None:
        ledger = Ledger()
        sent = await ledger.send(both)
        assert (sent.step, sent.action, sent.notes_added) == (Step.DONE, Action.CREATED, 3)
        assert (sent.resident_id, sent.help_request_id, sent.shielding_request_id) == (1, 1, 2)
        assert list(dict.fromkeys(ledger.steps)) == [Step.CREATING, Step.CREATED, Step.FETCHED, Step.DONE]
        assert both.counts == (1, 2, 3)
        assert texts(both) == ["Day 4 Outcome: well", 'Comments: says "call\nlater" \\ at 5', "--- self-reported ---"]
        assert both.sandbox.calls.told()["total"] == 7

    talk(go)


def test_a_plain_row_costs_three_calls_and_one_that_is_done_none():
    async def go(both: Talk) -> None:
        ledger, row = Ledger(), prepared(notes=(Note(AUTHOR, "one"),))
        await ledger.send(both, row)
        assert both.sandbox.calls.told()["total"] == 3
        await ledger.send(both, row)
        assert both.sandbox.calls.told()["total"] == 3

    talk(go)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("number", range(1, 10))
def test_a_row_that_crashed_at_any_save_ends_as_if_it_had_not(number: int, moment: str):
    expected = talk(undisturbed)

    async def go(both: Talk) -> None:
        ledger = Ledger((number, moment))
        sent = await ledger.send_until_over(both)
        assert ledger.saves > number or moment == "after"
        assert sent.step is Step.DONE
        assert (sent.action, sent.shielding_request_id) == (Action.CREATED, 2)
        assert summary(both) == expected

    talk(go)


def test_the_saves_that_can_crash_are_all_there_are():
    async def go(both: Talk) -> None:
        ledger = Ledger()
        await ledger.send(both)
        assert ledger.saves == 9

    talk(go)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("kind", ["lost", "500", "503", "reset", "bad_json", "hang"])
@pytest.mark.parametrize("operation", ["create", "note", "add_request"])
def test_a_reply_that_is_lost_makes_nothing_twice(operation: str, kind: str, times: int):
    expected = talk(undisturbed)

    async def go(both: Talk) -> None:
        both.go_wrong(operation, kind, times=times)
        sent = await Ledger().send(both)
        assert (sent.step, sent.action, sent.notes_added) == (Step.DONE, Action.CREATED, 3)
        assert summary(both) == expected

    talk(go, hasty(silence_timeout=0.15))


@pytest.mark.parametrize("kind", ["lost", "bad_json"])
def test_what_was_done_and_not_told_is_found_and_not_asked_for_again(kind: str):
    async def go(both: Talk) -> None:
        for operation in ("create", "note", "add_request"):
            both.go_wrong(operation, kind)
        await Ledger().send(both)
        assert [both.asked(operation) for operation in ("create", "note", "add_request")] == [1, 3, 1]

    talk(go)


def test_a_create_call_that_got_half_way_leaves_one_person():
    async def go(both: Talk) -> None:
        both.go_wrong("create", "partial", times=2)
        sent = await Ledger().send(both)
        assert (sent.step, sent.action, both.counts) == (Step.DONE, Action.CREATED, (1, 2, 3))

    talk(go)


@pytest.mark.parametrize("operation", ["create", "note", "add_request"])
def test_too_many_losses_are_given_back_with_what_was_saved(operation: str):
    expected = talk(undisturbed)

    async def go(both: Talk) -> None:
        both.go_wrong(operation, "reset", until=True)
        ledger = Ledger()
        with pytest.raises(Lost):
            await ledger.send(both)
        assert both.asked(operation) == 4
        assert ledger.kept.step is (Step.CREATING if operation == "create" else Step.FETCHED)
        both.sandbox.faults.clear()
        assert (await ledger.send(both)).step is Step.DONE
        assert summary(both) == expected

    talk(go)


@pytest.mark.parametrize("operation", ["get", "list", "notes", "search"])
def test_reads_that_fail_for_a_while_change_nothing(operation: str):
    expected = talk(undisturbed)

    async def go(both: Talk) -> None:
        both.go_wrong("create", "lost")
        both.go_wrong("note", "lost")
        both.go_wrong(operation, "500", times=2)
        assert (await Ledger().send(both)).step is Step.DONE
        assert summary(both) == expected

    talk(go)


def test_a_crash_with_a_lost_reply_finds_a_row_of_a_hidden_type():
    row = prepared(without=("NhsNumber", "NhsCtasId"), HelpNeeded="EUSS", Metadata={"Author": "x", "generic_ingestion_id": "EUSS"})

    async def go(both: Talk) -> None:
        ledger = Ledger((2, "before"))
        with pytest.raises(Crash):
            await ledger.send(both, row)
        assert (await ledger.send(both, row)).step is Step.DONE
        assert (both.counts, both.asked("create")) == ((1, 1, 0), 1)

    talk(go)


def test_another_person_of_the_same_name_is_not_taken_for_the_row_after_a_crash():
    generic: dict[str, Any] = {"HelpNeeded": "EUSS", "Metadata": {"generic_ingestion_id": "EUSS"}}
    theirs = prepared(without=("NhsNumber", "NhsCtasId"), **generic)
    ours = prepared(without=("NhsNumber", "NhsCtasId"), **generic, DobYear="1999")

    async def go(both: Talk) -> None:
        await Ledger().send(both, theirs)
        ledger = Ledger()
        ledger.kept = Progress(Step.CREATING)
        sent = await ledger.send(both, ours)
        assert (sent.step, sent.resident_id, both.counts) == (Step.DONE, 2, (2, 2, 0))

    talk(go)


@pytest.mark.parametrize("blank", [("FirstName",), ("LastName",), ("FirstName", "LastName")], ids=["first", "last", "both"])
def test_a_row_without_a_name_is_found_again_by_its_id_alone(blank: tuple[str, ...]):
    metadata: dict[str, Any] = {"Metadata": {"spl_id": "9990000115"}, "HelpNeeded": "Shielding"}
    row = prepared(notes=(Note(AUTHOR, "SPL Category: x."),), without=(*blank, "NhsCtasId"), **metadata)

    async def go(both: Talk) -> None:
        both.go_wrong("create", "lost")
        both.go_wrong("note", "lost")
        ledger = Ledger((3, "before"))
        sent = await ledger.send_until_over(both, row)
        assert (sent.step, both.counts, both.asked("search")) == (Step.DONE, (1, 1, 1), 0)

    talk(go)


def test_a_row_that_was_sent_before_is_matched_and_gets_no_note_twice():
    async def go(both: Talk) -> None:
        await Ledger().send(both)
        sent = await Ledger().send(both)
        assert (sent.step, sent.action, sent.notes_added, sent.shielding_request_id) == (Step.DONE, Action.MATCHED, 0, None)
        assert both.counts == (1, 2, 3)

    talk(go)


def test_a_request_that_was_there_before_is_matched_by_a_client_that_has_not_seen_it():
    async def go(both: Talk) -> None:
        old = {**PREPARED.request, "DateTimeRecorded": (NOW - timedelta(days=900)).isoformat()}
        both.sandbox.store.create_request(both.sandbox.store.create_resident(old), old)
        for ledger in (Ledger(), Ledger((2, "before"))):
            assert (await ledger.send_until_over(both)).action is Action.MATCHED
        assert both.counts == (1, 2, 3)

    talk(go)


def test_notes_of_others_stay_and_raw_ones_are_known_again():
    async def go(both: Talk) -> None:
        store = both.sandbox.store
        request = store.create_request(store.create_resident(dict(PREPARED.request)), dict(PREPARED.request))
        for stored in (
            "",
            "not { json",
            "  Day 4   Outcome: well\n",
            orjson.dumps({"note": 'Comments: says "call later" \\ at 5'}).decode(),
        ):
            store.add_note(1, request, stored)
        sent = await Ledger().send(both, replace(PREPARED, shielding_note=None))
        assert (sent.step, sent.notes_added, both.counts) == (Step.DONE, 0, (1, 1, 4))

    talk(go)


def test_one_text_is_one_note_even_within_a_row():
    async def go(both: Talk) -> None:
        sent = await Ledger().send(both, prepared(notes=(Note(AUTHOR, "same"), Note(AUTHOR, " same "), Note(AUTHOR, "Same"))))
        assert (sent.notes_added, texts(both)) == (2, ["same", "Same"])

    talk(go)


def test_a_request_for_shielding_that_is_there_is_left_alone():
    async def go(both: Talk) -> None:
        store = both.sandbox.store
        store.create_request(store.create_resident(dict(PREPARED.request)), {"HelpNeeded": "shielding"})
        sent = await Ledger().send(both)
        assert (sent.step, sent.shielding_request_id, both.counts) == (Step.DONE, None, (1, 2, 2))

    talk(go)


def foreign(both: Talk, **fields: str) -> None:
    """Somebody else's record with the row's dedupe id, so that the API gives it for the row."""
    theirs = {"NhsNumber": "9990000123", "FirstName": "Other", "LastName": "Person", **fields}
    body = {**PREPARED.request, **theirs, "DateTimeRecorded": "2026-01-02T03:04:05"}
    both.sandbox.store.create_request(both.sandbox.store.create_resident(body), body)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"FirstName": "Testy", "LastName": "McFictional"}, PREPARED),
        ({"NhsNumber": ""}, PREPARED),
        ({"NhsNumber": "", "LastName": "McFictional"}, PREPARED),
        ({}, prepared(without=("NhsNumber",), notes=PREPARED.notes)),
    ],
    ids=["nhs_number", "names", "first_name", "names_only"],
)
def test_somebody_elses_record_gets_no_note(theirs: dict[str, str], ours: Prepared):
    async def go(both: Talk) -> None:
        foreign(both, **theirs)
        if theirs.get("FirstName"):
            # Same names, another number: the API would take the row for this person by its date of birth.
            both.sandbox.store.create_resident({"NhsNumber": "9990000115"})
        ledger = Ledger()
        sent = await ledger.send(both, ours)
        assert (sent.step, sent.code, sent.help_request_id, sent.resident_id) == (Step.QUARANTINED, "resident_mismatch", 1, 1)
        assert (sent.action, both.asked("create"), both.counts[2]) == (Action.MATCHED, 1, 0)
        asked = both.sandbox.calls.told()["total"]
        assert await ledger.send(both, ours) == sent
        assert both.sandbox.calls.told()["total"] == asked

    talk(go)


@pytest.mark.parametrize("nhs_number", ["999 000 0115", " 9990000115"])
def test_the_same_person_written_another_way_is_no_mismatch(nhs_number: str):
    async def go(both: Talk) -> None:
        store = both.sandbox.store
        body = {**PREPARED.request, "NhsNumber": nhs_number, "FirstName": "TESTY ", "LastName": "mcfictional"}
        store.create_request(store.create_resident(body), body)
        ledger = Ledger()
        ledger.kept = Progress(Step.CREATED, help_request_id=1)
        assert (await ledger.send(both)).step is Step.DONE

    talk(go)


def test_what_the_api_finds_wrong_with_a_call_has_failed_and_says_nothing_of_the_person():
    row = prepared(EmailAddress=["Marker"])

    async def go(both: Talk) -> None:
        ledger = Ledger()
        sent = await ledger.send(both, row)
        assert (sent.step, sent.action, sent.code, sent.attempts) == (Step.FAILED, Action.FAILED, "api_rejected", 1)
        with pytest.raises(Rejected) as raised:
            await both.api.create(row.request)
        assert "Marker" not in repr(raised.value)

    talk(go)


def test_whatever_went_wrong_inside_the_api_may_pass_and_ends_no_row():
    row = prepared(FirstName="Marker\0")

    async def go(both: Talk) -> None:
        ledger = Ledger()
        with pytest.raises(Transient, match="api_rejected") as raised:
            await ledger.send(both, row)
        assert "Marker" not in repr(raised.value)
        assert ledger.kept.step is Step.CREATING

    talk(go)


def test_a_request_that_was_deleted_fails_and_is_created_anew_when_it_is_retried():
    async def go(both: Talk) -> None:
        ledger = Ledger()
        ledger.kept = Progress(Step.CREATED, help_request_id=77)
        sent = await ledger.send(both)
        assert (sent.step, sent.code) == (Step.FAILED, "api_not_found")
        ledger.kept = Progress(Step.CREATING, attempts=sent.attempts)
        sent = await ledger.send(both)
        assert (sent.step, sent.attempts, both.counts) == (Step.DONE, 1, (1, 2, 3))

    talk(go)
