"""Nothing of a transit file's content is told: not in logs, Dagster's storage, the ledger, reports, nor what commands print.

Markers stand in every column of good and bad files, in headers, in `.dfm` files and in Kafka records. The landing zone, archive, error
zone, springboard and current tables are the places where they belong. A file's name, and the names of columns that a `.dfm` or the
registry vouches for, are no content.
"""

import gzip
import json
import logging
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster import cli
from ingestion_dagster.cubic.registry import parse_registry, registry
from ingestion_dagster.definitions import defs
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests import test_privacy as privacy
from ingestion_dagster_tests.cubic.conftest import Cubic, csv, metadata, moment
from ingestion_dagster_tests.test_privacy import WORD, found_in

dagster_home = privacy.dagster_home
instance = privacy.instance

NUMBER = "73174242"
SAMPLE = "cubic/ods_qlik/EDW.SAMPLE"
OPEN = "cubic/ods_qlik/EDW.GATE_TAP"
LOOSE = "cubic/ods_qlik/EDW.KIOSK_STATE"
DMAP = "cubic/dmap/agg_sample"
KAFKA = "cubic/kafka/sample"
HEADER = "SAMPLE_ID,SAMPLE_NAME,EDW_INSERTED_DTM,EDW_UPDATED_DTM"
CHANGES = "header__change_seq,header__change_oper,header__timestamp"
GOOD = (NUMBER, WORD, "2026-01-01 00:00:00", "2026-01-01 00:00:00")
TYPES = {"SAMPLE_ID": "INT4", "SAMPLE_NAME": "STRING", "EDW_INSERTED_DTM": "DATETIME", "EDW_UPDATED_DTM": "DATETIME"}
EVERY_TYPE = {
    "INT1": ("1", f"{NUMBER}.5"), "INT8": ("1", WORD), "UINT8": ("1", f"-{WORD}"), "NUMERIC(10,2)": ("1.00", f"{NUMBER}.4242"),
    "REAL4": ("1", WORD), "REAL8": ("1", f"{WORD}e5"), "BOOLEAN": ("1", WORD), "DATE": ("2026-01-01", f"{WORD}-01-01"),
    "TIME": ("12:00:00", WORD), "DATETIME": ("2026-01-01 00:00:00", f"{WORD} 00:00:00"), "BYTES": ("00", WORD),
}  # fmt: skip
"""By type of a `.dfm`, a value that can be cast, and one with a marker that cannot."""
OF_EVERY_TYPE = tuple(fine for fine, _ in EVERY_TYPE.values())
TYPED = {f"C{number}": kind for number, kind in enumerate(EVERY_TYPE)}


def row(values: tuple[str, ...], position: int, value: str) -> str:
    return ",".join(value if number == position else each for number, each in enumerate(values))


def record(**changes: Any) -> bytes:
    return json.dumps(
        {"topic": "sample", "partition": 0, "offset": 1, "timestamp": None, "key": WORD, "value": {WORD: NUMBER}} | changes
    ).encode()


def described(**changes: Any) -> bytes:
    """A `.dfm` of a sample with a marker wherever there may be one."""
    content = json.loads(metadata(TYPES, 1, ("SAMPLE_ID",)))
    content |= {"taskInfo": {"name": WORD, "sourceEndpointUser": WORD}, "note": {WORD: NUMBER}}
    content["fileInfo"] |= {"name": WORD, "location": WORD, "content": WORD}
    content["dataInfo"] |= {"sourceSchema": WORD, "sourceTable": WORD}
    for place, value in changes.items():
        *path, last = place.split("__")
        at = content
        for step in path:
            at = at[int(step)] if step.isdigit() else at[step]
        at[int(last) if last.isdigit() else last] = value
    return json.dumps(content).encode()


Files = dict[str, tuple[bytes, bytes | None]]


def good() -> Files:
    return {
        f"{SAMPLE}/LOAD1.csv.gz": (csv(",".join(GOOD), header=HEADER), described()),
        f"{SAMPLE}__ct/20260102-070000000.csv.gz": (
            csv(f"2026{NUMBER}{NUMBER}000000000000000,U,2026-01-02 07:00:00,{','.join(GOOD)}", header=f"{CHANGES},{HEADER}"),
            None,
        ),
        f"{DMAP}/good.csv.gz": (csv(f"{NUMBER},{WORD},{NUMBER}", header="sample_id,sample_name,sample_count"), None),
        f"{DMAP}/rejected.csv.gz": (
            csv(*[f"{n},x,1" for n in range(1999)], f"{WORD},{WORD},{NUMBER}", header="sample_id,sample_name,sample_count"),
            None,
        ),
        f"{KAFKA}/good.json.gz": (gzip.compress(record() + b"\n" + record(offset=2, value=WORD, key=NUMBER)), None),
        f"{OPEN}/LOAD00000001.csv.gz": (csv(",".join(OF_EVERY_TYPE), header=",".join(TYPED)), metadata(TYPED, 1, ("C0",))),
        f"{LOOSE}/LOAD00000001.csv.gz": (csv("1,x", header="N,M"), metadata({"N": "INT4", "M": "STRING"}, 1, ("N",))),
    }


def bad() -> Files:
    """By key: each is refused, or waits for a decision about its columns."""
    contents: Files = {}

    def add(folder: str, what: str, content: bytes, dfm: bytes | None = None, suffix: str = ".csv.gz") -> None:
        contents[f"{folder}/{what}{suffix}"] = (content, dfm)

    for position, column in enumerate(HEADER.split(",")):
        if column != "SAMPLE_NAME":
            add(SAMPLE, f"text_{column}", csv(row(GOOD, position, WORD), header=HEADER))
            add(SAMPLE, f"number_{column}", csv(row(GOOD, position, f"{NUMBER}.5e5"), header=HEADER))
        add(SAMPLE, f"header_{column}", csv(",".join(GOOD), header=HEADER.replace(column, WORD)))
        add(SAMPLE, f"header_number_{column}", csv(",".join(GOOD), header=HEADER.replace(column, NUMBER)))
        add(
            SAMPLE,
            f"name_{column}",
            csv(",".join(GOOD), header=HEADER),
            described(**{f"dataInfo__columns__{position}__name": f"{WORD} {NUMBER}"}),
        )
    add(SAMPLE, "no_header", csv(",".join(GOOD), header=",".join(GOOD)))
    add(SAMPLE, "twice", csv(",".join(GOOD), header=f"{WORD},{WORD},{NUMBER},x"))
    add(SAMPLE, "more", csv(",".join(GOOD), header=f"{HEADER},{WORD}"))
    add(SAMPLE, "fields", csv(",".join((*GOOD, WORD)), f"{WORD},{NUMBER}", header=HEADER))
    add(SAMPLE, "open_quote", csv(row(GOOD, 1, f'"{WORD}'), header=HEADER))
    add(SAMPLE, "stray_quote", csv(row(GOOD, 1, f'{WORD}"{NUMBER}"'), row(GOOD, 0, f'"{WORD}"x"'), header=HEADER))
    add(SAMPLE, "no_utf8", gzip.compress(f"{HEADER}\n{','.join(GOOD)}\n1,{WORD}".encode() + b"\xff,,\n"))
    add(SAMPLE, "header_no_utf8", gzip.compress(WORD.encode() + b"\xff,x\n"))
    add(SAMPLE, "plain", f"{WORD},{NUMBER}".encode())
    add(SAMPLE, "truncated", csv(",".join(GOOD), header=HEADER)[:-9])
    add(SAMPLE, "unknown", WORD.encode(), suffix=".xlsx")
    add(SAMPLE, "unreadable_dfm", csv(",".join(GOOD), header=HEADER), f'{{"{WORD}": {NUMBER}, {WORD}'.encode())
    add(SAMPLE, "list_dfm", csv(",".join(GOOD), header=HEADER), json.dumps([WORD, NUMBER]).encode())
    for place, value in {
        "fileInfo__recordCount": 2,
        "formatInfo__options__fieldDelimiter": WORD,
        "formatInfo__options__quoteChar": WORD,
        "formatInfo__options__escapeChar": WORD,
        "formatInfo__options__nullValue": [WORD],
        "formatInfo__options__recordDelimiter": WORD,
        "dataInfo__columns": {WORD: NUMBER},
        "dataInfo__columns__0": WORD,
        "dataInfo__columns__0__name": [WORD],
    }.items():
        add(SAMPLE, f"dfm_{place}", csv(",".join(GOOD), header=HEADER), described(**{place: value}))
    # What only warns, of a file that is refused for something else.
    for place, value in {
        "fileInfo__recordCount": WORD,
        "dataInfo__columns__1__type": WORD,
        "dataInfo__columns__0__primaryKeyPos": WORD,
    }.items():
        add(SAMPLE, f"dfm_warns_{place}", csv(",".join(row(GOOD, 0, WORD).split(",")), header=HEADER), described(**{place: value}))
    for position, (_, value) in enumerate(EVERY_TYPE.values()):
        add(OPEN, f"type_{position}", csv(row(OF_EVERY_TYPE, position, value), header=",".join(TYPED)), metadata(TYPED, 1, ("C0",)))
    add(LOOSE, "LOAD00000002", csv(f"{WORD},{NUMBER}", header=f"{WORD},M"))
    add(f"{SAMPLE}__ct", "20260102-080000000", csv(f"{WORD},{NUMBER},{WORD},{','.join(GOOD)}", header=f"{CHANGES},{HEADER}"))
    add(f"{SAMPLE}__ct", "20260102-090000000", csv(f"1,U,x,{','.join(GOOD)}", header=f"{WORD},{CHANGES[21:]},{HEADER}"))
    for position, column in enumerate(("sample_id", "sample_name", "sample_count")):
        names = ["sample_id", "sample_name", "sample_count"]
        add(
            DMAP,
            f"text_{column}",
            csv(row(("1", "x", "1"), position, f"{WORD}\x00" if position == 1 else WORD), WORD, header=",".join(names)),
        )
        names[position] = WORD
        add(DMAP, f"header_{column}", csv("1,x,1", header=",".join(names)))
    for what, line in {
        "no_json": f'{{"{WORD}": {NUMBER}, {WORD}'.encode(),
        "no_object": json.dumps([WORD, NUMBER]).encode(),
        "no_string": json.dumps(WORD).encode(),
        "topic": record(topic={WORD: NUMBER}),
        "partition": record(partition=WORD),
        "offset": record(offset=f"{NUMBER}"),
        "negative": record(offset=-int(NUMBER)),
        "timestamp": record(offset=99, timestamp=WORD),
        "no_utf8": record()[:-1] + WORD.encode() + b"\xff}",
    }.items():
        add(KAFKA, what, gzip.compress(line), suffix=".json.gz")
    return contents


@pytest.fixture
def cubic(settings: Settings, database: Database) -> Cubic:
    """The pipeline by the registry that Dagster's definitions were made from."""
    return Cubic(settings, database, registry(settings))


def land(cubic: Cubic, files: Files, hour: int) -> None:
    for number, (key, (content, dfm)) in enumerate(files.items()):
        name, dot, _ = key.rpartition("/")[2].partition(".csv")
        cubic.land(key, content, moment(f"{hour:02}:{number // 60:02}:{number % 60:02}"))
        if dfm is not None:
            cubic.land(f"{key.rpartition('/')[0]}/{name}.dfm" if dot else f"{key}.dfm", dfm, moment(f"{hour:02}:00:00"))


def ledger_and_cubic(cubic: Cubic) -> Iterator[tuple[str, str]]:
    names = cubic.sql("SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname IN ('ledger', 'cubic') ORDER BY 1")
    for (name,) in names:
        yield name, "\n".join(row[0] for row in cubic.sql(f"SELECT t::text FROM {name} AS t"))


def reports(cubic: Cubic) -> dict[str, str]:
    folder = Path(cubic.settings.storage.removeprefix("file://")) / "cubic"
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.report.json")}


def leaks(places: dict[str, bytes | str]) -> dict[str, list[bytes]]:
    return {place: found for place, content in places.items() if (found := found_in(content))}


def test_every_bad_file_is_searched_for() -> None:
    """A file without a marker would be searched for nothing."""
    for key, (content, dfm) in bad().items():
        try:
            plain = gzip.decompress(content)
        except (gzip.BadGzipFile, EOFError):
            plain = content if content[:2] != b"\x1f\x8b" else WORD.encode()
        assert found_in(plain) or found_in(dfm or b""), key


def test_no_value_of_a_file_leaves_the_tables(
    cubic: Cubic,
    instance: dg.DagsterInstance,
    dagster_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("INGESTION_SLACK_WEBHOOK_URL", "http://127.0.0.1:9/nobody")
    land(cubic, good(), 6)
    jobs = [defs.resolve_job_def(name) for name in ("cubic_ods_load", "cubic_daily_load")]
    for job in jobs:
        assert job.execute_in_process(instance=instance).success
    land(cubic, bad(), 8)
    for job in jobs:
        config = {"ops": {node.name: {"config": {"dry_run": True}} for node in job.nodes}}
        assert job.execute_in_process(instance=instance, run_config=config).success
        assert job.execute_in_process(instance=instance).success
    states = {state["key"]: state for state in cubic.states()}
    assert {states[key]["status"] for key in good()} == {"archived"}
    assert {key for key in bad() if states[key]["status"] != "errored"} == {f"{LOOSE}/LOAD00000002.csv.gz"}
    assert states[f"{LOOSE}/LOAD00000002.csv.gz"]["waiting_for"] == "schema"
    codes = {state["error_code"] for state in states.values()}
    assert len(codes) >= 12, codes
    assert "internal_error" not in codes
    capfd.readouterr()
    places: dict[str, bytes | str] = {"commands": printed(monkeypatch, capfd, tmp_path), "log": caplog.text}
    for path in dagster_home.rglob("*"):
        if path.is_file():
            places[str(path)] = path.read_bytes()
            if path.suffix == ".db":
                places[f"{path} as text"] = "\n".join(sqlite3.connect(path).iterdump())
    for run in instance.get_runs():
        places[f"run {run.run_id}"] = f"{run.tags} {run.run_config}"
        places[f"events of {run.run_id}"] = "\n".join(repr(record) for record in instance.all_logs(run.run_id))
    places |= dict(ledger_and_cubic(cubic)) | reports(cubic)
    assert len(reports(cubic)) == sum(state["status"] == "errored" for state in states.values()) + 1
    assert leaks(places) == {}


def printed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> str:
    """What the commands print about all of these files."""
    folder = tmp_path / "checked"
    for key, (content, dfm) in (good() | bad()).items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if dfm is not None:
            (folder / (key.partition(".csv")[0] + ".dfm")).write_bytes(dfm)
    for command in (["status", "--loads", "--json"], ["status"], ["check", "cubic", str(folder)], ["retry", "cubic"]):
        monkeypatch.setattr(sys, "argv", ["ingestion", *command])
        with pytest.raises(SystemExit):
            cli.main()
    out, err = capfd.readouterr()
    assert len(out) > 10_000
    return out + err


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE ledger.loads ADD CONSTRAINT refuses CHECK (rows_written = 0) NOT VALID",
        "ALTER TABLE cubic.kafka_offsets ADD CONSTRAINT refuses CHECK (topic = 'x') NOT VALID",
        "ALTER TABLE cubic.schemas ADD CONSTRAINT refuses CHECK (registered) NOT VALID",
    ],
)
def test_what_the_database_says_of_a_row_is_not_passed_on(cubic: Cubic, caplog: pytest.LogCaptureFixture, statement: str) -> None:
    caplog.set_level(logging.DEBUG)
    land(cubic, {f"{KAFKA}/a.json": (record(topic=WORD), None)}, 6)
    cubic.sql(statement)
    with pytest.raises(Transient) as raised:
        cubic.run()
    chain = []
    error: BaseException | None = raised.value
    while error is not None:
        chain.append(f"{error!r} {getattr(error, '__notes__', '')}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert leaks({"raised": "\n".join(chain), "log": caplog.text}) == {}


def test_a_row_that_is_short_and_no_utf8_is_not_quoted_to_whoever_reads_stderr(cubic: Cubic, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: told.append(str(raised.exc_value)))
    land(cubic, {f"{SAMPLE}/LOAD1.csv.gz": (gzip.compress(f"{HEADER}\n{WORD}".encode() + b"\xff,\n"), None)}, 6)
    cubic.run()
    assert cubic.state(f"{SAMPLE}/LOAD1.csv.gz")["error_code"] == "not_utf8"
    assert found_in("".join(told)) == []


def _header_first(cubic: Cubic) -> None:
    """Two deliveries without a header to a table that nobody has described: the values of one row name the columns."""
    cubic.registry = parse_registry("tables: [{name: open, prefix: cubic/dmap/open/, kind: dmap}]")
    land(cubic, {"cubic/dmap/open/a.csv.gz": (csv("1,x", header=f"{WORD},{NUMBER}"), None)}, 6)
    cubic.run()
    land(cubic, {"cubic/dmap/open/b.csv.gz": (csv("1,x", header="2026,y"), None)}, 7)
    cubic.run(run_id="next")


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(lambda cubic: dict(ledger_and_cubic(cubic))["ledger.loads"], id="ledger"),
        pytest.param(lambda cubic: "".join(reports(cubic).values()), id="report"),
    ],
)
def test_columns_that_nobody_vouches_for_are_told_by_their_position(cubic: Cubic, told: Callable[[Cubic], str]) -> None:
    _header_first(cubic)
    assert cubic.state("cubic/dmap/open/b.csv.gz")["error_code"] in {"schema_changed", "header_unreadable"}
    assert found_in(told(cubic)) == []
