"""Names of files lead nowhere else: whatever a key is, what becomes of it stands below the place that was meant, or it is no key at all."""

import base64
import importlib
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ingestion_dagster.cubic import discovery
from ingestion_dagster.cubic.places import identifier_of, part_key
from ingestion_dagster.cubic.registry import registry
from ingestion_dagster.engine import notices
from ingestion_dagster.engine.errors import Refused
from ingestion_dagster.engine.kinesis import Record
from ingestion_dagster.engine.landing import versioned
from ingestion_dagster.engine.local_store import LocalStore
from ingestion_dagster.engine.object_store import StoredObject, is_key
from ingestion_dagster.engine.one_line import one_line
from ingestion_dagster.life_events.places import zone as life_events_zone
from ingestion_dagster.metrics import stream
from ingestion_dagster.metrics.places import zone as metrics_zone
from ingestion_dagster.residents.places import dataset_of
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests.security.surfaces import MESSAGES

FUZZED = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
HOSTILE = (
    "..",
    "../..",
    "/etc/passwd",
    "a/../../b",
    "a//b",
    "./a",
    ".hidden",
    "a\0b",
    "a\nb",
    "a\r\nb",
    "%2e%2e%2f",
    "%2e%2e/x",
    "..%2f",
    "-rf",
    "--help",
    "CON",
    "NUL.csv",
    "a:b",
    "C:\\x",
    "..\\..\\x",
    "~root",
    "$(id)",
    "`id`",
    "'; DROP TABLE x; --",
    '"',
    "\uff0e\uff0e\uff0fx",
    "\u202egpj.exe",
    "e\u0301",
    "\ud800",
    "=1+1.csv",
    "<script>",
    "[a](javascript:b)",
    "x" * 300,
    "x/" * 600 + "y",
    "snapshot=1/identifier=2",
    "*",
    "?versionId=1",
    "#a",
    " ",
    "\t",
    "a ",
)
PREFIXES = ("", "cubic/ods_qlik/EDW.SAMPLE/", "cubic/dmap/agg_sample/", "cubic/kafka/sample/", "nsss/inbound/", "OFF-SENS_")
names = st.builds(
    "".join, st.tuples(st.sampled_from(PREFIXES), st.lists(st.sampled_from(HOSTILE) | st.text(max_size=8), max_size=3).map("/".join))
)


def seen(key: str) -> StoredObject:
    return StoredObject(key, 1, datetime(2026, 1, 1, tzinfo=UTC), "1-1-1-1")


def test_no_key_leaves_the_place_that_it_is_put_to(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    store = LocalStore("file:///inside", str(inside))
    (tmp_path / "outside").write_text("untouched")
    written: list[str] = []

    @FUZZED
    @given(names)
    def put(key: str) -> None:
        with suppress(ValueError, OSError):
            written.append(store.write(key, b"x").key)

    put()
    assert len(written) > 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside", "outside"]
    assert all(path.resolve().is_relative_to(inside) for path in inside.rglob("*"))


def test_a_link_in_a_folder_leads_nowhere(tmp_path: Path) -> None:
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    store = LocalStore("file:///inside", str(inside))
    with pytest.raises(ValueError, match="link"):
        store.write("link/x", b"x")
    assert list(outside.iterdir()) == []
    assert [found.key for found in store.list()] == []


@FUZZED
@given(names)
def test_what_becomes_of_a_key_is_a_key_below_its_prefix(key: str) -> None:
    if not is_key(key):
        return
    own = Settings()
    assert is_key(versioned(key, "v")) or len(key) > 700
    for zone in (metrics_zone(own), life_events_zone(own)):
        arrived = zone.arrival(seen(key))
        assert arrived is None or arrived.object.key == key
    tables = registry(own)
    table = tables.of_key(key)
    discovery.arrival(tables, seen(key))
    if table is not None:
        identifier = identifier_of(table, key)
        assert "/" not in identifier
        made = part_key(table, "20260101T000000Z", identifier)
        assert made.startswith(table.prefix)
        assert made.count("/") == table.prefix.count("/") + 2
    assert dataset_of(key) in (None, key.partition("/")[0])


@FUZZED
@given(names)
def test_a_notice_names_a_place_or_is_unreadable(key: str) -> None:
    entry: dict[str, Any] = {
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": key or "b"}, "object": {}},
    }
    with suppress(UnicodeEncodeError):
        for written in (key, quote_plus(key)):
            entry["s3"]["object"] = {"key": written}
            with suppress(notices.Unreadable):
                [place] = notices.read(orjson.dumps({"Records": [entry]}).decode()).created
                assert written in (place.path, quote_plus(place.path)) or "%" in written or "+" in written


@FUZZED
@given(names, st.binary(max_size=50))
def test_a_record_of_a_stream_is_a_file_or_a_dead_letter(name: str, noise: bytes) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    told = {"name": name, "topic": name, "partition": 0, "offset": 1, "data": {"a": 1}}
    for raw in (noise, orjson.dumps(told) if name.isprintable() else noise):
        with suppress(Refused):
            assert is_key(stream.read(raw, 1000).key)
        line = importlib.import_module("ingestion_dagster.cubic.envelopes").read(
            Record(shard="shard", sequence_number="1", data=raw, arrived=now)
        )
        assert line.content.count(b"\n") == 1
        if line.topic is None:
            assert base64.b64decode(orjson.loads(line.content)["data"]) == raw
        else:
            assert is_key(line.topic)


def test_every_module_that_reads_messages_is_fuzzed_here() -> None:
    package = Path(importlib.import_module("ingestion_dagster").__file__ or "").parent
    reads = {
        f"ingestion_dagster.{path.relative_to(package).with_suffix('').as_posix().replace('/', '.')}"
        for path in package.rglob("*.py")
        if path.name in {"notices.py", "envelopes.py", "stream.py"}
    }
    assert reads == set(MESSAGES)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_moves_a_cursor_or_ends_a_line(name: str) -> None:
    assert not set(one_line(name)) & set("\0\n\r\t\x1b\u202e\u2028")
    assert one_line(name).encode()
