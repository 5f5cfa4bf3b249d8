"""A residents pipeline to drive by name: a drop folder, the sandbox's API in a thread, files of invented people, and their reports."""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import dagster as dg
import pytest

from ingestion_dagster.engine import landing, whereabouts
from ingestion_dagster.engine.claims import Claims, Limits
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.residents import row_ledger, upkeep
from ingestion_dagster.residents.job import Job, ResidentsOutcome
from ingestion_dagster.residents.load import load_residents
from ingestion_dagster.residents.registry import PIPELINE
from ingestion_dagster.sandbox.here_to_help import KEY, HereToHelp
from ingestion_dagster.sandbox.here_to_help_schema import Malformed
from ingestion_dagster.sandbox.usage import Settings as Switches
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.sandbox.asking import answering

AS_OF = date(2026, 11, 20)
SAMPLES = Path(__file__).parent / "data" / "samples"
DATASET_NAMES = ("contact_tracing", "nsss", "spl", "self_isolation", "generic")

_NSSS: dict[str, str] = {
    "ID": "aaaa{0:04}-invented",
    "nhs_number": "",
    "first_name": "Testy",
    "last_name": "McFictional",
    "date_of_birth": "22/02/1963",
    "address_line1": "{0} Imaginary Road",
    "address_line2": "",
    "address_town_city": "Nowhere",
    "address_postcode": "ZZ99 3VZ",
    "address_uprn": "9000{0:08}",
    "contact_number_calls": "020 7946 0{0:03}",
    "contact_number_texts": "07700 900{0:03}",
    "contact_email": "person{0}@example.invalid",
    "submission_datetime": "2021-02-05T03:10:31Z",
    "do_you_want_supermarket_deliveries": "No",
    "do_you_have_someone_to_go_shopping_for_you": "No",
    "do_you_need_someone_to_contact_you_about_local_support": "Yes",
}
_CONTACT_TRACING: dict[str, str] = {
    "Account ID": "ct{0:06}",
    "NHS Number": "",
    "Forename": "Testy",
    "Surname": "McFictional",
    "Date of Birth": "22/02/1963",
    "House Number": "{0}",
    "Postcode": "ZZ99 3VZ",
    "Email": "",
    "Phone": "07700 900{0:03}",
    "Phone2": "020 7946 0{0:03}",
    "UTLA": "Hackney",
    "First Symptomatic At": "16/11/2026",
    "Date Tested": "17/11/2026",
    "Comments": "",
    "Gender": "unknown",
    "Date Updated": "19/11/2026",
    "Date Time Extracted": "20/11/2026 03:53",
}
_SELF_ISOLATION: dict[str, str] = {
    "ID": "si{0:06}",
    "NHS Number": "",
    "Forename": "Testy",
    "Surname": "McFictional",
    "Date of Birth": "22/02/1963",
    "House Number": "{0}",
    "Address Line 1": "Imaginary Road",
    "Address Line 2": "",
    "Town": "Nowhere",
    "Postcode": "ZZ99 3VZ",
    "UPRN": "9000{0:08}",
    "Email": "",
    "Phone": "07700 900{0:03}",
    "Phone2": "",
    "LA Support Required": "1",
    "LA Support Letter Received": "0",
    "Day 4 Outcome": "",
    "Day 7 Outcome": "",
    "Day 10 Outcome": "",
    "Day 13 Outcome": "",
    "Comments": "",
    "Date Tested": "18/11/2026",
    "Status Report": "Completed",
}
_GENERIC: dict[str, str] = {
    "First name": "Testy",
    "Surname": "McFictional",
    "d.o.b": "22/02/1963",
    "Help Request Type": "EUSS",
    "Address Line 1": "{0} Imaginary Road",
    "Address Line 2": "",
    "City": "Nowhere",
    "Postcode": "ZZ99 3VZ",
    "Email": "",
    "Phone number": "020 7946 0{0:03}",
    "Phone number 2": "",
    "UPRN": "9000{0:08}",
    "Subtype": "",
    "Case Note 1": "note {0}",
    "Case Note 2": "",
    "Case Note 3": "",
    "Case Note 4": "",
}

Row = dict[str, str]


def nhs_number(number: int) -> str:
    """An invented NHS number with a valid check digit: those numbers of the 999 range, counted from 0, that have one."""
    found = -1
    for middle in range(1_000_000):
        digits = f"999{middle:06}"
        check = 11 - sum(int(digit) * (10 - place) for place, digit in enumerate(digits)) % 11
        if check != 10:
            found += 1
            if found == number:
                return f"{digits}{check % 11}"
    raise AssertionError("there are no more")


def _word(number: int) -> str:
    """A number as letters, for names that differ."""
    return "".join(chr(ord("a") + int(digit)) for digit in f"{number:05}")


def _row(template: Mapping[str, str], names: tuple[str, str], number: int, changes: Mapping[str, str]) -> Row:
    own = {names[0]: f"Testy{_word(number)}", names[1]: f"McFictional{_word(number)}"}
    return {column: own.get(column, value.format(number)) for column, value in template.items()} | dict(changes)


def nsss(number: int, **changes: str) -> Row:
    """A good row of nsss for the person of that number; columns replaced by `changes`."""
    return _row(_NSSS, ("first_name", "last_name"), number, {"nhs_number": nhs_number(number), **changes})


def contact_tracing(number: int, changes: Mapping[str, str] | None = None) -> Row:
    """A good row of contact_tracing."""
    return _row(_CONTACT_TRACING, ("Forename", "Surname"), number, {"NHS Number": nhs_number(number), **(changes or {})})


def self_isolation(number: int, changes: Mapping[str, str] | None = None) -> Row:
    """A good row of self_isolation."""
    return _row(_SELF_ISOLATION, ("Forename", "Surname"), number, {"NHS Number": nhs_number(number), **(changes or {})})


def generic(number: int, changes: Mapping[str, str] | None = None) -> Row:
    """A good row of generic."""
    return _row(_GENERIC, ("First name", "Surname"), number, changes or {})


def as_csv(rows: Sequence[Row]) -> bytes:
    """A CSV file of rows, all with the columns of the first."""
    written = io.StringIO(newline="")
    table = csv.DictWriter(written, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    return written.getvalue().encode()


def as_xlsx(rows: Sequence[Row]) -> bytes:
    """A workbook of rows, every cell a text."""
    import xlsxwriter

    written = io.BytesIO()
    with xlsxwriter.Workbook(written, {"in_memory": True, "strings_to_numbers": False}) as workbook:
        sheet = workbook.add_worksheet("whatever")
        for line, cells in enumerate([list(rows[0]), *(row.values() for row in rows)]):
            for column, cell in enumerate(cells):
                sheet.write_string(line, column, cell)
    return written.getvalue()


@dataclass(frozen=True)
class Workbook:
    """A report as staff see it: cells of each tab, below their headers."""

    name: str
    tabs: dict[str, list[dict[str, Any]]]
    text: str
    """Every cell of it."""

    @classmethod
    def read(cls, path: Path) -> "Workbook":
        """The workbook at `path`."""
        from python_calamine import CalamineWorkbook

        workbook = CalamineWorkbook.from_path(path)
        cells: dict[str, list[list[Any]]] = {
            name: workbook.get_sheet_by_name(name).to_python(skip_empty_area=False) for name in workbook.sheet_names
        }
        tabs = {name: [dict[str, Any](zip(lines[0], line, strict=True)) for line in lines[1:]] for name, lines in cells.items() if lines}
        return cls(path.name, tabs, str(cells))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the tab of cases, of whatever name."""
        [name] = [name for name in self.tabs if name.endswith("_cases")]
        return self.tabs[name]

    @property
    def summary(self) -> dict[str, Any]:
        """The tab that tells of the whole file."""
        return {row["what"]: row["value"] for row in self.tabs["summary"]}

    @property
    def codes(self) -> dict[int, str]:
        """Reason codes by row number."""
        return {int(row["row_number"]): row["reason_code"] for row in self.rows if row["reason_code"]}


@dataclass
class Residents:
    """The pipeline in this process, without Dagster, over a database, a drop folder and an API of its own."""

    settings: Settings
    database: Database
    api: HereToHelp
    _runs: int = field(default=0)

    @property
    def drive(self) -> Path:
        return Path(unquote(self.settings.drive.removeprefix("file://")))

    def drop(self, key: str, content: bytes | Sequence[Row], *, days_old: float = 0) -> Path:
        """Put a file into an inbound folder, as a person would: `drop("nsss/a.csv", rows)`; rows become csv or xlsx, as the name says."""
        dataset, _, name = key.partition("/")
        path = self.drive / dataset / "inbound" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not isinstance(content, bytes):
            content = as_xlsx(content) if name.endswith(".xlsx") else as_csv(content)
        aside = path.with_name(f".{path.name}")
        aside.write_bytes(content)
        aside.replace(path)
        if days_old:
            moment = (datetime.now(UTC) - timedelta(days=days_old)).timestamp()
            os.utime(path, (moment, moment))
        return path

    def job(self, as_of: date | None = AS_OF, **changes: Any) -> Job:
        """What a run is asked for; settings replaced by `changes`."""
        return Job.of(self.settings.model_copy(update=changes), as_of)

    def run(
        self,
        *,
        as_of: date | None = AS_OF,
        limits: Limits | None = None,
        datasets: Iterable[str] | None = None,
        run_id: str | None = None,
        job: Job | None = None,
        **changes: Any,
    ) -> ResidentsOutcome:
        """Discover and load all there is, as the load step does; settings replaced by `changes`."""
        self._runs += 1
        job = job or self.job(as_of, **changes)
        with self.database.connect() as connection:
            upkeep.sync(connection, job.settings)
            landing.discover(connection, job.zone, datetime.now(UTC), run_id)
            scope = Scope(PIPELINE, frozenset(datasets) if datasets is not None else None)
            with Claims(self.database, scope, run_id or f"run-{self._runs}", limits or Limits()) as claims:
                return load_residents(claims, job, connection, self.database)

    def retry(self, key: str | None = None, datasets: Iterable[str] | None = None) -> set[int]:
        """What `ingestion retry` puts back to ready; the loads' ids."""
        with self.database.connect() as connection:
            scope = Scope(PIPELINE, frozenset(datasets) if datasets is not None else None)
            return set(row_ledger.retry(connection, scope, key).ready)

    def tidy(self) -> int:
        """What each tick and run does before it loads: write again what reports are gone; of how many files."""
        with self.database.connect() as connection:
            return upkeep.write_missing_reports(connection, self.settings)

    def states(self) -> list[dict[str, Any]]:
        """Every load as `status --loads --json` shows it."""
        with self.database.connect() as connection:
            return whereabouts.load_states(connection, PIPELINE)

    def state(self, name: str) -> dict[str, Any]:
        """The newest load of the file of that name."""
        return [state for state in self.states() if state["key"].endswith(f"/{name}")][-1]

    def statuses(self) -> dict[str, str]:
        """Status by file name, of the newest version."""
        return {state["key"].rpartition("/")[2]: state["status"] for state in self.states()}

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many residents, help requests and case notes the API has."""
        counts = self.api.store.counts()
        return counts["residents"], counts["help_requests"], counts["case_notes"]

    def calls(self, operation: str | None = None) -> int:
        """How many calls the API has had, of an operation or of all."""
        return sum(count for (each, _), count in self.api.calls.ended.items() if operation in (None, each))

    def go_wrong(self, operation: str, kind: str, **how: Any) -> None:
        """Make the API misbehave."""
        self.api.faults.add(kind, operation, **how)

    def be_well(self) -> None:
        """Let it answer again."""
        self.api.faults.clear()
        vars(self.api.store).pop("find_resident", None)

    def reject(self, *numbers: int) -> None:
        """Make the API answer to the create calls of these persons that they are no valid ones."""
        names = {nsss(number)["first_name"] for number in numbers}
        known = type(self.api.store).find_resident

        def find(body: Any) -> int | None:
            if body.get("FirstName") in names:
                raise Malformed("FirstName", "on purpose")
            return known(self.api.store, body)

        vars(self.api.store)["find_resident"] = find

    def outbound(self, dataset: str) -> list[str]:
        """Names of what stands in an outbound folder."""
        folder = self.drive / dataset / "outbound"
        return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []

    def report(self, dataset: str, begins: str = "") -> Workbook:
        """The one report in an outbound folder whose name begins so."""
        [name] = [name for name in self.outbound(dataset) if name.startswith(begins)]
        return Workbook.read(self.drive / dataset / "outbound" / name)

    def query(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Rows of a statement."""
        with self.database.connect() as connection:
            found = connection.execute(statement, parameters)
            return found.fetchall() if found.description else []

    def in_ledger(self) -> dict[str, int]:
        """How many rows each table of ours has."""
        tables = ("ledger.loads", "ledger.datasets", "residents.rows", "residents.files", "residents.file_rows", "residents.reports")
        return {table: int(self.query(f"SELECT count(*) FROM {table}")[0][0]) for table in tables}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[HereToHelp]:
    """The sandbox's API in a thread, empty, without a usage plan; the environment says where it is."""
    made = HereToHelp(settings=Switches(rate=0))
    with answering(made) as client:
        monkeypatch.setenv("INGESTION_RESIDENTS_API_URL", client.url)
        monkeypatch.setenv("INGESTION_RESIDENTS_API_KEY", KEY)
        monkeypatch.setenv("INGESTION_RESIDENTS_API_PATIENCE_SECONDS", "1")
        monkeypatch.setenv("INGESTION_RESIDENTS_REQUESTS_PER_SECOND", "10000")
        yield made


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A Dagster home whose instances are in memory: SQLite waits for the disk a lot. The subprocesses of other tests have a real one."""
    home = tmp_path / "dagster home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    monkeypatch.setattr(dg.DagsterInstance, "get", dg.DagsterInstance.ephemeral)
    return home


@pytest.fixture
def residents(database: Database, settings: Settings, api: HereToHelp) -> Residents:
    """A fresh residents pipeline."""
    return Residents(current(), database, api)
