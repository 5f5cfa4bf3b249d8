"""Requests in processes of their own, to be killed: `release:N` deletes event N. Settings come from the environment."""

import sys

from ingestion_dagster.life_events import requests
from ingestion_dagster.life_events.requests import Caller, Desk
from ingestion_dagster.settings import current
from ingestion_dagster_tests.engine import processes
from ingestion_dagster_tests.life_events.held import key_of

MODULE = "ingestion_dagster_tests.life_events.requests_driver"


def command(name: str) -> None:
    """What a driver process does."""
    what, _, number = name.partition(":")
    assert what == "release"
    desk = Desk.of(current())
    requests.release(desk, key_of(int(number)).hex(), Caller("driver", "d"))
    desk.close()


if __name__ == "__main__":
    processes.serve(command) if sys.argv[1] == "serve" else command(sys.argv[1])
