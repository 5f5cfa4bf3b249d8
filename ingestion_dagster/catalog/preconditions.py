"""What must hold before a promotion or rollback changes anything: aliases, indexes and tables are those that it is about."""

from collections.abc import Iterable
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


def behind(engine: SearchEngine, aliases: Iterable[str]) -> dict[str, str | None]:
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


def destined(engine: SearchEngine, ledger: Connection, refresh: Refresh) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """Where both aliases lead, and where they are to lead once a refresh is promoted.

    That of the filtered index stays where it is if the refresh has none: an older one is better for its readers than none.
    Raises `Refused` for aliases that cannot be moved, and for indexes that are not of this refresh.
    """
    after = aliases(engine, ledger, refresh)
    before = behind(engine, (refresh.alias, filtered_name(refresh.alias, "")))
    for index in filter(None, after.values()):
        demand_ours(engine, index, refresh.suffix)
    return before, before | after


def restored(
    engine: SearchEngine, media: MediaType, last: Entry
) -> tuple[dict[str, str | None], dict[str, str | None], tuple[Problem, ...]]:
    """Where both aliases lead, where they are to lead once the last swap is rolled back, and what readers will lack then.

    That of a filtered index which is gone leads nowhere: the one that readers have is of the rows that go. Raises `Refused`
    (`no_such_index`) if the other index is gone, and as `behind`.
    """
    before: dict[str, str | None] = {}
    after: dict[str, str | None] = {}
    problems: list[Problem] = []
    for alias in (alias for alias in last.before if not alongside.is_filtered(alias)):
        index, filtered = last.before[alias], filtered_name(alias, "")
        before |= behind(engine, (alias, filtered))
        if (index is None and last.outgoing is not None) or (index is not None and not engine.exists(index)):
            raise Refused(Problem("no_such_index", index or media.name, "the index of the generation before is gone: refresh"))
        was = last.before[filtered]
        after |= {alias: index, filtered: was if was is None or engine.exists(was) else None}
        if before[filtered] and not after[filtered]:
            message = f"the generation before has no filtered index any more: 'ingestion catalog filter {media.name}' makes one"
            problems.append(Problem("no_filtered_index", filtered, message, severity="warning"))
    return before, after, tuple(problems)


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
