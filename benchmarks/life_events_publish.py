"""Events from the outbox to a platform that answers at once: ours, a bare loop of aiohttp with nothing kept, and a loop of `requests`.

The platform is a few lines in a process of its own, so that what is measured is the publisher: claiming, opening sealed events, a POST for
each, and the transaction that notes it. The `requests` loop (peers in requirements-bench.txt) sends one event after the other.
"""

import asyncio
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import orjson
from pydantic import SecretStr

from benchmarks.measure import Cost, cost, peak_memory
from benchmarks.results import Result, Row, met
from ingestion_dagster.engine import embedded_postgres, outbox, postgres
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.life_events.keys import vault
from ingestion_dagster.life_events.publish import publish
from ingestion_dagster.life_events.registry import PIPELINE, PUBLISH
from ingestion_dagster.life_events.store import Sealed, open_store
from ingestion_dagster.settings import Settings

EVENTS, QUICK = 50_000, 5_000
OF_PEER = 2_000
IN_FLIGHT = 32
AT_LEAST = 1000
MEGABYTE = 1_000_000
PEERS = Path(sys.prefix) / "bench"
_TIME = "2031-02-04T09:30:00"
_TOKEN = b'{"access_token":"t","expires_in":3600,"token_type":"Bearer"}'
_PEER = """
import json, resource, sys, time
import requests
url, count = sys.argv[1], int(sys.argv[2])
begun = time.perf_counter()
with requests.Session() as session:
    for number in range(count):
        body = {"eventType": "GRO_DEATH_NOTIFICATION", "eventTime": "2031-02-04T09:30:00", "id": f"{number:064x}"}
        session.post(url, json=body, headers={"Authorization": "Bearer t"}, timeout=30).raise_for_status()
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"wall": time.perf_counter() - begun, "cpu": used.ru_utime + used.ru_stime}))
"""


class Platform(asyncio.Protocol):
    """Answers every request at once, and reads no more of it than where it ends."""

    def __init__(self) -> None:
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Somebody has connected."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer what is complete of it."""
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = self._data[:end].lower()
            length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
            if len(self._data) < end + 4 + length:
                return
            self._data = self._data[end + 4 + length :]
            status, body = (b"200 OK", _TOKEN) if head.startswith(b"post /oauth2") else (b"201 Created", b"")
            self._transport.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))


async def answer() -> None:
    """Asked of a process of its own: be the platform, and say where."""
    server = await asyncio.get_running_loop().create_server(Platform, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def fill(connection: Connection, settings: Settings, count: int) -> None:
    """Enter so many events as a load does."""
    store, sealer, now = open_store(settings), vault(settings), datetime.now(UTC)
    row = connection.execute(
        "INSERT INTO ledger.loads (pipeline, landing_zone, key, version, size, modified, partition, status) "
        "VALUES (%s, 'bench', 'bench', '1', 1, now(), '2031-02-05', 'archived') RETURNING id",
        [PIPELINE],
    ).fetchone()
    assert row is not None
    keys = [hashlib.sha256(str(number).encode()).digest() for number in range(count)]
    content = {"eventTime": _TIME, "surname": "PLACEHOLDER", "addressLine4": "x" * 500}
    events = [
        Sealed(key, sealer.current.id, sealer.seal(key, orjson.dumps({**content, "hash": key.hex()})), now, now + timedelta(days=7))
        for key in keys
    ]
    with connection.transaction():
        connection.execute(
            "INSERT INTO life_events.records (record_key, hmac_key, load_id, ordinal) "
            "SELECT key, 'bench', %s, ordinal FROM unnest(%s::bytea[]) WITH ORDINALITY AS given (key, ordinal)",
            [row[0], keys],
        )
        store.put(connection, events)
        outbox.put(connection, PUBLISH, [key.hex() for key in keys], row[0])
    connection.execute("ANALYZE")


def ours(home: Path, url: str, count: int) -> Cost:
    """What publishing so many events takes."""
    settings = Settings(
        home=home,
        life_events_platform_url=url,
        life_events_token_url=f"{url}/oauth2/token",
        life_events_client_id="bench",
        life_events_client_secret=SecretStr("bench"),  # pragma: allowlist secret
        life_events_requests_in_flight=IN_FLIGHT,
    )
    database = postgres.ready(settings)
    with database.connect() as connection:
        fill(connection, settings, count)

    def work() -> None:
        outcome = publish(database, settings, "bench", seconds=3600)
        assert (outcome.sent, outcome.left, outcome.dead) == (count, 0, 0), outcome

    return cost(work, database.conninfo)


def floor(url: str, count: int) -> tuple[float, float]:
    """Seconds, and CPU seconds, of the same POSTs from aiohttp, with nothing read, claimed or noted."""

    async def send() -> None:
        numbers = iter(range(count))
        headers = {"Authorization": "Bearer t", "Content-Type": "application/json; charset=utf-8"}

        async def worker(session: aiohttp.ClientSession) -> None:
            for number in numbers:
                body = orjson.dumps({"eventType": "GRO_DEATH_NOTIFICATION", "eventTime": _TIME, "id": f"{number:064x}"})
                async with session.post(f"{url}/events", data=body, headers=headers) as reply:
                    assert reply.status == 201

        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(worker(session) for _ in range(IN_FLIGHT)))

    began, used = time.perf_counter(), time.process_time()
    asyncio.run(send())
    return time.perf_counter() - began, time.process_time() - used


def peer(url: str, count: int) -> dict[str, Any]:
    """What the loop of `requests` took."""
    command = [str(PEERS / "bin" / "python"), "-c", _PEER, f"{url}/events", str(count)]
    told: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return told


def main(*, quick: bool = False) -> Result:
    """Print the table; `quick` sends fewer events."""
    count = QUICK if quick else EVENTS
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        platform = subprocess.Popen([sys.executable, "-m", "benchmarks.life_events_publish", "answer"], stdout=subprocess.PIPE, text=True)
        try:
            assert platform.stdout is not None
            url = platform.stdout.readline().strip()
            taken = ours(home, url, count)
            bare, bare_cpu = floor(url, count)
            print(f"life events: {count} events from the outbox to a platform that answers at once, {IN_FLIGHT} in flight")
            _line("ours: claimed, opened, posted, noted", count, taken.wall, taken.client)
            _line("aiohttp alone: posted", count, bare, bare_cpu)
            told = None
            if (PEERS / "bin" / "python").exists():
                told = peer(url, OF_PEER)
                _line(f"requests, one after the other ({OF_PEER})", OF_PEER, told["wall"], told["cpu"])
            print(f"  Postgres: {taken.server / count * 1e6:.0f} CPU-µs an event; memory at most {peak_memory() / MEGABYTE:.0f} MB")
            loop, unit, bare_loop = "requests, a loop" if told else None, "events/CPU-s", "floor: a bare loop of aiohttp"
            of_peer = OF_PEER / told["cpu"] if told else None
            by_clock = OF_PEER / told["wall"] if told else None
            rows = [
                met(Row("one client core", count / taken.client, unit, of_peer, loop, count / bare_cpu, "more", AT_LEAST, bare_loop)),
                Row("on the clock", count / taken.wall, "events/s", by_clock, loop, count / bare, "more", note=bare_loop),
            ]
            return Result(f"{count:,} events from the outbox to a platform that answers at once", rows)
        finally:
            platform.terminate()
            platform.wait(10)
            if platform.stdout is not None:
                platform.stdout.close()
            embedded_postgres.stop(home)


def _line(title: str, count: int, wall: float, cpu: float) -> None:
    print(f"  {title:<46} {count / wall:8.0f} events/s {wall:7.2f} s {cpu:6.2f} CPU-s {count / cpu:8.0f} events/CPU-s", flush=True)


if __name__ == "__main__":
    asyncio.run(answer()) if "answer" in sys.argv else main(quick="--quick" in sys.argv)
