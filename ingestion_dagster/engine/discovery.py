"""How it is learned what has come: by a listing, or from a queue that tells of it; and the listing that finds what was not told."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from ingestion_dagster.engine import entries, landing, ledger
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.landing import PAGE, Discovery, Moment, Zone
from ingestion_dagster.engine.object_store import LONGEST_KEY, is_key
from ingestion_dagster.engine.postgres import Connection

if TYPE_CHECKING:
    from ingestion_dagster.engine.notice_queue import Message, NoticeQueue
    from ingestion_dagster.engine.s3_store import S3Store

log = logging.getLogger(__name__)

QUEUE_SECONDS = 20.0
"""How long a queue is emptied at a time: a tick asks the ledger some questions besides, and a run wants to load."""

_MESSAGES = 500
"""Messages in hand at a time: entered in one transaction, and what a crash has told again."""


@dataclass(slots=True)
class Heard(Discovery):
    """What a queue told: messages, what they led to, and that of what they said which led to no load."""

    messages: int = 0
    gone: int = 0
    """Objects that do not stand there any more: loaded and moved, or deleted."""
    elsewhere: int = 0
    """Objects of another bucket, or not below the landing zone."""
    others: int = 0
    """What nobody asks for: deletions, test events, names that are nobody's data."""
    unreadable: int = 0
    """Messages that nobody can read: left to the dead-letter queue."""
    left: int = 0
    """Messages that the queue has not deleted: they come again, and are known."""
    dead: int | None = None
    """Messages in the dead-letter queue; None: there is none, or it was not looked at."""
    trouble: str | None = None
    """Why the queue was not read to its end."""

    def __str__(self) -> str:
        counts = {
            "gone": self.gone, "of other places": self.elsewhere, "that tell of nothing new": self.others,
            "unreadable": self.unreadable, "not deleted": self.left,
        }  # fmt: skip
        said = [f"{self.messages} messages", *(f"{count} {what}" for what, count in counts.items() if count)]
        said += [f"{self.dead} in the dead-letter queue"] if self.dead else []
        return ", ".join(said) + (f"; the queue was left for now: {self.trouble}" if self.trouble else "")


def discover(
    connection: Connection,
    zone: Zone,
    now: datetime,
    run_id: str | None = None,
    *,
    skip: int = 0,
    seconds: float | None = None,
) -> Discovery:
    """Enter what has come into the ledger, as the zone learns of it: by `landing.discover`, or from its queue.

    From a queue: for `QUEUE_SECONDS` at most; `skip` is of no meaning there. A queue that does not do what it is asked raises nothing: what
    has come is told again, and `Heard.trouble` says what is wrong.
    """
    if zone.queue is None:
        return landing.discover(connection, zone, now, run_id, skip=skip, seconds=seconds)
    return _drain(connection, zone, zone.queue, now, run_id, QUEUE_SECONDS if seconds is None else min(seconds, QUEUE_SECONDS))


def _drain(connection: Connection, zone: Zone, url: str, now: datetime, run_id: str | None, seconds: float) -> Heard:
    from ingestion_dagster.engine.notice_queue import Away, NoticeQueue  # boto3 comes with it

    found = Heard()
    reader = _Reader(connection, zone, _bucket(zone), found, now, run_id)
    try:
        with NoticeQueue(url) as queue:
            reader.read(queue, time.monotonic() + seconds)
            found.dead = queue.dead()
    except Away as away:
        found.trouble = str(away)
        log.warning("%s: %s", zone.landing.url, away)
    _look_again(connection, zone, found)
    _assign(connection, zone, reader.moment())
    return found


def _bucket(zone: Zone) -> "S3Store":
    from ingestion_dagster.engine.s3_store import S3Store

    if not isinstance(zone.landing, S3Store):
        raise ConfigurationError(
            f"a queue is set for {zone.pipeline}, whose landing zone is no bucket; unset INGESTION_{zone.pipeline.upper()}_QUEUE_URL"
        )
    return zone.landing


@dataclass(frozen=True, slots=True)
class _Reader:
    """One drain of a queue: where what it tells of is looked for and entered, and what was found so far."""

    connection: Connection
    zone: Zone
    bucket: "S3Store"
    found: Heard
    now: datetime
    run_id: str | None

    def moment(self) -> Moment:
        """From now on what stands in the landing zone is looked at."""
        return Moment(self.now, ledger.now(self.connection), self.run_id)

    def read(self, queue: "NoticeQueue", deadline: float) -> None:
        """Empty the queue until the deadline. A message is deleted once what it tells of is committed; until then it comes again."""
        while messages := queue.receive(_MESSAGES):
            moment, keys = self.moment(), self._keys(messages)
            standing = [seen for seen in self.bucket.find_all(keys) if seen is not None]
            self.found.gone += len(keys) - len(standing)
            fault_point("notices.enter.before")
            for start in range(0, len(standing), PAGE):
                landing.enter(self.connection, self.zone, standing[start : start + PAGE], self.found, moment)
            fault_point("notices.enter.after")
            self.found.left += queue.delete([message.receipt for message in messages if message.told is not None])
            fault_point("notices.delete.after")
            if time.monotonic() >= deadline:
                self.found.complete = False
                return

    def _keys(self, messages: Sequence["Message"]) -> list[str]:
        """The keys that messages tell of, each once; what is no affair of this landing zone is counted."""
        keys: dict[str, None] = {}
        for message in messages:
            self.found.messages += 1
            if message.told is None:
                self.found.unreadable += 1
                continue
            self.found.others += message.told.others
            for place in message.told.created:
                key = self.bucket.key_of(place.bucket, place.path)
                if key is None:
                    self.found.elsewhere += 1
                elif is_key(key) and len(place.path.encode()) <= LONGEST_KEY:
                    keys[key] = None
                else:
                    self.found.others += 1
        return list(keys)


def _look_again(connection: Connection, zone: Zone, found: Heard) -> None:
    """Let loads go on whose object was entered before what belongs to it had come, and that is there now. For zones that are not listed."""
    waiting = entries.incomplete(connection, zone.pipeline, zone.landing.url, landing.INCOMPLETE, PAGE)
    incomplete = set(landing.incomplete(zone, waiting, datetime.now(UTC)))
    whole = [seen for seen in waiting if seen not in incomplete]
    if whole:
        entries.completed(connection, zone.pipeline, zone.landing.url, whole)
    found.settling = len(incomplete)


def _assign(connection: Connection, zone: Zone, moment: Moment) -> None:
    """Decide about loads that wait for others. What decides may have come without a message so far: it is looked for."""
    decisive = zone.decisive(connection)
    standing = [seen for seen in zone.landing.find_all(decisive) if seen is not None]
    if standing:
        landing.enter(connection, zone, standing, Discovery(), moment)
    zone.assign(connection)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What part of a landing zone showed: objects, those that are new, those of them that nobody had told of, those that came back."""

    seen: int = 0
    new: int = 0
    late: int = 0
    """New ones that had stood there for longer than they may. Of a folder none: it keeps whatever time a file was given."""
    came_back: int = 0
    settling: int = 0
    after: str | None = None
    """The key behind which the next call goes on; None: the listing is at its end."""

    def __add__(self, more: "Reconciled") -> "Reconciled":
        return Reconciled(
            self.seen + more.seen,
            self.new + more.new,
            self.late + more.late,
            self.came_back + more.came_back,
            self.settling + more.settling,
            more.after,
        )


def reconcile(
    connection: Connection,
    zone: Zone,
    now: datetime,
    *,
    after: str = "",
    seconds: float | None = None,
    late: timedelta = timedelta(hours=1),
    run_id: str | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Reconciled:
    """List a landing zone, and enter what nobody has told of: a message may be lost. Nothing is entered twice.

    An object that no load stands for and that is older than `late` was not told of: that is a matter of minutes.
    It takes so many `seconds` and one page more, and keeps no more than a page in memory; call it again with the `after` of what it
    returned until that is None. Objects that come while it is on its way are found by it or told of. A folder is listed as a whole,
    whatever the time. Raises `Transient` or `ConfigurationError`; what was entered by then stays.
    """
    deadline = None if seconds is None else clock() + seconds
    listing = zone.landing.list_after(after)
    total = Reconciled()
    while page := list(islice(listing, PAGE)):
        moment = Moment(now, ledger.now(connection), run_id)
        begun = datetime.now(UTC) - late if zone.landing.dated_by_arrival else datetime.min.replace(tzinfo=UTC)
        overlooked, others = Discovery(), Discovery()
        landing.enter(connection, zone, [seen for seen in page if seen.modified <= begun], overlooked, moment)
        landing.enter(connection, zone, [seen for seen in page if seen.modified > begun], others, moment)
        total += Reconciled(
            len(page),
            overlooked.new + others.new,
            overlooked.new,
            overlooked.came_back + others.came_back,
            overlooked.settling + others.settling,
            page[-1].key,
        )
        if deadline is not None and clock() >= deadline:
            return total
    if zone.queue is None:
        zone.assign(connection)
    else:
        _assign(connection, zone, Moment(now, ledger.now(connection), run_id))
    return total + Reconciled()
