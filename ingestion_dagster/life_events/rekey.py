"""Rotation of encryption keys: what lives in the event store is sealed again under the current one."""

import logging
from dataclasses import dataclass, replace

from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.life_events.keys import Undecipherable, Vault
from ingestion_dagster.life_events.store import EventStore, Sealed

log = logging.getLogger(__name__)

_BATCH = 500


@dataclass(slots=True)
class Rekeyed:
    """What became of the events that were sealed with another key."""

    resealed: int = 0
    gone: int = 0
    """Deleted meanwhile, or sealed again by somebody else."""
    undecipherable: int = 0
    """They open with none of the keys that are set, and stay as they are."""


def rekey(database: Database, store: EventStore, vault: Vault) -> Rekeyed:
    """Seal again, under the current key, all events that are sealed with another, until none is left that opens.

    An older key can be given up once this has returned with nothing `undecipherable`, and every process knows the current one. Each batch
    is a transaction of its own: killed anywhere, the same call goes on; two at once share the work. Raises as the store does.
    """
    done = Rekeyed()
    with database.connect() as connection:
        # What comes in under the older key behind our back is met by the next round.
        while _round(connection, store, vault, done):
            pass
    return done


def _round(connection: Connection, store: EventStore, vault: Vault, done: Rekeyed) -> int:
    """Go through the store once; how many events were sealed again."""
    before, strangers = done.resealed, set()
    done.undecipherable = 0
    for page in store.under_other_keys(connection, vault.current.id, _BATCH):
        changes = []
        for event in page:
            try:
                changes.append((event, _sealed_again(vault, event)))
            except Undecipherable:
                done.undecipherable += 1
                strangers.add(event.encryption_key)
        if changes:
            fault_point("life_events.rekey.before")
            with connection.transaction():
                resealed = len(store.reseal(connection, changes))
            fault_point("life_events.rekey.after")
            done.resealed += resealed
            done.gone += len(changes) - resealed
    if strangers:
        log.warning("%d events do not open; they are sealed with %s", done.undecipherable, ", ".join(sorted(strangers)))
    return done.resealed - before


def _sealed_again(vault: Vault, event: Sealed) -> Sealed:
    payload = vault.open(event.record_key, event.encryption_key, event.payload)
    return replace(event, encryption_key=vault.current.id, payload=vault.seal(event.record_key, payload))
