"""Where each media type stands, in lines: what readers have, what is on its way, and what a person should do about it."""

from collections.abc import Iterator

from ingestion_dagster.catalog import admission, refreshes, report
from ingestion_dagster.catalog.refreshes import Refresh
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.engine.postgres import Connection

_LOAD = """
SELECT l.status, l.waiting_for, l.error_code, l.error_message, l.run_id, l.lease_until > clock_timestamp()
FROM ledger.loads AS l WHERE l.id = %(id)s
"""

_OPEN = """
SELECT model, suffix FROM catalog.promotions
WHERE ended_at IS NULL AND begun_at < now() - make_interval(secs => %(seconds)s) ORDER BY model
"""
_MENDED_SECONDS = 1800
"""A promotion that has been open for longer is one that neither its run nor the sweep has ended."""

_DEAD = "SELECT index_name, count(*) FROM catalog.dead_letters GROUP BY 1 ORDER BY 1"


def lines(connection: Connection, dataset: str | None = None) -> list[str]:
    """All that is to be said now: of the media type that a dataset is of, or of every one."""
    models = [model for model in MEDIA_TYPES if dataset is None or dataset in (model, f"{model}_index")]
    told = [line for model in models for line in _of_model(connection, model)]
    told += [
        f"{model}: the promotion of {suffix} was broken off; the next run completes or reverts it"
        for model, suffix in connection.execute(_OPEN, {"seconds": 0}).fetchall()
        if model in models
    ]
    dead = [row for row in connection.execute(_DEAD).fetchall() if any(str(row[0]).startswith(f"{model}-") for model in models)]
    return told + [f"{count} documents were refused by index {index}; catalog.dead_letters says why" for index, count in dead]


def wants(connection: Connection, dataset: str | None = None) -> list[tuple[str, str]]:
    """What waits for a person besides loads: a line, and the command that comes next."""
    return [
        (f"the promotion of {model}-{suffix} was broken off, and neither a run nor the sweep has mended it", "ingestion doctor catalog")
        for model, suffix in connection.execute(_OPEN, {"seconds": _MENDED_SECONDS}).fetchall()
        if dataset in (None, model, f"{model}_index")
    ]


def _of_model(connection: Connection, model: str) -> Iterator[str]:
    if paused := admission.paused(connection, model):
        yield paused
    live, previous = refreshes.live(connection, model), refreshes.previous(connection, model)
    if live is not None:
        back = f"; 'ingestion catalog rollback {model}' brings back {previous.suffix}" if previous else "; nothing to roll back to"
        yield f"{model}: readers get refresh {live.suffix}{back}"
        if live.counts.get("caches") == "failed":
            yield f"{model}: the API was not told to drop its caches (INGESTION_CATALOG_CACHE_URL): have it do so"
    going = refreshes.at_work(connection, model)
    if going is not None:
        yield f"{model}: refresh {going.suffix} {on_its_way(connection, going)}"


def on_its_way(connection: Connection, refresh: Refresh) -> str:
    """What is to be said of a refresh at work: how far it is, who has it, or why it does not go on and what to do."""
    row = connection.execute(_LOAD, {"id": refresh.load_id}).fetchone()
    assert row is not None
    status, waiting_for, code, message, run_id, is_held = row
    model = refresh.model
    if status == "errored":
        then = f"mend the cause, then 'ingestion retry catalog --dataset {model}', or 'ingestion catalog discard {model}'"
        return f"is refused: {code}: {message}; {then}"
    if status == "archived":
        return f"was being given up, and that was broken off: the next refresh does the rest, or 'ingestion catalog discard {model}'"
    if waiting_for == refreshes.PROMOTION:
        return "is filled, and waits until somebody asks for its promotion"
    if is_held:
        return f"is {refresh.state}, in the hands of run {str(run_id)[:8]}; {report.waits_for(refresh)}"
    return f"is {refresh.state}, and nobody is at it: the next run goes on; {report.waits_for(refresh)}"
