"""Reading a stream on and on, for readers who gather records and say later how far their checkpoints may go."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from botocore.exceptions import ClientError

from ingestion_dagster.engine.kinesis import Record, code_of, told
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.shards import CHECKPOINT, FETCHED, Shard, Shards, end_of, parents


@dataclass(frozen=True, slots=True)
class Page:
    """What one read of a shard gave: its next records, how many seconds these are from its tip, and whether it ends with them."""

    records: Sequence[Record]
    behind: float
    at_end: bool


@dataclass(slots=True, kw_only=True)
class Tail(Shards):
    """A stream that is read for as long as its reader likes. Each shard goes on where it was read last; its checkpoint waits to be told.

    Every method that asks the stream raises `Transient` (`stream_unavailable`: throttled too) or `ConfigurationError`, and may be
    called again. For one reader at a time, over one connection, on which it holds the locks of its shards.
    """

    listed: frozenset[str] = frozenset()
    """The shards that the stream knew when it was asked last."""

    def admit(self) -> list[str]:
        """Take in hand what can be read and nobody reads: shards not read to their end whose parents are. Those that are new in hand."""
        with told(self.stream):
            listed = {shard["ShardId"]: shard for shard in self._listed()}
        self.listed = frozenset(listed)
        for name in self.in_hand.keys() & listed.keys():
            self.in_hand[name].end = end_of(listed[name])
        unread = self._unread(listed)
        admitted = []
        for name in unread:
            if name not in self.in_hand and parents(listed[name]).isdisjoint(unread) and self._try_lock(name):
                if self._begin(listed[name]):
                    admitted.append(name)
                else:
                    self._unlock(name)
        return admitted

    def read(self, name: str, limit: int = FETCHED) -> Page:
        """The next records of a shard in hand, at most `limit`. A shard whose records have all expired is at its end."""
        shard = self.in_hand[name]
        with told(self.stream):
            try:
                try:
                    records, behind = self._get(shard, limit)
                except ClientError as error:
                    if code_of(error) != "ExpiredIteratorException":
                        raise
                    shard.iterator = None
                    records, behind = self._get(shard, limit)
            except ClientError as error:
                if code_of(error) == "ResourceNotFoundException" and not self._stands(shard):
                    return Page((), 0.0, at_end=True)
                raise
        shard.position = records[-1].sequence_number if records else shard.position
        return Page(records, behind, shard.at_end)

    def reread(self, name: str, first: str, last: str) -> Iterator[list[Record]]:
        """The records of a shard between two numbers, both included, page by page: those that are still kept."""
        shard = Shard(name, None, None, first)
        with told(self.stream):
            try:
                shard.iterator = self._iterator(shard, "AT_SEQUENCE_NUMBER")
                while shard.iterator and not shard.caught_up:
                    records, _ = self._get(shard, FETCHED)
                    yield [record for record in records if int(first) <= int(record.sequence_number) <= int(last)]
                    if records and int(records[-1].sequence_number) >= int(last):
                        return
            except ClientError as error:
                if code_of(error) != "ResourceNotFoundException" or self._stands(shard):
                    raise

    def advance(self, name: str, to: str | None) -> bool:
        """Move the checkpoint of a shard in hand on. False if somebody else has moved it, or it was lost: then `drop` the shard."""
        shard = self.in_hand[name]
        return to == shard.checkpoint or self._advance(shard, to)

    def finish(self, name: str) -> bool:
        """Note that a shard in hand is read to its end and all of it done with, and let go of it. False as with `advance`."""
        shard = self.in_hand[name]
        if shard.end is None:
            with told(self.stream):
                shard.end = next((end_of(listed) for listed in self._listed() if listed["ShardId"] == name), None)
        finished = self._advance_to_end(shard)
        self.drop(name)
        return finished

    def drop(self, name: str) -> None:
        """Let go of a shard: whoever takes it next reads it from its checkpoint."""
        self.in_hand.pop(name, None)
        self._unlock(name)

    def hold(self, name: str) -> bool:
        """Keep readers out of a shard that need not be listed any more. False if one is in."""
        return name not in self.locked and self._try_lock(name)

    def reconnect(self, connection: Connection) -> None:
        """Go on over another connection: shards in hand stay so if nobody has come in between, and are dropped otherwise."""
        self.connection, self.locked = connection, set()
        for name, shard in list(self.in_hand.items()):
            row = None
            if self._try_lock(name):
                row = connection.execute(CHECKPOINT, {"stream": self.stream.name, "shard": name}).fetchone()
            if row is None or row[0] != shard.checkpoint:
                self.in_hand.pop(name)
                if name in self.locked:
                    self._unlock(name)
