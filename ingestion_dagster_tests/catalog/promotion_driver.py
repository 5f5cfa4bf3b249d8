"""Promotions in processes of their own, to be killed at a fault point; the search engine is the fake one that is kept in a file.

`python -m ingestion_dagster_tests.catalog.promotion_driver serve` forks a process for each command:
`promote SUFFIX`, `rollback`, `recover`.
"""

import os
import signal
import sys
from pathlib import Path

from ingestion_dagster.catalog import promotion, refreshes
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.catalog.promotion_scene import IMAGE, FileSearch
from ingestion_dagster_tests.engine import processes

_MODULE = "ingestion_dagster_tests.catalog.promotion_driver"
_STATE = "PROMOTION_STATE"


def command(name: str) -> None:
    """What a driver process does."""
    what, _, suffix = name.partition(" ")
    places, engine = Places.of(current()), FileSearch(Path(os.environ[_STATE]))
    with places.ledger.connect() as ledger:
        if what == "promote":
            promotion.promote(places, engine, ledger, IMAGE, refreshes.get(ledger, "image", suffix), "killed")
        elif what == "rollback":
            promotion.rollback(places, engine, ledger, IMAGE, "killed")
        else:
            promotion.recover(places, engine, ledger, IMAGE, "killed")


def killed(settings: Settings, name: str, state: Path, point: str) -> None:
    """Run a command on the engine of a file until it is killed at a fault point."""
    code, complaint = processes.start(_MODULE, settings, name, fault=point, **{_STATE: str(state)}).end()
    assert code == -signal.SIGKILL, f"was not killed at {point}: {complaint[-2000:]}"


if __name__ == "__main__":
    processes.serve(command) if sys.argv[1:] == ["serve"] else command(" ".join(sys.argv[1:]))
