"""The embedded engine among several processes, killed ones among them."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ingestion_dagster.catalog import mapping
from ingestion_dagster.catalog.embedded_search import EmbeddedSearch
from ingestion_dagster.catalog.search import AliasMove, Query
from ingestion_dagster.engine.errors import ConfigurationError, Refused, Transient

PREAMBLE = """
import sys
from ingestion_dagster.catalog import mapping
from ingestion_dagster.catalog.embedded_search import EmbeddedSearch
from ingestion_dagster.catalog.search import AliasMove
engine = EmbeddedSearch.at(sys.argv[1])
"""
FILL = """
for start in range(int(sys.argv[2]), int(sys.argv[3]), 50):
    engine.bulk("image-a", [(number, b'{"source":"a"}') for number in range(start, start + 50)])
    sys.stdout.write(f"{start + 50}\\n")
    sys.stdout.flush()
"""


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A folder of the test's own."""
    return (tmp_path / "sea rch").as_uri()


@pytest.fixture
def engine(url: str) -> EmbeddedSearch:
    """The engine of that folder, with an empty index."""
    made = EmbeddedSearch.at(url)
    made.create("image-a", mapping.IMAGE.definition({"refresh": "a"}))
    return made


def started(url: str, code: str, *arguments: object, fault: str | None = None) -> subprocess.Popen[str]:
    """Another process that does this with the folder."""
    environment = {name: value for name, value in os.environ.items() if name != "INGESTION_TEST_FAULT"}
    if fault:
        environment["INGESTION_TEST_FAULT"] = fault
    command = [sys.executable, "-c", PREAMBLE + code, url, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def killed(url: str, code: str, fault: str) -> None:
    """Another process does this until it is killed at the fault point."""
    with started(url, code, fault=fault) as process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def test_two_processes_fill_one_index_and_a_third_reads_it(engine: EmbeddedSearch, url: str) -> None:
    with started(url, FILL, 0, 300) as first, started(url, FILL, 300, 600) as second:
        while first.poll() is None or second.poll() is None:
            assert engine.count("image-a") % 50 == 0, "half a bulk is seen"
    assert (first.returncode, second.returncode) == (0, 0)
    assert engine.count("image-a") == 600


def test_a_killed_writer_has_lost_no_bulk_that_returned_and_holds_nothing_up(engine: EmbeddedSearch, url: str) -> None:
    with started(url, FILL, 0, 100_000) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(3)]
        process.kill()
        acknowledged += [int(line) for line in process.stdout]
    there = engine.count("image-a")
    assert there in (acknowledged[-1], acknowledged[-1] + 50)
    assert engine.bulk("image-a", [(10**6, b"{}")]).accepted == 1
    assert engine.count("image-a") == there + 1


@pytest.mark.parametrize(("fault", "there"), [("catalog.embedded_commit.before", 0), ("catalog.embedded_commit.after", 50)])
def test_a_bulk_is_there_whole_or_not_at_all(engine: EmbeddedSearch, url: str, fault: str, there: int) -> None:
    killed(url, 'engine.bulk("image-a", [(number, b"{}") for number in range(50)])', fault)
    assert engine.count("image-a") == there
    engine.bulk("image-a", [(number, b"{}") for number in range(50)])
    assert engine.count("image-a") == 50


@pytest.mark.parametrize(("fault", "there"), [("catalog.embedded_create.before", False), ("catalog.embedded_create.after", True)])
def test_an_index_half_made_is_none(url: str, fault: str, there: bool) -> None:
    killed(url, 'engine.create("image-b", mapping.IMAGE.definition({}))', fault)
    engine = EmbeddedSearch.at(url)
    assert (engine.exists("image-b"), engine.indexes("")) == (there, ("image-b",) if there else ())
    engine.create("image-c", mapping.IMAGE.definition({}))
    assert not list(Path(url.removeprefix("file://").replace("%20", " ")).glob("making/*"))


@pytest.mark.parametrize(("fault", "there"), [("catalog.embedded_delete.before", True), ("catalog.embedded_delete.after", False)])
def test_an_index_half_deleted_is_whole_or_gone(engine: EmbeddedSearch, url: str, fault: str, there: bool) -> None:
    engine.bulk("image-a", [(1, b"{}")])
    killed(url, 'engine.delete_index("image-a")', fault)
    assert engine.exists("image-a") is there
    if there:
        assert engine.count("image-a") == 1
        assert engine.delete_index("image-a")
    engine.create("image-a", mapping.IMAGE.definition({}))
    assert engine.count("image-a") == 0, "documents of the deleted index are still read"


@pytest.mark.parametrize(("fault", "behind"), [("catalog.embedded_switch.before", ()), ("catalog.embedded_switch.after", ("image-a",))])
def test_aliases_move_together_whenever_the_process_is_killed(
    engine: EmbeddedSearch, url: str, fault: str, behind: tuple[str, ...]
) -> None:
    killed(url, 'engine.switch([AliasMove("image", "image-a"), AliasMove("image-filtered", "image-a")])', fault)
    assert (engine.behind("image"), engine.behind("image-filtered")) == (behind, behind)
    engine.switch([AliasMove("image", "image-a")])


def test_who_reads_an_alias_never_misses_its_index(engine: EmbeddedSearch, url: str) -> None:
    engine.bulk("image-a", [(1, b'{"title":"bird"}')])
    engine.switch([AliasMove("image", "image-a")])
    reader, over, seen = EmbeddedSearch.at(url), threading.Event(), []

    def read() -> None:
        while not over.is_set():
            seen.append(reader.search("image", Query("bird")).total)

    thread = threading.Thread(target=read)
    thread.start()
    for turn in range(8):
        new, old = ("image-b", "image-a") if turn % 2 == 0 else ("image-a", "image-b")
        engine.create(new, mapping.IMAGE.definition({}))
        engine.bulk(new, [(1, b'{"title":"birds"}')])
        engine.switch([AliasMove("image", new)])
        assert engine.delete_index(old)
    over.set()
    thread.join()
    assert set(seen) == {1}


def test_an_index_deleted_while_it_is_written_to_takes_nothing_more(engine: EmbeddedSearch, url: str) -> None:
    other = EmbeddedSearch.at(url)
    other.bulk("image-a", [(1, b"{}")])
    assert engine.delete_index("image-a")
    with pytest.raises(Refused, match="no_such_index"):
        other.bulk("image-a", [(2, b"{}")])
    engine.create("image-a", mapping.IMAGE.definition({}))
    other.bulk("image-a", [(3, b"{}")])
    assert list(engine.get("image-a", [1, 2, 3])) == [3]


def test_what_the_disk_does_not_do_may_pass(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    engine = EmbeddedSearch.at((tmp_path / "file" / "search").as_uri())
    with pytest.raises(Transient, match="search_unavailable"):
        engine.create("image-a", mapping.IMAGE.definition({}))
    assert engine.problems()


def test_nothing_is_made_before_it_is_written_to(tmp_path: Path) -> None:
    engine = EmbeddedSearch.at((tmp_path / "search").as_uri())
    assert (engine.exists("image"), engine.indexes(""), engine.behind("image"), engine.problems()) == (False, (), (), ())
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize("url", ["file://host/folder", "file:///", "folder", "https://host/folder", ""])
def test_an_address_of_no_folder_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="INGESTION_CATALOG_SEARCH_URL"):
        EmbeddedSearch.at(url)
