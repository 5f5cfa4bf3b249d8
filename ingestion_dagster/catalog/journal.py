"""The journal of promotions: what is swapped, and how far it has come, so that one that is broken off can be completed or reverted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import orjson

from ingestion_dagster.catalog import promotion_sql as sql
from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.catalog.registry import MediaType
from ingestion_dagster.engine.errors import Transient
from ingestion_dagster.engine.postgres import Connection

Kind = Literal["promote", "rollback"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One swap. `incoming`, `outgoing`: suffixes of the generations, None for tables that no refresh made.

    `before`, `after`: the index that each alias led to, and is to lead to; None: none. Both have the alias and that of the filtered index.
    """

    id: int
    kind: Kind
    incoming: str | None
    outgoing: str | None
    table_state: str
    alias_state: str
    before: Mapping[str, str | None]
    after: Mapping[str, str | None]
    begun_at: datetime


def begin(
    ledger: Connection,
    media: MediaType,
    kind: Kind,
    incoming: str | None,
    outgoing: str | None,
    before: Mapping[str, str | None],
    after: Mapping[str, str | None],
    run_id: str,
) -> Entry:
    """Enter a swap, before anything is changed; what is promoted is `promoting` for as long as it is open."""
    plan = {"tables": [table.name for table in media.tables], "before": dict(before), "after": dict(after)}
    parameters = {"model": media.name, "kind": kind, "suffix": incoming or "", "from_suffix": outgoing, "run_id": run_id}
    with ledger.transaction():
        row = ledger.execute(sql.BEGIN, parameters | {"plan": orjson.dumps(plan).decode()}).fetchone()
        if kind == "promote":
            ledger.execute(sql.PROMOTING, {"model": media.name, "suffix": incoming or ""})
    assert row is not None
    return _entry(row)


def open_entry(ledger: Connection, model: str) -> Entry | None:
    """The swap of a media type that has not ended."""
    row = ledger.execute(sql.OPEN_ONE, {"model": model}).fetchone()
    return _entry(row) if row else None


def demand_ended(ledger: Connection, model: str) -> None:
    """Raises `Busy` if a swap of a media type has not ended: its tables may be of one generation, and its aliases of another.

    Who holds the media type (`locks.model`) knows by it that one was broken off; who does not, that one is under way or was broken off.
    """
    if open_entry(ledger, model) is not None:
        raise Busy(model, "a promotion or rollback that has not ended: if it was broken off, the next run completes or reverts it")


def demand_open(ledger: Connection, entry: Entry) -> None:
    """Raises `Transient` (`overtaken`) if somebody else has ended a swap, and psycopg's errors if the session that held it is lost."""
    if ledger.execute(sql.IS_OPEN, {"id": entry.id}).fetchone() is None:
        raise Transient("overtaken", "another process has ended this promotion")


def last_done(ledger: Connection, model: str) -> Entry | None:
    """The last swap that went through."""
    row = ledger.execute(sql.LAST_DONE, {"model": model}).fetchone()
    return _entry(row) if row else None


def tables(ledger: Connection, entry: Entry, state: Literal["swapped", "reverted"]) -> None:
    """Note how far the tables are."""
    ledger.execute(sql.TABLES, {"id": entry.id, "state": state})


def aliases(ledger: Connection, entry: Entry, state: Literal["moved", "reverted"]) -> None:
    """Note how far the aliases are."""
    ledger.execute(sql.ALIASES, {"id": entry.id, "state": state})


def end(ledger: Connection, media: MediaType, entry: Entry, outcome: Literal["done", "reverted"]) -> None:
    """End a swap, all or nothing.

    One that is done makes its generation the live one, and the one before it the previous one; one that was reverted can be made again.
    """
    with ledger.transaction():
        if outcome == "reverted" and entry.kind == "promote":
            ledger.execute(sql.FILLED_AGAIN, {"model": media.name, "suffix": entry.incoming or ""})
        if outcome == "done":
            # What was live is known here, too: somebody may have written over the label of its table.
            ledger.execute(sql.PREVIOUS_TO_RETIRED, {"model": media.name, "suffix": entry.incoming or ""})
            ledger.execute(sql.LIVE_TO_PREVIOUS, {"model": media.name, "suffix": entry.incoming or ""})
            for suffix, state in ((entry.outgoing, "previous"), (entry.incoming, "live")):
                if suffix is not None:
                    ledger.execute(sql.STATE, {"model": media.name, "suffix": suffix, "state": state})
        ledger.execute(sql.END, {"id": entry.id, "outcome": outcome})


def marks(ledger: Connection, media: MediaType) -> dict[str, int]:
    """The highest id ever given in each table of a media type."""
    return dict(ledger.execute(sql.MARKS, {"tables": [table.name for table in media.tables]}).fetchall())


def _entry(row: tuple[Any, ...]) -> Entry:
    number, kind, suffix, from_suffix, table_state, alias_state, plan, begun_at = row
    return Entry(number, kind, suffix or None, from_suffix, table_state, alias_state, plan["before"], plan["after"], begun_at)
