"""The registry: what an entry means, and that one which means nothing is refused by name."""

from pathlib import Path

import pytest

from ingestion_dagster.cubic.columns import CHANGE_COLUMNS, Column
from ingestion_dagster.cubic.registry import CubicTable, parse_registry, registry
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.settings import Settings


def one(fields: str = "", prefix: str = "cubic/ods_qlik/EDW.TAP", kind: str = "ods") -> str:
    """A registry of one table named taps."""
    return f"tables: [{{name: taps, prefix: {prefix}, kind: {kind}{', ' if fields else ''}{fields}}}]"


def taps(text: str) -> CubicTable:
    return parse_registry(text).tables["taps"]


def refusal(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse_registry(text, "tables.yaml")
    return str(caught.value)


# What an entry means


def test_an_entry_of_three_words_is_a_table_and_its_changes() -> None:
    found = parse_registry(one())

    assert list(found.tables) == ["taps", "taps__ct"]
    assert found.tables["taps"] == CubicTable("taps", "cubic/ods_qlik/EDW.TAP/", "ods", marker="cubic/ods_qlik/EDW.TAP/LOAD00000001.csv.gz")
    changes = found.tables["taps__ct"]
    assert (changes.prefix, changes.base, changes.marker) == ("cubic/ods_qlik/EDW.TAP__ct/", "taps", found.tables["taps"].marker)
    assert found.changes_of(found.tables["taps"]) is changes
    assert (found.tables["taps"].has_changes, changes.has_changes) == (True, False)


@pytest.mark.parametrize("kind", ["dmap", "kafka"])
def test_other_streams_have_neither_changes_nor_a_marker(kind: str) -> None:
    found = parse_registry(one(prefix=f"cubic/{kind}/tap", kind=kind))

    assert list(found.tables) == ["taps"]
    assert found.tables["taps"].marker is None


@pytest.mark.parametrize("prefix", ["cubic/ods_qlik/EDW.TAP", "cubic/ods_qlik/EDW.TAP/", "/cubic/ods_qlik/EDW.TAP/"])
def test_a_prefix_may_be_written_with_or_without_slashes_around_it(prefix: str) -> None:
    assert taps(one(prefix=prefix)).prefix == "cubic/ods_qlik/EDW.TAP/"


@pytest.mark.parametrize("marker", ["LOAD1.csv.gz", "cubic/ods_qlik/EDW.TAP/LOAD1.csv.gz", "/cubic/ods_qlik/EDW.TAP/LOAD1.csv.gz"])
def test_a_marker_may_be_written_as_a_name_or_as_a_key(marker: str) -> None:
    found = parse_registry(one(f"snapshot_marker: {marker}"))

    assert {table.marker for table in found.tables.values()} == {"cubic/ods_qlik/EDW.TAP/LOAD1.csv.gz"}


def test_columns_and_key_are_lower_case_whatever_is_written() -> None:
    table = taps(one("columns: {TAP_ID: BigInt, Fare: 'Decimal(10, 2)'}, key: [Tap_Id]"))

    assert table.columns == (Column("tap_id", "bigint"), Column("fare", "decimal(10,2)"))
    assert table.key == ("tap_id",)


def test_a_table_of_changes_has_the_columns_of_its_table_behind_those_of_a_change() -> None:
    changes = parse_registry(one("columns: {a: bigint}, key: [a], strict: false, raw: false")).tables["taps__ct"]

    assert changes.columns == (*CHANGE_COLUMNS, Column("a", "bigint"))
    assert (changes.key, changes.strict, changes.raw, changes.typed) == (("a",), False, False, True)


@pytest.mark.parametrize("changes_first", [False, True])
def test_an_entry_of_its_own_says_what_is_different_about_changes(changes_first: bool) -> None:
    entries = [
        "{name: taps, prefix: cubic/ods_qlik/EDW.TAP, kind: ods, columns: {a: bigint}, key: [a], snapshot_marker: LOAD1.csv.gz}",
        "{name: tap_changes, prefix: cubic/ods_qlik/EDW.TAP__ct, kind: ods, typed: false, strict: false}",
    ]
    found = parse_registry(f"tables: [{', '.join(reversed(entries) if changes_first else entries)}]")

    assert sorted(found.tables) == ["tap_changes", "taps"]
    changes = found.tables["tap_changes"]
    assert (changes.base, changes.typed, changes.strict, changes.key) == ("taps", False, False, ("a",))
    assert changes.marker == found.tables["taps"].marker
    assert changes.columns == (*CHANGE_COLUMNS, Column("a", "bigint"))


def test_header_columns_that_are_written_down_are_not_there_twice() -> None:
    text = (
        "tables: [{name: t, prefix: p/T, kind: ods}, {name: c, prefix: p/T__ct, kind: ods, columns: {header__change_seq: string, a: date}}]"
    )
    columns = parse_registry(text).tables["c"].columns

    assert columns is not None
    assert sorted(column.name for column in columns) == ["a", "header__change_oper", "header__change_seq", "header__timestamp"]


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("cubic/ods_qlik/EDW.TAP/LOAD1.csv.gz", "taps"),
        ("cubic/ods_qlik/EDW.TAP/below/LOAD1.csv.gz", "taps"),
        ("cubic/ods_qlik/EDW.TAP__ct/1.csv.gz", "taps__ct"),
        ("cubic/ods_qlik/EDW.TAP_STATUS/LOAD1.csv.gz", None),
        ("cubic/ods_qlik/EDW.TAP", None),
        ("cubic/ods_qlik/edw.tap/LOAD1.csv.gz", None),
        ("x/cubic/ods_qlik/EDW.TAP/LOAD1.csv.gz", None),
    ],
)
def test_a_key_belongs_to_the_table_in_whose_folder_it_lies(key: str, name: str | None) -> None:
    found = parse_registry(one()).of_key(key)

    assert (found.name if found else None) == name


def test_of_two_prefixes_the_longer_one_counts() -> None:
    text = "tables: [{name: outer, prefix: cubic/dmap, kind: dmap}, {name: inner, prefix: cubic/dmap/agg, kind: dmap}]"
    found = parse_registry(text)

    assert [found.of_key(key) for key in ("cubic/dmap/agg/a.csv", "cubic/dmap/b.csv")] == [found.tables["inner"], found.tables["outer"]]


def test_an_empty_registry_is_one() -> None:
    assert parse_registry("tables: []").datasets == ("unclassified",)


def test_the_entry_that_the_ledger_keeps_tells_every_change_that_matters() -> None:
    entry = taps(one()).as_entry()
    edits = ["raw: false", "typed: false", "strict: false", "columns: {a: bigint}", "snapshot_marker: LOAD1.csv.gz", "key: [a]"]

    assert all(taps(one(edit)).as_entry() != entry for edit in edits)
    assert taps(one("is_active: false")).as_entry() == entry, "that is a column of its own"


def test_the_registry_of_the_settings_is_read(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "tables.yaml"
    path.write_text(one(), encoding="utf-8")

    assert list(registry(settings.model_copy(update={"cubic_tables": path})).tables) == ["taps", "taps__ct"]


# What is refused


def test_a_registry_that_is_not_there_is_refused_with_its_path(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "nowhere.yaml"

    with pytest.raises(ConfigurationError, match=r"INGESTION_CUBIC_TABLES: .*nowhere\.yaml cannot be read"):
        registry(settings.model_copy(update={"cubic_tables": path}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tables: [", "is no YAML"),
        ("", "needs a list 'tables:'"),
        ("- name: taps", "needs a list 'tables:'"),
        ("tables:", "needs a list 'tables:'"),
        ("tables: {taps: {}}", "needs a list 'tables:'"),
        ("tables: [taps]", "table 1: "),
        (one("colums: {a: bigint}"), "table taps: colums: Extra inputs"),
        (one(kind="odbc"), "table taps: kind: "),
        ("tables: [{name: taps, kind: ods}]", "table taps: prefix: Field required"),
        ("tables: [{prefix: a, kind: ods}]", "table 1: name: Field required"),
        (one("columns: {a: number}"), "no type of a column: 'number'"),
        (one("columns: {a: 'decimal(39,2)'}"), "no type of a column"),
        (one("columns: {a: 'decimal(10,11)'}"), "no type of a column"),
        (one("columns: [a, b]"), "table taps: columns: "),
        (one("columns: {a: bigint}, key: [b]"), "its key names no column: b"),
        ("tables: [{name: unclassified, prefix: a, kind: dmap}]", "cannot be named unclassified"),
        (
            "tables: [{name: taps, prefix: a, kind: dmap}, {name: taps, prefix: b, kind: dmap}]",
            "two tables have the name taps",
        ),
        (
            "tables: [{name: taps, prefix: a, kind: ods}, {name: taps__ct, prefix: b, kind: dmap}]",
            "two tables have the name taps__ct",
        ),
        (
            "tables: [{name: taps, prefix: a/T, kind: dmap}, {name: fares, prefix: a/T/, kind: kafka}]",
            "two tables have the prefix a/T/",
        ),
        (
            "tables: [{name: taps, prefix: a/EDW.TAP, kind: ods}, {name: fares, prefix: a/EDW_TAP, kind: ods}]",
            "two tables have the asset cubic/ods_qlik/edw_tap",
        ),
    ],
)
def test_a_registry_that_means_nothing_is_refused(text: str, said: str) -> None:
    assert said in refusal(text)


def test_all_that_is_wrong_is_said_at_once() -> None:
    text = "tables: [{name: taps, prefix: a, kind: odbc}, {name: fares, prefix: b, kind: ods, colums: 1, key: 5}]"
    said = refusal(text)

    assert said.startswith("tables.yaml: ")
    assert [part in said for part in ("table taps: kind", "table fares: colums", "table fares: key")] == [True, True, True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tables: [{name: 'taps; drop', prefix: a, kind: ods}]", "taps; drop: name"),
        ("tables: [{name: Taps, prefix: a, kind: ods}]", "Taps: name"),
        (one(prefix="/"), "table taps: prefix"),
        (one(prefix="cubic//tap"), "table taps: prefix"),
        (one("columns: {a: bigint, A: string}"), "table taps: columns"),
        (one("columns: {}"), "table taps: columns"),
        (one("snapshot_marker: cubic/ods_qlik/EDW.OTHER/LOAD1.csv.gz"), "table taps: snapshot_marker"),
        (one("snapshot_marker: LOAD1.parquet"), "table taps: snapshot_marker"),
        (one("snapshot_marker: LOAD1.csv.gz", kind="dmap"), "table taps: snapshot_marker"),
        ("tables: [{name: c, prefix: cubic/ods_qlik/EDW.TAP__ct, kind: ods}]", "cubic/ods_qlik/EDW.TAP/"),
    ],
)
def test_an_entry_that_could_only_be_a_mistake_is_refused(text: str, said: str) -> None:
    assert said in refusal(text)


def test_a_registry_that_is_no_text_is_refused(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "tables.yaml"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigurationError, match=r"tables\.yaml"):
        registry(settings.model_copy(update={"cubic_tables": path}))
