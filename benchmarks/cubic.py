"""Cubic files to Parquet: CPU beside `gzip -dc` and beside what else would do it, on a table like EDW.USE_TRANSACTION.

Each reader runs in a process of its own; what its start costs is measured apart and taken off. `gzip -dc` runs before and after each of
ours, for the machine's speed drifts: ratios are to the mean of the two.
"""

import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.cubic_load import whole_way
from benchmarks.measure import peak_memory
from benchmarks.results import Result, Row, met
from ingestion_dagster.cubic import dfm
from ingestion_dagster.cubic.columns import Column
from ingestion_dagster.cubic.convert import convert_csv
from ingestion_dagster.cubic.sink import Outputs, Tolerance

MEGABYTES, QUICK = 520, 60
SMALL = 300
PEERS = Path(sys.prefix) / "bench"
TYPES = {
    "use_txn_id": "bigint",
    "transit_account_id": "bigint",
    "device_id": "int",
    "txn_status": "int",
    "transaction_dtm": "timestamp",
    "fare_due": "decimal(10,2)",
    "benefit_value": "int",
    "media_type_name": "string",
    "stop_point_name": "string",
    "serial_nbr": "string",
    "operating_day": "date",
    "is_transfer": "int",
    "latitude": "double",
    "note": "string",
    "token": "string",
    "edw_inserted_dtm": "timestamp",
    "edw_updated_dtm": "timestamp",
}


def quoted(text: str | None) -> str | None:
    """As Qlik writes text."""
    return text if text is None else '"' + text.replace('"', '""') + '"'


MEDIA = pa.array([*map(quoted, ("Smart Card", "Paper Ticket", "Bank Card")), None])
NOTES = pa.array([*map(quoted, ('He said "no", then left', "free text, with 🚋", "two\nlines", "")), *["plain text"] * 16, *[None] * 80])
STOPS = pa.array([quoted(f"Stop {number}, Street {number * 7}") for number in range(900)])


def rows(dice: np.random.Generator, first: int, count: int, width: int = len(TYPES)) -> bytes:
    """So many rows of the first columns, as they are in the file."""

    def moments() -> pa.Array:
        seconds = pa.array(1_640_995_200 + dice.integers(0, 31_536_000, count)).cast(pa.timestamp("s"))
        fraction = pc.utf8_lpad(pa.array(dice.integers(0, 10**7, count)).cast(pa.string()), 7, "0")
        return pc.binary_join_element_wise(seconds.cast(pa.string()), fraction, ".")

    def picked(values: pa.Array) -> pa.Array:
        return values.take(pa.array(dice.integers(0, len(values), count)))

    def sometimes(values: pa.Array, share: float) -> pa.Array:
        return pc.if_else(pa.array(dice.random(count) < share), values, None)

    columns: list[pa.Array] = [
        pa.array(np.arange(10**9 + first, 10**9 + first + count)),
        pa.array(dice.integers(10**11, 10**12, count)),
        pa.array(dice.integers(1, 4000, count)),
        pa.array(dice.integers(0, 6, count)),
        moments(),
        pa.array([f"{cents / 100:.2f}" for cents in dice.integers(0, 1000, count).tolist()]),
        sometimes(pa.array(dice.integers(1, 40, count)), 0.8),
        picked(MEDIA),
        picked(STOPS),
        pa.array([f"{number:X}" for number in dice.integers(0, 2**40, count).tolist()]),
        pa.array(dice.integers(18_993, 19_358, count).astype(np.int32)).cast(pa.date32()).cast(pa.string()),
        pa.array(dice.integers(0, 2, count)),
        pa.array(42 + dice.integers(0, 10**6, count) / 10**6),
        picked(NOTES),
        pa.array([f"{number:x}" for number in dice.integers(0, 2**60, count).tolist()]),
        moments(),
        sometimes(moments(), 0.6),
    ]
    texts = [pc.fill_null(column.cast(pa.string()), "") for column in columns[:width]]
    return "\n".join([*pc.binary_join_element_wise(*texts, ",").to_pylist(), ""]).encode()


def header(width: int = len(TYPES)) -> bytes:
    """The first line."""
    return (",".join(list(TYPES)[:width]).upper() + "\n").encode()


def generate(path: Path, megabytes: int) -> tuple[int, int]:
    """Write the file, the same for the same size; its rows, and its bytes before compression."""
    dice = np.random.default_rng(7)
    written = size = 0
    with path.open("wb") as target, subprocess.Popen(["gzip", "-6"], stdin=subprocess.PIPE, stdout=target) as packer:
        assert packer.stdin is not None
        packer.stdin.write(header())
        while size < megabytes * 1_000_000:
            content = rows(dice, written, 50_000)
            packer.stdin.write(content)
            written, size = written + 50_000, size + len(content)
    return written, size


def unpacked(path: Path) -> float:
    """CPU seconds of `gzip -dc`."""
    with Path(os.devnull).open("w") as nowhere, subprocess.Popen(["gzip", "-dc", str(path)], stdout=nowhere) as process:
        _pid, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, process.returncode
    return usage.ru_utime + usage.ru_stime


def beside_gzip(path: Path, work: Callable[[], float]) -> tuple[float, float]:
    """CPU seconds that work took, and that `gzip -dc` takes around it."""
    before = unpacked(path)
    took = work()
    return took, (before + unpacked(path)) / 2


@dataclass(frozen=True, slots=True)
class Alone:
    """A conversion in a process of its own: CPU seconds after its start, memory after the start and at most, in bytes."""

    cpu: float
    started: int
    peak: int


def ours(path: Path, area: str, folder: Path) -> "subprocess.Popen[bytes]":
    """A process that converts a file with this project; `told` reads what it says."""
    return subprocess.Popen([sys.executable, "-m", "benchmarks.cubic", str(path), area, str(folder)], stdout=subprocess.PIPE)


def told(process: "subprocess.Popen[bytes]") -> Alone:
    """What `ours` measured of itself."""
    return Alone(*json.loads(process.communicate()[0]))


def peer(name: str, *rest: str) -> float:
    """CPU seconds that another takes with these arguments, its start included. Raises CalledProcessError."""
    command = [str(PEERS / "bin" / "python"), str(Path(__file__).with_name("cubic_peers.py")), name, *rest]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return float(answer.stdout.split()[-1])


def pieces(path: Path) -> Iterator[bytes]:
    """A file as a store gives it."""
    with path.open("rb") as source:
        while piece := source.read(1 << 20):
            yield piece


def convert(path: str, area: str, folder: str) -> None:
    """What `ours` asks of its process."""
    started, begun = peak_memory(), time.process_time()
    target = Path(folder)
    convert_csv(
        pieces(Path(path)),
        lambda names: [Column(name, TYPES[name]) for name in names],
        Outputs(target / "raw.parquet", target / "typed.parquet" if area == "both" else None, target / "rejects.parquet"),
        dialect=dfm.Dialect(),
        compressed=True,
        expected_rows=None,
        tolerance=Tolerance(),
    )
    print(json.dumps([time.process_time() - begun, started, peak_memory()]))


def side_by_side(path: Path, home: Path) -> list[Alone]:
    """Two conversions at the same time."""
    folders = [home / f"two_{number}" for number in range(2)]
    for folder in folders:
        folder.mkdir()
    return [told(process) for process in [ours(path, "both", folder) for folder in folders]]


def small_files(folder: Path) -> list[Path]:
    """Files of 42 rows, 6 kB each, with their `.dfm`."""
    folder.mkdir()
    kinds = {"int": "INT4", "bigint": "INT8", "double": "REAL8", "date": "DATE", "timestamp": "DATETIME", "string": "STRING"}
    names = list(TYPES)[:9]
    described: list[dict[str, Any]] = [
        {"name": name.upper(), "type": kinds.get(TYPES[name], "NUMERIC"), "precision": 10, "scale": 2, "primaryKeyPos": 0} for name in names
    ]
    dice = np.random.default_rng(8)
    paths = []
    for number in range(SMALL):
        paths.append(folder / f"LOAD{number:08d}.csv.gz")
        paths[-1].write_bytes(gzip.compress(header(9) + rows(dice, number * 50, 50, 9)))
        content = {"fileInfo": {"recordCount": 50}, "dataInfo": {"sourceSchema": "EDW", "sourceTable": "USE", "columns": described}}
        paths[-1].with_suffix("").with_suffix(".dfm").write_text(json.dumps(content))
    return paths


def conversion_alone(paths: list[Path]) -> float:
    """CPU seconds for each of the small files, read, converted raw and typed, nothing else."""
    target = paths[0].parent / "converted"
    target.mkdir()

    def one(path: Path) -> None:
        described = dfm.parse(path.with_suffix("").with_suffix(".dfm").read_bytes())
        known = {column.name: column for column in described.columns}
        outputs = Outputs(target / f"{path.stem}.raw", target / f"{path.stem}.typed", target / f"{path.stem}.rejects")
        convert_csv(
            pieces(path),
            lambda names: [known[name] for name in names],
            outputs,
            dialect=described.dialect,
            compressed=True,
            expected_rows=described.record_count,
            tolerance=Tolerance(),
        )

    one(paths[0])
    started = time.process_time()
    for path in paths:
        one(path)
    return (time.process_time() - started) / len(paths)


@dataclass(frozen=True, slots=True)
class Small:
    """A way to load small files: it returns CPU seconds per file, of which so many are allowed."""

    title: str
    measure: Callable[[list[Path]], float]
    allowed: float


SMALL_WAYS = [Small("converted, nothing else", conversion_alone, 0.0017), Small("on their whole way", whole_way, 0.003)]


def main(*, quick: bool = False) -> Result:
    """Print the tables; `quick` takes a smaller file and leaves out Spark."""
    with tempfile.TemporaryDirectory(dir=PEERS if PEERS.is_dir() else None) as folder:
        return _run(Path(folder), quick=quick)


def _run(home: Path, *, quick: bool) -> Result:
    path = home / "LOAD00000001.csv.gz"
    count, size = generate(path, QUICK if quick else MEGABYTES)
    print(
        f"cubic: {count} rows, {size / 1e6:.0f} MB of CSV in {path.stat().st_size / 1e6:.0f} MB (CPU seconds beyond the start, × gzip -dc)"
    )
    ratios = {}
    for area, title in (("raw", "ours: raw"), ("both", "ours: raw and typed, one parse")):
        tries = [beside_gzip(path, lambda area=area: told(ours(path, area, home)).cpu) for _ in range(2)]  # type: ignore[misc]
        took, floor = min(tries, key=lambda pair: pair[0] / pair[1])
        ratios[area] = took / floor
        _line(title, took, floor)
    _same_rows(home, count)
    beside: dict[tuple[str, str], float] = {}
    for name in ("polars", "duckdb", *(() if quick else ("spark",))):
        start = peer(name)
        for area in ("raw", "typed"):
            arguments = (name, str(path), area, str(home / f"{name}_{area}.parquet"), json.dumps(TYPES))
            took, floor = beside_gzip(path, lambda arguments=arguments, start=start: peer(*arguments) - start)  # type: ignore[misc]
            _line(f"{name}: {area}", took, floor)
            beside[name, area] = took / floor
    times = "× gzip -dc"
    found = [
        met(Row("raw, beside polars", ratios["raw"], times, beside["polars", "raw"], "polars", 1, limit=1.7)),
        Row("raw, beside DuckDB", ratios["raw"], times, beside["duckdb", "raw"], "DuckDB", 1, note="DuckDB accepts a wrong checksum"),
        met(
            Row(
                "raw and typed from one parse", ratios["both"], times, sum(beside["polars", area] for area in ("raw", "typed")),
                "polars, two reads", 1, limit=2.3,
            )
        ),
    ]  # fmt: skip
    both = side_by_side(path, home)
    at_start = f"{both[0].started / 1e6:.0f} MB each at the start"
    found.append(met(Row("two at a time: peak memory", sum(each.peak for each in both) / 1e6, "MB", limit=700, note=at_start)))
    paths = small_files(home / "small")
    mean = sum(each.stat().st_size for each in paths) // len(paths)
    for way in SMALL_WAYS:
        took = way.measure(paths) * 1000
        found.append(met(Row(f"small file, {way.title}", took, "CPU ms", limit=way.allowed * 1000, note=f"{len(paths)} of {mean} bytes")))
    return Result(f"A fare table of {size / 1e6:.0f} MB CSV, in gzip, to Parquet", found)


def _same_rows(home: Path, count: int) -> None:
    for area in ("raw", "typed"):
        metadata = pq.read_metadata(home / f"{area}.parquet")
        assert metadata.num_rows == count, (area, metadata.num_rows)


def _line(title: str, took: float, floor: float) -> None:
    print(f"  {title:<44} {took:6.2f}   {took / floor:5.2f} × ({floor:.2f})", flush=True)


if __name__ == "__main__":
    convert(*sys.argv[1:])
