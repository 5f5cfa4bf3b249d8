"""Nothing of a person is told: not in logs, Dagster's storage, the ledgers, alerts, reports, nor what commands and servers print.

Markers stand in every element of good and bad registrations, in names of elements and attributes that the format does not have, and in
what the platform says when it refuses. The file itself, where it lands or in quarantine, and the sealed payload are where they belong.
"""

import base64
import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import orjson
import psycopg
import pytest

from ingestion_dagster import cli
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.life_events import places
from ingestion_dagster.life_events.elements import RECORD, Element
from ingestion_dagster.life_events.keys import vault
from ingestion_dagster.life_events.problems import CODES
from ingestion_dagster.sandbox import events_consumer, servers
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.api.asking import Client as ApiClient
from ingestion_dagster_tests.life_events import driver
from ingestion_dagster_tests.life_events.scene import LifeEvents, file_of, life_events, one_of_module, set_platform, until
from ingestion_dagster_tests.life_events.stand_in import StandIn, standing_in
from ingestion_dagster_tests.sandbox.platform_asking import Client

__all__ = ["life_events", "one_of_module"]

WORD, ACCENTED = "Zyxwquark", "Zyxẅquärk"
ID = "900731742"
BORN, DIED = "1942-03-17", "2031-01-13"
POSTCODE = "ZZ99 7QK"
MARKERS = (WORD, ACCENTED, ID, BORN, DIED, BORN.replace("-", ""), POSTCODE, POSTCODE.replace(" ", ""))
_SPELLINGS = {text for marker in MARKERS for text in (marker, json.dumps(marker)[1:-1])}
_SEARCH = re.compile(
    b"|".join(
        re.escape(found)
        for text in _SPELLINGS
        # As it is, as Postgres shows bytes, and as base64 has it wherever it begins.
        for found in (text.encode(), text.encode("latin-1", "ignore"), text.encode().hex().encode())
    )
    + b"|"
    + b"|".join(re.escape(base64.b64encode(b"\0" * shift + WORD.encode())[(0, 2, 3)[shift] : -4]) for shift in range(3)),
    re.IGNORECASE,
)

_NAME = f"<PersonNameTitle>{WORD}</PersonNameTitle><PersonGivenName>{WORD}</PersonGivenName>"
_NAME += (
    f"<PersonGivenName>{ACCENTED}</PersonGivenName><PersonFamilyName>{WORD}</PersonFamilyName><PersonNameSuffix>{WORD}</PersonNameSuffix>"
)
GOOD: Mapping[str, str] = {
    "RegistrationID": ID,
    "RegistrationType": "1",
    "RecordLockedDateTime": "2031-02-04T09:30:00",
    "DeceasedName": _NAME,
    "DeceasedAliasName": _NAME,
    "DeceasedAliasNameType": WORD,
    "DeceasedMaidenName": ACCENTED,
    "DeceasedGender": "2",
    "DeceasedDeathDate": f"<PersonDeathDate>{DIED}</PersonDeathDate><VerificationLevel>01</VerificationLevel>",
    "QualifierText": WORD,
    "FreeFormatDeathDate": f"about {DIED} {WORD}",
    "DeceasedBirthDate": f"<PersonBirthDate>{BORN}</PersonBirthDate>",
    "FreeFormatBirthDate": f"about {BORN} {WORD}",
    "DeceasedAddress": (
        f"<Flat>{WORD}</Flat><Building>{WORD}</Building><Line>{WORD}</Line><Line>{ACCENTED}</Line><Postcode>{POSTCODE}</Postcode>"
    ),
}  # fmt: skip


def record(*more: str, **changes: str | None) -> str:
    """A registration with markers in all it has; elements replaced by `changes`, and `more` behind them."""
    inner = "".join(f"<{name}>{content}</{name}>" for name, content in {**GOOD, **changes}.items() if content is not None)
    return f"<DeathRegistration>{inner}{''.join(more)}</DeathRegistration>"


def unique(number: int) -> str:
    return record(QualifierText=f"{WORD} {number}")


BAD: Mapping[str, str] = {
    "record_too_large": record(DeceasedAddress="".join(f"<Line>{WORD * 6000}</Line>" for _ in range(6))),
    "too_deep": record(f"<{WORD}>" * 30 + f"</{WORD}>" * 30),
    "text_too_long": record(QualifierText=f"{WORD} " * 7000),
    "too_many_repeats": record(*[f"<DeceasedMaidenName>{WORD}</DeceasedMaidenName>"] * 80),
    "unknown_element": record(f"<{WORD} a='{WORD}'><{WORD}2>{WORD}</{WORD}2></{WORD}>", f"<x:{WORD} xmlns:x='urn:{WORD}'>{ID}</x:{WORD}>"),
    "unknown_attribute": record(QualifierText=None).replace("<DeceasedGender>", f"<DeceasedGender {WORD}='{WORD}' b='{BORN}'>"),
    "repeated_element": record(f"<RegistrationID>{WORD}</RegistrationID>"),
    "mixed_content": record(DeceasedName=f"{WORD}{_NAME}{WORD}"),
    "replacement_character": record(QualifierText=f"{WORD}\ufffd"),
    "missing_registration_id": record(RegistrationID=None),
    "bad_registration_id": record(RegistrationID=f"{WORD} {ID}!"),
    "missing_timestamp": record(RecordLockedDateTime=None),
    "bad_timestamp": record(RecordLockedDateTime=f"{BORN}T{WORD}", RecordUpdateDateTime=WORD),
    "bad_update_reason": record(RecordUpdateReason=WORD),
    "missing_name": record(DeceasedName=f"<PersonNameTitle>{WORD}</PersonNameTitle>"),
    "name_too_long": record(DeceasedMaidenName=WORD * 40),
    "missing_gender": record(DeceasedGender=None),
    "unknown_gender": record(DeceasedGender=WORD),
    "bad_death_date": record(DeceasedDeathDate=f"<PersonDeathDate>{WORD} {DIED}</PersonDeathDate>"),
    "bad_birth_date": record(DeceasedBirthDate=f"<PersonBirthDate>{BORN}{WORD}</PersonBirthDate>"),
    "bad_verification_level": record(
        DeceasedDeathDate=f"<PersonDeathDate>{DIED}</PersonDeathDate><VerificationLevel>{WORD}</VerificationLevel>"
    ),
    "bad_partial_month_of_death": record(PartialMonthOfDeath=WORD, PartialYearOfDeath="2030"),
    "bad_partial_year_of_death": record(PartialYearOfDeath=f"{BORN}{WORD}"),
    "bad_partial_month_of_birth": record(PartialMonthOfBirth=WORD, PartialYearOfBirth="1942"),
    "bad_partial_year_of_birth": record(PartialYearOfBirth=WORD),
    "no_death_date": record(DeceasedDeathDate=None, FreeFormatDeathDate=None),
    "month_without_year": record(PartialMonthOfBirth="3"),
}
"""By code, a registration that has it."""

WHOLE = file_of(record())
BAD_FILES: Mapping[str, bytes] = {
    "empty": b"",
    "not_well_formed": WHOLE.replace(b"</DeceasedName>", f"</{WORD}>".encode(), 1),
    "doctype_forbidden": f"<!DOCTYPE {WORD} [<!ENTITY {WORD} '{ID} {BORN}'>]>".encode() + WHOLE,
    "bad_encoding": f"<?xml version='1.0' encoding='{WORD}'?>".encode() + WHOLE,
    "wrong_root": f"<{WORD} {WORD}='{ID}'>{WORD}</{WORD}>".encode(),
    "unexpected_element": WHOLE.replace(b"<RecordCount>", f"<{WORD}>{ID}</{WORD}><RecordCount>".encode()),
    "unexpected_text": WHOLE.replace(b"<RecordCount>", f"{WORD}<RecordCount>".encode()),
    "record_count_missing": WHOLE.replace(b"<RecordCount>1</RecordCount>", b""),
    "record_count_not_last": WHOLE.replace(b"</DeathRegistrationGroup>", f"{unique(1)}</DeathRegistrationGroup>".encode()),
    "record_count_invalid": WHOLE.replace(b"<RecordCount>1<", f"<RecordCount>{WORD}<".encode()),
    "record_count_mismatch": file_of(record(), count=731),
    "token_too_long": WHOLE.replace(b"<RecordCount>", f"<!-- {WORD * 200_000} --><RecordCount>".encode()),
    "too_many_names": file_of(
        *(record(*(f"<{WORD}{number}a{each} {WORD}{number}b{each}='1'/>" for each in range(100))) for number in range(120))
    ),
}
"""By code, a file that is refused for it."""

MORE_FILES: Mapping[str, bytes] = {
    "latin-1": f"<DeathRegistrationGroup>{record()}".encode("latin-1", "replace") + "Zyxwquärk".encode("latin-1"),
    "truncated": WHOLE[: len(WHOLE) // 2],
    "cut in a name": WHOLE[: WHOLE.index(WORD.encode()) + 4],
    "garbage behind": WHOLE + f"{WORD} {ID}".encode(),
    "nul": WHOLE.replace(WORD.encode(), f"{WORD}\0".encode(), 1),
    "entity": WHOLE.replace(WORD.encode(), f"&{WORD};".encode(), 1),
    "namespace": WHOLE.replace(b"<DeathRegistrationGroup>", f"<DeathRegistrationGroup xmlns='urn:{WORD}'>".encode()),
    "prefix": WHOLE.replace(b"<DeceasedGender>", f"<{WORD}:DeceasedGender>".encode()),
    "utf-16": WHOLE.decode().encode("utf-16"),
    "instruction": WHOLE.replace(b"<RecordCount>", f"<?{WORD} {ID}?><RecordCount>".encode()),
}


def found_in(content: bytes | str) -> list[bytes]:
    """The markers that stand in this, with a little of what is around them. Digits within hashes are no marker."""
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    spots = []
    for match in _SEARCH.finditer(raw):
        around = raw[max(0, match.start() - 1) : match.start()] + raw[match.end() : match.end() + 1]
        if not (match[0].isdigit() and re.search(rb"[0-9a-f]", around, re.IGNORECASE)):
            spots.append(raw[max(0, match.start() - 60) : match.end() + 40])
    return spots


def leaks(where: Mapping[str, bytes | str]) -> dict[str, list[bytes]]:
    return {place: found[:5] for place, content in where.items() if (found := found_in(content))}


def tables(database: Database) -> Iterator[tuple[str, str]]:
    """Everything that stands in the database, table by table."""
    with database.connect() as connection:
        names = "SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('ledger', 'life_events')"
        for (name,) in connection.execute(names).fetchall():
            yield name, "\n".join(row[0] for row in connection.execute(f"SELECT t::text FROM {name} AS t"))


def stored(settings: Settings, *besides: Path) -> Iterator[tuple[str, bytes | str]]:
    """Every file below the home but those of the landing zone and those that are refused."""
    for path in settings.home_folder.rglob("*"):
        if not path.is_file() or any(path.is_relative_to(other) for other in besides):
            continue
        yield str(path), path.read_bytes()
        if path.suffix in (".db", ".sqlite3"):
            with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(path)) as opened:
                yield f"{path} as text", "\n".join(opened.iterdump())


COMMAND = [sys.executable, "-c", "from ingestion_dagster.cli import main; main()"]


@dataclass
class Shell:
    """Calls the command as a process; what all of them have printed."""

    folder: Path
    printed: str = ""

    def __call__(self, *arguments: str, **environment: str) -> int:
        ended = subprocess.run(
            [*COMMAND, *arguments], cwd=self.folder, env=os.environ | environment, capture_output=True, text=True, timeout=100, check=False
        )
        self.printed += ended.stdout + ended.stderr
        return ended.returncode


def called(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The same in this process."""
    monkeypatch.setattr(sys, "argv", ["ingestion", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code if isinstance(ended.value.code, int) else 0


def names_of(element: Element) -> Iterator[str]:
    for child in element.children.values():
        yield child.name
        yield from names_of(child)


# The search itself


def test_the_search_finds_what_it_looks_for_and_nothing_else() -> None:
    for marker in MARKERS:
        for leak in (f"x {marker.lower()} y", json.dumps([marker]), f"\\x{marker.encode().hex()}", marker.encode()):
            assert found_in(leak), leak
    for shift in range(3):
        assert found_in(base64.b64encode(b"x" * shift + f"{WORD} and more".encode())), shift
    for innocent in ("a900731742b", "run 1942", "{}", "ZZ99", "2031-02-04T09:30:00"):  # pragma: allowlist secret
        assert not found_in(innocent), innocent


def test_a_marker_stands_in_every_element_that_may_hold_a_text_and_every_code_has_its_file() -> None:
    told = record("<PartialYearOfBirth>1942</PartialYearOfBirth>")
    fixed = {
        "RegistrationType",
        "RecordLockedDateTime",
        "RecordUpdateDateTime",
        "RecordUpdateReason",
        "DeceasedGender",
        "VerificationLevel",
    }
    fixed |= {f"Partial{part}Of{what}" for part in ("Month", "Year") for what in ("Birth", "Death")}
    for name in set(names_of(RECORD)) - fixed:
        assert re.search(rf"<{name}>[^/]*({'|'.join(map(re.escape, MARKERS))})", told) or f"<{name}><" in told, name
    assert {*BAD, *BAD_FILES} == set(CODES)
    for name, text in BAD.items():
        assert found_in(text), name
    for name, raw in {**BAD_FILES, **MORE_FILES}.items():
        assert name == "empty" or found_in(raw.decode("utf-16") if name == "utf-16" else raw), name


# The whole way


@pytest.fixture
def talkative(life_events: LifeEvents, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A platform that quotes people whenever it can."""
    with standing_in() as platform:
        set_platform(monkeypatch, platform.url)
        platform.says = json.dumps({"status": 400, "userMessage": f"{WORD} {ID}", "developerMessage": [BORN, POSTCODE]})
        yield platform


def land(life_events: LifeEvents) -> int:
    """Files of all kinds; how many are refused."""
    life_events.drop("good.xml", file_of(*(unique(number) for number in range(40)), record(), record()), 1)
    for number, (code, content) in enumerate(BAD.items()):
        life_events.drop(f"record {code}.xml", file_of(content, unique(100 + number)), 2)
    for name, raw in (*BAD_FILES.items(), *MORE_FILES.items()):
        life_events.drop(f"file {name}.xml", raw, 3)
    life_events.drop("suspicious.xml", file_of(*[BAD["unknown_gender"]] * 12, unique(99)), 4)
    return len(BAD_FILES)


def test_nothing_of_a_person_leaves_the_file_but_sealed(
    life_events: LifeEvents,
    talkative: StandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", "http://127.0.0.1:9/nobody")
    monkeypatch.setenv("INGESTION_LIFE_EVENTS_PLATFORM_PATIENCE_SECONDS", "0.5")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    settings = current()
    incoming, quarantine = driver.incoming(settings), driver.quarantine(settings)
    least = land(life_events)
    shell = Shell(tmp_path)

    # Loading, as the shell does it, with Dagster's real instance below the home; the platform refuses most of it.
    talkative.token_answers = [(500, {"error": talkative.says}), (200, {"access_token": f"{WORD} {ID}", "expires_in": WORD})]
    talkative.answers = [(400, {"X-Said": WORD})] * 3 + [(500, {"Retry-After": WORD}), (422, {}), (409, {})]
    assert shell("run", "life_events") == 1
    assert shell("life_events", "republish") == 1
    talkative.token_answers.clear()
    shell("life_events", "republish", INGESTION_LIFE_EVENTS_PLATFORM_PATIENCE_SECONDS="10")
    assert life_events.records().get("dead", 0) >= 3, shell.printed[-3000:]
    codes = {code for (code,) in life_events.query("SELECT code FROM life_events.quarantine")}
    codes |= {each["error_code"] for each in life_events.loads()}
    problems = life_events.query("SELECT jsonb_path_query_array(problems, '$[*].code') FROM ledger.loads WHERE problems IS NOT NULL")
    codes |= {code for (found,) in problems for code in found}
    assert codes >= {*CODES, "too_many_bad_records"}, {*CODES, "too_many_bad_records"} - codes
    assert not codes & {"internal_error", "database_refused"}
    assert sum(status == "errored" for status in life_events.statuses().values()) > least
    reports = list(quarantine.rglob("*.report.json"))
    assert len(reports) > least

    # What is told of it, in this process: its log is at its most talkative.
    capfd.readouterr()
    assert called(monkeypatch, "check", "life_events", str(quarantine), "--json") == 2
    assert called(monkeypatch, "check", "life_events", str(quarantine)) == 2
    for arguments in (["status", "--loads", "--json"], ["status"], ["status", "--json"]):
        called(monkeypatch, *arguments)
    with suppress(SystemExit):
        called(monkeypatch, "retry", "life_events")
    printed = "".join(capfd.readouterr())
    assert len(printed) > 20_000

    # The platform that is asked back, which is told of all again, and a consumer.
    for name in ("PLATFORM_URL", "TOKEN_URL", "CLIENT_ID", "CLIENT_SECRET"):
        monkeypatch.delenv(f"INGESTION_LIFE_EVENTS_{name}")
    urls = servers.up(settings.home_folder, names=places.stand_ins_needed(current()))
    Client(urls["events_platform"]).switch("settings", {"delete_seconds": 0.2})
    life_events.query("DELETE FROM ledger.outbox; UPDATE life_events.records SET state = 'pending', code = NULL")
    life_events.query(
        "INSERT INTO ledger.outbox (topic, key, load_id) "
        "SELECT 'life_events.publish', encode(record_key, 'hex'), load_id FROM life_events.records"
    )
    assert called(monkeypatch, "life_events", "republish") == 0
    assert set(life_events.records()) == {"published"}
    alive = life_events.count("life_events.events")
    assert alive > 50
    sealed = [
        (bytes(key), encryption_key, bytes(payload))
        for key, encryption_key, payload in life_events.query("SELECT record_key, encryption_key, payload FROM life_events.events")
    ]
    assert all(found_in(vault(settings).open(*each)) for each in sealed), "it is there, sealed"
    before = dict(tables(life_events.database)) | dict(stored(settings, incoming, quarantine))
    assert leaks(before) == {}
    ciphers = [payload[12:40] for _, _, payload in sealed]
    elsewhere = {
        place: content.encode() if isinstance(content, str) else content
        for place, content in before.items()
        if place != "life_events.events"
    }
    assert [place for place, raw in elsewhere.items() if any(cipher in raw or cipher.hex().encode() in raw for cipher in ciphers)] == []
    [(one,)] = life_events.query("SELECT encode(record_key, 'hex') FROM life_events.records ORDER BY ordinal LIMIT 1")
    api = ApiClient(int(urls["api"].rpartition(":")[2]))
    assert found_in(api.enrich(one).body), "to the platform, and to nobody else, it is told"
    assert api.delete(WORD).json == {"id": WORD}, "as the caller has it"
    for answer in (
        api.enrich(f"{WORD} {ID}"), api.ask("POST", f"/{WORD}?{ID}", raw=WORD.encode()),
        api.ask("POST", "/life-events/enrich", raw=f'{{"id": {WORD}'.encode()), api.ask("POST", "/life-events/enrich", {"id": {WORD: ID}}),
        api.enrich(one[:-1], CorrelationID=WORD, X_Forwarded_For=WORD), api.ask(WORD, "/life-events/enrich"), api.ask("GET", "/metrics"),
    ):  # fmt: skip
        assert not found_in(str(answer)), answer
    began = time.monotonic()
    pages = list(events_consumer.consume(urls["events_platform"]))
    assert sum(page.enriched for page in pages) == alive
    until(lambda: life_events.count("life_events.events") == 0)
    assert time.monotonic() - began < 30
    assert set(life_events.records()) == {"released"}
    servers.down(settings.home_folder)

    # What has outlived its time, and the files that were kept.
    life_events.drop("late.xml", file_of(unique(1000)))
    driver.run(settings)
    life_events.let_time_be_up()
    life_events.query("UPDATE ledger.loads SET finished_at = now() - interval '8 days' WHERE status = 'errored'")
    assert called(monkeypatch, "life_events", "sweep") == 0
    assert [path for path in life_events.quarantined() if not path.name.endswith(".report.json")] == []
    assert life_events.waiting() == []
    printed += "".join(capfd.readouterr())

    where: dict[str, bytes | str] = {"processes": shell.printed, "commands": printed, "log": caplog.text}
    where |= {f"report {path.name}": path.read_bytes() for path in reports if path.exists()}
    where |= dict(tables(life_events.database)) | dict(stored(settings))
    assert any(place.endswith(".db as text") for place in where), "Dagster has stored something"
    assert any(place.endswith(".sqlite3 as text") for place in where), "so has the platform"
    assert len([place for place in where if place.endswith(".log")]) == 2, "both servers have a log"
    assert where["ledger.alerts"]
    assert where["life_events.events"] == ""
    assert len(where["life_events.audit"]) > 10_000
    assert leaks(where) == {}


def test_nothing_lies_in_a_temporary_folder_while_a_file_is_on_its_way(
    life_events: LifeEvents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is stopped between two chunks, its spool on the disk by then; and one that is killed leaves nothing."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    long = "".join(f"<Line>{WORD * 100}</Line>" for _ in range(10))
    life_events.drop("a.xml", file_of(*(record(RegistrationID=f"{number}", DeceasedAddress=long) for number in range(900))))
    environment = os.environ | {"INGESTION_TEST_FAULT": "life_events.stage.before:1:SIGSTOP"}
    command = [sys.executable, "-m", "ingestion_dagster_tests.life_events.driver", "run"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], env=environment, stderr=subprocess.PIPE) as process:
        try:
            until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
            assert [path for path in scratch.rglob("*") if path.is_file()] == []
            files = {path: str(path.readlink()) for path in Path(f"/proc/{process.pid}/fd").iterdir()}
            spools = [path for path, name in files.items() if name.startswith(str(scratch)) and name.endswith("(deleted)")]
            assert [path.stat().st_size > 4_000_000 for path in spools] == [True], "it is on the disk, and has no name"
            assert leaks({str(path): path.read_bytes() for path in spools}) == {}
            assert leaks(dict(tables(life_events.database))) == {}
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=20)
    assert list(scratch.rglob("*")) == []
    assert life_events.count("life_events.records") == 0


def test_a_database_that_refuses_a_record_is_not_quoted(
    life_events: LifeEvents, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its messages quote rows: of those that are refused here, even a payload that is not sealed."""
    from ingestion_dagster.life_events.keys import Vault

    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(Vault, "seal", lambda _self, _key, payload: payload)
    life_events.query("ALTER TABLE life_events.events ADD CONSTRAINT refuses CHECK (length(payload) < 10) NOT VALID")
    try:
        life_events.drop("a.xml", file_of(record()))
        driver.run(life_events.settings)
    finally:
        life_events.query("ALTER TABLE life_events.events DROP CONSTRAINT refuses")
    [load] = life_events.loads()
    assert (load["status"], load["error_code"]) == ("errored", "database_refused")
    assert life_events.count("life_events.records") == 0
    kept = dict(tables(life_events.database)) | {
        path.name: path.read_bytes() for path in life_events.quarantined() if path.suffix == ".json"
    }
    assert leaks({"log": caplog.text} | kept) == {}


def test_a_defect_of_ours_that_quotes_what_it_was_at_is_told_by_its_place_alone(
    life_events: LifeEvents, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ingestion_dagster.life_events import record as records

    def fail(fields: object, *_: object, **__: object) -> None:
        raise ValueError(f"cannot make anything of {fields!r}")

    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(records, "attributes", fail)
    life_events.drop("a.xml", file_of(record()))
    for _ in range(4):
        driver.run(life_events.settings)
    assert [load["error_code"] for load in life_events.loads()] == ["internal_error"]
    assert "attributes" in caplog.text or "reading.py" in caplog.text
    kept = dict(tables(life_events.database)) | {
        path.name: path.read_bytes() for path in life_events.quarantined() if path.suffix == ".json"
    }
    assert leaks({"log": caplog.text} | kept) == {}


def test_no_hash_in_the_database_can_be_made_without_the_key(life_events: LifeEvents) -> None:
    """Whoever knows a name, a date and a place has the plain hash of a record by trying."""
    import hashlib

    from ingestion_dagster.life_events import record as records
    from ingestion_dagster.life_events.xml_reader import Reader

    raw = file_of(record())
    life_events.drop("a.xml", raw)
    driver.run(life_events.settings)
    [found] = [each for batch in Reader().read([raw]) for each in batch]
    told = "\n".join(text for _, text in tables(life_events.database)).lower()
    assert told.count("\\x") > 3
    canonical = records.canonical(found.fields)
    for content in (raw, canonical, orjson.dumps(found.fields), *(marker.encode() for marker in MARKERS)):
        for kind in ("sha256", "sha1", "md5", "blake2b", "sha512"):
            assert hashlib.new(kind, content).hexdigest()[:16] not in told, kind


def test_an_error_of_the_database_shows_no_payload_in_its_text_to_begin_with(life_events: LifeEvents) -> None:
    """What the search of the tests above would find, if anybody passed it on."""
    statement = "INSERT INTO life_events.records (record_key, hmac_key, load_id, ordinal, state) VALUES ('a', %s, 1, 1, 'x')"
    with life_events.database.connect() as connection, pytest.raises(psycopg.Error) as raised:
        connection.execute(statement, [WORD])
    assert found_in(str(raised.value)), "Postgres quotes the row"
