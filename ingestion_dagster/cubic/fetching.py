"""One fetch of one feed: what is new is listed, downloaded, proved whole and put into the landing zone, oldest first."""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from ingestion_dagster.cubic import fetch_sql as sql
from ingestion_dagster.cubic.feed_client import (
    FEED_UNKNOWN,
    KEY_REFUSED,
    LINK_BROKEN,
    TOO_LARGE,
    Download,
    Expired,
    Source,
    download,
    page,
)
from ingestion_dagster.cubic.feeds import (
    HELD,
    PAGE,
    Feed,
    Invalid,
    Listed,
    fingerprint,
    is_loopback,
    newest,
    read_record,
    reasons,
    since,
)
from ingestion_dagster.engine.errors import Problem, Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.http import TRANSPORT, Client
from ingestion_dagster.engine.object_store import Changed, Missing, ObjectStore, open_store
from ingestion_dagster.engine.postgres import Connection

RELISTS = 5
"""How often links that have expired are asked for anew with no download in between."""

DOWN_AFTER = 3
"""Datasets in a row that fail because nobody answers as he should, after which the rest of the feed is left for the next fetch."""

_MOST_PAGES = 10_000
_FILE = "dataset.csv.gz"

RECORD_INVALID = "dmap_record_invalid"
PAGE_REPEATED = "dmap_page_repeated"
LINKS_EXPIRED = "dmap_links_expired"
DATASET_GONE = "dmap_dataset_gone"
FEED_DOWN = "dmap_feed_down"
NOT_STORED = "dmap_file_not_stored"
SCRATCH_UNUSABLE = "dmap_scratch_unusable"

LASTING = frozenset({KEY_REFUSED, FEED_UNKNOWN, LINK_BROKEN, TOO_LARGE, PAGE_REPEATED, "http_address_refused"})
"""Codes of what will be the same in a minute."""

_UNANSWERED = TRANSPORT | {"object_store_unavailable"}


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of a feed, in datasets: those listed are new, unchanged or invalid; new ones uploaded or failed."""

    feed: str
    listed: int = 0
    new: int = 0
    uploaded: int = 0
    unchanged: int = 0
    invalid: int = 0
    failed: int = 0
    bytes: int = 0
    problems: tuple[Problem, ...] = ()

    @property
    def codes(self) -> dict[str, int]:
        """The codes told, and how often."""
        codes = [problem.code for problem in self.problems]
        return {code: codes.count(code) for code in sorted(set(codes))}

    @property
    def failures(self) -> tuple[Problem, ...]:
        """Why there is less than there should be; a record that cannot be followed is none of ours."""
        return tuple(problem for problem in self.problems if problem.severity == "error" and problem.code != RECORD_INVALID)

    @property
    def may_pass(self) -> bool:
        """Whether another attempt, soon, could get further."""
        return any(problem.code not in LASTING for problem in self.failures)


@dataclass(frozen=True, slots=True)
class Asking:
    """An HTTP client, and the event loop that it lives in; everything else of a fetch is plain sequential code."""

    runner: asyncio.Runner
    client: Client


@dataclass(frozen=True, slots=True)
class _Listing:
    """A listing from its beginning to its end: of each dataset the newest issue, oldest first."""

    datasets: dict[str, Listed]
    invalid: list[Invalid]
    pages: int


class Fetching:
    """One fetch of one feed."""

    def __init__(
        self,
        connection: Connection,
        feed: Feed,
        source: Source,
        ask: Asking,
        target: ObjectStore,
        scratch: Path,
        now: datetime,
        max_bytes: int,
    ) -> None:
        self.connection = connection
        self.feed = feed
        self.source = source
        self.ask = ask
        self.target = target
        self.scratch = open_store(scratch.as_uri())
        self.file = scratch / _FILE
        self.now = now
        self.max_bytes = max_bytes
        row = connection.execute(sql.CURSOR, {"feed": feed.path, "held_since": now - HELD}).fetchone()
        # The same for every listing of this fetch, however far it gets: what one has passed over is in the next.
        self.since = since(row[0] if row else None)
        self.listed: set[str] = set()
        self.new: set[str] = set()
        self.uploaded: set[str] = set()
        self.fetched: dict[str, datetime] = {}
        """The newest issue of each listed dataset that was ever fetched."""
        self.failed: set[tuple[str, datetime]] = set()
        self.bytes = 0
        self.invalid: list[Invalid] = []
        self.problems: list[Problem] = []

    def run(self) -> Fetched:
        """List, and take what is new, oldest first."""
        try:
            self._work()
        except Refused as refused:
            self.problems += refused.problems
        except Transient as transient:
            self._tell(transient.code, transient.message)
        except OSError as error:
            self._tell(SCRATCH_UNUSABLE, f"scratch/dmap below INGESTION_HOME cannot be used: {error.strerror}")
        for reason, count in reasons(self.invalid):
            self._tell(RECORD_INVALID, f"{count} of the records listed cannot be followed: {reason}; tell the provider")
        return Fetched(
            self.feed.path,
            listed=len(self.listed) + len(self.invalid),
            new=len(self.new),
            uploaded=len(self.uploaded),
            unchanged=len(self.listed - self.new),
            invalid=len(self.invalid),
            failed=len(self.new - self.uploaded),
            bytes=self.bytes,
            problems=tuple(self.problems),
        )

    def _work(self) -> None:
        listing = self._list()
        waiting = self._wanted(listing)
        expired: set[str] = set()
        relists = unanswered = 0
        while waiting or (listing.pages > 1 and (waiting := self._wanted(self._list()))):
            # Pages are counted off while datasets are issued anew. What has slipped from one to another shows in a second listing.
            dataset = waiting.popleft()
            try:
                self._take(dataset)
            except (Refused, Transient) as error:
                unanswered = unanswered + 1 if self._failed(dataset, error) else 0
                if unanswered == DOWN_AFTER:
                    message = f"{unanswered} datasets in a row failed for want of an answer; {len(waiting)} are left for the next fetch"
                    self._give_up(waiting, FEED_DOWN, message)
                    return
            except Expired:
                expired.add(dataset.dataset_id)
                relists += 1
                if relists > RELISTS:
                    message = f"links had expired at once, {RELISTS} listings in a row; {len(waiting) + 1} are left for the next fetch"
                    self._give_up([dataset, *waiting], LINKS_EXPIRED, message)
                    return
                listing = self._list()
                # One that is refused for reasons of its own must not keep the others from their turn.
                waiting = deque(sorted(self._wanted(listing), key=lambda each: each.dataset_id in expired))
            else:
                relists = unanswered = 0
        gone = self.new - self.uploaded - {dataset_id for dataset_id, _ in self.failed}
        if gone:
            self._tell(DATASET_GONE, f"{len(gone)} datasets were no longer listed when their turn came", "warning")

    def _list(self) -> _Listing:
        """Everything that the feed lists since the cursor. What is new of it is noted as missing, which holds the cursor."""
        datasets: list[Listed] = []
        invalid: list[Invalid] = []
        known: set[str] = set()
        pages = offset = 0
        plain_http = is_loopback(self.source.url)
        # The end is a page without records, whatever the size of the one before; or one that brings nothing new, since there are
        # feeds that pay no heed to the offset.
        while records := self.ask.runner.run(page(self.ask.client, self.source, self.feed, self.since, offset)):
            fresh = {mark: record for mark, record in ((fingerprint(record), record) for record in records) if mark not in known}
            pages += 1
            if not fresh or pages > _MOST_PAGES:
                if len(records) >= PAGE and PAGE_REPEATED not in {problem.code for problem in self.problems}:
                    self._tell(PAGE_REPEATED, f"page {pages} of the listing repeats an earlier one: what comes after it cannot be seen")
                break
            known |= fresh.keys()
            offset += len(records)
            for record in fresh.values():
                read = read_record(self.feed, record, now=self.now, plain_http=plain_http)
                if isinstance(read, Invalid):
                    invalid.append(read)
                else:
                    datasets.append(read)
        listing = _Listing(newest(datasets), invalid, pages)
        self._enter(listing)
        return listing

    def _enter(self, listing: _Listing) -> None:
        self.invalid = listing.invalid
        self.listed |= listing.datasets.keys()
        named = {(each.dataset_id, each.last_updated): each for each in listing.invalid if each.dataset_id and each.last_updated}
        ids = sorted(listing.datasets.keys() | {dataset_id for dataset_id, _ in named})
        found = self.connection.execute(sql.FETCHED, {"feed": self.feed.path, "dataset_ids": ids})
        self.fetched |= dict(found.fetchall())
        wanted = self._wanted(listing)
        self.new |= {each.dataset_id for each in wanted}
        rows = {
            (dataset_id, moment): (None, None, RECORD_INVALID) for dataset_id, moment in named if self._is_newer(dataset_id, moment)
        } | {(each.dataset_id, each.last_updated): (each.start_date, each.end_date, None) for each in wanted}
        fault_point("cubic.fetch.before_enter")
        self.connection.execute(
            sql.ENTER,
            {
                "feed": self.feed.path,
                "now": self.now,
                "dataset_ids": [dataset_id for dataset_id, _ in rows],
                "last_updated": [moment for _, moment in rows],
                "start_dates": [start for start, _, _ in rows.values()],
                "end_dates": [end for _, end, _ in rows.values()],
                "codes": [code for _, _, code in rows.values()],
            },
        )
        fault_point("cubic.fetch.after_enter")

    def _wanted(self, listing: _Listing) -> deque[Listed]:
        """What of a listing has still to be fetched, oldest first; what has failed in this fetch is left to the next."""
        return deque(
            each
            for each in listing.datasets.values()
            if self._is_newer(each.dataset_id, each.last_updated) and (each.dataset_id, each.last_updated) not in self.failed
        )

    def _is_newer(self, dataset_id: str, moment: datetime | None) -> bool:
        fetched = self.fetched.get(dataset_id)
        return moment is not None and (fetched is None or moment > fetched)

    def _take(self, dataset: Listed) -> None:
        """Download a dataset, put it into the landing zone, and note it."""
        place = f"{self.feed.path} {dataset.dataset_id}"
        whole = self.ask.runner.run(download(self.ask.client, dataset.url, self.file, place, self.max_bytes))
        key = self.feed.key(dataset.dataset_id)
        fault_point("cubic.fetch.before_upload")
        self._upload(key, place)
        fault_point("cubic.fetch.after_upload")
        self._note(dataset, key, whole)
        fault_point("cubic.fetch.after_cursor")
        self.fetched[dataset.dataset_id] = dataset.last_updated
        self.uploaded.add(dataset.dataset_id)
        self.bytes += whole.bytes

    def _upload(self, key: str, place: str) -> None:
        try:
            downloaded = self.scratch.find(_FILE)
            if downloaded is None:
                raise Missing(_FILE)
            self.scratch.copy(downloaded, self.target, key)
            self.target.flush()
        except (Missing, Changed):
            raise Transient(NOT_STORED, "the file, or its place in the landing zone, was changed by another while it was copied") from None
        except ValueError:
            raise Refused(Problem(NOT_STORED, place, "the landing zone cannot hold its key")) from None

    def _note(self, dataset: Listed, key: str, whole: Download) -> None:
        issue = {"feed": self.feed.path, "dataset_id": dataset.dataset_id, "last_updated": dataset.last_updated}
        self.connection.execute(sql.FETCHED_NOW, {**issue, "key": key, "bytes": whole.bytes, "sha256": whole.sha256, "now": self.now})

    def _failed(self, dataset: Listed, error: Refused | Transient) -> bool:
        """Tell why a dataset was not fetched; whether that says more of those who were asked than of the dataset."""
        place = f"{self.feed.path} {dataset.dataset_id}"
        problems = error.problems if isinstance(error, Refused) else (Problem(error.code, place, error.message),)
        self.problems += problems
        self._leave([dataset], problems[0].code)
        return isinstance(error, Transient) and error.code in _UNANSWERED

    def _give_up(self, datasets: Iterable[Listed], code: str, message: str) -> None:
        self._tell(code, message)
        self._leave(datasets, code)

    def _leave(self, datasets: Iterable[Listed], code: str) -> None:
        for each in datasets:
            self.failed.add((each.dataset_id, each.last_updated))
            issue = {"feed": self.feed.path, "dataset_id": each.dataset_id, "last_updated": each.last_updated}
            self.connection.execute(sql.FAILED_NOW, {**issue, "code": code})

    def _tell(self, code: str, message: str, severity: Literal["error", "warning"] = "error") -> None:
        self.problems.append(Problem(code, self.feed.path, message, severity))
