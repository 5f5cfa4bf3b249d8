"""Headers of spreadsheets: which row it is, what is missing from it, and what was probably meant. Everything wrong is said at once."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.residents import values
from ingestion_dagster.residents.datasets import DATASETS
from ingestion_dagster.residents.registry import Dataset

SEARCHED_ROWS = 10
"""A header that has to be looked for is within these rows."""

_ALIKE = 0.8
_LONGEST_QUOTE = 60


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a sheet: its cells from the sheet's first column on, trimmed, and which row it is, counted from 0."""

    cells: tuple[str, ...]
    index: int
    warnings: tuple[Problem, ...] = ()


def find(rows: Sequence[Sequence[str]], dataset: Dataset) -> Header:
    """The header among a sheet's first rows.

    Raises `Refused` with every fault of it: `header_not_found` alone, or `missing_header` and `duplicate_header` beside the warnings.
    """
    trimmed = [tuple(map(values.trimmed, row)) for row in rows[:SEARCHED_ROWS]]
    index = _place(trimmed, dataset)
    problems = tuple(_faults(trimmed[index], index + 1, dataset))
    if any(problem.severity == "error" for problem in problems):
        raise Refused(*problems)
    return Header(trimmed[index], index, problems)


def _place(rows: Sequence[tuple[str, ...]], dataset: Dataset) -> int:
    alike = [index for index, row in enumerate(rows) if _resembles(row, dataset)]
    likely = max(alike, key=lambda index: _score(rows[index], dataset), default=None)
    if dataset.anchors:
        index = next((index for index, row in enumerate(rows) if set(dataset.anchors) <= set(row)), likely)
    else:
        index = next((index for index, row in enumerate(rows) if any(row)), None)
        index = index if index is not None and _resembles(rows[index], dataset) else None
    if index is None:
        raise Refused(_not_found(rows, dataset, likely))
    if not set(dataset.required) <= set(rows[index]):
        for other in DATASETS.values():
            if set(other.required) <= set(rows[index]):
                message = f"row {index + 1} has the columns of {other.name}: move the file to that folder; rename nothing"
                raise Refused(Problem("header_not_found", "header", message))
    return index


def _resembles(row: Sequence[str], dataset: Dataset) -> bool:
    return _score(row, dataset) >= max(2, len(dataset.required) // 3)


def _score(row: Sequence[str], dataset: Dataset) -> int:
    present = {_plain(cell) for cell in row}
    return sum(bool(present & {_plain(column), *map(_plain, dataset.aliases.get(column, ()))}) for column in dataset.required)


def _not_found(rows: Sequence[tuple[str, ...]], dataset: Dataset, likely: int | None) -> Problem:
    searched = f"the first {SEARCHED_ROWS} rows" if dataset.anchors else "the first row"
    message = f"{searched} must hold the column names, as in the template of {dataset.name}"
    if likely is not None:
        message += f"; row {likely + 1} looks like them: remove the rows above it"
    elif others := [each.name for each in DATASETS.values() if each is not dataset and any(_resembles(row, each) for row in rows)]:
        message += f"; this looks like a file of {others[0]}: move it to that folder"
    return Problem("header_not_found", "header", message)


def _faults(row: tuple[str, ...], number: int, dataset: Dataset) -> Iterator[Problem]:
    present = Counter(cell for cell in row if cell)
    named = (*dataset.required, *dataset.expected, *dataset.known)
    strangers = [cell for cell in present if cell not in named]
    missing = [column for column in (*dataset.required, *dataset.expected) if column not in present]
    meant = near(missing, strangers, dataset.aliases)
    for column in missing:
        advice = f"the file has '{_quoted(meant[column])}': rename it" if column in meant else "add it"
        if column in dataset.required:
            yield Problem("missing_header", f"column '{column}'", f"row {number} is the header and has no such column; {advice}")
        else:
            message = f"row {number} is the header and has no such column, which is only copied to the report; {advice}"
            yield Problem("missing_optional_header", f"column '{column}'", message, "warning")
    for column, count in present.items():
        if count > 1 and column in dataset.required:
            yield Problem("duplicate_header", f"column '{column}'", f"{count} columns have this name; keep the one that counts")
        elif count > 1:
            message = f"{count} columns have this name; all are only copied to the report"
            yield Problem("duplicate_header", f"column '{_quoted(column)}'", message, "warning")
    if unexpected := [cell for cell in strangers if cell not in meant.values()]:
        listed = ", ".join(f"'{_quoted(cell)}'" for cell in unexpected[:20]) + (", …" if len(unexpected) > 20 else "")
        message = f"columns that files of {dataset.name} do not have: {listed}; they are only copied to the report"
        yield Problem("unexpected_header", f"row {number}", message, "warning")


def near(missing: Sequence[str], strangers: Sequence[str], aliases: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """For missing columns the names in the file that were probably meant by them, each for one at most, the surest first."""
    left, meant = list(strangers), dict[str, str]()
    for is_near in (_same, _alias, _contained, _alike):
        for column in missing:
            if column in meant:
                continue
            found = [each for each in left if is_near(each, column, aliases.get(column, ()))]
            if found:
                meant[column] = max(found, key=lambda each: _likeness(each, column))
                left.remove(meant[column])
    return meant


def _same(cell: str, column: str, _aliases: tuple[str, ...]) -> bool:
    return _plain(cell) == _plain(column)


def _alias(cell: str, _column: str, aliases: tuple[str, ...]) -> bool:
    return _plain(cell) in map(_plain, aliases)


def _contained(cell: str, column: str, _aliases: tuple[str, ...]) -> bool:
    short, long = sorted((_plain(cell), _plain(column)), key=len)
    return len(short) >= 4 and short in long and _digits(cell) == _digits(column)


def _alike(cell: str, column: str, _aliases: tuple[str, ...]) -> bool:
    return _digits(cell) == _digits(column) and _likeness(cell, column) >= _ALIKE


def _likeness(cell: str, column: str) -> float:
    return SequenceMatcher(None, _plain(cell)[:_LONGEST_QUOTE], _plain(column)).ratio()


def _plain(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _quoted(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 1] + "…"
