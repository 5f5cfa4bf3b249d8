"""Which HMAC keys records are known by: no record may come in under two of them, and none be forgotten with its key."""

from dataclasses import dataclass

from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.life_events.keys import HMAC_KEYS, Hasher, Key

# Whoever adds a key waits for the transactions that go on under the one before; whoever begins one after that sees the new key.
_STAY = "LOCK TABLE life_events.hmac_keys IN SHARE MODE"
_CHANGE = "LOCK TABLE life_events.hmac_keys IN SHARE ROW EXCLUSIVE MODE"

_KNOWN = "SELECT id, fingerprint FROM life_events.hmac_keys ORDER BY position"

_ENTER = "INSERT INTO life_events.hmac_keys (id, fingerprint) VALUES (%(id)s, %(fingerprint)s)"

_IN_USE = "SELECT hmac_key FROM life_events.records WHERE hmac_key = ANY(%(ids)s) LIMIT 1"


@dataclass(frozen=True, slots=True)
class _Known:
    """The keys that the ledger knows, the newest last."""

    fingerprints: dict[str, bytes]

    @property
    def newest(self) -> str | None:
        return next(reversed(self.fingerprints), None)

    def holds(self, key: Key) -> bool:
        return key.id in self.fingerprints


def guard(connection: Connection, hasher: Hasher, *, thorough: bool = True) -> None:
    """See to it that records may be hashed with these keys, until the caller's transaction ends; without one, at this moment.

    The first to ask decides which keys are known. A current key that is not is entered as the newest, which is a rotation: it waits for the
    transactions that have asked under the key before. That one stays among the older keys until its records are forgotten; whether there
    are any is asked only if `thorough`, for it takes as long as there are records.

    Raises `ConfigurationError` if an id stands for another key than before, if keys have been rotated since this process has read its
    settings, or if one is missing that records are known under.
    """
    with connection.transaction():
        known = _known(connection)
        if known.newest is None or not known.holds(hasher.current):
            connection.execute(_CHANGE)
            _enter(connection, hasher, _known(connection))
        else:
            connection.execute(_STAY)
        _check(connection, hasher, _known(connection), thorough=thorough)


def _known(connection: Connection) -> _Known:
    return _Known({key_id: bytes(fingerprint) for key_id, fingerprint in connection.execute(_KNOWN)})


def _enter(connection: Connection, hasher: Hasher, known: _Known) -> None:
    """Enter the keys if none are known, or the current one behind the newest."""
    if known.holds(hasher.current):  # somebody else has been quicker
        return
    for key in (hasher.current,) if known.newest is not None else (*reversed(hasher.older), hasher.current):
        connection.execute(_ENTER, {"id": key.id, "fingerprint": key.fingerprint})


def _check(connection: Connection, hasher: Hasher, known: _Known, *, thorough: bool) -> None:
    for key in hasher.keys:
        if known.holds(key) and known.fingerprints[key.id] != key.fingerprint:
            raise ConfigurationError(
                f"{HMAC_KEYS}: key {key.id} is not the one that records are known by; restore it, or give the new key an id of its own"
            )
    if known.newest != hasher.current.id:
        raise ConfigurationError(
            f"keys have been rotated to {known.newest}: restart with the new settings; in {HMAC_KEYS} it comes first, "
            f"and {hasher.current.id}, which was current before it, cannot be so again"
        )
    missing = sorted(known.fingerprints.keys() - {key.id for key in hasher.keys})
    if missing and thorough:
        row = connection.execute(_IN_USE, {"ids": missing}).fetchone()
        if row is not None:
            raise ConfigurationError(
                f"records are known under key {row[0]} until they are forgotten: add it to {HMAC_KEYS} behind {hasher.current.id}"
            )
