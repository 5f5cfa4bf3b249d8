"""`source_data/life_events` is what its generator writes, and every file is read and judged as `life_events.json` tells."""

import json
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ingestion_dagster.engine.errors import Refused
from ingestion_dagster.life_events import record
from ingestion_dagster.life_events.reading import Rules, check_file
from ingestion_dagster.life_events.xml_reader import Found, Reader

SOURCE_DATA = Path(__file__).parents[2] / "source_data"
FOLDER = SOURCE_DATA / "life_events"
SCRIPT = SOURCE_DATA / "generate_life_events.py"
FILES: dict[str, dict[str, Any]] = json.loads((SOURCE_DATA / "life_events.json").read_bytes())
GOOD = [path for path in FILES if not path.startswith("bad/")]
README = (SOURCE_DATA / "README.md").read_text(encoding="utf-8")


def generate(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)


def found(content: bytes) -> Iterator[Found]:
    return (each for batch in Reader().read([content]) for each in batch)


def fields(path: str) -> list[dict[str, Any]]:
    return [each.fields for each in found((FOLDER / path).read_bytes())]


def is_good(each: Found) -> bool:
    return all(problem.severity != "error" for problem in record.judge(each))


@pytest.fixture(scope="module")
def generator() -> Iterator[ModuleType]:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("generate_life_events", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_committed_files_are_what_the_generator_writes():
    outcome = generate(SCRIPT, "--check")
    assert (outcome.returncode, outcome.stdout) == (0, "")


def test_check_sees_changed_missing_and_stray_files_and_a_rewrite_repairs_them(tmp_path: Path):
    script = Path(shutil.copy(SCRIPT, tmp_path))
    shutil.copytree(FOLDER, tmp_path / "life_events")
    shutil.copy(SOURCE_DATA / "life_events.json", tmp_path)
    changed, missing, stray = (tmp_path / "life_events" / name for name in (GOOD[0], GOOD[1], "bad/stray.xml"))
    changed.write_bytes(changed.read_bytes() + b" ")
    missing.unlink()
    stray.write_text("")
    (tmp_path / "life_events.json").write_text("{}")
    outcome = generate(script, "--check")
    assert outcome.returncode == 1
    told = {f"differs: {path.relative_to(tmp_path)}" for path in (changed, missing, stray, tmp_path / "life_events.json")}
    assert set(outcome.stdout.splitlines()) == told
    assert generate(script).returncode == 0
    assert generate(script, "--check").returncode == 0
    assert not stray.exists()


@pytest.mark.parametrize("path", FILES)
def test_file_has_the_faults_that_are_expected_of_it_and_no_other(path: str):
    problems = check_file((FOLDER / path).read_bytes(), Rules())
    assert sorted({problem.code for problem in problems if problem.severity == "error"}) == FILES[path]["codes"]


@pytest.mark.parametrize("path", [path for path in FILES if path.startswith("bad/")])
def test_bad_file_is_refused_as_a_whole(path: str):
    assert FILES[path]["status"] == "errored"
    content = (FOLDER / path).read_bytes()
    if FILES[path]["codes"][1:2] == ["too_many_bad_records"]:
        assert Counter(is_good(each) for each in found(content)) == {False: 12, True: 3}
        return
    with pytest.raises(Refused) as refused:
        list(found(content))
    assert [problem.code for problem in refused.value.problems] == FILES[path]["codes"]


def test_records_of_the_good_files_are_counted_as_expected():
    known: set[bytes] = set()
    for path in GOOD:
        counted: Counter[str] = Counter()
        for each in found((FOLDER / path).read_bytes()):
            identity = record.canonical(each.fields)
            counted["quarantined" if not is_good(each) else "duplicates" if identity in known else "accepted"] += 1
            known.add(identity)
        expected = {name: FILES[path][name] for name in ("accepted", "duplicates", "quarantined")}
        assert {name: counted[name] for name in expected} == expected
        assert FILES[path]["record_count"] == sum(expected.values())


def test_what_is_read_of_the_first_file_is_what_was_written(generator: ModuleType):
    written = list(generator.of_every_kind())
    assert fields(GOOD[0]) == written
    for look in (generator.NAMESPACED, generator.OTHER_PREFIXES, generator.PLAIN):
        assert [each.fields for each in found(generator.xml(written, look))] == written


def test_every_hard_case_is_delivered():
    every = [record for path in GOOD for record in fields(path)]
    assert {each["DeceasedGender"] for each in every} >= {"1", "2", "9"}
    assert {each.get("RecordUpdateReason") for each in every} == {None, "1", "2", "3", "4", "5"}
    assert max(len(each.get("DeceasedMaidenName", ())) for each in every) == 5
    pairs = [(len(each["DeceasedAliasName"]), len(each["DeceasedAliasNameType"])) for each in every if "DeceasedAliasName" in each]
    assert {(1, 1), (2, 2), (3, 1), (4, 4)} <= set(pairs)
    assert any(None in each.get("DeceasedAliasName", ()) for each in every)
    deaths = {("DeceasedDeathDate" in each, "PartialMonthOfDeath" in each, "PartialYearOfDeath" in each) for each in every}
    assert deaths == {(True, False, False), (False, True, True), (False, False, True), (False, False, False)}
    assert {frozenset(each.get("DeceasedAddress", ())) for each in every} >= {
        frozenset(),
        frozenset({"Line"}),
        frozenset({"Postcode"}),
        frozenset({"Flat", "Building", "Postcode"}),
        frozenset({"Line", "Postcode"}),
        frozenset({"Flat", "Building", "Line"}),
    }
    assert max(len(each.get("DeceasedAddress", {}).get("Line", ())) for each in every) == 6
    assert any("RecordLockedDateTime" in each and "RecordUpdateDateTime" in each for each in every)
    assert any(set(each["DeceasedName"]) == {"PersonFamilyName"} for each in every)
    assert any(len(each["DeceasedName"].get("PersonFamilyName", "")) == 128 for each in every)


def test_nobody_in_the_files_exists():
    for path in FILES:
        text = (FOLDER / path).read_bytes().decode("utf-8", errors="ignore")
        assert all(each.startswith("90000") for each in re.findall(r"<(?:\w+:)?RegistrationID>([^<]+)", text))
        assert all(each.startswith("ZZ") for each in re.findall(r"<(?:\w+:)?Postcode>([^<]+)", text))
        assert set(re.findall(r"PersonDeathDate>(\d{4})", text)) <= {"2030", "2031"}


def test_the_folder_stays_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 100_000


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 3001])
def test_a_large_file_has_as_many_registrations_as_it_was_asked_for_all_distinct(tmp_path: Path, count: int):
    outcome = generate(SCRIPT, "--large", str(tmp_path / "large.xml"), "--records", str(count))
    assert outcome.returncode == 0
    reader = Reader()
    content = (tmp_path / "large.xml").read_bytes()
    judged = [(record.canonical(each.fields), is_good(each)) for batch in reader.read([content]) for each in batch]
    assert len({identity for identity, _ in judged}) == len(judged) == reader.record_count == count
    assert all(good for _, good in judged)


@pytest.mark.parametrize("wanted", ["10K", "100K", "5M"])
def test_a_large_file_is_as_large_as_it_was_asked_to_be(tmp_path: Path, wanted: str):
    path = tmp_path / "large.xml"
    assert generate(SCRIPT, "--large", str(path), "--bytes", wanted).returncode == 0
    asked = int(wanted[:-1]) << {"K": 10, "M": 20}[wanted[-1]]
    assert asked - 2000 < path.stat().st_size <= asked
    assert sum(is_good(each) for each in found(path.read_bytes())) > asked // 2000


def test_a_large_file_is_written_in_constant_memory(generator: ModuleType):
    peaks = []
    for count in (10_000, 50_000):
        tracemalloc.start()
        size = sum(map(len, generator.large(records=count)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert 1100 < size / count < 1400
    assert peaks[1] < 1.05 * peaks[0] < 12 * 1024**2


def test_readme_tables_are_true():
    bad = [path for path in FILES if path not in GOOD]
    section = README[README.index("## `life_events/`") :]
    registrations = sum(FILES[path]["record_count"] for path in GOOD)
    assert section.startswith(f"## `life_events/`: {len(FILES)} files, {registrations} registrations in the good ones\n")
    rows = re.findall(r"^\| `([^`]+\.xml)` \| (\d+) \| (\d+) \| (\d+) \|", section, re.MULTILINE)
    counts = {path: tuple(FILES[path][name] for name in ("accepted", "duplicates", "quarantined")) for path in GOOD}
    assert {path: tuple(map(int, numbers)) for path, *numbers in rows} == counts
    told = dict(re.findall(r"^\| .+ \| `(bad/[^`]+\.xml)` \| (.+) \|$", section, re.MULTILINE))
    assert {path: sorted(re.findall(r"`(\w+)`", codes)) for path, codes in told.items()} == {path: FILES[path]["codes"] for path in bad}
