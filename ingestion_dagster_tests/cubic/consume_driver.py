"""A consumer in a process of its own, to be killed, stopped and told to end; and what consumers leave behind."""

import base64
import gzip
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson

from ingestion_dagster.cubic import consume
from ingestion_dagster.cubic.registry import Registry, parse_registry
from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.engine import processes

REGISTRY = """
tables:
  - {name: taps, prefix: cubic/kafka/tap/, kind: kafka}
  - {name: visits, prefix: cubic/kafka/visits/, kind: kafka}
"""


def registry() -> Registry:
    """Two topics with a table; others have none."""
    return parse_registry(REGISTRY)


def command(_name: str) -> None:
    """Read the stream until a signal comes, and say what was done, where a process of these complains."""
    with consume.stopping_on_signals() as stop:
        sys.stderr.write(f"{consume.summary(consume.run(current(), registry(), stop=stop))}\n")


def start(settings: Settings, *, fault: str | None = None) -> processes.Process:
    """A consumer under these settings; `fault` is the point at which it is to be killed, or `point:passage:SIGSTOP`."""
    return processes.start("ingestion_dagster_tests.cubic.consume_driver", settings, "consume", fault=fault)


def await_(what: Callable[[], object], seconds: float = 60) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "is not so in time"
        time.sleep(0.05)


def files(settings: Settings) -> dict[str, list[dict[str, Any]]]:
    """By key, the lines of the files that stand in the landing zone."""
    return _files(f"{settings.storage}/cubic/incoming")


def dead_letters(settings: Settings) -> list[dict[str, Any]]:
    """What the dead-letter files hold, `data` decoded."""
    found = [line for lines in _files(f"{settings.storage}/cubic/error").values() for line in lines]
    return sorted((line | {"data": base64.b64decode(line["data"])} for line in found), key=lambda line: int(line["sequence_number"]))


def _files(url: str) -> dict[str, list[dict[str, Any]]]:
    store = open_store(url)
    contents = {seen.key: gzip.decompress(store.read(seen)) for seen in store.list()}
    return {key: [orjson.loads(line) for line in content.splitlines()] for key, content in contents.items()}


def written(settings: Settings) -> Counter[tuple[str, int, int]]:
    """Which records stand in how many places."""
    return Counter((line["topic"], line["partition"], line["offset"]) for lines in files(settings).values() for line in lines)


def query(settings: Settings, statement: str) -> list[tuple[Any, ...]]:
    """Rows of the database."""
    with postgres.locate(settings).connect() as connection:
        return connection.execute(statement).fetchall()


if __name__ == "__main__":
    processes.serve(command)
