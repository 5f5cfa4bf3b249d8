"""`source_data/metrics` is what its generator writes and what its README says, and the parser sorts it as its folders do."""

import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.engine.errors import Refused
from ingestion_dagster.metrics import files

SOURCE_DATA = Path(__file__).parents[1] / "source_data"
GOOD = sorted((SOURCE_DATA / "metrics").glob("*.json"))
BAD = sorted((SOURCE_DATA / "metrics" / "bad").glob("*.json"))
CODES = {
    "delayPeriodEnds": ["delay_period_ended"],
    "deprecatedGeography": ["deprecated_geography"],
    "epiweek54": ["bad_epiweek"],
    "fiveFaults": ["bad_age", "bad_epiweek", "bad_geography_code", "unknown_frequency", "unknown_sex"],
    "jsonArray": ["not_an_object"],
    "lowerWithoutUpper": ["confidence_incomplete"],
    "missingMetricGroup": ["missing_field"],
    "mixedFlags": ["mixed_public_flags"],
    "notJson": ["unreadable_json"],
    "prefixOnlyInMetric": ["file_name_contradicts_prefix"],
    "publicFlagContradictsPrefix": ["public_flag_contradicts_prefix"],
    "truncatedJson": ["unreadable_json"],
    "unknownSex": ["unknown_sex"],
    "unknownTopic": ["unknown_topic"],
    "valueNaN": ["value_not_a_number"],
    "valueTenMillion": ["value_out_of_range"],
}
README = (SOURCE_DATA / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def payloads() -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_bytes()) for path in GOOD}


def points(payload: dict[str, Any]) -> list[dict[str, Any]]:
    return payload["data"] if payload["metric_group"] == "headline" else payload["time_series"]


def generate(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)


def test_committed_files_are_what_the_generator_writes():
    outcome = generate(SOURCE_DATA / "generate.py", "--check")
    assert (outcome.returncode, outcome.stdout) == (0, "")


def test_check_sees_changed_missing_and_stray_files_and_a_rewrite_repairs_them(tmp_path: Path):
    script = Path(shutil.copy(SOURCE_DATA / "generate.py", tmp_path))
    shutil.copytree(SOURCE_DATA / "metrics", tmp_path / "metrics")
    changed, missing, stray = (tmp_path / "metrics" / name for name in (GOOD[0].name, GOOD[1].name, "bad/stray.json"))
    changed.write_bytes(changed.read_bytes().replace(b"2025", b"2024", 1))
    missing.unlink()
    stray.write_text("{}")

    outcome = generate(script, "--check")
    assert outcome.returncode == 1
    assert set(outcome.stdout.splitlines()) == {f"differs: {path.relative_to(tmp_path / 'metrics')}" for path in (changed, missing, stray)}
    assert stray.exists()

    assert generate(script).returncode == 0
    assert generate(script, "--check").returncode == 0
    assert not stray.exists()


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_good_file_is_accepted(path: Path):
    files.parse(path.read_bytes(), path.name)


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.name)
def test_bad_file_is_refused_for_the_fault_in_its_name_and_no_other(path: Path):
    with pytest.raises(Refused) as refused:
        files.parse(path.read_bytes(), path.name)
    fault = path.name.removeprefix("OFF-SENS_").split("_")[2]
    assert sorted(problem.code for problem in refused.value.problems) == CODES[fault]


def test_every_group_geography_type_and_theme_is_delivered(payloads: dict[str, dict[str, Any]]):
    counts = {field: len({payload[field] for payload in payloads.values()}) for field in ("metric_group", "geography_type", "parent_theme")}
    assert counts == {"metric_group": 11, "geography_type": 12, "parent_theme": 6}
    frequencies = {payload.get("metric_frequency") for payload in payloads.values()} - {None}
    assert frequencies == {"annual", "quarterly", "monthly", "fortnightly", "weekly", "daily"}


def test_no_two_files_share_an_identity_and_no_name_has_two_meanings(payloads: dict[str, dict[str, Any]]):
    series, parents_of_metric, codes_of_place, places_of_code = set(), defaultdict(set), defaultdict(set), defaultdict(set)
    for payload in payloads.values():
        kind, place, code = payload["geography_type"], payload["geography"], payload["geography_code"]
        series.add((payload["metric"], kind, code, payload["stratum"], payload["age"], payload["sex"]))
        parents_of_metric[payload["metric"]].add((payload["topic"], payload["metric_group"]))
        codes_of_place[kind, place].add(code)
        places_of_code[kind, code].add(place)
    assert len(series) == len(payloads)
    for meanings in (parents_of_metric, codes_of_place, places_of_code):
        assert all(len(values) == 1 for values in meanings.values())


def test_names_agree_with_what_the_files_say(payloads: dict[str, dict[str, Any]]):
    for name, payload in payloads.items():
        rest = "_".join(payload[field].replace(" ", "_") for field in ("geography_code", "age", "sex", "stratum"))
        assert re.fullmatch(rf"{re.escape(payload['metric'])}_[A-Z]+_{re.escape(rest)}\.json", name)


def test_the_hard_cases_are_present(payloads: dict[str, dict[str, Any]]):
    every = [point for payload in payloads.values() for point in points(payload)]
    two_digit = sum(isinstance(point.get("epiweek"), str) and len(point["epiweek"]) == 2 for point in every)
    assert 0.4 < two_digit / len(every) < 0.6
    assert any(point["metric_value"] is None for point in every)
    assert any(point["embargo"] is None for point in every)
    assert any((point["embargo"] or "").startswith("2999") for point in every)
    assert any(point.get("in_reporting_delay_period") for point in every)
    headlines = [point for payload in payloads.values() if payload["metric_group"] == "headline" for point in points(payload)]
    assert {"lower_confidence" in point for point in headlines} == {True, False}
    dates = [[point["date"] for point in payload["time_series"]] for payload in payloads.values() if "time_series" in payload]
    assert any(series != sorted(series) for series in dates)
    assert {point.get("is_public") for name, payload in payloads.items() if name.startswith("OFF-SENS_") for point in points(payload)} == {
        False,
        None,
    }


def test_readme_counts_and_bad_file_table_are_true(payloads: dict[str, dict[str, Any]]):
    total = sum(len(points(payload)) for payload in payloads.values())
    assert f"`metrics/`: {len(GOOD)} files, {total:,} points" in README
    assert f"`metrics/bad/`: {len(BAD)} files" in README
    assert re.findall(r"^\| `(\S+\.json)`", README, re.MULTILINE) == [path.name for path in BAD]
