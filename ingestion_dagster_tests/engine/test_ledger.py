"""The ledger's promises: only legal moves, only under a claim that still holds, each of them told once."""

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise, product
from pathlib import Path
from string import ascii_letters
from typing import Any

import psycopg
import pytest

from ingestion_dagster.engine import entries, ledger, ledger_sql, whereabouts
from ingestion_dagster.engine.datasets import available_datasets, pause_dataset, resume_dataset, sync_datasets
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.ledger import LEGAL_MOVES, ClaimLost, IllegalMove, Load, Scope, Status, Step, Verdict
from ingestion_dagster.engine.object_store import LONGEST_KEY, StoredObject
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster_tests.engine.scene import BAD, NOON, PIPELINE, ZONE, Scene, scene_in, seen

FINISHED = {Status.ARCHIVED, Status.ERRORED}


# Statuses and moves


def test_the_database_holds_every_status_and_refuses_any_other(scene: Scene) -> None:
    scene.enter(seen("a"))
    for status in Status:
        scene.connection.execute("UPDATE ledger.loads SET status = %s", [status])
        assert scene.statuses() == {"a": [status]}
    for other in ("", "READY", "done", "archived ", "waiting"):
        with pytest.raises(psycopg.errors.CheckViolation):
            scene.connection.execute("UPDATE ledger.loads SET status = %s", [other])


def test_no_move_is_made_that_the_list_of_legal_ones_does_not_hold(scene: Scene) -> None:
    scene.enter(seen("a"))
    [load] = scene.claim()
    for frm, to in product(Status, Status):
        scene.connection.execute("UPDATE ledger.loads SET status = %s", [frm])
        if (frm, to) in LEGAL_MOVES:
            moved = ledger.transition(scene.connection, [Step(load)], frm, to, lease_seconds=60)
            assert [moved[0].status, scene.value("status", load)] == [to, to]
        else:
            with pytest.raises(IllegalMove, match=to):
                ledger.transition(scene.connection, [Step(load)], frm, to, lease_seconds=60)
            assert scene.value("status", load) == frm


def test_nothing_is_committed_and_moved_in_one_step(scene: Scene) -> None:
    """No `ingesting → archived`: a crash between the two would lose the object or the rows."""
    scene.enter(seen("a"))
    [load] = scene.claim()
    for to in set(Status) - {Status.READY, Status.READY_FOR_ARCHIVING, Status.READY_FOR_ERRORING}:
        with pytest.raises(IllegalMove):
            scene.settle([load], to)
    assert scene.statuses() == {"a": ["ingesting"]}


@pytest.mark.parametrize("statement", ["UPDATE ledger.load_events SET why = 'never mind'", "DELETE FROM ledger.load_events"])
def test_history_cannot_be_rewritten(scene: Scene, statement: str) -> None:
    scene.enter(seen("a"))
    with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        scene.connection.execute(statement)
    assert scene.rows("SELECT to_status, why FROM ledger.load_events") == [("ready", "discovered")]


def test_every_step_of_a_load_is_told_once_with_its_run_and_why(scene: Scene) -> None:
    scene.enter(seen("good"), seen("bad"))
    good, bad = sorted(scene.claim("run-1"), key=lambda load: load.key, reverse=True)
    done = [*scene.settle([good], why="late"), *scene.settle([bad], Status.READY_FOR_ERRORING)]
    scene.finish(done)
    ledger.retry(scene.connection, Scope(PIPELINE))
    start = [(None, "ready", None, "discovered"), ("ready", "ingesting", "run-1", None)]
    assert scene.events(good) == [
        *start,
        ("ingesting", "ready_for_archiving", "run-1", "late"),
        ("ready_for_archiving", "archiving", "run-1", None),
        ("archiving", "archived", "run-1", None),
    ]
    assert scene.events(bad) == [
        *start,
        ("ingesting", "ready_for_erroring", "run-1", None),
        ("ready_for_erroring", "erroring", "run-1", None),
        ("erroring", "errored", "run-1", None),
        ("errored", "ready", None, "retry"),
    ]


def test_a_verdict_is_recorded_whole(scene: Scene) -> None:
    scene.enter(seen("a"), seen("b"))
    a, b = scene.claim()
    warning = replace(BAD, code="odd_weight", severity="warning")
    scene.settle([a], dataset="boxes", rows_in=10, rows_written=4, rows_rejected=1, bytes=99, content_hash="h", problems=(warning, BAD))
    scene.settle([b], duplicate_of=a.id, problems=(warning,))
    state_a, state_b = whereabouts.load_states(scene.connection, PIPELINE)
    recorded = {name: state_a[name] for name in ("dataset", "rows_in", "rows_written", "rows_unchanged", "rows_rejected", "error_code")}
    assert recorded == {
        "dataset": "boxes", "rows_in": 10, "rows_written": 4, "rows_unchanged": 5, "rows_rejected": 1, "error_code": "bad_weight",
    }  # fmt: skip
    assert (state_b["dataset"], state_b["duplicate_of"], state_b["error_code"]) == ("unknown", a.id, None)
    [count] = [row for row in whereabouts.status_counts(scene.connection) if row["dataset"] == "boxes"]
    assert (count["loads"], count["bytes"], count["partition"]) == (1, 99, "2024-05-06")
    assert ledger.loads(scene.connection, [a.id])[0].problems == (warning, BAD)


# Discovery


def test_listing_the_same_objects_again_makes_no_new_loads(scene: Scene) -> None:
    objects = [seen("a"), seen("b")]
    assert scene.enter(*objects) == 2
    assert scene.enter(*objects, *objects) == 0
    assert scene.rows("SELECT count(*) FROM ledger.load_events") == [(2,)]


def test_an_overwritten_key_is_a_new_load_and_an_unchanged_one_is_not(scene: Scene) -> None:
    assert scene.enter(seen("a", "v1")) == 1
    assert scene.enter(seen("a", "v2", minutes=1)) == 1
    assert scene.enter(seen("a", "v1"), seen("a", "v2", minutes=1)) == 0
    assert scene.statuses() == {"a": ["ready", "ready"]}


def test_an_object_listed_twice_in_one_page_is_one_load(scene: Scene) -> None:
    assert scene.enter(seen("a", "v1"), seen("a", "v1")) == 1


def test_the_longest_key_and_version_there_are_can_be_entered(scene: Scene) -> None:
    """An index takes 2,704 bytes; what can be compressed says nothing."""
    key, version = ("".join(random.Random(seed).choices(ascii_letters, k=LONGEST_KEY)) for seed in (1, 2))
    assert scene.enter(seen(key, version), seen("a")) == 2
    assert len(scene.claim()) == 2


def test_the_same_key_in_another_landing_zone_is_another_load(scene: Scene) -> None:
    scene.enter(seen("a", "v1"))
    assert entries.discover(scene.connection, PIPELINE, "file:///elsewhere", [Arrival(seen("a", "v1"))], NOON) == 1


@pytest.mark.parametrize(
    ("now", "day"),
    [
        (NOON, "2024-05-06"),
        (datetime(2024, 12, 31, 23, 59, 59, tzinfo=NOON.tzinfo), "2024-12-31"),
        (datetime(2024, 5, 7, 0, 30, tzinfo=timezone(timedelta(hours=1))), "2024-05-06"),
    ],
    ids=["noon", "new year's eve", "past midnight elsewhere, not yet in UTC"],
)
def test_a_load_belongs_to_the_utc_day_of_its_discovery(scene: Scene, now: datetime, day: str) -> None:
    scene.enter(seen("a", minutes=-100_000), now=now)
    assert scene.rows("SELECT partition, discovered_at FROM ledger.loads") == [(day, now)]


def test_two_that_discover_at_once_make_each_load_once(scene: Scene) -> None:
    """The second waits for the first to commit, then sees that there is nothing left to enter."""
    objects = [seen(f"{number:03}", "v1") for number in range(50)]
    with scene.database.connect() as other:
        with scene.connection.transaction():
            scene.enter(*objects[:30])
            second = subprocess.Popen([sys.executable, "-c", DISCOVER_50, scene.database.sqlalchemy_url], stdout=subprocess.PIPE, text=True)
            wait_until_blocked(other)
        output, _ = second.communicate(timeout=30)
    assert int(output) == 20
    assert scene.rows("SELECT count(*), count(DISTINCT key) FROM ledger.loads") == [(50, 50)]


DISCOVER_50 = f"""
import sys
from ingestion_dagster.engine import entries
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster_tests.engine.scene import NOON, seen
with Database.at(sys.argv[1]).connect() as connection:
    arrivals = [Arrival(seen(f"{{n:03}}", "v1")) for n in reversed(range(50))]
    print(entries.discover(connection, {PIPELINE!r}, {ZONE!r}, arrivals, NOON))
"""


def wait_until_blocked(connection: Connection) -> None:
    connection.execute("""
        DO $$ BEGIN
            FOR attempt IN 1..3000 LOOP
                PERFORM pg_stat_clear_snapshot();
                EXIT WHEN EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock');
                PERFORM pg_sleep(0.01);
            END LOOP;
        END $$""")


# Objects that come back


def finished(scene: Scene, obj: StoredObject, to: Status = Status.READY_FOR_ARCHIVING, location: str | None = None) -> Load:
    scene.enter(obj)
    [load] = scene.claim()
    scene.finish(scene.settle([load], to))
    scene.connection.execute("UPDATE ledger.loads SET location = %s WHERE id = %s", [location, load.id])
    return load


@pytest.mark.parametrize("to", [Status.READY_FOR_ARCHIVING, Status.READY_FOR_ERRORING])
def test_an_object_that_stands_there_again_is_moved_again_and_not_loaded_again(scene: Scene, to: Status) -> None:
    obj = seen("a")
    load = finished(scene, obj, to)
    assert ledger.come_back(scene.connection, ZONE, [obj, seen("b")], NOON.now(NOON.tzinfo)) == 1
    assert scene.enter(obj) == 0
    assert scene.value("status", load) == to
    assert scene.claim() == []
    [stranded] = ledger.take_stranded(scene.connection, PIPELINE, count=10, lease_seconds=60)
    assert (stranded.load.id, stranded.load.location) == (load.id, None)
    assert scene.events(load)[-1][3] == "stands in the landing zone again"


def test_a_listing_taken_before_the_move_is_not_taken_for_a_return(scene: Scene) -> None:
    obj = seen("a")
    listed_at = NOON.now(NOON.tzinfo)
    load = finished(scene, obj)
    assert ledger.come_back(scene.connection, ZONE, [obj], listed_at) == 0
    assert scene.value("status", load) == "archived"


def test_what_is_not_finished_has_not_come_back(scene: Scene) -> None:
    obj = seen("a")
    scene.enter(obj)
    later = NOON.now(NOON.tzinfo) + timedelta(hours=1)
    for status in set(Status) - FINISHED:
        scene.connection.execute("UPDATE ledger.loads SET status = %s", [status])
        assert ledger.come_back(scene.connection, ZONE, [obj], later) == 0


def test_a_return_does_not_forget_where_the_object_was_moved_to(scene: Scene) -> None:
    """What stands there again may be overwritten before it is moved: the copy of the first move is still there."""
    obj = seen("a")
    load = finished(scene, obj, location="file:///archive/a")
    assert ledger.loads(scene.connection, [load.id])[0].location == "file:///archive/a"
    ledger.come_back(scene.connection, ZONE, [obj], ledger.now(scene.connection))
    steps = ledger.take_stranded(scene.connection, PIPELINE, count=10, lease_seconds=60)
    assert steps[0].load.location is None, "it is to be moved from the landing zone"
    assert scene.value("location", load) == "file:///archive/a"
    scene.finish([step.load for step in steps])
    assert (scene.value("status", load), scene.value("location", load)) == ("archived", "file:///archive/a")
    assert ledger.loads(scene.connection, [load.id])[0].location == "file:///archive/a"


def test_a_listing_is_dated_by_the_clock_of_the_ledger(scene: Scene) -> None:
    obj = seen("a")
    with scene.connection.transaction():  # where SQL's now() stands still
        before = ledger.now(scene.connection)
        finished(scene, obj)
        assert ledger.come_back(scene.connection, ZONE, [obj], before) == 0
        assert ledger.come_back(scene.connection, ZONE, [obj], ledger.now(scene.connection)) == 1


# Versions that come to light late


def test_of_two_versions_dated_alike_the_first_listed_is_the_newer(scene: Scene) -> None:
    scene.enter(seen("a", "newer"), seen("b", "open"))
    scene.finish(scene.settle([load for load in scene.claim() if load.key == "a"]))
    scene.enter(seen("a", "older"), seen("b", "older"), seen("a", "newest", minutes=1))
    batch = ledger.loads(scene.connection, [row[0] for row in scene.rows("SELECT id FROM ledger.loads")])
    late = ledger.overtaken(scene.connection, batch)
    assert [(load.key, load.version) for load in batch if load.id in late] == [("a", "older")]


def test_a_version_listed_within_its_own_second_may_be_followed_by_a_newer_one_dated_alike(scene: Scene) -> None:
    moment = ledger.now(scene.connection) + timedelta(seconds=5)  # a second that is not over
    first, second = (replace(seen("a"), modified=moment) for _ in range(2))
    finished(scene, first)
    scene.enter(second)
    assert ledger.overtaken(scene.connection, scene.claim()) == frozenset()


# Claims


def test_the_oldest_are_claimed_first_then_by_key(scene: Scene) -> None:
    scene.enter(seen("b", minutes=5), seen("c", minutes=1), seen("a", minutes=5), seen("d", minutes=-9999))
    assert [load.key for load in scene.claim(count=3)] == ["d", "c", "a"]
    assert [load.key for load in scene.claim(count=3)] == ["b"]
    assert scene.claim(count=3) == []


def test_a_batch_is_bounded_by_bytes(scene: Scene) -> None:
    scene.enter(*(seen(name, size=size) for name, size in {"a": 40, "b": 60, "c": 1, "d": 100}.items()))
    assert [[load.key for load in scene.claim(size=100)] for _ in range(4)] == [["a", "b"], ["c"], ["d"], []]


def test_a_load_larger_than_a_batch_is_claimed_by_itself_and_blocks_nobody(scene: Scene) -> None:
    scene.enter(seen("a", size=5000), seen("b", size=1), seen("c", size=5000))
    assert [[load.key for load in scene.claim(size=100)] for _ in range(4)] == [["a"], ["b"], ["c"], []]


def test_every_claim_has_a_number_of_its_own(scene: Scene) -> None:
    scene.enter(*(seen(name) for name in "abcd"))
    batches = [scene.claim(count=2), scene.claim(count=2)]
    numbers = [{load.claim for load in batch} for batch in batches]
    assert [len(of_batch) for of_batch in numbers] == [1, 1]
    assert 0 not in numbers[0] | numbers[1]
    assert numbers[0] != numbers[1]


def test_the_number_of_a_load_claimed_again_is_new(scene: Scene) -> None:
    scene.enter(seen("a"))
    [first] = scene.claim(lease=-1)
    scene.expire()
    [second] = scene.claim()
    assert second.claim > first.claim


def give_dataset(scene: Scene, **datasets: str) -> None:
    for key, name in datasets.items():
        scene.connection.execute(
            "UPDATE ledger.loads SET dataset_id = (SELECT id FROM ledger.datasets WHERE name = %s) WHERE key = %s", [name, key]
        )


def keys(loads: list[Load]) -> set[str]:
    return {load.key for load in loads}


def test_paused_inactive_and_waiting_loads_are_left_alone(scene: Scene) -> None:
    scene.enter(*(seen(name) for name in ("letter", "box", "waiting", "unknown")))
    give_dataset(scene, letter="letters", box="boxes", waiting="letters")
    scene.connection.execute("UPDATE ledger.loads SET waiting_for = 'its snapshot' WHERE key = 'waiting'")
    scene.connection.execute("UPDATE ledger.datasets SET is_active = false WHERE name = 'boxes'")
    assert pause_dataset(scene.connection, PIPELINE, "letters", "under repair")
    held_back = [("boxes", "not active", 1), ("letters", "paused: under repair", 2)]
    assert whereabouts.held_back(scene.connection, PIPELINE) == held_back
    assert available_datasets(scene.connection, PIPELINE) == frozenset()
    assert ledger.claimable(scene.connection, Scope(PIPELINE)) == (1, NOON)
    assert keys(ledger.claimable_loads(scene.connection, Scope(PIPELINE))) == {"unknown"}
    assert keys(scene.claim()) == {"unknown"}
    assert resume_dataset(scene.connection, PIPELINE, "letters")
    held_back = [("boxes", "not active", 1), ("letters", "waiting for its snapshot", 1)]
    assert whereabouts.held_back(scene.connection, PIPELINE) == held_back
    assert available_datasets(scene.connection, PIPELINE) == {"letters"}
    assert keys(scene.claim()) == {"letter"}


def test_pausing_what_does_not_exist_is_not_silent(scene: Scene) -> None:
    assert not pause_dataset(scene.connection, PIPELINE, "leters", "typo")
    assert not resume_dataset(scene.connection, "other", "letters")


def test_entering_the_datasets_again_keeps_a_pause(scene: Scene) -> None:
    pause_dataset(scene.connection, PIPELINE, "letters", "under repair")
    sync_datasets(scene.connection, PIPELINE, ["letters", "boxes", "bags"])
    assert available_datasets(scene.connection, PIPELINE) == {"boxes", "bags"}


def test_a_scope_narrows_but_never_hides_what_nobody_has_read_yet(scene: Scene) -> None:
    scene.enter(*(seen(name) for name in ("letter", "box", "unknown")))
    give_dataset(scene, letter="letters", box="boxes")
    scope = Scope(PIPELINE, datasets=frozenset({"boxes"}))
    assert keys(ledger.claimable_loads(scene.connection, scope)) == {"box", "unknown"}
    assert keys(scene.claim(datasets=frozenset({"boxes"}))) == {"box", "unknown"}
    assert keys(scene.claim(datasets=frozenset())) == set()
    assert keys(scene.claim()) == {"letter"}


def test_a_scope_is_kept_to_by_partition_ids_and_time(scene: Scene) -> None:
    scene.enter(seen("monday"), now=NOON)
    scene.enter(seen("tuesday"), now=NOON + timedelta(days=1))
    scene.enter(seen("wednesday"), now=NOON + timedelta(days=2))
    [(tuesday,)] = scene.rows("SELECT id FROM ledger.loads WHERE key = 'tuesday'")
    assert keys(scene.claim(partitions=frozenset({"2024-05-09"}))) == set()
    assert keys(scene.claim(partitions=frozenset({"2024-05-08", "2024-05-09"}))) == {"wednesday"}
    assert keys(scene.claim(not_after=NOON)) == {"monday"}
    assert keys(scene.claim(ids=frozenset())) == set()
    assert keys(scene.claim(ids=frozenset({tuesday}))) == {"tuesday"}


def test_another_pipelines_loads_are_not_claimed(scene: Scene) -> None:
    entries.discover(scene.connection, "other", ZONE, [Arrival(seen("a"))], NOON)
    assert scene.claim() == []
    assert scene.expire() == 0


@pytest.mark.parametrize("status", sorted(set(Status) - FINISHED))
def test_a_newer_version_waits_for_the_older(scene: Scene, status: Status) -> None:
    scene.enter(seen("a", "v2", minutes=1), seen("a", "v1"), seen("b", minutes=9))
    scene.connection.execute("UPDATE ledger.loads SET status = %s WHERE version = 'v1'", [status])
    claimed = [(load.key, load.version) for load in scene.claim()]
    assert ("a", "v2") not in claimed
    assert keys(ledger.claimable_loads(scene.connection, Scope(PIPELINE))) == set()
    scene.connection.execute("UPDATE ledger.loads SET status = 'errored' WHERE version = 'v1'")
    assert [load.version for load in scene.claim()] == ["v2"]


def test_an_older_version_that_waits_for_nothing_but_a_pause_still_goes_first(scene: Scene) -> None:
    scene.enter(seen("a", "v1"), seen("a", "v2", minutes=1))
    scene.connection.execute("UPDATE ledger.loads SET waiting_for = 'its snapshot' WHERE version = 'v1'")
    assert scene.claim() == []


def test_a_claim_that_is_not_committed_yet_blocks_nobody_and_gives_nothing_twice(scene: Scene) -> None:
    scene.enter(*(seen(name) for name in "abcd"))
    with scene.database.connect() as other, other.transaction():
        other.execute("SET LOCAL lock_timeout = '1s'")
        theirs = ledger.claim(other, Scope(PIPELINE), "other", count=2, size=1000, lease_seconds=60)
        assert keys(theirs) == {"a", "b"}
        assert keys(scene.claim()) == {"c", "d"}


def test_a_newer_version_is_not_claimed_while_another_is_just_claiming_the_older(scene: Scene) -> None:
    scene.enter(seen("a", "v1"), seen("a", "v2", minutes=1))
    with scene.database.connect() as other, other.transaction():
        assert len(ledger.claim(other, Scope(PIPELINE), "other", count=9, size=1000, lease_seconds=60)) == 1
        assert scene.claim() == []


CLAIMER = f"""
import json, sys
from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.ledger import Scope, Status, Verdict
from ingestion_dagster.engine.postgres import Database
url, run_id = sys.argv[1:]
done = []
with Database.at(url).connect() as connection:
    print("ready", flush=True)
    sys.stdin.readline()
    while batch := ledger.claim(connection, Scope({PIPELINE!r}), run_id, count=37, size=1 << 40, lease_seconds=60):
        with connection.transaction():
            ledger.settle(connection, [Verdict(load, Status.READY_FOR_ARCHIVING) for load in batch])
        done.append([[load.id, load.claim] for load in batch])
print(json.dumps(done))
"""


def test_two_processes_over_one_backlog_lose_nothing_and_do_nothing_twice(scene: Scene) -> None:
    scene.enter(*(seen(f"{number:04}", minutes=number % 7) for number in range(2000)))
    command = [sys.executable, "-c", CLAIMER, scene.database.sqlalchemy_url]
    runs = [subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for name in ("one", "two")]
    for run in runs:
        assert run.stdout is not None
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin is not None
        run.stdin.write("go\n")
        run.stdin.flush()
    batches = [json.loads(run.communicate(timeout=60)[0]) for run in runs]
    assert all(batches), "one of the two has done all the work: nothing was shown"
    ids = [load for of_run in batches for batch in of_run for load, _ in batch]
    assert (len(ids), len(set(ids))) == (2000, 2000)
    numbers = [{claim for _, claim in batch} for of_run in batches for batch in of_run]
    assert len(set().union(*numbers)) == len(numbers)
    told = "SELECT to_status, count(*), count(DISTINCT load_id) FROM ledger.load_events GROUP BY 1 ORDER BY 1"
    assert scene.rows(told) == [("ingesting", 2000, 2000), ("ready", 2000, 2000), ("ready_for_archiving", 2000, 2000)]


# Claims that are lost


def test_one_lost_load_takes_the_whole_transaction_back(scene: Scene) -> None:
    scene.connection.execute("CREATE TABLE target (line text)")
    scene.enter(seen("a"), seen("b"))
    a, b = scene.claim(lease=-1)
    scene.expire()
    scene.claim("other", count=1)
    verdicts = [Verdict(load, Status.READY_FOR_ARCHIVING, rows_written=1) for load in (a, b)]
    with pytest.raises(ClaimLost), scene.connection.transaction():  # noqa: PT012 - the transaction is what is tested
        scene.connection.execute("INSERT INTO target VALUES ('from a'), ('from b')")
        ledger.settle(scene.connection, verdicts)
    assert scene.rows("SELECT * FROM target") == []
    assert scene.rows("SELECT sum(rows_written) FROM ledger.loads") == [(0,)]
    assert scene.rows("SELECT count(*) FROM ledger.load_events WHERE to_status = 'ready_for_archiving'") == [(0,)]


@pytest.mark.parametrize("since", ["expired", "claimed", "committed", "archived", "given up"])
def test_a_run_that_wakes_up_late_can_do_nothing(scene: Scene, since: str) -> None:
    scene.enter(seen("a"))
    [late] = scene.claim("late", lease=-1)
    scene.expire()
    if since == "given up":
        [late] = scene.claim("late again", lease=-1)
        scene.expire(max_attempts=1)
    elif since != "expired":
        [now] = scene.claim("other")
        if since != "claimed":
            done = scene.settle([now])
            if since == "archived":
                scene.finish(done)
    before = scene.rows("SELECT * FROM ledger.loads")
    with pytest.raises(ClaimLost):
        scene.settle([late])
    with pytest.raises(ClaimLost):
        scene.settle([late], Status.READY, charged=True)
    if since != "given up":
        for frm, to in LEGAL_MOVES:
            assert ledger.transition(scene.connection, [Step(late)], frm, to, lease_seconds=60) == []
        ledger.renew(scene.connection, [late.claim], 3600)
    assert scene.rows("SELECT * FROM ledger.loads") == before


def test_a_settled_load_cannot_be_settled_again(scene: Scene) -> None:
    scene.enter(seen("a"))
    [load] = scene.claim()
    scene.settle([load], rows_in=1, rows_written=1)
    with pytest.raises(ClaimLost):
        scene.settle([load], Status.READY_FOR_ERRORING)
    assert scene.value("rows_written", load) == 1


def test_of_two_that_move_the_same_load_one_does(scene: Scene) -> None:
    scene.enter(seen("a"))
    done = scene.settle(scene.claim())
    steps = [Step(load) for load in done]
    move = (Status.READY_FOR_ARCHIVING, Status.ARCHIVING)
    with scene.database.connect() as other:
        assert len(ledger.transition(other, steps, *move, lease_seconds=60)) == 1
        assert ledger.transition(scene.connection, steps, *move, lease_seconds=60) == []
    assert len(scene.events(done[0])) == 4


# Leases


def test_a_live_lease_is_not_taken(scene: Scene) -> None:
    scene.enter(seen("a"))
    scene.claim(lease=60)
    assert scene.expire() == 0
    assert scene.statuses() == {"a": ["ingesting"]}


def test_after_a_crash_nobody_is_charged_and_each_is_taken_by_itself(scene: Scene) -> None:
    scene.enter(*(seen(name) for name in "abc"))
    assert len(scene.claim("dead", lease=-1)) == 3
    assert scene.expire() == 3
    scene.enter(seen("new", minutes=99))
    batches = [scene.claim("next") for _ in range(5)]
    assert [[load.key for load in batch] for batch in batches] == [["new"], ["a"], ["b"], ["c"], []]
    assert [load.attempts for batch in batches for load in batch] == [0, 0, 0, 0]
    assert scene.events(batches[1][0])[2] == ("ingesting", "ready", "dead", "lease expired")


def test_only_the_load_in_hand_is_charged(scene: Scene) -> None:
    scene.enter(*(seen(name) for name in "abc"))
    scene.claim("dead", lease=-1)
    scene.expire()
    [a] = scene.claim("dead too", lease=-1)
    scene.expire()
    assert dict(scene.rows("SELECT key, attempts FROM ledger.loads")) == {"a": 1, "b": 0, "c": 0}
    assert scene.events(a)[-1] == ("ingesting", "ready", "dead too", "lease expired, charged")


def test_a_load_that_kills_every_run_is_given_up_and_its_neighbours_are_not(scene: Scene) -> None:
    scene.enter(seen("killer"), seen("neighbour", minutes=1))
    scene.claim("run 0", lease=-1)
    for number in range(1, 4):
        assert scene.expire(max_attempts=3) == (2 if number == 1 else 1)
        assert keys(scene.claim(f"run {number}", lease=-1)) == {"killer"}
    scene.expire(max_attempts=3)
    states = {state["key"]: state for state in whereabouts.load_states(scene.connection, PIPELINE)}
    killer = states["killer"]
    assert (killer["status"], killer["error_code"], killer["attempts"]) == ("ready_for_erroring", "crashed_repeatedly", 3)
    assert (states["neighbour"]["status"], states["neighbour"]["attempts"]) == ("ready", 0)
    [step] = ledger.take_stranded(scene.connection, PIPELINE, count=10, lease_seconds=60)
    assert [problem.code for problem in step.load.problems] == ["crashed_repeatedly"]


def test_renewal_reaches_only_these_claims(scene: Scene) -> None:
    scene.enter(seen("a"), seen("b"))
    [a] = scene.claim(count=1, lease=-1)
    [b] = scene.claim(count=1, lease=-1)
    ledger.renew(scene.connection, [a.claim], 60)
    assert scene.expire() == 1
    assert (scene.value("status", a), scene.value("status", b)) == ("ingesting", "ready")


def test_renewal_and_settling_do_not_wait_for_each_other(scene: Scene) -> None:
    """The two update the same rows, each in its own order: waiting would be a deadlock, and Postgres would pick the victim."""
    scene.enter(seen("a"), seen("b"))
    a, b = scene.claim(lease=-1)
    with scene.database.connect() as renewer, scene.connection.transaction():
        renewer.execute("SET lock_timeout = '300ms'")
        ledger.settle(scene.connection, [Verdict(a, Status.READY_FOR_ARCHIVING)])
        ledger.renew(renewer, [a.claim], 60)
    assert scene.expire() == 0
    assert scene.value("status", b) == "ingesting"


def test_a_commit_whose_run_dies_before_the_move_is_finished_by_the_sweep(scene: Scene) -> None:
    scene.enter(seen("a"), seen("b"))
    a, b = scene.claim("dead", lease=-1)
    [done] = scene.settle([a])
    [moving] = ledger.transition(
        scene.connection, [Step(load) for load in scene.settle([b])], Status.READY_FOR_ARCHIVING, Status.ARCHIVING, lease_seconds=-1
    )
    taken = {step.load.id: step for step in ledger.take_stranded(scene.connection, PIPELINE, count=10, lease_seconds=60)}
    assert {step.load.status for step in taken.values()} == {"ready_for_archiving"}
    assert all(step.load.claim > a.claim for step in taken.values())
    assert ledger.take_stranded(scene.connection, PIPELINE, count=10, lease_seconds=60) == []
    assert scene.events(b)[-1] == ("archiving", "ready_for_archiving", "dead", "lease expired during the move")
    for old in (done, moving):
        for frm, to in ((Status.READY_FOR_ARCHIVING, Status.ARCHIVING), (Status.ARCHIVING, Status.ARCHIVED)):
            assert ledger.transition(scene.connection, [Step(old)], frm, to, lease_seconds=60) == []


def test_what_is_being_moved_is_not_taken_over(scene: Scene) -> None:
    scene.enter(seen("a"))
    done = scene.settle(scene.claim())
    assert ledger.take_stranded(scene.connection, PIPELINE, count=10, lease_seconds=60) == []
    ledger.transition(scene.connection, [Step(done[0])], Status.READY_FOR_ARCHIVING, Status.ARCHIVING, lease_seconds=60)
    assert ledger.take_stranded(scene.connection, PIPELINE, count=10, lease_seconds=60) == []


# Runs that are gone


def test_a_run_that_died_over_its_batch_is_reported_and_one_that_works_is_not(scene: Scene) -> None:
    scene.enter(seen("a"), seen("b"), seen("c"))
    scene.claim("dead", count=1, lease=-1)
    scene.claim("slow", count=1, lease=-1)
    scene.claim("slow", count=1, lease=60)
    asked = ["dead", "slow", "unheard of"]
    assert whereabouts.dead_runs(scene.connection, PIPELINE, asked) == []
    scene.expire()
    assert whereabouts.dead_runs(scene.connection, PIPELINE, asked) == ["dead"]
    assert whereabouts.dead_runs(scene.connection, PIPELINE, []) == []


@pytest.mark.parametrize("status", [Status.READY_FOR_ARCHIVING, Status.ARCHIVING])
def test_a_run_that_has_committed_and_not_moved_yet_is_alive(scene: Scene, status: Status) -> None:
    scene.enter(seen("a"), seen("b"))
    scene.claim("slow", count=1, lease=-1)
    scene.expire()
    done = scene.settle(scene.claim("slow", count=1, lease=60))
    if status == Status.ARCHIVING:
        ledger.transition(scene.connection, [Step(done[0])], Status.READY_FOR_ARCHIVING, status, lease_seconds=60)
    assert whereabouts.dead_runs(scene.connection, PIPELINE, ["slow"]) == []


def test_what_a_dead_run_committed_stays_its_own_when_another_moves_it(scene: Scene) -> None:
    scene.enter(seen("a"))
    [done] = scene.settle(scene.claim("dead", lease=-1), rows_in=3, rows_written=3)
    steps = ledger.take_stranded(scene.connection, PIPELINE, count=10, lease_seconds=60)
    move = (Status.READY_FOR_ARCHIVING, Status.ARCHIVING)
    moving = ledger.transition(scene.connection, steps, *move, lease_seconds=60, run_id="mover")
    assert whereabouts.dead_runs(scene.connection, PIPELINE, ["dead", "mover"]) == ["dead"]
    end = (Status.ARCHIVING, Status.ARCHIVED)
    ledger.transition(scene.connection, [Step(load) for load in moving], *end, lease_seconds=60, run_id="mover")
    assert whereabouts.of_run(scene.connection, PIPELINE, "mover") == whereabouts.RunSummary()
    assert whereabouts.of_run(scene.connection, PIPELINE, "dead") == whereabouts.RunSummary(loads=1, rows_in=3, rows_written=3)
    assert scene.events(done)[-2:] == [
        (*move, "dead", "lease expired before the move was done"),
        (*end, "mover", None),
    ]
    assert whereabouts.dead_runs(scene.connection, PIPELINE, ["dead", "mover"]) == ["dead"]


# What it costs


@pytest.fixture
def aged(database: Database, tmp_path: Path) -> Iterator[Scene]:
    """A ledger whose statistics know 50,000 finished loads of 500 runs, and nothing of the 5,000 that have just arrived."""
    with scene_in(database, tmp_path) as scene:
        for table in ("loads", "load_events"):
            scene.connection.execute(f"ALTER TABLE ledger.{table} SET (autovacuum_enabled = false)")
        scene.connection.execute(ENTER_MANY, {"what": "old", "count": 50_000, "status": "archived", "now": NOON})
        scene.connection.execute(
            "INSERT INTO ledger.load_events (load_id, to_status, run_id, why) "
            "SELECT id, 'ready', run_id, CASE WHEN id % 1000 = 0 THEN 'lease expired' END FROM ledger.loads"
        )
        scene.connection.execute("VACUUM ANALYZE ledger.loads, ledger.load_events")
        scene.connection.execute(ENTER_MANY, {"what": "new", "count": 5000, "status": "ready", "now": NOON})
        yield scene


ENTER_MANY = f"""
INSERT INTO ledger.loads (pipeline, landing_zone, key, version, size, modified, partition, status, run_id, claim, lease_until)
SELECT '{PIPELINE}', '{ZONE}', %(what)s || '/' || n, 'v', 10, %(now)s, '2024-05-06', %(status)s, past.run, n / 100, %(now)s
FROM generate_series(1, %(count)s) AS n, LATERAL (SELECT CASE WHEN %(status)s = 'archived' THEN 'run ' || n / 100 END) AS past (run)
"""


def pages_touched(scene: Scene, statement: str, **parameters: Any) -> int:
    """How many pages a statement looks at: what time it takes, without the machine's part in it."""
    with scene.connection.transaction(force_rollback=True):
        [(explained,)] = scene.rows(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
    plan = explained[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def test_claiming_from_a_backlog_costs_each_load_the_same_whatever_the_statistics_say(aged: Scene) -> None:
    scope = Scope(PIPELINE).as_parameters()
    of_claim = {"alone": False, "count": 1000, "bytes": 1 << 40, "run_id": "run", "lease": 60}
    assert ledger.claimable(aged.connection, Scope(PIPELINE))[0] == 5000
    assert pages_touched(aged, ledger_sql.CLAIMABLE, most=None, **scope) < 10 * 5000
    assert pages_touched(aged, ledger_sql.CLAIM, **scope, **of_claim) < 10 * 5000 + 40 * 1000


def test_what_a_run_asks_the_ledger_does_not_cost_more_as_it_ages(aged: Scene) -> None:
    run = "run 20"
    assert whereabouts.dead_runs(aged.connection, PIPELINE, [run]) == [run]
    assert pages_touched(aged, whereabouts.DEAD_RUNS, pipeline=PIPELINE, run_ids=[run, "run 21"]) < 200
    assert whereabouts.of_run(aged.connection, PIPELINE, run).loads == 100
    assert pages_touched(aged, whereabouts.OF_RUN, pipeline=PIPELINE, run_id=run) < 5 * 100
    assert len(aged.settle(aged.claim(count=10))) == 10
    assert pages_touched(aged, ledger_sql.RENEW, claims=[aged.rows("SELECT max(claim) FROM ledger.loads")[0][0]], lease=60) < 300


# Faults that pass


def test_a_load_that_met_a_fault_is_not_tried_again_by_the_same_run(scene: Scene) -> None:
    scene.enter(seen("a"), seen("b"))
    a, b = scene.claim("one")
    scene.settle([a], Status.READY, charged=True, why="to be tried again")
    scene.settle([b], Status.READY, why="given back")
    assert keys(scene.claim("one")) == {"b"}
    [again] = scene.claim("two")
    assert (again.key, again.attempts) == ("a", 1)
    assert scene.events(a)[-2] == ("ingesting", "ready", "one", "to be tried again")


def test_what_is_given_back_is_uncharged_and_claimable_at_once(scene: Scene) -> None:
    scene.enter(seen("a"))
    scene.settle(scene.claim(), Status.READY, dataset="boxes")
    assert scene.claim(datasets=frozenset({"letters"})) == []
    [again] = scene.claim(datasets=frozenset({"boxes"}))
    assert (again.attempts, again.dataset, again.alone) == (0, "boxes", False)


def test_faults_and_crashes_are_charged_to_one_account(scene: Scene) -> None:
    scene.enter(seen("a"))
    scene.claim("one", lease=-1)
    scene.expire()
    scene.settle(scene.claim("two"), Status.READY, charged=True)
    scene.claim("three", lease=-1)
    scene.expire(max_attempts=2)
    assert scene.statuses() == {"a": ["ready_for_erroring"]}


# Duplicates


def previous_of(scene: Scene, first: dict[str, object], to: Status = Status.READY_FOR_ARCHIVING) -> ledger.Previous:
    """What counts as the version before, when the first version of a key met this end."""
    scene.enter(seen("a", minutes=0))
    scene.finish(scene.settle(scene.claim(), to, content_hash="same", **first))
    scene.enter(seen("a", minutes=1))
    [load] = scene.claim()
    return ledger.previous_versions(scene.connection, [load])[load.id]


def test_a_version_loaded_whole_makes_the_next_a_duplicate(scene: Scene) -> None:
    assert previous_of(scene, {}).content_hash == "same"


def test_a_version_with_rows_refused_makes_no_duplicate(scene: Scene) -> None:
    assert previous_of(scene, {"rows_in": 2, "rows_written": 1, "rows_rejected": 1}).content_hash is None


def test_a_refused_version_makes_no_duplicate(scene: Scene) -> None:
    assert previous_of(scene, {}, Status.READY_FOR_ERRORING).content_hash is None


def test_a_first_version_has_none_before_it(scene: Scene) -> None:
    scene.enter(seen("a"), seen("other", minutes=-5))
    assert ledger.previous_versions(scene.connection, scene.claim()) == {}


def test_back_to_an_earlier_content_is_not_a_duplicate(scene: Scene) -> None:
    """A-B-A: the version before is B, not the A before that."""
    for minute, content in enumerate(("A", "B", "A")):
        scene.enter(seen("a", minutes=minute))
        [load] = scene.claim()
        before = ledger.previous_versions(scene.connection, [load]).get(load.id)
        scene.finish(scene.settle([load], content_hash=content))
    assert before is not None
    assert before.content_hash == "B"


def test_a_retried_load_is_never_a_duplicate(scene: Scene) -> None:
    scene.enter(seen("a"))
    scene.finish(scene.settle(scene.claim(), content_hash="same"))
    scene.enter(seen("a", minutes=1))
    scene.finish(scene.settle(scene.claim(), Status.READY_FOR_ERRORING, content_hash="same"))
    ledger.retry(scene.connection, Scope(PIPELINE))
    [load] = scene.claim()
    assert ledger.previous_versions(scene.connection, [load]) == {}


# Retry


def test_retry_takes_the_newest_version_and_names_the_others_superseded(scene: Scene) -> None:
    for minute in range(2):
        scene.enter(seen("a", minutes=minute), seen(f"single {minute}"))
        scene.finish(scene.settle(scene.claim(), Status.READY_FOR_ERRORING))
    retried = ledger.retry(scene.connection, Scope(PIPELINE))
    assert sorted(retried.ready.values()) == ["a", "single 0", "single 1"]
    assert list(retried.superseded.values()) == ["a"]
    assert scene.statuses()["a"] == ["errored", "ready"]
    assert [load.version for load in scene.claim() if load.key == "a"] == [version_of_newest(scene, "a")]


def version_of_newest(scene: Scene, key: str) -> str:
    return str(scene.rows("SELECT version FROM ledger.loads WHERE key = %s ORDER BY modified DESC LIMIT 1", [key])[0][0])


def test_an_older_version_is_superseded_by_one_that_was_loaded(scene: Scene) -> None:
    scene.enter(seen("a"))
    scene.finish(scene.settle(scene.claim(), Status.READY_FOR_ERRORING))
    scene.enter(seen("a", minutes=1))
    scene.finish(scene.settle(scene.claim()))
    retried = ledger.retry(scene.connection, Scope(PIPELINE), "a")
    assert (retried.ready, list(retried.superseded.values())) == ({}, ["a"])
    assert scene.statuses() == {"a": ["errored", "archived"]}


def test_retry_forgets_the_error_and_the_attempts(scene: Scene) -> None:
    scene.enter(seen("a"))
    scene.claim("dead", lease=-1)
    scene.expire()
    [load] = scene.claim("dead too", lease=-1)
    scene.expire()
    scene.finish(scene.settle(scene.claim("run"), Status.READY_FOR_ERRORING, rows_in=3, rows_rejected=3, charged=True))
    ledger.retry(scene.connection, Scope(PIPELINE))
    [again] = scene.claim("run")
    assert (again.id, again.attempts, again.alone, again.problems, again.rows_rejected) == (load.id, 0, False, (), 0)
    assert scene.value("error_code", again) is None
    assert scene.value("finished_at", again) is None


def test_retry_is_narrowed_by_dataset_partition_and_key(scene: Scene) -> None:
    scene.enter(*(seen(name) for name in ("letter", "box", "unknown", "fine")))
    by_key = {load.key: load for load in scene.claim()}
    scene.finish(
        [
            *scene.settle([by_key["letter"]], Status.READY_FOR_ERRORING, dataset="letters"),
            *scene.settle([by_key["box"]], Status.READY_FOR_ERRORING, dataset="boxes"),
            *scene.settle([by_key["unknown"]], Status.READY_FOR_ERRORING),
            *scene.settle([by_key["fine"]], dataset="boxes"),
        ]
    )

    def retried(key: str | None = None, **scope: frozenset[str]) -> set[str]:
        return set(ledger.retry(scene.connection, Scope(PIPELINE, **scope), key).ready.values())  # type: ignore[arg-type]

    assert retried(partitions=frozenset({"2024-05-05"})) == set()
    assert retried("no such key") == set()
    assert retried("fine") == set()
    assert retried(datasets=frozenset({"boxes"})) == {"box"}
    assert retried("letter", datasets=frozenset({"boxes"})) == set()
    assert retried("letter") == {"letter"}
    assert retried(partitions=frozenset({"2024-05-06"})) == {"unknown"}


# All of it at once


def test_no_order_of_events_breaks_the_history_of_a_load(scene: Scene) -> None:
    """Two runs, a sweep, retries and new versions in any order: each history is one unbroken chain of legal moves."""
    chance = random.Random(20240506)
    hands: dict[str, list[Load]] = {"one": [], "two": []}
    moving: list[Load] = []
    objects: list[StoredObject] = []
    for step in range(700):
        run = chance.choice(["one", "two"])
        action = chance.choice(["enter", "claim", "claim", "settle", "settle", "finish", "finish", "expire", "sweep", "retry", "back"])
        if action == "enter":
            objects.append(seen(chance.choice("abcd"), minutes=step))
            scene.enter(objects[-1])
        elif action == "claim":
            hands[run] = scene.claim(f"{run} {step}", count=chance.randint(1, 4), lease=chance.choice([-1, 60]))
        elif action == "settle":
            to = chance.choice([Status.READY, Status.READY_FOR_ARCHIVING, Status.READY_FOR_ERRORING])
            try:
                moving += scene.settle(hands[run], to, charged=chance.random() < 0.2)
            except ClaimLost:
                hands[run] = []
        elif action == "finish":
            chance.shuffle(moving)
            some = moving[: chance.randint(0, 5)]
            if chance.random() < 0.3:
                for ready, then in ledger.MOVING.items():
                    steps = [Step(load) for load in some if load.status == ready]
                    ledger.transition(scene.connection, steps, ready, then, lease_seconds=-1)
            else:
                scene.finish(some)
        elif action == "expire":
            if chance.random() < 0.5:
                scene.connection.execute("UPDATE ledger.loads SET lease_until = now() - interval '1 second'")
            scene.expire(max_attempts=2)
        elif action == "sweep":
            moving += [
                step.load for step in ledger.take_stranded(scene.connection, PIPELINE, count=3, lease_seconds=chance.choice([-1, 60]))
            ]
        elif action == "retry":
            ledger.retry(scene.connection, Scope(PIPELINE))
        elif objects:
            ledger.come_back(scene.connection, ZONE, chance.sample(objects, 1), NOON.now(NOON.tzinfo))
        in_hand = Counter(key for (key,) in scene.rows("SELECT key FROM ledger.loads WHERE status = 'ingesting'"))
        assert max(in_hand.values(), default=0) <= 1, "two versions of a key are being loaded at once"
    moves: Counter[tuple[str, str]] = Counter()
    for load in ledger.loads(scene.connection, [row[0] for row in scene.rows("SELECT id FROM ledger.loads")]):
        history = scene.events(load)
        assert history[0][:2] == (None, "ready")
        assert all(before[1] == after[0] for before, after in pairwise(history))
        assert history[-1][1] == load.status
        moves.update((str(frm), to) for frm, to, _, _ in history[1:])
    assert set(moves) <= {(str(frm), str(to)) for frm, to in LEGAL_MOVES}
    assert len(moves) >= 12, "this order has shown little"
