"""Whether a history of loads is legal, whether two have ended alike, and what time does to the leases of the dead."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from ingestion_dagster.engine import ledger, postgres
from ingestion_dagster.engine.ledger import LEGAL_MOVES, Scope
from ingestion_dagster.settings import Settings


def let_leases_run_out(settings: Settings) -> None:
    """Nobody holds a load or a message any longer: what time does to the leases of the dead, at once."""
    with postgres.locate(settings).connect() as connection:
        connection.execute("UPDATE ledger.loads SET lease_until = now() - interval '1 second' WHERE lease_until > now()")
        connection.execute("UPDATE ledger.outbox SET claimed_until = now() - interval '1 second' WHERE claimed_until > now()")


def differences(found: Any, expected: Any, place: str = "") -> list[str]:
    """Where two histories differ, entry by entry: what is missing, and what should not be there."""
    if isinstance(expected, dict) and isinstance(found, dict):
        names = sorted({*expected, *found}, key=str)
        return [line for name in names for line in differences(found.get(name), expected.get(name), f"{place}/{name}")]
    if isinstance(expected, list) and isinstance(found, list):
        missing, added = Counter(map(repr, expected)), Counter(map(repr, found))
        lost, extra = missing - added, added - missing
        return [f"{place} misses {entry}" for entry in lost.elements()] + [f"{place} has {entry}" for entry in extra.elements()]
    return [] if found == expected else [f"{place} is {found!r}, not {expected!r}"]


def assert_history_is_legal(settings: Settings) -> None:
    """Every load's events form one chain of legal moves, from its discovery to where it stands."""
    with postgres.locate(settings).connect() as connection:
        events = connection.execute("SELECT load_id, from_status, to_status FROM ledger.load_events ORDER BY id").fetchall()
        standing: dict[int, str] = dict(connection.execute("SELECT id, status FROM ledger.loads").fetchall())
    chains: dict[int, list[tuple[str | None, str]]] = defaultdict(list)
    for load, was, became in events:
        chains[load].append((was, became))
    assert chains.keys() == standing.keys()
    for load, chain in chains.items():
        stations = [None, *(became for _, became in chain)]
        assert [was for was, _ in chain] == stations[:-1], f"load {load} has a broken history: {chain}"
        assert chain[0] == (None, "ready"), f"load {load} did not begin as ready: {chain}"
        assert set(chain[1:]) <= LEGAL_MOVES, f"load {load} has made an illegal move: {chain}"
        assert standing[load] == stations[-1], f"load {load} moved without an event: {chain}"


def query(settings: Settings, statement: str, parameters: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
    """Rows of a statement in the ledger's database."""
    with postgres.locate(settings).connect() as connection:
        found = connection.execute(statement, parameters)
        return found.fetchall() if found.description else []


def finished(settings: Settings, run: Callable[[Settings], object], seconds: float = 60) -> None:
    """Runs in this process, one after the other, until every load is finished."""
    deadline = time.monotonic() + seconds
    while True:
        run(settings)
        still_open = query(settings, "SELECT key, status FROM ledger.loads WHERE status NOT IN ('archived', 'errored')")
        if not still_open:
            return
        assert time.monotonic() < deadline, f"still open after {seconds} s: {still_open}"
        time.sleep(0.2)


def retried(settings: Settings, pipeline: str) -> None:
    """Put every refused load back to ready."""
    with postgres.locate(settings).connect() as connection:
        ledger.retry(connection, Scope(pipeline))


def replayed(settings: Settings, pipeline: str) -> None:
    """Put every archived load that is the newest of its key back to ready."""
    with postgres.locate(settings).connect() as connection:
        ledger.replay(connection, Scope(pipeline))
