"""CPU seconds of this process, of processes it waits for, and of a Postgres server, whatever else the machine is doing."""

import os
import resource
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

    def __sub__(self, other: "Cost") -> "Cost":
        return Cost(self.client - other.client, self.server - other.server, self.wall - other.wall)


def cost(work: Callable[[], object], conninfo: str) -> Cost:
    """Run `work` and measure it, the processes that it starts and waits for included.

    The server's share is that of all its processes, those that ended meanwhile included.
    """
    postmaster = _postmaster(conninfo)
    server = _server_cpu(postmaster)
    client, started = _client_cpu(), time.perf_counter()
    work()
    client, wall = _client_cpu() - client, time.perf_counter() - started
    return Cost(client, _server_cpu(postmaster) - server, wall)


def peak_memory() -> int:
    """Bytes of memory this program has had at most. Not ru_maxrss, which a process inherits from the one that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def creation(folder: Path, count: int = 500) -> float:
    """CPU seconds to create a file in a folder."""
    folder.mkdir()
    started = time.process_time()
    for number in range(count):
        (folder / str(number)).touch(exist_ok=False)
    return (time.process_time() - started) / count


def _client_cpu() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def _postmaster(conninfo: str) -> int:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT pg_read_file('postmaster.pid', 0, 32)").fetchone()
    assert row is not None
    return int(row[0].split()[0])


def _server_cpu(postmaster: int) -> float:
    """The most of three readings: one that ends between the looks at it and at its parent is in neither."""
    readings = []
    for _ in range(3):
        readings.append(_reading(postmaster))
        time.sleep(0.05)
    return max(readings) / _TICKS


def _reading(postmaster: int) -> int:
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
    return ticks
