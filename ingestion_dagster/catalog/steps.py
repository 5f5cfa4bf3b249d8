"""The steps of a refresh, one after the other; each can be repeated, goes on where it was broken off, and does nothing if it was done."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from ingestion_dagster.catalog import locks, refreshes, tasks
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy, Refresh, State
from ingestion_dagster.catalog.registry import MediaType, filtered_name, index_name
from ingestion_dagster.catalog.tables import NEXT
from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import Problem, Refused, Transient
from ingestion_dagster.engine.ledger import ClaimLost, Load, Status
from ingestion_dagster.engine.postgres import Connection

_SECONDS = 15.0
"""How long the beginning of a refresh waits for an update to end."""

_PROMOTION_SECONDS = 60.0
"""How long a promotion does."""

if TYPE_CHECKING:
    from ingestion_dagster.catalog.fill import Filled

Moment = Literal["start", "step", "end"]
"""Of a refresh: when people are told about it."""

Progress = Callable[[int, int], None]


def _silent(_done: int, _of: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Work:
    """A refresh in the hands of a run: which, where, and by what limits. `connection` leads to the ledger's database."""

    places: Places
    connection: Connection
    media: MediaType
    suffix: str
    run_id: str
    limits: Limits
    progress: Progress = field(default=_silent)

    @property
    def refresh(self) -> Refresh:
        """The refresh as it stands now."""
        return refreshes.get(self.connection, self.media.name, self.suffix)

    @contextmanager
    def in_hand(self) -> Iterator[tuple[Load, Refresh]]:
        """The refresh, claimed for one step. What is `Refused` in the block ends it as errored.

        Raises `Busy`, and `Transient` (`overtaken`) if its lease ran out and another run has taken it over.
        """
        try:
            with refreshes.held(self.places.ledger, self.connection, self.refresh, self.run_id, self.limits) as load:
                try:
                    yield load, self.refresh
                except Refused as error:
                    refreshes.refuse(self.connection, load, error.problems, self.limits, self.run_id)
                    raise
        except ClaimLost:
            message = f"the lease of refresh {self.suffix} ran out, and another run has taken it over"
            raise Transient("overtaken", message) from None

    def came_to(self, load: Load, state: State, counts: Mapping[str, Any]) -> Refresh:
        """Note how far the refresh has come, and tell people. Raises `ClaimLost` if it is no longer ours."""
        with self.connection.transaction():
            ledger.hold(self.connection, [load])
            refresh = refreshes.advance(self.connection, self.refresh, state, counts)
        self.tell("step")
        return refresh

    def tell(self, moment: Moment) -> None:
        """Tell people how far the refresh has come."""
        from ingestion_dagster.catalog import messages

        messages.tell(self.places.ledger, self.places.settings, self.refresh, moment)


def begin(
    places: Places,
    connection: Connection,
    media: MediaType,
    run_id: str,
    *,
    asked_by: str,
    suffix: str | None = None,
    alias: str | None = None,
    filtered: bool = True,
    promote: bool = True,
) -> Refresh:
    """Enter a refresh. One that failed, or that waits for a promotion nobody has asked for, gives way to it.

    Raises `Busy` if another one of the media type is on its way, or a task fills an index of it.
    """
    recover(places, connection, media, run_id)
    suffix = suffix or refreshes.new_suffix(datetime.now(UTC))
    with undisturbed(connection, media.name):
        if task := tasks.filling(connection, media.name):
            raise Busy(media.name, f"task {task.id}, {task.action}")
        other = refreshes.at_work(connection, media.name)
        if other is not None:
            if is_going(connection, other):
                raise Busy(media.name, f"refresh {other.suffix}")
            give_up(places, connection, other)
        return refreshes.request(connection, media.name, suffix, asked_by=asked_by, alias=alias, filtered=filtered, promote=promote)


def give_up(places: Places, connection: Connection, refresh: Refresh) -> None:
    """End a refresh at work for good, and remove what it has made."""
    from ingestion_dagster.catalog import retirement

    with closing(places.search()) as engine:
        retirement.discard(places, engine, connection, refresh)


def is_going(connection: Connection, refresh: Refresh) -> bool:
    """Whether a refresh at work can go on by itself.

    Not one that has failed, one that waits for a promotion nobody has asked for, and one whose load has ended: its discard was broken off.
    """
    (load,) = ledger.loads(connection, [refresh.load_id])
    waits = load.status is Status.READY and refresh.state == "filled" and not refresh.promote
    return load.status not in (Status.ERRORED, Status.ARCHIVED) and not waits


@contextmanager
def undisturbed(connection: Connection, model: str, seconds: float = _SECONDS) -> Iterator[None]:
    """Nothing else changes what is live of a media type meanwhile. What takes seconds is waited for; else raises `Busy`."""
    deadline = time.monotonic() + seconds
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locks.model(connection, model))
                break
            except Busy:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield


def recover(places: Places, connection: Connection, media: MediaType, run_id: str) -> str | None:
    """Complete or revert a promotion that was broken off, and tell the API; what was done, None if none was."""
    from ingestion_dagster.catalog import promotion

    if not promotion.is_open(connection, media.name):
        return None
    with closing(places.search()) as engine:
        done = promotion.recover(places, engine, connection, media, run_id)
    if done:
        _drop_caches(places, connection, media)
    return done


def _drop_caches(places: Places, connection: Connection, media: MediaType) -> str:
    """Tell the API that readers have another generation; how that went."""
    from ingestion_dagster.catalog import hooks

    live = refreshes.live(connection, media.name)
    return hooks.drop_caches(places.settings.catalog_cache_url, media.name, live.suffix if live else "")


def copy(work: Work) -> Refresh:
    """Copy and clean the tables of a media type, from one snapshot, into the schema of what is being made."""
    from ingestion_dagster.catalog import copy as copying
    from ingestion_dagster.catalog import gates

    if work.refresh.reached("copied"):
        return work.refresh
    recover(work.places, work.connection, work.media, work.run_id)
    with work.in_hand() as (load, refresh):
        if refresh.reached("copied"):
            return refresh
        work.tell("start")
        # An update that gives new rows their ids ends first, and one that begins later leaves them to the copy.
        with locks.model(work.connection, work.media.name, wait=True):
            pass
        started = time.monotonic()
        copied = copying.copy_tables(
            work.places, work.connection, work.media, refresh, work.run_id, work.progress, hold=lambda: ledger.hold(work.connection, [load])
        )
        problems = gates.falls(work.places, work.media, copied)
        if problems:
            raise Refused(*problems)
        counts = {
            "tables": {table.table: _plain(table) for table in copied},
            "snapshot_at": copied[0].snapshot_at.isoformat(),
            "complete_to": (copied[0].complete_to or copied[0].snapshot_at).isoformat(),
            "copy_seconds": round(time.monotonic() - started, 3),
        }
        return work.came_to(load, "copied", counts)


def index_staged(work: Work) -> Refresh:
    """Build every index and constraint of the live tables on the staged ones."""
    from ingestion_dagster.catalog import staging

    if work.refresh.reached("indexed"):
        return work.refresh
    with work.in_hand() as (load, refresh):
        _demand(refresh, "copied", "upstream_snapshot")
        if refresh.reached("indexed"):
            return refresh
        started = time.monotonic()
        built = staging.build(work.places, work.media, refresh, work.run_id, work.progress)
        counts = {"indexes": len(built), "index_seconds": round(time.monotonic() - started, 3)}
        return work.came_to(load, "indexed", counts)


def fill(work: Work) -> Refresh:
    """Fill the search index of a refresh and the filtered one, in one pass. A run that finds another at it helps."""
    refresh = work.refresh
    if refresh.reached("filled"):
        return refresh
    try:
        with work.in_hand() as (load, refresh):
            _demand(refresh, "indexed", "staged_indexes")
            filled = _plain(_fill(work, refresh))
            return work.came_to(load, "filled", {"fill": filled} | _carried(work, load, refresh))
    except Busy:
        if not refresh.reached("indexed"):
            raise
        _fill(work, refresh)
        return work.refresh


def _carried(work: Work, load: Load, refresh: Refresh) -> dict[str, Any]:
    """Carry in what has changed upstream since the copy or the last time: what is to be noted of it."""
    from ingestion_dagster.catalog import carry

    with closing(work.places.search()) as engine:
        done = carry.carry(work.places, engine, work.connection, work.media, refresh, hold=lambda: ledger.hold(work.connection, [load]))
    told: dict[str, Any] = {"carried": _plain(done)}
    if done.complete_to is not None:
        told["complete_to"] = done.complete_to.isoformat()
    if done.has_changed:
        # What the gates said was of something else.
        told["gates"] = None
    return told


def _fill(work: Work, refresh: Refresh) -> "Filled":
    from ingestion_dagster.catalog import fill as filling

    target = filling.Target(
        model=refresh.model,
        suffix=refresh.suffix,
        relation=(NEXT, work.media.table.name),
        index=index_name(refresh.model, refresh.suffix),
        filtered=filtered_name(refresh.model, refresh.suffix) if refresh.filtered else None,
        fields=tuple(work.places.settings.catalog_fields.get(refresh.model, ())),
    )
    workers = work.places.settings.catalog_index_workers
    return filling.fill(work.places, work.media, target, work.run_id, work.limits, workers, work.progress)


def promote(work: Work) -> Refresh:
    """Let readers have the refresh: tables and aliases together, or neither; only if the gates let it."""
    from ingestion_dagster.catalog import promotion

    recover(work.places, work.connection, work.media, work.run_id)
    (load,) = ledger.loads(work.connection, [work.refresh.load_id])
    if work.refresh.reached("live") and load.status is Status.ARCHIVED:
        return work.refresh
    with work.in_hand() as (load, refresh):
        if not refresh.reached("live"):
            _demand(refresh, "filled", "search_index")
            refreshes.note(work.connection, refresh, _carried(work, load, refresh))
            judge(work, work.refresh)
            # No update comes between: what users see in the live table is in the staged one.
            with undisturbed(work.connection, work.media.name, _PROMOTION_SECONDS), closing(work.places.search()) as engine:
                refreshes.note(work.connection, refresh, _carried(work, load, work.refresh))
                done = promotion.promote(work.places, engine, work.connection, work.media, refresh, work.run_id)
            refreshes.note(work.connection, refresh, {"promotion": _plain(done)})
        _follow(work)
        refreshes.finish(work.connection, load, refresh, work.limits, work.run_id)
        return work.refresh


def _follow(work: Work) -> None:
    """What is done once readers have a refresh, by whoever finds it undone: the run that promoted it may have been killed before."""
    refresh = work.refresh
    if "caches" not in refresh.counts:
        refreshes.note(work.connection, refresh, {"caches": _drop_caches(work.places, work.connection, work.media)})
    if "told" not in refresh.counts:
        work.tell("end")
        refreshes.note(work.connection, refresh, {"told": True})


def note_gates(work: Work, shut: Mapping[str, str]) -> None:
    """Note what the gates have said of a refresh: that it may be promoted, or, by name, which are shut and why. Then it is refused."""
    refreshes.note(work.connection, work.refresh, {"gates": dict(shut)})
    if shut:
        with suppress(Refused), work.in_hand():
            raise Refused(*(Problem(name, f"{work.media.name}-{work.suffix}", why) for name, why in shut.items()))


def judge(work: Work, refresh: Refresh) -> None:
    """See to it that every gate has let the refresh pass. Raises `Refused` with those that do not."""
    from ingestion_dagster.catalog import gates

    if refresh.counts.get("gates") == {}:
        return
    with closing(work.places.search()) as engine:
        shut = [gate for gate in gates.judged(work.places, engine, work.connection, work.media, refresh) if not gate.passed]
    if shut:
        raise Refused(*(Problem(gate.name, f"{refresh.model}-{refresh.suffix}", gate.description) for gate in shut))


def roll_back(places: Places, connection: Connection, media: MediaType, run_id: str) -> Refresh | None:
    """Give readers back what they had before the last promotion; the refresh that this is, None if it was there before the first."""
    from ingestion_dagster.catalog import promotion

    with closing(places.search()) as engine:
        promotion.recover(places, engine, connection, media, run_id)
        promotion.rollback(places, engine, connection, media, run_id)
    _drop_caches(places, connection, media)
    return refreshes.live(connection, media.name)


def retire(work: Work) -> dict[str, Any]:
    """Drop what is older than the previous generation, and what failed refreshes have left."""
    from ingestion_dagster.catalog import retirement

    with closing(work.places.search()) as engine:
        return _plain(retirement.retire(work.places, engine, work.connection, work.media, work.run_id))


def _demand(refresh: Refresh, state: refreshes.State, asset: str) -> None:
    """Raises `Refused` if a refresh has not come as far as a step needs; materialize what comes before."""
    if not refresh.reached(state):
        raise Busy(refresh.model, f"refresh {refresh.suffix} is {refresh.state}: materialize {asset} first")


def _plain(told: object) -> dict[str, Any]:
    """The fields of a dataclass as JSON has them."""
    assert is_dataclass(told)
    return {each.name: _as_json(getattr(told, each.name)) for each in fields(told)}


def _as_json(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    return dict(value) if isinstance(value, Mapping) else value
