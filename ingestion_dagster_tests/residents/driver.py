"""The residents pipeline in processes of its own, without Dagster: to be killed, stopped and raced; and what its runs leave behind.

`python -m ingestion_dagster_tests.residents.driver` sweeps, discovers and loads once; `… discover` only enters what has arrived, `… retry`
puts back what failed. Settings come from the environment.

`… serve` waits for such commands on its standard input and forks a process for each: an import of everything is a second.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import psycopg
from pydantic import SecretStr

from ingestion_dagster.engine import landing, ledger, moving, postgres
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.residents import places, row_ledger, upkeep
from ingestion_dagster.residents.job import Job, ResidentsOutcome
from ingestion_dagster.residents.load import load_residents
from ingestion_dagster.residents.model import RowReport
from ingestion_dagster.residents.registry import PIPELINE
from ingestion_dagster.sandbox.here_to_help import KEY
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.engine import processes
from ingestion_dagster_tests.engine.histories import finished, query

AS_OF = date(2026, 11, 20)
HASH_KEY = "0123456789abcdef" * 4  # pragma: allowlist secret
_ROOT = Path(__file__).parents[2]
_MODULE = "ingestion_dagster_tests.residents.driver"
Process = processes.Process
environment_of = processes.environment_of
quick_folder = processes.quick_folder


def run(settings: Settings) -> ResidentsOutcome:
    """One run, as the load step makes it: sweep, reports that are gone, discover, load until nothing is claimable."""
    database = postgres.locate(settings)
    limits = Limits.of(settings)
    job = Job.of(settings, AS_OF)
    run_id = f"driver-{uuid.uuid4().hex[:8]}"
    with database.connect() as connection:
        upkeep.sync(connection, settings)
        moving.sweep(connection, job.zone, lease_seconds=limits.lease_seconds, max_attempts=limits.max_attempts, run_id=run_id)
        upkeep.write_missing_reports(connection, settings)
        landing.discover(connection, job.zone, datetime.now(UTC), run_id)
        with Claims(database, Scope(PIPELINE), run_id, limits) as claims:
            return load_residents(claims, job, connection, database)


def discover(settings: Settings) -> None:
    """Enter what stands in the inbound folders, and load nothing."""
    with postgres.locate(settings).connect() as connection:
        upkeep.sync(connection, settings)
        landing.discover(connection, places.zone(settings), datetime.now(UTC))


def retry(settings: Settings, key: str | None = None) -> ledger.Again:
    """Put refused files, and those with rows that failed, back to ready."""
    with postgres.locate(settings).connect() as connection:
        return row_ledger.retry(connection, Scope(PIPELINE), key)


COMMANDS: dict[str, Callable[[Settings], Any]] = {"run": run, "discover": discover, "retry": retry}


def command(name: str) -> None:
    """What a driver process does."""
    COMMANDS[name](current())


def start(settings: Settings, name: str = "run", *, fault: str | None = None) -> Process:
    """A driver process under these settings; `fault` is the point at which it is to be killed, or `point:passage:SIGSTOP`."""
    return processes.start(_MODULE, settings, name, fault=fault)


@dataclass
class Api:
    """The sandbox's API in a process of its own."""

    root: str

    @property
    def url(self) -> str:
        """What INGESTION_RESIDENTS_API_URL is set to."""
        return f"{self.root}/api/"

    def admin(self, path: str, body: Mapping[str, Any] | None = None, method: str | None = None) -> Any:
        """What an admin call answers; a POST if it has a body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.root}/admin/{path}", data=data, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def reset(self) -> None:
        """Nobody in it, nothing wrong with it, no limit."""
        self.admin("reset", {})
        self.set(latency_ms=0, rate=0, race_ms=0)

    def set(self, **settings: float) -> None:
        """Change its settings."""
        self.admin("settings", settings)

    def fault(self, kind: str, **more: Any) -> None:
        """One more thing that is to go wrong."""
        self.admin("faults", {"kind": kind, **more})

    def well(self) -> None:
        """Nothing goes wrong any more."""
        self.admin("faults", method="DELETE")

    def calls(self) -> dict[str, dict[str, int]]:
        """What was asked: by operation, how often with which end."""
        found: dict[str, dict[str, int]] = self.admin("requests")["operations"]
        return found

    def counts(self) -> tuple[int, int, int]:
        """Residents, help requests, case notes."""
        found = self.admin("counts")
        return found["residents"], found["help_requests"], found["case_notes"]

    def kept(self) -> dict[str, list[Any]]:
        """All it keeps, without ids and times: residents; requests, each with its resident; notes, each with its request."""
        dump = self.admin("dump")
        people = {each.pop("id"): each for each in dump["residents"]}
        residents = {number: _text(person) for number, person in people.items()}
        requests = {each.pop("id"): _text({**each, "resident_id": residents[each["resident_id"]]}) for each in dump["help_requests"]}
        notes = [(*_note(each["case_note"]), requests[each["help_request_id"]]) for each in dump["case_notes"]]
        return {"residents": sorted(residents.values()), "help_requests": sorted(requests.values()), "case_notes": sorted(notes)}


def _text(found: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in found.items() if value is not None}, sort_keys=True)


def _note(stored: str) -> tuple[str, str]:
    note = json.loads(stored)
    return note["author"], note["note"]


@contextmanager
def api() -> Iterator[Api]:
    """The API from a start to its end."""
    with quick_folder() as folder:
        file = folder / "here_to_help.json"
        command = [sys.executable, "-m", "ingestion_dagster.sandbox.here_to_help", str(file), "--token", uuid.uuid4().hex]
        process = subprocess.Popen(command, cwd=_ROOT)
        try:
            deadline = time.monotonic() + 30
            while not file.exists():
                assert process.poll() is None, "the API has not started"
                assert time.monotonic() < deadline, "the API does not start"
                time.sleep(0.02)
            yield Api(json.loads(file.read_text())["url"].removesuffix("/api/"))
        finally:
            process.terminate()
            process.wait(10)


def emptied(database: Database) -> Database:
    """The same database without a row in the ledger and the tables of residents."""
    return processes.emptied(database, "residents", "ledger")


def settings_for(database: Database, home: Path, api_url: str, **more: Any) -> Settings:
    """A fresh installation over a database and an API, where nothing has to settle."""
    values: dict[str, Any] = {
        "home": home,
        "database_url": database.sqlalchemy_url,
        "settle_seconds": 0,
        "residents_api_url": api_url,
        "residents_api_key": SecretStr(KEY),
        "residents_hash_key": SecretStr(HASH_KEY),
        "residents_requests_per_second": 5000,
    }
    return Settings(**{**values, **more})


def inbound(settings: Settings, dataset: str) -> Path:
    """The folder that a dataset's files are dropped into."""
    return Path(settings.drive.removeprefix("file://")) / dataset / "inbound"


def outbound(settings: Settings, dataset: str) -> Path:
    """The folder that a dataset's reports appear in."""
    return inbound(settings, dataset).with_name("outbound")


def drop(settings: Settings, dataset: str, name: str, content: bytes, minute: int = 0) -> Path:
    """Put a file into an inbound folder; files are loaded in the order of their minutes."""
    path = inbound(settings, dataset) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    at = time.time() - 3600 + 60 * minute
    os.utime(path, (at, at))
    return path


def finish(settings: Settings, seconds: float = 60) -> None:
    """Runs in this process, one after the other, until every load is finished."""
    finished(settings, run, seconds)


_LOADS = """
SELECT key, status, error_code, rows_in, rows_rejected, content_hash, duplicate_of IS NOT NULL, problems, location
FROM ledger.loads ORDER BY key, id
"""

_ROWS = """
SELECT d.name, encode(r.identity, 'hex'), encode(r.row_hash, 'hex'), encode(r.nhs_hash, 'hex'), encode(r.name_hash, 'hex'), r.step,
       r.code, r.resident_id IS NOT NULL, r.help_request_id IS NOT NULL, r.shielding_begun, r.shielding_request_id IS NOT NULL
FROM residents.rows AS r JOIN ledger.datasets AS d ON d.id = r.dataset_id ORDER BY 1, 2, 3
"""

_FILES = """
SELECT l.key, f.as_of, f.day, f.status, f.header_row FROM residents.files AS f JOIN ledger.loads AS l ON l.id = f.load_id ORDER BY 1
"""

_FILE_ROWS = """
SELECT l.key, f.number, f.judged, f.code, f.message, encode(r.row_hash, 'hex')
FROM residents.file_rows AS f JOIN ledger.loads AS l ON l.id = f.load_id LEFT JOIN residents.rows AS r ON r.id = f.row_id ORDER BY 1, 2
"""

_REPORTS = """
SELECT l.key, r.part, r.name, r.written_at IS NOT NULL FROM residents.reports AS r JOIN ledger.loads AS l ON l.id = r.load_id ORDER BY 1, 2
"""


def states(settings: Settings) -> dict[str, list[RowReport]]:
    """What the ledger tells of each row of each file, by the file's name."""
    with postgres.locate(settings).connect() as connection:
        loads = connection.execute("SELECT id, key FROM ledger.loads ORDER BY id").fetchall()
        return {key.rpartition("/")[2]: row_ledger.states(connection, number) for number, key in loads}


def workbooks(settings: Settings) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By name of a report, its tables; without ids, and without what a crash may change (see `test_crashes`)."""
    import pandas as pd

    found = {}
    for dataset in places.NAMES:
        for path in sorted(outbound(settings, dataset).glob("*")):
            tabs = pd.read_excel(path, sheet_name=None, dtype=str, keep_default_na=False, engine="calamine")
            found[f"{dataset}/{path.name}"] = {
                name: [_unvarying({str(column): text for column, text in row.items()}) for row in tab.to_dict("records")]
                for name, tab in tabs.items()
                if name != "summary"
            }
    return found


def _unvarying(row: Mapping[str, str]) -> dict[str, str]:
    """A line of a report without ids, and without which of two equal rows was sent, and which found it done."""
    found = {name: value for name, value in row.items() if name not in VARYING}
    if found.get("reason_code") == row_ledger.ALREADY_DONE:
        found |= {"reason_code": "", "message": ""}
    return found


VARYING = frozenset({"resident_id", "help_request_id", "shielding_request_id", "cev_case_added_id", "notes_added", "attempts", "action"})


def ledger_left(settings: Settings) -> dict[str, Any]:
    """What runs have left in the ledger: not who, when, at which attempt, nor which of two files has sent a row that both have."""
    with_storage = [[*row[:-1], row[-1] and row[-1].replace(settings.drive, "drive")] for row in query(settings, _LOADS)]
    return {
        "loads": with_storage,
        "written": query(settings, "SELECT sum(rows_written) FROM ledger.loads")[0][0],
        "rows": [list(row) for row in query(settings, _ROWS)],
        "files": [list(row) for row in query(settings, _FILES)],
        "file_rows": [list(row) for row in query(settings, _FILE_ROWS)],
        "reports": [list(row) for row in query(settings, _REPORTS)],
    }


def left_behind(settings: Settings, there: Api) -> dict[str, Any]:
    """What runs have left: in the API, the ledger and the outbound folders."""
    return {"api": there.kept(), **ledger_left(settings), "workbooks": workbooks(settings)}


def await_lost_sessions(settings: Settings, seconds: float) -> None:
    """Wait until the database has ended the sessions of locks that say nothing."""
    deadline = time.monotonic() + seconds
    locks = """
        SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
        WHERE l.locktype = 'advisory' AND d.datname = current_database()
    """
    with psycopg.connect(postgres.locate(settings).conninfo, autocommit=True) as connection:
        while connection.execute(locks).fetchone() != (0,) and time.monotonic() < deadline:
            time.sleep(0.05)


if __name__ == "__main__":
    wanted = sys.argv[1] if len(sys.argv) > 1 else "run"
    processes.serve(command) if wanted == "serve" else command(wanted)
