"""The catalogue in processes of its own, without Dagster: to be killed, stopped and raced.

`python -m ingestion_dagster_tests.catalog.driver serve` forks a process for each command: `refresh` begins or goes on with the refresh
`SUFFIX`, `update`, `rebuild` and `rollback` do what they say. Settings come from the environment.
"""

import os
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from typing import Any
from unittest import mock

from ingestion_dagster.catalog import copy as copying
from ingestion_dagster.catalog import filtered, refreshes, steps, swap_sql, updates
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.catalog.steps import Work
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.engine import processes

IMAGE = MEDIA_TYPES["image"]
PAGE = 8192
SUFFIX = "third"
"""The refresh that is killed, cut and raced; `first` and `second` were before it."""

STEPS: tuple[Callable[[Work], Any], ...] = (steps.copy, steps.index_staged, steps.fill, steps.promote, steps.retire)
_MODULE = "ingestion_dagster_tests.catalog.driver"
Process = processes.Process


def run_id() -> str:
    """The id of a run of a driver."""
    return f"driver-{uuid.uuid4().hex[:8]}"


def refresh(settings: Settings, suffix: str = SUFFIX, todo: Sequence[Callable[[Work], Any]] = STEPS, alias: str | None = None) -> None:
    """Begin a refresh or go on with it, to the end, as the assets of a run do."""
    run = run_id()
    places, limits = Places.of(settings), Limits.of(settings)
    with places.ledger.connect() as connection:
        refreshes.sweep(connection, limits, run)
        known = [each for each in refreshes.of_model(connection, "image") if each.suffix == suffix]
        if not known:
            steps.begin(places, connection, IMAGE, run, asked_by="driver", suffix=suffix, alias=alias)
        work = Work(places, connection, IMAGE, suffix, run, limits)
        # Ranges of a page: so that a small table takes several.
        with mock.patch.dict(copying.copy_tables.__kwdefaults__, range_bytes=PAGE):
            for step in todo:
                step(work)


def begin(settings: Settings) -> None:
    """Enter a refresh of a suffix of its own, as `ingestion run` does."""
    places = Places.of(settings)
    with places.ledger.connect() as connection:
        steps.begin(places, connection, IMAGE, run_id(), asked_by="driver")


def update(settings: Settings) -> None:
    """Bring upstream changes into what is live."""
    places = Places.of(settings)
    with places.ledger.connect() as connection, closing(places.search()) as engine:
        updates.update_live(places, engine, connection, IMAGE, run_id())


def rebuild(settings: Settings) -> None:
    """Make the filtered index anew."""
    places = Places.of(settings)
    with places.ledger.connect() as connection:
        filtered.rebuild(places, connection, IMAGE, run_id(), Limits.of(settings), lambda _done, _of: None)


def rollback(settings: Settings) -> None:
    """Give readers back what they had before."""
    places = Places.of(settings)
    with places.ledger.connect() as connection:
        steps.roll_back(places, connection, IMAGE, run_id())


def hasten(settings: Settings) -> None:
    """Refresh, where a server waits a second for who has fallen asleep in a swap, and not ten, and a promotion as long for its turn."""
    impatient = swap_sql.SESSION.replace("'10s'", "'1s'")
    assert impatient != swap_sql.SESSION
    with mock.patch.object(swap_sql, "SESSION", impatient), mock.patch.object(steps, "_PROMOTION_SECONDS", 1.0):
        refresh(settings)


COMMANDS: dict[str, Callable[[Settings], Any]] = {
    "refresh": refresh,
    "copy": lambda settings: refresh(settings, todo=STEPS[:1]),
    "begin": begin,
    "update": update,
    "rebuild": rebuild,
    "rollback": rollback,
    "hasten": hasten,
}


def command(name: str) -> None:
    """What a driver process does."""
    if name.startswith("refresh:"):
        _, suffix, alias = name.split(":")
        refresh(current(), suffix, alias=alias or None)
    else:
        COMMANDS[name](current())


def start(settings: Settings, name: str = "refresh", *, fault: str | None = None) -> Process:
    """A driver process under these settings; `fault` is the point at which it is to be killed, or `point:passage:SIGSTOP`."""
    return processes.start(_MODULE, settings, name, fault=fault)


def kill_quietly(process: Process) -> None:
    """It is gone, whatever it does."""
    with suppress(ProcessLookupError):
        os.kill(process.pid, 9)
    process.end()


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else "refresh"
    processes.serve(command) if wanted == "serve" else command(wanted)
