"""The sandbox's DMAP feeds behave as the real ones were observed to: what the pipeline relies on, and what it must withstand."""

import ast
import csv
import gzip
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingestion_dagster import sandbox
from ingestion_dagster.sandbox.dmap_data import COLUMNS, CONTROLLED, daily
from ingestion_dagster.sandbox.dmap_feed import KINDS, DmapFeed
from ingestion_dagster_tests.sandbox.running import running

DEMO = "/datasetpublicusersapi/aggregations/agg_demo"
CITATION = "/datasetcontrolleduserapi/transactional/citation"


class Api:
    """The server, and how a plain client asks it."""

    def __init__(self, feed: DmapFeed, url: str) -> None:
        self.feed = feed
        self.url = url

    def ask(self, path: str, key: str | None = "sandbox-public", *, method: str = "GET", body: Any = None) -> tuple[int, bytes]:
        address = path if path.startswith("http") else self.url + path
        headers = {} if key is None else {"apikey": key}
        request = urllib.request.Request(address, None if body is None else json.dumps(body).encode(), headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def listed(self, query: str = "", path: str = DEMO) -> list[dict[str, str]]:
        status, body = self.ask(f"{path}{query}", "sandbox-controlled" if "controlled" in path else "sandbox-public")
        assert status == 200, body
        content = json.loads(body)
        assert content["success"] is True
        return list(content["results"])

    def admin(self, path: str, body: Any) -> Any:
        status, answer = self.ask(f"/admin/{path}", None, method="POST", body=body)
        assert status == 200, answer
        return json.loads(answer)


@pytest.fixture
def api() -> Iterator[Api]:
    feed = DmapFeed()
    with running(feed) as url:
        yield Api(feed, url)


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        (DEMO, None, 401),
        (DEMO, "wrong", 403),
        (DEMO, "sandbox-controlled", 403),
        (CITATION, "sandbox-public", 403),
        (f"{DEMO}?apikey=sandbox-public", None, 401),
        (DEMO, "sandbox-public", 200),
        (CITATION, "sandbox-controlled", 200),
        ("/datasetpublicusersapi/aggregations/unknown", "sandbox-public", 404),
        ("/datasetpublicusersapi/transactional/agg_demo", "sandbox-public", 404),
    ],
)
def test_a_feed_is_opened_by_the_key_of_its_family_in_the_header(api: Api, path: str, key: str | None, status: int):
    assert api.ask(path, key)[0] == status


def test_a_record_has_six_fields_and_a_time_without_a_zone(api: Api):
    first = api.listed()[0]
    assert first | {"url": ""} == {
        "id": "agg_demo",
        "dataset_id": "agg_demo_20260101",
        "url": "",
        "start_date": "2026-01-01",
        "end_date": "2026-01-01",
        "last_updated": "2026-01-02T12:00:00.897363",
    }
    assert first["url"].startswith(f"{api.url}/files/agg_demo/agg_demo_20260101.csv.gz?")


def test_no_more_than_a_hundred_take_effect_and_beyond_the_end_is_an_empty_page(api: Api):
    assert len(api.admin("datasets", {"type": "agg_demo", "count": 230})["dataset_ids"]) == 230
    pages = [api.listed(f"?limit=1000&offset={offset}") for offset in (0, 100, 200, 300)]
    assert [len(page) for page in pages] == [100, 100, 32, 0]
    assert len({record["dataset_id"] for page in pages for record in page}) == 232
    assert len(api.listed("?limit=7")) == 7


@pytest.mark.parametrize(("asked", "status"), [("2026-01-03", 200), ("2026-01-03T12:00:00", 400), ("yesterday", 400), ("", 200)])
def test_last_updated_is_a_day_only(api: Api, asked: str, status: int):
    assert api.ask(f"{DEMO}?last_updated={asked}")[0] == status


def test_last_updated_selects_what_was_issued_on_that_day_or_later(api: Api):
    assert [each["dataset_id"] for each in api.listed("?last_updated=2026-01-03")] == ["agg_demo_20260102"]
    assert len(api.listed("?last_updated=2026-01-02")) == 2
    assert api.listed("?last_updated=2026-01-04") == []


def test_each_of_the_fourteen_feeds_serves_its_columns_and_no_key_is_needed_for_a_file(api: Api):
    assert len(COLUMNS) == 16
    counts = {kind: len(columns) for kind, columns in COLUMNS.items()}
    assert (counts["sale_transaction"], counts["use_transaction_location"], counts["use_transaction_longitudinal"]) == (169, 147, 145)
    for kind in COLUMNS:
        family = "datasetcontrolleduserapi/transactional" if kind in CONTROLLED else "datasetpublicusersapi/aggregations"
        (record, *_) = api.listed(path=f"/{family}/{kind}")
        status, body = api.ask(record["url"], None)
        assert status == 200
        rows = list(csv.reader(gzip.decompress(body).decode().splitlines()))
        assert rows[0] == list(COLUMNS[kind])
        assert len(rows) > 5
        assert {len(row) for row in rows} == {len(COLUMNS[kind])}


def test_the_same_dataset_is_the_same_bytes_in_every_sandbox():
    assert [each.content() for each in daily("citation", 3)] == [each.content() for each in daily("citation", 3)]
    assert len({each.content() for kind in COLUMNS for each in daily(kind, 3)}) == 3 * len(COLUMNS)
    assert gzip.decompress(daily("agg_demo", 1)[0].content()).decode().splitlines()[:2] == [
        "date,route_id,fare_product_type,count,weekend",
        '2026-01-01,R1,"Adult, single",10,0',
    ]


def test_a_link_expires_with_a_page_of_xml_and_a_listing_gives_a_new_one(api: Api):
    api.admin("links", {"seconds": 60})
    url = api.listed()[0]["url"]
    assert api.ask(url, None)[0] == 200
    later = api.feed.clock() + 61
    api.feed.clock = lambda: later
    status, body = api.ask(url, None)
    assert (status, body.startswith(b"<?xml")) == (403, True)
    assert api.ask(api.listed()[0]["url"], None)[0] == 200


@pytest.mark.parametrize(
    ("old", "new"),
    [("agg_demo_20260101", "agg_demo_20260102"), ("expires=", "expires=9"), ("%2B", "+"), ("%2F", "/"), ("signature=", "s=")],
)
def test_a_link_that_was_changed_in_any_letter_is_refused(api: Api, old: str, new: str):
    url = api.listed()[0]["url"]
    assert old in url
    assert api.ask(url.replace(old, new, 1), None)[0] == 403


def test_a_dataset_issued_anew_has_a_later_time_and_other_content(api: Api):
    before = api.listed()[0]
    content = api.ask(before["url"], None)[1]
    api.admin("reissue", {"type": "agg_demo", "dataset_id": "agg_demo_20260101"})
    after = next(each for each in api.listed() if each["dataset_id"] == "agg_demo_20260101")
    assert after["last_updated"] > before["last_updated"]
    assert api.ask(after["url"], None)[1] != content
    assert len(api.listed()) == 2


def test_a_record_of_any_shape_can_be_listed(api: Api):
    api.admin("records", {"type": "agg_demo", "record": {"dataset_id": "../x"}})
    assert api.listed()[-1] == {"dataset_id": "../x"}


@pytest.mark.parametrize("kind", sorted(KINDS["list"] - {"hang", "reset", "repeat", "success_false"}))
def test_a_listing_fails_as_often_as_it_is_told_to(api: Api, kind: str):
    api.admin("faults", {"op": "list", "kind": kind, "times": 2, "of": "agg_demo", "skip": 1})
    good = [_is_listing(*api.ask(DEMO)) for _ in range(4)]
    assert good == [True, False, False, True]
    assert _is_listing(*api.ask(CITATION, "sandbox-controlled"))


def _is_listing(status: int, body: bytes) -> bool:
    try:
        return status == 200 and json.loads(body)["success"] is True
    except ValueError:
        return False


def test_a_listing_can_say_that_it_failed_or_pay_no_heed_to_the_offset(api: Api):
    api.admin("faults", {"op": "list", "kind": "success_false"})
    assert json.loads(api.ask(DEMO)[1])["success"] is False
    api.admin("faults", {"op": "list", "kind": "repeat"})
    assert len(api.listed("?offset=2")) == 2
    assert api.listed("?offset=2") == []


@pytest.mark.parametrize("kind", sorted(KINDS["file"] - {"hang"}))
def test_a_file_comes_in_every_way_but_the_right_one(api: Api, kind: str):
    url = api.listed()[0]["url"]
    good = api.ask(url, None)
    api.admin("faults", {"op": "file", "kind": kind, "of": "agg_demo_20260101", "times": 5})
    if kind in ("reset", "truncated"):
        with pytest.raises((OSError, http.client.IncompleteRead)):
            api.ask(url, None)
    else:
        assert api.ask(url, None) != good
    assert api.ask("/admin/faults", None, method="DELETE")[0] == 200
    assert api.ask(url, None) == good


def test_a_fault_that_does_not_exist_is_refused(api: Api):
    assert api.ask("/admin/faults", None, method="POST", body={"op": "list", "kind": "earthquake"})[0] == 400
    assert api.ask("/admin/faults", None, method="POST", body={"op": "nowhere", "kind": "500", "x": 1})[0] == 400


def test_it_shows_what_it_was_asked_but_no_key(api: Api):
    api.listed("?limit=5")
    status, body = api.ask("/admin/requests", None)
    assert status == 200
    (asked,) = json.loads(body)
    assert (asked["path"], asked["query"], "apikey" in asked["headers"]) == (DEMO, "limit=5", True)
    assert b"sandbox-public" not in body


def test_it_imports_nothing_of_a_pipeline():
    for module in Path(str(sandbox.__file__)).parent.glob("dmap_*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ingestion_dagster"):
                assert node.module.startswith("ingestion_dagster.sandbox"), (module.name, node.module)
