"""Files through the load step: each sample, repeats, days, mended and duplicate files, turns, and an API or a folder that gives way."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.engine import landing
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.datasets import pause_dataset, resume_dataset
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.local_drop_folder import LocalDropFolder
from ingestion_dagster.residents import job, row_ledger, upkeep
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster_tests.residents.scene import (
    AS_OF,
    SAMPLES,
    Residents,
    Row,
    Workbook,
    api,
    as_csv,
    contact_tracing,
    generic,
    nhs_number,
    nsss,
    residents,
    self_isolation,
)

__all__ = ["api", "residents"]

WORD = "Zyxwquark"


@dataclass(frozen=True)
class Expected:
    """What becomes of a sample on an empty API."""

    sample: str
    counts: tuple[int, int, int]
    """Residents, help requests and case notes afterwards."""
    status: str = "complete"
    codes: dict[int, str] = field(default_factory=dict)
    """Reason codes by row."""
    says: tuple[str, ...] = ()
    """Words of the report's problems."""

    @property
    def exit_code(self) -> int:
        return 0 if self.status == "complete" else 2


NOTHING = (0, 0, 0)
EXPECTED = [
    Expected("contact_tracing/01_valid_with_preamble.csv", (4, 4, 1)),
    Expected("contact_tracing/01_valid_with_preamble.xlsx", (4, 4, 1)),
    Expected("contact_tracing/02_bad_headers.csv", NOTHING, "refused", says=("missing_header", "Account ID", "AccountID")),
    Expected("contact_tracing/03_bad_dob.csv", (2, 2, 0), "partial", {2: "bad_date", 3: "ambiguous_year"}),
    Expected("nsss/01_valid.csv", (3, 3, 3)),
    Expected("nsss/01_valid.xlsx", (3, 3, 3)),
    Expected("nsss/02_bad_headers.csv", NOTHING, "refused", says=("missing_header", "address_postcode", "'postcode'")),
    Expected("nsss/03_bad_dob.csv", (3, 3, 3), "partial", {2: "bad_date"}),
    Expected("spl/01_valid.csv", (3, 3, 3)),
    Expected("spl/01_valid.xlsx", (3, 3, 3)),
    Expected("spl/02_bad_headers.csv", (1, 1, 1), says=("warning", "SPL_Version")),
    Expected("spl/03_bad_dob.csv", (2, 2, 2), "partial", {2: "bad_date_format", 3: "bad_date_format"}),
    Expected("self_isolation/01_valid.csv", (3, 4, 4)),
    Expected("self_isolation/01_valid.xlsx", (3, 4, 4)),
    Expected("self_isolation/02_bad_headers.csv", NOTHING, "refused", says=("missing_header", "Day 10 Outcome", "Day10 Outcome")),
    Expected("self_isolation/03_bad_dates.csv", (1, 1, 0), "partial", {2: "bad_date", 3: "bad_date"}),
    Expected("generic/01_valid.csv", (3, 3, 2)),
    Expected("generic/01_valid.xlsx", (3, 3, 2)),
    Expected("generic/02_bad_headers.csv", NOTHING, "refused", says=("missing_header", "d.o.b", "Date of Birth")),
    Expected("generic/03_bad_dob.csv", (1, 1, 0), "partial", {2: "bad_date", 3: "bad_date"}),
]


def reports(residents: Residents, dataset: str) -> list[Workbook]:
    return [Workbook.read(residents.drive / dataset / "outbound" / name) for name in residents.outbound(dataset)]


@pytest.mark.parametrize("expected", EXPECTED, ids=[each.sample for each in EXPECTED])
def test_each_sample_ends_as_it_should_on_an_empty_api(residents: Residents, expected: Expected) -> None:
    dataset, _, name = expected.sample.partition("/")
    residents.drop(expected.sample, (SAMPLES / expected.sample).read_bytes())
    outcome = residents.run()
    found = reports(residents, dataset)
    assert residents.counts == expected.counts
    if expected.status == "refused":
        assert residents.outbound(dataset) == [f"REFUSED_{name}_2026-11-20.xlsx"]
        assert residents.calls() == 0
    else:
        assert len(found) == (2 if dataset == "contact_tracing" else 1)
        codes = {number: code for report in found for number, code in report.codes.items()}
        assert codes == expected.codes
        done = sum(row["status"] == "done" and row["action"] == "created" for report in found for row in report.rows)
        assert done == len([row for report in found for row in report.rows]) - len(expected.codes)
    assert {report.summary["status"] for report in found} == {expected.status}
    told = " ".join(report.text for report in found)
    assert [word for word in expected.says if word not in told] == []
    tally = outcome.total()
    assert (2 if tally.loads_errored or tally.rows_rejected else 0) == expected.exit_code
    assert residents.state(name)["status"] == ("errored" if expected.status == "refused" else "archived")
    assert (residents.drive / dataset / "inbound" / name).is_file(), "what people have dropped stays where it is"


def test_samples_of_all_datasets_together_are_one_run(residents: Residents) -> None:
    expected = [each for each in EXPECTED if each.sample.endswith(".csv")]
    for each in expected:
        residents.drop(each.sample, (SAMPLES / each.sample).read_bytes())
    outcome = residents.run()
    assert outcome.total().loads_archived == sum(each.status != "refused" for each in expected)
    assert outcome.total().loads_errored == sum(each.status == "refused" for each in expected)
    assert sorted(line.split(" is ")[0] for line in outcome.troubled) == sorted(
        each.sample.replace("/", ": ") for each in expected if each.exit_code
    )


def test_names_and_phones_arrive_as_they_were_written(residents: Residents) -> None:
    sample = "contact_tracing/01_valid_with_preamble.csv"
    residents.drop(sample, (SAMPLES / sample).read_bytes())
    residents.run()
    kept = [residents.api.store.resident(number) for number in range(1, 5)]
    assert {each["LastName"] for each in kept if each} == {"McFictional", "Sampleton", "Placeholder-Jones", "O'Nullworth"}
    assert {each["ContactTelephoneNumber"][:5] for each in kept if each} == {"07700"}


# The same rows again


@pytest.mark.parametrize("name", ["a.csv", "renamed.csv", "other format.xlsx"])
def test_the_same_rows_cost_no_call(residents: Residents, name: str) -> None:
    rows = [nsss(1), nsss(2)]
    residents.drop("nsss/a.csv", rows)
    residents.run()
    before, calls = residents.counts, residents.calls()
    residents.drop(f"nsss/{name}", rows)
    residents.run()
    assert (residents.counts, residents.calls()) == (before, calls)
    assert residents.statuses()[name] == "archived"
    if name != "a.csv":
        report = residents.report("nsss", f"PROCESSED_{name}")
        assert [(row["status"], row["reason_code"]) for row in report.rows] == [("done", "already_done")] * 2
        first = residents.report("nsss", "PROCESSED_a.csv")
        assert [row["resident_id"] for row in report.rows] == [row["resident_id"] for row in first.rows]


def test_a_new_row_in_a_known_file_is_the_only_one_sent(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(2)])
    residents.run()
    residents.drop("nsss/a.csv", [nsss(3), nsss(2), nsss(1)])
    outcome = residents.run()
    assert residents.counts == (3, 3, 3)
    assert residents.calls("create") == 3
    assert (outcome.total().rows_in, outcome.total().rows_written, outcome.total().rows_unchanged) == (3, 1, 2)


def test_a_row_twice_in_one_file_is_sent_once(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(1)])
    residents.run()
    assert (residents.counts, residents.calls("create")) == ((1, 1, 1), 1)
    assert residents.report("nsss").codes == {2: "already_done"}


def test_a_row_of_two_datasets_is_another_row_in_each(residents: Residents) -> None:
    residents.drop("contact_tracing/a.csv", [contact_tracing(1)])
    residents.drop("self_isolation/a.csv", [self_isolation(1)])
    residents.run()
    assert residents.counts[:2] == (1, 2)


def test_a_changed_row_is_sent_again(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    residents.drop("nsss/a.csv", [nsss(1, submission_datetime="2021-03-05T03:10:31Z")])
    residents.run()
    assert residents.counts == (1, 1, 2), "another submission is another note"
    assert residents.outbound("nsss") == ["PROCESSED_a.csv_2026-11-20 (2).xlsx", "PROCESSED_a.csv_2026-11-20.xlsx"]


def test_an_identical_file_under_the_same_name_has_no_second_report(residents: Residents) -> None:
    rows = [nsss(1)]
    residents.drop("nsss/a.csv", rows)
    residents.run()
    residents.drop("nsss/a.csv", rows)
    outcome = residents.run()
    assert outcome.total().loads_duplicate == 1
    assert residents.state("a.csv")["duplicate_of"] is not None
    assert len(residents.outbound("nsss")) == 1


# Days


@pytest.mark.parametrize(("days", "status"), [(13, "done"), (14, "skipped")])
def test_a_case_counts_for_thirteen_days(residents: Residents, days: int, status: str) -> None:
    residents.drop("contact_tracing/a.csv", [contact_tracing(1, {"Date Tested": f"{AS_OF - timedelta(days=days):%d/%m/%Y}"})])
    residents.run()
    assert residents.query(
        "SELECT coalesce(r.step, f.judged) FROM residents.file_rows f LEFT JOIN residents.rows r ON r.id = f.row_id"
    ) == [(status,)]
    assert residents.counts[1] == (status == "done")


@pytest.mark.parametrize(("days", "status"), [(6, "done"), (7, "skipped")])
def test_self_isolation_counts_for_six_days(residents: Residents, days: int, status: str) -> None:
    residents.drop("self_isolation/a.csv", [self_isolation(1, {"Date Tested": f"{AS_OF - timedelta(days=days):%d/%m/%Y}"})])
    residents.run()
    [row] = residents.report("self_isolation").rows
    assert row["status"] == status
    assert residents.counts[1] == (status == "done")


@pytest.mark.parametrize(
    ("instant", "day"),
    [("2026-07-01T22:59:59", "2026-07-01"), ("2026-07-01T23:00:00", "2026-07-02"), ("2026-01-01T23:30:00", "2026-01-01")],
)
def test_the_day_turns_at_midnight_in_london(residents: Residents, monkeypatch: pytest.MonkeyPatch, instant: str, day: str) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.fromisoformat(f"{instant}+00:00").astimezone(tz)

    monkeypatch.setattr(job, "datetime", Clock)
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run(as_of=None)
    assert residents.outbound("nsss") == [f"PROCESSED_a.csv_{day}.xlsx"]


def begun_on_the_last_day(residents: Residents) -> None:
    """A file of a case that is thirteen days old today, and an API that takes nothing."""
    tested = f"{AS_OF - timedelta(days=13):%d/%m/%Y}"
    residents.drop("contact_tracing/a.csv", [contact_tracing(number, {"Date Tested": tested}) for number in range(16)])
    residents.go_wrong("create", "500", until=True)
    with pytest.raises(Transient):
        residents.run(job=replace(residents.job(AS_OF), asked=False))
    assert residents.statuses() == {"a.csv": "ready"}
    residents.be_well()


def test_a_file_that_is_resumed_after_midnight_keeps_its_day(residents: Residents) -> None:
    begun_on_the_last_day(residents)
    residents.run(job=replace(residents.job(AS_OF + timedelta(days=1)), asked=False))
    assert residents.counts[1] == 16
    assert residents.outbound("contact_tracing")[0] == "Hackney_CT_FOR_UPLOAD_a.csv_2026-11-20.xlsx"


def test_a_day_that_is_asked_for_is_the_one_that_counts(residents: Residents) -> None:
    begun_on_the_last_day(residents)
    residents.run(as_of=AS_OF + timedelta(days=1))
    assert residents.counts[1] == 0
    assert residents.report("contact_tracing", "Hackney").summary["rows skipped"] == 16


# Ids that stand for two people


def refused_rows(residents: Residents) -> list[tuple[str, int, str]]:
    return residents.query(
        "SELECT l.key, f.number, f.code FROM residents.file_rows AS f JOIN ledger.loads AS l ON l.id = f.load_id "
        "WHERE f.judged = 'refused' ORDER BY 1, 2"
    )


def test_an_id_of_two_people_in_one_file_is_refused_for_the_second(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(2, ID=nsss(1)["ID"])])
    residents.run()
    assert refused_rows(residents) == [("nsss/inbound/a.csv", 2, "dedupe_collision")]
    assert residents.counts == (1, 1, 1)
    assert "'error', 'dedupe_collision', 'row 2'" in residents.report("nsss").text


def test_an_id_of_two_people_in_two_files_is_refused_in_the_second(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    residents.drop("nsss/b.csv", [nsss(2, ID=nsss(1)["ID"])])
    residents.run()
    assert refused_rows(residents) == [("nsss/inbound/b.csv", 1, "dedupe_collision")]
    assert residents.counts == (1, 1, 1)
    assert "'error', 'dedupe_collision', 'row 1'" in residents.report("nsss", "PROCESSED_b").text


@pytest.mark.parametrize(
    "changed",
    [
        {"last_name": "Newname"},
        {"nhs_number": nhs_number(99)},
        {"nhs_number": "", "contact_email": "other@example.invalid"},
    ],
    ids=["new surname", "corrected NHS number", "no NHS number"],
)
@pytest.mark.parametrize("together", [True, False], ids=["one file", "two files"])
def test_one_person_with_corrected_details_is_no_collision(residents: Residents, changed: Row, together: bool) -> None:
    first, second = nsss(1), nsss(1, **changed)
    residents.drop("nsss/a.csv", [first, second] if together else [first])
    residents.run()
    if not together:
        residents.drop("nsss/b.csv", [second])
        residents.run()
    assert refused_rows(residents) == []
    assert residents.query("SELECT count(*) FROM residents.rows") == [(2,)]


def test_ids_of_generic_stand_for_a_kind_of_help_and_never_collide(residents: Residents) -> None:
    residents.drop("generic/a.csv", [generic(number) for number in range(5)])
    residents.run()
    assert refused_rows(residents) == []
    assert residents.counts == (5, 5, 5)


def test_a_collision_is_still_found_when_the_file_is_read_again(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1), nsss(2, ID=nsss(1)["ID"]), *(nsss(number) for number in range(3, 20))])
    residents.go_wrong("note", "500", until=True)
    with pytest.raises(Transient):
        residents.run()
    residents.be_well()
    residents.run()
    assert refused_rows(residents) == [("nsss/inbound/a.csv", 2, "dedupe_collision")]
    assert residents.counts == (18, 18, 18)


def test_a_row_that_was_sent_is_not_refused_because_of_a_stranger_before_it(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    residents.drop("nsss/b.csv", [nsss(2, ID=nsss(1)["ID"]), nsss(1)])
    residents.run()
    assert refused_rows(residents) == [("nsss/inbound/b.csv", 1, "dedupe_collision")]


# Refused, unread and mended files


def test_a_refused_file_is_loaded_when_it_has_been_mended(residents: Residents) -> None:
    bad = [{("postcode" if name == "address_postcode" else name): cell for name, cell in nsss(1).items()}]
    residents.drop("nsss/a.csv", bad)
    residents.run()
    assert residents.statuses() == {"a.csv": "errored"}
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    assert residents.statuses() == {"a.csv": "archived"}
    assert residents.outbound("nsss") == ["PROCESSED_a.csv_2026-11-20.xlsx", "REFUSED_a.csv_2026-11-20.xlsx"]


def test_the_same_bad_file_again_is_refused_again(residents: Residents) -> None:
    for _ in range(2):
        residents.drop("nsss/a.csv", b"this,is\nno,such file\n")
        residents.run()
    assert [state["status"] for state in residents.states()] == ["errored", "errored"]
    assert residents.outbound("nsss") == ["REFUSED_a.csv_2026-11-20 (2).xlsx", "REFUSED_a.csv_2026-11-20.xlsx"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("letter.pdf", b"%PDF-1.4 nothing"), ("photo.png", b"\x89PNG\r\n"), ("empty.csv", b""), ("broken.xlsx", b"PK\x03\x04 nothing")],
)
def test_what_is_no_spreadsheet_is_answered_in_the_outbound_folder(residents: Residents, name: str, content: bytes) -> None:
    residents.drop(f"spl/{name}", content)
    residents.run()
    assert residents.outbound("spl") == [f"REFUSED_{name}_2026-11-20.xlsx"]
    report = residents.report("spl")
    assert [row["severity"] for row in report.tabs["problems"]] == ["error"]
    assert residents.state(name)["error_code"] == report.tabs["problems"][0]["code"]


def test_a_file_that_is_too_large_is_answered_unread(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(number) for number in range(5)])
    residents.run(residents_max_file_bytes=100)
    assert residents.state("a.csv")["error_code"] == "too_large"
    assert residents.outbound("nsss") == ["REFUSED_a.csv_2026-11-20.xlsx"]


def test_a_file_taken_away_before_it_is_read_is_no_trouble_for_others(residents: Residents) -> None:
    gone = residents.drop("nsss/gone.csv", [nsss(1)])
    with residents.database.connect() as connection:
        upkeep.sync(connection, residents.settings)
        landing.discover(connection, residents.job().zone, datetime.now(UTC))
    gone.unlink()
    residents.drop("nsss/there.csv", [nsss(2)])
    residents.run()
    assert residents.statuses()["there.csv"] == "archived"
    assert residents.outbound("nsss") == ["PROCESSED_there.csv_2026-11-20.xlsx"]


def test_a_defect_that_one_file_brings_to_light_is_its_own_trouble(
    residents: Residents, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = DATASETS["nsss"]

    def judge(cells: Any, number: int, rules: Any) -> Any:
        if cells["last_name"] == WORD:
            raise ValueError(f"no rule for {cells['last_name']}")
        return known.judge(cells, number, rules)

    monkeypatch.setitem(DATASETS, "nsss", replace(known, judge=judge))
    residents.drop("nsss/a.csv", [nsss(1, last_name=WORD)])
    residents.drop("nsss/b.csv", [nsss(2)])
    with caplog.at_level(logging.DEBUG):
        residents.run()
    assert residents.statuses() == {"a.csv": "errored", "b.csv": "archived"}
    assert WORD not in caplog.text + str(residents.states())
    assert residents.outbound("nsss")[1].startswith("REFUSED_a.csv")


@pytest.mark.parametrize("error", [Transient("drive_unavailable", "no"), ConfigurationError("no access")], ids=["gives way", "set-up"])
def test_an_outbound_folder_that_cannot_be_written_does_not_hold_up_other_datasets(
    residents: Residents, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    put = LocalDropFolder.put_answer

    def refuse(folder: LocalDropFolder, dataset: str, *of: Any) -> Any:
        if dataset == "contact_tracing":
            raise error
        return put(folder, dataset, *of)

    residents.drop("contact_tracing/a.csv", [contact_tracing(1)])
    residents.drop("nsss/b.csv", [nsss(2)])
    with monkeypatch.context() as broken:
        broken.setattr(LocalDropFolder, "put_answer", refuse)
        with pytest.raises(type(error)):
            residents.run()
    assert residents.statuses() == {"a.csv": "ready", "b.csv": "archived"}
    assert residents.state("a.csv")["attempts"] == 0
    calls = residents.calls()
    residents.run()
    assert residents.statuses()["a.csv"] == "archived"
    assert residents.calls() == calls, "its rows were sent before, only the report was owing"


def test_a_file_where_the_outbound_folder_should_be_is_a_mistake_of_set_up(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    (residents.drive / "nsss" / "outbound").write_text("no folder")
    with pytest.raises(ConfigurationError):
        residents.run()
    assert residents.statuses() == {"a.csv": "ready"}


def begun(residents: Residents) -> None:
    """A file of which rows have been begun, and then the API failed."""
    residents.drop("nsss/a.csv", [nsss(number) for number in range(16)])
    residents.go_wrong("note", "500", until=True)
    with pytest.raises(Transient):
        residents.run()
    residents.be_well()


def test_a_file_replaced_while_it_was_under_way_leaves_no_row_open(residents: Residents) -> None:
    begun(residents)
    residents.drop("nsss/a.csv", [nsss(number) for number in range(8, 24)])
    residents.run()
    assert [state["status"] for state in residents.states()] == ["archived", "archived"]
    with residents.database.connect() as connection:
        assert row_ledger.open_rows(connection, "nsss") == 0, "the daily check would fail for ever"
    reports = {path.stem: path for path in (residents.drive / "nsss" / "outbound").iterdir()}
    assert len(reports) == 2, "the first version's rows that were sent are told of, too"
    assert residents.report("nsss", next(name for name in reports if name.endswith(" (2)"))).summary["rows done"] == 16


def test_a_file_taken_away_while_it_was_under_way_leaves_no_row_open(residents: Residents) -> None:
    begun(residents)
    (residents.drive / "nsss" / "inbound" / "a.csv").unlink()
    residents.run()
    assert residents.statuses() == {"a.csv": "errored"}
    with residents.database.connect() as connection:
        assert row_ledger.open_rows(connection, "nsss") == 0, "the daily check would fail for ever"


def test_a_file_that_was_taken_away_is_loaded_when_it_is_there_again(residents: Residents) -> None:
    begun(residents)
    path = residents.drive / "nsss" / "inbound" / "a.csv"
    aside = residents.drive / "aside.csv"
    path.rename(aside)
    residents.run()
    residents.drop("nsss/a.csv", aside.read_bytes())
    residents.run()
    assert residents.counts == (16, 16, 16)


def test_a_file_with_a_header_and_no_rows_is_answered(residents: Residents) -> None:
    residents.drop("nsss/a.csv", as_csv([nsss(1)]).splitlines(keepends=True)[0])
    residents.run()
    assert len(residents.outbound("nsss")) == 1
    assert residents.calls() == 0


def test_accounts_that_are_excluded_are_never_sent(residents: Residents) -> None:
    rows = [contact_tracing(1), contact_tracing(2)]
    residents.drop("contact_tracing/a.csv", rows)
    residents.run(residents_excluded_ctas_ids=f" {rows[0]['Account ID']} ,, other")
    assert residents.counts[0] == 1
    assert residents.report("contact_tracing", "Hackney").summary["reason excluded_account"] == 1


# Failed rows, and sending them again


def test_a_row_that_the_api_rejects_fails_alone_and_is_named(residents: Residents) -> None:
    residents.reject(2)
    residents.drop("nsss/a.csv", [nsss(1), nsss(2), nsss(3)])
    outcome = residents.run()
    report = residents.report("nsss")
    assert report.codes == {2: "api_rejected"}
    assert (report.rows[1]["status"], report.rows[1]["action"], report.rows[1]["attempts"]) == ("failed", "failed", 1)
    assert report.summary["status"] == "partial"
    [line] = outcome.troubled
    assert line.startswith("nsss: a.csv is partial (2 done, 1 failed api_rejected); report: file://")


@pytest.mark.parametrize("key", ["a.csv", "nsss/inbound/a.csv", None])
def test_retry_sends_only_the_rows_that_failed(residents: Residents, key: str | None) -> None:
    residents.reject(2)
    residents.drop("nsss/a.csv", [nsss(1), nsss(2)])
    residents.run()
    creates = residents.calls("create")
    residents.be_well()
    assert len(residents.retry(key)) == 1
    outcome = residents.run()
    assert residents.calls("create") == creates + 1
    assert residents.counts == (2, 2, 2)
    assert residents.outbound("nsss") == ["PROCESSED_a.csv_2026-11-20.xlsx"]
    report = residents.report("nsss")
    assert (report.summary["status"], [row["status"] for row in report.rows]) == ("complete", ["done", "done"])
    assert report.codes == {}
    tally = outcome.total()
    assert (tally.rows_in, tally.rows_written, tally.rows_unchanged, tally.rows_rejected) == (2, 1, 1, 0)


def test_retry_of_a_key_leaves_other_files_alone(residents: Residents) -> None:
    residents.reject(1, 2)
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.drop("nsss/b.csv", [nsss(2)])
    residents.drop("nsss/bb.csv", b"bad,file\n")
    residents.run()
    residents.be_well()
    assert residents.retry("nothing.csv") == set()
    assert residents.retry("csv") == set(), "a name is meant whole"
    assert len(residents.retry("b.csv")) == 1
    residents.run()
    assert residents.counts == (1, 1, 1)
    assert len(residents.retry(datasets={"spl"})) == 0
    assert len(residents.retry()) == 2


def test_a_retry_tells_how_many_rows_it_sent_and_not_how_many_it_tried(residents: Residents) -> None:
    residents.reject(2, 3)
    residents.drop("nsss/a.csv", [nsss(1), nsss(2), nsss(3)])
    residents.run()
    residents.be_well()
    residents.reject(3)
    residents.retry()
    tally = residents.run().total()
    assert (tally.rows_written, tally.rows_rejected) == (1, 1)


def test_a_request_that_has_gone_from_the_api_is_made_anew_at_a_retry(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(number) for number in range(16)])
    residents.go_wrong("note", "500", until=True)
    with pytest.raises(Transient):
        residents.run()
    residents.be_well()
    residents.api.store.reset()
    residents.run()
    assert set(residents.report("nsss").codes.values()) == {"api_not_found"}
    residents.retry()
    residents.run()
    assert residents.counts == (16, 16, 16)


def test_a_newer_version_is_retried_and_not_the_one_it_replaced(residents: Residents) -> None:
    residents.reject(1)
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    residents.drop("nsss/a.csv", [nsss(2)])
    residents.run()
    residents.be_well()
    assert residents.retry() == set()
    assert residents.query("SELECT step FROM residents.rows ORDER BY id") == [("failed",), ("done",)]


def test_a_failed_row_that_is_uploaded_again_is_sent_again(residents: Residents) -> None:
    residents.reject(1)
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    residents.be_well()
    residents.drop("nsss/b.csv", [nsss(1)])
    residents.run()
    assert residents.counts == (1, 1, 1), "whoever uploads a file cannot call retry"


def test_a_lost_reply_is_no_second_request_after_a_retry(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1, nhs_number=""), nsss(2)])
    residents.go_wrong("create", "lost", times=1)
    residents.run()
    assert residents.counts == (2, 2, 2)


def test_another_persons_record_is_quarantined_without_a_note(residents: Residents) -> None:
    stranger = {
        "FirstName": "Somebody",
        "LastName": "Else",
        "NhsNumber": nhs_number(50),
        "HelpNeeded": "Shielding",
        "Metadata": {"nsss_id": nsss(1)["ID"]},
    }
    resident = residents.api.store.create_resident(stranger)
    residents.api.store.create_request(resident, stranger)
    residents.drop("nsss/a.csv", [nsss(1), nsss(2)])
    outcome = residents.run()
    report = residents.report("nsss")
    assert report.codes == {1: "resident_mismatch"}
    assert report.rows[0]["status"] == "quarantined"
    assert residents.counts[2] == 1
    [line] = outcome.quarantined.values()
    assert "1 quarantined resident_mismatch" in line
    assert "Somebody" not in line


# An API that gives way


@pytest.mark.parametrize("how", ["500", "503", "reset"])
def test_an_api_that_fails_for_everybody_leaves_the_file_ready_and_uncharged(residents: Residents, how: str) -> None:
    residents.drop("nsss/a.csv", [nsss(number) for number in range(16)])
    residents.go_wrong("any", how, until=True)
    with pytest.raises(Transient) as trouble:
        residents.run()
    assert trouble.value.code == "http_unavailable"
    state = residents.state("a.csv")
    assert (state["status"], state["attempts"]) == ("ready", 0)
    assert residents.outbound("nsss") == []
    residents.be_well()
    residents.run()
    assert residents.counts == (16, 16, 16)
    assert residents.report("nsss").summary["status"] == "complete"


def test_a_key_that_is_not_taken_is_a_mistake_of_set_up(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.go_wrong("any", "403", until=True)
    with pytest.raises(ConfigurationError, match="INGESTION_RESIDENTS_API_KEY"):
        residents.run()
    assert residents.statuses() == {"a.csv": "ready"}


def test_without_an_api_nothing_is_claimed_and_the_next_step_is_said(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(1)])
    with pytest.raises(ConfigurationError, match="ingestion sandbox up"):
        residents.run(residents_api_url=None)
    assert residents.statuses() == {"a.csv": "ready"}


def test_an_outage_in_the_middle_costs_no_row_twice(residents: Residents) -> None:
    residents.drop("nsss/a.csv", [nsss(number) for number in range(30)])
    residents.go_wrong("any", "503", until=True, skip=40)
    with pytest.raises(Transient):
        residents.run(residents_requests_in_flight=4)
    residents.be_well()
    residents.run()
    assert residents.counts == (30, 30, 30)


# Turns, and time that is up


def slow(residents: Residents, milliseconds: int) -> None:
    residents.api.settings.change(latency_ms=milliseconds)


def test_a_large_file_gives_way_to_a_small_one_of_another_dataset(residents: Residents) -> None:
    slow(residents, 20)
    residents.drop("contact_tracing/large.csv", [contact_tracing(number) for number in range(60)])
    residents.drop("nsss/small.csv", [nsss(100)])
    residents.run(residents_turn_seconds=0.2, residents_requests_in_flight=1)
    assert residents.statuses() == {"large.csv": "archived", "small.csv": "archived"}
    [(small,), (large,)] = residents.query("SELECT finished_at FROM ledger.loads ORDER BY key DESC")
    assert small < large
    assert residents.counts == (61, 61, 1)
    assert residents.calls("create") == 61
    assert residents.state("large.csv")["attempts"] == 0


def test_a_large_file_is_not_interrupted_for_files_of_its_own_dataset(residents: Residents) -> None:
    slow(residents, 10)
    residents.drop("contact_tracing/a.csv", [contact_tracing(number) for number in range(20)])
    residents.drop("contact_tracing/b.csv", [contact_tracing(100)])
    residents.run(residents_turn_seconds=0.01, residents_requests_in_flight=1)
    assert residents.query("SELECT count(*) FROM ledger.load_events WHERE why LIKE '%%turn%%'", []) == [(0,)]


def test_a_large_file_is_not_interrupted_for_a_dataset_that_the_run_has_left(residents: Residents, monkeypatch: pytest.MonkeyPatch) -> None:
    put = LocalDropFolder.put_answer

    def refuse(folder: LocalDropFolder, dataset: str, *of: Any) -> Any:
        if dataset == "contact_tracing":
            raise Transient("drive_unavailable", "no")
        return put(folder, dataset, *of)

    monkeypatch.setattr(LocalDropFolder, "put_answer", refuse)
    slow(residents, 10)
    residents.drop("contact_tracing/a.csv", [contact_tracing(1)])
    residents.drop("nsss/large.csv", [nsss(number) for number in range(20)])
    with pytest.raises(Transient):
        residents.run(residents_turn_seconds=0.05, residents_requests_in_flight=1)
    assert residents.statuses() == {"a.csv": "ready", "large.csv": "archived"}
    assert residents.query("SELECT count(*) FROM ledger.load_events WHERE why LIKE '%%turn%%'", []) == [(0,)]


def test_time_that_is_up_in_the_middle_of_a_file_gives_it_back_uncharged(residents: Residents) -> None:
    slow(residents, 20)
    residents.drop("contact_tracing/a.csv", [contact_tracing(number) for number in range(60)])
    residents.run(limits=Limits(run_seconds=1), residents_requests_in_flight=1)
    state = residents.state("a.csv")
    assert (state["status"], state["attempts"]) == ("ready", 0)
    sent = residents.counts[0]
    assert 0 < sent < 60
    assert residents.outbound("contact_tracing") == []
    slow(residents, 0)
    residents.run()
    assert residents.counts == (60, 60, 0)
    assert residents.calls("create") == 60
    assert residents.report("contact_tracing", "Hackney").summary["seconds"] >= 1


def test_a_run_narrowed_to_one_dataset_takes_no_other(residents: Residents) -> None:
    residents.drop("contact_tracing/a.csv", [contact_tracing(1)])
    residents.drop("nsss/b.csv", [nsss(2)])
    residents.run(datasets=["nsss"])
    assert residents.statuses() == {"a.csv": "ready", "b.csv": "archived"}


def test_a_paused_dataset_waits(residents: Residents) -> None:
    residents.run()
    with residents.database.connect() as connection:
        pause_dataset(connection, "residents", "nsss", "under review")
    residents.drop("nsss/a.csv", [nsss(1)])
    residents.run()
    assert residents.statuses() == {"a.csv": "ready"}
    with residents.database.connect() as connection:
        resume_dataset(connection, "residents", "nsss")
    residents.run()
    assert residents.statuses() == {"a.csv": "archived"}


# What may not be found anywhere


def test_no_cell_is_in_the_ledger_or_the_log(residents: Residents, caplog: pytest.LogCaptureFixture) -> None:
    residents.reject(3)
    rows: Sequence[Row] = [
        nsss(1, last_name=WORD, date_of_birth=f"{WORD} 1990"),
        nsss(2, last_name=WORD, contact_email=f"{WORD}@example.invalid"),
        nsss(3, last_name=WORD, ID=f"{WORD}-3"),
        nsss(4, ID=f"{WORD}%"),
        nsss(5, last_name=f"{WORD}b", ID=f"{WORD}-3"),
    ]
    residents.drop("nsss/a.csv", rows)
    residents.drop("nsss/b.xlsx", [{WORD: "1", "x": "2"}])
    with caplog.at_level(logging.DEBUG):
        residents.run()
    assert sorted(residents.statuses().values()) == ["archived", "errored"]
    assert residents.report("nsss", "PROCESSED_a").codes.keys() == {1, 3, 4, 5}
    tables = residents.query(
        "SELECT format('%%I.%%I', table_schema, table_name) FROM information_schema.tables "
        "WHERE table_schema IN ('ledger', 'residents') AND table_type = 'BASE TABLE'",
        [],
    )
    kept = str([residents.query(f"SELECT t::text FROM {table} AS t") for (table,) in tables])
    assert "nsss/inbound/a.csv" in kept
    numbers = [row["nhs_number"] for row in rows]
    said = kept + caplog.text
    assert [word for word in [WORD, "McFictional", *numbers] if word.casefold() in said.casefold()] == []
    folders = [path for path in Path(residents.settings.home_folder).rglob("*") if path.is_file() and "drive" not in path.parts]
    assert [path for path in folders if WORD.encode() in path.read_bytes()] == []
