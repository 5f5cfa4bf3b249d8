"""The outbox: what a transaction has committed and somebody outside is yet to be told, at least once, in order of need.

A message is put in by the transaction that makes it true, and taken out by the one that notes that its receiver has it. In between it is
claimed: each claim draws a new number, and only who holds a message's number can settle it, so that a run that wakes up late changes
nothing. `engine.delivery` does the sending.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from ingestion_dagster.engine import outbox_sql as sql
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection


@dataclass(frozen=True, slots=True)
class Message:
    """A message that is claimed: `key` is what its receiver knows it by."""

    id: int
    key: str
    load_id: int | None
    claim: int
    attempts: int
    """How often it was tried before while others got through."""


@dataclass(frozen=True, slots=True)
class Dead:
    """A message that is given up: it waits for a person."""

    message: Message
    code: str


@dataclass(frozen=True, slots=True)
class Later:
    """A message that is due again after so many seconds, and whether that was an attempt of its own."""

    message: Message
    code: str
    seconds: float
    charged: bool


@dataclass(frozen=True, slots=True)
class Settlement:
    """What became of some messages: sent; dropped, for nobody needs them any more; dead; later."""

    sent: Sequence[Message] = ()
    dropped: Sequence[Message] = ()
    dead: Sequence[Dead] = ()
    later: Sequence[Later] = field(default=())

    def __len__(self) -> int:
        return len(self.sent) + len(self.dropped) + len(self.dead) + len(self.later)


@dataclass(frozen=True, slots=True)
class Lag:
    """How far behind a topic is; dead messages are counted, and in no age."""

    due: int
    later: int
    """Due at some time to come, after an attempt that came to nothing."""
    dead: int
    oldest_seconds: float
    """Since the oldest that is not dead was put in, or put back by `retry`, whatever was tried since; 0 without any."""


def put(connection: Connection, topic: str, keys: Sequence[str], load_id: int | None = None) -> int:
    """Put messages in, in the caller's transaction, due at once; how many. One of a key that is there already stays as it is."""
    return connection.execute(sql.PUT, {"topic": topic, "keys": list(keys), "load_id": load_id}).rowcount


def claim(
    connection: Connection, topic: str, *, count: int, lease_seconds: float, partitions: Sequence[str] | None = None
) -> list[Message]:
    """Claim at most so many that are due, the longest due first; those whose claim has run out are due again.

    `partitions` narrows it to messages that came with loads of these partitions.
    """
    parameters = {
        "topic": topic,
        "partitions": list(partitions) if partitions is not None else None,
        "count": count,
        "lease": timedelta(seconds=lease_seconds),
    }
    rows = sorted(connection.execute(sql.CLAIM, parameters).fetchall())
    return [Message(number, key, load_id, claimed, attempts) for _, number, key, load_id, claimed, attempts in rows]


def renew(connection: Connection, messages: Iterable[Message], lease_seconds: float) -> frozenset[int]:
    """Hold these for so long from now on, but for those that somebody else has claimed meanwhile; the ids of those held."""
    ours = _ours(list(messages))
    if not ours["ids"]:
        return frozenset()
    return frozenset(row[0] for row in connection.execute(sql.RENEW, {**ours, "lease": timedelta(seconds=lease_seconds)}))


def give_back(connection: Connection, messages: Iterable[Message]) -> int:
    """Make these claimable at once, as if they had never been claimed; how many."""
    ours = _ours(list(messages))
    return connection.execute(sql.GIVE_BACK, ours).rowcount if ours["ids"] else 0


def settle(connection: Connection, settlement: Settlement, mark: Callable[[Connection, Settlement], None]) -> Settlement:
    """Settle messages under their claims, in one transaction with what `mark` does; returns what was settled.

    Nothing happens to messages that somebody else has claimed meanwhile, and `mark` does not hear of them. What is sent or dropped is
    taken out.
    """
    with connection.transaction():
        out = _ids(connection, sql.TAKE_OUT, _ours([*settlement.sent, *settlement.dropped]))
        codes = [each.code for each in settlement.dead]
        dead = _ids(connection, sql.BURY, {**_ours([each.message for each in settlement.dead]), "codes": codes})
        put_off = {
            **_ours([each.message for each in settlement.later]),
            "codes": [each.code for each in settlement.later],
            "seconds": [each.seconds for each in settlement.later],
            "charges": [int(each.charged) for each in settlement.later],
        }
        later = _ids(connection, sql.PUT_OFF, put_off)
        ours = replace(
            settlement,
            sent=[each for each in settlement.sent if each.id in out],
            dropped=[each for each in settlement.dropped if each.id in out],
            dead=[each for each in settlement.dead if each.message.id in dead],
            later=[each for each in settlement.later if each.message.id in later],
        )
        mark(connection, ours)
        fault_point("outbox.settle.before")
    fault_point("outbox.settle.after")
    return ours


def retry(connection: Connection, topic: str, keys: Sequence[str] | None = None) -> list[str]:
    """Make dead messages due again, as if new; all of a topic, or those of these keys. Returns the keys."""
    return [row[0] for row in connection.execute(sql.RETRY, {"topic": topic, "keys": list(keys) if keys is not None else None})]


def lag(connection: Connection, topic: str, partitions: Sequence[str] | None = None) -> Lag:
    """How far behind a topic is; only with loads of these partitions, if any are named."""
    row = connection.execute(sql.LAG, {"topic": topic, "partitions": list(partitions) if partitions is not None else None}).fetchone()
    assert row is not None
    return Lag(*row)


def topics(connection: Connection, prefix: str) -> list[str]:
    """The topics with this beginning that messages stand under, dead ones too."""
    return [row[0] for row in connection.execute(sql.TOPICS, {"prefix": prefix})]


def is_waited_for(connection: Connection, of: Sequence[str], key: str) -> bool:
    """Whether a message of this key, under one of these topics, has yet to be sent. Dead ones are not waited for."""
    return connection.execute(sql.IS_WAITED_FOR, {"topics": list(of), "key": key}).fetchone() == (True,)


def bury(connection: Connection, of: Sequence[str], code: str, keys: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Make messages under these topics dead, all or those of these keys: topic and key of each that was due.

    One that somebody settles at this moment is left to him.
    """
    parameters = {"topics": list(of), "keys": list(keys) if keys is not None else None, "code": code}
    return [(row[0], row[1]) for row in connection.execute(sql.BURY_ALL, parameters) if row[2]]


def held(connection: Connection, topic: str) -> tuple[int, datetime | None]:
    """How many messages of a topic somebody has claimed, and until when at the latest."""
    row = connection.execute(sql.HELD, {"topic": topic}).fetchone()
    assert row is not None
    return int(row[0]), row[1]


def dead_codes(connection: Connection, topic: str) -> list[tuple[str, int]]:
    """Why messages of a topic are dead: code, how many; most frequent first."""
    return [(row[0], int(row[1])) for row in connection.execute(sql.DEAD_CODES, {"topic": topic})]


def drop_dead(connection: Connection, topic: str, code: str) -> int:
    """Drop the dead messages of a topic that died of this; how many."""
    return connection.execute(sql.DROP_DEAD, {"topic": topic, "code": code}).rowcount


def _ours(messages: Sequence[Message]) -> dict[str, list[int] | list[str] | list[float]]:
    return {"ids": [each.id for each in messages], "claims": [each.claim for each in messages]}


def _ids(connection: Connection, statement: str, parameters: dict[str, list[int] | list[str] | list[float]]) -> frozenset[int]:
    if not parameters["ids"]:
        return frozenset()
    return frozenset(row[0] for row in connection.execute(statement, parameters))
