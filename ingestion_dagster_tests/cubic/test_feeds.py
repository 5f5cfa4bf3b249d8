"""What is believed of a listing, and which feeds are asked: pure, so without a server."""

import json
from datetime import UTC, date, datetime, timedelta

import pytest

from ingestion_dagster.cubic.feeds import (
    PATHS,
    Invalid,
    Listed,
    NotAListing,
    feeds_of,
    fingerprint,
    is_link,
    newest,
    parse_page,
    question,
    read_record,
    reasons,
    since,
)
from ingestion_dagster.cubic.registry import parse_registry

NOW = datetime(2026, 2, 1, 15, tzinfo=UTC)
RECORD = {
    "id": "agg_demo",
    "dataset_id": "agg_demo_20260101",
    "url": "https://files.invalid/agg_demo/x.csv.gz?sig=a%2Fb",
    "start_date": "2026-01-01",
    "end_date": "2026-01-01",
    "last_updated": "2026-01-02T12:12:24.897363",
}


def registry(*entries):
    tables = [{"name": f"table_{number}", **entry} for number, entry in enumerate(entries)]
    return parse_registry(json.dumps({"tables": tables}))


def feed():
    return feeds_of(registry({"prefix": "cubic/dmap/agg_demo/", "kind": "dmap"}))[0]


def test_a_feed_is_asked_only_for_an_active_dmap_table_of_its_type():
    found = feeds_of(
        registry(
            {"prefix": "cubic/dmap/citation/", "kind": "dmap"},
            {"prefix": "cubic/dmap/agg_demo/", "kind": "dmap"},
            {"prefix": "cubic/dmap/device_event/", "kind": "dmap", "is_active": False},
            {"prefix": "cubic/dmap/a/b/", "kind": "dmap"},
            {"prefix": "elsewhere/agg_daily_fareprod/", "kind": "dmap"},
            {"prefix": "cubic/ods_qlik/EDW.SAMPLE/", "kind": "ods"},
            {"prefix": "cubic/kafka/sample/", "kind": "kafka"},
        )
    )
    assert [(each.type, each.path, each.family) for each in found] == [
        ("agg_demo", "/datasetpublicusersapi/aggregations/agg_demo", "public"),
        ("citation", "/datasetcontrolleduserapi/transactional/citation", "controlled"),
    ]


def test_the_feed_that_was_defined_but_never_fetched_is_among_the_fourteen():
    found = feeds_of(registry(*({"prefix": f"cubic/dmap/{kind}/", "kind": "dmap"} for kind in PATHS)))
    assert len(found) == 14
    assert "agg_hourly_entry_exit_count" in {each.type for each in found}
    assert sorted(each.type for each in found if each.family == "controlled") == [
        "citation", "device_event", "sale_transaction", "use_transaction_location", "use_transaction_longitudinal",
    ]  # fmt: skip


def test_a_record_is_read_and_its_time_without_a_zone_is_utc():
    read = read_record(feed(), RECORD, now=NOW)
    assert read == Listed(
        "agg_demo_20260101", datetime(2026, 1, 2, 12, 12, 24, 897363, UTC), date(2026, 1, 1), date(2026, 1, 1), str(RECORD["url"])
    )
    assert feed().key("agg_demo_20260101") == "cubic/dmap/agg_demo/agg_demo_20260101.csv.gz"
    moved = read_record(feed(), RECORD | {"last_updated": "2026-01-02T07:12:24.897363-05:00"}, now=NOW)
    assert isinstance(moved, Listed)
    assert moved.last_updated == datetime(2026, 1, 2, 12, 12, 24, 897363, UTC)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *(({name: None}, "missing") for name in ("id", "url", "start_date", "end_date")),
        ({"dataset_id": None}, "dataset_id"),
        ({"dataset_id": 20260101}, "dataset_id"),
        ({"dataset_id": ""}, "dataset_id"),
        ({"dataset_id": "../../EDW.SAMPLE/LOAD00000001"}, "dataset_id"),
        ({"dataset_id": "a/b"}, "dataset_id"),
        ({"dataset_id": ".hidden"}, "dataset_id"),
        ({"dataset_id": "name\n"}, "dataset_id"),
        ({"dataset_id": "x" * 201}, "dataset_id"),
        ({"dataset_id": "agg_demo_\uff12\uff10"}, "dataset_id"),
        ({"id": "agg_daily_fareprod"}, "id is not"),
        ({"id": ["agg_demo"]}, "id is not"),
        ({"start_date": "2022-05-45"}, "date"),
        ({"end_date": "2022:05:17"}, "date"),
        ({"end_date": "20220517"}, "date"),
        ({"start_date": 20220517}, "date"),
        ({"last_updated": None}, "last_updated"),
        ({"last_updated": "2026-01-02"}, "last_updated"),
        ({"last_updated": "2026-13-02T12:00:00"}, "last_updated"),
        ({"last_updated": "yesterday"}, "last_updated"),
        ({"last_updated": 1767355944}, "last_updated"),
        ({"last_updated": "9999-12-31T23:59:59-12:00"}, "last_updated"),
        ({"last_updated": "2026-02-03T00:00:00"}, "future"),
        ({"last_updated": "1999-12-31T00:00:00"}, "past"),
        ({"url": "http://files.invalid/x.csv.gz"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"url": "ftp://files.invalid/x"}, "url"),
        ({"url": "https://files.invalid"}, "url"),
        ({"url": "https://files.invalid/"}, "url"),
        ({"url": "https:///x.csv.gz"}, "url"),
        ({"url": "https://user:secret@files.invalid/x.csv.gz"}, "url"),  # pragma: allowlist secret
        ({"url": "https://[::1/x"}, "url"),
        ({"url": "https://files.invalid:notaport/x"}, "url"),
        ({"url": "https://files.invalid/x y"}, "url"),
        ({"url": ""}, "url"),
        ({"url": 7}, "url"),
    ],
)  # fmt: skip
def test_a_record_that_could_lead_astray_is_not_followed(change, reason):
    read = read_record(feed(), RECORD | change, now=NOW)
    assert isinstance(read, Invalid)
    assert reason in read.reason
    assert "secret" not in read.reason


@pytest.mark.parametrize("record", [None, [], "x", 1, {}])
def test_what_is_no_record_is_counted_and_not_followed(record):
    assert isinstance(read_record(feed(), record, now=NOW), Invalid)


def test_a_link_without_tls_is_followed_to_this_machine_only_and_only_for_the_sandbox():
    assert is_link("http://127.0.0.1:8000/x.csv.gz", plain_http=True)
    assert not is_link("http://127.0.0.1:8000/x.csv.gz")
    assert not is_link("http://127.0.0.1.files.invalid/x.csv.gz", plain_http=True)
    assert not is_link("http://files.invalid/x.csv.gz", plain_http=True)


def test_a_listing_begins_a_day_before_the_cursor_because_only_a_day_can_be_asked_for():
    assert question(since(datetime(2026, 3, 1, 0, 0, 0, 1, UTC)), 200) == {"last_updated": "2026-02-28", "limit": "100", "offset": "200"}
    assert question(since(None), 0) == {"limit": "100", "offset": "0"}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>", b"[]", b'{"success": true}', b'{"success": true, "results": {}}', b'{"success": true, "results": [',
        b'{"success": false, "results": []}', b'{"results": []}', b'{"success": "true", "results": []}', b"\xff", b"[" * 100_000,
    ],
)  # fmt: skip
def test_an_answer_that_is_no_listing_is_not_taken_for_an_empty_one(body):
    with pytest.raises(NotAListing):
        parse_page(body)


def test_a_page_is_read_record_by_record():
    assert parse_page(json.dumps({"success": True, "results": [RECORD, None]}).encode()) == [RECORD, None]


def test_a_record_with_a_link_signed_anew_is_the_same_record():
    assert fingerprint(RECORD) == fingerprint(dict(reversed((RECORD | {"url": "https://other.invalid/y"}).items())))
    assert fingerprint(RECORD) != fingerprint(RECORD | {"last_updated": "2026-01-02T12:12:24.897364"})


def test_of_a_dataset_that_is_issued_anew_while_it_is_listed_the_newest_counts_and_the_oldest_come_first():
    def listed(name, hours):
        return Listed(name, NOW + timedelta(hours=hours), NOW.date(), NOW.date(), "https://files.invalid/x")

    found = newest([listed("c", 2), listed("b", 1), listed("a", 2), listed("b", 3), listed("c", 1)])
    assert [(each.dataset_id, each.last_updated) for each in found.values()] == [
        ("a", NOW + timedelta(hours=2)),
        ("c", NOW + timedelta(hours=2)),
        ("b", NOW + timedelta(hours=3)),
    ]


def test_a_link_does_not_show_where_a_dataset_is_printed():
    assert "sig" not in repr(read_record(feed(), RECORD, now=NOW))


def test_reasons_are_counted():
    assert reasons([Invalid("b"), Invalid("a"), Invalid("b")]) == [("a", 1), ("b", 2)]
