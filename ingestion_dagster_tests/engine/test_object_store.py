"""One contract for a folder, a bucket and a bucket with versions; then what can go wrong with each of them alone."""

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import obstore
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.exceptions import InvalidPathError

from ingestion_dagster.engine import local_removal, local_store, local_writing, s3_store
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.local_store import LocalStore
from ingestion_dagster.engine.object_store import Changed, Missing, ObjectStore, StoredObject, is_key, open_store
from ingestion_dagster.engine.s3_store import S3Store

KINDS = ["folder", "bucket", "versioned bucket"]
ODD_KEYS = [
    "a b/c d.json",
    "1+1=2&3.json",
    "100%.json",
    "a%20b%2Fc.json",
    "#1?.json",
    "é.json",
    "e\u0301.json",
    "😀/🇬🇧.json",
    "in/in/in.json",
    "metrics/in/x.in",
    "n" * 240 + ".json",
    "~!@$^*()=:;,'\"[]{}|`<>\\.json",
    " space before and after ",
    "ends with dot.",
    "\u200b\u2028\u00a0.json",
]
BAD_KEYS = ["", "/a", "a/", "a//b", "..", "../a", "a/../b", "a/..", ".", "a/./b", ".hidden", "a/.hidden", "a\nb", "a\0b", "a\udc80b"]


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> ObjectStore:
    return new_store(request, request.param)


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest) -> ObjectStore:
    return new_store(request, request.param)


@pytest.fixture
def folder(tmp_path: Path) -> LocalStore:
    """A store on `tmp_path / "folder"`."""
    store = open_store(f"file://{tmp_path}/folder")
    assert isinstance(store, LocalStore)
    return store


def new_store(request: pytest.FixtureRequest, kind: str) -> ObjectStore:
    if kind == "folder":
        path = request.getfixturevalue("tmp_path") / f"a folder {time.monotonic_ns()}"
        return open_store(path.as_uri())
    bucket = request.getfixturevalue("new_bucket")(versioned=kind == "versioned bucket")
    return open_store(f"s3://{bucket}/some prefix")


def keeps_versions(store: ObjectStore) -> bool:
    return isinstance(store, S3Store) and store._versioned


def raw_keys(store: ObjectStore) -> set[str]:
    """What is really there, without the store's help."""
    if isinstance(store, LocalStore):
        root = Path(store._root)
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    bucket, prefix = bucket_of(store)
    contents = boto3.client("s3").list_objects_v2(Bucket=bucket).get("Contents", [])
    return {content["Key"].removeprefix(f"{prefix}/") for content in contents}


def bucket_of(store: ObjectStore) -> tuple[str, str]:
    bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
    return bucket, prefix


def keys(store: ObjectStore, prefix: str = "") -> set[str]:
    return {obj.key for obj in store.list(prefix)}


def content(store: ObjectStore, key: str) -> bytes:
    obj = store.find(key)
    assert obj is not None
    return store.read(obj)


def reopened(store: ObjectStore) -> ObjectStore:
    open_store.cache_clear()
    again = open_store(store.url)
    assert again is not store
    return again


# Keys


@pytest.mark.parametrize("key", ODD_KEYS)
def test_an_odd_name_is_not_mangled(store: ObjectStore, key: str) -> None:
    written = store.write(key, b"content")
    assert raw_keys(store) == {key}
    assert [*store.list()] == [written] == [store.find(key)]
    assert store.read(written) == b"content"
    copied = store.copy(written, store, f"copy of/{key}")
    assert raw_keys(store) == {key, f"copy of/{key}"}
    assert store.read(copied) == b"content"
    assert store.remove(written)
    assert raw_keys(store) == {f"copy of/{key}"}


@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\x7f", min_codepoint=0x20), min_size=1, max_size=60)
        .filter(lambda name: not name.startswith("."))
        .filter(lambda name: len(name.encode()) < 256),
        min_size=1,
        max_size=4,
    ),
    data=st.binary(max_size=100),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_name_round_trips_through_a_folder(tmp_path_factory: pytest.TempPathFactory, names: list[str], data: bytes) -> None:
    store = LocalStore("file:///root", str(tmp_path_factory.mktemp("root")))
    key = "/".join(names)
    written = store.write(key, data)
    assert [*store.list()] == [written] == [store.find(key)]
    assert store.read(written) == data
    assert store.remove(written)
    assert raw_keys(store) == set()


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_could_leave_the_store_is_refused(store: ObjectStore, key: str) -> None:
    obj = StoredObject(key, 1, datetime.now(UTC), "1-1-1-1")
    good = store.write("good", b"")
    for attempt in (
        lambda: store.find(key),
        lambda: store.write(key, b""),
        lambda: store.read(obj),
        lambda: store.remove(obj),
        lambda: store.copy(good, store, key),
    ):
        with pytest.raises(ValueError, match="not a key"):
            attempt()
    if key.strip("/"):
        with pytest.raises(ValueError, match="not a key"):
            next(store.list(f"{key}/x"))


def test_a_key_that_is_too_long_is_refused_and_not_tried_again(store: ObjectStore) -> None:
    with pytest.raises(ValueError, match="cannot hold the key"):
        store.write("n" * 1100, b"")


def test_a_key_too_long_for_the_ledger_does_not_stop_the_others(store: ObjectStore, caplog: pytest.LogCaptureFixture) -> None:
    longest, longer = (f"{'/'.join(['é' * 100] * 5)}/{'n' * count}" for count in (19, 20))
    assert (len(longest.encode()), is_key(longest), is_key(longer)) == (1024, True, False)
    if isinstance(store, LocalStore):
        for key in ("a", longest, longer, f"{longest}.folder/a"):
            store.write(key, b"")
        with caplog.at_level(logging.WARNING):
            assert keys(store) == {"a", longest}
        assert "skipped 2 names" in caplog.text
    else:
        store.write("a", b"")
        with pytest.raises(ValueError, match="cannot hold the key"):
            store.write(longer, b"")
        assert keys(store) == {"a"}


def test_a_hidden_file_is_not_loaded(store: ObjectStore) -> None:
    store.write("folder/seen", b"")
    if isinstance(store, LocalStore):
        for name in (".DS_Store", "folder/.seen.rsync", ".ingestion-writing-0"):
            Path(store._root, name).write_bytes(b"x")
        Path(store._root, ".git").mkdir()
        Path(store._root, ".git/config").write_bytes(b"x")
    else:
        bucket, prefix = bucket_of(store)
        for name in (".DS_Store", "folder/.seen.rsync", ".git/config"):
            boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=b"x")
    assert keys(store) == {"folder/seen"}


# Listing


def test_a_listing_does_not_end_with_its_first_page(store: ObjectStore) -> None:
    expected = {f"in/{number % 7}/{number}" for number in range(1005)}
    if isinstance(store, LocalStore):
        for key in expected:
            path = Path(store._root, key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    else:
        assert isinstance(store, S3Store)
        _, prefix = bucket_of(store)
        with ThreadPoolExecutor(4) as pool:
            [*pool.map(lambda key: obstore.put(store._store, f"{prefix}/{key}", b"x"), expected)]
    listed = [obj.key for obj in store.list("in")]
    assert len(listed) == 1005
    assert set(listed) == expected


def test_a_folder_is_not_taken_for_the_beginning_of_a_name(store: ObjectStore) -> None:
    for key in ("in/a", "in/b/c", "in_old/d", "in.e", "other/in/f"):
        store.write(key, b"x")
    assert keys(store, "in") == keys(store, "in/") == {"in/a", "in/b/c"}
    assert keys(store, "in/b") == {"in/b/c"}
    assert keys(store, "in/a") == keys(store, "nothing") == set()


def test_a_neighbour_of_the_prefix_is_not_listed(new_bucket: Callable[..., str]) -> None:
    bucket = new_bucket()
    open_store(f"s3://{bucket}/zone_old").write("a", b"")
    open_store(f"s3://{bucket}/zone").write("b", b"")
    assert keys(open_store(f"s3://{bucket}/zone/")) == {"b"}
    assert keys(open_store(f"s3://{bucket}")) == {"zone/b", "zone_old/a"}


def test_what_write_returns_is_what_a_listing_shows(store: ObjectStore) -> None:
    kept = datetime(2020, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)
    first = store.write("a/b", b"one", modified=kept)
    assert [first] == [*store.list()] == [store.find("a/b")]
    assert first.size == 3
    assert first.modified.tzinfo is UTC
    assert (first.modified == kept) is isinstance(store, LocalStore)
    second = store.write("a/b", b"three")
    assert [second] == [*store.list()] == [store.find("a/b")]
    assert second.version != first.version


def test_a_new_object_replaces_nothing(store: ObjectStore) -> None:
    old = store.write("a/b", b"old")
    with pytest.raises(Changed):
        store.write("a/b", b"new", new=True)
    assert [*store.list()] == [old] == [store.find("a/b")]
    assert content(store, "a/b") == b"old"
    assert raw_keys(store) == {"a/b"}
    assert store.remove(old)
    kept = datetime(2020, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)
    written = store.write("a/b", b"new", modified=kept, new=True)
    assert [*store.list()] == [written] == [store.find("a/b")]
    assert store.read(written) == b"new"
    assert (written.modified == kept) is isinstance(store, LocalStore)
    assert raw_keys(store) == {"a/b"}


def test_a_large_new_object_replaces_nothing_either(store: ObjectStore) -> None:
    data = os.urandom(9 << 20)
    assert store.read(store.write("large", data, new=True)) == data
    with pytest.raises(Changed):
        store.write("large", data, new=True)


def test_of_many_that_write_a_new_object_at_once_one_does(store: ObjectStore) -> None:
    def attempt(number: int) -> StoredObject | None:
        try:
            return store.write("a/b", b"%d" % number, new=True)
        except Changed:
            return None

    store.find("a/b")
    with ThreadPoolExecutor(8) as pool:
        [(number, written)] = [(number, made) for number, made in enumerate(pool.map(attempt, range(24))) if made is not None]
    assert [*store.list()] == [written]
    assert store.read(written) == b"%d" % number


def test_an_empty_store_is_no_failure(store: ObjectStore) -> None:
    assert [*store.list()] == []
    assert store.find("a/b") is None
    store.flush()


# Versions


def test_a_row_of_the_ledger_is_enough_to_read_copy_and_remove(store: ObjectStore) -> None:
    store.write("a b/c", b"content")
    [row] = [astuple(obj) for obj in store.list()]
    again = reopened(store)
    rebuilt = StoredObject(*row)
    assert again.read(rebuilt) == b"".join(again.stream(rebuilt)) == b"content"
    assert again.read(again.copy(rebuilt, again, "copy")) == b"content"
    assert again.remove(rebuilt)
    assert keys(again) == {"copy"}


def test_a_file_that_was_overwritten_is_not_read_as_the_old_one(store: ObjectStore, tmp_path: Path) -> None:
    old = store.write("a", b"old")
    store.write("a", b"new")
    archive = open_store(f"file://{tmp_path}/archive")
    if keeps_versions(store):
        assert store.read(old) == b"".join(store.stream(old)) == b"old"
        assert archive.read(store.copy(old, archive, "a")) == b"old"
        return
    for attempt in (
        lambda: store.read(old),
        lambda: next(store.stream(old)),
        lambda: store.copy(old, archive, "a"),
        lambda: store.copy(old, store, "b"),
    ):
        with pytest.raises(Changed):
            attempt()
    assert keys(archive) == set()
    assert keys(store) == {"a"}


def test_the_same_bytes_landed_again_are_a_new_version(store: ObjectStore) -> None:
    first = store.write("a", b"same", modified=datetime(2020, 1, 1, tzinfo=UTC))
    time.sleep(1.1)  # S3 without versions tells them apart by the second
    second = store.write("a", b"same", modified=datetime(2020, 1, 1, tzinfo=UTC))
    assert second.version != first.version
    if not keeps_versions(store):
        with pytest.raises(Changed):
            store.read(first)
        assert store.remove(first) is False
    assert store.read(second) == b"same"


def test_an_object_that_is_gone_is_missing(store: ObjectStore) -> None:
    obj = store.write("a/b", b"x")
    assert store.remove(obj)
    assert store.find("a/b") is None
    for attempt in (lambda: store.read(obj), lambda: [*store.stream(obj)], lambda: store.copy(obj, store, "copy")):
        with pytest.raises(Missing):
            attempt()
    assert raw_keys(store) == set()


# Copies


def test_a_copy_is_whole_and_can_be_repeated(store: ObjectStore, target: ObjectStore) -> None:
    obj = store.write("in/a b", b"content")
    target.write("archive/a%b", b"half of the con")
    for _ in range(2):
        copied = store.copy(obj, target, "archive/a%b")
        assert [*target.list()] == [copied]
        assert target.read(copied) == b"content"
    target.flush()
    assert store.read(obj) == b"content"


def test_an_empty_object_is_copied(store: ObjectStore, target: ObjectStore) -> None:
    copied = store.copy(store.write("in/empty", b""), target, "archive/empty")
    assert [*target.list()] == [copied]
    assert target.read(copied) == b""


def test_a_large_object_is_copied_whole(store: ObjectStore, target: ObjectStore) -> None:
    data = os.urandom(9 << 20) + b"the end"
    copied = store.copy(store.write("large", data), target, "copy")
    assert [*target.list()] == [copied]
    assert target.read(copied) == data == b"".join(target.stream(copied))


def test_a_version_that_arrives_during_a_move_is_not_lost(store: ObjectStore, target: ObjectStore) -> None:
    old = store.write("a", b"old")
    store.copy(old, target, "archive/a")
    target.flush()
    new = store.write("a", b"new")
    assert store.remove(old) is keeps_versions(store)
    assert [*store.list()] == [new]
    assert store.read(new) == b"new"
    assert content(target, "archive/a") == b"old"


def test_removing_twice_takes_nothing_else_along(store: ObjectStore) -> None:
    old = store.write("a", b"old")
    other = store.write("b", b"other")
    assert store.remove(old)
    assert store.remove(old)
    new = store.write("a", b"new")
    assert store.remove(old) is keeps_versions(store)
    assert {new, other} == {*store.list()}
    assert store.read(new) == b"new"


def test_a_file_that_is_still_being_written_is_not_taken(store: ObjectStore) -> None:
    obj = store.write("a", b"x", modified=datetime(2020, 1, 1, tzinfo=UTC))
    now = datetime.now(UTC)
    assert store.settled(obj, for_seconds=60, now=now) is isinstance(store, S3Store)
    assert store.settled(obj, for_seconds=60, now=now + timedelta(seconds=59)) is isinstance(store, S3Store)
    assert store.settled(obj, for_seconds=60, now=now + timedelta(seconds=61))
    ahead = store.write("a", b"x", modified=now + timedelta(days=400))
    assert store.settled(ahead, for_seconds=60, now=now + timedelta(seconds=62)), "a time set by hand must not hold a file back for ever"


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/tmp/folder",
        "file://relative/folder",
        "file://",
        "file:///",
        "file:///a/../b",
        "s3://",
        "s3://Bucket_1",
        "s3://user:secret@bucket/prefix",  # pragma: allowlist secret
        "s3://bucket/a//b",
        "s3:///prefix",
        "https://user:secret@host/folder",  # pragma: allowlist secret
        "gdrive:",
    ],
)
def test_a_url_that_cannot_work_is_refused_without_repeating_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store(url)
    assert "secret" not in str(caught.value)


def test_urls_mean_what_they_say(tmp_path: Path) -> None:
    assert open_store("s3://bucket/a%20b/").url == "s3://bucket/a%20b"
    assert open_store("s3://bucket/").url == "s3://bucket"
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b/c").touch()
    for url in ((tmp_path / "a b").as_uri(), f"file://{tmp_path}/a b/"):
        assert keys(open_store(url)) == {"c"}
        assert not open_store(url).url.endswith("/")
    assert open_store("s3://bucket/a") is open_store("s3://bucket/a")


# A folder: what happens between a look and a removal


def rewrite_in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"new")


def replace(path: Path) -> None:
    aside = path.with_name("aside.tmp")
    aside.write_bytes(b"new")
    aside.replace(path)


def rewrite_with_kept_time(path: Path) -> None:
    kept = path.stat()
    rewrite_in_place(path)
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))


WRITERS = [rewrite_in_place, replace, rewrite_with_kept_time]


@pytest.mark.parametrize("write", WRITERS)
def test_a_local_writer_between_copy_and_removal_loses_nothing(folder: LocalStore, write: Callable[[Path], None]) -> None:
    old = folder.write("in/a", b"old")
    folder.copy(old, folder, "archive/a")
    write(Path(folder._root, "in/a"))
    assert folder.remove(old) is False
    with pytest.raises(Changed):
        folder.read(old)
    assert content(folder, "in/a") == b"new"
    assert content(folder, "archive/a") == b"old"


@pytest.mark.parametrize("linking", [True, False])
@pytest.mark.parametrize("write", [rewrite_in_place, replace])
def test_a_writer_between_the_look_and_the_rename_loses_nothing(
    folder: LocalStore, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], linking: bool
) -> None:
    old = folder.write("in/a", b"old")
    rename = os.rename
    put_aside: list[Any] = []

    def late(*names: Any, **folders: Any) -> None:
        if not put_aside:
            write(Path(folder._root, "in/a"))
        put_aside.append(names)
        rename(*names, **folders)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "rename", late)
    if not linking:
        monkeypatch.setattr(os, "link", refuse)
    assert folder.remove(old) is False
    assert put_aside
    assert content(folder, "in/a") == b"new"
    assert raw_keys(folder) == {"in/a"}


@pytest.mark.parametrize("linking", [True, False])
def test_the_newest_of_two_that_arrive_during_a_removal_stands(folder: LocalStore, monkeypatch: pytest.MonkeyPatch, linking: bool) -> None:
    old = folder.write("a", b"old")
    path = Path(folder._root, "a")
    rename = os.rename

    def crowded(*names: Any, **folders: Any) -> None:
        monkeypatch.setattr(os, "rename", rename)
        replace(path)
        rename(*names, **folders)
        path.write_bytes(b"newest")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "rename", crowded)
    if not linking:
        monkeypatch.setattr(os, "link", refuse)
    assert folder.remove(old) is False
    assert raw_keys(folder) == {"a"}
    assert path.read_bytes() == b"newest"


@pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="only Linux tells who has a file open")
@pytest.mark.may_skip
def test_a_slow_writer_does_not_write_into_a_removed_file(folder: LocalStore) -> None:
    old = folder.write("a", b"first half, ")
    with Path(folder._root, "a").open("ab") as slow:
        assert folder.remove(old) is False
        assert [*folder.list()] == [old], "a file that was not touched keeps its version"
        slow.write(b"second half")
    assert folder.remove(old) is False
    assert content(folder, "a") == b"first half, second half"
    with Path(folder._root, "a").open("rb"):
        assert folder.remove(next(folder.list())), "a reader is no obstacle"


@pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="only Linux tells who has a file open")
@pytest.mark.may_skip
def test_a_writer_who_opens_the_file_just_before_its_removal_does_not_write_into_nothing(
    folder: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = folder.write("a", b"first half, ")
    rename = os.rename
    writers: list[int] = []

    def late(*names: Any, **folders: Any) -> None:
        writers.append(os.open(Path(folder._root, "a"), os.O_WRONLY | os.O_APPEND))
        rename(*names, **folders)

    monkeypatch.setattr(os, "rename", late)
    assert folder.remove(old) is False
    for writer in writers:
        os.write(writer, b"second half")
        os.close(writer)
    assert content(folder, "a") == b"first half, second half"


def test_two_removers_and_a_writer_lose_nothing(folder: LocalStore) -> None:
    path = Path(folder._root, "a")
    with ThreadPoolExecutor(3) as pool:
        for number in range(300):
            old = folder.write("a", b"old")
            new = f"new {number}".encode()
            aside = path.with_name(".new")
            aside.write_bytes(new)
            start = threading.Barrier(3)

            def remove(old: StoredObject = old, start: threading.Barrier = start) -> bool:
                start.wait()
                return folder.remove(old)

            removed = [pool.submit(remove), pool.submit(remove)]
            start.wait()
            aside.replace(path)
            assert {future.result() for future in removed} <= {True, False}
            assert path.read_bytes() == new
            assert raw_keys(folder) == {"a"}


# A folder: crashes

PROCESS = """
import os, signal, sys
from pathlib import Path
from ingestion_dagster.engine.object_store import open_store

store = open_store(sys.argv[1])
key = sys.argv[2]
obj = store.find(key)
"""
MOVE = """
store.copy(obj, store, "archive/a")
store.flush()
store.remove(obj)
"""
MOVED = ["in/a", f"in/{'n' * 250}"]  # the second name is too long to be marked as aside
POINTS = ["object_store.copy.before_write", "object_store.copy.after_write", "object_store.remove.aside", "object_store.remove.unlinked"]


def run(store: ObjectStore, code: str, fault: str = "", key: str = "in/a") -> int:
    environment = os.environ | {"INGESTION_TEST_FAULT": fault}
    return subprocess.run([sys.executable, "-c", PROCESS + code, store.url, key], env=environment, check=False).returncode


@pytest.mark.parametrize("key", MOVED, ids=["short", "long"])
@pytest.mark.parametrize("repeated_by", ["remove", "list"])
@pytest.mark.parametrize("point", POINTS)
def test_a_move_that_was_killed_ends_like_one_that_was_not(folder: LocalStore, point: str, repeated_by: str, key: str) -> None:
    obj = folder.write(key, b"content")
    assert run(folder, MOVE, point, key) == -signal.SIGKILL
    copied = point != POINTS[0]
    assert keys(folder, "archive") == ({"archive/a"} if copied else set())
    assert content(folder, "archive/a") == b"content" if copied else folder.read(obj) == b"content"
    left = len([*Path(folder._root, "in").iterdir()])
    assert left == (0 if point == POINTS[3] and key == "in/a" else 1)
    if repeated_by == "list":
        [*folder.list()]
    if point in POINTS[:2]:
        folder.copy(obj, folder, "archive/a")
        folder.flush()
    assert folder.remove(obj)
    assert raw_keys(folder) == keys(folder) == {"archive/a"}
    assert content(folder, "archive/a") == b"content"
    assert [*Path(folder._root, "in").iterdir()] == []


def test_a_fault_point_counts_its_passages(folder: LocalStore) -> None:
    folder.write("in/a", b"content")
    code = "\n".join(f'store.copy(obj, store, "archive/{number}")' for number in range(3))
    assert run(folder, code, "object_store.copy.after_write:2") == -signal.SIGKILL
    assert keys(folder, "archive") == {"archive/0", "archive/1"}
    assert run(folder, code, "object_store.copy.after_write:4") == 0
    assert run(folder, code, "object_store.copy") == 0


LATE_WRITER = """
rename = os.rename
def late(*names, **folders):
    path = Path(store._root, key)
    path.with_name("aside.tmp").write_bytes(b"new")
    path.with_name("aside.tmp").replace(path)
    rename(*names, **folders)
os.rename = late
store.remove(obj)
"""


@pytest.mark.parametrize("key", MOVED, ids=["short", "long"])
@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("recovered_by", ["remove", "list"])
def test_a_newer_version_that_a_crash_left_aside_comes_back(folder: LocalStore, recovered_by: str, newest: bool, key: str) -> None:
    old = folder.write(key, b"old")
    assert run(folder, LATE_WRITER, "object_store.remove.aside", key) == -signal.SIGKILL
    assert folder.find(key) is None
    if newest:
        folder.write(key, b"newest")
    if recovered_by == "remove":
        assert folder.remove(old) is False
    [listed] = folder.list("in")
    assert folder.read(listed) == (b"newest" if newest else b"new")
    assert raw_keys(folder) == {key}
    assert len([*Path(folder._root, "in").iterdir()]) == 1


def test_a_listing_leaves_a_live_removal_alone(folder: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("a", b"other")
    obj = folder.write("b", b"content")
    aside, listed = threading.Event(), threading.Event()

    def wait(name: str) -> None:
        if name == "object_store.remove.aside":
            aside.set()
            assert listed.wait(10)

    monkeypatch.setattr(local_removal, "fault_point", wait)
    with ThreadPoolExecutor(1) as pool:
        removed = pool.submit(folder.remove, obj)
        assert aside.wait(10)
        assert keys(folder) == {"a"}
        assert len(raw_keys(folder)) == 2
        listed.set()
        assert removed.result()
    assert raw_keys(folder) == {"a"}


def test_a_crash_while_writing_leaves_the_old_content_and_nothing_to_load(folder: LocalStore) -> None:
    folder.write("in/a", b"old")
    code = "os.replace = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\nstore.write('in/a', b'new')"
    assert run(folder, code) == -signal.SIGKILL
    assert len(raw_keys(folder)) == 2
    assert keys(folder) == {"in/a"}
    assert content(folder, "in/a") == b"old"


def test_a_source_that_fails_half_way_leaves_no_half_copy(folder: LocalStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    obj = folder.write("a", b"x" * 3000)
    archive = open_store(f"file://{tmp_path}/archive")
    archive.write("a", b"earlier")
    monkeypatch.setattr(local_store, "CHUNK", 1000)
    monkeypatch.setattr(local_writing, "CHUNK", 1000)
    stream = folder.stream(obj)
    next(stream)
    rewrite_in_place(Path(folder._root, "a"))
    monkeypatch.setattr(folder, "stream", lambda _: stream)
    with pytest.raises(Changed):
        folder.copy(obj, archive, "a")
    assert raw_keys(archive) == {"a"}
    assert content(archive, "a") == b"earlier"


def test_a_copy_that_differs_from_its_source_is_not_accepted(folder: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    obj = folder.write("a", b"content")
    monkeypatch.setattr(folder, "stream", lambda _: iter([b"cont"]))
    with pytest.raises(Transient):
        folder.copy(obj, folder, "short")
    monkeypatch.undo()
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, b"x" * len(data)))
    with pytest.raises(Transient):
        folder.copy(obj, folder, "garbled")
    assert raw_keys(folder) == {"a"}


# A folder: durability, and what else stands in it


def test_a_copy_shares_nothing_with_its_source(folder: LocalStore) -> None:
    obj = folder.write("a", b"old")
    folder.copy(obj, folder, "copy")
    rewrite_in_place(Path(folder._root, "a"))
    assert content(folder, "copy") == b"old"


@pytest.mark.parametrize("at_once", [True, False])
def test_flush_makes_every_copy_durable_and_forgets_none_on_failure(
    folder: LocalStore, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    number = 20 if at_once else 3
    obj = folder.write("in/a", b"content")
    copies = [folder.copy(obj, folder, f"archive/{n % 2}/{n}") for n in range(number)]
    expected = {Path(folder._root, copied.key).stat().st_ino for copied in copies} | {
        Path(folder._root, place).stat().st_ino for place in ("archive/0", "archive/1", "archive", "")
    }
    synced: set[int] = set()
    failing = True

    def fsync(file: int) -> int:
        if failing:
            raise OSError(errno.EIO, "disk trouble")
        synced.add(os.fstat(file).st_ino)
        return 0

    monkeypatch.setattr(local_store, "_syncfs", fsync if at_once else None)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(Transient, match="disk trouble"):
        folder.flush()
    failing = False
    folder.flush()
    assert synced == ({Path(folder._root).stat().st_ino} if at_once else expected)
    synced.clear()
    folder.flush()
    assert not synced


def test_a_failed_syncfs_is_made_good_file_by_file(folder: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    obj = folder.write("in/a", b"content")
    for number in range(20):
        folder.copy(obj, folder, f"archive/{number}")
    synced: list[int] = []
    monkeypatch.setattr(local_store, "_syncfs", lambda _: -1)
    monkeypatch.setattr(os, "fsync", synced.append)
    folder.flush()
    assert len(synced) == 22, "the files, their folder, and the one above it"


def test_a_written_file_is_durable_before_write_returns(folder: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("in/a", b"content")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    folder.write("in/b", b"content")
    assert synced == [Path(folder._root, "in/b").stat().st_ino, Path(folder._root, "in").stat().st_ino]


@pytest.fixture(params=["rename", "link"])
def naming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By which call a new file gets its name: not every file system has the first."""
    if request.param == "link":
        monkeypatch.setattr(local_writing, "_renameat2", lambda *_: -1)
    return str(request.param)


def test_a_new_file_is_one_file_durable_and_as_a_listing_shows_it(folder: LocalStore, naming: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("in/a", b"content")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    written = folder.write("in/b", b"content", new=True)
    path = Path(folder._root, "in/b")
    assert synced == [path.stat().st_ino, path.parent.stat().st_ino]
    assert path.stat().st_nlink == 1
    assert folder.find("in/b") == written
    with pytest.raises(Changed):
        folder.write("in/b", b"other", new=True)
    assert folder.find("in/b") == written
    assert raw_keys(folder) == {"in/a", "in/b"}


@pytest.mark.parametrize("kind", ["folder", "symbolic link", "dangling link", "pipe"])
def test_a_new_file_takes_the_place_of_nothing_else_either(folder: LocalStore, naming: str, kind: str) -> None:
    folder.write("good", b"good")
    path = Path(folder._root, "a")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("good" if kind == "symbolic link" else "nothing")
    with pytest.raises(ValueError, match="cannot hold the key"):
        folder.write("a", b"new", new=True)
    assert raw_keys(folder) == {"good"} | ({"a"} if kind == "symbolic link" else set())
    assert content(folder, "good") == b"good"


NAMED_TWICE = """
import os, signal
from ingestion_dagster.engine import local_writing
from ingestion_dagster.engine.object_store import open_store

local_writing._renameat2 = None
os.unlink = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
open_store({url!r}).write("a", b"content", new=True)
"""


def test_a_crash_between_the_two_names_of_a_new_file_leaves_one_that_is_seen(folder: LocalStore) -> None:
    process = subprocess.run([sys.executable, "-c", NAMED_TWICE.format(url=folder.url)], capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    [seen] = folder.list()
    assert (seen.key, folder.read(seen)) == ("a", b"content")
    with pytest.raises(Changed):
        folder.write("a", b"other", new=True)
    assert folder.remove(seen)
    assert [*folder.list()] == []


def test_a_new_file_does_not_take_the_place_of_one_that_a_removal_puts_back(folder: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer overwrites what is being removed; its file stands aside for a moment, under no name that anybody looks at."""
    old = folder.write("a", b"old")
    is_being_written = local_removal._is_being_written
    outcome: list[object] = []

    def write() -> None:
        try:
            outcome.append(folder.write("a", b"record", new=True))
        except Changed as changed:
            outcome.append(changed)

    def overtaken(inside: int, name: str) -> bool:
        if name == "a":
            folder.write("a", b"producer")
        return is_being_written(inside, name)

    def aside(_: str) -> None:
        writer.start()
        writer.join(0.5)

    writer = threading.Thread(target=write)
    monkeypatch.setattr(local_removal, "_is_being_written", overtaken)
    monkeypatch.setattr(local_removal, "fault_point", aside)
    assert folder.remove(old) is False
    writer.join(30)
    assert [type(found) for found in outcome] == [Changed]
    assert content(folder, "a") == b"producer"


def test_a_name_that_is_not_utf8_does_not_stop_the_others(folder: LocalStore, caplog: pytest.LogCaptureFixture) -> None:
    folder.write("a", b"")
    Path(os.fsdecode(os.fsencode(folder._root) + b"/caf\xe9.json")).touch()
    Path(folder._root, "line\nbreak").touch()
    with caplog.at_level(logging.WARNING):
        assert keys(folder) == {"a"}
    assert "skipped 2 names" in caplog.text


def test_no_symbolic_link_leads_out_of_the_root(folder: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    seen = folder.write("a", b"")
    Path(folder._root, "file").symlink_to(outside / "secret")
    Path(folder._root, "folder").symlink_to(outside)
    found = (outside / "secret").stat()
    assert [*folder.list()] == [seen]
    assert [*folder.list("folder")] == []
    for key in ("file", "folder/secret"):
        assert folder.find(key) is None
        stolen = StoredObject(key, 6, datetime.now(UTC), local_removal.version_of(found))
        with pytest.raises(Missing):
            folder.read(stolen)
        folder.remove(stolen)
    with pytest.raises(ValueError, match="cannot hold the key"):
        folder.write("folder/planted", b"")
    folder.write("file", b"ours")
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_a_named_pipe_does_not_block_the_listing(folder: LocalStore) -> None:
    folder.write("a", b"")
    os.mkfifo(Path(folder._root, "pipe"))
    assert keys(folder) == {"a"}
    assert folder.find("pipe") is None
    with pytest.raises(Missing):
        folder.read(StoredObject("pipe", 0, datetime.now(UTC), "1-0-1-1"))


def test_a_folder_in_the_place_of_a_file_is_told(folder: LocalStore) -> None:
    folder.write("a/b", b"")
    for key in ("a", "a/b/c"):
        with pytest.raises(ValueError, match="cannot hold the key"):
            folder.write(key, b"")
        assert folder.find(key) is None
    assert keys(folder) == {"a/b"}


def test_a_full_disk_may_pass_and_a_closed_folder_is_a_setting(folder: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("a", b"old")
    for number, expected in ((errno.ENOSPC, Transient), (errno.EACCES, ConfigurationError)):

        def fail(*_: Any, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "write", fail)
        with pytest.raises(expected):
            folder.write("a", b"new")
    assert raw_keys(folder) == {"a"}
    assert content(folder, "a") == b"old"


# A bucket


def test_a_new_object_may_follow_one_that_was_deleted(s3_versioned_url: str) -> None:
    store = open_store(s3_versioned_url)
    store.write("a", b"old")
    bucket, prefix = bucket_of(store)
    boto3.client("s3").delete_object(Bucket=bucket, Key=f"{prefix}/a")
    assert store.read(store.write("a", b"new", new=True)) == b"new"


@pytest.mark.parametrize(("status", "code"), [(412, "PreconditionFailed"), (409, "ConditionalRequestConflict")])
def test_a_server_that_says_no_to_a_new_object_says_that_another_is_there(answers: Any, status: int, code: str) -> None:
    answers.status, answers.code = status, code
    with pytest.raises(Changed):
        open_store("s3://bucket").write("a", b"", new=True)


def test_a_key_that_obstore_cannot_parse_does_not_stop_the_others(new_bucket: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    bucket = new_bucket()
    client = boto3.client("s3")
    for key in ("in/", "in/a", "in/empty", "in/folder/", "in/m//n", "in/o/../p", "in/z", "zzz"):
        client.put_object(Bucket=bucket, Key=key, Body=b"" if key.endswith(("/", "empty")) else b"x")
    with caplog.at_level(logging.WARNING):
        assert keys(open_store(f"s3://{bucket}/in")) == {"a", "empty", "z"}
        assert "skipped 1 keys" in caplog.text
        assert keys(open_store(f"s3://{bucket}")) == {"in/a", "in/empty", "in/z", "zzz"}


def test_a_listing_that_changes_hands_in_the_middle_repeats_nothing(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(s3_url)
    expected = [store.write(key, b"x") for key in ("a", "b", "c")]
    pages = obstore.list

    def broken(*arguments: Any, **options: Any) -> Iterator[Any]:
        [page] = pages(*arguments, **options)
        yield page[:2]
        raise InvalidPathError

    monkeypatch.setattr(obstore, "list", broken)
    assert [*store.list()] == expected


def test_a_key_with_a_leading_slash_is_not_taken_for_another(new_bucket: Callable[..., str]) -> None:
    bucket = new_bucket()
    for key in ("/in/a", "in/b"):
        boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=b"x")
    assert keys(open_store(f"s3://{bucket}")) == {"in/b"}


def test_a_folder_marker_is_no_object_and_an_empty_object_is_one(s3_url: str) -> None:
    store = open_store(s3_url)
    bucket, prefix = bucket_of(store)
    for key in (f"{prefix}/", f"{prefix}/folder/"):
        boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=b"")
    empty = store.write("empty", b"")
    assert [*store.list()] == [empty]


def test_an_object_that_was_deleted_or_superseded_is_not_listed(s3_versioned_url: str) -> None:
    store = open_store(s3_versioned_url)
    bucket, prefix = bucket_of(store)
    for data in (b"1", b"2"):
        store.write("deleted", data)
        newest = store.write("superseded", data)
    boto3.client("s3").delete_object(Bucket=bucket, Key=f"{prefix}/deleted")
    assert [*store.list()] == [newest]
    assert store.find("deleted") is None


def test_a_version_is_deleted_for_good_and_not_hidden(s3_versioned_url: str) -> None:
    store = open_store(s3_versioned_url)
    assert store.remove(store.write("a", b"personal"))
    found = boto3.client("s3").list_object_versions(Bucket=bucket_of(store)[0])
    assert not found.get("Versions")
    assert not found.get("DeleteMarkers")


def test_versioning_that_is_enabled_later_leaves_no_hidden_version(s3_url: str) -> None:
    store = open_store(s3_url)
    bucket, _ = bucket_of(store)
    obj = store.write("a", b"content")
    boto3.client("s3").put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    again = reopened(store)
    assert again.read(obj) == b"content"
    assert again.remove(obj)
    assert not boto3.client("s3").list_object_versions(Bucket=bucket).get("Versions")


@pytest.mark.parametrize("refusal", [None, "NotImplemented"])
def test_a_version_that_arrives_between_look_and_delete_is_not_lost(
    s3_url: str, monkeypatch: pytest.MonkeyPatch, refusal: str | None
) -> None:
    store = open_store(s3_url)
    assert isinstance(store, S3Store)
    old = store.write("a", b"old")
    head, delete = store._head, store._client.delete_object

    def overtaken(path: str) -> Any:
        found = head(path)
        store._client.put_object(Bucket=store._bucket, Key=path, Body=b"new")
        return found

    def unable(**request: Any) -> Any:
        if "IfMatch" in request:
            raise ClientError({"Error": {"Code": "NotImplemented"}}, "DeleteObject")
        return delete(**request)

    if refusal:
        monkeypatch.setattr(store._client, "delete_object", unable)
        assert store.remove(old)
        assert store.find("a") is None
        return
    monkeypatch.setattr(store, "_head", overtaken)
    assert store.remove(old) is False
    monkeypatch.undo()
    assert content(store, "a") == b"new"


def test_a_server_that_ignores_the_condition_of_a_copy_is_found_out(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(s3_url)
    assert isinstance(store, S3Store)
    obj = store.write("a", b"old")
    copy_bytes = store._copy_bytes

    def overtaken(*arguments: Any) -> Any:
        store._client.put_object(Bucket=store._bucket, Key="some prefix/a", Body=b"new")
        return copy_bytes(*arguments)

    monkeypatch.setattr(store, "_copy_bytes", overtaken)
    with pytest.raises(Transient):
        store.copy(obj, store, "copy")
    with pytest.raises(Changed):
        store.copy(obj, store, "copy")


def test_an_object_beyond_the_limit_of_copyobject_is_copied_in_parts(
    store: ObjectStore, target: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(store, S3Store) or not isinstance(target, S3Store):
        return
    monkeypatch.setattr(s3_store, "_COPY_OBJECT_LIMIT", 6 << 20)
    monkeypatch.setattr(s3_store, "_COPY_PART", 5 << 20)
    data = os.urandom(11 << 20)
    obj = store.write("large +%", data)
    copied = store.copy(obj, target, "copy +%")
    assert [*target.list()] == [copied]
    assert target.read(copied) == data
    parts = boto3.client("s3").head_object(Bucket=target._bucket, Key="some prefix/copy +%")["ETag"]
    assert parts.endswith('-3"')


def test_a_bucket_that_is_not_there_is_named(new_bucket: Callable[..., str], folder: LocalStore) -> None:
    new_bucket()
    store = open_store("s3://no-such-bucket/prefix")
    obj = StoredObject("a", 1, datetime.now(UTC), "etag:0:0:1")
    local = folder.write("a", b"")
    for attempt in (
        lambda: [*store.list()],
        lambda: store.find("a"),
        lambda: store.read(obj),
        lambda: store.write("a", b""),
        lambda: store.remove(obj),
        lambda: store.copy(obj, folder, "b"),
        lambda: folder.copy(local, store, "b"),
    ):
        with pytest.raises(ConfigurationError, match="no-such-bucket"):
            attempt()


class Answers(BaseHTTPRequestHandler):
    """Says that the bucket is there, and answers all else as `status` and `code` have it."""

    status, code, every = 500, "InternalError", False

    def answer(self) -> None:
        fine = "versioning" in self.path and not self.every
        body = b"<VersioningConfiguration/>" if fine else f"<Error><Code>{self.code}</Code><Message>testing-key</Message></Error>".encode()
        self.send_response(200 if fine else self.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = answer  # noqa: N815 - the names of http.server

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def answers(aws_environment: pytest.MonkeyPatch) -> Iterator[type[Answers]]:
    handler = type("Handler", (Answers,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    aws_environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    aws_environment.setattr(s3_store, "_BOTO_CONFIG", Config(retries={"total_max_attempts": 1}))
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("every", [True, False])
@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (500, "InternalError", Transient),
        (503, "SlowDown", Transient),
        (403, "SignatureDoesNotMatch", ConfigurationError),
        (403, "InvalidAccessKeyId", ConfigurationError),
    ],
)
def test_a_server_in_trouble_is_tried_again_and_a_refusal_is_a_setting(
    answers: Any, status: int, code: str, expected: type[Exception], every: bool
) -> None:
    answers.status, answers.code, answers.every = status, code, every
    store = open_store("s3://bucket")
    obj = StoredObject("a", 1, datetime.now(UTC), "etag:0:0:1")
    attempts: list[Callable[[], Any]] = [lambda: store.find("a"), lambda: store.read(obj), lambda: store.remove(obj)]
    if status == 403:
        attempts += [lambda: [*store.list()], lambda: store.write("a", b"")]
    for attempt in attempts:
        with pytest.raises(expected) as caught:
            attempt()
        assert "testing-key" not in "".join(traceback.format_exception(caught.value)), "no credential in a log"


def test_a_server_that_is_away_may_come_back(aws_environment: pytest.MonkeyPatch) -> None:
    aws_environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    aws_environment.setattr(s3_store, "_BOTO_CONFIG", Config(retries={"total_max_attempts": 1}))
    store = open_store("s3://bucket")
    with pytest.raises(Transient) as caught:
        store.find("a")
    assert caught.value.code == "object_store_unavailable"


def test_missing_credentials_are_told_as_such(new_bucket: Callable[..., str], aws_environment: pytest.MonkeyPatch) -> None:
    store = open_store(f"s3://{new_bucket()}")
    aws_environment.setattr(s3_store, "_session", boto3.Session)
    aws_environment.delenv("AWS_ACCESS_KEY_ID")
    aws_environment.delenv("AWS_SECRET_ACCESS_KEY")
    for attempt in (lambda: [*store.list()], lambda: store.write("a", b"")):
        with pytest.raises(ConfigurationError, match="credentials"):
            attempt()


def test_opening_a_bucket_asks_nobody(aws_environment: pytest.MonkeyPatch) -> None:
    aws_environment.setattr(s3_store, "_session", lambda: pytest.fail("connected"))
    assert open_store("s3://bucket/prefix").url == "s3://bucket/prefix"


# A copy that is there already


def test_a_copy_of_what_stands_there_already_writes_nothing_and_is_dated_anew(folder: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = folder.copy(folder.write("a", b"content", modified=datetime(2024, 1, 1, tzinfo=UTC)), folder, "copy")
    folder.flush()
    again = folder.write("a", b"content", modified=datetime(2024, 1, 2, tzinfo=UTC))
    inode = Path(folder._root, "copy").stat().st_ino
    copied = folder.copy(again, folder, "copy")
    assert Path(folder._root, "copy").stat().st_ino == inode
    assert (copied, copied.modified) == (folder.find("copy"), again.modified)
    assert copied.version != earlier.version
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file).st_ino))
    folder.flush()
    assert inode in synced


@pytest.mark.parametrize("kind", ["other bytes", "hard link", "symbolic link"])
def test_what_is_not_a_file_of_its_own_with_these_bytes_is_replaced(folder: LocalStore, kind: str) -> None:
    obj = folder.write("a", b"content", modified=datetime(2024, 1, 1, tzinfo=UTC))
    path = Path(folder._root, "copy")
    if kind == "other bytes":
        path.write_bytes(b"CONTENT")
    elif kind == "hard link":
        os.link(Path(folder._root, "a"), path)
    else:
        path.symlink_to("a")
    obj = folder.find("a") or obj  # a link changes the ctime of what it names
    copied = folder.copy(obj, folder, "copy")
    assert not path.is_symlink()
    assert path.stat().st_nlink == 1
    assert path.stat().st_ino != Path(folder._root, "a").stat().st_ino
    assert folder.read(copied) == b"content"
