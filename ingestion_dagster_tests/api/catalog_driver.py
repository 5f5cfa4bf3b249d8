"""The private API as a process, and its tasks as processes that do what a file says: `… serve FILE`, or `… TASK_ID`."""

import asyncio
import os
import sys
import time
from pathlib import Path

from ingestion_dagster.api import task_process
from ingestion_dagster.api.task_process import Launcher
from ingestion_dagster.catalog.tasks import Task
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.settings import Settings, current

COMMAND = (sys.executable, "-m", "ingestion_dagster_tests.api.catalog_driver")


def execute(settings: Settings, task: Task) -> None:
    """Note that it was done; `does` in the home says what is done: nothing, `wait` (until `go` is there), `refuse` or `break`."""
    done = settings.home_folder / "done"
    with done.open("a") as writing:
        writing.write(f"{task.id} {os.getpid()}\n")
    does = settings.home_folder / "does"
    what = does.read_text() if does.exists() else ""
    if what == "refuse":
        raise Refused(Problem("not_now", "image", "ask another time"))
    if what == "break":
        raise ValueError("a value of a row")
    while what == "wait" and not (settings.home_folder / "go").exists():
        time.sleep(0.01)


def serve(file: Path) -> None:
    """Answer on loopback; the file gets the port."""
    from ingestion_dagster.api.app import create_app
    from ingestion_dagster.api.catalog_desk import CatalogDesk
    from ingestion_dagster.api.server import Server, bound

    settings = current()
    with bound("127.0.0.1", 0) as listening:
        aside = file.with_name("aside")
        aside.write_text(str(listening.getsockname()[1]))
        app = create_app(settings, catalog_desk=CatalogDesk(settings, Launcher(settings.home_folder, COMMAND)))

        def ready() -> None:
            aside.replace(file)

        asyncio.run(Server(app, ready).serve([listening]))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]))
    else:
        task_process.main(execute)
