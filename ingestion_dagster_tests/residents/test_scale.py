"""A spreadsheet of many rows: memory stays bounded, a run that ends in the middle is resumed, and what is done costs no call."""

import re
import signal
import time
from pathlib import Path

from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.histories import let_leases_run_out, query
from ingestion_dagster_tests.residents import driver
from ingestion_dagster_tests.residents.conftest import Somebody, as_csv, as_xlsx
from ingestion_dagster_tests.residents.driver import Api

ROWS = 20_000
LEFT = 120
MEGABYTES = 280
"""Of a process at its peak. A hundred thousand rows took 320, of which 130 are there before the first."""

_DONE = """
UPDATE residents.rows AS r SET step = 'done', action = 'created', load_id = f.load_id
FROM residents.file_rows AS f WHERE f.row_id = r.id AND f.number > %(left)s
"""


def many(count: int) -> list[dict[str, str]]:
    """Rows of as many people."""
    rows = []
    for number in range(count):
        row = Somebody(number % 1000).row("nsss", ID=f"nsss-{number}", nhs_number="")
        rows.append(row | {"first_name": f"P{number}x", "contact_email": f"p{number}@example.invalid"})
    return rows


def peak(process: driver.Process) -> int:
    """The most memory that a process has had so far, in megabytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) // 1024


def ended(process: driver.Process, seconds: float = 50) -> tuple[int, int]:
    """Wait for its end; its exit code, and its peak."""
    most, deadline = 0, time.monotonic() + seconds
    while process.poll() is None:
        try:
            most = max(most, peak(process))
        except (OSError, AssertionError):
            break
        assert time.monotonic() < deadline, "does not end"
        time.sleep(0.05)
    return process.end()[0], most


def entered(installation: Settings, count: int) -> driver.Process:
    """A run that has fallen asleep soon after all rows were entered and the first were sent."""
    begins = driver.start(installation, fault=f"residents.note.after:{LEFT // 2}:SIGSTOP")
    begins.await_sleep(50)
    assert query(installation, "SELECT count(*) FROM residents.file_rows") == [(count,)]
    return begins


def test_many_rows_are_resumed_in_bounded_memory(installation: Settings, api: Api) -> None:
    driver.drop(installation, "nsss", "big.csv", as_csv("nsss", many(ROWS)))
    begins = entered(installation, ROWS)
    assert peak(begins) < MEGABYTES
    begins.send(signal.SIGKILL)
    begins.end()
    let_leases_run_out(installation)
    # As if all but the first had been sent: sending them takes a minute.
    query(installation, _DONE, {"left": LEFT})
    code, most = ended(driver.start(installation))
    assert code == 0
    assert most < MEGABYTES
    assert query(installation, "SELECT status, rows_in, rows_written FROM ledger.loads") == [("archived", ROWS, ROWS)]
    residents, requests, notes = api.counts()
    assert residents == requests
    assert LEFT <= notes <= requests < LEFT + 300, "the first, and what was under way beside them"
    [report] = driver.outbound(installation, "nsss").glob("*")
    assert report.stat().st_size > ROWS * 20


def test_a_workbook_of_many_rows_is_read_in_bounded_memory(installation: Settings, tmp_path: Path) -> None:
    driver.drop(installation, "nsss", "big.xlsx", as_xlsx("nsss", many(ROWS // 2), tmp_path))
    begins = entered(installation, ROWS // 2)
    most = peak(begins)
    begins.send(signal.SIGKILL)
    begins.end()
    assert most < MEGABYTES
