"""Nothing of a person is told: not in logs, Dagster's storage, the ledger, alerts, nor what commands print.

Markers stand in every column of good and bad spreadsheets of all datasets, and in what the API says when it refuses. The drop folder and
the API are the places where they belong. A file's name, and the names of columns, are no content.
"""

import hashlib
import io
import logging
import re
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.residents.places import NAMES
from ingestion_dagster.sandbox.here_to_help import HereToHelp
from ingestion_dagster.sandbox.usage import Settings as Switches
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.engine.histories import query
from ingestion_dagster_tests.residents import driver
from ingestion_dagster_tests.residents.conftest import LETTER, Somebody, as_csv, columns_of
from ingestion_dagster_tests.residents.test_outage import run_command
from ingestion_dagster_tests.sandbox.asking import answering

WORD = "Zyxwquark"
NHS = "9997317429"
BORN = ("17/03/1942", "19420317", "1942-03-17")
PHONE, MOBILE = "020 7946 0731", "07700 900731"
POSTCODE = "ZZ99 7QK"
MARKERS = (WORD, NHS, "999 731 7429", *BORN, PHONE, MOBILE, PHONE.replace(" ", ""), MOBILE.replace(" ", ""), POSTCODE, "ZZ997QK")
_SEARCH = re.compile("|".join(map(re.escape, MARKERS)).encode(), re.IGNORECASE)


def found_in(content: bytes | str) -> list[bytes]:
    """The markers that stand in this, with a little of what is around them."""
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    return [raw[max(0, match.start() - 60) : match.end() + 40] for match in _SEARCH.finditer(raw)]


def good(dataset: str, number: int = 0) -> dict[str, str]:
    """A row that is sent, with a marker in every column that may hold one."""
    born = BORN[1] if dataset == "spl" else BORN[0]
    fixed = {
        "UTLA": "Hackney", "Date Tested": "17/11/2026", "LA Support Required": "1", LETTER: "1", "Status Report": "Completed",
        "Help Request Type": "Link Work", "Subtype": "", "do_you_need_someone_to_contact_you_about_local_support": f"Yes {WORD}",
    }  # fmt: skip
    row = {}
    for column in columns_of(dataset):
        plain = column.casefold().replace("_", " ")
        if column in fixed:
            row[column] = fixed[column]
        elif "nhs" in plain:
            row[column] = NHS
        elif plain in ("date of birth", "d.o.b", "dateofbirth"):
            row[column] = born
        elif "postcode" in plain:
            row[column] = POSTCODE
        elif plain in ("phone", "phone number", "landline", "contact number calls"):
            row[column] = PHONE
        elif plain in ("phone2", "phone number 2", "mobile", "contact number texts"):
            row[column] = MOBILE
        elif "email" in plain:
            row[column] = f"{WORD}@example.invalid"
        elif column in ("ID", "Account ID"):
            row[column] = f"{WORD}-{number}"
        else:
            row[column] = f'{WORD} "{PHONE}",\n{NHS}'
    return row


def bad(dataset: str) -> list[dict[str, str]]:
    """By column, rows with a marker in it that should not be there, and one that lacks it."""
    rows = []
    for number, column in enumerate(columns_of(dataset), start=1):
        values = (f"{WORD} {NHS}", BORN[0][:-2], f"{WORD}%_\\", "") if number % 2 else (f"={WORD}()", f"31/02/{WORD}", f"{NHS}{NHS}")
        for offset, value in enumerate(values):
            rows.append({**good(dataset, 10 * number + offset), column: value})
    return rows


def broken(dataset: str) -> dict[str, bytes]:
    """Files that are refused whole."""
    row = good(dataset)
    plain = as_csv(dataset, [row])
    headless = as_csv(dataset, [row, row]).partition(b"\r\n")[2]
    first = columns_of(dataset)[0]
    book = io.BytesIO()
    with zipfile.ZipFile(book, "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", f"<{WORD}>{NHS}")
        archive.writestr(f"{WORD}.xml", WORD)
    always = {"headless.csv": headless, "renamed.csv": plain.replace(first.encode(), b"Something", 1)}
    if dataset not in ("contact_tracing", "nsss"):  # one whose header is looked for, and one whose is not
        return always
    return always | {
        "preamble.csv": f"{WORD},{NHS}\r\n{MOBILE}\r\n".encode() * 6 + plain,
        "twice.csv": as_csv(dataset, [row]).replace(columns_of(dataset)[1].encode(), first.encode(), 1),
        "quote.csv": plain + f'"{WORD}'.encode(),
        "fields.csv": plain + f"{WORD},{NHS}{',x' * 200}".encode(),
        "bytes.csv": plain + WORD.encode() + b"\xff\xfe\x00",
        "broken.xlsx": book.getvalue(),
        "no.xlsx": f"PK\x03\x04{WORD}".encode(),
        "page.pdf": f"%PDF {WORD} {NHS}".encode(),
        "rows.json": orjson.dumps([row]),
    }


@dataclass
class Talkative(HereToHelp):
    """The API, which quotes people when it refuses them: now and then, by the number of the call."""

    ways: dict[int, tuple[int, str]] = field(default_factory=dict)
    asked: int = 0
    notes: int = 0

    async def _create(self, request: web.Request) -> web.Response:
        self.asked += 1
        way = self.ways.get(self.asked)
        if way is not None:
            return web.Response(body=f"{way[1]} {(await request.read()).decode()} {WORD}".encode(), status=way[0], reason=WORD)
        return await super()._create(request)

    async def _add_note(self, request: web.Request) -> web.Response:
        self.notes += 1
        if self.notes in (4, 5):
            return web.Response(body=await request.read(), status=422 if self.notes == 4 else 500, reason=WORD)
        return await super()._add_note(request)


WAYS = {3: (400, ""), 5: (500, ""), 7: (201, ""), 8: (201, f'{{"Id": "{WORD}"}}'), 9: (409, ""), 12: (415, "")}


@contextmanager
def talkative() -> Iterator[tuple[Talkative, str]]:
    server = Talkative(settings=Switches(rate=0), ways=dict(WAYS))
    with answering(server) as client:
        # Its nsss id is somebody else's already: quarantined.
        names = {"FirstName": f"{WORD}else", "LastName": f"Mc{WORD}", "NhsNumber": "9990000018"}
        client.create(**names, HelpNeeded="Shielding", Metadata={"nsss_id": f"{WORD}-9999"})
        yield server, client.url


def land(settings: Settings) -> None:
    for dataset in NAMES:
        driver.drop(settings, dataset, "good.csv", as_csv(dataset, [good(dataset)]), 1)
        driver.drop(settings, dataset, "bad.csv", as_csv(dataset, bad(dataset)), 2)
        for name, content in broken(dataset).items():
            driver.drop(settings, dataset, name, content, 3)
    driver.drop(settings, "nsss", "quarantined.csv", as_csv("nsss", [good("nsss", 9999)]), 0)


def tables(settings: Settings) -> Iterator[tuple[str, str]]:
    """Everything that stands in the ledger's database, table by table."""
    with Database.at(settings.database_url or "").connect() as connection:
        names = "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        for (name,) in connection.execute(names).fetchall():
            yield name, "\n".join(row[0] for row in connection.execute(f"SELECT t::text FROM {name} AS t"))


def stored(folder: Path) -> Iterator[tuple[str, bytes | str]]:
    """Everything below a folder but the drop folder."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_relative_to(folder / "drive"):
            yield str(path), path.read_bytes()
            if path.suffix == ".db":
                with suppress(sqlite3.DatabaseError):
                    yield f"{path} as text", "\n".join(sqlite3.connect(path).iterdump())


def leaks(places: Mapping[str, bytes | str]) -> dict[str, list[bytes]]:
    return {place: found[:5] for place, content in places.items() if (found := found_in(content))}


def test_the_search_finds_what_it_looks_for_in_every_file() -> None:
    for marker in MARKERS:
        assert found_in(f"x{marker.lower()}y"), marker
    for dataset in NAMES:
        row = good(dataset)
        assert [column for column, value in row.items() if not found_in(value)] == [
            column for column in columns_of(dataset)
            if column in ("UTLA", "Date Tested", "LA Support Required", LETTER, "Status Report", "Help Request Type", "Subtype")
        ]  # fmt: skip
        for name, content in broken(dataset).items():
            assert found_in(content), name


def test_nothing_of_a_person_leaves_the_drop_folder_but_to_the_api(
    installation: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with talkative() as (server, url):
        settings = installation.model_copy(update={"residents_api_url": url, "slack_webhook_url": "http://127.0.0.1:9/nobody"})
        land(settings)
        environment = driver.environment_of(settings)
        environment.pop("DAGSTER_HOME", None)
        command = [sys.executable, "-c", "from ingestion_dagster.cli import main; main()", "run", "residents", "--as-of", "2026-11-20"]
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=100, check=False)
        for _ in range(3):  # what it has stopped at, and what is to be tried again
            with suppress(Transient, ConfigurationError):
                driver.retry(settings)
                driver.run(settings)
        assert server.asked > 40
    statuses = dict(query(settings, "SELECT key, status FROM ledger.loads"))
    assert set(statuses.values()) == {"archived", "errored"}
    of_rows = "SELECT coalesce(f.code, r.code) FROM residents.file_rows AS f LEFT JOIN residents.rows AS r ON r.id = f.row_id"
    codes = {code for (code,) in query(settings, of_rows)}
    assert codes >= {"bad_date", "blank_dedupe_id", "unsafe_dedupe_id", "resident_mismatch"}, codes
    errors = {code for (code,) in query(settings, "SELECT error_code FROM ledger.loads")}
    assert errors >= {"missing_header", "header_not_found"}, errors
    assert "internal_error" not in errors

    capfd.readouterr()
    folder = driver.inbound(settings, "nsss").parents[1]
    for check in NAMES:
        assert run_command(monkeypatch, settings, "check", "residents", str(folder / check / "inbound"), "--dataset", check, "--json") == 2
    for args in (["status", "--loads", "--json"], ["status"], ["status", "--json"]):
        run_command(monkeypatch, settings, *args)
    printed = "".join(capfd.readouterr())
    assert len(printed) > 20_000

    places: dict[str, bytes | str] = {"run": ended.stdout + ended.stderr, "log": caplog.text, "commands": printed}
    places |= dict(stored(settings.home_folder)) | dict(tables(settings))
    assert any(name.endswith(".db as text") for name in places), "Dagster has stored something"
    assert {"ledger.alerts", "ledger.loads", "residents.rows", "residents.files"} <= set(places)
    assert places["ledger.alerts"]
    assert len(places["residents.rows"]) > 1000
    assert leaks(places) == {}


def test_no_hash_in_the_ledger_can_be_made_without_the_key(installation: Settings) -> None:
    """An NHS number is one of a billion: whoever has its plain hash has the number."""
    somebody = Somebody(1)
    driver.drop(installation, "nsss", "a.csv", content := as_csv("nsss", [somebody.row("nsss")]))
    driver.run(installation)
    found = "\n".join(text for _, text in tables(installation)).lower()
    assert found.count("\\x") > 3
    nhs = somebody.nhs
    spellings = {nhs, f"{nhs[:3]} {nhs[3:6]} {nhs[6:]}", f"nhs:{nhs}", f'["nhs","{nhs}"]'}
    words = {*spellings, *somebody.row("nsss").values(), f"{somebody.first_name} {somebody.last_name}"} - {"", "No", "Yes"}
    for word in [*map(str.encode, words), content]:
        for kind in ("sha256", "sha1", "md5", "blake2b", "sha512"):
            digest = hashlib.new(kind, word).hexdigest()
            assert digest[:16] not in found, f"a plain {kind}"
        assert hashlib.blake2b(word, digest_size=8).hexdigest() not in found
