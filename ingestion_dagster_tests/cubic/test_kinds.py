"""What every kind of stream promises, whichever it is: by these a new one is judged before it meets a file of anybody's."""

import gzip
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ingestion_dagster.cubic import table_batch
from ingestion_dagster.cubic.columns import Column
from ingestion_dagster.cubic.kinds import KINDS
from ingestion_dagster.cubic.registry import CubicTable, parse_registry
from ingestion_dagster.cubic.schemas import Fit, Held, Offer, Version
from ingestion_dagster.cubic.sink import Outputs, Tolerance
from ingestion_dagster.cubic.stream_kind import Reading, Source, StreamKind, versioned_name
from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.errors import Problem, Refused, Transient
from ingestion_dagster.engine.ledger import Load, Status
from ingestion_dagster.engine.object_store import Changed, Missing, StoredObject
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster_tests.cubic import driver
from ingestion_dagster_tests.cubic import test_crashes as crashes
from ingestion_dagster_tests.cubic.conftest import TAPS, Cubic, csv, metadata, moment
from ingestion_dagster_tests.cubic.test_crashes import CHANGE_TYPES, TYPES, changes, records

one = crashes.one


@pytest.fixture
def database(one: Database) -> Database:
    """The module's database, emptied."""
    return driver.emptied(one)


LENIENT = Tolerance(rows=1000, share=1.0)
SEEN = datetime(2026, 1, 2, 6, tzinfo=UTC)


@dataclass(frozen=True)
class Sample:
    """A good file of a kind, what is beside it, and how its table is registered."""

    id: str
    kind: StreamKind
    key: str
    content: bytes
    table: CubicTable
    rows: int
    companion: bytes | None = None
    bad_row: bytes = b""
    """A line that is rejected."""

    @property
    def accept(self) -> Callable[[Offer], Fit]:
        return lambda offer: Fit(Version(self.table.columns or offer.columns, self.table.key))


def _tables(text: str) -> dict[str, CubicTable]:
    return dict(parse_registry(text).tables)


TABLES = _tables(
    """
tables:
  - {name: taps, prefix: cubic/ods_qlik/EDW.TAPS, kind: ods, key: [tap_id], columns: {tap_id: bigint, note: string, fare: 'decimal(10,2)'}}
  - {name: fares, prefix: cubic/dmap/agg_fares, kind: dmap, columns: {day: date, count: int}}
  - {name: events, prefix: cubic/kafka/events, kind: kafka}
"""
)
SAMPLES = [
    Sample(
        "ods",
        KINDS["ods"],
        f"{TAPS}/LOAD00000001.csv.gz",
        csv("1,one,2.40", '2,"a ""b"",\n🙂",', *[f"{n},x,1.00" for n in range(3, 40)]),
        TABLES["taps"],
        39,
        metadata(TYPES, 39, ("TAP_ID",)),
        b"\nseven,x,1.00",
    ),
    Sample(
        "ods changes",
        KINDS["ods"],
        f"{TAPS}__ct/20260102-070000000.csv.gz",
        changes("U,1,uno,2.50", "D,2,,"),
        TABLES["taps__ct"],
        2,
        metadata(CHANGE_TYPES, 2),
        b"\n20260102070000000000000000000009999,U,yesterday,1,x,1.00",
    ),
    Sample(
        "dmap",
        KINDS["dmap"],
        "cubic/dmap/agg_fares/agg_fares_20260101.csv.gz",
        csv("2026-01-01,1", "2026-01-02,2", header="day,count"),
        TABLES["fares"],
        2,
        bad_row=b"\n2026-13-01,1",
    ),
    Sample("kafka", KINDS["kafka"], "cubic/kafka/events/a.json.gz", records(*range(30)), TABLES["events"], 30, bad_row=b"\n{"),
]


@pytest.fixture(params=SAMPLES, ids=lambda sample: sample.id)
def sample(request: pytest.FixtureRequest) -> Sample:
    found: Sample = request.param
    return found


def load(key: str, version: str = "v1", **more: Any) -> Load:
    made = Load(
        1, "cubic", "any", "file:///landing", key, version, 10, SEEN, "20260102T060000Z", Status.INGESTING, 1, snapshot="20260102T060000Z"
    )
    return replace(made, **more)


def cut(content: bytes, size: int) -> Iterator[bytes]:
    yield from (content[start : start + size] for start in range(0, len(content), size))


def read(sample: Sample, folder: Path, chunks: Iterator[bytes] | None = None, *, key: str | None = None, **more: Any) -> Reading:
    folder.mkdir(exist_ok=True)
    source = Source(key or sample.key, chunks if chunks is not None else iter([sample.content]), sample.companion, **more)
    return sample.kind.read(source, sample.accept, sample.table.columns, outputs(folder), LENIENT)


def outputs(folder: Path) -> Outputs:
    return Outputs(folder / "raw", folder / "typed", folder / "rejects")


def written(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_there_is_a_sample_of_every_kind() -> None:
    assert {sample.kind.kind for sample in SAMPLES} == {*KINDS}
    assert all(KINDS[kind].kind == kind for kind in KINDS)


def test_what_may_be_read_is_told_by_the_name_alone(sample: Sample) -> None:
    assert sample.kind.is_data(sample.key)
    folder, _, name = sample.key.rpartition("/")
    stem = name.partition(".")[0]
    for suffix in sample.kind.suffixes:
        assert sample.kind.is_data(f"{folder}/{stem}{suffix}")
    for suffix in ("", ".gz", ".xlsx", ".csv.gz.part", ".json.tmp", ".dfm", ".CSV.GZ"):
        assert not sample.kind.is_data(f"{folder}/{stem}{suffix}"), suffix


def test_a_companion_is_no_load_and_a_data_file_is(sample: Sample) -> None:
    seen = StoredObject(sample.key, 10, SEEN, "v1")
    arrival = sample.kind.arrival(sample.table, seen)
    assert arrival is not None
    assert arrival.dataset == sample.table.name
    assert arrival.object == seen
    for companion in sample.kind.companions(sample.key):
        assert sample.kind.arrival(sample.table, replace(seen, key=companion)) is None
        assert sample.kind.companions(companion) == (), "a companion has none of its own"


@pytest.mark.parametrize("what", ["empty", "unknown suffix"])
def test_what_will_be_refused_waits_for_nothing(sample: Sample, what: str) -> None:
    """It would wait for ever if what it waits for never came."""
    key, size = (f"{sample.key}.xlsx", 10) if what == "unknown suffix" else (sample.key, 0)
    arrival = sample.kind.arrival(sample.table, StoredObject(key, size, SEEN, "v1"))
    assert arrival is not None
    assert arrival.waiting_for is None
    problem = table_batch.refused_on_sight(sample.kind, sample.table, arrival.object.key, arrival.object.size)
    assert problem is not None
    assert problem.code == ("empty_file" if what == "empty" else "unknown_file_type")


def places(sample: Sample, one: Load) -> list[str]:
    return [f"{folder(one)}/{versioned_name(one)}" for folder in (sample.kind.archive_folder, sample.kind.error_folder)]


def test_no_version_takes_the_place_of_another(sample: Sample) -> None:
    first, again = load(sample.key), load(sample.key, "v2", modified=SEEN + timedelta(days=1))
    kept = [*places(sample, first), *places(sample, again)]
    assert len({*kept[::2]}) == len({*kept[1::2]}) == 2
    assert places(sample, first) == places(sample, load(sample.key)), "a repeated move finds its own copy"
    same_second = places(sample, load(sample.key, "v3"))
    assert not {*same_second} & {*kept}


def test_what_is_moved_can_be_read_again_where_it_stands(sample: Sample) -> None:
    """A replay and a retry read from there: by the same suffix, below the same prefix, the companion beside it."""
    for place in places(sample, load(sample.key)):
        assert sample.kind.is_data(place)
        assert place.startswith(sample.table.prefix)
        assert place.endswith(next(suffix for suffix in sample.kind.suffixes if sample.key.endswith(suffix)))
        beside = sample.kind.companions(place)
        assert len(beside) == len(sample.kind.companions(sample.key))
        assert all(companion.rpartition("/")[0] == place.rpartition("/")[0] for companion in beside)
        assert len({place, *beside}) == 1 + len(beside)


def test_two_files_never_share_a_companion_where_they_are_moved_to(sample: Sample) -> None:
    other = sample.key.rpartition("/")[0] + "/OTHER" + next(s for s in sample.kind.suffixes if sample.key.endswith(s))
    companions = [
        companion for key in (sample.key, other) for place in places(sample, load(key)) for companion in sample.kind.companions(place)
    ]
    assert len(companions) == len({*companions})


def test_a_name_as_long_as_a_file_system_takes_still_has_room_for_its_version_and_a_report(sample: Sample) -> None:
    folder, suffix = sample.key.rpartition("/")[0], sample.key[sample.key.index(".", sample.key.rindex("/")) :]
    long = load(f"{folder}/{'n' * (255 - len(suffix))}{suffix}")
    assert len(f"{versioned_name(long)}.report.json".encode()) <= 255


def test_a_good_file_is_read_whole(sample: Sample, tmp_path: Path) -> None:
    reading = read(sample, tmp_path / "out")
    converted = reading.converted
    assert (converted.rows_in, converted.rows_written, converted.rows_rejected) == (sample.rows, sample.rows, 0)
    assert converted.bytes_read == len(sample.content)
    assert converted.content_hash == hashlib.sha256(sample.content).hexdigest()
    assert reading.fit.columns == converted.columns
    assert {*written(tmp_path / "out")} == {"raw", "typed"}, "no rejects without a rejected row"
    for area in ("raw", "typed"):
        file = pq.ParquetFile(tmp_path / "out" / area)
        assert file.metadata.num_rows == sample.rows
        assert [field.name for field in file.schema_arrow] == [column.name for column in converted.columns]


def test_the_same_bytes_make_the_same_parquet_however_they_come(sample: Sample, tmp_path: Path) -> None:
    bad = gzip.compress(gzip.decompress(sample.content) + sample.bad_row + b"\n", mtime=0)
    sample = replace(sample, content=bad, companion=None)
    found = []
    for number, size in enumerate((len(bad), len(bad), 1, 7, 64)):
        reading = read(sample, tmp_path / str(number), cut(bad, size))
        assert reading.converted.rows_rejected == 1
        found.append((written(tmp_path / str(number)), reading.converted.content_hash, reading.converted.rows_written))
    assert found[1:] == found[:-1]
    assert {*found[0][0]} == {"raw", "typed", "rejects"}


def test_plain_bytes_are_read_as_well_as_compressed_ones(sample: Sample, tmp_path: Path) -> None:
    plain = gzip.decompress(sample.content)
    reading = read(replace(sample, content=plain), tmp_path / "out", key=sample.key.removesuffix(".gz"))
    assert reading.converted.rows_written == sample.rows


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda content: content[:-9], "gzip_truncated"),
        (lambda content: content[:-4], "gzip_truncated"),
        (lambda content: content[:-8] + b"\0\0\0\0" + content[-4:], "gzip_corrupt"),
        (gzip.decompress, "not_gzip"),
        (lambda _content: gzip.compress(b""), "empty_file"),
        (lambda _content: b"", "empty_file"),
    ],
)
def test_a_damaged_file_is_refused_however_late_it_shows(
    sample: Sample, tmp_path: Path, damage: Callable[[bytes], bytes], code: str
) -> None:
    for number, size in enumerate((1 << 20, 5)):
        with pytest.raises(Refused) as refused:
            read(sample, tmp_path / str(number), cut(damage(sample.content), size))
        assert code in {problem.code for problem in refused.value.problems}


@pytest.mark.parametrize("error", [Missing("gone"), Changed("overwritten"), Transient("object_store_unavailable", "away")], ids=repr)
@pytest.mark.parametrize("after", ["at once", "in the middle", "at the end"])
def test_what_the_store_says_passes_through_whenever_it_says_it(sample: Sample, tmp_path: Path, error: Exception, after: str) -> None:
    """As a problem of the file it would be refused, and moved, for what it has not done."""

    def broken() -> Iterator[bytes]:
        share = {"at once": 0, "in the middle": len(sample.content) // 2, "at the end": len(sample.content)}[after]
        if share:
            yield sample.content[:share]
        raise error

    with pytest.raises(type(error)):
        read(sample, tmp_path / "out", broken())


def test_a_table_that_holds_its_files_holds_this_one_too(sample: Sample, tmp_path: Path) -> None:
    if sample.kind.kind == "kafka":
        return  # an envelope cannot drift

    def held(_offer: Offer) -> Fit:
        raise Held(Problem("schema_changed", "header", "a test says so"), "")

    source = Source(sample.key, iter([sample.content]), sample.companion)
    (tmp_path / "out").mkdir()
    with pytest.raises(Held):
        sample.kind.read(source, held, sample.table.columns, outputs(tmp_path / "out"), LENIENT)


def test_a_record_that_others_have_written_is_left_out_and_one_that_comes_twice_is_written_once(tmp_path: Path) -> None:
    kafka = next(sample for sample in SAMPLES if sample.id == "kafka")
    reading = read(replace(kafka, content=records(*range(8), 7, 3)), tmp_path / "out", written=lambda _asked: {("events", 0): {0, 2}})
    assert reading.offsets == {("events", 0): (4, 6), ("events", 1): (1, 3, 5, 7)}
    assert (reading.converted.rows_in, reading.converted.rows_written) == (10, 6)


def deliver(cubic: Cubic, sample: Sample, at: str = "06:00:00") -> None:
    if sample.id == "ods changes":
        cubic.land(f"{TAPS}/LOAD00000001.csv.gz", csv("1,one,2.40"), moment("05:00:00"))
    cubic.land(sample.key, sample.content, moment(at), dfm=sample.companion)


def digests(cubic: Cubic) -> dict[str, str]:
    folder = Path(cubic.settings.storage.removeprefix("file://")) / "cubic" / "springboard"
    return {key: hashlib.sha256((folder / key).read_bytes()).hexdigest() for key in cubic.keys("springboard")}


def test_a_replay_writes_the_same_bytes_in_the_same_places(cubic: Cubic, sample: Sample) -> None:
    deliver(cubic, sample)
    cubic.run()
    before, archived = digests(cubic), cubic.keys("archive")
    assert len(before) >= 2
    with cubic.database.connect() as connection:
        ledger.replay(connection, ledger.Scope("cubic"))
    assert cubic.run(run_id="again").total().rows_written >= sample.rows
    assert digests(cubic) == before
    assert cubic.keys("archive") == archived
    assert cubic.keys("incoming") == []


def test_a_file_that_comes_again_unchanged_writes_nothing_and_is_kept(cubic: Cubic, sample: Sample) -> None:
    deliver(cubic, sample)
    cubic.run()
    before = digests(cubic)
    deliver(cubic, sample, "06:00:07")
    cubic.run(run_id="again")
    again = cubic.state(sample.key)
    after = digests(cubic)
    if sample.kind.repeats(sample.table):
        assert again["duplicate_of"] is not None
        assert (again["status"], again["rows_written"]) == ("archived", 0)
        assert after == before
    else:  # the part of a snapshot is one of another snapshot when it comes again
        assert (again["status"], again["snapshot"], again["rows_written"]) == ("archived", "20260102T060007Z", sample.rows)
        assert {key: digest for key, digest in after.items() if key in before} == before
    folder = sample.key.rpartition("/")[0]
    kept = [key for key in cubic.keys("archive") if key.startswith(f"{folder}/") and sample.kind.is_data(key)]
    assert len(kept) == 2


@pytest.mark.parametrize(
    "sample", [sample for sample in SAMPLES if not sample.kind.by_snapshot], indirect=True, ids=lambda sample: sample.id
)
def test_a_file_that_comes_again_with_more_in_it_leaves_all_of_it(cubic: Cubic, sample: Sample) -> None:
    deliver(cubic, sample)
    cubic.run()
    more = {"dmap": csv("2026-01-01,1", "2026-01-02,2", "2026-01-03,3", header="day,count"), "kafka": records(*range(31))}[sample.id]
    deliver(cubic, replace(sample, content=more), "07:00:00")
    cubic.run(run_id="again")
    assert cubic.query(f"SELECT count(*) AS n FROM {sample.table.name}") == [{"n": sample.rows + 1}]


class Pipes(StreamKind):
    """A fourth kind, as small as can be: lines with two fields and a pipe between them."""

    kind = "pipes"  # type: ignore[assignment]
    suffixes = (".pipes",)

    def read(
        self, source: Source, accept: Callable[[Offer], Fit], columns: Sequence[Column] | None, to: Outputs, tolerance: Tolerance
    ) -> Reading:
        from ingestion_dagster.cubic.convert import convert_csv
        from ingestion_dagster.cubic.dfm import Dialect

        fit = accept(Offer(("left", "right")))
        chunks = (piece for part in ([b"left|right\n"], source.chunks) for piece in part)
        converted = convert_csv(
            chunks,
            lambda _header: fit.columns,
            to,
            dialect=Dialect(delimiter="|"),
            compressed=False,
            expected_rows=None,
            tolerance=tolerance,
        )
        return Reading(converted, fit)


def test_a_fourth_kind_is_a_module_and_an_entry(cubic: Cubic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "pipes", Pipes())  # type: ignore[misc]
    made = CubicTable("signs", "cubic/pipes/signs/", "pipes")  # type: ignore[arg-type]
    cubic.registry = type(cubic.registry)([*cubic.registry.tables.values(), made])
    cubic.land("cubic/pipes/signs/a.pipes", b"1|one\n2|two\n", moment("06:00:00"))
    cubic.land("cubic/pipes/signs/b.txt", b"3|three\n", moment("06:00:00"))
    cubic.run()
    assert {state["key"]: state["error_code"] for state in cubic.states()} == {
        "cubic/pipes/signs/a.pipes": None,
        "cubic/pipes/signs/b.txt": "unknown_file_type",
    }
    assert cubic.parquet("cubic/pipes/signs/identifier=a.pipes/part-0.parquet") == [
        {"left": "1", "right": "one"},
        {"left": "2", "right": "two"},
    ]
    [archived] = cubic.keys("archive")
    assert archived.startswith("cubic/pipes/signs/a.")
    assert json.dumps(cubic.columns("signs")) == '{"left": "string", "right": "string"}'
