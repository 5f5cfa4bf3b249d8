"""The way of an object: discovered, read in its very version, copied before it is removed, and never lost in between."""

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.engine import landing, ledger, local_store, local_writing, moving, whereabouts
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.landing import Target, Zone, versioned
from ingestion_dagster.engine.ledger import Load, Scope, Status
from ingestion_dagster.engine.object_store import Changed, Missing, ObjectStore, is_key, open_store
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster_tests.engine.scene import BAD, NOON, PIPELINE, Scene, scene_in
from ingestion_dagster_tests.metrics.one_database import empty

REFUSED = Status.READY_FOR_ERRORING
ODD_KEYS = [
    "with space.json",
    "a+b.json",
    "100%.json",
    "a%20b%2Fc.json",
    "é/ü/名前.json",
    "e\u0301.json",
    "sub/folder/a.json",
    "in/in/metrics/in/x.in",
    "no-suffix",
    "dots.in.the.name.tar.gz",
    "#?&=.json",
]


@pytest.fixture
def scene(one: Database, tmp_path: Path) -> Iterator[Scene]:
    with scene_in(empty(one), tmp_path / "store") as made:
        yield made


def archived(scene: Scene) -> list[bytes]:
    return sorted(scene.contents(scene.archive).values())


def report(store: ObjectStore) -> dict[str, Any]:
    """The one report in a store."""
    [found] = [found for found in store.list() if found.key.endswith(".report.json")]
    content: dict[str, Any] = json.loads(store.read(found))
    return content


# Moves


def test_a_loaded_object_is_archived_and_processed_and_gone_from_the_landing_zone(scene: Scene) -> None:
    obj = scene.land("sub/a.json", b"1")
    [load] = scene.committed()
    assert scene.move([load]) == []
    key = f"2024-05-06/{versioned('sub/a.json', obj.version)}"
    assert scene.contents(scene.landing) == {}
    assert scene.contents(scene.processed) == {"sub/a.json": b"1"}
    assert scene.contents(scene.archive) == {key: b"1"}
    assert scene.reports(scene.archive) == []
    assert scene.value("status", load) == "archived"
    assert scene.value("location", load) == f"{scene.archive.url}/{key}"
    assert [event[:3] for event in scene.events(load)[-2:]] == [
        ("ready_for_archiving", "archiving", "run"),
        ("archiving", "archived", "run"),
    ]


def test_each_version_of_a_key_is_kept(scene: Scene) -> None:
    for content in (b"1", b"22", b"1"):
        scene.land("a.json", content)
        scene.move(scene.committed())
    assert archived(scene) == [b"1", b"1", b"22"]
    assert scene.contents(scene.processed) == {"a.json": b"1"}


def test_a_refused_object_stands_beside_a_report_of_every_problem(scene: Scene) -> None:
    obj = scene.land("sub/a.json", b"bad")
    other = replace(BAD, code="bad_colour", severity="warning")
    [load] = scene.committed(REFUSED, problems=(BAD, other), rows_in=3, rows_rejected=3)
    assert scene.move([load]) == []
    key = versioned("sub/a.json", obj.version)
    assert scene.contents(scene.landing) == scene.contents(scene.archive) == scene.contents(scene.processed) == {}
    assert scene.contents(scene.error) == {key: b"bad"}
    assert scene.reports(scene.error) == [f"{key}.report.json"]
    assert report(scene.error) == {
        "path": "sub/a.json",
        "ok": False,
        "problems": [BAD.as_dict(), other.as_dict()],
        "rows_in": 3,
        "rows_written": 0,
        "rows_unchanged": 0,
        "rows_rejected": 3,
    }
    assert scene.value("status", load) == "errored"


def test_two_refused_versions_of_a_key_do_not_overwrite_each_other(scene: Scene) -> None:
    for content in (b"bad", b"worse"):
        scene.land("a.json", content)
        scene.move(scene.committed(REFUSED))
    assert sorted(scene.contents(scene.error).values()) == [b"bad", b"worse"]
    assert len(scene.reports(scene.error)) == 2


def test_an_object_with_some_rows_refused_is_archived_beside_its_report(scene: Scene) -> None:
    scene.land("a.json")
    scene.move(scene.committed(rows_in=3, rows_written=2, rows_rejected=1, problems=(BAD,)))
    assert scene.statuses() == {"a.json": ["archived"]}
    assert report(scene.archive)["rows_rejected"] == 1
    assert scene.reports(scene.error) == []


def test_a_move_that_is_made_twice_changes_nothing(scene: Scene) -> None:
    scene.land("a.json")
    scene.land("b.json")
    loads = scene.committed()
    assert scene.move(loads) == []
    before = (scene.rows("SELECT * FROM ledger.loads"), scene.contents(scene.archive))
    assert scene.move(loads) == []
    assert (scene.rows("SELECT * FROM ledger.loads"), scene.contents(scene.archive)) == before


def test_the_source_is_removed_only_when_every_copy_is_durable(scene: Scene) -> None:
    scene.land("a.json")
    steps: list[str] = []

    def note(step: str) -> Callable[[str], None]:
        return lambda _: steps.append(step)

    for name, store in scene.stores.items():
        store.before = {operation: note(f"{operation} {name}") for operation in ("receive", "flush", "remove")}
    scene.move(scene.committed())
    assert steps == ["receive processed", "receive archive", "flush processed", "flush archive", "remove in"]


# What happens to an object before its move


@pytest.mark.parametrize("to", [Status.READY_FOR_ARCHIVING, REFUSED])
def test_an_object_that_is_gone_before_the_move_does_not_hold_its_load_for_ever(scene: Scene, to: Status) -> None:
    obj = scene.land("a.json")
    [load] = scene.committed(to)
    scene.landing.remove(obj)
    assert scene.move([load]) == []
    assert scene.value("status", load) == ledger.MOVED[ledger.MOVING[to]]
    assert scene.value("location", load) is None
    assert scene.events(load)[-1][3] == "the object was gone before it could be moved"
    assert scene.contents(scene.archive) == scene.contents(scene.error) == {}
    assert len(scene.reports(scene.error)) == (to == REFUSED)


@pytest.mark.parametrize("to", [Status.READY_FOR_ARCHIVING, REFUSED])
def test_an_object_overwritten_before_the_move_survives_and_is_loaded(scene: Scene, to: Status) -> None:
    scene.land("a.json", b"old")
    [load] = scene.committed(to)
    scene.land("a.json", b"newer", minutes=1)
    assert scene.move([load]) == []
    assert scene.contents(scene.landing) == {"a.json": b"newer"}
    assert scene.events(load)[-1][3] == "the object was overwritten before it could be moved"
    assert scene.discover().new == 1
    [newer] = scene.claim()
    assert landing.read(scene.zone, newer) == b"newer"
    scene.move(scene.settle([newer]))
    assert archived(scene) == [b"newer"]
    assert scene.contents(scene.landing) == {}


@pytest.mark.parametrize("operation", ["remove", "flush", "receive"])
def test_a_version_that_arrives_during_the_move_is_not_lost(scene: Scene, operation: str) -> None:
    scene.land("a.json", b"old")
    loads = scene.committed()
    store = scene.landing if operation == "remove" else scene.archive

    def arrive(_: str) -> None:
        del store.before[operation]
        scene.land("a.json", b"newer", minutes=1)

    store.before[operation] = arrive
    assert scene.move(loads) == []
    assert scene.contents(scene.landing) == {"a.json": b"newer"}
    assert archived(scene) == ([] if operation == "receive" else [b"old"])
    scene.move(scene.committed())
    assert b"newer" in archived(scene)
    assert scene.statuses() == {"a.json": ["archived", "archived"]}
    assert scene.contents(scene.landing) == {}


def test_a_version_that_arrives_while_the_object_is_being_copied_is_not_mixed_with_it(scene: Scene) -> None:
    """Written in place, not renamed: the first half of the copy is of the old version, the second of the new."""
    old, new = b"o" * (3 << 20), b"n" * (3 << 20)
    scene.land("a.json", old)
    loads = scene.committed()
    chunks = local_writing.chunks

    def overwriting(file: int) -> Iterator[bytes]:
        for number, chunk in enumerate(chunks(file)):
            yield chunk
            if number == 0 and os.fstat(file).st_ino == (scene.landing.folder / "a.json").stat().st_ino:
                (scene.landing.folder / "a.json").write_bytes(new)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_store, "chunks", overwriting)
        assert scene.move(loads) == []
    assert archived(scene) == []
    scene.move(scene.committed())
    assert archived(scene) == [new]


def test_a_file_that_somebody_still_has_open_is_moved_when_they_close_it(scene: Scene) -> None:
    """Nobody removes a file under its writer; its load is not repeated, its object is moved again."""
    scene.land("a.json", b"1")
    loads = scene.committed()
    with (scene.landing.folder / "a.json").open("ab"):
        assert scene.move(loads) == []
        assert scene.contents(scene.landing) == {"a.json": b"1"}
    found = scene.discover()
    assert (found.new, found.came_back) == (0, 1)
    assert scene.sweep() == (0, 1)
    assert scene.contents(scene.landing) == {}
    assert archived(scene) == [b"1"]
    assert scene.statuses() == {"a.json": ["archived"]}


# Objects that come back


@pytest.mark.parametrize("to", [Status.READY_FOR_ARCHIVING, REFUSED])
def test_an_object_whose_removal_did_not_last_is_moved_again_and_not_loaded_again(scene: Scene, to: Status) -> None:
    scene.land("a.json", b"1")
    loads = scene.committed(to)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene.landing, "remove", lambda obj: True)
        assert scene.move(loads) == []
    assert scene.contents(scene.landing) == {"a.json": b"1"}
    found = scene.discover()
    assert (found.new, found.came_back) == (0, 1)
    assert scene.claim() == []
    assert scene.sweep() == (0, 1)
    assert scene.contents(scene.landing) == {}
    assert [status for [status] in scene.statuses().values()] == [ledger.MOVED[ledger.MOVING[to]]]
    assert scene.discover().came_back == 0
    assert len(scene.contents(scene.archive)) + len(scene.contents(scene.error)) == 1


def test_a_listing_that_began_before_the_move_does_not_bring_the_load_back(scene: Scene) -> None:
    scene.land("a.json")
    loads = scene.committed()
    listed = list(scene.landing.list())

    def move_while_listing(prefix: str = "") -> Iterator[Any]:
        scene.move(loads)
        yield from listed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene.landing, "list", move_while_listing)
        found = scene.discover()
    assert (found.seen, found.new, found.came_back) == (1, 0, 0)
    assert scene.statuses() == {"a.json": ["archived"]}


def test_a_return_implicates_no_run(scene: Scene) -> None:
    scene.land("a.json")
    loads = scene.committed()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene.landing, "remove", lambda obj: True)
        scene.move(loads)
    scene.discover()
    scene.sweep()
    assert whereabouts.dead_runs(scene.connection, PIPELINE, ["run"]) == []


# Retry


def test_a_retried_load_is_read_from_the_error_zone_and_leaves_it_with_its_report(scene: Scene) -> None:
    scene.land("a.json", b"1")
    scene.move(scene.committed(REFUSED))
    ledger.retry(scene.connection, Scope(PIPELINE))
    [load] = scene.claim()
    assert landing.read(scene.zone, load) == b"1"
    assert scene.move(scene.settle([load])) == []
    assert list(scene.error.list()) == []
    assert archived(scene) == [b"1"]
    assert scene.contents(scene.processed) == {"a.json": b"1"}
    assert scene.statuses() == {"a.json": ["archived"]}


def test_a_load_refused_again_keeps_its_object_and_gets_a_new_report(scene: Scene) -> None:
    scene.land("a.json", b"1")
    scene.move(scene.committed(REFUSED))
    ledger.retry(scene.connection, Scope(PIPELINE))
    again = replace(BAD, code="still_bad")
    assert scene.move(scene.settle(scene.claim(), REFUSED, problems=(again,))) == []
    assert list(scene.contents(scene.error).values()) == [b"1"]
    assert [problem["code"] for problem in report(scene.error)["problems"]] == ["still_bad"]
    ledger.retry(scene.connection, Scope(PIPELINE))
    [load] = scene.claim()
    assert landing.read(scene.zone, load) == b"1"


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def kill_at(passage: int) -> Callable[[str], None]:
    """Dies when it is reached for the N-th time."""
    passages = iter(range(1, 100))

    def kill(_: str) -> None:
        if next(passages) == passage:
            raise Killed

    return kill


@pytest.mark.parametrize(("place", "operation", "passage"), [("archive", "receive", 1), ("failed", "remove", 1), ("failed", "remove", 2)])
def test_a_retried_load_whose_run_is_killed_leaves_no_report_behind(scene: Scene, place: str, operation: str, passage: int) -> None:
    """Report and object are removed one after the other, and a run may die between the two."""
    scene.land("a.json", b"1")
    scene.move(scene.committed(REFUSED))
    ledger.retry(scene.connection, Scope(PIPELINE))
    loads = scene.settle(scene.claim(lease=-1))
    store = scene.stores[place]
    store.before[operation] = kill_at(passage)
    with pytest.raises(Killed):
        scene.move(loads, lease=-1)
    store.before.clear()
    assert scene.sweep() == (0, 1)
    assert list(scene.error.list()) == []
    assert archived(scene) == [b"1"]
    assert scene.statuses() == {"a.json": ["archived"]}


# Stores that fail


@pytest.mark.parametrize(
    ("to", "store", "operation"),
    [
        (Status.READY_FOR_ARCHIVING, "in", "stream"),
        (Status.READY_FOR_ARCHIVING, "processed", "receive"),
        (Status.READY_FOR_ARCHIVING, "archive", "receive"),
        (Status.READY_FOR_ARCHIVING, "archive", "flush"),
        (Status.READY_FOR_ARCHIVING, "in", "remove"),
        (REFUSED, "in", "stream"),
        (REFUSED, "failed", "receive"),
        (REFUSED, "failed", "write"),
        (REFUSED, "failed", "flush"),
        (REFUSED, "in", "remove"),
    ],
)
def test_what_a_store_cannot_do_now_is_left_for_the_sweep(scene: Scene, to: Status, store: str, operation: str) -> None:
    scene.land("a.json", b"1")
    loads = scene.committed(to)
    scene.stores[store].fail(operation)
    [pending] = scene.move(loads, lease=-1)
    assert pending.id == loads[0].id
    assert scene.contents(scene.landing) == {"a.json": b"1"}
    assert scene.sweep() == (0, 0)
    assert scene.value("status", pending) == ledger.MOVING[to]
    scene.stores[store].before.clear()
    scene.connection.execute("UPDATE ledger.loads SET lease_until = now() - interval '1 second'")
    assert scene.sweep() == (0, 1)
    assert scene.value("status", pending) == ledger.MOVED[ledger.MOVING[to]]
    assert scene.contents(scene.landing) == {}
    assert len(scene.contents(scene.archive)) + len(scene.contents(scene.error)) == 1


def test_a_store_that_fails_while_it_is_asked_what_has_been_copied_loses_nothing(scene: Scene) -> None:
    obj = scene.land("a.json")
    loads = scene.committed()
    scene.landing.remove(obj)
    scene.processed.fail("find")
    assert len(scene.move(loads)) == 1


@pytest.mark.parametrize(
    "error",
    [
        Transient("object_store_unavailable", "busy"),
        ConfigurationError("the folder is not open to us"),
        ValueError("cannot hold the key"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("to", [Status.READY_FOR_ARCHIVING, REFUSED])
def test_an_object_that_cannot_be_moved_does_not_hold_up_its_neighbours(scene: Scene, to: Status, error: Exception) -> None:
    for name in ("a.json", "b.json", "c.json"):
        scene.land(name)
    loads = scene.committed(to, lease=-1)
    [b] = [load for load in loads if load.key == "b.json"]
    target = scene.zone.targets(b)[-1]
    target.store.fail("receive", target.key, error=error)  # type: ignore[attr-defined]
    assert [load.key for load in scene.move(loads, lease=-1)] == ["b.json"]
    done = ledger.MOVED[ledger.MOVING[to]]
    assert scene.statuses() == {"a.json": [done], "b.json": [ledger.MOVING[to]], "c.json": [done]}
    scene.land("d.json")
    scene.move(scene.committed(to, lease=-1), lease=-1)
    assert scene.sweep() == (0, 0)
    assert scene.statuses()["d.json"] == [done]


def test_a_key_that_stands_in_the_way_of_another_is_archived_all_the_same(scene: Scene) -> None:
    """`processed` is a folder: it cannot hold a file `a` and a file `a/b`. The archive, whose keys carry versions, can."""
    scene.land("a", b"1")
    scene.move(scene.committed())
    scene.land("a/b", b"2")
    scene.land("c", b"3")
    assert scene.move(scene.committed()) == []
    assert scene.contents(scene.landing) == {}
    assert scene.statuses() == {"a": ["archived"], "a/b": ["archived"], "c": ["archived"]}
    assert sorted(scene.contents(open_store((scene.folder / "archive").as_uri())).values()) == [b"1", b"2", b"3"]


@pytest.mark.parametrize("to", [Status.READY_FOR_ARCHIVING, REFUSED])
def test_a_full_disk_loses_nothing(scene: Scene, to: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.json", "b.json"):
        scene.land(name, name.encode())
    loads = scene.committed(to)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(local_store, "write", full)
        assert len(scene.move(loads, lease=-1)) == 2
    assert scene.contents(scene.landing) == {"a.json": b"a.json", "b.json": b"b.json"}
    kept = [path.name for name in ("archive", "failed", "processed") for path in (scene.folder / name).rglob("*") if path.is_file()]
    assert kept == []
    assert scene.sweep() == (0, 2)
    zone = scene.archive if to == Status.READY_FOR_ARCHIVING else scene.error
    assert sorted(scene.contents(zone).values()) == [b"a.json", b"b.json"]
    assert scene.contents(scene.landing) == {}


# The sweep


@pytest.mark.parametrize(
    ("store", "operation"), [("processed", "receive"), ("archive", "receive"), ("archive", "flush"), ("in", "remove"), ("", "")]
)
def test_a_run_killed_during_its_move_is_finished_by_the_sweep_and_reported_dead(scene: Scene, store: str, operation: str) -> None:
    """And one killed between its commit and its move, which is the last case."""
    scene.land("a.json", b"1")
    loads = scene.committed(lease=-1)
    if store:
        scene.stores[store].before[operation] = kill_at(1)
        with pytest.raises(Killed):
            scene.move(loads, lease=-1)
        scene.stores[store].before.clear()
    assert whereabouts.dead_runs(scene.connection, PIPELINE, ["run"]) == []
    assert scene.sweep() == (0, 1)
    assert archived(scene) == [b"1"]
    assert scene.contents(scene.processed) == {"a.json": b"1"}
    assert scene.contents(scene.landing) == {}
    assert scene.statuses() == {"a.json": ["archived"]}
    assert whereabouts.dead_runs(scene.connection, PIPELINE, ["run"]) == ["run"]


def test_a_dead_run_whose_object_cannot_be_moved_is_reported_all_the_same(scene: Scene) -> None:
    """The sweep that has taken the load over renews its lease at each attempt: that is no sign of life from the run."""
    scene.land("a.json")
    scene.committed(lease=-1)
    scene.archive.fail("receive")
    for _ in range(2):
        assert scene.sweep() == (0, 0)
        assert whereabouts.dead_runs(scene.connection, PIPELINE, ["run"]) == ["run"]
        scene.connection.execute("UPDATE ledger.loads SET lease_until = now() - interval '1 second'")


def test_a_run_killed_after_the_removal_is_finished_by_the_sweep(scene: Scene) -> None:
    obj = scene.land("a.json", b"1")
    loads = scene.committed(lease=-1)
    with pytest.MonkeyPatch.context() as patch:

        def kill(_: object) -> bool:
            type(scene.landing).remove(scene.landing, obj)
            raise Killed

        patch.setattr(scene.landing, "remove", kill)
        with pytest.raises(Killed):
            scene.move(loads, lease=-1)
    assert scene.contents(scene.landing) == {}
    assert scene.sweep() == (0, 1)
    assert archived(scene) == [b"1"]
    assert scene.value("location", loads[0]).startswith(scene.archive.url)
    assert scene.events(loads[0])[-1][3] is None


def test_a_load_given_up_after_crashes_is_in_the_error_zone_with_its_reason(scene: Scene) -> None:
    scene.land("killer.json", b"boom")
    scene.discover()
    for number in range(3):
        assert len(scene.claim(f"run {number}", lease=-1)) == 1
        assert scene.sweep(max_attempts=2) == (1, int(number == 2))
    assert scene.statuses() == {"killer.json": ["errored"]}
    assert list(scene.contents(scene.error).values()) == [b"boom"]
    assert [problem["code"] for problem in report(scene.error)["problems"]] == ["crashed_repeatedly"]
    assert scene.contents(scene.landing) == {}


def test_a_sweep_leaves_living_runs_alone(scene: Scene) -> None:
    scene.land("a.json")
    scene.land("b.json")
    scene.discover()
    [a] = scene.claim(count=1)
    scene.claim(count=1)
    scene.settle([a])
    assert scene.sweep() == (0, 0)
    assert scene.statuses() == {"a.json": ["ready_for_archiving"], "b.json": ["ingesting"]}


def test_a_mover_that_was_overtaken_by_the_sweep_changes_nothing_more(scene: Scene) -> None:
    scene.land("a.json", b"1")
    loads = scene.committed(lease=-1)

    def overtake(_: str) -> None:
        scene.landing.before.clear()
        assert scene.sweep() == (0, 1)

    scene.landing.before["remove"] = overtake
    assert len(scene.move(loads, lease=-1)) == 1
    assert scene.statuses() == {"a.json": ["archived"]}
    assert archived(scene) == [b"1"]
    assert [event[1] for event in scene.events(loads[0])].count("archived") == 1


# Names


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a.json", "a.{}.json"),
        ("a", "a.{}"),
        ("a.b.c.json", "a.b.c.{}.json"),
        ("in/sub.folder/a.json", "in/sub.folder/a.{}.json"),
        ("in/sub.folder/a", "in/sub.folder/a.{}"),
        ("a.", "a.{}."),
        ("a b+c%20.json", "a b+c%20.{}.json"),
        ("é.json", "é.{}.json"),
    ],
)
def test_a_versioned_key_keeps_folder_name_and_suffix(key: str, expected: str) -> None:
    digest = versioned("", "v1").removeprefix(".")
    assert len(digest) == 12
    assert versioned(key, "v1") == expected.format(digest)


def test_two_versions_have_two_keys_and_one_version_has_one() -> None:
    assert versioned("a.json", "v1") == versioned("a.json", "v1") != versioned("a.json", "v2")


@pytest.mark.parametrize(
    "name", ["n" * 255, "n" * 250 + ".json", "é" * 125 + ".json", "😀" * 63, "n." + "s" * 250, "n" * 240 + ".tar.gz"], ids=len
)
def test_a_name_as_long_as_a_file_system_allows_can_still_be_moved(scene: Scene, name: str) -> None:
    obj = scene.land(f"sub/{name}", b"1")
    assert len(versioned(obj.key, obj.version).rpartition("/")[2].encode()) <= 255 - len(".report.json")
    assert is_key(versioned(obj.key, obj.version))
    assert scene.move(scene.committed(rows_in=1, rows_rejected=1)) == []
    assert archived(scene) == [b"1"]
    assert len(scene.reports(scene.archive)) == 1


def test_long_names_that_differ_only_at_their_end_stay_apart() -> None:
    long = "n" * 245
    assert versioned(f"{long}1.json", "v") != versioned(f"{long}2.json", "v")
    assert versioned(f"{long}1.json", "v").endswith(".json")


# Discovery


def test_a_half_written_file_is_left_alone_until_it_settles(scene: Scene) -> None:
    patient = replace(scene.zone, settle_seconds=0.4)
    scene.land("a.json", b"half")
    found = landing.discover(scene.connection, patient, NOON)
    assert (found.seen, found.settling, found.new) == (1, 1, 0)
    assert scene.statuses() == {}
    for _ in range(200):
        found = landing.discover(scene.connection, patient, NOON)
        if found.new:
            break
        assert (found.seen, found.settling) == (1, 1)
        threading.Event().wait(0.01)
    assert (found.seen, found.settling, found.new) == (1, 0, 1)


def test_a_file_that_grows_under_a_time_set_by_hand_is_not_taken_for_settled(scene: Scene) -> None:
    scene.land("a.json", b"half")
    os.utime(scene.landing.folder / "a.json", (0, 0))
    patient = replace(scene.zone, settle_seconds=60)
    assert landing.discover(scene.connection, patient, NOON).settling == 1


def test_a_file_that_is_still_written_under_its_temporary_name_is_not_seen(scene: Scene) -> None:
    scene.land("a.json")
    (scene.landing.folder / ".b.json.tmp").write_bytes(b"half")
    assert scene.discover().seen == 1


def test_an_unfinished_listing_is_taken_up_where_it_ended(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "PAGE", 2)
    for name in "abcde":
        scene.land(name)
    first = landing.discover(scene.connection, scene.zone, NOON, seconds=-1)
    assert (first.seen, first.new, first.complete) == (2, 2, False)
    second = landing.discover(scene.connection, scene.zone, NOON, skip=first.seen, seconds=60)
    assert (second.seen, second.new, second.complete) == (3, 3, True)
    assert sorted(scene.statuses()) == ["a", "b", "c", "d", "e"]


def test_a_listing_without_its_cursor_costs_time_and_no_data(scene: Scene) -> None:
    for name in "abc":
        scene.land(name)
    assert scene.discover().new == 3
    again = scene.discover()
    assert (again.seen, again.new) == (3, 0)


def test_an_empty_landing_zone_that_does_not_exist_yet_is_no_error(scene: Scene) -> None:
    assert scene.discover() == landing.Discovery()


# Reading


def test_an_object_is_read_in_the_version_that_was_claimed_or_not_at_all(scene: Scene) -> None:
    for name in ("fine", "changed", "gone", "unavailable"):
        scene.land(name, name.encode())
    scene.discover()
    loads = scene.claim()
    scene.land("changed", b"newer")
    gone = scene.landing.find("gone")
    assert gone is not None
    scene.landing.remove(gone)
    scene.landing.fail("read", "unavailable")
    read = {load.key: raw for load, raw in landing.read_ahead(scene.zone, loads)}
    assert [(key, type(raw)) for key, raw in sorted(read.items())] == [
        ("changed", Changed),
        ("fine", bytes),
        ("gone", Missing),
        ("unavailable", Transient),
    ]
    assert [load.key for load, _ in landing.read_ahead(scene.zone, loads)] == [load.key for load in loads]


def test_a_retried_load_whose_object_was_taken_away_is_missing_not_a_crash(scene: Scene) -> None:
    scene.land("a.json")
    scene.move(scene.committed(REFUSED))
    [kept] = [found for found in scene.error.list() if not found.key.endswith(".report.json")]
    scene.error.remove(kept)
    ledger.retry(scene.connection, Scope(PIPELINE))
    loads = scene.claim()
    assert [type(raw) for _, raw in landing.read_ahead(scene.zone, loads)] == [Missing]
    assert scene.move(scene.settle(loads, REFUSED)) == []
    assert scene.statuses() == {"a.json": ["errored"]}


# Any key, in a folder and in a bucket


def round_trip(scene: Scene, zone: Zone, stores: Mapping[str, ObjectStore]) -> None:
    written = {key: f"content of {key}".encode() for key in ODD_KEYS}
    for key, content in written.items():
        zone.landing.write(key, content)
    assert landing.discover(scene.connection, zone, NOON).new == len(ODD_KEYS)
    loads = scene.claim()
    assert {load.key: raw for load, raw in landing.read_ahead(zone, loads)} == written
    half = len(loads) // 2
    done: list[Load] = [*scene.settle(loads[:half]), *scene.settle(loads[half:], REFUSED)]
    assert moving.move(scene.connection, zone, done, lease_seconds=60) == []
    assert scene.contents(stores["in"]) == {}
    good = {load.key for load in loads[:half]}
    assert scene.contents(stores["processed"]) == {key: content for key, content in written.items() if key in good}
    assert sorted(scene.contents(stores["archive"]).values()) == sorted(content for key, content in written.items() if key in good)
    assert sorted(scene.contents(stores["failed"]).values()) == sorted(content for key, content in written.items() if key not in good)
    ledger.retry(scene.connection, Scope(PIPELINE))
    again = scene.claim()
    assert {load.key: raw for load, raw in landing.read_ahead(zone, again)} == {k: c for k, c in written.items() if k not in good}
    assert moving.move(scene.connection, zone, scene.settle(again), lease_seconds=60) == []
    assert list(stores["failed"].list()) == []
    assert scene.contents(stores["processed"]) == written
    assert landing.discover(scene.connection, zone, NOON) == landing.Discovery()


def test_any_key_makes_the_whole_way_between_folders(scene: Scene) -> None:
    round_trip(scene, scene.zone, scene.stores)


def zone_at(url: str) -> tuple[Zone, dict[str, ObjectStore]]:
    stores = {name: open_store(f"{url}/{name}") for name in ("in", "processed", "archive", "failed")}
    zone = Zone(
        PIPELINE,
        stores["in"],
        lambda load: (Target(stores["processed"], load.key), Target(stores["archive"], versioned(load.key, load.version))),
        lambda load: (Target(stores["failed"], versioned(load.key, load.version)),),
    )
    return zone, stores


@pytest.mark.parametrize("bucket", ["s3_url", "s3_versioned_url"])
def test_any_key_makes_the_whole_way_within_a_bucket(scene: Scene, request: pytest.FixtureRequest, bucket: str) -> None:
    round_trip(scene, *zone_at(request.getfixturevalue(bucket)))


@pytest.mark.parametrize("bucket", ["s3_url", "s3_versioned_url"])
def test_an_object_of_a_bucket_that_is_overwritten_before_its_move_is_not_lost(
    scene: Scene, request: pytest.FixtureRequest, bucket: str
) -> None:
    zone, stores = zone_at(request.getfixturevalue(bucket))
    zone.landing.write("a.json", b"old")
    landing.discover(scene.connection, zone, NOON)
    loads = scene.settle(scene.claim())
    zone.landing.write("a.json", b"newer")
    assert moving.move(scene.connection, zone, loads, lease_seconds=60) == []
    assert scene.contents(stores["in"]) == {"a.json": b"newer"}
    assert landing.discover(scene.connection, zone, datetime.now(UTC) + timedelta(days=1)).new == 1
    assert moving.move(scene.connection, zone, scene.settle(scene.claim()), lease_seconds=60) == []
    assert b"newer" in scene.contents(stores["archive"]).values()
    assert scene.contents(stores["in"]) == {}


# Zones that archive nothing: what has been loaded is deleted


@pytest.fixture
def deleting(scene: Scene) -> Scene:
    scene.zone = replace(scene.zone, archive_targets=lambda _load: ())
    return scene


def test_a_loaded_object_is_deleted_and_its_history_says_so(deleting: Scene) -> None:
    deleting.land("sub/a.json")
    [load] = deleting.committed()
    assert deleting.move([load]) == []
    assert [deleting.contents(store) for store in deleting.stores.values()] == [{}] * 4
    assert deleting.value("status", load) == "archived"
    assert deleting.value("location", load) is None
    assert deleting.events(load)[-1] == ("archiving", "archived", "run", moving.SOURCE_DELETED)


def test_where_nothing_is_archived_what_is_refused_is_kept_all_the_same(deleting: Scene) -> None:
    obj = deleting.land("a.json", b"bad")
    [load] = deleting.committed(REFUSED)
    deleting.move([load])
    assert deleting.contents(deleting.error) == {versioned("a.json", obj.version): b"bad"}
    assert len(deleting.reports(deleting.error)) == 1
    assert deleting.contents(deleting.landing) == {}


def test_the_report_of_an_object_that_is_deleted_stands_where_refused_ones_go(deleting: Scene) -> None:
    obj = deleting.land("a.json")
    deleting.move(deleting.committed(rows_in=3, rows_written=2, rows_rejected=1, problems=(BAD,)))
    assert deleting.reports(deleting.error) == [f"{versioned('a.json', obj.version)}.report.json"]
    assert deleting.contents(deleting.error) == deleting.contents(deleting.landing) == {}
    assert report(deleting.error)["rows_rejected"] == 1


def test_a_report_that_cannot_be_written_keeps_the_object_that_it_is_of(deleting: Scene) -> None:
    deleting.land("a.json")
    loads = deleting.committed(rows_in=2, rows_written=1, rows_rejected=1, problems=(BAD,))
    deleting.error.fail("write")
    assert [load.key for load in deleting.move(loads)] == ["a.json"]
    assert deleting.contents(deleting.landing) == {"a.json": b"content"}


@pytest.mark.parametrize("operation", ["remove", "find"])
def test_an_object_that_cannot_be_deleted_or_looked_for_is_left_for_the_sweep(deleting: Scene, operation: str) -> None:
    deleting.land("a.json")
    [load] = deleting.committed(lease=-1)
    deleting.landing.fail(operation)
    assert deleting.move([load], lease=-1) == [replace(load, status=Status.ARCHIVING)]
    assert deleting.value("status", load) == "archiving"
    deleting.landing.before.clear()
    assert deleting.sweep() == (0, 1)
    assert deleting.value("status", load) == "archived"
    assert deleting.contents(deleting.landing) == {}


def test_a_store_that_only_says_that_it_has_deleted_is_not_believed(deleting: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    deleting.land("a.json")
    [load] = deleting.committed(lease=-1)
    with monkeypatch.context() as patch:
        patch.setattr(local_store.LocalStore, "remove", lambda *_: True)
        deleting.move([load], lease=-1)
    assert deleting.value("status", load) == "archiving"
    deleting.sweep()
    assert deleting.value("status", load) == "archived"
    assert deleting.contents(deleting.landing) == {}


def test_an_object_that_was_overwritten_before_it_could_be_deleted_is_not(deleting: Scene) -> None:
    deleting.land("a.json", b"1")
    [load] = deleting.committed()
    deleting.land("a.json", b"22", minutes=1)
    assert deleting.move([load]) == []
    assert deleting.contents(deleting.landing) == {"a.json": b"22"}
    assert deleting.discover().new == 1


def test_an_object_that_is_gone_already_does_not_hold_its_load(deleting: Scene) -> None:
    obj = deleting.land("a.json")
    [load] = deleting.committed()
    deleting.landing.remove(obj)
    assert deleting.move([load]) == []
    assert deleting.value("status", load) == "archived"


def test_a_retried_object_is_deleted_from_where_refused_ones_stand_and_its_report_with_it(deleting: Scene) -> None:
    deleting.land("a.json")
    deleting.move(deleting.committed(REFUSED))
    ledger.retry(deleting.connection, Scope(PIPELINE))
    [load] = deleting.settle(deleting.claim())
    assert deleting.move([load]) == []
    assert [deleting.contents(store) for store in deleting.stores.values()] == [{}] * 4
    assert deleting.reports(deleting.error) == []


def test_the_new_report_of_a_retried_object_that_is_bad_in_part_stays(deleting: Scene) -> None:
    deleting.land("a.json")
    deleting.move(deleting.committed(REFUSED, rows_in=3, rows_rejected=3))
    ledger.retry(deleting.connection, Scope(PIPELINE))
    loads = deleting.settle(deleting.claim(), rows_in=3, rows_written=2, rows_rejected=1, problems=(BAD,))
    deleting.move(loads)
    assert deleting.contents(deleting.error) == {}
    assert report(deleting.error)["rows_rejected"] == 1


@pytest.mark.parametrize("bucket", ["s3_url", "s3_versioned_url"])
def test_that_version_alone_is_deleted_from_a_bucket(deleting: Scene, request: pytest.FixtureRequest, bucket: str) -> None:
    zone, stores = zone_at(request.getfixturevalue(bucket))
    deleting.zone = replace(zone, archive_targets=lambda _load: ())
    stores["in"].write("a b+c.json", b"1")
    [load] = deleting.committed()
    stores["in"].write("a b+c.json", b"22")
    assert deleting.move([load]) == []
    assert [stores["in"].read(seen) for seen in stores["in"].list()] == [b"22"]
    [later] = deleting.committed()
    deleting.move([later])
    assert list(stores["in"].list()) == []
