"""What must hold before a promotion or rollback changes anything: aliases, indexes and tables are those that it is about."""

from collections.abc import Mapping
from dataclasses import replace

from ingestion_dagster.catalog import alongside, dependents, refreshes, relations, staging
from ingestion_dagster.catalog.journal import Entry
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import MediaType, filtered_name, index_name
from ingestion_dagster.catalog.search import SearchEngine
from ingestion_dagster.catalog.tables import LIVE, NEXT, PREVIOUS
from ingestion_dagster.engine.errors import Problem, Refused, Transient
from ingestion_dagster.engine.postgres import Connection

READY_SECONDS = 600.0
"""How long an index may take to have its copies before an alias moves to it."""


def behind(engine: SearchEngine, aliases: Mapping[str, str | None]) -> dict[str, str | None]:
    """Where aliases lead now. Raises `Refused` for one that is an index, or leads to several."""
    found: dict[str, str | None] = {}
    for alias in aliases:
        indexes = engine.behind(alias)
        if not indexes and engine.exists(alias):
            raise Refused(Problem("alias_is_index", alias, "an index has the name of the alias: delete or rename it"))
        if len(indexes) > 1:
            raise Refused(Problem("alias_leads_to_several", alias, f"to {', '.join(indexes)}: let it lead to one of them"))
        found[alias] = indexes[0] if indexes else None
    return found


def aliases(engine: SearchEngine, ledger: Connection, refresh: Refresh) -> dict[str, str | None]:
    """Where aliases are to lead once a refresh is promoted."""
    after: dict[str, str | None] = {refresh.alias: index_name(refresh.model, refresh.suffix)}
    if (filtered := alongside.filtered_index(engine, ledger, refresh)) is not None:
        after[filtered_name(refresh.alias, "")] = filtered
    return after


def await_copies(engine: SearchEngine, ledger: Connection, refresh: Refresh) -> None:
    """Readers are not sent to an index of which there is one copy yet. Raises `Transient` (`index_not_ready`) if that takes too long."""
    for index in aliases(engine, ledger, refresh).values():
        if index and engine.exists(index) and not engine.wait_ready(index, READY_SECONDS):
            message = f"{index} has not all its copies after {READY_SECONDS:g} s: see to the search cluster"
            raise Transient("index_not_ready", message)


def demand_ours(engine: SearchEngine, index: str, suffix: str) -> None:
    """Raises `Refused` unless an index is there, and that refresh has made it."""
    if not engine.exists(index):
        raise Refused(Problem("no_such_index", index, "fill it first"))
    label = engine.label(index)
    if suffix not in (label.get("refresh"), label.get("origin")):
        raise Refused(Problem("not_of_this_refresh", index, f"refresh {suffix} has not made it"))


def demand_staged(api: Connection, media: MediaType, suffix: str) -> None:
    """Raises `Refused` unless all staged tables are finished copies of that refresh."""
    for table in media.tables:
        label = relations.label(api, NEXT, table.name)
        if label.get("refresh") != suffix or label.get("state") != "copied":
            raise Refused(Problem("not_staged", f"{NEXT}.{table.name}", f"it is no finished copy of refresh {suffix}"))


def demand_generation(ledger: Connection, media: MediaType, last: Entry) -> None:
    """Raises `Refused` if the generation before is a refresh that was given up since, such as by deleting its index."""
    if last.outgoing is not None and refreshes.get(ledger, media.name, last.outgoing).state != "previous":
        raise Refused(Problem("no_previous", f"{media.name}-{last.outgoing}", "it was given up since: refresh instead"))


def demand_previous(api: Connection, media: MediaType, last: Entry) -> tuple[Problem, ...]:
    """Raises `Refused` unless the tables of before the last swap are there; what they lack is returned."""
    problems = dependents.unsupported(api, media)
    if problems:
        raise Refused(*problems)
    live, previous = [], []
    ours: set[str] = set()
    for table in media.tables:
        found = relations.find(api, PREVIOUS, table.name)
        if found is None or relations.generation(api, PREVIOUS, table.name) != last.outgoing:
            raise Refused(Problem("no_previous", f"{PREVIOUS}.{table.name}", "the previous generation is gone: refresh instead"))
        live.append(relations.need(api, LIVE, table.name))
        previous.append(found)
    for one in live:
        # Only the live table has these: the swap gives them to it.
        ours |= {f"{PREVIOUS}.{one.name}: {key.name}" for key in dependents.outward_keys(api, one, live)}
    return tuple(
        replace(problem, severity="warning")
        for one, other in zip(live, previous, strict=True)
        for problem in staging.compare(api, one, other, live, previous)
        if problem.code != "missing_trigger" and problem.place not in ours
    )
