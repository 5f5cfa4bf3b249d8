"""What a task does to search indexes, once it is its turn: aliases, deletions, fills and a rollback."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Any

import orjson

from ingestion_dagster.catalog import journal, refreshes, steps, tasks
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import MediaType, filtered_name, index_name, media_type
from ingestion_dagster.catalog.search import AliasMove, SearchEngine
from ingestion_dagster.catalog.tables import LIVE, NEXT, PREVIOUS
from ingestion_dagster.catalog.tasks import Task
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import ConfigurationError, Problem, Refused
from ingestion_dagster.engine.postgres import Connection

log = logging.getLogger(__name__)

READY_SECONDS = 12 * 3600.0
"""How long an index may take until every copy of it is there before an alias leads to it."""

TURN_SECONDS = 15.0
"""How long a task waits for another one, or an update, that is at the same media type."""

TEST_INDEX = "search-qa-{model}"

Told = dict[str, Any]


class _Operation:
    """A task at work: where, and by what limits."""

    def __init__(self, places: Places, engine: SearchEngine, ledger: Connection, task: Task, run_id: str, limits: Limits) -> None:
        self.places = places
        self.engine = engine
        self.ledger = ledger
        self.task = task
        self.run_id = run_id
        self.limits = limits
        self.media: MediaType = media_type(task.model)

    def refresh(self, suffix: str) -> Refresh | None:
        try:
            return refreshes.get(self.ledger, self.task.model, suffix)
        except ConfigurationError:
            return None


def execute(places: Places, engine: SearchEngine, ledger: Connection, task: Task, run_id: str, limits: Limits) -> Told:
    """Do what a task asks for; what was done, for its run's metadata. Repeatable: what was done before is found to be so.

    INGEST_UPSTREAM and PROMOTE are no such tasks: refreshes have jobs of their own. Raises what the parts raise: `Refused` for what has
    become impossible since it was asked for, `Busy`, `Transient`.
    """
    tasks.running(ledger, task.id, run_id)
    operation = _Operation(places, engine, ledger, task, run_id, limits)
    return _OPERATIONS[task.action](operation)


@contextmanager
def _turn(at: _Operation) -> Iterator[None]:
    """Tables and aliases of the media type stay as they are meanwhile, and belong together. Raises `Busy`."""
    with steps.undisturbed(at.ledger, at.task.model, TURN_SECONDS):
        journal.demand_ended(at.ledger, at.task.model)
        yield


def _point_alias(at: _Operation) -> Told:
    from ingestion_dagster.catalog import catching_up

    index, alias = index_name(at.task.model, at.task.suffix), str(at.task.request["alias"])
    if at.places.settings.environment != "local" and not at.engine.wait_ready(index, READY_SECONDS):
        raise Refused(Problem("index_not_ready", index, "it was not ready within 12 hours: see to the search cluster"))
    with _turn(at):
        before = at.engine.behind(alias)
        if before != (index,):
            catching_up.catch_up(at.places, at.engine, at.ledger, at.media, index)
            at.engine.switch([AliasMove(alias, index)])
        # What was moderated just before readers came is taken from them, too; also by a task that does this again.
        catching_up.catch_up(at.places, at.engine, at.ledger, at.media, index)
    log.info("alias %s leads to %s, and led to %s", alias, index, ", ".join(before) or "nothing")
    return {"alias": alias, "index": index, "before": list(before)}


def _delete_index(at: _Operation) -> Told:
    targets = [str(target) for target in at.task.request["targets"]]
    alias = at.task.request.get("alias")
    with _turn(at):
        if alias is not None:
            return _delete_behind(at, str(alias), targets)
        suffix = at.task.suffix
        generation = at.refresh(suffix)
        if generation is not None and generation.is_at_work:
            return _discard(at, generation)
        if generation is not None and generation.state == "live":
            raise Refused(Problem("index_is_live", targets[0], "it belongs to the refresh that is live"))
        deleted = [target for target in targets if at.engine.delete_index(target)]
        if generation is not None and generation.state == "previous":
            # Without its index it cannot be brought back.
            refreshes.advance(at.ledger, generation, "retired")
    return {"deleted": deleted}


def _delete_behind(at: _Operation, alias: str, targets: list[str]) -> Told:
    """Delete the indexes that were behind an alias when that was asked for: readers are led away from them first."""
    behind = at.engine.behind(alias)
    if not set(behind) <= set(targets):
        raise Refused(Problem("alias_moved", alias, "it leads elsewhere since this was asked for; ask again"))
    for target in targets:
        if others := [other for other in at.engine.aliases_of(target) if other != alias]:
            raise Refused(Problem("index_has_aliases", target, f"{', '.join(others)} leads there, too: move it away first"))
    if behind:
        at.engine.switch([AliasMove(alias, None)])
    return {"alias": alias, "deleted": [target for target in targets if at.engine.delete_index(target)]}


def _discard(at: _Operation, refresh: Refresh) -> Told:
    """Give up a refresh that was not promoted: its indexes, its tables, its load."""
    from ingestion_dagster.catalog import retirement

    retirement.discard(at.places, at.engine, at.ledger, refresh)
    return {"discarded": refresh.suffix}


def _reindex(at: _Operation) -> Told:
    suffix = at.task.suffix
    live = refreshes.live(at.ledger, at.task.model)
    origin = live.suffix if live else None
    return _fill(at, (LIVE, at.media.table.name), suffix, origin, index=index_name(at.task.model, suffix), filtered=None)


def _create_filtered(at: _Operation) -> Told:
    destination = filtered_name(at.task.model, str(at.task.request["destination_index_suffix"]))
    origin = str(at.task.request["origin_index_suffix"])
    relation = (_schema(at.refresh(origin)), at.media.table.name)
    return _fill(at, relation, str(at.task.request["fills"]), origin, index=None, filtered=destination)


def _schema(origin: Refresh | None) -> str:
    """Where the rows of a refresh are; those of an index that no refresh has made are the live ones."""
    if origin is None or origin.state == "live":
        return LIVE
    if origin.is_at_work:
        return NEXT
    if origin.state == "previous":
        return PREVIOUS
    raise Refused(Problem("rows_gone", f"{origin.model}-{origin.suffix}", f"it is {origin.state}: its rows are not there any more"))


def _fill(at: _Operation, relation: tuple[str, str], suffix: str, origin: str | None, *, index: str | None, filtered: str | None) -> Told:
    from ingestion_dagster.catalog import fill

    target = fill.Target(
        model=at.task.model,
        suffix=suffix,
        relation=relation,
        index=index,
        filtered=filtered,
        fields=tuple(at.places.settings.catalog_fields.get(at.task.model, ())),
        origin=origin,
    )
    workers = at.places.settings.catalog_index_workers
    return asdict(fill.fill(at.places, at.media, target, at.run_id, at.limits, workers, _silent))


def _silent(_done: int, _of: int) -> None:
    return None


def _update_index(at: _Operation) -> Told:
    from ingestion_dagster.catalog import updates

    since = datetime.fromisoformat(str(at.task.request["since_date"]))
    index = index_name(at.task.model, at.task.suffix)
    # Rows and index are of one generation, until the end.
    with _turn(at):
        return asdict(updates.index_changes(at.places, at.engine, at.ledger, at.media, index, since))


def _rollback(at: _Operation) -> Told:
    live = steps.roll_back(at.places, at.ledger, at.media, at.run_id)
    return {"live": live.suffix if live else None}


def _load_test_data(at: _Operation) -> Told:
    """Put a few documents by hand into an index of their own, for people who judge what is ranked first."""
    from ingestion_dagster.catalog import ranking_samples

    index = TEST_INDEX.format(model=at.task.model)
    documents = ranking_samples.documents(at.task.model)
    if not at.engine.exists(index):
        at.engine.create(index, at.media.mapping.definition({"refresh": None, "run": at.run_id, "model": at.task.model, "kind": "test"}))
    result = at.engine.bulk(index, [(int(each["id"]), orjson.dumps(each)) for each in documents])
    at.engine.finish(index)
    return {"index": index, "documents": result.accepted}


_OPERATIONS: Mapping[str, Callable[[_Operation], Told]] = {
    "POINT_ALIAS": _point_alias,
    "DELETE_INDEX": _delete_index,
    "REINDEX": _reindex,
    "CREATE_AND_POPULATE_FILTERED_INDEX": _create_filtered,
    "UPDATE_INDEX": _update_index,
    "ROLLBACK": _rollback,
    "LOAD_TEST_DATA": _load_test_data,
}
