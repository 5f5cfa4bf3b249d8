"""The way of a cubic file, without Dagster: what is published, what is refused, and what neither of the two does to its neighbours."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ingestion_dagster.cubic import schemas
from ingestion_dagster.cubic.ods import ODS
from ingestion_dagster.cubic.publication import Publication
from ingestion_dagster.cubic.registry import parse_registry
from ingestion_dagster.cubic.zone import prepare, zone
from ingestion_dagster.engine import landing, ledger, moving
from ingestion_dagster.engine.datasets import pause_faulty_datasets, resume_dataset
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Transient
from ingestion_dagster.engine.verdicts import OUR_FAULT
from ingestion_dagster_tests.cubic.conftest import TAPS, Cubic, csv, metadata, moment

CHANGES = "header__change_seq,header__change_oper,header__timestamp,TAP_ID,NOTE,FARE"
GATES = "cubic/ods_qlik/EDW.GATES"
LOOSE = "cubic/ods_qlik/EDW.LOOSE"
AT_SIX = "20260102T060000Z"


def change(number: int, oper: str = "U", values: str = "1,uno,2.50") -> str:
    return f"2026010207000000000000000000000{number:04},{oper},2026-01-02 07:00:00.000000,{values}"


def loose(names: dict[str, str], rows: list[str], key: tuple[str, ...] = ("A",)) -> tuple[bytes, bytes]:
    """A file with a `.dfm`: columns by name and type, and rows."""
    return csv(*rows, header=",".join(names)), metadata(names, len(rows), key)


def test_a_snapshot_and_its_changes_are_published_and_moved_with_their_metadata(cubic: Cubic) -> None:
    types = {"TAP_ID": "INT8", "NOTE": "STRING", "FARE": "NUMERIC(10,2)"}
    cubic.land(f"{TAPS}/LOAD00000001.csv.gz", csv("1,one,2.40", "2,,"), moment("06:00:00"), dfm=metadata(types, 2, ("TAP_ID",)))
    cubic.land(f"{TAPS}__ct/20260102-070000000.csv.gz", csv(change(1), header=CHANGES), moment("07:00:00"))
    total = cubic.run().total()
    assert (total.loads_archived, total.rows_in, total.rows_written) == (2, 3, 3)
    assert cubic.keys("incoming") == []
    data, metadata_file, changes = cubic.keys("archive")
    assert data.startswith(f"{TAPS}/snapshot={AT_SIX}/LOAD00000001.")
    assert data.endswith(".csv.gz")
    assert metadata_file == data.removesuffix(".csv.gz") + ".dfm"
    assert changes.startswith(f"{TAPS}__ct/snapshot={AT_SIX}/20260102-070000000.")
    part = f"snapshot={AT_SIX}/identifier=LOAD00000001.csv.gz/part-0.parquet"
    assert [row["fare"] for row in cubic.parquet(f"raw/{TAPS}/{part}")] == ["2.40", None]
    assert [str(row["fare"]) for row in cubic.parquet(f"{TAPS}/{part}")] == ["2.40", "None"]
    assert [row["snapshot"] for row in cubic.query("SELECT DISTINCT snapshot FROM taps__ct")] == [AT_SIX]


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("LOAD00000002.csv.gz", b"", "empty_file"),
        ("LOAD00000002.csv.gz", csv("1,one,2.40")[:-9], "gzip_truncated"),
        ("LOAD00000002.csv.gz", csv("1,one,2.40")[:-8] + b"\0\0\0\0" + csv("1,one,2.40")[-4:], "gzip_corrupt"),
        ("LOAD00000002.csv.gz", b"TAP_ID,NOTE,FARE\n1,one,2.40\n", "not_gzip"),
        ("LOAD00000002.csv.gz", csv("1,one,2.40,x", header="TAP_ID,NOTE,FARE,SURPRISE"), "schema_changed"),
        ("LOAD00000002.csv.gz", csv("1,one", header="TAP_ID,NOTE"), "schema_changed"),
        ("LOAD00000002.csv.gz", csv("one,1,2.40"), "too_many_rejected_rows"),
        ("LOAD00000002.xlsx", b"PK", "unknown_file_type"),
    ],
)
def test_one_bad_file_is_refused_and_its_neighbours_are_loaded(cubic: Cubic, name: str, content: bytes, code: str) -> None:
    cubic.land(f"{TAPS}/LOAD00000001.csv.gz", csv("1,one,2.40"), moment("06:00:00"))
    cubic.land(f"{TAPS}/{name}", content, moment("06:00:01"))
    cubic.land(f"{TAPS}/LOAD00000003.csv.gz", csv("3,three,2.40"), moment("06:00:02"))
    cubic.run()
    assert cubic.state(f"{TAPS}/{name}")["error_code"] == code
    assert [row["tap_id"] for row in cubic.query("SELECT tap_id FROM taps ORDER BY 1")] == [1, 3]
    [refused, report] = cubic.keys("error")
    assert refused.startswith(f"{TAPS}/timestamp=20260102T060001Z/LOAD00000002.")
    assert report == f"{refused}.report.json"
    assert code in {problem["code"] for problem in cubic.report("LOAD00000002")["problems"]}
    assert not [key for key in cubic.keys("springboard") if "LOAD00000002" in key]


def test_a_file_and_a_metadata_file_of_different_deliveries_are_refused(cubic: Cubic) -> None:
    content, _ = loose({"A": "INT4", "B": "STRING"}, ["1,x"])
    cubic.land(f"{GATES}/LOAD00000001.csv.gz", content, moment("06:00:00"), dfm=metadata({"A": "INT4"}, 1, ("A",)))
    cubic.run()
    assert cubic.state(f"{GATES}/LOAD00000001.csv.gz")["error_code"] == "header_differs"


def test_fewer_rows_than_the_metadata_counts_are_refused(cubic: Cubic) -> None:
    cubic.land(f"{GATES}/LOAD00000001.csv.gz", csv("1", header="A"), moment("06:00:00"), dfm=metadata({"A": "INT4"}, 2, ("A",)))
    cubic.run()
    assert cubic.state(f"{GATES}/LOAD00000001.csv.gz")["error_code"] == "row_count_differs"


def test_a_few_bad_rows_are_rejected_and_the_rest_is_loaded(cubic: Cubic) -> None:
    rows = [f"{number},x,1.00" for number in range(2000)]
    rows[7] = "seven,x,1.00"
    cubic.land(f"{TAPS}/LOAD00000001.csv.gz", csv(*rows), moment("06:00:00"))
    cubic.run()
    state = cubic.state(f"{TAPS}/LOAD00000001.csv.gz")
    assert (state["status"], state["rows_in"], state["rows_written"], state["rows_rejected"]) == ("archived", 2000, 1999, 1)
    rejects = cubic.parquet(f"rejects/{TAPS}/snapshot={AT_SIX}/identifier=LOAD00000001.csv.gz/part-0.parquet")
    assert rejects == [{"line": 9, "column": "tap_id", "code": "not_a_bigint"}]
    report = next(key for key in cubic.keys("archive") if key.endswith(".report.json"))
    assert "seven" not in (Path(cubic.settings.storage.removeprefix("file://")) / "cubic/archive" / report).read_text()


def test_a_loosened_column_leaves_no_rejects_behind_on_replay(cubic: Cubic) -> None:
    cubic.land("cubic/dmap/agg_fares/a.csv.gz", csv("2026-01-01,x", *["2026-01-01,1"] * 2000, header="day,count"))
    cubic.run()
    assert [key for key in cubic.keys("springboard") if key.startswith("rejects/")]
    cubic.registry = parse_registry(
        "tables: [{name: fares, prefix: cubic/dmap/agg_fares/, kind: dmap, columns: {day: date, count: string}}]"
    )
    with cubic.database.connect() as connection:
        ledger.replay(connection, ledger.Scope("cubic"))
    cubic.run(run_id="again")
    assert not [key for key in cubic.keys("springboard") if key.startswith("rejects/")]


def test_the_same_dmap_content_again_is_a_duplicate_and_other_content_replaces(cubic: Cubic) -> None:
    key = "cubic/dmap/agg_fares/agg_fares_20260101.csv.gz"
    cubic.land(key, csv("2026-01-01,1", header="day,count"), moment("06:00:00"))
    cubic.run()
    cubic.land(key, csv("2026-01-01,1", header="day,count"), moment("07:00:00"))
    cubic.run()
    assert cubic.state(key)["duplicate_of"] is not None
    cubic.land(key, csv("2026-01-01,2", "2026-01-02,3", header="day,count"), moment("08:00:00"))
    cubic.run()
    assert cubic.query("SELECT sum(count) AS n FROM fares") == [{"n": 5}]
    assert len([key for key in cubic.keys("archive") if key.endswith(".csv.gz")]) == 3


def test_plain_csv_and_plain_json_are_read_as_well(cubic: Cubic) -> None:
    cubic.land("cubic/dmap/agg_fares/a.csv", b"day,count\n2026-01-01,1\n")
    line = {"topic": "events", "partition": 0, "offset": 5, "timestamp": "2026-01-01T08:00:00Z", "key": "k", "value": {"a": 1}}
    cubic.land("cubic/kafka/events/a.json", json.dumps(line).encode())
    assert cubic.run().total().rows_written == 2


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "in two runs"])
def test_a_record_that_comes_twice_is_written_once(cubic: Cubic, together: bool) -> None:
    def batch(*offsets: int) -> bytes:
        lines = [{"topic": "events", "partition": n % 2, "offset": n, "timestamp": None, "key": None, "value": n} for n in offsets]
        return gzip.compress("\n".join(map(json.dumps, lines)).encode())

    cubic.land("cubic/kafka/events/a.json.gz", batch(*range(12)), moment("06:00:00"))
    if not together:
        cubic.run()
    cubic.land("cubic/kafka/events/b.json.gz", batch(*range(8, 16), 15), moment("07:00:00"))
    cubic.run()
    assert cubic.query('SELECT count(*) AS n, count(DISTINCT "offset") AS d FROM events') == [{"n": 16, "d": 16}]
    state = cubic.state("cubic/kafka/events/b.json.gz")
    assert (state["rows_in"], state["rows_written"], state["rows_unchanged"]) == (9, 4, 5)


def test_a_table_that_is_kept_only_is_archived_without_a_look(cubic: Cubic) -> None:
    cubic.land("cubic/dmap/kept/a.csv.gz", b"no gzip at all")
    cubic.run()
    assert cubic.state("cubic/dmap/kept/a.csv.gz")["status"] == "archived"
    assert cubic.keys("springboard") == []


def test_a_column_that_is_added_in_mid_snapshot_is_null_before(cubic: Cubic) -> None:
    for name, columns, rows, at in (
        ("LOAD00000001", {"A": "INT4", "B": "STRING"}, ["1,x"], "06:00:00"),
        ("LOAD00000002", {"A": "INT4", "B": "STRING", "C": "DATE"}, ["2,y,2026-01-01"], "06:00:01"),
    ):
        content, dfm = loose(columns, rows)
        cubic.land(f"{LOOSE}/{name}.csv.gz", content, moment(at), dfm=dfm)
    cubic.run()
    assert cubic.query("SELECT a, b, c FROM loose ORDER BY a") == [{"a": 1, "b": "x", "c": None}, {"a": 2, "b": "y", "c": "2026-01-01"}]
    assert cubic.columns("loose") == {"a": "int", "b": "string", "c": "date"}


def test_a_file_from_before_a_column_was_added_is_loaded_whenever_it_comes(cubic: Cubic) -> None:
    new, new_dfm = loose({"A": "INT4", "B": "STRING", "C": "DATE"}, ["2,y,2026-01-01"])
    old, old_dfm = loose({"A": "INT4", "B": "STRING"}, ["1,x"])
    cubic.land(f"{LOOSE}/LOAD00000001.csv.gz", old, moment("06:00:00"), dfm=old_dfm)
    cubic.land(f"{LOOSE}/LOAD00000003.csv.gz", new, moment("06:00:09"), dfm=new_dfm)
    cubic.run()
    cubic.land(f"{LOOSE}/LOAD00000002.csv.gz", old.replace(b"", b""), moment("06:00:05"), dfm=old_dfm)
    cubic.run()
    assert cubic.state(f"{LOOSE}/LOAD00000002.csv.gz")["status"] == "archived"


@pytest.mark.parametrize(
    ("columns", "key", "says"),
    [
        ({"A": "INT4"}, ("A",), "'b' is gone"),
        ({"A": "INT4", "B": "INT4"}, ("A",), "column 'b' is int, was string"),
        ({"A": "INT4", "B": "STRING"}, ("B",), "the key is b, was a"),
    ],
    ids=["dropped", "narrower", "key"],
)
def test_a_table_that_loses_something_waits_for_a_person(cubic: Cubic, columns: dict[str, str], key: tuple[str, ...], says: str) -> None:
    first, first_dfm = loose({"A": "INT4", "B": "STRING"}, ["1,x"])
    cubic.land(f"{LOOSE}/LOAD00000001.csv.gz", first, moment("06:00:00"), dfm=first_dfm)
    cubic.run()
    content, dfm = loose(columns, [",".join(["2"] * len(columns))], key)
    cubic.land(f"{LOOSE}/LOAD00000002.csv.gz", content, moment("06:00:01"), dfm=dfm)
    cubic.land(f"{LOOSE}/LOAD00000003.csv.gz", first, moment("06:00:02"), dfm=first_dfm)
    outcome = cubic.run()
    assert says in outcome.held["loose"].message
    proposed = parse_registry(f"tables:\n{outcome.proposed['loose']}").tables["loose"]
    assert ({column.name for column in proposed.columns or ()}, proposed.key) == ({name.lower() for name in columns}, (key[0].lower(),))
    assert [state["waiting_for"] for state in cubic.states()] == [None, "schema", "schema"]
    cubic.land(f"{LOOSE}/LOAD00000004.csv.gz", first, moment("06:00:03"), dfm=first_dfm)
    cubic.run()
    assert cubic.state(f"{LOOSE}/LOAD00000004.csv.gz")["waiting_for"] == "schema", "what comes later waits as well"


def test_what_waited_for_a_decision_is_loaded_once_the_registry_says_it(cubic: Cubic) -> None:
    first, first_dfm = loose({"A": "INT4", "B": "STRING"}, ["1,x"])
    second, second_dfm = loose({"A": "INT4"}, ["2"])
    cubic.land(f"{LOOSE}/LOAD00000001.csv.gz", first, moment("06:00:00"), dfm=first_dfm)
    cubic.land(f"{LOOSE}/LOAD00000002.csv.gz", second, moment("06:00:01"), dfm=second_dfm)
    cubic.run()
    assert cubic.state(f"{LOOSE}/LOAD00000002.csv.gz")["waiting_for"] == "schema"
    cubic.registry = parse_registry(
        "tables: [{name: loose, prefix: cubic/ods_qlik/EDW.LOOSE/, kind: ods, strict: false, columns: {a: int}, key: [a]}]"
    )
    cubic.run()
    assert cubic.state(f"{LOOSE}/LOAD00000002.csv.gz")["status"] == "archived"


def test_ten_faults_of_ours_in_a_row_pause_the_table_and_no_other(cubic: Cubic, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a value of a record")

    monkeypatch.setattr(schemas, "fit", broken)
    for number in range(1, 12):
        cubic.land(f"{TAPS}/LOAD{number:08}.csv.gz", csv(f"{number},x,1"), moment(f"06:00:{number:02}"))
    outcome = cubic.run(batch_files=1)
    assert outcome.paused == ["taps"]
    assert [state["status"] for state in cubic.states()].count("errored") == 10, "the eleventh waits"
    monkeypatch.undo()
    with cubic.database.connect() as connection:
        resume_dataset(connection, "cubic", "taps")
    outcome = cubic.run()
    assert (outcome.paused, outcome.total().loads_archived) == ([], 1), "what was before the resumption no longer counts"


def test_refused_files_pause_nothing(cubic: Cubic) -> None:
    for number in range(1, 15):
        cubic.land(f"{TAPS}/LOAD{number:08}.csv.gz", b"no gzip", moment(f"06:00:{number:02}"))
    outcome = cubic.run()
    assert (outcome.paused, outcome.total().loads_errored) == ([], 14)


def test_tables_take_turns(cubic: Cubic) -> None:
    for number in range(1, 6):
        cubic.land(f"{TAPS}/LOAD{number:08}.csv.gz", csv(f"{number},x,1"), moment(f"06:00:{number:02}"))
    cubic.land("cubic/dmap/agg_fares/a.csv.gz", csv("2026-01-01,1", header="day,count"), moment("23:00:00"))
    cubic.run(batch_files=2)
    claimed = [
        row[0] for row in cubic.sql("SELECT d.name FROM ledger.loads l JOIN ledger.datasets d ON d.id = l.dataset_id ORDER BY l.claim")
    ]
    assert claimed.index("fares") == 2


def test_nothing_is_published_by_a_run_that_has_lost_its_claim(cubic: Cubic, monkeypatch: pytest.MonkeyPatch) -> None:
    cubic.land(f"{TAPS}/LOAD00000001.csv.gz", csv("1,one,2.40"), moment("06:00:00"))
    stage = Publication.stage

    def late(self: Publication) -> None:
        stage(self)
        with cubic.database.connect() as other:
            other.execute("UPDATE ledger.loads SET lease_until = now() - interval '1 hour'")
            ledger.expire(other, "cubic", 3)

    monkeypatch.setattr(Publication, "stage", late)
    cubic.run()
    assert cubic.keys("springboard") == []
    monkeypatch.undo()
    cubic.run(run_id="next")
    assert cubic.query("SELECT count(*) AS n FROM taps") == [{"n": 1}]


def test_a_full_disk_fails_the_run_and_charges_no_load(cubic: Cubic, monkeypatch: pytest.MonkeyPatch) -> None:
    cubic.land(f"{TAPS}/LOAD00000001.csv.gz", csv("1,one,2.40"), moment("06:00:00"))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ODS.__class__, "read", full)
    with pytest.raises(Transient, match="No space left"):
        cubic.run()
    assert [(state["status"], state["attempts"]) for state in cubic.states()] == [("ready", 0)]


def test_a_file_overwritten_before_it_was_read_fails_no_run(cubic: Cubic) -> None:
    key = "cubic/dmap/agg_fares/a.csv.gz"
    cubic.land(key, csv("2026-01-01,1", header="day,count"), moment("06:00:00"))
    with cubic.database.connect() as connection:
        prepare(connection, cubic.registry)
        landing.discover(connection, zone(cubic.settings, cubic.registry), moment("06:30:00"))
    cubic.land(key, csv("2026-01-01,2", header="day,count"), moment("07:00:00"))
    cubic.run()
    assert [(state["status"], state["error_code"]) for state in cubic.states()] == [("archived", "superseded"), ("archived", None)]
    assert cubic.query("SELECT count FROM fares") == [{"count": 2}]


def test_a_held_table_goes_on_when_the_file_has_been_corrected(cubic: Cubic) -> None:
    first, first_dfm = loose({"A": "INT4", "B": "STRING"}, ["1,x"])
    wrong, wrong_dfm = loose({"A": "INT4"}, ["2"])
    right, right_dfm = loose({"A": "INT4", "B": "STRING"}, ["2,y"])
    cubic.land(f"{LOOSE}/LOAD00000001.csv.gz", first, moment("06:00:00"), dfm=first_dfm)
    cubic.land(f"{LOOSE}/LOAD00000002.csv.gz", wrong, moment("06:00:01"), dfm=wrong_dfm)
    cubic.run()
    cubic.land(f"{LOOSE}/LOAD00000002.csv.gz", right, moment("06:10:00"), dfm=right_dfm)
    cubic.run()
    assert [state["waiting_for"] for state in cubic.states()][1] == "schema"
    with cubic.database.connect() as connection:
        assert ledger.look_again(connection, ledger.Scope("cubic", frozenset({"loose"}))) >= 1
    cubic.run(run_id="again")
    assert [(state["status"], state["error_code"]) for state in cubic.states()] == [
        ("archived", None),
        ("archived", "superseded"),
        ("archived", None),
    ]
    assert cubic.query("SELECT a, b FROM loose ORDER BY a") == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


def test_a_folder_that_is_landed_twice_changes_nothing(cubic: Cubic) -> None:
    def land() -> None:
        cubic.land(f"{TAPS}/LOAD00000001.csv.gz", csv("1,one,2.40"), moment("06:00:00"))
        cubic.land(f"{TAPS}/LOAD00000002.csv.gz", csv("2,two,2.40"), moment("06:00:05"))
        cubic.land(f"{TAPS}__ct/20260102-070000000.csv.gz", csv(change(1), header=CHANGES), moment("07:00:00"))

    land()
    cubic.run()
    before = cubic.keys("springboard"), cubic.query("SELECT * FROM taps ORDER BY 1"), cubic.query("SELECT * FROM taps__ct")
    land()
    cubic.run(run_id="again")
    assert {(state["status"], state["snapshot"]) for state in cubic.states()} == {("archived", AT_SIX)}
    assert before == (cubic.keys("springboard"), cubic.query("SELECT * FROM taps ORDER BY 1"), cubic.query("SELECT * FROM taps__ct"))


def test_a_replay_that_is_refused_takes_nothing_away(cubic: Cubic) -> None:
    cubic.land(f"{TAPS}/LOAD00000001.csv.gz", csv("1,one,2.40"), moment("06:00:00"))
    cubic.run()
    good = cubic.registry
    cubic.registry = parse_registry(
        "tables: [{name: taps, prefix: cubic/ods_qlik/EDW.TAPS/, kind: ods, key: [tap_id],"
        " columns: {tap_id: date, note: string, fare: 'decimal(10,2)'}}]"
    )
    with cubic.database.connect() as connection:
        ledger.replay(connection, ledger.Scope("cubic"))
    with pytest.raises(ConfigurationError, match="1 files of taps are refused"):
        cubic.run(run_id="again")
    state = cubic.state(f"{TAPS}/LOAD00000001.csv.gz")
    assert (state["status"], state["rows_in"], state["rows_written"]) == ("archived", 1, 1)
    assert state["error_code"] == "too_many_rejected_rows"
    cubic.registry = good
    assert cubic.query("SELECT note FROM raw_taps") == [{"note": "one"}]
    with cubic.database.connect() as connection:
        ledger.replay(connection, ledger.Scope("cubic"))
    cubic.run(run_id="once more")
    assert cubic.state(f"{TAPS}/LOAD00000001.csv.gz")["error_code"] is None


def test_a_registry_that_says_nothing_of_columns_any_more_is_believed(cubic: Cubic) -> None:
    def registered(columns: str) -> None:
        cubic.registry = parse_registry(f"tables: [{{name: gates, prefix: cubic/ods_qlik/EDW.GATES/, kind: ods{columns}}}]")

    content, dfm = loose({"A": "INT4", "B": "STRING"}, ["1,x"])
    cubic.land(f"{GATES}/LOAD00000001.csv.gz", content, moment("06:00:00"), dfm=dfm)
    registered("")
    cubic.run()
    registered(", columns: {a: int, b: int}, key: [a]")
    cubic.land(f"{GATES}/LOAD00000002.csv.gz", content, moment("06:00:01"), dfm=dfm)
    cubic.run()
    assert cubic.state(f"{GATES}/LOAD00000002.csv.gz")["status"] == "errored"
    registered("")
    cubic.retry()
    cubic.run(run_id="again")
    assert cubic.state(f"{GATES}/LOAD00000002.csv.gz")["status"] == "archived"
    assert cubic.columns("gates") == {"a": "int", "b": "string"}
    assert cubic.query("SELECT a, b FROM gates") == [{"a": 1, "b": "x"}] * 2


def test_a_table_that_is_renamed_and_changed_at_once_goes_on_where_it_was(cubic: Cubic) -> None:
    first, first_dfm = loose({"A": "INT4", "B": "STRING"}, ["1,x"])
    second, second_dfm = loose({"A": "INT4"}, ["2"])
    cubic.land(f"{LOOSE}/LOAD00000001.csv.gz", first, moment("06:00:00"), dfm=first_dfm)
    cubic.land(f"{LOOSE}/LOAD00000002.csv.gz", second, moment("06:00:01"), dfm=second_dfm)
    cubic.run()
    cubic.registry = parse_registry(
        "tables: [{name: renamed, prefix: cubic/ods_qlik/EDW.LOOSE/, kind: ods, strict: false, columns: {a: int}, key: [a]}]"
    )
    cubic.run(run_id="again")
    assert {(state["dataset"], state["status"], state["snapshot"]) for state in cubic.states()} == {("renamed", "archived", AT_SIX)}


@pytest.mark.parametrize("kinds", [{"A": "INT4", "B": "STRING"}, {"A": "STRING", "B": "STRING"}], ids=["types and key", "the key alone"])
def test_the_first_metadata_file_decides_about_what_a_header_could_not(cubic: Cubic, kinds: dict[str, str]) -> None:
    content, dfm = loose(kinds, ["1,x"])
    cubic.land(f"{GATES}/LOAD00000001.csv.gz", content, moment("06:00:00"))
    cubic.run()
    for number in (2, 3):
        cubic.land(f"{GATES}/LOAD{number:08}.csv.gz", content, moment(f"06:00:0{number}"), dfm=dfm)
    cubic.run(run_id="next")
    assert {state["status"] for state in cubic.states()} == {"archived"}
    [(columns, key)] = cubic.sql("SELECT columns, key FROM cubic.schemas ORDER BY version DESC LIMIT 1")
    assert (dict(columns)["a"], key) == ("int" if kinds["A"] == "INT4" else "string", ["a"])


def test_a_registry_that_says_the_same_of_columns_again_is_believed_again(cubic: Cubic) -> None:
    def sync(columns: str) -> dict[str, str]:
        cubic.registry = parse_registry(f"tables: [{{name: gates, prefix: cubic/ods_qlik/EDW.GATES/, kind: ods{columns}}}]")
        with cubic.database.connect() as connection:
            prepare(connection, cubic.registry)
            before = connection.execute("SELECT count(*) FROM cubic.schemas").fetchone()
            prepare(connection, cubic.registry)
            assert connection.execute("SELECT count(*) FROM cubic.schemas").fetchone() == before, "nothing has changed"
        return cubic.columns("gates")

    assert sync(", columns: {a: int}") == {"a": "int"}
    sync("")
    assert sync(", columns: {a: bigint}") == {"a": "bigint"}
    sync("")
    assert sync(", columns: {a: bigint}") == {"a": "bigint"}
    with cubic.database.connect() as connection:
        assert schemas.versions_of(connection, "gates")[-1].registered


def test_rejects_of_the_issue_before_are_gone_when_there_are_none_now(cubic: Cubic) -> None:
    key = "cubic/dmap/agg_fares/a.csv.gz"
    good = ["2026-01-01,1"] * 2000
    cubic.land(key, csv("2026-01-01,x", *good, header="day,count"), moment("06:00:00"))
    cubic.run()
    assert [each for each in cubic.keys("springboard") if each.startswith("rejects/")]
    cubic.land(key, csv(*good, header="day,count"), moment("07:00:00"))
    cubic.run(run_id="next")
    assert not [each for each in cubic.keys("springboard") if each.startswith("rejects/")]


def test_a_replay_from_an_archive_that_has_moved_says_so_and_takes_nothing_away(cubic: Cubic) -> None:
    cubic.land(f"{TAPS}/LOAD00000001.csv.gz", csv("1,one,2.40"), moment("06:00:00"))
    cubic.run()
    with cubic.database.connect() as connection:
        ledger.replay(connection, ledger.Scope("cubic"))
    home = cubic.settings
    cubic.settings = home.model_copy(update={"cubic_archive_url": f"{home.storage}/elsewhere"})
    with pytest.raises(ConfigurationError, match="set the zones' URLs to where they were"):
        cubic.run(run_id="lost")
    assert cubic.states()[0]["status"] == "ready"
    cubic.settings = home
    cubic.run(run_id="found")
    assert cubic.states()[0]["status"] == "archived"


def test_runs_that_died_with_file_after_file_pause_their_table(cubic: Cubic) -> None:
    problem = Problem("crashed_repeatedly", "the whole file", "runs died with it")
    for number in range(1, 4):
        cubic.land(f"{TAPS}/LOAD{number:08}.csv.gz", csv(f"{number},x,1"), moment(f"06:00:0{number}"))
    with cubic.database.connect() as connection:
        prepare(connection, cubic.registry)
        place = zone(cubic.settings, cubic.registry)
        landing.discover(connection, place, moment("07:00:00"))
        claimed = ledger.claim(connection, ledger.Scope("cubic"), "dead", count=9, size=1 << 30, lease_seconds=60)
        with connection.transaction():
            ledger.settle(connection, [ledger.Verdict(load, ledger.Status.READY_FOR_ERRORING, problems=(problem,)) for load in claimed])
        given_up = [replace(load, status=ledger.Status.READY_FOR_ERRORING, problems=(problem,)) for load in claimed]
        moving.move(connection, place, given_up, lease_seconds=60)
        assert pause_faulty_datasets(connection, "cubic", OUR_FAULT, 3) == ["taps"]
