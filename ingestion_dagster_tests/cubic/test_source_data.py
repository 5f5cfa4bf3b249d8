"""`source_data/cubic` is what its generator writes and its README says, and loading it comes to what `expected.json` tells."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.cubic import current, current_state, delta_table, samples
from ingestion_dagster.cubic.columns import CHANGE_COLUMNS
from ingestion_dagster.cubic.dfm import parse
from ingestion_dagster.cubic.registry import parse_registry, registry
from ingestion_dagster.cubic.samples import Delivery
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.cubic.conftest import Cubic

SOURCE_DATA = Path(__file__).parents[2] / "source_data"
FOLDER = SOURCE_DATA / "cubic"
DELIVERIES = samples.deliveries(FOLDER)
DOCS = SOURCE_DATA.parent / "docs"
PAGE = (DOCS / "cubic.md").read_text(encoding="utf-8")
TYPES = {"int", "bigint", "decimal", "float", "double", "boolean", "date", "time", "timestamp", "binary", "string"}
README = (SOURCE_DATA / "README.md").read_text(encoding="utf-8")
FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file())


def generate(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)


def test_committed_files_are_what_the_generator_writes():
    outcome = generate(SOURCE_DATA / "generate_cubic.py", "--check")
    assert (outcome.returncode, outcome.stdout) == (0, "")


def test_check_sees_changed_missing_and_stray_files_and_a_rewrite_repairs_all_but_the_registry(tmp_path: Path):
    script = Path(shutil.copy(SOURCE_DATA / "generate_cubic.py", tmp_path))
    shutil.copytree(FOLDER, tmp_path / "cubic")
    generated = [path.relative_to(FOLDER) for path in FILES if path.name != "tables.yaml"]
    changed, missing, stray = (tmp_path / "cubic" / name for name in (generated[0], generated[-1], "good/stray.csv"))
    registered = (tmp_path / "cubic" / "tables.yaml").read_bytes() + b"# mine\n"
    (tmp_path / "cubic" / "tables.yaml").write_bytes(registered)
    changed.write_bytes(changed.read_bytes() + b" ")
    missing.unlink()
    stray.write_text("")

    outcome = generate(script, "--check")
    assert outcome.returncode == 1
    assert set(outcome.stdout.splitlines()) == {f"differs: {path.relative_to(tmp_path / 'cubic')}" for path in (changed, missing, stray)}

    assert generate(script).returncode == 0
    assert generate(script, "--check").returncode == 0
    assert (tmp_path / "cubic" / "tables.yaml").read_bytes() == registered


def test_generator_and_package_place_the_same_files_with_the_same_times(tmp_path: Path):
    assert generate(SOURCE_DATA / "generate_cubic.py", "--place", str(tmp_path / "script")).returncode == 0
    samples.place(FOLDER, tmp_path / "package")
    placed = [
        {path.relative_to(root): (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "script", tmp_path / "package")
    ]
    assert placed[0] == placed[1]
    assert {str(path) for path in placed[0]} == {f"{each.name}/{key}" for each in DELIVERIES for key in each.modified}


def test_a_folder_without_times_is_refused_by_name(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=re.escape(str(tmp_path))):
        samples.place(tmp_path, tmp_path / "copy")


def test_the_folder_stays_small():
    assert sum(path.stat().st_size for path in FILES) < 200_000


def test_the_default_registry_knows_every_sample_but_the_one_that_nobody_told_of():
    tables = registry(Settings())
    for delivery in DELIVERIES:
        for key, fate in delivery.files.items():
            table = tables.of_key(key)
            assert (table.name if table else "unclassified") == fate["dataset"], key


def test_every_type_of_column_is_delivered():
    described = [path for path in FILES if path.suffix == ".dfm" and "GATE_TAP/" in str(path)]
    columns = {column.type.partition("(")[0] for path in described for column in parse(path.read_bytes()).columns}
    assert columns == TYPES


@pytest.fixture
def shipped(settings: Settings, database: Database) -> Cubic:
    return Cubic(settings, database, registry(settings))


def deliver(shipped: Cubic, connection: Connection, delivery: Delivery, placed: Path) -> None:
    """Land a delivery, load it, and bring the current tables up to date."""
    for key in delivery.modified:
        path = placed / delivery.name / key
        shipped.land(key, path.read_bytes(), datetime.fromtimestamp(path.stat().st_mtime, UTC))
    shipped.run(run_id=delivery.name)
    for table in current_state.behind(connection, shipped.registry):
        assert current.refresh(connection, shipped.settings, shipped.registry, table) is not None


def test_every_file_ends_as_expected_and_the_current_tables_hold_the_newest_rows(shipped: Cubic, database: Database, tmp_path: Path):
    samples.place(FOLDER, tmp_path)
    with database.connect() as connection:
        for delivery in DELIVERIES:
            assert not samples.is_known(connection, delivery)
            deliver(shipped, connection, delivery, tmp_path)
            assert samples.surprises(connection, delivery) == []
            for name, wanted in delivery.current.items():
                assert snapshot_of(shipped, name) == wanted["snapshot"]
                rows = held(shipped, name)
                assert len(rows) == wanted["row_count"]
                assert by_text(rows) == by_text(wanted.get("rows", rows))
        assert all(samples.is_known(connection, delivery) for delivery in DELIVERIES)


def block(mark: str) -> str:
    """The fenced block of the documentation behind a mark."""
    return PAGE.partition(f"<!-- {mark}: tested -->")[2].split("```")[1].partition("\n")[2]


def test_layout_queries_and_readers_of_the_documentation_are_as_shown(
    shipped: Cubic, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    samples.place(FOLDER, tmp_path / "placed")
    with database.connect() as connection:
        for delivery in DELIVERIES:
            deliver(shipped, connection, delivery, tmp_path / "placed")
    storage = shipped.settings.home_folder / "storage" / "cubic"
    shown = [line.split()[0] for line in block("layout").splitlines()]
    assert len(shown) >= 10
    assert [line for line in shown if not list(storage.glob(line.replace("…", "*")))] == []
    statements = [statement for statement in block("queries").split(";") if statement.strip()]
    assert len(statements) >= 6
    assert [statement for statement in statements if not shipped.query(statement)] == []
    (tmp_path / ".ingestion").symlink_to(shipped.settings.home_folder)
    monkeypatch.chdir(tmp_path)
    exec(compile(block("readers"), "docs/cubic.md", "exec"), {})


def test_registry_entry_of_the_documentation_is_one():
    parse_registry(PAGE.partition("```yaml\n")[2].partition("```")[0])


def test_a_file_that_ends_otherwise_is_told_of(shipped: Cubic, database: Database, tmp_path: Path):
    samples.place(FOLDER, tmp_path)
    key, fate = next((key, fate) for key, fate in DELIVERIES[0].files.items() if fate["dataset"] == "cubic__dmap__agg_sample")
    shipped.land(key, (tmp_path / "good" / key).read_bytes(), DELIVERIES[0].modified[key])
    shipped.run()
    none = "cubic/dmap/none.csv"
    other = Delivery("good", dict.fromkeys((key, none), DELIVERIES[0].modified[key]), {key: {**fate, "rows_in": 9}, none: fate}, {})
    with database.connect() as connection:
        assert samples.surprises(connection, other) == [
            f"{key}: rows_in is 2, expected 9",
            f"{none}: has not been landed",
        ]


def snapshot_of(shipped: Cubic, name: str) -> str:
    [found] = shipped.sql(
        'SELECT to_char(s.snapshot, \'YYYYMMDD"T"HH24MISS"Z"\') FROM cubic.current_tables AS c JOIN ledger.datasets AS d'
        f" ON d.id = c.dataset_id JOIN ledger.snapshots AS s ON s.id = c.snapshot_id WHERE d.name = '{name}'"
    )
    return str(found[0])


def held(shipped: Cubic, name: str) -> list[dict[str, Any]]:
    delta = delta_table.open_delta(shipped.settings, shipped.registry.tables[name])
    assert delta is not None
    own = {column.name for column in CHANGE_COLUMNS}
    rows = delta.to_pyarrow_table().to_pylist()
    return [{column: as_json(value) for column, value in row.items() if column not in own} for row in rows]


def as_json(value: Any) -> Any:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    return value.hex().upper() if isinstance(value, bytes) else value


def by_text(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def test_readme_table_of_bad_files_is_true():
    bad = DELIVERIES[-1]
    section = README.partition("`bad/cubic/`")[2].partition("## `residents/`")[0]
    told = dict(re.findall(r"^\| .* \| `(\S+/\S+)` \| (.+) \|$", section, re.MULTILINE))
    assert told.keys() == {key.removeprefix("cubic/") for key in bad.files}
    for key, fate in bad.files.items():
        for code in fate["codes"]:
            assert f"`{code}`" in told[key.removeprefix("cubic/")]


def test_readme_counts_are_true():
    for delivery in DELIVERIES:
        rows = sum(fate["rows_in"] for fate in delivery.files.values())
        assert f"| `{delivery.name}/` | {len(delivery.files)} | {rows:,} |" in README
