"""Fetching a DMAP feed: its new datasets are listed, downloaded, proved whole and put into the landing zone, each exactly once.

What was fetched is noted dataset by dataset, after the file stands there durably. So a crash, wherever, costs at worst one file that
is put under its key once more, with the same bytes.
"""

import asyncio
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import psycopg

from ingestion_dagster.cubic import fetch_sql as sql
from ingestion_dagster.cubic.feed_source import source_of
from ingestion_dagster.cubic.feeds import Feed
from ingestion_dagster.cubic.fetching import SCRATCH_UNUSABLE, Asking, Fetched, Fetching
from ingestion_dagster.cubic.registry import PIPELINE
from ingestion_dagster.engine.errors import Problem, Transient
from ingestion_dagster.engine.http import Http
from ingestion_dagster.engine.object_store import ObjectStore, open_store
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

MAX_DATASET_BYTES = 4 * 1024**3
IN_PROGRESS = "dmap_fetch_in_progress"


def landing_zone(settings: Settings) -> ObjectStore:
    """Where fetched datasets are put."""
    return open_store(settings.zone(PIPELINE, "landing", "cubic/incoming"))


def fetch_feed(
    connection: Connection,
    settings: Settings,
    feed: Feed,
    *,
    now: datetime,
    http: Http | None = None,
    max_bytes: int = MAX_DATASET_BYTES,
) -> Fetched:
    """Fetch what is new in a feed: how much that was, and everything that went wrong on the way.

    A second fetch of the same feed at the same time says so and does nothing. `connection` is in autocommit. Raises
    `ConfigurationError`, and `Transient` when the database or the scratch folder below the home cannot be used; nothing else.
    """
    source = source_of(settings, feed.family)
    try:
        with _alone(connection, feed) as alone:
            if not alone:
                message = "another fetch of this feed is running; this one has done nothing"
                return Fetched(feed.path, problems=(Problem(IN_PROGRESS, feed.path, message, "warning"),))
            with (
                _scratch(settings.home_folder / "scratch" / "dmap" / feed.type) as scratch,
                _asking(replace(http or Http(), trusted=source.link_hosts)) as ask,
            ):
                fetched = Fetching(connection, feed, source, ask, landing_zone(settings), scratch, now, max_bytes).run()
    except psycopg.Error as error:
        # Its text may quote what was to be written.
        raise Transient("database_unavailable", f"{feed.path}: what was fetched cannot be noted ({type(error).__name__})") from None
    except OSError as error:
        raise Transient(SCRATCH_UNUSABLE, f"scratch/dmap below INGESTION_HOME cannot be used: {error.strerror}") from None
    log.info("%s", summary(fetched))
    return fetched


def missing(connection: Connection, feed: Feed) -> int:
    """Datasets that a feed has listed at some time and whose newest issue was not fetched; each is tried again as long as it is listed."""
    row = connection.execute(sql.MISSING, {"feed": feed.path}).fetchone()
    return row[0] if row else 0


def summary(fetched: Fetched) -> str:
    """A fetch in one line: counts and codes only."""
    codes = ", ".join(f"{count} {code}" for code, count in fetched.codes.items())
    return (
        f"{fetched.feed}: {fetched.listed} listed, {fetched.new} new, {fetched.uploaded} uploaded ({fetched.bytes} bytes), "
        f"{fetched.unchanged} unchanged, {fetched.invalid} invalid, {fetched.failed} failed{f' ({codes})' if codes else ''}"
    )


@contextmanager
def _alone(connection: Connection, feed: Feed) -> Iterator[bool]:
    lock = {"lock": f"cubic.dmap_feed:{feed.path}"}
    row = connection.execute(sql.LOCK, lock).fetchone()
    if row is None or not row[0]:
        yield False
        return
    try:
        yield True
    finally:
        if not connection.closed and not connection.broken:
            connection.execute(sql.UNLOCK, lock)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """An empty folder for the one fetch of a feed that there is at a time; one that was killed has left its own behind."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _asking(http: Http) -> Iterator[Asking]:
    with asyncio.Runner() as runner:
        opened = http.open()
        client = runner.run(opened.__aenter__())
        try:
            yield Asking(runner, client)
        finally:
            runner.run(opened.__aexit__(None, None, None))
