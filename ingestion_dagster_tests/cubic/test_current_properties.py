"""Whatever arrives in whatever order, a current table equals the plainest account of its loads, however often it was refreshed between."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ingestion_dagster.cubic import current, current_state, places
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.cubic.lake import FIRST, KEY, SECOND, TAP, TAP_CT, Lake, change, sequence
from ingestion_dagster_tests.metrics.one_database import one_database

MARKER = "LOAD00000001.csv.gz"
PARTS = (MARKER, "LOAD00000002.csv.gz")
CHANGES = ("a.csv.gz", "b.csv.gz", "c.csv.gz")

KEYS = st.fixed_dictionaries({"k1": st.sampled_from([0, 1, None]), "k2": st.sampled_from(["a", None])})
VALUE = st.sampled_from(["p", "q", None])
LOADED = st.lists(st.builds(lambda key, value: {**key, "v": value}, KEYS, VALUE), max_size=3)
CHANGED = st.lists(st.tuples(st.sampled_from("IUDBDU"), st.integers(-2, 9), KEYS, VALUE), max_size=4)
SNAPSHOT = st.sampled_from([FIRST, FIRST, FIRST, SECOND])
STEP = st.one_of(
    st.tuples(st.just("load"), SNAPSHOT, st.sampled_from(PARTS), LOADED),
    st.tuples(st.just("change"), SNAPSHOT, st.sampled_from(CHANGES), CHANGED),
    st.tuples(st.just("change"), st.just(FIRST), st.sampled_from(CHANGES), CHANGED),
    st.tuples(st.just("replay"), st.integers(0, 5), st.just(None), st.just(None)),
    st.tuples(st.just("finish"), st.integers(0, 5), st.sampled_from(["archived", "errored"]), st.just(None)),
    st.tuples(st.just("refresh"), st.just(None), st.just(None), st.just(None)),
)


@dataclass
class Delivery:
    """A load and where its rows stand."""

    load: int
    snapshot: datetime
    is_change: bool
    name: str
    status: str = "archived"
    is_merged: bool = False

    @property
    def place(self) -> tuple[datetime, bool, str]:
        return self.snapshot, self.is_change, self.name


@dataclass
class Account:
    """What has been delivered, and by plain rules what the current table shows."""

    deliveries: list[Delivery] = field(default_factory=list)
    rows: dict[tuple[datetime, bool, str], list[dict[str, Any]]] = field(default_factory=dict)
    shown: datetime | None = None

    def target(self) -> datetime | None:
        markers = {each.snapshot for each in self.deliveries if not each.is_change and each.name == MARKER and each.status == "archived"}
        unfinished = {each.snapshot for each in self.deliveries if not each.is_change and each.status == "ready"}
        usable = [moment for moment in markers - unfinished if self.shown is None or moment > self.shown]
        return max(usable, default=self.shown)

    def refreshed(self) -> dict[tuple[Any, ...], Mapping[str, Any]] | None:
        """The state after a refresh; None if there is none to be had."""
        self.shown = self.target()
        if self.shown is None:
            return None
        for each in self.deliveries:
            is_held = each.status == "ready" and each.is_merged
            each.is_merged = each.snapshot == self.shown and (each.status == "archived" or is_held)
        newest: dict[tuple[Any, ...], tuple[tuple[Any, ...], dict[str, Any]]] = {}
        for place in sorted({each.place for each in self.deliveries if each.is_merged}):
            for number, row in enumerate(self.rows[place]):
                if row["header__change_oper"] != "B":
                    rank = (int(row["header__change_seq"]), place[1:], number)
                    key = tuple(row[name] for name in KEY)
                    newest[key] = max(newest.get(key, (rank, row)), (rank, row), key=lambda each: each[0])
        return {key: row for key, (_, row) in newest.items() if row["header__change_oper"] != "D"}


@pytest.fixture(scope="module")
def shared(server: EmbeddedServer) -> Iterator[Database]:
    with one_database(server) as made:
        yield made


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(STEP, min_size=4, max_size=14))
def test_current_table_equals_the_account_of_its_loads(shared: Database, steps: list[tuple[Any, ...]]):
    home = Path(tempfile.mkdtemp(prefix="cubic-properties-"))
    try:
        with shared.connect() as connection:
            connection.execute("TRUNCATE ledger.datasets, ledger.loads, ledger.snapshots CASCADE")
            lake = Lake(connection, Settings(home=home))
            lake.schemas()
            account = Account()
            begun = Delivery(0, FIRST, is_change=False, name=MARKER)
            deliver(lake, account, begun, [{"k1": 0, "k2": "a", "v": "first"}])
            for step in steps:
                take(lake, account, step)
            compare(lake, account)
            if account.shown is not None:
                before = lake.state()
                assert lake.refresh(rebuild=True).rows == len(before)
                assert lake.state() == before
    finally:
        shutil.rmtree(home)


def take(lake: Lake, account: Account, step: tuple[Any, ...]) -> None:
    what, first, name, content = step
    if what == "refresh":
        compare(lake, account)
    elif what in {"replay", "finish"}:
        wanted = "archived" if what == "replay" else "ready"
        found = [each for each in account.deliveries if each.status == wanted and can_be_told(account, each)]
        if not found:
            return
        chosen = found[first % len(found)]
        if what == "replay":
            lake.replay(chosen.load)
            chosen.status = "ready"
        else:
            lake.commit(chosen.load, rows=len(account.rows[chosen.place]), status=name)
            chosen.status = name
    else:
        delivery = Delivery(0, first, is_change=what == "change", name=name)
        if any(each.place == delivery.place and each.status == "ready" for each in account.deliveries):
            return
        rows = [change(oper, number, {**key, "v": value}, first) for oper, number, key, value in content] if what == "change" else content
        deliver(lake, account, delivery, rows)


def can_be_told(account: Account, delivery: Delivery) -> bool:
    """Only the newest version of a file is loaded again; and while that is not in the table, an older one's rows may be, or may not."""
    at_place = [each for each in account.deliveries if each.place == delivery.place]
    return at_place[-1] is delivery and (delivery.is_merged or len(at_place) == 1)


def deliver(lake: Lake, account: Account, delivery: Delivery, rows: list[dict[str, Any]]) -> None:
    table = TAP_CT if delivery.is_change else TAP
    delivery.load = lake.load(table, delivery.name, rows, snapshot=delivery.snapshot, version=str(len(account.deliveries)))
    stamp = {
        "header__change_seq": sequence(0, delivery.snapshot),
        "header__change_oper": "L",
        "header__timestamp": delivery.snapshot.replace(tzinfo=None),
    }
    account.rows[delivery.place] = [row if delivery.is_change else {**row, **stamp} for row in rows]
    account.deliveries.append(delivery)


def compare(lake: Lake, account: Account) -> None:
    expected = account.refreshed()
    refreshed = current.refresh(lake.connection, lake.settings, lake.registry, TAP)
    if expected is None:
        assert refreshed is None
        return
    assert refreshed is not None
    assert account.shown is not None
    assert refreshed.snapshot == places.format_snapshot(account.shown)
    assert lake.state() == expected
    assert refreshed.rows == len(expected)
    assert current_state.behind(lake.connection, lake.registry) == []
    assert current.count_rows(lake.connection, lake.settings, lake.registry, TAP) == len(expected)
