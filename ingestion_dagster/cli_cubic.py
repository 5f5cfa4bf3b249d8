"""`ingestion cubic …`: what only the cubic pipeline has."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
import yaml

from ingestion_dagster.console import err, print_table
from ingestion_dagster.cubic.registry import registry
from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.errors import ConfigurationError, Refused
from ingestion_dagster.settings import current

SOME_FAILED = 2

cubic_commands = typer.Typer(no_args_is_help=True, help="What only cubic has: propose, query, consume, fetch.")


@cubic_commands.command(epilog="Example: ingestion cubic propose LOAD00000001.dfm >> tables.yaml")
def propose(path: Annotated[Path, typer.Argument(metavar="PATH.dfm", exists=True, dir_okay=False, help="A .dfm of the table.")]) -> None:
    """Print an entry for the registry, with the columns, types and key that a .dfm names."""
    from ingestion_dagster.cubic import dfm

    try:
        described = dfm.parse(path.read_bytes())
    except Refused as refused:
        raise ConfigurationError(f"{path}: {refused.problems[0].message}") from None
    for warning in described.warnings:
        err.print(f"{warning.place}: {warning.message}", markup=False)
    proposed = dfm.propose(described)
    entry = yaml.safe_load(proposed)[0]
    # A table that has an entry keeps its name, whatever the .dfm would have it called.
    known = next((table for table in registry(current()).tables.values() if table.prefix == entry["prefix"]), None)
    print(proposed.replace(entry["name"], known.name, 1) if known else proposed, end="")


@cubic_commands.command(epilog="Example: ingestion cubic query 'SELECT count(*) FROM cubic__ods_qlik__edw_sample__current'")
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="A statement in DuckDB's SQL.")],
    as_json: Annotated[bool, typer.Option("--json", help="A list of objects, one per row, on stdout.")] = False,
) -> None:
    """Ask what was loaded: each table under its name, as strings under raw_<name>, its newest state under <name>__current."""
    from ingestion_dagster.cubic import query as queries

    settings = current()
    with postgres.ready(settings).connect() as connection:
        columns, rows = queries.run(connection, settings, registry(settings), sql)
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return
    print_table(rows, columns)


@cubic_commands.command(epilog="Example: INGESTION_CUBIC_KINESIS_STREAM=cubic-kafka ingestion cubic consume")
def consume() -> None:
    """Write the records of the Kinesis stream to the landing zone, in batches, until told to stop (SIGTERM, Ctrl-C)."""
    from ingestion_dagster.cubic import consume as consumer

    settings = current()
    with consumer.stopping_on_signals() as stop:
        print(consumer.summary(consumer.run(settings, registry(settings), stop=stop)))


@cubic_commands.command(epilog="Example: ingestion cubic fetch agg_daily_fareprod")
def fetch(
    feeds: Annotated[list[str] | None, typer.Argument(metavar="[FEED]…", help="Types of data sets; none: every feed with a table.")] = None,
) -> None:
    """Bring what is new in the DMAP feeds to the landing zone. Exit 2 if some of it could not be had."""
    from ingestion_dagster.cubic import feeds as known
    from ingestion_dagster.cubic import fetch as fetching

    settings = current()
    wanted = known.feeds_of(registry(settings))
    unknown = sorted(set(feeds or ()) - {feed.type for feed in wanted})
    if unknown:
        there = ", ".join(feed.type for feed in wanted) or "none"
        raise typer.BadParameter(f"no feed with a table: {', '.join(unknown)}; there are: {there}")
    failed = False
    with postgres.ready(settings).connect() as connection:
        for feed in wanted:
            if not feeds or feed.type in feeds:
                fetched = fetching.fetch_feed(connection, settings, feed, now=datetime.now(UTC))
                failed = failed or bool(fetched.problems)
                print(fetching.summary(fetched))
    if failed:
        raise typer.Exit(SOME_FAILED)
