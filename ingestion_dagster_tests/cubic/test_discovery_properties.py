"""Snapshots: whatever arrives in whatever order, what belongs where agrees with the rules read off one load at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ingestion_dagster.cubic import discovery
from ingestion_dagster.cubic.places import PENDING, format_snapshot
from ingestion_dagster.cubic.registry import parse_registry
from ingestion_dagster.engine import entries
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.object_store import StoredObject
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.cubic.snapshot_scene import CHANGES, MARKER, PART, TABLES, TAPS, TEN
from ingestion_dagster_tests.metrics.one_database import one_database

REGISTRY = parse_registry(TABLES)
KEYS = (MARKER, PART, f"{TAPS}LOAD00000003.csv.gz", f"{CHANGES}a.csv.gz", f"{CHANGES}b.csv.gz", f"{TAPS}notes.txt")
UNDECIDED, LOADED = ("ready", "ingesting"), ("ready_for_archiving", "archived")


@dataclass
class Version:
    """A load, as the rules know it."""

    number: int
    key: str
    modified: datetime
    size: int
    status: str = "ready"
    superseded: bool = False
    snapshot: datetime | None = None

    @property
    def order(self) -> tuple[datetime, int]:
        return self.modified, self.number

    @property
    def second(self) -> datetime:
        return self.modified.replace(microsecond=0)

    @property
    def is_part(self) -> bool:
        """Whether what became of the version before it matters."""
        return self.size > 0 and self.key.startswith(f"{TAPS}LOAD") and self.key != MARKER


@dataclass
class Model:
    """The rules, one load at a time."""

    versions: list[Version] = field(default_factory=list)
    snapshots: set[datetime] = field(default_factory=set)

    def assign(self) -> None:
        self.snapshots |= {each.second for each in self.versions if each.key == MARKER and each.size}
        for key in KEYS:
            parts_wait = False
            for each in sorted((each for each in self.versions if each.key == key), key=lambda each: each.order):
                if each.snapshot is None and each.status == "ready" and not (each.is_part and parts_wait):
                    each.snapshot = self.belongs_to(each)
                    parts_wait = each.is_part and each.snapshot is None

    def belongs_to(self, load: Version) -> datetime | None:
        before = [snapshot for snapshot in self.snapshots if snapshot <= load.second]
        after = [snapshot for snapshot in self.snapshots if snapshot > load.second]
        if not before:
            return min(after, default=None)
        own = max(before)
        same = [each for each in self.versions if each.key == load.key and each.size and each.snapshot == own and each.order < load.order]
        if not (load.is_part and same):
            return own
        previous = max(same, key=lambda each: each.order)
        if previous.status in UNDECIDED:
            return None
        if previous.status in LOADED and previous.second == load.second and not previous.superseded:
            return own
        if previous.status in LOADED:
            return min(after, default=own if previous.superseded else None)
        return own

    def claimable(self, key: str) -> Version | None:
        """The oldest unfinished load of a key, if a run could take it."""
        unfinished = [each for each in self.versions if each.key == key and each.status not in ("archived", "errored")]
        oldest = min(unfinished, key=lambda each: each.order, default=None)
        return oldest if oldest is not None and (oldest.snapshot is not None or not oldest.is_part) else None


class Ledger:
    """The same in the database."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        discovery.sync(connection, REGISTRY)

    def arrive(self, key: str, modified: datetime, size: int, number: int) -> int:
        found = discovery.arrival(REGISTRY, StoredObject(key, size, modified, f"v{number}"))
        assert found is not None
        assert entries.discover(self.connection, "cubic", "file:///in", [found], TEN) == 1
        row = self.connection.execute("SELECT max(id) FROM ledger.loads").fetchone()
        assert row is not None
        return int(row[0])

    def decide(self, load: Version) -> None:
        self.connection.execute(
            "UPDATE ledger.loads SET status = %s, error_code = %s WHERE id = %s",
            [load.status, "superseded" if load.superseded else None, load.number],
        )

    def places(self) -> dict[int, tuple[str, str | None]]:
        return {row[0]: (row[1], row[2]) for row in self.connection.execute("SELECT id, partition, waiting_for FROM ledger.loads")}


moments = st.integers(0, 12).map(lambda halves: TEN + timedelta(seconds=halves / 2))
arrivals = st.tuples(st.just("arrive"), st.sampled_from(KEYS), moments, st.sampled_from([1, 1, 1, 0]))
decisions = st.tuples(
    st.just("decide"),
    st.sampled_from(KEYS[:3]),
    st.sampled_from(["archived", "archived", "errored", "superseded", "ingesting", "ready_for_archiving", "ready_for_erroring"]),
)
assignments = st.just(("assign",))
stories = st.lists(st.one_of(arrivals, decisions, assignments), max_size=30)


@pytest.fixture(scope="module")
def connection(server: EmbeddedServer) -> Iterator[Connection]:
    with one_database(server) as database, database.connect() as connection:
        yield connection


def second(number: float) -> datetime:
    return TEN + timedelta(seconds=number)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(
    story=[
        ("arrive", MARKER, second(0), 1),
        ("arrive", PART, second(1), 1),
        ("assign",),
        ("decide", PART, "archived"),
        ("arrive", PART, second(2), 1),
        ("arrive", PART, second(2.5), 1),
        ("arrive", MARKER, second(3), 1),
        ("arrive", PART, second(4), 1),
    ]
)
@example(
    story=[
        ("arrive", MARKER, second(0), 1),
        ("arrive", PART, second(0), 1),
        ("arrive", PART, second(1), 1),
        ("assign",),
        ("decide", PART, "superseded"),
        ("arrive", MARKER, second(2), 1),
    ]
)
@given(story=stories)
def test_what_belongs_where_agrees_with_the_rules(connection: Connection, story: list[tuple[Any, ...]]) -> None:
    with connection.transaction(force_rollback=True):
        there, model = Ledger(connection), Model()
        for act, *details in story:
            if act == "arrive":
                arrive(there, model, *details)
            elif act == "decide":
                decide(there, model, *details)
            else:
                assign(there, model)
        assign(there, model)
        end_well(there, model)


def arrive(there: Ledger, model: Model, key: str, modified: datetime, size: int) -> None:
    number = there.arrive(key, modified, size, len(model.versions))
    model.versions.append(Version(number, key, modified, size))


def decide(there: Ledger, model: Model, key: str, outcome: str) -> None:
    load = model.claimable(key)
    if load is not None:
        load.superseded = outcome == "superseded"
        load.status = "archived" if load.superseded else outcome
        there.decide(load)


def assign(there: Ledger, model: Model) -> None:
    """Both assign; they agree, and nobody's snapshot is changed."""
    before = {number: partition for number, (partition, _) in there.places().items() if partition != PENDING}
    discovery.assign(there.connection, REGISTRY)
    model.assign()
    places = there.places()
    assert {number: partition for number, (partition, _) in places.items()} == {
        each.number: PENDING if each.snapshot is None else format_snapshot(each.snapshot) for each in model.versions
    }
    assert before.items() <= {number: partition for number, (partition, _) in places.items()}.items()
    for each in model.versions:
        waits = each.snapshot is None and each.size > 0 and not each.key.endswith(".txt")
        assert places[each.number][1] == ("snapshot" if waits else None)
    check_nothing_is_left(model)


def check_nothing_is_left(model: Model) -> None:
    """With any snapshot there, only a part may wait: for the marker after it, or for the fate of an older version."""
    if not model.snapshots:
        return
    for each in model.versions:
        if each.snapshot is None and each.status == "ready":
            assert each.is_part
            older = [other for other in model.versions if other.key == each.key and other.order < each.order]
            undecided = any(other.status in UNDECIDED for other in older)
            assert undecided or max(model.snapshots) <= each.second


def end_well(there: Ledger, model: Model) -> None:
    """Once everything is loaded and a marker has come after it all, nothing waits."""
    arrive(there, model, MARKER, TEN + timedelta(seconds=60), 1)
    for _ in range(len(model.versions) + 1):
        assign(there, model)
        while taken := [each for key in KEYS if (each := model.claimable(key)) is not None]:
            for each in taken:
                decide(there, model, each.key, "archived")
    assert all(each.status in ("archived", "errored") for each in model.versions)
