"""The synthetic cubic deliveries in `cubic/`: the same bytes on every machine, every day.

`python source_data/generate_cubic.py` rewrites the folder (all but `tables.yaml`); `--check` changes nothing and exits 1 if the folder is
not what would be written; `--place FOLDER` copies the deliveries there with the modification times that version control does not keep,
and by which files belong to snapshots. Every value is invented.
"""

import argparse
import json
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from random import Random
from typing import Any

FOLDER = Path(__file__).parent / "cubic"
WAVES = ("good", "later", "bad")
"""Deliveries, in the order in which they are to be landed and loaded: Qlik gives the files of a restart the names of those before."""

FIRST = datetime(2026, 1, 5, 6, tzinfo=UTC)
SECOND, AFTER = FIRST + timedelta(days=1, minutes=30), FIRST + timedelta(days=1, hours=6)
_MOST_ROWS = 100
"""Of a current table that has more, `expected.json` tells only how many."""

Row = tuple[str | None, ...]
"""Values as a file holds them; None is written as nothing, an empty text as a pair of quotes."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column as its `.dfm` describes it."""

    name: str
    type: str
    length: int = 0
    precision: int = 0
    scale: int = 0
    key: int = 0

    def value(self, text: str | None) -> Any:
        """What readers of the typed area see, as JSON: decimals as text, bytes as hexadecimal digits, times as ISO 8601."""
        if text is None or self.type in {"STRING", "WSTRING", "CLOB", "BYTES"} or (self.type == "NUMERIC" and not self.precision):
            return text
        return _VALUES["WIDE" if (self.type == "NUMERIC" and self.scale) or self.type == "UINT8" else self.type](text)


_VALUES: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("INT1", "INT2", "INT4", "INT8", "UINT4", "NUMERIC"), int),
    **dict.fromkeys(("REAL4", "REAL8"), float),
    "WIDE": str,
    "BOOLEAN": lambda text: text in {"1", "true"},
    "DATE": lambda text: date.fromisoformat(text).isoformat(),
    "TIME": lambda text: time.fromisoformat(text).isoformat(),
    "DATETIME": lambda text: datetime.fromisoformat(text[:26]).isoformat(),
}


@dataclass(frozen=True)
class Table:
    """A replicated table: where its files arrive, and its columns."""

    source: str
    columns: tuple[Column, ...]

    @property
    def dataset(self) -> str:
        """Its name in the registry."""
        return "cubic__ods_qlik__" + self.source.lower().replace(".", "_")

    def with_column(self, column: Column) -> "Table":
        """It with one column more."""
        return Table(self.source, (*self.columns, column))

    def key_of(self, row: Row) -> Row:
        """The key of a row."""
        return tuple(text for column, text in zip(self.columns, row, strict=False) if column.key)


@dataclass
class Delivered:
    """A file, when it was written, and what is to become of it; no fate: it travels with another."""

    wave: str
    key: str
    modified: datetime
    content: bytes
    fate: Json | None = None


@dataclass
class Deliveries:
    """Every file in the order of its making, and by wave the rows of the current tables."""

    files: list[Delivered] = field(default_factory=list)
    current: dict[str, Json] = field(default_factory=dict)

    def add(self, wave: str, key: str, modified: datetime, content: bytes, dataset: str, status: str = "archived", **fate: Any) -> None:
        """A file and its fate; rows that are not told of are written."""
        told = {"rows_in": 0, "rows_rejected": 0, "rows_unchanged": 0} | fate
        told.setdefault("rows_written", told["rows_in"] - told["rows_rejected"] - told["rows_unchanged"])
        usual: Json = {"dataset": dataset, "partition": None, "status": status, "waiting_for": None, "codes": [], "duplicate": False}
        self.files.append(Delivered(wave, key, modified, content, usual | told))

    def beside(self, wave: str, key: str, modified: datetime, content: bytes) -> None:
        """A file that is part of another's load."""
        self.files.append(Delivered(wave, key, modified, content))


GATE_TAP = Table(
    "EDW.GATE_TAP",
    (
        Column("STATION_CODE", "STRING", length=10, key=1),
        Column("TAP_NBR", "INT8", key=2),
        Column("GATE_POSITION", "INT1"),
        Column("ZONE_ID", "INT2"),
        Column("DEVICE_ID", "INT4"),
        Column("MESSAGE_ID", "UINT4"),
        Column("TOKEN_HASH", "UINT8"),
        Column("RIDER_CLASS", "NUMERIC", precision=9),
        Column("FARE_DUE", "NUMERIC", precision=10, scale=2),
        Column("CARRIED_BALANCE", "NUMERIC", precision=24, scale=4),
        Column("EXTERNAL_REF", "NUMERIC"),
        Column("LATITUDE", "REAL8"),
        Column("SIGNAL_STRENGTH", "REAL4"),
        Column("IS_TRANSFER", "BOOLEAN"),
        Column("SERVICE_DAY", "DATE"),
        Column("GATE_OPENED", "TIME"),
        Column("TAPPED_DTM", "DATETIME", length=27, scale=7),
        Column("CARD_DIGEST", "BYTES", length=8),
        Column("RIDER_NOTE", "WSTRING", length=200),
        Column("RECEIPT", "CLOB"),
    ),
)
SAMPLE = Table(
    "EDW.SAMPLE",
    (
        Column("SAMPLE_ID", "INT4", key=1),
        Column("SAMPLE_NAME", "STRING", length=100),
        Column("EDW_INSERTED_DTM", "DATETIME", length=27, scale=7),
        Column("EDW_UPDATED_DTM", "DATETIME", length=27, scale=7),
    ),
)
KIOSK_STATE = Table(
    "EDW.KIOSK_STATE",
    (
        Column("KIOSK_ID", "INT4", key=1),
        Column("HALL", "STRING", length=60),
        Column("STATE", "STRING", length=20),
        Column("CHECKED_DTM", "DATETIME", length=27, scale=7),
    ),
)
PAPER_LEVEL = Column("PAPER_LEVEL", "INT2")
TRANSFER_SLIP = Table(
    "EDW.TRANSFER_SLIP",
    (Column("SLIP_ID", "INT4", key=1), Column("ZONE", "STRING", length=4), Column("FARE", "NUMERIC", precision=6, scale=2)),
)
DEPOT_ROUND = Table("EDW.DEPOT_ROUND", (Column("ROUND_ID", "INT4", key=1), Column("DEPOT", "STRING", length=20)))
PAPER_LEDGER = Table("EDW.PAPER_LEDGER", (Column("PAGE_ID", "INT4", key=1), Column("ENTRY", "STRING", length=50)))

CHANGE_COLUMNS = (
    Column("header__change_seq", "STRING", length=35),
    Column("header__change_oper", "STRING", length=1),
    Column("header__timestamp", "DATETIME", length=26, scale=6),
)
STATIONS = ("HARB", "MILL", "ORCH", "QUAY", "FERN")


class Ods:
    """Deliveries of one replicated table, and the state that they make."""

    def __init__(self, deliveries: Deliveries, table: Table) -> None:
        self.deliveries = deliveries
        self.table = table
        self.snapshot = ""
        self.state: dict[Row, Row] = {}

    def starts(self, snapshot: datetime) -> "Ods":
        """Begin anew, as Qlik does when it is restarted."""
        self.snapshot = _name(snapshot)
        self.state = {}
        return self

    def load(self, wave: str, name: str, modified: datetime, rows: Sequence[Row], table: Table | None = None, **how: Any) -> None:
        """A part of a full load."""
        self.state |= {self.table.key_of(row): row for row in rows}
        self._deliver(wave, f"cubic/ods_qlik/{self.table.source}/{name}", modified, table or self.table, rows, "data", **how)

    def change(self, wave: str, modified: datetime, changes: Sequence[tuple[str, Row]], table: Table | None = None, **how: Any) -> None:
        """A file of changes, named by the moment it was written."""
        table = table or self.table
        seconds = modified - timedelta(seconds=20)
        rows: list[Row] = []
        for position, (operation, row) in enumerate(changes):
            moment = seconds + timedelta(milliseconds=37 * position)
            sequence = f"{moment:%Y%m%d%H%M%S}{moment.microsecond // 10000:02d}{position + 1:019d}"
            rows.append((sequence, operation, f"{moment:%Y-%m-%d %H:%M:%S.%f}", *row))
            if operation == "D":
                self.state.pop(table.key_of(row), None)
            elif operation != "B":
                self.state[table.key_of(row)] = row
        written = Table(table.source, (*CHANGE_COLUMNS, *table.columns))
        name = f"{modified:%Y%m%d-%H%M%S}{modified.microsecond // 1000:03d}"
        self._deliver(wave, f"cubic/ods_qlik/{table.source}__ct/{name}", modified, written, rows, "changes", **how)

    def _deliver(
        self,
        wave: str,
        stem: str,
        modified: datetime,
        table: Table,
        rows: Sequence[Row],
        content: str,
        *,
        newline: bool = True,
        described: bool = True,
        **fate: Any,
    ) -> None:
        dataset = self.table.dataset + ("__ct" if content == "changes" else "")
        fate = {"partition": self.snapshot, "rows_in": len(rows)} | ({} if described else {"codes": ["metadata_missing"]}) | fate
        self.deliveries.add(wave, f"{stem}.csv.gz", modified, gz(csv(table.columns, rows, newline=newline)), dataset, **fate)
        if described:
            self.deliveries.beside(wave, f"{stem}.dfm", modified, dfm(table, stem, modified, len(rows), content))

    def current(self, wave: str, table: Table | None = None) -> None:
        """Note what the current table holds after a wave."""
        columns = (table or self.table).columns
        rows = [
            {column.name.lower(): column.value(text) for column, text in zip(columns, (*row, *(None,) * len(columns)), strict=False)}
            for row in self.state.values()
        ]
        told = {"snapshot": self.snapshot, "row_count": len(rows)} | ({"rows": rows} if len(rows) <= _MOST_ROWS else {})
        self.deliveries.current.setdefault(wave, {})[self.table.dataset] = told


def csv(columns: Iterable[Column], rows: Iterable[Row], *, newline: bool = True) -> bytes:
    """Comma-separated values as Qlik writes them: quotes doubled, nothing for null, table columns in capitals."""
    lines = [",".join(column.name for column in columns), *(",".join(map(_field, row)) for row in rows)]
    return ("\n".join(lines) + ("\n" if newline else "")).encode()


def _field(text: str | None) -> str:
    if text is None:
        return ""
    return '"' + text.replace('"', '""') + '"' if not text or set(text) & set(',"\n') else text


def gz(raw: bytes) -> bytes:
    """A gzip file of stored blocks: what compresses differs from one zlib to the next, and these bytes must not."""
    pieces = [raw[start : start + 0xFFFF] for start in range(0, len(raw), 0xFFFF)] or [b""]
    blocks = b"".join(
        struct.pack("<BHH", position == len(pieces), len(piece), len(piece) ^ 0xFFFF) + piece for position, piece in enumerate(pieces, 1)
    )
    return b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff" + blocks + struct.pack("<II", zlib.crc32(raw), len(raw))


def dfm(table: Table, stem: str, modified: datetime, records: int, content: str) -> bytes:
    """What Qlik writes beside a data file."""
    schema, _, name = table.source.partition(".")
    folder, _, file = stem.rpartition("/")
    changes = content == "changes"
    written = f"{modified:%Y-%m-%dT%H:%M:%S}.{modified.microsecond // 1000:03d}"
    return _dump(
        {
            "dfmVersion": "1.1",
            "taskInfo": {
                "name": "SYNTHETIC_EDW",
                "sourceEndpoint": "SYNTHETIC_SOURCE",
                "sourceEndpointType": "Oracle",
                "sourceEndpointUser": "",
                "replicationServer": "replicate.example",
                "operation": "replicateChanges" if changes else "fullLoad",
            },
            "fileInfo": {
                "name": f"{file}.csv",
                "extension": "gz",
                "location": folder,
                "startWriteTimestamp": written,
                "endWriteTimestamp": written,
                "firstTransactionTimestamp": written if changes else None,
                "lastTransactionTimestamp": written if changes else None,
                "content": content,
                "recordCount": records,
                "errorCount": 0,
            },
            "formatInfo": {
                "format": "delimited",
                "options": {"fieldDelimiter": ",", "recordDelimiter": "\n", "nullValue": "", "quoteChar": '"', "escapeChar": ""},
            },
            "dataInfo": {
                "sourceSchema": schema,
                "sourceTable": name,
                "targetSchema": schema,
                "targetTable": f"{name}__ct" if changes else name,
                "tableVersion": 1,
                "columns": [
                    {
                        "ordinal": ordinal,
                        "name": column.name,
                        "type": column.type,
                        "length": column.length,
                        "precision": column.precision,
                        "scale": column.scale,
                        "primaryKeyPos": column.key,
                    }
                    for ordinal, column in enumerate(table.columns, 1)
                ],
            },
        }
    )


def _dump(content: Any) -> bytes:
    """JSON of which the innermost parts take a line each."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    return text.encode() + b"\n"


def _name(snapshot: datetime) -> str:
    return f"{snapshot:%Y%m%dT%H%M%SZ}"


def sample(deliveries: Deliveries) -> None:
    table = Ods(deliveries, SAMPLE).starts(FIRST)
    one = (
        ("1", "Lantern Street", "2025-12-01 11:20:30.4444444", None),
        ("2", "Old, crooked bridge", "2025-12-01 11:20:31.0000001", "2025-12-24 08:00:00.9999999"),
        ("3", 'Stop "K"', "2025-12-02 00:00:00.0000000", None),
    )
    table.load("good", "LOAD1", FIRST, one)
    two = (("4", "Quay 🚋", "2025-12-03 23:59:59.1234567", None), ("5", "", "2025-12-04 05:06:07.0000000", None))
    table.load("good", "LOAD2", FIRST + timedelta(seconds=2), two, newline=False)
    moment = FIRST + timedelta(hours=1, minutes=15, milliseconds=123)
    updated = ("2", "Straight bridge", "2025-12-01 11:20:31.0000001", "2026-01-05 07:14:40.2500000")
    table.change(
        "good", moment, [("I", ("6", "New halt", "2026-01-05 07:14:39.0000000", None)), ("B", one[1]), ("U", updated)], newline=False
    )
    # Without a .dfm, so its rows are not counted against one; the registry has the types.
    nameless = ("4", None, "2025-12-03 23:59:59.1234567", "2026-01-05 07:20:00.0000000")
    table.change("good", moment + timedelta(minutes=6), [("U", nameless), ("D", one[2])], described=False)
    table.current("good")


def gate_taps(deliveries: Deliveries) -> None:
    first, second = FIRST + timedelta(minutes=30), SECOND
    table = Ods(deliveries, GATE_TAP).starts(first)
    taps = list(_taps("first restart", 1001, 24, first.date()))
    # Of a composite key one part may be null; texts may hold what would end a field or a line.
    taps[3] = (None, *taps[3][1:18], "no station, two lines:\nsecond", taps[3][19])
    taps[4] = (*taps[4][:18], "", 'RECEIPT\n"paid", thanks')
    taps[5] = (*taps[5][:7], *(None,) * 13)
    doubtful = {"codes": ["type_unknown"]}
    table.load("good", "LOAD00000001", first, taps[:14], **doubtful)
    # The parts are written side by side: this one was finished before the marker, the next within its second.
    table.load("good", "LOAD00000002", first - timedelta(seconds=2), taps[14:20], **doubtful)
    table.load("good", "LOAD00000003", first, taps[20:23], newline=False, **doubtful)
    moment = first + timedelta(minutes=90, milliseconds=250)
    emptied = (*taps[0][:8], None, *taps[0][9:18], None, taps[0][19])
    table.change(
        "good",
        moment,
        [("I", taps[23]), ("B", taps[0]), ("U", emptied), ("D", taps[1]), ("B", taps[3]), ("U", (*taps[3][:8], "4.75", *taps[3][9:]))],
        **doubtful,
    )
    reborn = (*taps[2][:8], "0.00", *taps[2][9:18], "reborn", taps[2][19])
    table.change("good", moment + timedelta(minutes=15), [("D", taps[2]), ("I", reborn), ("D", taps[14])], **doubtful)
    table.current("good")

    # A change of the first snapshot that comes with the files of the second.
    table.change("later", second - timedelta(seconds=1), [("U", (*taps[6][:8], "9.99", *taps[6][9:]))], **doubtful)
    table.starts(second)
    taps = [*taps[6:12], *_taps("second restart", 2001, 8, second.date())]
    table.load("later", "LOAD00000001", second, taps[:9], **doubtful)
    table.load("later", "LOAD00000002", second - timedelta(seconds=3), taps[9:], **doubtful)
    moment = second + timedelta(hours=1, milliseconds=125)
    table.change("later", moment, [("U", (*taps[0][:8], "1.25", *taps[0][9:])), ("D", taps[13])], **doubtful)
    table.current("later")


def _taps(seed: str, first: int, count: int, day: date) -> Iterator[Row]:
    # Only Random.random(): it gives the same on every Python and C library.
    rng = Random(seed)
    for number in range(first, first + count):
        moment = datetime.combine(day, time(5)) + timedelta(milliseconds=int(rng.random() * 3_600_000))
        yield (
            STATIONS[int(rng.random() * len(STATIONS))],
            str(number),
            str(int(rng.random() * 12) + 1),
            str(int(rng.random() * 900) - 100),
            str(int(rng.random() * 2_000_000_000)),
            str(int(rng.random() * 4_294_967_295)),
            str(18_000_000_000_000_000_000 + int(rng.random() * 400_000_000_000_000_000)),
            str(int(rng.random() * 9)),
            f"{int(rng.random() * 1200) / 100:.2f}",
            f"{int(rng.random() * 10**9)}{int(rng.random() * 10**9):09d}.{int(rng.random() * 10_000):04d}",
            f"{int(rng.random() * 10**6)}.5",
            f"{42 + int(rng.random() * 10**6) / 10**6:.6f}",
            f"{-int(rng.random() * 400) / 4:.2f}",
            ("1", "0", "true", "false")[number % 4],
            day.isoformat(),
            f"{moment:%H:%M:%S}",
            f"{moment:%Y-%m-%d %H:%M:%S.%f}{int(rng.random() * 10)}",
            f"{int(rng.random() * 2**32):08X}{int(rng.random() * 2**32):08X}",
            None if rng.random() < 0.4 else f"note {number}, 🎫" if rng.random() < 0.3 else f"note {number}",
            None if rng.random() < 0.6 else f"RECEIPT {number}\n{'-' * 12}\npaid",
        )


def kiosks(deliveries: Deliveries) -> None:
    start = FIRST + timedelta(hours=1)
    table = Ods(deliveries, KIOSK_STATE).starts(start)
    wider = KIOSK_STATE.with_column(PAPER_LEVEL)
    rows: list[Row] = [(str(number), f"Hall {number % 3}", "ok", f"2026-01-05 06:5{number}:00.0000000") for number in range(1, 7)]
    table.load("good", "LOAD00000001", start, rows[:4])
    table.load("good", "LOAD00000002", start + timedelta(seconds=20), [(*row, "55") for row in rows[4:]], wider)
    checked = ("1", "Hall 1", "jammed", "2026-01-05 08:59:00.0000000")
    table.change("good", start + timedelta(hours=2), [("U", checked)])
    mended = ("1", "Hall 1", "ok", "2026-01-05 09:59:00.0000000", "80")
    added = ("7", "Hall 1", "ok", "2026-01-05 09:58:00.0000000", "100")
    table.change("good", start + timedelta(hours=3), [("U", mended), ("I", added)], wider)
    table.current("good", wider)


def slips(deliveries: Deliveries) -> None:
    """A good table, and what spoils files of it."""
    start = FIRST + timedelta(hours=1, minutes=30)
    table = Ods(deliveries, TRANSFER_SLIP).starts(start)
    rows = list(_slips(1, 6))
    table.load("good", "LOAD00000001", start, rows)
    table.current("good")

    def spoiled(name: str, content: bytes, codes: list[str], described: Table = TRANSFER_SLIP, records: int = 4, **fate: Any) -> None:
        stem, modified = f"cubic/ods_qlik/{TRANSFER_SLIP.source}/LOAD{name}", AFTER + timedelta(seconds=int(name, 16) - 0xB0)
        fate = {"partition": table.snapshot, "codes": codes, "status": "errored"} | fate
        deliveries.add("bad", f"{stem}.csv.gz", modified, content, TRANSFER_SLIP.dataset, **fate)
        deliveries.beside("bad", f"{stem}.dfm", modified, dfm(described, stem, modified, records, "data")[: 400 if records < 0 else None])

    raw = csv(TRANSFER_SLIP.columns, _slips(101, 4))
    good = gz(raw)
    less = Table(TRANSFER_SLIP.source, TRANSFER_SLIP.columns[:2])
    more = TRANSFER_SLIP.with_column(Column("CLERK", "STRING", length=20))
    spoiled("000000B0", b"", ["empty_file"])
    spoiled("000000B1", good[: len(good) // 2], ["gzip_truncated"])
    spoiled("000000B2", good[:-8] + bytes([good[-8] ^ 0xFF]) + good[-7:], ["gzip_corrupt"])
    spoiled("000000B3", raw, ["not_gzip"])
    spoiled("000000B4", gz(csv(more.columns, [(*row, "Ada") for row in _slips(101, 4)])), ["schema_changed"], more)
    spoiled("000000B5", gz(csv(less.columns, [row[:2] for row in _slips(101, 4)])), ["schema_changed"], less)
    spoiled("000000B6", gz(raw.replace(b"FARE", b"ZONE", 1)), ["header_unreadable"])
    spoiled("000000B7", gz(raw.replace(b",B", b",\xc4", 1)), ["not_utf8"])
    spoiled("000000B8", good, ["row_count_differs"], records=5)
    spoiled("000000B9", gz(raw.replace(b",B", b",x,B", 1)), ["too_many_rejected_rows", "field_count"])
    free = [(*row[:2], "free") if position % 2 else row for position, row in enumerate(_slips(101, 4))]
    spoiled("000000BA", gz(csv(TRANSFER_SLIP.columns, free)), ["too_many_rejected_rows", "not_a_decimal"])
    spoiled("000000BB", good, ["metadata_unreadable"], records=-1)
    # One bad row of very many is left out, and the file loaded.
    many = list(_slips(2001, 1200))
    many[700] = (*many[700][:2], "free")
    counts = {"status": "archived", "rows_in": 1200, "rows_rejected": 1}
    spoiled("000000BC", gz(csv(TRANSFER_SLIP.columns, many)), ["not_a_decimal"], records=1200, **counts)
    stem, modified = f"cubic/ods_qlik/{TRANSFER_SLIP.source}/LOAD000000BD", AFTER + timedelta(seconds=13)
    spoiled("000000BE", gz(csv(less.columns, [row[:2] for row in _slips(101, 4)])), ["header_differs"])
    spoiled("000000BF", gz(raw.replace(b",D", b',"D', 1)), ["unclosed_quote"])
    fate: Json = {"partition": table.snapshot, "codes": ["unknown_file_type"]}
    deliveries.add("bad", f"{stem}.txt", modified, raw, TRANSFER_SLIP.dataset, "errored", **fate)
    table.state |= {table.table.key_of(row): row for row in (*many[:700], *many[701:])}
    table.current("bad")


def _slips(first: int, count: int) -> Iterator[Row]:
    return ((str(number), f"{'ABCD'[number % 4]}{number % 7}", f"{number % 40 / 8:.2f}") for number in range(first, first + count))


def unplaced(deliveries: Deliveries) -> None:
    """What has nowhere to go yet: changes without a snapshot, a table that is switched off, one that nobody has registered."""
    unread: Json = {"status": "ready", "rows_in": 0}
    north, south = ("1", "North yard"), ("1", "South yard")
    waits = Ods(deliveries, DEPOT_ROUND)
    fate = unread | {"partition": "pending", "waiting_for": "snapshot"}
    waits.change("bad", AFTER + timedelta(minutes=4), [("I", north), ("U", south)], **fate)
    Ods(deliveries, PAPER_LEDGER).starts(AFTER).load("bad", "LOAD00000001", AFTER, [("1", "two boxes of tickets")], **unread)
    key = "cubic/ods_qlik/EDW.NOBODY_TOLD_US/LOAD00000001.csv.gz"
    deliveries.add("bad", key, AFTER, gz(csv(DEPOT_ROUND.columns, [north])), "unclassified", **unread, waiting_for="dataset")


def feeds(deliveries: Deliveries) -> None:
    columns = [Column(name, "STRING") for name in ("sample_id", "sample_name", "sample_count")]
    folder, dataset = "cubic/dmap/agg_sample", "cubic__dmap__agg_sample"
    third = gz(csv(columns, [("1", "taps", "1204"), ("2", "transfers", "88")]))
    morning = FIRST + timedelta(hours=9, seconds=10)
    deliveries.add("good", f"{folder}/agg_sample_20260103.csv.gz", morning, third, dataset, rows_in=2)
    fourth = [("1", "taps", "1311"), ("2", "transfers", "91"), ("3", "refunds, all", None)]
    deliveries.add("good", f"{folder}/agg_sample_20260104.csv.gz", morning, gz(csv(columns, fourth)), dataset, rows_in=3)
    deliveries.add("good", f"{folder}/agg_sample_20260105.csv", morning, csv(columns, [("1", "taps", "1290")]), dataset, rows_in=1)
    # Issued again: once with the same content, once with another, which replaces.
    again = morning + timedelta(days=1)
    deliveries.add("later", f"{folder}/agg_sample_20260103.csv.gz", again, third, dataset, duplicate=True)
    fourth[2] = ("3", "refunds, all", "17")
    deliveries.add("later", f"{folder}/agg_sample_20260104.csv.gz", again, gz(csv(columns, fourth)), dataset, rows_in=3)
    short = gz(csv(columns[:2], [("1", "taps")]))
    deliveries.add("bad", f"{folder}/agg_sample_20260106.csv.gz", AFTER, short, dataset, "errored", codes=["schema_changed"])
    deliveries.add("bad", f"{folder}/agg_sample_20260107.json", AFTER, b"{}\n", dataset, "errored", codes=["unknown_file_type"])

    names = ("date", "service", "day_of_week", "rider_class_name", "fare_product_type", "ride_type_name", "count", "weekend")
    rng = Random("fare products")
    rows = [
        (day, service, weekday, rider, product, "tap", str(int(rng.random() * 5000)), weekend)
        for day, weekday, weekend in (("2026-01-03", "Saturday", "1"), ("2026-01-04", "Sunday", "1"), ("2026-01-05", "Monday", "0"))
        for service in ("Tram", "Harbour ferry")
        for rider, product in (("Adult", "Single"), ("Senior", "Day pass"))
    ]
    key = "cubic/dmap/agg_daily_fareprod/agg_daily_fareprod_20260105.csv.gz"
    content = gz(csv([Column(name, "STRING") for name in names], rows))
    deliveries.add("good", key, morning, content, "cubic__dmap__agg_daily_fareprod", rows_in=len(rows))
    # Archived unread.
    content = gz(b"id,event_type_name\n1,door opened\n")
    deliveries.add("good", "cubic/dmap/device_event/device_event_20260104.csv.gz", morning, content, "cubic__dmap__device_event")


def batches(deliveries: Deliveries) -> None:
    """Two batches of a topic; the second begins with what the first ended with."""
    folder, dataset, start = "cubic/kafka/sample", "cubic__kafka__sample", FIRST + timedelta(hours=3)

    def message(partition: int, offset: int) -> bytes:
        value: Json | None = {"gate": offset % 9, "fare": "2.40", "trace": 9_007_199_254_740_993 + offset, "path": [{"hall": "é"}]}
        moment = FIRST + timedelta(hours=2, seconds=offset)
        envelope = {
            "topic": "sample",
            "partition": partition,
            "offset": offset,
            "timestamp": f"{moment:%Y-%m-%dT%H:%M:%S}.250Z",
            "key": f"gate-{offset % 9}",
            "value": None if offset == 207 else value,
        }
        return json.dumps(envelope, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"

    first = b"".join(message(0, offset) for offset in range(200, 210)) + b"".join(message(1, offset) for offset in range(70, 73))
    second = b"".join(message(0, offset) for offset in range(206, 218)) + message(1, 72) + message(1, 73)
    deliveries.add("good", f"{folder}/{_short_uuid('first')}.json", start, first, dataset, rows_in=13)
    key = f"{folder}/{_short_uuid('second')}.json.gz"
    deliveries.add("good", key, start + timedelta(hours=1), gz(second), dataset, rows_in=14, rows_unchanged=5)
    broken = message(0, 300) + message(0, 301)[:40] + b"\n" + message(0, 302)
    codes = ["too_many_rejected_rows", "not_json"]
    deliveries.add("bad", f"{folder}/{_short_uuid('broken')}.json", AFTER, broken, dataset, "errored", codes=codes)


def _short_uuid(seed: str) -> str:
    letters = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    rng = Random(seed)
    return "".join(letters[int(rng.random() * len(letters))] for _ in range(22))


def deliveries() -> Deliveries:
    """Everything, in a fixed order."""
    made = Deliveries()
    for part in (sample, gate_taps, kiosks, slips, unplaced, feeds, batches):
        part(made)
    return made


def contents() -> dict[str, bytes]:
    """Every generated file of the folder by its path in it."""
    made = deliveries()
    files = {f"{each.wave}/{each.key}": each.content for each in made.files}
    assert len(files) == len(made.files)
    times = {f"{each.wave}/{each.key}": each.modified.isoformat().replace("+00:00", "Z") for each in made.files}
    expected = {
        wave: {
            "files": {each.key: each.fate for each in made.files if each.wave == wave and each.fate is not None},
            "current": made.current.get(wave, {}),
        }
        for wave in WAVES
    }
    files["times.json"] = _lines(dict(sorted(times.items())))
    files["expected.json"] = _lines(expected, depth=3)
    return files


def _lines(content: Any, depth: int = 1, indent: str = "") -> bytes:
    """JSON with a line for each member down to some depth, so that a difference shows where it is."""

    def written(value: Any, left: int, indent: str) -> str:
        if not left or not isinstance(value, dict | list) or not value:
            return json.dumps(value, ensure_ascii=False)
        inner = indent + " "
        parts = [written(each, left, inner) for each in value] if isinstance(value, list) else []
        if isinstance(value, dict):
            parts = [f"{json.dumps(name)}: {written(each, left - 1, inner)}" for name, each in value.items()]
        opened, closed = "[]" if isinstance(value, list) else "{}"
        return f"{opened}\n{inner}" + f",\n{inner}".join(parts) + f"\n{indent}{closed}"

    return written(content, depth, indent).encode() + b"\n"


def place(target: Path) -> None:
    """Copy the deliveries to a folder, with their modification times."""
    for each in deliveries().files:
        path = target / each.wave / each.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(each.content)
        moment = (each.modified - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1) * 1000
        os.utime(path, ns=(moment, moment))


def main() -> int:
    """Write the folder, or with `--check` say what in it is not as it would be written; the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the folder differs")
    parser.add_argument("--place", metavar="FOLDER", type=Path, help="copy the deliveries to a folder, with their modification times")
    asked = parser.parse_args()
    if asked.place:
        place(asked.place)
        return 0
    wanted = {FOLDER / name: content for name, content in contents().items()}
    present = {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file() and path != FOLDER / "tables.yaml"}
    differing = sorted(path for path in wanted.keys() | present.keys() if wanted.get(path) != present.get(path))
    for path in differing:
        print(f"{'differs' if asked.check else 'updated'}: {path.relative_to(FOLDER)}")
        if not asked.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(wanted[path]) if path in wanted else path.unlink()
    return 1 if asked.check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
