"""What a refresh is said to have done: the numbers of its counts, and nothing that they do not hold."""

import json
from dataclasses import replace
from typing import Any

import pytest

from ingestion_dagster.catalog import report
from ingestion_dagster.catalog.refreshes import ORDER, Refresh
from ingestion_dagster.catalog.report import Change, Report

COUNTS: dict[str, Any] = {
    "tables": {
        "audio": {
            "rows": 1000,
            "deleted": 3,
            "cleaned": 12,
            "fixes": {"url_scheme": 9, "tags": 5},
            "by_provider": {"freesound": 500, "jamendo": 400, "new": 90, "": 10},
            "live_by_provider": {"freesound": 500, "jamendo": 450, "": 10, "gone": 40},
        },
        "audioset": {"rows": 50, "deleted": 0, "cleaned": 0, "fixes": {}, "by_provider": {"jamendo": 50}, "live_by_provider": {}},
    },
    "copy_seconds": 61.0,
    "indexes": 17,
    "index_seconds": 0.42,
    "fill": {"documents": 980, "filtered": 931, "dead": 1, "seconds": 4.0},
    "promotion": {"seconds": 7300.0},
}


def refresh(state: Any = "live", **changes: Any) -> Refresh:
    return Refresh("audio", "one", 1, state, "by hand", "audio", True, True, "run", **{"counts": COUNTS} | changes)


def test_the_report_has_totals_sources_fixes_and_times() -> None:
    assert Report.of("audio", "one", COUNTS).lines() == [
        "audio: 1,000 rows, as before",
        "audioset: 50 rows, the first",
        "new: 90 rows, the first",
        "jamendo: 450 → 400 rows (-50, -11.11 %)",
        "gone: 40 → 0 rows (-40, -100.00 %)",
        "2 sources without change: 510 rows",
        "cleaned: 12 rows (tags 5, url_scheme 9)",
        "left out as moderated: 3 rows",
        "documents: 980, 49 of them sensitive (5.00 %)",
        "refused by the index: 1 document",
        "took copy 1 min 1 s, indexes 0.4 s, filling 4.0 s, swap 2 h 1 min",
    ]


def test_as_metadata_the_report_is_json_with_every_figure() -> None:
    told = json.loads(json.dumps(Report.of("audio", "one", COUNTS).as_dict()))
    assert told["tables"][0] == {"name": "audio", "before": 1000, "after": 1000, "difference": 0, "percent": 0.0}
    assert told["tables"][1] == {"name": "audioset", "before": None, "after": 50, "difference": 50, "percent": None}
    assert {each["name"]: each["difference"] for each in told["sources"]} == {
        "no provider": 0,
        "freesound": 0,
        "gone": -40,
        "jamendo": -50,
        "new": 90,
    }
    assert (told["sensitive"], told["sensitive_percent"], told["dead"], told["fixes"]) == (49, 5.0, 1, {"tags": 5, "url_scheme": 9})


@pytest.mark.parametrize("counts", [{}, {"tables": {}}, {"tables": {"audio": {"rows": 0}}}, {"fill": {}}, {"fill": {"documents": 0}}])
def test_a_refresh_that_has_counted_nothing_yet_can_be_reported(counts: dict[str, Any]) -> None:
    made = Report.of("audio", "one", counts)
    assert made.documents == 0
    assert "documents: 0" in "\n".join(made.lines())
    assert report.markdown("audio", "one", counts).startswith("Refresh `one` of `audio`")


def test_without_a_filtered_index_no_sensitive_share_is_told() -> None:
    made = Report.of("audio", "one", COUNTS, filtered=False)
    assert made.sensitive is None
    assert made.as_dict()["sensitive_percent"] is None
    assert "sensitive" not in "\n".join(made.lines())


def test_many_sources_are_told_in_few_lines_and_none_is_lost() -> None:
    before = {f"source{number:03}": 100 for number in range(80)}
    after = {name: 100 + number % 50 for number, name in enumerate(before)}
    counts = {"tables": {"audio": {"rows": sum(after.values()), "by_provider": after, "live_by_provider": before}}}
    made = Report.of("audio", "one", counts)
    lines = made.lines()
    assert len(lines) < 40
    assert lines[1].startswith("source049: 100 → 149 rows (+49")
    told = sum(each.difference for each in made.changed_sources)
    assert told == made.tables[0].difference
    assert any(line.startswith("48 more sources: ") for line in lines)
    assert any(line == "2 sources without change: 200 rows" for line in lines)


def test_the_markdown_says_what_the_lines_say_once() -> None:
    text = report.markdown("audio", "one", COUNTS)
    assert "| **audio** | 1,000 | 1,000 | +0 | 0.00 |" in text
    assert "| **audioset** |  | 50 | +50 |  |" in text
    assert "| jamendo | 450 | 400 | -50 | -11.11 |" in text
    assert "- 2 sources without change: 510 rows" in text
    assert text.count("jamendo") == 1
    assert "- documents: 980" in text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (Change("x", 100, 98), "x: 100 → 98 rows (-2, -2.00 %)"),
        (Change("x", 1_000_000, 1_000_001), "x: 1,000,000 → 1,000,001 rows (+1, 0.00 %)"),
        (Change("x", 0, 5), "x: 5 rows, the first"),
        (Change("x", None, 5), "x: 5 rows, the first"),
        (Change("x", 5, 5), "x: 5 rows, as before"),
    ],
)
def test_a_change_in_words(change: Change, text: str) -> None:
    assert str(change) == text


@pytest.mark.parametrize("state", [*ORDER, "discarded"])
def test_every_state_says_what_comes_next_and_nothing_that_is_not_done(state: Any) -> None:
    counts = COUNTS if state not in ("requested", "discarded") else {}
    text = report.progress(refresh(state, counts=counts))
    assert text.startswith("*`audio` refresh one* (by hand)")
    assert ("filled: 980 documents, 931 of them in the filtered index, 1 refused in 4.0 s, 245 a second" in text) == (
        state in ("filled", "promoting", "live", "previous", "retired")
    )
    assert ("copied: 1,000 rows of audio, 50 rows of audioset, 12 cleaned in 1 min 1 s" in text) == (
        state not in ("requested", "discarded")
    )
    assert ("readers have it" in text) == (state == "live")


def test_what_waits_for_somebody_says_so() -> None:
    assert "when somebody asks for it" in report.progress(replace(refresh("filled"), promote=False))
