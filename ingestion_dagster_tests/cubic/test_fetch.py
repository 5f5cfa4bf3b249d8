"""Fetching a DMAP feed, over HTTP from the sandbox's feeds: what must not be lost, doubled, believed or told."""

import gzip
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster.cubic.feed_source import source_of
from ingestion_dagster.cubic.feeds import Feed, feeds_of
from ingestion_dagster.cubic.fetch import fetch_feed, landing_zone, missing, summary
from ingestion_dagster.cubic.fetching import Fetched
from ingestion_dagster.cubic.registry import parse_registry
from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.http import Http
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.sandbox.dmap_data import Dataset, daily
from ingestion_dagster.sandbox.dmap_feed import DmapFeed
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.engine.conftest import aws_environment, moto_server, new_bucket, one
from ingestion_dagster_tests.sandbox.running import running

__all__ = ["aws_environment", "moto_server", "new_bucket", "one"]

NOW = datetime(2026, 6, 1, 15, tzinfo=UTC)
PUBLIC_KEY = "public-marker-4711"
CONTROLLED_KEY = "controlled-marker-4711"
QUICK = Http(first_pause=0)
TABLES = """
tables:
  - {name: cubic__dmap__agg_demo, prefix: cubic/dmap/agg_demo/, kind: dmap}
  - {name: cubic__dmap__citation, prefix: cubic/dmap/citation/, kind: dmap}
"""
FEEDS = {feed.type: feed for feed in feeds_of(parse_registry(TABLES))}
DEMO = FEEDS["agg_demo"]


@dataclass
class World:
    """A feed server with nothing listed, a database, and a landing zone."""

    server: DmapFeed
    url: str
    settings: Settings
    database: Database
    connection: Connection

    def fetch(self, feed: Feed = DEMO, *, now: datetime = NOW, http: Http = QUICK, **options: Any) -> Fetched:
        return fetch_feed(self.connection, self.settings, feed, now=now, http=http, **options)

    def listed(self, count: int = 3, kind: str = "agg_demo", first: date = date(2026, 1, 1)) -> list[Dataset]:
        made = daily(kind, count, first)
        self.server.put(*made)
        return made

    def goes_wrong(self, at: str, kind: str, times: int = 1, **options: Any) -> None:
        self.server.faults.add(kind, at, times=times, **options)

    def landed(self) -> dict[str, bytes]:
        zone = landing_zone(self.settings)
        return {seen.key: zone.read(seen) for seen in zone.list()}

    def has_landed(self, datasets: list[Dataset]) -> bool:
        return self.landed() == {f"cubic/dmap/{each.type}/{each.dataset_id}.csv.gz": each.content() for each in datasets}

    def questions(self) -> list[str]:
        return [asked.query for asked in self.server.asked if not asked.path.startswith("/files/")]

    def downloads(self) -> Counter[str]:
        return Counter(asked.path.rpartition("/")[2] for asked in self.server.asked if asked.path.startswith("/files/"))


@pytest.fixture
def world(one: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    server = DmapFeed(keys={"public": PUBLIC_KEY, "controlled": CONTROLLED_KEY}, datasets={"agg_demo": {}, "citation": {}})
    with running(server) as url, one.connect() as connection:
        connection.execute("TRUNCATE cubic.dmap_datasets")
        monkeypatch.setenv("INGESTION_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("INGESTION_DATABASE_URL", one.sqlalchemy_url)
        monkeypatch.setenv("INGESTION_CUBIC_DMAP_URL", url)
        monkeypatch.setenv("INGESTION_CUBIC_DMAP_PUBLIC_KEY", PUBLIC_KEY)
        monkeypatch.setenv("INGESTION_CUBIC_DMAP_CONTROLLED_KEY", CONTROLLED_KEY)
        yield World(server, url, current(), one, connection)


def counts(fetched: Fetched) -> tuple[int, ...]:
    return fetched.listed, fetched.new, fetched.uploaded, fetched.unchanged, fetched.invalid, fetched.failed


def test_what_is_new_lands_whole_under_its_key_and_is_noted(world: World):
    datasets = world.listed(3)
    fetched = world.fetch()
    assert counts(fetched) == (3, 3, 3, 0, 0, 0)
    assert fetched.bytes == sum(len(each.content()) for each in datasets)
    assert fetched.problems == ()
    assert world.has_landed(datasets)
    row = world.connection.execute("SELECT * FROM cubic.dmap_datasets ORDER BY dataset_id LIMIT 1").fetchone()
    content = datasets[0].content()
    assert row == (
        DEMO.path,
        "agg_demo_20260101",
        datasets[0].last_updated.replace(tzinfo=UTC),
        date(2026, 1, 1),
        date(2026, 1, 1),
        NOW,
        None,
        "cubic/dmap/agg_demo/agg_demo_20260101.csv.gz",
        len(content),
        hashlib.sha256(content).hexdigest(),
        NOW,
    )
    assert not list((world.settings.home_folder / "scratch" / "dmap").iterdir())


def test_what_was_fetched_is_not_fetched_again_and_a_day_before_it_is_listed_again(world: World):
    world.listed(3)
    world.fetch()
    before = world.downloads()
    fetched = world.fetch()
    assert counts(fetched) == (2, 0, 0, 2, 0, 0)
    assert world.downloads() == before
    assert world.questions() == [
        "limit=100&offset=0",
        "limit=100&offset=3",
        "last_updated=2026-01-03&limit=100&offset=0",
        "last_updated=2026-01-03&limit=100&offset=2",
    ]


def test_a_dataset_of_the_very_microsecond_of_the_cursor_is_fetched(world: World):
    (first,) = world.listed(1)
    world.fetch()
    twin = replace(first, dataset_id="agg_demo_twin")
    world.server.put(twin)
    assert counts(world.fetch()) == (2, 1, 1, 1, 0, 0)
    assert world.has_landed([first, twin])


def test_a_dataset_issued_a_little_before_the_cursor_is_fetched(world: World):
    (first,) = world.listed(1)
    world.fetch()
    late = replace(first, dataset_id="agg_demo_late", last_updated=first.last_updated - timedelta(hours=20))
    world.server.put(late)
    assert world.fetch().uploaded == 1
    assert world.has_landed([first, late])


def test_a_dataset_issued_anew_takes_the_place_of_the_one_before_as_a_new_version(world: World):
    first, second = world.listed(2)
    world.fetch()
    (seen,) = [each for each in landing_zone(world.settings).list() if "20260101" in each.key]
    again = world.server.reissue("agg_demo", first.dataset_id)
    assert counts(world.fetch()) == (2, 1, 1, 1, 0, 0)
    assert world.has_landed([again, second])
    (anew,) = [each for each in landing_zone(world.settings).list() if "20260101" in each.key]
    assert (anew.key, anew.version != seen.version) == (seen.key, True)


def test_a_stale_listing_does_not_bring_an_older_issue_back(world: World):
    (first,) = world.listed(1)
    again = world.server.reissue("agg_demo", first.dataset_id)
    world.fetch()
    world.server.put(replace(first, last_updated=again.last_updated - timedelta(hours=1)))
    assert counts(world.fetch()) == (1, 0, 0, 1, 0, 0)
    assert world.has_landed([again])


def test_1050_new_datasets_are_not_cut_at_ten_pages(world: World):
    datasets = world.listed(1050, first=date(2022, 1, 1))
    memory = Path("/dev/shm")  # else that many are synced to the disk one by one
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as storage:
        world.settings = world.settings.model_copy(update={"storage_url": Path(storage).as_uri()})
        assert counts(world.fetch()) == (1050, 1050, 1050, 0, 0, 0)
        assert world.questions()[:12] == [f"limit=100&offset={offset}" for offset in (*range(0, 1001, 100), 1050)]
        assert world.has_landed(datasets)
        assert set(world.downloads().values()) == {1}


def test_a_feed_that_serves_smaller_pages_than_asked_for_is_read_to_its_end(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ingestion_dagster.sandbox.dmap_feed.MOST", 4)
    datasets = world.listed(10)
    assert counts(world.fetch()) == (10, 10, 10, 0, 0, 0)
    assert world.has_landed(datasets)


def test_a_feed_that_repeats_its_first_page_for_ever_is_not_asked_for_ever(world: World):
    world.listed(100)
    world.goes_wrong("list", "repeat", 10_000)
    fetched = world.fetch()
    assert counts(fetched) == (100, 100, 100, 0, 0, 0)
    assert fetched.codes == {"dmap_page_repeated": 1}
    assert len(world.questions()) == 4


def test_a_short_page_that_is_repeated_hides_nothing(world: World):
    world.listed(3)
    world.goes_wrong("list", "repeat", 10_000)
    fetched = world.fetch()
    assert (fetched.uploaded, fetched.problems) == (3, ())


def test_a_page_of_records_that_cannot_be_followed_does_not_end_the_listing(world: World):
    world.server.records["agg_demo"] = [{"id": "agg_demo", "dataset_id": f"../{number}"} for number in range(150)]
    world.server.records["agg_demo"].append(_record(world, "agg_demo_behind"))
    world.listed(1)
    fetched = world.fetch()
    assert counts(fetched) == (152, 2, 1, 0, 150, 1)
    assert fetched.codes["dmap_record_invalid"] == 1


def _record(world: World, dataset_id: str) -> dict[str, Any]:
    return {
        "id": "agg_demo",
        "dataset_id": dataset_id,
        "url": f"{world.url}/files/agg_demo/{dataset_id}.csv.gz",
        "start_date": "2026-01-01",
        "end_date": "2026-01-01",
        "last_updated": "2026-01-02T12:00:00",
    }


def test_what_slips_from_one_page_to_the_one_before_while_pages_are_counted_off_is_fetched(world: World):
    datasets = world.listed(150, first=date(2022, 1, 1))

    class Shifting(dict):  # the first dataset is issued anew, and so goes to the end, after the first page was answered
        reads = 0

        def values(self):
            self.reads += 1
            if self.reads == 2:
                moved = self.pop(datasets[0].dataset_id)
                self[moved.dataset_id] = replace(moved, last_updated=moved.last_updated + timedelta(days=365), revision=1)
            return super().values()

    world.server.datasets["agg_demo"] = Shifting(world.server.datasets["agg_demo"])
    fetched = world.fetch()
    assert (fetched.new, fetched.uploaded, fetched.failed) == (150, 150, 0)
    assert world.has_landed(list(dict.values(world.server.datasets["agg_demo"])))


@pytest.mark.parametrize(
    "change",
    [{"url": "file:///etc/passwd"}, {"url": None}, {"start_date": "2022-05-45"}, {"id": "citation"}, {"dataset_id": "../x"}],
    ids=str,
)
def test_a_record_that_cannot_be_followed_is_counted_and_the_others_go_on(world: World, change: dict[str, Any]):
    datasets = world.listed(2)
    world.server.records["agg_demo"] = [_record(world, "agg_demo_bad") | change]
    fetched = world.fetch()
    assert counts(fetched) == (3, 2, 2, 0, 1, 0)
    assert world.has_landed(datasets)
    assert fetched.codes == {"dmap_record_invalid": 1}
    assert fetched.failures == ()
    assert str(next(iter(change.values()))) not in fetched.problems[0].message


@pytest.mark.parametrize("host", ["localhost", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]"])
def test_a_link_into_the_inner_network_is_not_followed_and_the_others_go_on(world: World, host: str):
    datasets = world.listed(2)
    port = world.url.rpartition(":")[2]
    led_astray = _record(world, "agg_demo_bad") | {"url": f"https://{host}:{port}/files/agg_demo/agg_demo_bad.csv.gz"}
    world.server.records["agg_demo"] = [led_astray]
    fetched = world.fetch()
    assert fetched.codes == {"http_address_refused": 1}
    assert world.has_landed(datasets)
    assert not [asked for asked in world.server.asked if "agg_demo_bad" in asked.path]
    assert host not in str(fetched)


def test_a_private_endpoint_that_is_named_may_be_asked(world: World):
    world.settings = world.settings.model_copy(update={"cubic_dmap_link_hosts": " Files.internal, [::1]"})
    assert source_of(world.settings, "public").link_hosts == {"127.0.0.1", "files.internal", "::1"}


def test_a_record_that_is_mended_later_is_fetched_though_the_cursor_could_have_passed_it(world: World):
    world.listed(40)
    world.server.records["agg_demo"] = [_record(world, "agg_demo_mended") | {"url": None}]
    assert world.fetch().invalid == 1
    assert missing(world.connection, DEMO) == 1
    mended = replace(daily("agg_demo", 1)[0], dataset_id="agg_demo_mended", last_updated=datetime.fromisoformat("2026-01-02T12:00:00"))
    world.server.records.clear()
    world.server.put(mended)
    fetched = world.fetch(now=NOW + timedelta(days=29))
    assert (fetched.new, fetched.uploaded, fetched.invalid) == (1, 1, 0)
    assert missing(world.connection, DEMO) == 0
    world.fetch()
    assert world.questions()[-1].startswith("last_updated=2026-02-09&")


def test_a_dataset_that_failed_is_fetched_next_time_though_newer_ones_were_fetched(world: World):
    datasets = world.listed(40)
    world.goes_wrong("file", "404", of=datasets[0].dataset_id)
    fetched = world.fetch()
    assert counts(fetched) == (40, 40, 39, 0, 0, 1)
    assert fetched.codes == {"dmap_link_broken": 1}
    assert [problem.place for problem in fetched.problems] == [f"{DEMO.path} {datasets[0].dataset_id}"]
    assert missing(world.connection, DEMO) == 1
    assert counts(world.fetch()) == (40, 1, 1, 39, 0, 0)
    assert world.has_landed(datasets)
    assert set(world.downloads().values()) == {1, 2}


def test_a_dataset_that_never_comes_holds_the_cursor_for_a_month_and_not_for_ever(world: World):
    datasets = world.listed(40)
    world.goes_wrong("file", "404", 1000, of=datasets[0].dataset_id)
    world.fetch()
    assert world.fetch(now=NOW + timedelta(days=29)).listed == 40
    assert world.fetch(now=NOW + timedelta(days=31)).listed == 2


def test_a_newer_issue_makes_up_for_one_that_failed(world: World):
    datasets = world.listed(40)
    world.goes_wrong("file", "404", of=datasets[0].dataset_id)
    world.fetch()
    world.server.put(replace(datasets[0], last_updated=datasets[-1].last_updated, revision=1))
    assert world.fetch().uploaded == 1
    assert missing(world.connection, DEMO) == 0
    assert world.fetch().listed == 3


# Links that expire


def test_links_that_expire_halfway_are_listed_anew_and_the_rest_goes_on(world: World):
    datasets = world.listed(6)
    world.server.link_seconds = 50.0
    world.server.clock = lambda: 20.0 * world.downloads().total()  # so long takes each file
    fetched = world.fetch()
    assert (fetched.uploaded, fetched.failed, fetched.problems) == (6, 0, ())
    assert world.has_landed(datasets)
    assert len(world.questions()) == 2 * 3


def test_a_good_download_after_the_fifth_listing_is_good(world: World):
    datasets = world.listed(1)
    world.goes_wrong("file", "403", 5)
    fetched = world.fetch()
    assert (fetched.uploaded, fetched.failed, fetched.problems) == (1, 0, ())
    assert world.has_landed(datasets)


def test_links_that_are_dead_on_arrival_are_not_listed_for_ever(world: World):
    world.listed(4)
    world.server.link_seconds = 0
    fetched = world.fetch()
    assert counts(fetched) == (4, 4, 0, 0, 0, 4)
    assert fetched.codes == {"dmap_links_expired": 1}
    assert len(world.questions()) == 2 * 6
    world.server.link_seconds = 60
    assert counts(world.fetch()) == (4, 4, 4, 0, 0, 0)


def test_the_five_listings_are_counted_anew_after_a_good_download(world: World):
    datasets = world.listed(2)
    world.goes_wrong("file", "403", 6, of=datasets[0].dataset_id)
    assert world.fetch().uploaded == 2
    assert world.has_landed(datasets)


def test_one_file_that_is_always_refused_does_not_keep_the_others_from_their_turn(world: World):
    datasets = world.listed(5)
    world.goes_wrong("file", "403", 1000, of=datasets[0].dataset_id)
    fetched = world.fetch()
    assert counts(fetched) == (5, 5, 4, 0, 0, 1)
    assert world.has_landed(datasets[1:])


def test_a_dataset_that_is_no_longer_listed_when_its_turn_comes_is_told_of(world: World):
    datasets = world.listed(2)
    world.goes_wrong("file", "403", of=datasets[0].dataset_id)
    gone = world.server.datasets["agg_demo"]

    class Going(dict):
        reads = 0

        def values(self):
            self.reads += 1
            if self.reads == 3:
                del self[datasets[1].dataset_id]
            return super().values()

    world.server.datasets["agg_demo"] = Going(gone)
    fetched = world.fetch()
    assert (fetched.uploaded, fetched.failed, fetched.codes) == (1, 1, {"dmap_dataset_gone": 1})


# What is not believed


@pytest.mark.parametrize("kind", ["truncated", "wrong_length", "corrupt", "chunked", "html"])
def test_a_file_that_comes_damaged_is_asked_for_again(world: World, kind: str):
    datasets = world.listed(1)
    world.goes_wrong("file", kind, 3)
    fetched = world.fetch()
    assert (fetched.uploaded, fetched.problems) == (1, ())
    assert world.has_landed(datasets)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("truncated", "dmap_file_not_whole"),
        ("wrong_length", "dmap_file_not_whole"),
        ("corrupt", "dmap_file_not_whole"),
        ("chunked", "dmap_file_not_whole"),
        ("html", "dmap_file_no_data"),
        ("404", "dmap_link_broken"),
        ("302", "dmap_link_broken"),
        ("500", "http_server_error"),
        ("429", "http_throttled"),
        ("reset", "http_broken"),
    ],
)
def test_what_is_no_whole_file_never_lands_and_the_next_dataset_does(world: World, kind: str, code: str):
    datasets = world.listed(3)
    world.goes_wrong("file", kind, 1000, of=datasets[1].dataset_id)
    fetched = world.fetch()
    assert counts(fetched) == (3, 3, 2, 0, 0, 1)
    assert fetched.codes == {code: 1}
    assert world.has_landed([datasets[0], datasets[2]])
    assert not list((world.settings.home_folder / "scratch" / "dmap").iterdir())


def test_a_page_of_an_error_that_is_packed_as_gzip_does_not_land(world: World, monkeypatch: pytest.MonkeyPatch):
    world.listed(1)
    monkeypatch.setattr(Dataset, "content", lambda _: gzip.compress(b'\xef\xbb\xbf<?xml version="1.0"?><Error/>'))
    assert world.fetch().codes == {"dmap_file_no_data": 1}
    assert world.landed() == {}


def test_a_file_over_the_limit_is_not_downloaded(world: World):
    world.listed(1)
    fetched = world.fetch(max_bytes=50)
    assert (fetched.uploaded, fetched.codes) == (0, {"dmap_file_too_large": 1})
    assert world.downloads() == {"agg_demo_20260101.csv.gz": 1}


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("success_false", "dmap_listing_failed"),
        ("html", "dmap_listing_failed"),
        ("not_json", "dmap_listing_failed"),
        ("500", "http_server_error"),
        ("429", "http_throttled"),
        ("reset", "http_broken"),
    ],
)
def test_a_listing_that_fails_is_an_error_and_not_an_empty_feed(world: World, kind: str, code: str):
    datasets = world.listed(2)
    world.goes_wrong("list", kind, 1000)
    fetched = world.fetch()
    assert counts(fetched) == (0, 0, 0, 0, 0, 0)
    assert (fetched.codes, fetched.may_pass) == ({code: 1}, True)
    assert world.landed() == {}
    world.server.faults.clear()
    world.goes_wrong("list", kind, 3)
    assert world.fetch().uploaded == 2
    assert world.has_landed(datasets)


def test_a_listing_that_fails_on_its_second_page_fetches_nothing_so_that_nothing_is_passed_over(world: World):
    world.listed(101, first=date(2025, 1, 1))
    world.goes_wrong("list", "500", 4, skip=1)
    assert world.fetch().codes == {"http_server_error": 1}
    assert world.landed() == {}


def test_a_server_that_hangs_is_given_up(world: World):
    world.listed(1)
    world.goes_wrong("list", "hang", 2)
    hasty = Http(first_pause=0, silence_timeout=0.2, retries=1)
    fetched = world.fetch(http=hasty)
    assert fetched.codes == {"http_timeout": 1}
    world.goes_wrong("file", "hang", 1)
    assert world.fetch(http=hasty).uploaded == 1


def test_a_server_that_is_not_there_is_told_of_and_no_more(world: World):
    with running(DmapFeed()) as gone:
        pass
    settings = world.settings.model_copy(update={"cubic_dmap_url": gone})
    fetched = fetch_feed(world.connection, settings, DEMO, now=NOW, http=QUICK)
    assert fetched.codes == {"http_unreachable": 1}
    assert gone.rpartition(":")[2] not in str(fetched)


def test_a_store_of_files_that_is_down_is_not_asked_for_each_of_many_datasets(world: World):
    datasets = world.listed(20)
    world.goes_wrong("file", "503", 10_000)
    fetched = world.fetch()
    assert counts(fetched) == (20, 20, 0, 0, 0, 20)
    assert fetched.codes == {"http_server_error": 3, "dmap_feed_down": 1}
    assert sum(world.downloads().values()) == 12
    world.server.faults.clear()
    assert world.fetch().uploaded == 20
    assert world.has_landed(datasets)


def test_a_pause_that_is_asked_for_is_made(world: World):
    world.listed(1)
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    world.goes_wrong("list", "429", 1, retry_after="17")
    assert world.fetch(http=Http(first_pause=4, sleep=sleep, chance=lambda: 0.5)).uploaded == 1
    assert pauses == [17.5]


# Keys


def test_the_key_goes_to_the_feed_in_a_header_and_nowhere_else(world: World, caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    world.listed(2)
    world.goes_wrong("list", "500")
    world.goes_wrong("file", "302", of="agg_demo_20260102")
    fetched = world.fetch()
    assert fetched.uploaded == 1
    for asked in world.server.asked:
        assert PUBLIC_KEY not in asked.path + asked.query
        assert ("apikey" in asked.headers) == (not asked.path.startswith("/files/")), asked.path
    assert all(asked.path != "/healthz" for asked in world.server.asked)
    assert PUBLIC_KEY not in caplog.text + repr(fetched) + summary(fetched)
    assert "signature=" not in caplog.text + repr(fetched)
    assert PUBLIC_KEY not in repr(source_of(world.settings, "public"))


def test_each_family_of_feeds_is_opened_with_its_own_key(world: World):
    world.listed(1)
    world.listed(1, kind="citation")
    assert world.fetch(FEEDS["citation"]).uploaded == 1
    assert world.fetch().uploaded == 1
    swapped = world.settings.model_copy(update={"cubic_dmap_public_key": CONTROLLED_KEY})
    fetched = fetch_feed(world.connection, swapped, DEMO, now=NOW, http=QUICK)
    assert fetched.codes == {"dmap_key_refused": 1}
    assert "INGESTION_CUBIC_DMAP_PUBLIC_KEY" in fetched.problems[0].message
    assert CONTROLLED_KEY not in repr(fetched)
    assert not fetched.may_pass


def test_a_feed_that_is_unknown_there_is_told_of(world: World):
    del world.server.datasets["agg_demo"]
    fetched = world.fetch()
    assert (fetched.codes, fetched.may_pass) == ({"dmap_feed_unknown": 1}, False)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"environment": "staging"}, "INGESTION_CUBIC_DMAP_URL"),
        ({"environment": "production"}, "INGESTION_CUBIC_DMAP_URL"),
        ({}, "ingestion sandbox up"),
        ({"cubic_dmap_url": "https://api.invalid"}, "INGESTION_CUBIC_DMAP_CONTROLLED_KEY"),
        ({"cubic_dmap_url": "http://api.invalid", "cubic_dmap_controlled_key": "k"}, "https://"),
        ({"cubic_dmap_url": "http://127.0.0.1:1", "cubic_dmap_controlled_key": "k", "environment": "production"}, "production"),
        ({"cubic_dmap_url": "https://api.invalid", "cubic_dmap_controlled_key": "k\n"}, "INGESTION_CUBIC_DMAP_CONTROLLED_KEY"),
    ],
)
def test_what_is_missing_in_the_environment_is_named(tmp_path: Path, given: dict[str, Any], named: str):
    with pytest.raises(ConfigurationError) as refused:
        source_of(Settings(home=tmp_path, **given), "controlled")
    assert named in str(refused.value)


# Crashes, and two at once


POINTS = ["before_enter", "after_enter", "before_upload:2", "after_upload:2", "after_cursor:2"]


@pytest.mark.parametrize("point", [*(f"cubic.fetch.{point}" for point in POINTS), "object_store.copy.before_write:2"])
def test_killed_wherever_it_may_be_a_repetition_loses_and_doubles_nothing(world: World, point: str):
    datasets = world.listed(3)
    environment = os.environ | {"INGESTION_TEST_FAULT": point, "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run([sys.executable, "-m", __name__], env=environment, check=False, capture_output=True, timeout=60)
    assert killed.returncode == -9, killed.stderr
    deadline = time.monotonic() + 10
    while "dmap_fetch_in_progress" in (fetched := world.fetch()).codes:  # the server has not noticed yet
        assert time.monotonic() < deadline
    assert fetched.failed == 0
    assert fetched.problems == ()
    assert world.has_landed(datasets)
    noted = world.connection.execute("SELECT count(*), count(fetched_at), count(DISTINCT key) FROM cubic.dmap_datasets").fetchone()
    assert noted == (3, 3, 3)
    assert sum(world.downloads().values()) <= 4
    assert not list((world.settings.home_folder / "scratch" / "dmap").iterdir())


def test_two_fetches_of_a_feed_do_not_overlap(world: World):
    datasets = world.listed(2)
    inside = threading.Event()
    go_on = threading.Event()

    async def pause(_: float) -> None:
        inside.set()
        go_on.wait(30)

    world.goes_wrong("list", "500")
    first: list[Fetched] = []

    def fetch_first() -> None:
        with world.database.connect() as connection:
            first.append(fetch_feed(connection, world.settings, DEMO, now=NOW, http=Http(first_pause=0, sleep=pause)))

    thread = threading.Thread(target=fetch_first)
    thread.start()
    try:
        assert inside.wait(30)
        second = world.fetch()
        other = world.fetch(FEEDS["citation"])
    finally:
        go_on.set()
        thread.join(30)
    assert (second.codes, second.failures, counts(second)) == ({"dmap_fetch_in_progress": 1}, (), (0, 0, 0, 0, 0, 0))
    assert other.problems == ()
    assert first[0].uploaded == 2
    assert world.has_landed(datasets)
    assert world.fetch().problems == ()


def test_a_database_that_goes_away_is_told_without_what_was_to_be_written(world: World):
    world.listed(1)
    world.connection.execute("ALTER TABLE cubic.dmap_datasets ADD CONSTRAINT none CHECK (dataset_id <> 'agg_demo_20260101')")
    try:
        with pytest.raises(Transient) as told:
            world.fetch()
    finally:
        world.connection.execute("ALTER TABLE cubic.dmap_datasets DROP CONSTRAINT none")
    assert told.value.code == "database_unavailable"
    assert "agg_demo_20260101" not in str(told.value)
    assert told.value.__suppress_context__


def test_a_dataset_lands_in_a_bucket_too(world: World, new_bucket: Any):
    datasets = world.listed(2)
    world.settings = world.settings.model_copy(update={"cubic_landing_url": f"s3://{new_bucket()}/incoming"})
    assert world.fetch().uploaded == 2
    assert world.has_landed(datasets)


def _fetch_once() -> None:
    settings = current()
    with postgres.locate(settings).connect() as connection:
        fetch_feed(connection, settings, DEMO, now=NOW, http=QUICK)


if __name__ == "__main__":
    _fetch_once()
