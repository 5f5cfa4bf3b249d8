"""What a pipeline may say of its objects: which dataset they are of, what they wait for, what travels with them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ingestion_dagster.engine import entries, landing, ledger, moving, whereabouts
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.datasets import pause_faulty_datasets, resume_dataset, sync_datasets
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.ledger import Scope, Status, Verdict
from ingestion_dagster.engine.object_store import Changed, ObjectStore
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster_tests.engine.scene import BAD, NOON, PIPELINE, ZONE, Scene, seen


@pytest.fixture
def scene(database: Database, tmp_path: Path) -> Iterator[Scene]:
    with database.connect() as connection:
        yield Scene(database, connection, tmp_path)


def arrive(scene: Scene, *arrivals: Arrival) -> None:
    entries.discover(scene.connection, PIPELINE, ZONE, arrivals, NOON)


def test_an_arrival_is_entered_with_what_its_key_tells(scene: Scene) -> None:
    arrive(scene, Arrival(seen("a"), "boxes", "20260101T000000Z", "snapshot"), Arrival(seen("b")))
    assert scene.rows(
        "SELECT l.key, d.name, l.partition, l.waiting_for FROM ledger.loads l LEFT JOIN ledger.datasets d ON d.id = l.dataset_id ORDER BY 1"
    ) == [("a", "boxes", "20260101T000000Z", "snapshot"), ("b", None, "2024-05-06", None)]
    assert [load.key for load in scene.claim()] == ["b"], "what waits is not claimed"


def test_a_load_that_is_expected_takes_on_the_version_that_is_put(scene: Scene) -> None:
    first = entries.expect(scene.connection, PIPELINE, ZONE, "batch", dataset="boxes", modified=NOON, now=NOON)
    assert entries.expect(scene.connection, PIPELINE, ZONE, "batch", dataset="boxes", modified=NOON, now=NOON) == first
    assert scene.claim() == []
    put = seen("batch", "v7", size=99)
    arrive(scene, Arrival(put, "boxes"))
    arrive(scene, Arrival(put, "boxes"))
    [load] = scene.claim()
    assert (load.id, load.version, load.size, load.modified) == (first, "v7", 99, put.modified)


def test_an_expected_load_of_an_unregistered_table_goes_on_waiting_for_its_entry(scene: Scene) -> None:
    sync_datasets(scene.connection, PIPELINE, ["unclassified"])
    entries.expect(scene.connection, PIPELINE, ZONE, "batch", dataset="unclassified", modified=NOON, now=NOON)
    assert entries.uploaded(scene.connection, PIPELINE, ZONE, [seen("batch")]) == 1
    assert scene.rows("SELECT waiting_for FROM ledger.loads") == [("dataset",)]


def test_a_load_that_is_given_back_to_wait_is_not_claimed_again(scene: Scene) -> None:
    arrive(scene, Arrival(seen("a"), "boxes"))
    loads = scene.claim()
    scene.settle(loads, Status.READY, waiting_for="schema")
    assert scene.claim() == []


def test_what_is_about_to_be_published_cannot_be_taken_away(scene: Scene) -> None:
    arrive(scene, Arrival(seen("a"), "boxes"))
    loads = scene.claim(lease=-1)
    with scene.connection.transaction():
        ledger.hold(scene.connection, loads)
        with scene.database.connect() as other:
            assert ledger.expire(other, PIPELINE, 3) == 0
    assert ledger.expire(scene.connection, PIPELINE, 3) == 1
    with pytest.raises(ledger.ClaimLost), scene.connection.transaction():
        ledger.hold(scene.connection, loads)


@pytest.mark.parametrize(("codes", "paused"), [(["ours"] * 3, ["boxes"]), (["ours", "theirs", "ours"], []), (["ours"] * 2, [])])
def test_a_dataset_is_paused_by_faults_in_a_row_and_by_nothing_else(scene: Scene, codes: list[str], paused: list[str]) -> None:
    for number, code in enumerate(codes):
        arrive(scene, Arrival(seen(f"f{number}"), "boxes"))
        scene.finish(scene.settle(scene.claim(), Status.READY_FOR_ERRORING, problems=(replace(BAD, code=code),), dataset="boxes"))
    assert pause_faulty_datasets(scene.connection, PIPELINE, ["ours"], 3) == paused
    assert pause_faulty_datasets(scene.connection, PIPELINE, ["ours"], 3) == [], "once"
    resume_dataset(scene.connection, PIPELINE, "boxes")
    assert pause_faulty_datasets(scene.connection, PIPELINE, ["ours"], 3) == [], "what was before the resumption is past"


def test_datasets_take_turns_however_much_of_one_there_is(scene: Scene) -> None:
    for number in range(5):
        arrive(scene, Arrival(seen(f"box{number}", minutes=number), "boxes"))
    arrive(scene, Arrival(seen("letter", minutes=99), "letters"))
    taken = []
    with Claims(scene.database, Scope(PIPELINE), "run", Limits()) as claims:
        for batch in claims.rounds(scene.connection, count=2, size=1 << 30):
            taken.append([load.key for load in batch])
            scene.settle(batch)
    assert taken == [["box0", "box1"], ["letter"], ["box2", "box3"], ["box4"]]


def test_a_replay_comes_in_one_batch(scene: Scene) -> None:
    for number in range(5):
        scene.landing.write(f"box{number}", b"x", modified=NOON)
    zone = replace(scene.zone, arrival=lambda found: Arrival(found, "boxes"))
    landing.discover(scene.connection, zone, NOON)
    settled = scene.settle(scene.claim())
    assert moving.move(scene.connection, zone, settled, lease_seconds=60) == []
    ledger.replay(scene.connection, Scope(PIPELINE))
    with Claims(scene.database, Scope(PIPELINE), "again", Limits()) as claims:
        [batch] = list(claims.rounds(scene.connection, count=2, size=1))
    assert len(batch) == 5


def test_a_run_whose_time_is_up_begins_no_further_dataset(scene: Scene) -> None:
    arrive(scene, Arrival(seen("a"), "boxes"), Arrival(seen("b"), "letters"))
    ticks = iter([0.0, 0.0, 99.0])
    with Claims(scene.database, Scope(PIPELINE), "run", Limits(run_seconds=10), clock=lambda: next(ticks)) as claims:
        assert [[load.key for load in batch] for batch in claims.rounds(scene.connection, count=9, size=1 << 30)] == [["a"]]


def described(key: str) -> tuple[str, ...]:
    return (key.removesuffix(".csv") + ".dfm",) if key.endswith(".csv") else ()


def a_pair(scene: Scene) -> landing.Zone:
    """A zone in which a `.dfm` travels with each `.csv`, and one of each in it."""
    scene.landing.write("t/a.csv", b"rows", modified=NOON)
    scene.landing.write("t/a.dfm", b"what they are", modified=NOON)
    return replace(scene.zone, companions=described, arrival=lambda found: None if found.key.endswith(".dfm") else Arrival(found))


def standing(store: ObjectStore) -> list[str]:
    return sorted(found.key for found in store.list())


@pytest.mark.parametrize("to", [Status.READY_FOR_ARCHIVING, Status.READY_FOR_ERRORING])
def test_what_travels_with_an_object_goes_where_the_object_goes(scene: Scene, to: Status) -> None:
    zone = a_pair(scene)
    assert landing.discover(scene.connection, zone, NOON).new == 1
    [load] = scene.claim()
    assert landing.read_companion(zone, load) == b"what they are"
    assert moving.move(scene.connection, zone, scene.settle([load], to), lease_seconds=60) == []
    assert standing(scene.landing) == []
    there = scene.archive if to == Status.READY_FOR_ARCHIVING else scene.error
    data, metadata = (key for key in standing(there) if not key.endswith(".report.json"))
    assert metadata == data.removesuffix(".csv") + ".dfm"
    if to == Status.READY_FOR_ERRORING:
        ledger.retry(scene.connection, Scope(PIPELINE))
        [again] = scene.claim("again")
        assert landing.read_companion(zone, again) == b"what they are"
        assert moving.move(scene.connection, zone, scene.settle([again]), lease_seconds=60) == []
        assert (standing(scene.error), len(standing(scene.archive))) == ([], 2)


def test_an_object_without_its_companion_is_moved_alone(scene: Scene) -> None:
    zone = a_pair(scene)
    [found] = [each for each in scene.landing.list() if each.key.endswith(".dfm")]
    scene.landing.remove(found)
    landing.discover(scene.connection, zone, NOON)
    [load] = scene.claim()
    assert landing.read_companion(zone, load) is None
    assert moving.move(scene.connection, zone, scene.settle([load]), lease_seconds=60) == []
    assert len(standing(scene.archive)) == 1


def test_a_companion_that_cannot_be_copied_now_keeps_its_object_where_it_is(scene: Scene) -> None:
    zone = a_pair(scene)
    landing.discover(scene.connection, zone, NOON)

    def refuse(key: str) -> None:
        if key.endswith(".dfm"):
            raise Changed(key)

    scene.archive.before["receive"] = refuse
    [load] = scene.claim()
    assert len(moving.move(scene.connection, zone, scene.settle([load]), lease_seconds=-1)) == 1
    assert standing(scene.landing) == ["t/a.csv", "t/a.dfm"]
    del scene.archive.before["receive"]
    assert moving.sweep(scene.connection, zone, lease_seconds=60, max_attempts=3) == (0, 1)
    assert standing(scene.landing) == []


def test_an_object_is_known_at_once_and_not_claimed_before_all_of_it_is_there(scene: Scene) -> None:
    whole = a_pair(scene)
    found = landing.discover(scene.connection, replace(whole, complete=lambda _found, _now: False), NOON)
    assert (found.new, found.settling) == (1, 1)
    assert scene.claim() == []
    assert landing.discover(scene.connection, whole, NOON).settling == 0
    assert [load.key for load in scene.claim()] == ["t/a.csv"]


def test_a_finished_file_is_taken_as_an_object_at_once_and_in_place_of_another(scene: Scene, tmp_path: Path) -> None:
    scene.archive.write("deep/er/part", b"old")
    for content in (b"new", b"newer"):
        file = scene.archive.scratch() / "made"
        file.write_bytes(content)
        scene.archive.take(file, "deep/er/part")
        assert not file.exists()
    scene.archive.flush()
    [found] = scene.archive.list()
    assert (found.key, scene.archive.read(found)) == ("deep/er/part", b"newer"), "scratch is no object"


def test_a_file_from_another_file_system_is_taken_as_well(scene: Scene) -> None:
    elsewhere = Path("/dev/shm/ingestion-take")
    if not elsewhere.parent.is_dir() or elsewhere.parent.stat().st_dev == scene.folder.stat().st_dev:
        pytest.skip("there is only one file system here")
    elsewhere.write_bytes(b"far")
    scene.archive.take(elsewhere, "a")
    assert scene.archive.read(next(iter(scene.archive.list()))) == b"far"
    assert not elsewhere.exists()


def test_verdicts_that_wait_are_told_in_the_status(scene: Scene) -> None:
    arrive(scene, Arrival(seen("a"), "boxes"))
    with scene.connection.transaction():
        ledger.settle(scene.connection, [Verdict(load, Status.READY, waiting_for="schema", problems=(BAD,)) for load in scene.claim()])

    assert whereabouts.held_back(scene.connection, PIPELINE) == [("boxes", f"waiting for schema: {BAD.place}: {BAD.message}", 1)]
