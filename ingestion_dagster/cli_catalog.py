"""`ingestion catalog …`: what only the catalogue pipeline has."""

import json
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated

import typer

from ingestion_dagster.catalog import admission
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.refreshes import Busy
from ingestion_dagster.catalog.registry import media_type
from ingestion_dagster.console import err, print_table
from ingestion_dagster.engine.claims import Limits
from ingestion_dagster.engine.errors import ConfigurationError, Refused
from ingestion_dagster.settings import current

catalog_commands = typer.Typer(no_args_is_help=True, help="What only catalog has: search, count, rollback, update, filter, discard.")

SOME_REFUSED = 2

Model = Annotated[str, typer.Argument(metavar="MODEL", help="media type, such as image")]


@contextmanager
def _told() -> Iterator[None]:
    """What is refused, or cannot be now, in one line."""
    try:
        yield
    except Refused as error:
        raise ConfigurationError("; ".join(f"{each.code}: {each.place}: {each.message}" for each in error.problems)) from None
    except Busy as error:
        raise ConfigurationError(f"{error}; try again when that has ended") from None


def _run_id(verb: str) -> str:
    return f"{verb}-{uuid.uuid4().hex[:12]}"


@catalog_commands.command(epilog='Example: ingestion catalog search image "red boat" --json')
def search(
    model: Model,
    query: Annotated[str, typer.Argument(metavar="QUERY", help='Words (all of them), "a phrase", begin*, -without.')],
    filtered: Annotated[bool, typer.Option("--filtered", help="Without documents that hold sensitive terms.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="Documents shown at most.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """What readers find now, best first."""
    from ingestion_dagster.catalog import readers

    media = media_type(model)
    with _told():
        found = readers.search(current(), media.name, query, filtered=filtered, limit=limit)
    if as_json:
        hits = [{"id": hit.id, "score": hit.score, **hit.source} for hit in found.hits]
        print(json.dumps({"total": found.total, "hits": hits}, ensure_ascii=False))
        return
    rows = [{"id": hit.id, **{name: hit.source.get(name) for name in ("title", "creator", "source", "license")}} for hit in found.hits]
    print_table(rows, ["id", "title", "creator", "source", "license"])
    print(f"{found.total} documents found, {len(rows)} shown")


@catalog_commands.command(epilog="Example: ingestion catalog count image")
def count(model: Model, as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False) -> None:
    """Rows and documents that readers have now."""
    from ingestion_dagster.catalog import readers

    with _told():
        found = readers.counts(current(), media_type(model).name)
    if as_json:
        print(json.dumps(found))
        return
    for name, number in found.items():
        print(f"{number:>12} in {name}")


@catalog_commands.command(epilog="Example: ingestion catalog rollback image")
def rollback(model: Model) -> None:
    """Give readers back what they had before the last promotion, tables and index together. A second rollback undoes the first."""
    from ingestion_dagster.catalog import steps

    media = media_type(model)
    places = Places.of(current())
    with _told(), places.ledger.connect() as connection:
        live = steps.roll_back(places, connection, media, _run_id("rollback"))
    print(f"{media.name}: readers have {f'refresh {live.suffix}' if live else 'what was there before the first refresh'} again")


@catalog_commands.command(epilog="Example: ingestion catalog update image")
def update(model: Model) -> None:
    """Bring what has changed upstream since into the live table and index."""
    from ingestion_dagster.catalog import updates

    media = media_type(model)
    places = Places.of(current())
    with _told(), places.ledger.connect() as connection, closing(places.search()) as engine:
        admission.refuse_paused(connection, media.name)
        done = updates.update_live(places, engine, connection, media, _run_id("update"), None)
    until = f"{done.watermark:%Y-%m-%d %H:%M:%S} UTC"
    print(f"{media.name}: {done.upserted} rows written, {done.deleted} documents deleted; as upstream was at {until}")
    if done.skipped:
        err.print(f"{done.skipped} rows did not fit into the live table; the log says why", markup=False)
        raise typer.Exit(SOME_REFUSED)


@catalog_commands.command("filter", epilog="Example: ingestion catalog filter image")
def filter_again(model: Model) -> None:
    """Make the filtered index anew with the sensitive terms as they are now. Refused while a refresh is at work."""
    from ingestion_dagster.catalog import filtered

    media, settings = media_type(model), current()
    places = Places.of(settings)
    with _told(), places.ledger.connect() as connection:
        done = filtered.rebuild(places, connection, media, _run_id("filter"), Limits.of(settings), lambda _done, _of: None)
    print(f"{media.name}: {done.documents} documents in {done.index}")


@catalog_commands.command(epilog="Example: ingestion catalog discard image")
def discard(model: Model) -> None:
    """Give up the refresh that is on its way, and remove what it has made. Readers notice nothing."""
    from ingestion_dagster.catalog import refreshes, steps

    media = media_type(model)
    places = Places.of(current())
    with _told(), places.ledger.connect() as connection:
        going = refreshes.at_work(connection, media.name)
        if going is None:
            err.print(f"no refresh of {media.name} is on its way")
            return
        steps.give_up(places, connection, going)
    print(f"{media.name}: refresh {going.suffix} is given up")
