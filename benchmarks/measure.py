"""CPU seconds of this process and of a Postgres server, whatever else the machine is doing."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """What something took: CPU seconds here, CPU seconds in the server, seconds on the clock."""

    client: float
    server: float
    wall: float

    @property
    def cpu(self) -> float:
        """CPU seconds on both sides."""
        return self.client + self.server


def cost(work: Callable[[], object], conninfo: str) -> Cost:
    """Run `work` and measure it; the server's share is that of all its processes, those that ended meanwhile included."""
    postmaster = _postmaster(conninfo)
    server, client, wall = _server_cpu(postmaster), time.process_time(), time.perf_counter()
    work()
    client, wall = time.process_time() - client, time.perf_counter() - wall
    return Cost(client, _server_cpu(postmaster) - server, wall)


def _postmaster(conninfo: str) -> int:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT pg_read_file('postmaster.pid', 0, 32)").fetchone()
    assert row is not None
    return int(row[0].split()[0])


def _server_cpu(postmaster: int) -> float:
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat.parent.name) == postmaster:
            ticks += sum(int(field) for field in fields[11:15])
        elif int(fields[1]) == postmaster:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS
