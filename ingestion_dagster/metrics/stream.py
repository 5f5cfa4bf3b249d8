"""Records {name, data} of a stream: each becomes a file of the landing zone, unless it has been one already, or is refused there and then.

What the ledger shows. A record that brings something new is one load, discovered by `kinesis://<stream>/<shard>/<sequence number>`; from
there on it is a file. A record that brings what is there, or was when it was sent, is no load. An object put after the record of the same
content has been loaded is a new version, as every object is: a second load, `duplicate_of` the first, with no rows written. Put before
that, it takes the record's place: one load, or two of which the older is `superseded`. So the content is written to the tables once.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum, auto

import orjson

from ingestion_dagster.engine import entries, landing, ledger, moving, whereabouts
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.drain import Drained, drain
from ingestion_dagster.engine.entries import Arrival
from ingestion_dagster.engine.errors import Problem, Refused, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.kinesis import Record, Stream
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.ledger import Load, Scope, Status, Verdict
from ingestion_dagster.engine.object_store import Changed, Missing, StoredObject, is_key
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.whereabouts import Version
from ingestion_dagster.metrics.payload import UNCLASSIFIED, content_hash, decode
from ingestion_dagster.metrics.places import DATASETS

WITHOUT_NAME = Problem("record_without_name", "name", "absent, or no text; send the key of the file, such as in/abc.json")
WITHOUT_DATA = Problem("record_without_data", "data", "absent, or no JSON object; send the whole content of the metric file")
UNUSABLE_NAME = Problem(
    "unusable_name",
    "name",
    "no file can have this key: names between slashes, none empty or with a leading dot, no control characters, 1,024 bytes at most",
)
TOO_LARGE = Problem("record_too_large", "record", "larger than INGESTION_MAX_LOAD_BYTES; split it by date or raise the limit")

_LANDING_FOLDER = "in/"
_CLOCKS_AGREE = timedelta(minutes=1)
_LOOKS = 3


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a record delivers: the key it belongs under in the landing zone, the file, and its content as `content_hash` knows it."""

    key: str
    raw: bytes
    content_hash: str


@dataclass(slots=True)
class Taken:
    """What became of the records of a drain."""

    written: int = 0
    known: int = 0
    poison: int = 0
    drained: Drained = field(default_factory=Drained)

    def __str__(self) -> str:
        """The sentence that a tick says of it."""
        said = f"{self.drained.records} records read: {self.written} written, {self.known} known already, {self.poison} poison; "
        said += f"{self.drained.shards} shards, {self.drained.seconds_behind:.0f} s behind"
        if self.drained.waiting:
            said += f"; {self.drained.waiting} of them wait until a file of the same name that stands in the landing zone has been loaded"
        if self.drained.busy:
            said += f"; {self.drained.busy} of them are being read by somebody else"
        return said if self.drained.complete else f"{said}; more to read"


class _Fate(Enum):
    WRITTEN = auto()
    KNOWN = auto()
    POISON = auto()
    WAITS = auto()


def take(connection: Connection, zone: Zone, name_or_arn: str, *, seconds: float, max_load_bytes: int = 64 * 1024 * 1024) -> Taken:
    """Bring what is new in a stream to the landing zone, for `seconds` at most. Raises `Transient` or `ConfigurationError`."""
    stream = Stream.of(name_or_arn)
    sync_datasets(connection, zone.pipeline, DATASETS)
    taker = Taker(zone, stream, max_load_bytes)
    with whereabouts.at_work(connection, taker.run_id):
        taker.taken.drained = drain(connection, stream, taker, seconds=seconds)
    return taker.taken


def read(raw: bytes, max_load_bytes: int) -> Delivery:
    """What a record delivers. Raises `Refused` with everything that is wrong with it.

    The file is written anew from the decoded `data`, in the order of its fields: no parser in use tells where a member begins and ends in
    the bytes. It is checked to have the same content.
    """
    if len(raw) > max_load_bytes:
        raise Refused(TOO_LARGE)
    content, problem = _decoded(raw)
    if problem:
        raise Refused(problem)
    name, data = content.get("name"), content.get("data")
    problems = []
    if not isinstance(name, str):
        problems.append(WITHOUT_NAME)
    elif not is_key(key_of(name)):
        problems.append(UNUSABLE_NAME)
    if not isinstance(data, dict):
        problems.append(WITHOUT_DATA)
    if problems:
        raise Refused(*problems)
    assert isinstance(name, str)
    assert isinstance(data, dict)
    wanted = content_hash(data)
    return Delivery(key_of(name), _serialised(data, wanted), wanted)


def key_of(name: str) -> str:
    """The key in the landing zone: the name without the folder `in` that leads it. `in/main/a.json` → `main/a.json`."""
    return name.removeprefix(_LANDING_FOLDER)


def _decoded(raw: bytes) -> tuple[dict[str, object], Problem | None]:
    try:
        content = decode(raw)
        content_hash(content)
    except Refused as refused:
        reason = refused.problems[0].message
    else:
        return content, None
    return {}, Problem("record_not_json", "record", f"{reason}; send one JSON object {{name, data}} in UTF-8")


def _serialised(data: dict[str, object], wanted: str) -> bytes:
    try:
        raw = orjson.dumps(data)
        if content_hash(decode(raw)) == wanted:
            return raw
    except orjson.JSONEncodeError:
        pass
    # NaN, infinities, halves of surrogate pairs and long integers: the rules will find them where they were.
    return json.dumps(data, separators=(",", ":")).encode()


def _new_run_id() -> str:
    return f"{whereabouts.DRAIN}{uuid.uuid4().hex[:8]}"


@dataclass(slots=True)
class Taker:
    """The handler of `drain`: writes each record to the landing zone or the error zone, or lets it go because it is known.

    What is refused in one drain is refused under one `run_id`, so that people are alerted to it once.
    """

    zone: Zone
    stream: Stream
    max_load_bytes: int = 64 * 1024 * 1024
    run_id: str = field(default_factory=_new_run_id)
    taken: Taken = field(default_factory=Taken)

    def __call__(self, connection: Connection, records: Sequence[Record]) -> int:
        """See `engine.drain.Handler`."""
        for number, record in enumerate(records):
            fate = self._take(connection, record)
            if fate is _Fate.WAITS:
                return number
            self.taken.written += fate is _Fate.WRITTEN
            self.taken.known += fate is _Fate.KNOWN
            self.taken.poison += fate is _Fate.POISON
        return len(records)

    def _take(self, connection: Connection, record: Record) -> _Fate:
        delivery, problems = self._delivery(record)
        if delivery is not None:
            try:
                return self._place(connection, record, delivery)
            except ValueError:  # this store cannot hold the key: too long for it, or a file stands where a folder would have to
                problems = (UNUSABLE_NAME,)
        return self._refuse(connection, record, problems)

    def _delivery(self, record: Record) -> tuple[Delivery | None, tuple[Problem, ...]]:
        try:
            return read(record.data, self.max_load_bytes), ()
        except Refused as refused:
            return None, refused.problems

    def _place(self, connection: Connection, record: Record, delivery: Delivery) -> _Fate:
        """Write a file under its key, unless its content is known or would take the place of another that nobody has read yet.

        Records of other shards may bear the same name: one at a time looks and writes.
        """
        with connection.transaction():
            lock = f"{self.zone.landing.url}/{delivery.key}"
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%(lock)s, 0))", {"lock": lock})
            for _ in range(_LOOKS):
                standing = self.zone.landing.find(delivery.key)
                # In this order: what is not found standing has been settled by whoever moved it.
                versions = whereabouts.versions(connection, self.zone.landing.url, delivery.key)
                if _brought_already(self._shard(record), record, versions):
                    return _Fate.KNOWN
                if standing is None:
                    if self._was_loaded(connection, record, delivery, versions):
                        return _Fate.KNOWN
                    try:
                        return self._write(connection, record, delivery)
                    except Changed:  # an object was put that very moment
                        continue
                try:
                    raw = self.zone.landing.read(standing)
                except (Missing, Changed):
                    continue
                if _hash(raw) == delivery.content_hash and not self._is_overshadowed(standing, versions):
                    return _Fate.KNOWN
                discovered = any(version.version == standing.version for version in versions)
                return _Fate.KNOWN if discovered and self._was_loaded(connection, record, delivery, versions) else _Fate.WAITS
            return _Fate.WAITS

    def _write(self, connection: Connection, record: Record, delivery: Delivery) -> _Fate:
        fault_point("metrics.stream.landing.before")
        written = self.zone.landing.write(delivery.key, delivery.raw, new=True)
        fault_point("metrics.stream.landing.after")
        entries.discover(connection, self.zone.pipeline, self.zone.landing.url, [Arrival(written)], datetime.now(UTC), self._origin(record))
        return _Fate.WRITTEN

    def _was_loaded(self, connection: Connection, record: Record, delivery: Delivery, versions: Sequence[Version]) -> bool:
        """Whether a record's content is the newest load's, or an older one's and the newest was put after the record was sent.

        A load that was refused counts as well: `ingestion retry` is what loads it again. One whose rows a rebuild has replaced counts for
        records sent before that.
        """
        read_versions = [
            version
            for version in versions
            if not version.superseded and (version.replaced_at is None or record.arrived <= version.replaced_at)
        ]
        equal = [version for version in read_versions if self._content_of(connection, version) == delivery.content_hash]
        if not equal:
            return False
        newest = read_versions[0]
        return equal[0] is newest or (_origin_of(newest) is None and newest.modified > record.arrived)

    def _content_of(self, connection: Connection, version: Version) -> str | None:
        """The hash of what a load read. One that was given up before it could be hashed is read where it stands now."""
        if version.content_hash is not None or not version.was_moved:
            return version.content_hash
        [load] = ledger.loads(connection, [version.load_id])
        try:
            return _hash(landing.read(self.zone, load))
        except (Missing, Changed):
            return None

    def _is_overshadowed(self, standing: StoredObject, versions: Sequence[Version]) -> bool:
        """Whether a bucket shows an older version because the newer one has been moved away. It will be moved too, unread."""
        newest = max((version.modified for version in versions if not version.superseded), default=standing.modified)
        return self.zone.landing.dated_by_arrival and newest > standing.modified

    def _refuse(self, connection: Connection, record: Record, problems: Sequence[Problem]) -> _Fate:
        """Put a record into the error zone with its report, and enter it as an errored load; the same one again changes nothing.

        The load goes all its way in one transaction: nobody else can move an object that stands in no landing zone.
        """
        seen = StoredObject(
            f"kinesis/{self.stream.name}/{record.shard}/{record.sequence_number}.json",
            len(record.data),
            record.arrived,
            record.sequence_number,
        )
        if self._load_of(connection, seen) is not None:
            return _Fate.POISON
        fault_point("metrics.stream.poison.before")
        location = self._keep(seen, record.data)
        fault_point("metrics.stream.poison.after")
        with connection.transaction():
            entries.discover(connection, self.zone.pipeline, self.stream.url, [Arrival(seen)], datetime.now(UTC), self._origin(record))
            found = self._load_of(connection, seen)
            scope = Scope(self.zone.pipeline, ids=frozenset() if found is None else frozenset({found}))
            for load in ledger.claim(connection, scope, self.run_id, count=1, size=seen.size, lease_seconds=60):
                verdict = Verdict(
                    load, Status.READY_FOR_ERRORING, dataset=UNCLASSIFIED, bytes=seen.size, problems=tuple(problems), why="refused unread"
                )
                ledger.settle(connection, [verdict])
                refused = replace(load, status=verdict.to, problems=verdict.problems, location=location)
                if moving.move(connection, self.zone, [refused], lease_seconds=60, run_id=self.run_id):
                    raise Transient("object_store_unavailable", "the report of a refused record could not be written")
        fault_point("metrics.stream.poison.entered")
        return _Fate.POISON

    def _keep(self, seen: StoredObject, data: bytes) -> str:
        """Write a refused record to where an errored load of that key and version stands; its URL."""
        load = Load(
            0, self.zone.pipeline, UNCLASSIFIED, self.stream.url, seen.key, seen.version, seen.size, seen.modified, "", Status.ERRORING, 0
        )
        target = self.zone.error_targets(load)[-1]
        target.store.write(target.key, data)
        return target.location

    def _load_of(self, connection: Connection, seen: StoredObject) -> int | None:
        return whereabouts.load_of(connection, self.stream.url, seen.key, seen.version)

    def _origin(self, record: Record) -> str:
        """Who discovered a load, as its history tells: the record that brought it."""
        return f"{self._shard(record)}/{record.sequence_number}"

    def _shard(self, record: Record) -> str:
        return f"{self.stream.url}/{record.shard}"


def _origin_of(version: Version) -> tuple[str, int] | None:
    """The shard (`kinesis://<stream>/<shard>`) and number of the record that brought a load; None if none did."""
    shard, _, number = (version.discovered_by or "").rpartition("/")
    return (shard, int(number)) if shard.startswith("kinesis://") and number.isdecimal() else None


def _brought_already(shard: str, record: Record, versions: Sequence[Version]) -> bool:
    """Whether a file of this key was brought by this record, or by a later one of its shard: then this one had its turn before.

    A stream that was deleted and made again may count anew; its records arrive after the older files were discovered.
    """
    recent = (version for version in versions if version.discovered_at >= record.arrived - _CLOCKS_AGREE)
    origins = (_origin_of(version) for version in recent)
    return any(origin is not None and origin[0] == shard and origin[1] >= int(record.sequence_number) for origin in origins)


def _hash(raw: bytes) -> str | None:
    """The content of a file as `content_hash` knows it; None if it is no JSON object."""
    try:
        return content_hash(decode(raw))
    except Refused:
        return None
