"""Spreadsheets to an API that answers after 100 ms and allows 100 calls a second: our rate, a loop's rate, and what a file costs besides.

The API is the sandbox's, in a process of its own, with its usage plan on. Each scenario of ours runs in a process of its own too, from a
file in the inbound folder to its report in the outbound one, on an embedded Postgres. The peer makes the same calls with `requests`, one
row after the other, in the same run (`residents_peer.py`).
"""

import csv
import io
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from benchmarks.measure import cost, peak_memory
from benchmarks.results import Result, Row, met
from ingestion_dagster.engine import embedded_postgres, landing, postgres
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.residents import places, report, sheets
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.residents.job import Job
from ingestion_dagster.residents.load import load_residents
from ingestion_dagster.residents.model import Action, FileReport, RowReport, RowStatus, Rules
from ingestion_dagster.residents.registry import PIPELINE
from ingestion_dagster.sandbox import servers
from ingestion_dagster.settings import Settings

ROWS, QUICK = 1000, 300
PEER_ROWS, PEER_QUICK = 60, 30
LARGE, LARGE_QUICK = 100_000, 20_000
LATENCY_MS, RATE = 100, 80
SHARE = 0.95
MEGABYTE = 1_000_000
PEERS = Path(sys.prefix) / "bench"
NOBODYS = 50_000
"""Where people begin who are in no file that is measured."""
TODAY = date(2026, 11, 20)


@dataclass(frozen=True, slots=True)
class Took:
    """What one way of sending took: rows, calls that were made and refused for the rate, seconds, CPU seconds, bytes of memory."""

    rows: int
    calls: int
    throttled: int
    wall: float
    cpu: float
    peak: int
    started: int

    def line(self, title: str, beside: "Took | None" = None) -> str:
        """As a line of the table, with the ratio to another's rows a second."""
        ratio = f"{self.rows / self.wall / (beside.rows / beside.wall):6.1f} ×" if beside else ""
        return (
            f"  {title:<46} {self.rows / self.wall:8.1f} rows/s {self.calls / self.wall:7.1f} calls/s {self.calls:6d} calls "
            f"{self.throttled:3d} × 429 {self.wall:7.1f} s {self.cpu:6.2f} CPU-s {self.peak / MEGABYTE:5.0f} MB {ratio}"
        )


def nhs_numbers() -> Iterator[str]:
    """Numbers beginning with 999, which nobody bears, with a check digit that fits."""
    for number in range(10**6):
        digits = f"999{number:06d}"
        check = (11 - sum(int(digit) * weight for digit, weight in zip(digits, range(10, 1, -1), strict=True)) % 11) % 11
        if check < 10:
            yield f"{digits}{check}"


def spreadsheet(dataset: str, count: int, first: int = 0) -> bytes:
    """A CSV file of so many people, none of whom is in one with another `first`."""
    columns = [*DATASETS[dataset].required, *DATASETS[dataset].expected, *DATASETS[dataset].known]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    numbers = nhs_numbers()
    for _ in range(first):
        next(numbers)
    for number in range(first, first + count):
        cells = _person(number, next(numbers))
        writer.writerow([cells.get(column, "") for column in columns])
    return text.getvalue().encode()


def _person(number: int, nhs_number: str) -> dict[str, str]:
    mobile, phone, mail = f"07700900{number % 1000:03d}", f"0207946{number % 1000:04d}", f"a{number}@example.invalid"
    first, last = f"Testy{number}", f"McFictional{number}"
    submitted = {
        "ID": f"bench-{number}",
        "nhs_number": nhs_number,
        "first_name": first,
        "last_name": last,
        "date_of_birth": "22/02/1963",
        "address_line1": f"{number} Imaginary Road",
        "address_town_city": "Nowhere",
        "address_postcode": "ZZ99 3VZ",
        "contact_number_calls": phone,
        "contact_number_texts": mobile,
        "contact_email": mail,
        "submission_datetime": "20/11/2026 03:53",
        "do_you_want_supermarket_deliveries": "no",
        "do_you_have_someone_to_go_shopping_for_you": "yes",
        "do_you_need_someone_to_contact_you_about_local_support": "yes",
    }
    return submitted | {
        "Account ID": f"ct{number:06d}",
        "NHS Number": nhs_number,
        "Forename": first,
        "Surname": last,
        "Gender": "unknown",
        "Date of Birth": "22/02/1963",
        "House Number": str(number),
        "Postcode": "ZZ99 3VZ",
        "Email": mail,
        "Phone": mobile,
        "Phone2": phone,
        "UTLA": "Hackney",
        "LTLA": "Hackney",
        "Category": "case",
        "Status": "local_follow_up",
        "Ethnicity": "unknown",
        "Residence Type": "house",
        "First Symptomatic At": "16/11/2026",
        "Date Tested": "17/11/2026",
        "Comments": "No answer, again",
        "Date Updated": "19/11/2026",
        "Date Time Extracted": "20/11/2026 03:53",
    }


class Sandbox:
    """The stand-in of the API."""

    def __init__(self, home: Path) -> None:
        self.url = servers.up(home, names=["here_to_help"])["here_to_help"]
        self._admin("settings", {"latency_ms": LATENCY_MS})

    def counted(self) -> dict[str, Any]:
        """Calls since."""
        return self._admin("requests")

    def kept(self) -> dict[str, Any]:
        """Residents, requests and notes."""
        return self._admin("counts")

    def _admin(self, path: str, body: object = None) -> dict[str, Any]:
        address = f"{self.url.removesuffix('api/')}admin/{path}"
        asked = urllib.request.Request(address, None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            told: dict[str, Any] = json.loads(answer.read())
            return told


def load(home: str, title: str, count: str) -> None:
    """Asked of a process of its own: drop a file of so many people into the folder, and load it.

    Before that a file of one person, which imports what is imported once, and makes the database.
    """
    settings = Settings(home=Path(home), settle_seconds=0, residents_requests_per_second=RATE)
    database = postgres.ready(settings)
    job, folder = Job.of(settings, TODAY), places.drop_folder(settings)
    with database.connect() as connection:
        sync_datasets(connection, PIPELINE, DATASETS)

        def work() -> None:
            landing.discover(connection, job.zone, datetime.now(UTC))
            with Claims(database, Scope(PIPELINE), "benchmark", Limits.of(settings)) as claims:
                outcome = load_residents(claims, job, connection, database)
            assert outcome.total().loads_errored == 0, outcome.codes
            assert outcome.total().rows_rejected == 0, outcome.rows

        started = peak_memory()
        folder.inbound.write(folder.key_of("nsss", f"before {title}.csv"), spreadsheet("nsss", 1, NOBODYS))
        work()
        before = _calls(settings)
        folder.inbound.write(folder.key_of("nsss", f"{title}.csv"), spreadsheet("nsss", int(count)))
        took = cost(work, database.conninfo)
    after = _calls(settings)
    told = {"rows": int(count), "calls": after["total"] - before["total"], "throttled": after["throttled"] - before["throttled"]}
    print(json.dumps(told | {"wall": took.wall, "cpu": took.cpu, "peak": peak_memory(), "started": started}))


def _calls(settings: Settings) -> dict[str, Any]:
    return Sandbox(settings.home).counted()


def ours(home: Path, title: str, count: int) -> Took:
    """A file of so many people, from the inbound folder to its report."""
    return Took(**_alone("load", str(home), title, str(count)))


def peer(sandbox: Sandbox, folder: Path, kind: str, count: int, first: int) -> Took:
    """The same calls for other people, one after the other."""
    file = folder / f"{kind}.json"
    file.write_text(json.dumps(_requests(count, first)), encoding="utf-8")
    before = sandbox.counted()
    key = places.api_address(Settings(home=folder)).key
    script = [str(PEERS / "bin" / "python"), str(Path(__file__).with_name("residents_peer.py")), sandbox.url, key, str(file), kind]
    told = json.loads(subprocess.run(script, check=True, stdout=subprocess.PIPE).stdout)
    assert sandbox.counted()["total"] - before["total"] == told["calls"]
    return Took(throttled=sandbox.counted()["throttled"] - before["throttled"], **told)


def _requests(count: int, first: int) -> list[tuple[dict[str, Any], str]]:
    found = []
    for number, cells in sheets.read("a.csv", spreadsheet("nsss", count, first), DATASETS["nsss"]).rows():
        prepared = DATASETS["nsss"].judge(cells, number, Rules(TODAY)).prepared
        assert prepared is not None
        found.append((dict(prepared.request), prepared.notes[0].text))
    return found


def read(path: str, dataset: str) -> None:
    """Asked of a process of its own: read and judge a file, and write its report."""
    file = Path(path)
    started, begun = peak_memory(), time.perf_counter()
    sheet = sheets.read(file.name, file.read_bytes(), DATASETS[dataset])
    rows = []
    for number, cells in sheet.rows():
        assert DATASETS[dataset].judge(cells, number, Rules(TODAY)).status is RowStatus.PENDING
        rows.append(RowReport(number, RowStatus.DONE, Action.CREATED, None, "", number, number, None, 1, 0))
    judged, peak_judged = time.perf_counter() - begun, peak_memory()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        report.write(FileReport(dataset, file.name, TODAY, "complete", tuple(rows)), sheet, Path(folder))
    told = {"rows": len(rows), "judged": judged, "peak_judged": peak_judged, "written": time.perf_counter() - begun, "peak": peak_memory()}
    print(json.dumps(told | {"started": started}))


def _alone(what: str, *arguments: str) -> dict[str, Any]:
    told = subprocess.run([sys.executable, "-m", "benchmarks.residents", what, *arguments], check=True, stdout=subprocess.PIPE)
    answer: dict[str, Any] = json.loads(told.stdout)
    return answer


def main(*, quick: bool = False) -> Result:
    """Print the tables; `quick` sends and reads fewer rows, and leaves the workbook out."""
    with tempfile.TemporaryDirectory(dir=PEERS if PEERS.is_dir() else None) as folder:
        home = Path(folder) / "home"
        home.mkdir()
        try:
            found = _sending(home, quick=quick)
        finally:
            servers.down(home)
            embedded_postgres.stop(home)
        found += _reading(Path(folder), quick=quick)
    return Result(f"Rows of three calls to an API that takes {LATENCY_MS} ms for each and allows {RATE} calls a second", found)


def _sending(home: Path, *, quick: bool) -> list[Row]:
    count, of_peer = (QUICK, PEER_QUICK) if quick else (ROWS, PEER_ROWS)
    sandbox = Sandbox(home)
    plain = peer(sandbox, home, "plain", of_peer, ROWS)
    session = peer(sandbox, home, "session", of_peer, ROWS + of_peer)
    sent = ours(home, "sent", count)
    kept = sandbox.kept()
    again = ours(home, "sent again", count)
    assert sandbox.kept() == kept, (kept, sandbox.kept())
    print(f"residents: {count} rows of three calls, {LATENCY_MS} ms each, {RATE} calls a second; a loop: {of_peer} rows")
    print(session.line("requests, one row at a time, one session"))
    print(plain.line("requests, one row at a time, no session", session))
    print(sent.line("ours: inbound to report", session))
    print(again.line("ours: the same rows in another file"))
    loop, rate = session.calls / session.wall, sent.calls / sent.wall
    share = f"{100 * rate / RATE:.1f} % of {RATE}; floor: what the API allows"
    return [
        met(Row(f"{count:,} rows sent", rate, "calls/s", loop, "requests, a loop", RATE, "more", SHARE * RATE, share)),
        met(Row("calls refused for their number (429)", sent.throttled, "calls", limit=0)),
        met(Row("calls for rows that were sent before", again.calls, "calls", limit=0)),
    ]


def _reading(folder: Path, *, quick: bool) -> list[Row]:
    count = LARGE_QUICK if quick else LARGE
    file = folder / "cases.csv"
    file.write_bytes(spreadsheet("contact_tracing", count))
    found = _tell_read(file)
    if not quick:
        _as_workbook(file, file.with_suffix(".xlsx"))
        found += _tell_read(file.with_suffix(".xlsx"))
    return found


def _tell_read(file: Path) -> list[Row]:
    told = _alone("read", str(file), "contact_tracing")
    megabytes = {name: told[name] / MEGABYTE for name in ("started", "peak_judged", "peak")}
    print(
        f"  {told['rows']} rows, 63 columns, {file.suffix[1:]} of {file.stat().st_size / MEGABYTE:.0f} MB: read and judged in "
        f"{told['judged']:.1f} s with {megabytes['peak_judged']:.0f} MB at most ({megabytes['started']:.0f} of them after the start); "
        f"its report written in {told['written']:.1f} s, {megabytes['peak']:.0f} MB",
        flush=True,
    )
    what = f"{told['rows']:,} rows of 63 columns, {file.suffix[1:]}"
    return [
        Row(f"{what}: read and judged", told["judged"], "s"),
        Row(f"{what}: report written", told["written"], "s"),
        Row(f"{what}: peak memory", megabytes["peak"], "MB"),
    ]


def _as_workbook(source: Path, target: Path) -> None:
    from xlsxwriter import Workbook

    with Workbook(str(target), {"constant_memory": True}) as workbook, source.open(encoding="utf-8", newline="") as lines:
        sheet = workbook.add_worksheet()
        for row, cells in enumerate(csv.reader(lines)):
            for column, cell in enumerate(cells):
                if cell:
                    sheet.write_string(row, column, cell)


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "load":
        load(*rest)
    else:
        read(*rest)
