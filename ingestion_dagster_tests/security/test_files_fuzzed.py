"""Whatever a file holds, it is read, or refused with codes that somebody has explained; nothing else is ever raised."""

import gzip

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ingestion_dagster.cubic.kinds import KINDS
from ingestion_dagster.engine.one_line import one_line
from ingestion_dagster.engine.runbook import ENGINE, entries
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.residents import books
from ingestion_dagster_tests.security.surfaces import FILES, PARTS_OF_KINDS, FileSurface

EXAMPLES = 25
FUZZED = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

HOSTILE = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"\r\n\r\n", b'"', b"'", b"NaN", b"-Infinity", b"1e999999", b"\t",
    b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"<a>" * 1500, b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]>", b"&b;", b",",
    b"<![CDATA[", b"]]>", b"<!--", b"%s%n{0}", b"=cmd|'/c calc'!A1", b"\x1b[2J", "\u202e\u2028\U0001f4a9".encode(), b'","topic":"x"',
    b"A" * 70_000,
)  # fmt: skip
"""What has hurt a parser somewhere."""

residents = tuple(FileSurface("residents", name, f"{name}/inbound/a.xlsx", "") for name in DATASETS)


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """A good file, hurt in a few places."""
    content = bytearray(good)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        match draw(st.sampled_from(["put in", "cut out", "cut off", "flip", "twice"])):
            case "put in":
                content[at:at] = draw(st.sampled_from(HOSTILE) | st.binary(max_size=20))
            case "cut out":
                del content[at : at + draw(st.integers(1, 200))]
            case "cut off":
                del content[at:]
            case "flip" if at < len(content):
                content[at] ^= 1 << draw(st.integers(0, 7))
            case _:
                content[at:at] = content[at : at + draw(st.integers(1, 500))]
    return bytes(content)


def judged(surface: FileSurface, raw: bytes, companion: bytes | None = None) -> list[str]:
    """The codes of a file; every one has an entry in the runbook, and a place and a message without a control character."""
    explained = entries((surface.pipeline, ENGINE))
    problems = PIPELINES[surface.pipeline].check(Settings(), surface.key, raw, lambda _name: companion)
    for problem in problems:
        assert any(entry.matches(problem.code) for entry in explained), problem
        assert problem.place
        assert one_line(problem.place + problem.message) == problem.place + problem.message
    return [problem.code for problem in problems]


@pytest.mark.parametrize("surface", FILES, ids=str)
def test_no_damage_to_a_file_is_more_than_a_refusal(surface: FileSurface) -> None:
    good = surface.raw
    is_packed = surface.key.endswith(".gz")
    found: set[str] = set()

    @FUZZED
    @given(damaged(gzip.decompress(good) if is_packed else good))
    def judge(raw: bytes) -> None:
        found.update(judged(surface, gzip.compress(raw) if is_packed else raw, surface.companion))

    judge()
    assert found, "nothing that was put in was ever noticed"


@pytest.mark.parametrize("surface", FILES, ids=str)
def test_neither_are_bytes_that_are_no_such_file_at_all(surface: FileSurface) -> None:
    for raw in (
        b"",
        *HOSTILE,
        gzip.compress(b""),
        gzip.compress(HOSTILE[0] * 100),
        b"PK\x03\x04",
        surface.raw[: len(surface.raw) // 2],
    ):
        if surface.pipeline == "cubic" and surface.key.endswith(".json"):
            judged(surface, raw)
        else:
            assert judged(surface, raw, surface.companion)


@pytest.mark.parametrize("surface", [each for each in FILES if each.beside], ids=str)
def test_nor_is_damage_to_what_comes_beside_it(surface: FileSurface) -> None:
    @FUZZED
    @given(damaged(surface.companion or b""))
    def judge(companion: bytes) -> None:
        judged(surface, surface.raw, companion)

    judge()


@pytest.mark.parametrize("surface", residents, ids=str)
def test_no_spreadsheet_is_more_than_a_refusal(surface: FileSurface) -> None:
    rows = books.table(surface.kind)

    @settings(FUZZED, max_examples=10)
    @given(damaged(books.text(rows)), damaged(books.workbook(rows)))
    def judge(text: bytes, workbook: bytes) -> None:
        judged(surface, text)
        judged(surface, workbook)

    judge()


@pytest.mark.parametrize("surface", residents, ids=str)
def test_no_cell_is_more_than_a_refused_row(surface: FileSurface) -> None:
    cells = [text for text in (each.decode("utf-8", "ignore") for each in HOSTILE) if text and "\0" not in text and len(text) < 6000]
    for cell in cells:
        rows = [books.header(surface.kind), [cell] * len(books.header(surface.kind))]
        judged(surface, books.text(rows))


def test_every_pipeline_kind_and_dataset_is_in_the_list() -> None:
    found = {(surface.pipeline, surface.kind) for surface in (*FILES, *residents)}
    assert {pipeline for pipeline, _ in found} == PIPELINES.keys() - {"catalog"}, "what takes files is fuzzed; catalog takes none"
    assert {kind for pipeline, kind in found if pipeline == "cubic"} - PARTS_OF_KINDS == set(KINDS)
    assert {kind for pipeline, kind in found if pipeline == "residents"} == set(DATASETS)
