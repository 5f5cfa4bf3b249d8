"""The last screen of the demo, for somebody who sees this for the first time: what came of the files, what stands where, what to try."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ingestion_dagster.engine import whereabouts
from ingestion_dagster.engine.postgres import Connection

SHOWN = 3
"""What a pipeline shows of many things alike: refusals, filled tables."""

NEXT = {
    "make dev": "the Dagster UI with sensors on, at http://localhost:3000; Ctrl-C ends it",
    ".venv/bin/ingestion status metrics": "where every load of a pipeline stands, and what went wrong, in a terminal",
    ".venv/bin/ingestion explain unknown_sex": "what a code means, and who does what about it",
    ".venv/bin/ingestion cubic query 'SELECT * FROM cubic__ods_qlik__edw_sample__current'": "the newest rows of a replicated table",
    ".venv/bin/ingestion catalog search image 'harbour lights'": "what readers of the catalogue find",
}
"""Commands to try after the demo, as they are typed in the checkout, and what each shows."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the demo has found of a pipeline: loads by what became of them, refusals by code, what is filled, and where things are."""

    name: str
    loaded: int
    refused: int
    waiting: int
    errors: Sequence[tuple[str, str, int]]
    filled: Sequence[tuple[int, str]]
    places: Sequence[tuple[str, str]]

    @classmethod
    def of(cls, connection: Connection, name: str, filled: Sequence[tuple[int, str]], places: Sequence[tuple[str, str]]) -> "Standing":
        """A pipeline as the ledger knows it now."""
        by_status: dict[str, int] = {}
        for row in whereabouts.status_counts(connection, name):
            by_status[row["status"]] = by_status.get(row["status"], 0) + row["loads"]
        loaded, refused = by_status.pop("archived", 0), by_status.pop("errored", 0)
        return cls(name, loaded, refused, sum(by_status.values()), whereabouts.errors(connection, name), filled, places)


def show(standings: Sequence[Standing], stand_ins: Mapping[str, str]) -> None:
    """Print the screen. `stand_ins`: names and addresses of the sandbox's servers that go on running."""
    screen = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 140)
    screen.print()
    screen.print(_counts(standings))
    screen.print(_places(standings))
    if any(standing.refused for standing in standings):
        screen.print(_refusals(standings))
    for name, address in stand_ins.items():
        screen.print(f"{name} of the sandbox goes on answering at {address}", markup=False)
    screen.print(
        "all of it is below .ingestion/; .venv/bin/ingestion sandbox down and .venv/bin/ingestion db stop end what runs", markup=False
    )
    screen.print()
    screen.print("What to try next", style="bold")
    for command, shows in NEXT.items():
        screen.print(f"  {command}\n      {shows}", markup=False, soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _counts(standings: Sequence[Standing]) -> Table:
    table = _table("What became of the sample files (a row of the ledger for each: a load)", "pipeline", "loaded", "refused", "waiting", "")
    for each in standings:
        said = [
            f"{each.refused} are bad on purpose" if each.refused else "",
            f"{each.waiting} wait, as they should" if each.waiting else "",
        ]
        table.add_row(each.name, str(each.loaded), str(each.refused), str(each.waiting), ", ".join(text for text in said if text))
    table.add_row()
    return table


def _places(standings: Sequence[Standing]) -> Table:
    table = _table("What stands where now", "pipeline", "tables, indexes and places")
    for each in standings:
        most = sorted(each.filled, key=lambda pair: -pair[0])
        lines = [f"{count} rows in {name}" for count, name in most[:SHOWN]]
        lines += [f"and {len(most) - SHOWN} more"] if len(most) > SHOWN else []
        lines += [f"{word}: {place}" for word, place in each.places]
        for number, line in enumerate(lines):
            table.add_row(each.name if number == 0 else "", Text(line))
    table.add_row()
    return table


def _refusals(standings: Sequence[Standing]) -> Table:
    table = _table(
        "What was refused, and why (what a code means and what to do: .venv/bin/ingestion explain CODE)",
        "pipeline",
        "files",
        "code",
        "for example",
    )
    for each in standings:
        for number, (code, message, count) in enumerate(each.errors[:SHOWN]):
            table.add_row(each.name if number == 0 else "", str(count), code, Text(message))
        if len(each.errors) > SHOWN:
            table.add_row("", str(sum(count for *_, count in each.errors[SHOWN:])), f"{len(each.errors) - SHOWN} other codes", "")
    table.add_row()
    return table
