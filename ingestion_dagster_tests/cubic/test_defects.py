"""Ways in which transit files have been lost, doubled or stuck elsewhere, told from landing zone to springboard: none of them here.

What a snapshot makes of late and early files is told one by one in `test_discovery`, what a feed may serve in `test_fetch`.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.cubic.registry import PIPELINE, parse_registry
from ingestion_dagster.cubic.zone import prepare, zone
from ingestion_dagster.engine import landing, ledger, moving, whereabouts
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.local_store import LocalStore
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster_tests.cubic import driver
from ingestion_dagster_tests.cubic import test_crashes as crashes
from ingestion_dagster_tests.cubic.conftest import REGISTRY, TAPS, Cubic, csv, metadata, moment
from ingestion_dagster_tests.cubic.test_crashes import EVENTS, FARES, GATES, changes, records

one = crashes.one


@pytest.fixture
def database(one: Database) -> Database:
    """The module's database, emptied."""
    return driver.emptied(one)


AT_SIX, AT_SEVEN = "20260102T060000Z", "20260102T070000Z"


def part(number: int) -> str:
    return f"{TAPS}/LOAD{number:08}.csv.gz"


def tap(number: int) -> bytes:
    return csv(f"{number},x,1.00")


def fare(*counts: int) -> bytes:
    return csv(*[f"2026-01-{day:02},{count}" for day, count in enumerate(counts, start=1)], header="day,count")


def fates(cubic: Cubic) -> dict[str, tuple[str, str | None, str | None]]:
    return {state["key"]: (state["status"], state["error_code"], state["snapshot"]) for state in cubic.states()}


def taps(cubic: Cubic) -> list[int]:
    return [row["tap_id"] for row in cubic.query("SELECT tap_id FROM taps ORDER BY 1")]


def discovered(cubic: Cubic) -> None:
    with cubic.database.connect() as connection:
        prepare(connection, cubic.registry)
        landing.discover(connection, zone(cubic.settings, cubic.registry), datetime.now(UTC))


def test_a_file_of_the_same_second_as_the_newest_one_that_was_loaded_is_loaded(cubic: Cubic) -> None:
    cubic.land(part(1), tap(1), moment("06:00:00"))
    cubic.run()
    cubic.land(part(2), tap(2), moment("06:00:00"))
    cubic.run(run_id="next")
    assert taps(cubic) == [1, 2]


def test_changes_older_than_the_newest_part_of_the_table_are_loaded_in_the_same_pass(cubic: Cubic) -> None:
    cubic.land(part(1), tap(1), moment("06:00:00"))
    cubic.land(f"{TAPS}__ct/20260102-060001000.csv.gz", changes("U,1,y,1.00"), moment("06:00:01"))
    cubic.land(part(2), tap(2), moment("06:00:30"))
    cubic.run()
    assert cubic.query("SELECT count(*) AS n FROM taps__ct") == [{"n": 1}]


def test_a_backlog_whose_names_and_times_are_sorted_differently_is_loaded_whole_however_small_the_batches(cubic: Cubic) -> None:
    cubic.land(part(1), tap(1), moment("05:00:00"))
    for number in range(2, 10):
        cubic.land(part(number), tap(number), moment(f"06:00:{59 - number}"))
    outcome = cubic.run(batch_files=2)
    assert outcome.total().loads_archived == 9
    assert taps(cubic) == [*range(1, 10)]


def test_an_upload_that_ends_after_younger_files_were_loaded_is_loaded(cubic: Cubic) -> None:
    cubic.land(part(1), tap(1), moment("06:00:00"))
    cubic.land(part(3), tap(3), moment("09:00:00"))
    cubic.run()
    cubic.land(part(2), tap(2), moment("06:00:01"))
    cubic.run(run_id="next")
    assert taps(cubic) == [1, 2, 3]


@pytest.mark.parametrize("together", [True, False], ids=["seen in one pass", "seen in an earlier pass"])
def test_a_part_of_a_restart_that_is_there_before_its_marker_belongs_to_the_new_snapshot(cubic: Cubic, together: bool) -> None:
    for number in (1, 2):
        cubic.land(part(number), tap(number), moment(f"06:00:0{number - 1}"))
    cubic.run()
    cubic.land(part(2), tap(22), moment("06:59:59"))
    if not together:
        cubic.run(run_id="early")
        assert cubic.state(part(2))["waiting_for"] == "snapshot"
    cubic.land(part(1), tap(11), moment("07:00:00"))
    cubic.run(run_id="next")
    assert cubic.query(f"SELECT tap_id FROM taps WHERE snapshot = '{AT_SEVEN}' ORDER BY 1") == [{"tap_id": 11}, {"tap_id": 22}]
    assert cubic.query(f"SELECT tap_id FROM taps WHERE snapshot = '{AT_SIX}' ORDER BY 1") == [{"tap_id": 1}, {"tap_id": 2}]


def test_changes_before_the_first_snapshot_wait_for_it(cubic: Cubic) -> None:
    cubic.land(f"{TAPS}__ct/20260102-050000000.csv.gz", changes("U,1,y,1.00"), moment("05:00:00"))
    cubic.run()
    [waiting] = cubic.states()
    assert (waiting["status"], waiting["waiting_for"], cubic.keys("error")) == ("ready", "snapshot", [])
    cubic.land(part(1), tap(1), moment("06:00:00"))
    cubic.run(run_id="next")
    assert cubic.query("SELECT snapshot FROM taps__ct") == [{"snapshot": AT_SIX}]


def test_a_dataset_issued_again_keeps_both_files_and_the_newer_one_counts(cubic: Cubic) -> None:
    for at, content in (("06:00:00", fare(1)), ("07:00:00", fare(2, 3))):
        cubic.land(f"{FARES}/a.csv.gz", content, moment(at))
        cubic.run(run_id=at)
    assert cubic.query("SELECT sum(count) AS n FROM fares") == [{"n": 5}]
    assert len(cubic.keys("archive")) == 2


def test_a_dataset_refused_twice_keeps_both_files_and_both_reports(cubic: Cubic) -> None:
    for at, content in (("06:00:00", b"no gzip"), ("07:00:00", fare(1)[:-5])):
        cubic.land(f"{FARES}/a.csv.gz", content, moment(at))
        cubic.run(run_id=at)
    assert [state["error_code"] for state in cubic.states()] == ["not_gzip", "gzip_truncated"]
    assert len(cubic.keys("error")) == 4


def test_a_bad_file_takes_none_of_its_batch_with_it_and_shows_nothing_of_itself(cubic: Cubic) -> None:
    for number in range(1, 11):
        cubic.land(part(number), b"no gzip" if number == 5 else tap(number), moment(f"06:00:{number:02}"))
    outcome = cubic.run()
    assert (outcome.total().loads_archived, outcome.total().loads_errored) == (9, 1)
    assert taps(cubic) == [1, 2, 3, 4, 6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    "trouble", [Transient("object_store_unavailable", "away"), ConfigurationError("not open to us")], ids=["away", "closed"]
)
def test_a_table_that_cannot_be_read_keeps_no_other_from_loading(cubic: Cubic, monkeypatch: pytest.MonkeyPatch, trouble: Exception) -> None:
    """One folder of a bucket may be closed to us, or encrypted with a key that is not ours."""
    stream = LocalStore.stream

    def closed(store: LocalStore, obj: StoredObject) -> Iterator[bytes]:
        if obj.key.startswith(FARES):
            raise trouble
        return stream(store, obj)

    monkeypatch.setattr(LocalStore, "stream", closed)
    cubic.land(f"{FARES}/a.csv.gz", fare(1), moment("01:00:00"))
    cubic.land(part(1), tap(1), moment("06:00:00"))
    with suppress(Transient, ConfigurationError):
        cubic.run()
    assert cubic.state(part(1))["status"] == "archived"


def test_a_table_that_brings_a_defect_of_ours_to_light_keeps_no_other_from_loading(cubic: Cubic, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a value of a record")

    monkeypatch.setattr("ingestion_dagster.cubic.dmap.convert_csv", broken)
    cubic.land(f"{FARES}/a.csv.gz", fare(1), moment("01:00:00"))
    cubic.land(part(1), tap(1), moment("06:00:00"))
    cubic.run()
    assert fates(cubic) == {f"{FARES}/a.csv.gz": ("errored", "internal_error", None), part(1): ("archived", None, AT_SIX)}


def test_a_table_that_has_left_the_registry_between_discovery_and_run_keeps_no_other_from_loading(cubic: Cubic) -> None:
    cubic.land(f"{FARES}/a.csv.gz", fare(1), moment("01:00:00"))
    cubic.land(part(1), tap(1), moment("06:00:00"))
    discovered(cubic)
    cubic.registry = parse_registry(REGISTRY.replace("{name: fares,", "{name: fares, is_active: false,"))
    cubic.run()
    assert {key: fate[0] for key, fate in fates(cubic).items()} == {f"{FARES}/a.csv.gz": "ready", part(1): "archived"}


def test_asking_for_the_status_neither_waits_for_a_run_nor_holds_one_up(cubic: Cubic) -> None:
    cubic.land(part(1), tap(1), moment("06:00:00"))
    discovered(cubic)
    with cubic.database.connect() as run, cubic.database.connect() as person, run.transaction():
        run.execute("SELECT FROM ledger.loads FOR UPDATE")
        person.execute("SET statement_timeout = '2s'")
        with person.transaction():
            assert whereabouts.status_counts(person, PIPELINE)
            assert whereabouts.load_states(person, PIPELINE)
            run.execute("SET LOCAL statement_timeout = '2s'")
            run.execute("UPDATE ledger.loads SET run_id = 'x'")


def test_a_file_larger_than_a_batch_may_be_is_loaded_by_itself(cubic: Cubic) -> None:
    cubic.land(part(1), csv(*[f"{number},x,1.00" for number in range(500)]), moment("06:00:00"))
    cubic.land(part(2), tap(1000), moment("06:00:01"))
    cubic.run(batch_bytes=100)
    assert {fate[0] for fate in fates(cubic).values()} == {"archived"}
    sizes = cubic.sql("SELECT count(*) FROM ledger.loads GROUP BY claim")
    assert sizes == [(1,), (1,)]


def test_changes_are_claimed_in_their_order_and_a_large_backlog_keeps_no_refused_file_from_its_place(cubic: Cubic) -> None:
    cubic.land(part(1), tap(1), moment("06:00:00"))
    for number in reversed(range(1, 13)):
        cubic.land(f"{TAPS}__ct/20260102-07000{number % 10}{number:03}.csv.gz", changes("U,1,y,1.00"), moment(f"07:00:{number:02}"))
    cubic.land(f"{FARES}/bad.csv.gz", b"no gzip", moment("23:00:00"))
    cubic.run(batch_files=3)
    claimed = cubic.sql(
        "SELECT l.key, l.modified FROM ledger.loads AS l JOIN ledger.datasets AS d ON d.id = l.dataset_id "
        "WHERE d.name = 'taps__ct' ORDER BY l.claim, l.modified"
    )
    assert [row[1] for row in claimed] == sorted(row[1] for row in claimed)
    finished = [row[0] for row in cubic.sql("SELECT key FROM ledger.loads ORDER BY finished_at")]
    assert finished.index(f"{FARES}/bad.csv.gz") < 6, "it waited for the whole backlog"


def test_files_of_a_table_that_is_no_longer_active_wait_until_it_is_again(cubic: Cubic) -> None:
    cubic.land(f"{FARES}/a.csv.gz", fare(1), moment("06:00:00"))
    discovered(cubic)
    active = cubic.registry
    cubic.registry = parse_registry(REGISTRY.replace("{name: fares,", "{name: fares, is_active: false,"))
    cubic.land(f"{FARES}/b.csv.gz", fare(2), moment("06:00:01"))
    assert cubic.run().total().loads_archived == 0
    assert {fate[0] for fate in fates(cubic).values()} == {"ready"}
    assert len(fates(cubic)) == 2, "it is seen all the same"
    cubic.registry = active
    assert cubic.run(run_id="next").total().loads_archived == 2


def test_a_file_without_its_metadata_is_loaded_and_says_so(cubic: Cubic) -> None:
    cubic.land(f"{GATES}/LOAD00000001.csv.gz", csv("1,x", header="GATE,NAME"), moment("06:00:00"))
    cubic.run()
    assert cubic.state(f"{GATES}/LOAD00000001.csv.gz")["status"] == "archived"
    [(problems,)] = cubic.sql("SELECT problems FROM ledger.loads")
    assert [(problem["code"], problem["severity"]) for problem in problems] == [("metadata_missing", "warning")]
    assert len(cubic.keys("archive")) == 1


def test_a_load_that_takes_longer_than_a_lease_keeps_it(cubic: Cubic, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = landing.stream
    reading = threading.Event()

    def slow(*arguments: Any) -> Iterator[bytes]:
        reading.set()
        time.sleep(2)
        return stream(*arguments)

    monkeypatch.setattr(landing, "stream", slow)
    cubic.land(f"{FARES}/a.csv.gz", fare(1), moment("06:00:00"))
    run = threading.Thread(target=cubic.run, kwargs={"limits": Limits(lease_seconds=0.9)})
    run.start()
    assert reading.wait(30)
    time.sleep(1.5)
    with cubic.database.connect() as other:
        assert ledger.expire(other, PIPELINE, 3) == 0
        assert ledger.claimable(other, Scope(PIPELINE))[0] == 0
    run.join()
    assert cubic.state(f"{FARES}/a.csv.gz")["attempts"] == 0
    assert cubic.state(f"{FARES}/a.csv.gz")["status"] == "archived"


def test_a_publication_that_takes_longer_than_a_lease_is_finished(cubic: Cubic, monkeypatch: pytest.MonkeyPatch) -> None:
    take = LocalStore.take

    def slow(store: LocalStore, file: Path, key: str) -> None:
        time.sleep(1)
        take(store, file, key)

    monkeypatch.setattr(LocalStore, "take", slow)
    cubic.land(f"{FARES}/a.csv.gz", fare(1), moment("06:00:00"))
    with suppress(Transient):
        cubic.run(limits=Limits(lease_seconds=0.6))
    assert cubic.state(f"{FARES}/a.csv.gz")["status"] == "archived"


def test_what_a_dead_run_had_in_hand_is_loaded_by_the_next(cubic: Cubic) -> None:
    cubic.land(part(1), tap(1), moment("06:00:00"))
    discovered(cubic)
    made = zone(cubic.settings, cubic.registry)
    with cubic.database.connect() as connection:
        assert len(ledger.claim(connection, Scope(PIPELINE), "dead", count=10, size=10**9, lease_seconds=-1)) == 1
        assert moving.sweep(connection, made, lease_seconds=60, max_attempts=3) == (1, 0)
    cubic.run()
    assert taps(cubic) == [1]


@pytest.mark.parametrize("count", ["1_000", "nan", "0x1F", "1.0", "9223372036854775808", "\uff11\uff12", "1e3", "true", "-"])
def test_a_value_that_only_looks_like_a_number_is_rejected_with_its_row_and_no_other(cubic: Cubic, count: str) -> None:
    cubic.land(f"{TAPS}/LOAD00000001.csv.gz", csv(*[f"{n},x,1.00" for n in range(1999)], f"{count},x,1.00"), moment("06:00:00"))
    cubic.run()
    state = cubic.state(part(1))
    assert (state["status"], state["rows_written"], state["rows_rejected"]) == ("archived", 1999, 1)


@pytest.mark.parametrize("value", ["nan", "inf", "1_0.5", "1.234", "123456789.00"])
def test_a_value_that_a_decimal_cannot_hold_is_rejected_and_not_rounded(cubic: Cubic, value: str) -> None:
    cubic.land(f"{TAPS}/LOAD00000001.csv.gz", csv(*[f"{n},x,1.00" for n in range(1999)], f"2000,x,{value}"), moment("06:00:00"))
    cubic.run()
    assert cubic.state(part(1))["rows_rejected"] == 1


def test_a_file_below_no_registered_prefix_is_seen_and_loaded_once_there_is_an_entry(cubic: Cubic) -> None:
    cubic.land("cubic/dmap/new/a.csv.gz", csv("1", header="a"), moment("06:00:00"))
    cubic.run()
    [state] = cubic.states()
    assert (state["dataset"], state["status"], state["waiting_for"]) == ("unclassified", "ready", "dataset")
    cubic.registry = parse_registry(REGISTRY + "  - {name: news, prefix: cubic/dmap/new, kind: dmap}\n")
    cubic.run(run_id="next")
    assert cubic.query("SELECT a FROM news") == [{"a": "1"}]


def test_a_marker_without_a_byte_starts_no_snapshot_and_hides_none(cubic: Cubic) -> None:
    cubic.land(part(1), tap(1), moment("06:00:00"))
    cubic.run()
    cubic.land(part(1), b"", moment("07:00:00"))
    cubic.land(part(2), tap(2), moment("07:00:01"))
    cubic.land(f"{TAPS}__ct/20260102-070500000.csv.gz", changes("U,1,y,1.00"), moment("07:05:00"))
    cubic.run(run_id="next")
    assert cubic.sql("SELECT count(*) FROM ledger.snapshots") == [(1,)]
    assert cubic.state(part(1))["error_code"] == "empty_file"
    assert cubic.query(f"SELECT tap_id FROM taps WHERE snapshot = '{AT_SIX}' ORDER BY 1") == [{"tap_id": 1}, {"tap_id": 2}]
    assert cubic.query("SELECT snapshot FROM taps__ct") == [{"snapshot": AT_SIX}]


def test_two_files_of_one_name_in_two_folders_of_a_table_do_not_overwrite_each_other(cubic: Cubic) -> None:
    cubic.land(f"{FARES}/2025/a.csv.gz", fare(1), moment("06:00:00"))
    cubic.land(f"{FARES}/2026/a.csv.gz", fare(2), moment("06:00:01"))
    cubic.run()
    loaded = sum(state["rows_written"] for state in cubic.states())
    assert cubic.query("SELECT count(*) AS n FROM fares") == [{"n": loaded}]


def test_a_file_whose_name_is_too_long_for_the_springboard_keeps_no_other_table_from_loading(cubic: Cubic) -> None:
    cubic.land(f"{FARES}/{'a' * 243}.csv.gz", fare(1), moment("01:00:00"))
    cubic.land(part(1), tap(1), moment("06:00:00"))
    with suppress(ValueError):
        cubic.run()
    assert cubic.state(part(1))["status"] == "archived"


def test_a_file_with_an_equals_sign_in_its_name_leaves_its_table_readable(cubic: Cubic) -> None:
    for number, name in enumerate(("plain.csv.gz", "a=b.csv.gz", "a b%2F+é.csv.gz"), start=1):
        cubic.land(f"{FARES}/{name}", fare(number), moment("06:00:00"))
    cubic.run()
    with suppress(ConfigurationError):
        assert cubic.query("SELECT sum(count) AS n FROM fares") == [{"n": 6}]
        return
    pytest.fail("the table cannot be read")


def test_the_report_of_a_file_with_rejected_rows_counts_those_that_were_written(cubic: Cubic) -> None:
    cubic.land(
        part(1),
        csv(*[f"{n},x,1.00" for n in range(1999)], "x,x,1.00"),
        moment("06:00:00"),
        dfm=metadata({"TAP_ID": "INT8", "NOTE": "STRING", "FARE": "NUMERIC(10,2)"}, 2000),
    )
    cubic.run()
    [report] = [key for key in cubic.keys("archive") if key.endswith(".report.json")]
    text = (Path(cubic.settings.storage.removeprefix("file://")) / "cubic/archive" / report).read_text()
    assert '"rows_written": 1999' in text


def test_records_are_written_once_though_their_batch_is_refused_in_between(cubic: Cubic) -> None:
    cubic.land(f"{EVENTS}/a.json.gz", records(*range(10)), moment("06:00:00"))
    cubic.land(f"{EVENTS}/b.json.gz", records(*range(5, 15))[:-5], moment("06:00:01"))
    cubic.land(f"{EVENTS}/c.json.gz", records(*range(5, 15)), moment("06:00:02"))
    cubic.run()
    assert [state["error_code"] for state in cubic.states()] == [None, "gzip_truncated", None]
    assert cubic.query('SELECT count(*) AS n, count(DISTINCT "offset") AS d FROM events') == [{"n": 15, "d": 15}]


def test_a_late_file_from_between_two_added_columns_is_loaded(cubic: Cubic) -> None:
    for number, names in ((1, "A"), (3, "ABC"), (2, "AB")):
        key = f"cubic/ods_qlik/EDW.LOOSE/LOAD{number:08}.csv.gz"
        dfm = metadata(dict.fromkeys(names, "STRING"), 1, ("A",))
        cubic.land(key, csv(",".join(names.lower()), header=",".join(names)), moment(f"06:00:0{number}"), dfm=dfm)
        cubic.run(run_id=names)
        assert cubic.state(key)["waiting_for"] is None
    assert cubic.query("SELECT b, c FROM loose WHERE identifier LIKE 'LOAD00000002%'") == [{"b": "b", "c": None}]
