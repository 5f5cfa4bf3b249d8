"""What becomes of a file: every sample, every dress, every second delivery; and of one that cannot be read, or not to its end."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.local_store import LocalStore
from ingestion_dagster.engine.moving import SOURCE_DELETED
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.life_events import counts, load, record, upkeep
from ingestion_dagster.life_events.staging import Staging
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.histories import let_leases_run_out, query
from ingestion_dagster_tests.life_events import driver, loading
from ingestion_dagster_tests.life_events.driver import drop, run
from ingestion_dagster_tests.life_events.loading import group, loads, numbered, registration, rows, sample, states
from ingestion_dagster_tests.life_events.test_spool import on_a_full_disk

one, installation = loading.one, loading.installation

# By name: accepted, duplicates, quarantined; or the code it is refused for, and how many records were read by then.
SAMPLES: dict[str, tuple[int, int, int] | tuple[str, int]] = {
    "01_valid_namespaced": (4, 0, 0),
    "02_valid_unnamespaced_single_record": (1, 0, 0),
    "03_duplicate_record_in_file": (2, 1, 0),
    "04_one_bad_record": (2, 0, 1),
    "06_record_count_mismatch": ("record_count_mismatch", 2),
    "07_truncated_mid_record": ("not_well_formed", 2),
    "09_empty_zero_bytes": ("empty", 0),
    "12_entity_bomb_billion_laughs": ("doctype_forbidden", 0),
    "14_xxe_external_entity": ("doctype_forbidden", 0),
    "16_wrong_encoding_latin1_declared_utf8": ("bad_encoding", 0),
    "20_wrong_root": ("wrong_root", 0),
}


def counted(settings: Settings) -> list[tuple[Any, ...]]:
    return rows(settings, "record_count, accepted, duplicates, quarantined, code, deleted_at IS NOT NULL", "life_events.files", "load_id")


def audited(settings: Settings) -> list[tuple[str, str, int]]:
    return query(settings, "SELECT event_name, outcome, count(*) FROM life_events.audit GROUP BY 1, 2 ORDER BY 1, 2")


def in_quarantine(settings: Settings) -> list[str]:
    """What stands there, without versions."""
    names = (path.name for path in driver.quarantine(settings).rglob("*") if path.is_file())
    return sorted(".".join([name.split(".")[0], *name.split(".")[2:]]) for name in names)


def standing(settings: Settings) -> list[str]:
    return sorted(path.name for path in driver.incoming(settings).rglob("*") if path.is_file())


def test_every_sample_is_in_the_table() -> None:
    assert sorted(path.stem for path in loading.SAMPLES.glob("*.xml")) == sorted(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_sample_ends_as_it_should(name: str, installation: Settings) -> None:
    drop(installation, f"{name}.xml", sample(name))
    run(installation)
    expected = SAMPLES[name]
    assert standing(installation) == []
    [found] = loads(installation)
    if isinstance(expected[0], str):
        code, seen = expected
        assert found == (f"{name}.xml", "errored", code, seen, 0, 0, seen)
        assert_nothing_of_it_is_left(installation)
        assert in_quarantine(installation) == [f"{name}.xml", f"{name}.xml.report.json"]
        [path] = [path for path in driver.quarantine(installation).iterdir() if path.suffix == ".xml"]
        assert path.read_bytes() == sample(name)
        assert audited(installation) == [("FILE_RECEIVED", code, 1)]
        return
    accepted, duplicates, bad = expected
    total = accepted + duplicates + bad
    assert found[:2] + found[3:] == (f"{name}.xml", "archived", total, accepted, duplicates, bad)
    assert counted(installation) == [(total, accepted, duplicates, bad, None, True)]
    assert states(installation) == {"pending": accepted}
    assert len(loading.everything_opened(installation)) == accepted
    assert [row[0] for row in rows(installation, "encode(record_key, 'hex')")] == [
        row[0] for row in rows(installation, "key", "ledger.outbox")
    ]
    assert in_quarantine(installation) == ([f"{name}.xml.report.json"] if bad else [])
    rejected = [("RECORD_REJECTED", "missing_timestamp", bad)] if bad else []
    assert audited(installation) == [("FILE_DELETED", "ok", 1), ("FILE_RECEIVED", "ok", 1), *rejected, ("RECORD_STAGED", "ok", accepted)]
    assert query(installation, "SELECT why FROM ledger.load_events WHERE to_status = 'archived'") == [(SOURCE_DELETED,)]


def assert_nothing_of_it_is_left(settings: Settings) -> None:
    for table in ("life_events.records", "life_events.events", "ledger.outbox"):
        assert query(settings, f"SELECT count(*) FROM {table}") == [(0,)]


def test_a_bad_record_is_told_by_place_and_code_and_the_others_are_loaded(installation: Settings) -> None:
    raw = sample("04")
    drop(installation, "a.xml", raw)
    run(installation)
    [(ordinal, number, offset, code, field, key)] = rows(
        installation, "ordinal, number, byte_offset, code, field, record_key", "life_events.quarantine"
    )
    assert (ordinal, number, code, field) == (2, 1, "missing_timestamp", "RecordLockedDateTime")
    assert raw[offset:].startswith(b"<DeathRegistration>")
    assert raw[:offset].count(b"<DeathRegistration>") == 1
    assert query(installation, "SELECT record_key FROM life_events.audit WHERE event_name = 'RECORD_REJECTED'") == [(key,)]
    assert len(key) == 32
    [path] = driver.quarantine(installation).iterdir()
    report = json.loads(path.read_text())
    assert {name: report[name] for name in report if name.startswith("rows")} == {
        "rows_in": 3, "rows_written": 2, "rows_unchanged": 0, "rows_rejected": 1,
    }  # fmt: skip
    assert [problem["code"] for problem in report["problems"]] == ["missing_timestamp"]


def test_a_refused_file_leaves_its_bad_records_told_once_however_often_it_is_tried(installation: Settings) -> None:
    drop(installation, "a.xml", group(registration(1), registration(2, bad=True), registration(3), count=4))
    for _ in range(2):
        run(installation)
        assert loads(installation) == [("a.xml", "errored", "record_count_mismatch", 3, 0, 0, 3)]
        assert rows(installation, "ordinal, number, code", "life_events.quarantine") == [(2, 1, "missing_timestamp")]
        assert counted(installation) == [(4, 0, 0, 3, "record_count_mismatch", False)]
        assert_nothing_of_it_is_left(installation)
        driver.retry(installation)


@pytest.mark.parametrize(
    ("good", "bad", "limits", "is_refused"),
    [
        (1, 10, {}, False),
        (10, 11, {}, True),
        (209, 11, {}, False),
        (208, 11, {}, True),
        (10, 11, {"life_events_bad_percent": 60}, False),
        (10, 3, {"life_events_bad_records": 2}, True),
        (10, 2, {"life_events_bad_records": 2}, False),
        (10, 1, {"life_events_bad_records": 0}, True),
        (0, 1, {}, True),
        (0, 2, {"life_events_bad_percent": 100}, True),
    ],
)
def test_a_file_of_too_many_bad_records_is_refused(
    good: int, bad: int, limits: dict[str, Any], is_refused: bool, installation: Settings
) -> None:
    settings = installation.model_copy(update=limits)
    records = [registration(number, bad=number <= bad) for number in range(1, good + bad + 1)]
    drop(settings, "a.xml", group(*records))
    run(settings)
    if is_refused:
        assert loads(settings) == [("a.xml", "errored", "too_many_bad_records", good + bad, 0, 0, good + bad)]
        assert_nothing_of_it_is_left(settings)
    else:
        assert loads(settings) == [("a.xml", "archived", "missing_timestamp", good + bad, good, 0, bad)]
        assert states(settings) == {"pending": good}
    assert query(settings, "SELECT count(*) FROM life_events.quarantine") == [(bad,)]


def test_a_file_without_records_is_deleted_and_counted(installation: Settings) -> None:
    drop(installation, "a.xml", group())
    run(installation)
    assert loads(installation) == [("a.xml", "archived", None, 0, 0, 0, 0)]
    assert counted(installation) == [(0, 0, 0, 0, None, True)]
    assert standing(installation) == in_quarantine(installation) == []


@pytest.mark.parametrize("key", ["with space.xml", "a+b.xml", "100%.xml", "a%20b.xml", "é/名前.xml", "no suffix", "#?&=.xml"])
def test_any_name_is_read_deleted_or_quarantined(key: str, installation: Settings) -> None:
    drop(installation, key, numbered(1, 2))
    drop(installation, f"bad {key}".replace("/", "-"), numbered(3, count=2), 1)
    run(installation)
    assert [row[1] for row in loads(installation)] == ["archived", "errored"]
    assert standing(installation) == []
    assert len([*driver.quarantine(installation).iterdir()]) == 2


# Second deliveries


def delivered_again(settings: Settings, content: bytes, name: str = "again.xml") -> tuple[Any, ...]:
    """What the load of a further file says: rows in, written, unchanged, rejected."""
    drop(settings, name, content, 1)
    run(settings)
    return tuple(rows(settings, "rows_in, rows_written, rows_unchanged, rows_rejected", "ledger.loads", "id")[-1])


def test_the_same_file_twice_stores_nothing_and_is_told_as_a_duplicate(installation: Settings) -> None:
    drop(installation, "a.xml", numbered(1, 2, 3, 4))
    run(installation)
    before = driver.left_behind(installation)
    assert delivered_again(installation, numbered(1, 2, 3, 4), "a.xml") == (4, 0, 4, 0)
    after = driver.left_behind(installation)
    assert query(installation, "SELECT duplicate_of IS NOT NULL FROM ledger.loads ORDER BY id") == [(False,), (True,)]
    assert [after[name] for name in ("records", "outbox", "staged", "incoming")] == [
        before[name] for name in ("records", "outbox", "staged", "incoming")
    ]


@pytest.mark.parametrize("dress", ["feed", "plain", "prefixed", "spread"])
def test_neither_name_nor_dress_makes_another_event(dress: str, installation: Settings) -> None:
    drop(installation, "a.xml", numbered(1, 2, 3, 4))
    run(installation)
    before = driver.left_behind(installation)
    assert delivered_again(installation, numbered(4, 1, 2, 3, dress=dress)) == (4, 0, 4, 0)
    after = driver.left_behind(installation)
    assert (after["records"], after["outbox"], after["staged"]) == (before["records"], before["outbox"], before["staged"])
    assert counted(installation)[-1] == (4, 0, 4, 0, None, True)


def test_a_correction_is_an_event_of_its_own(installation: Settings) -> None:
    drop(installation, "a.xml", numbered(1, 2))
    run(installation)
    assert delivered_again(installation, group(registration(1), registration(2, updated="2031-02-05T10:00:00"))) == (2, 1, 1, 0)
    assert states(installation) == {"pending": 3}


def test_a_record_that_comes_again_in_the_same_file_is_one_event_in_whatever_chunk(installation: Settings) -> None:
    drop(installation, "a.xml", numbered(1, 1, 2, 3, 1, 4, 5, 6, 2))
    run(installation)
    assert loads(installation) == [("a.xml", "archived", None, 9, 6, 3, 0)]
    assert rows(installation, "ordinal") == [(1,), (3,), (4,), (6,), (7,), (8,)]
    assert len(loading.everything_opened(installation)) == query(installation, "SELECT count(*) FROM ledger.outbox")[0][0] == 6


# Files that change, vanish, or cannot be read


def streaming(monkeypatch: pytest.MonkeyPatch, first: Any) -> None:
    """Something happens once, between the first chunk of a file and the next."""
    stream = LocalStore.stream
    happened: list[StoredObject] = []

    def hooked(store: LocalStore, obj: StoredObject) -> Any:
        for chunk in stream(store, obj):
            yield chunk[: len(chunk) // 2]
            if not happened:
                happened.append(obj)
                first()
            yield chunk[len(chunk) // 2 :]

    monkeypatch.setattr(LocalStore, "stream", hooked)


def test_a_file_overwritten_while_it_is_read_is_loaded_in_its_new_version_alone(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(installation, "a.xml", numbered(1, 2, 3))
    streaming(monkeypatch, lambda: drop(installation, "a.xml", numbered(4, 5), 1))
    run(installation)
    assert loads(installation) == [("a.xml", "archived", "superseded", 0, 0, 0, 0)]
    assert_nothing_of_it_is_left(installation)
    run(installation)
    assert loads(installation)[1] == ("a.xml", "archived", None, 2, 2, 0, 0)
    assert standing(installation) == []
    with driver.connect(installation) as connection:
        assert counts.unaccounted(connection) == []
    assert [row[-2:] for row in counted(installation)] == [("superseded", False), (None, True)]


def test_a_file_appended_to_after_it_was_staged_is_not_deleted(installation: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    path = drop(installation, "a.xml", numbered(1, 2, 3))
    remove = LocalStore.remove

    def late(store: LocalStore, obj: StoredObject) -> bool:
        if obj.key == "a.xml" and path.read_bytes() != numbered(4):
            drop(installation, "a.xml", numbered(4), 1)
        return remove(store, obj)

    monkeypatch.setattr(LocalStore, "remove", late)
    run(installation)
    assert path.read_bytes() == numbered(4)
    run(installation)
    assert [row[1:5] for row in loads(installation)] == [("archived", None, 3, 3), ("archived", None, 1, 1)]
    assert states(installation) == {"pending": 4}
    assert not path.exists()


def test_a_file_that_vanishes_before_it_is_read_is_told_and_what_to_do(installation: Settings) -> None:
    path = drop(installation, "a.xml", numbered(1))
    driver.discover(installation)
    path.unlink()
    drop(installation, "b.xml", numbered(2), 1)
    run(installation)
    assert [row[:3] for row in loads(installation)] == [("a.xml", "errored", "object_missing"), ("b.xml", "archived", None)]
    [(message,)] = query(installation, "SELECT error_message FROM ledger.loads WHERE key = 'a.xml'")
    assert "deliver it again" in message
    assert in_quarantine(installation) == ["a.xml.report.json"]


def test_what_was_staged_of_a_file_that_is_gone_when_it_is_read_again_is_counted(installation: Settings) -> None:
    path = drop(installation, "a.xml", numbered(*range(1, 9)))
    assert driver.start(installation, fault="life_events.stage.before:3").end()[0] == -9
    let_leases_run_out(installation)
    path.unlink()
    driver.finish(installation)
    assert loads(installation) == [("a.xml", "errored", "object_missing", 6, 6, 0, 0)]
    assert states(installation) == {"pending": 6}
    with driver.connect(installation) as connection:
        assert counts.unaccounted(connection) == []


@pytest.fixture
def reading_fails(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Keys of files that cannot be read beyond their first bytes."""
    keys: set[str] = set()
    stream = LocalStore.stream

    def hooked(store: LocalStore, obj: StoredObject) -> Any:
        for chunk in stream(store, obj):
            yield chunk[:20]
            if obj.key in keys:
                raise Transient("object_store_unavailable", "the disk does not answer")
            yield chunk[20:]

    monkeypatch.setattr(LocalStore, "stream", hooked)
    return keys


def test_a_file_that_cannot_be_read_does_not_hold_up_the_others_and_is_given_up_late(
    installation: Settings, reading_fails: set[str]
) -> None:
    reading_fails.add("a.xml")
    drop(installation, "a.xml", numbered(1))
    drop(installation, "b.xml", numbered(2), 1)
    run(installation)
    assert [row[1] for row in loads(installation)] == ["ready", "archived"]
    for _ in range(load.UNPROVEN_LIMIT - 1):
        run(installation)
    # What cannot be read cannot be moved either; it is, as soon as that is over.
    assert [row[1:3] for row in loads(installation)] == [("erroring", "transient_exhausted"), ("archived", None)]
    reading_fails.clear()
    let_leases_run_out(installation)
    run(installation)
    assert in_quarantine(installation) == ["a.xml", "a.xml.report.json"]
    assert states(installation) == {"pending": 1}


def test_a_landing_zone_that_is_away_charges_no_file(
    installation: Settings, reading_fails: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading_fails |= {"a.xml", "b.xml"}
    for number, name in enumerate(sorted(reading_fails)):
        drop(installation, name, numbered(number), number)
    driver.discover(installation)
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "find", lambda *_: (_ for _ in ()).throw(Transient("object_store_unavailable", "away")))
        with pytest.raises(Transient):
            run(installation)
    assert rows(installation, "status, attempts", "ledger.loads") == [("ready", 0), ("ready", 0)]
    reading_fails.clear()
    run(installation)
    assert states(installation) == {"pending": 2}


def test_a_defect_of_ours_is_told_without_a_value_and_takes_no_other_file_along(
    installation: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = record.attributes

    def broken(fields: Any, *rest: Any, **more: Any) -> Any:
        if fields["RegistrationID"] == "900000001":
            raise RuntimeError(fields["DeceasedName"]["PersonFamilyName"])
        return made(fields, *rest, **more)

    monkeypatch.setattr(record, "attributes", broken)
    drop(installation, "a.xml", numbered(1, 2))
    drop(installation, "b.xml", numbered(3), 1)
    run(installation)
    assert [row[1:3] for row in loads(installation)] == [("errored", "internal_error"), ("archived", None)]
    assert "RuntimeError" in caplog.text
    assert "PLACEHOLDER" not in caplog.text
    assert "PLACEHOLDER" not in str(query(installation, "SELECT problems FROM ledger.loads"))
    assert states(installation) == {"pending": 1}


def test_a_file_larger_than_is_allowed_is_not_read(installation: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    content = numbered(1, 2)
    for size, status in ((len(content), "archived"), (len(content) - 1, "errored")):
        drop(installation, f"{status}.xml", content)
        run(installation.model_copy(update={"life_events_max_file_bytes": size}))
        assert query(installation, "SELECT status FROM ledger.loads ORDER BY id DESC LIMIT 1") == [(status,)]
    assert loads(installation)[-1][2] == "file_too_large"


# Quarantine


def test_a_quarantine_that_cannot_be_written_to_keeps_the_file_where_it_is_until_it_can(installation: Settings) -> None:
    path = drop(installation, "a.xml", numbered(1, count=2))
    drop(installation, "b.xml", numbered(2), 1)
    blocked = driver.quarantine(installation)
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_bytes(b"not a folder")
    assert run(installation).moves_pending == 1
    assert path.exists()
    assert [row[1] for row in loads(installation)] == ["erroring", "archived"]
    blocked.unlink()
    let_leases_run_out(installation)
    run(installation)
    assert not path.exists()
    assert in_quarantine(installation) == ["a.xml", "a.xml.report.json"]


def test_a_quarantined_file_is_loaded_from_there_once_it_is_allowed(installation: Settings) -> None:
    drop(installation, "a.xml", numbered(1, 2))
    run(installation.model_copy(update={"life_events_max_file_bytes": 10}))
    assert in_quarantine(installation) == ["a.xml", "a.xml.report.json"]
    driver.retry(installation)
    run(installation)
    assert loads(installation) == [("a.xml", "archived", None, 2, 2, 0, 0)]
    assert in_quarantine(installation) == []
    assert states(installation) == {"pending": 2}
    assert counted(installation) == [(2, 2, 0, 0, None, True)]


def test_the_report_of_a_file_that_was_retried_and_is_bad_in_part_stays(installation: Settings) -> None:
    drop(installation, "a.xml", group(registration(1), registration(2, bad=True), registration(3)))
    run(installation.model_copy(update={"life_events_bad_records": 0}))
    driver.retry(installation)
    run(installation)
    assert loads(installation) == [("a.xml", "archived", "missing_timestamp", 3, 2, 0, 1)]
    assert in_quarantine(installation) == ["a.xml.report.json"]
    [path] = driver.quarantine(installation).iterdir()
    report = json.loads(path.read_text())
    assert [problem["code"] for problem in report["problems"]] == ["missing_timestamp"]
    assert (report["rows_written"], report["rows_rejected"]) == (2, 1)


def test_a_retry_of_a_file_whose_time_in_quarantine_is_over_says_so(installation: Settings) -> None:
    drop(installation, "a.xml", numbered(1, count=2))
    run(installation)
    with driver.connect(installation) as connection:
        assert upkeep.expire_quarantine(connection, installation, datetime.now(UTC) + timedelta(days=100)) == 1
    assert in_quarantine(installation) == []
    driver.retry(installation)
    run(installation)
    [(status, code, message)] = query(installation, "SELECT status, error_code, error_message FROM ledger.loads")
    assert (status, code) == ("errored", "object_missing")
    assert "time in quarantine is over" in message
    assert "send it again" in message
    assert_nothing_of_it_is_left(installation)


# What a file may cost its neighbours


def test_a_disk_that_is_full_fails_the_run_and_gives_the_file_back_uncharged(
    installation: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(installation, "a.xml", numbered(1, 2, 3))
    with monkeypatch.context() as patch:
        on_a_full_disk(patch)
        with pytest.raises(ConfigurationError, match=r"is full.*TMPDIR"):
            run(installation)
    assert rows(installation, "status, attempts", "ledger.loads") == [("ready", 0)]
    assert_nothing_of_it_is_left(installation)
    run(installation)
    assert states(installation) == {"pending": 3}


def test_a_database_that_goes_away_midway_loses_nothing(installation: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(installation, "a.xml", numbered(*range(1, 9)))
    enter = Staging.enter
    entered = []

    def cut(staging: Any, connection: Any, *rest: Any, **more: Any) -> int:
        entered.append(1)
        if len(entered) == 3:
            query(installation, f"SELECT pg_terminate_backend({connection.info.backend_pid})")
        return enter(staging, connection, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "enter", cut)
        with pytest.raises(Transient) as raised:
            run(installation)
    assert raised.value.code == "database_gave_way"
    assert raised.value.__cause__ is None
    assert states(installation) == {"pending": 6}
    assert rows(installation, "status, attempts", "ledger.loads") == [("ready", 0)]
    assert standing(installation) == ["a.xml"]
    run(installation)
    assert loads(installation) == [("a.xml", "archived", None, 8, 8, 0, 0)]
    assert counted(installation) == [(8, 8, 0, 0, None, True)]


def test_a_database_that_goes_away_while_a_file_is_deleted_is_told_as_that(installation: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    drop(installation, "a.xml", numbered(1))
    remove = LocalStore.remove

    def cut(store: LocalStore, obj: StoredObject) -> bool:
        query(
            installation,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        return remove(store, obj)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "remove", cut)
        with pytest.raises(Transient, match="database_gave_way"):
            run(installation)
    let_leases_run_out(installation)
    run(installation)
    assert loads(installation) == [("a.xml", "archived", None, 1, 1, 0, 0)]
    assert counted(installation) == [(1, 1, 0, 0, None, True)]


def test_what_the_database_refuses_is_told_without_a_value(installation: Settings, caplog: pytest.LogCaptureFixture) -> None:
    query(
        installation,
        """
        CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'PLACEHOLDER'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON life_events.records FOR EACH ROW WHEN (new.ordinal = 2) EXECUTE FUNCTION refuse();
        """,
    )
    try:
        drop(installation, "a.xml", numbered(1, 2))
        drop(installation, "b.xml", numbered(3), 1)
        run(installation)
    finally:
        query(installation, "DROP TRIGGER refuse ON life_events.records")
    assert [row[1:3] for row in loads(installation)] == [("errored", "database_refused"), ("archived", None)]
    assert "PLACEHOLDER" not in caplog.text + str(query(installation, "SELECT problems FROM ledger.loads"))
    driver.retry(installation)
    run(installation)
    assert states(installation) == {"pending": 3}


def test_deletions_that_nobody_could_tell_of_are_told_by_the_next_run(installation: Settings) -> None:
    drop(installation, "a.xml", numbered(1))
    assert driver.start(installation, fault="transition.archiving.archived.after").end()[0] == -9
    assert ("FILE_DELETED", "ok", 1) not in audited(installation)
    run(installation)
    assert ("FILE_DELETED", "ok", 1) in audited(installation)


def test_files_are_found_below_folders_and_their_temporary_names_are_not(installation: Settings) -> None:
    drop(installation, "2031/a.xml", numbered(1))
    hidden: Path = drop(installation, ".b.xml.part", numbered(2))
    run(installation)
    assert [row[0] for row in loads(installation)] == ["2031/a.xml"]
    assert hidden.exists()
