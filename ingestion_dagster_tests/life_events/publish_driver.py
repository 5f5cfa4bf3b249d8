"""Publishing in processes of its own, without Dagster: to be killed, stopped and raced.

`… serve` waits on its standard input and forks a process for each request; `publish` sends what is due, `notify` what acquirers are due.
Settings come from the environment.
"""

import sys

from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.delivery import Limits
from ingestion_dagster.life_events import notify
from ingestion_dagster.life_events.publish import publish
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.engine import processes

_MODULE = "ingestion_dagster_tests.life_events.publish_driver"


def limits(settings: Settings) -> Limits:
    """Small groups, so that a few events make several."""
    return Limits(in_flight=4, batch=8, group=4, lease_seconds=settings.lease_seconds)


def command(name: str) -> None:
    """What a driver process does."""
    settings = current()
    does = publish if name == "publish" else notify.deliver
    does(postgres.locate(settings), settings, f"driver-{name}", seconds=60, limits=limits(settings))


def start(settings: Settings, name: str = "publish", *, fault: str | None = None, **more: str) -> processes.Process:
    """A driver process under these settings; `fault` is the point at which it is to be killed, or `point:passage:SIGSTOP`."""
    return processes.start(_MODULE, settings, name, fault=fault, **more)


if __name__ == "__main__":
    wanted = sys.argv[1]
    processes.serve(command) if wanted == "serve" else command(wanted)
