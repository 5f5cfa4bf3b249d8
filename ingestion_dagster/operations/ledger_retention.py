"""What the ledger lets go of when its term is over; never what keeps an object from being loaded again, or is referred to."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta

from psycopg import errors, sql

from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.engine.foreign_keys import foreign_keys_to
from ingestion_dagster.engine.landing import Zone, side_by_side, source_of
from ingestion_dagster.engine.ledger import Load
from ingestion_dagster.engine.object_store import Missing, open_store
from ingestion_dagster.engine.pipeline import Pipeline
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.operations import ledger_retention_sql as statements
from ingestion_dagster.settings import Settings

log = logging.getLogger(__name__)

BATCH = 500
SECONDS = 300.0
"""How long a pipeline is worked on in one night; the next one goes on, since what went is gone."""

_FIRST = (datetime(1970, 1, 1, tzinfo=UTC), 0)
_LISTED, _STORED, _UNSURE, _GONE = "listed", "stored", "unsure", "gone"


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Loads past their term: how many went, and how many stay, and for what."""

    loads: int = 0
    listed: int = 0
    """Stay: an object stands under their key in the landing zone, and would be loaded again."""
    stored: int = 0
    """Stay: the newest version of a key whose object stands where it was moved to, for a replay."""
    referred: int = 0
    """Stay: something of a pipeline refers to them, within a term of its own, or has them in hand."""
    unsure: int = 0
    """Stay: their store does not answer, or is no store of today's settings."""
    unfinished: bool = False
    """Time was up before all were looked at."""

    def __add__(self, more: "Forgotten") -> "Forgotten":
        return Forgotten(*(getattr(self, each.name) + getattr(more, each.name) for each in fields(self)))


def term(pipeline: Pipeline, settings: Settings) -> timedelta | None:
    """How old an end must be for its load to go; None: none goes."""
    if not settings.ledger_days:
        return None
    return timedelta(days=max(settings.ledger_days, pipeline.remembers(settings)))


def forget(
    connection: Connection, pipeline: Pipeline, settings: Settings, now: datetime, *, seconds: float = SECONDS, dry_run: bool = False
) -> Forgotten:
    """Delete the loads of a pipeline that have ended so long ago, with their history; what became of all that are as old.

    A batch is a transaction of its own, and asks again what may go: killed anywhere, or twice at once, the same call goes on. With
    `dry_run` nothing is deleted. Raises `ConfigurationError` if the pipeline's places cannot be told.
    """
    age = term(pipeline, settings)
    if age is None:
        return Forgotten()
    zone = None if pipeline.keyed else pipeline.zone(settings)
    letting_go = statements.let_go(_unreferred(connection))
    asked = {"pipeline": pipeline.name, "before": now - age, "count": BATCH}
    deadline = time.monotonic() + seconds
    total, after = Forgotten(), _FIRST
    while rows := connection.execute(statements.OLD, asked | {"after_at": after[0], "after_id": after[1]}).fetchall():
        if time.monotonic() > deadline:
            return total + Forgotten(unfinished=True)
        newer = {row[0]: row[1] for row in rows}
        after = (rows[-1][2], rows[-1][0])
        fates = _fates(zone, ledger.loads(connection, list(newer)), newer)
        going = [load_id for load_id, fate in fates.items() if fate == _GONE]
        gone = _let_go(connection, letting_go, asked, going, dry_run=dry_run)
        stay = [fate for fate in fates.values() if fate != _GONE]
        total += Forgotten(gone, stay.count(_LISTED), stay.count(_STORED), len(going) - gone, stay.count(_UNSURE))
    return total


def shorten(connection: Connection, settings: Settings, now: datetime, *, seconds: float = SECONDS, dry_run: bool = False) -> int:
    """Delete what is told of the steps between begin and end of loads that ended long ago; how many lines of history.

    How a load began, that it was loaded again, and how it ended stays as long as the load: the order of versions follows from it.
    """
    if not settings.load_history_days:
        return 0
    asked = {"before": now - timedelta(days=settings.load_history_days), "count": BATCH * 10}
    deadline = time.monotonic() + seconds
    shortened = after = 0
    while time.monotonic() < deadline:
        ids = [row[0] for row in connection.execute(statements.HISTORY, asked | {"after": after})]
        if not ids:
            break
        after = ids[-1]
        if not dry_run:
            with connection.transaction():
                connection.execute(statements.ALLOW)
                connection.execute(statements.FORGET_HISTORY, {"ids": ids})
                connection.execute(statements.ALLOW_NO_MORE)
        shortened += len(ids)
    return shortened


def forget_alerts(connection: Connection, settings: Settings, now: datetime, *, dry_run: bool = False) -> int:
    """Delete alerts that were sent long ago; how many. One that was not sent, or may not have been, stays."""
    if not settings.load_history_days:
        return 0
    asked = {"before": now - timedelta(days=settings.load_history_days), "count": BATCH}
    if dry_run:
        row = connection.execute(statements.OLD_ALERTS, asked).fetchone()
        return int(row[0]) if row else 0
    forgotten = 0
    while count := connection.execute(statements.FORGET_ALERTS, asked).rowcount:
        forgotten += count
    return forgotten


def _fates(zone: Zone | None, loads: Sequence[Load], newer: dict[int, bool]) -> dict[int, str]:
    """By load, whether it may go as far as its object is concerned, or why not."""
    if zone is None:  # what has no object is kept by what refers to it
        return {load.id: _GONE for load in loads}

    def fate(load: Load) -> str:
        try:
            landing = zone.landing if load.landing_zone == zone.landing.url else open_store(load.landing_zone)
            # Whatever version: a bucket shows an older one once the newest is gone.
            if landing.find(load.key) is not None:
                return _LISTED
            if load.location is None or newer[load.id]:
                return _GONE
            source_of(zone, load)
        except Missing:
            return _GONE
        except (Transient, ConfigurationError, ValueError) as error:
            log.warning("load_id=%s error=%s: it stays in the ledger for now", load.id, type(error).__name__)
            return _UNSURE
        return _STORED

    return dict(zip((load.id for load in loads), side_by_side(zone, fate, loads), strict=True))


def _let_go(connection: Connection, letting_go: sql.Composed, asked: dict[str, object], ids: Sequence[int], *, dry_run: bool) -> int:
    """Delete those of these loads that may still go; how many."""
    try:
        with connection.transaction():
            held = [row[0] for row in connection.execute(letting_go, asked | {"ids": list(ids)})]
            if held and not dry_run:
                connection.execute(statements.ALLOW)
                connection.execute(statements.FORGET_EVENTS, {"ids": held})
                fault_point("operations.forget.within")
                connection.execute(statements.FORGET_LOADS, {"ids": held})
                connection.execute(statements.ALLOW_NO_MORE)
    except errors.ForeignKeyViolation:
        return 0  # something has come to refer to one at this moment
    return len(held)


def _unreferred(connection: Connection) -> sql.Composable:
    """That nothing refers to a load, by a foreign key or as `load_id`: of the database's own catalogue, so that no table is forgotten."""
    row = connection.execute(statements.LOADS).fetchone()
    assert row is not None
    loads, history = row
    holders = {(key.schema, key.table, key.columns[0]) for key in foreign_keys_to(connection, [loads], besides=[history])}
    holders |= {(schema, table, column) for schema, table, column in connection.execute(statements.NAMED_LOAD, {"history": history})}
    return sql.SQL("").join(
        sql.SQL(" AND NOT EXISTS (SELECT FROM {} AS r WHERE r.{} = l.id)").format(sql.Identifier(schema, table), sql.Identifier(column))
        for schema, table, column in sorted(holders)
    )
