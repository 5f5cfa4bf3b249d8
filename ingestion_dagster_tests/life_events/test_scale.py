"""Files that are larger than memory may be: a run takes no more for ten times the records, and 256 MB are enough."""

import os
import subprocess
import sys
from pathlib import Path

from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.histories import query
from ingestion_dagster_tests.life_events import driver

SCRIPT = Path(__file__).parents[2] / "source_data" / "generate_life_events.py"
_RUN = """
from pathlib import Path
from ingestion_dagster_tests.life_events import driver
driver.CHUNK = 5000
driver.command("run")
print(Path("/proc/self/status").read_text())
"""
MEGABYTES = 256
"""Of a process at its peak, whatever the file: 5 GB were loaded within it. What is imported is half of that."""


def land(settings: Settings, name: str, size: str) -> int:
    """Put a file of that size into the landing zone; how many registrations it has."""
    path = driver.drop(settings, name, b"")
    subprocess.run([sys.executable, SCRIPT, "--large", path, "--bytes", size], check=True, capture_output=True)
    with path.open("rb") as file:
        file.seek(-100, os.SEEK_END)
        return int(file.read().split(b"RecordCount>")[1].split(b"<")[0])


def peak_of_a_run(settings: Settings) -> int:
    """The most memory that a run had, in megabytes; it has to end well."""
    # Not what the system says of a child once it has ended: that begins with what this process has.
    process = subprocess.run([sys.executable, "-c", _RUN], env=driver.environment_of(settings), capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    (peak,) = (line.split()[1] for line in process.stdout.splitlines() if line.startswith("VmHWM:"))
    return int(peak) // 1024


def test_memory_does_not_go_by_the_number_of_records(settings: Settings):
    land(settings, "DI_D_20310204.xml", "2M")
    small = peak_of_a_run(settings)
    count = land(settings, "DI_D_20310205.xml", "20M")
    large = peak_of_a_run(settings)
    assert query(settings, "SELECT count(*) FROM life_events.events") == [(count,)]
    assert query(settings, "SELECT count(*) FROM ledger.outbox") == [(count,)]
    assert query(settings, "SELECT status FROM ledger.loads") == [("archived",), ("archived",)]
    assert large - small < 24
    assert large < MEGABYTES
