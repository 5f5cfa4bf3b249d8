"""The datasets of the sandbox's DMAP feeds: small, made up, and the same each time they are made."""

import csv
import gzip
import hashlib
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

COLUMNS: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("dmap_columns.json").read_text(encoding="utf-8"))
"""Of each type of dataset, its columns and the types of their values."""

FAMILIES = {"public": "/datasetpublicusersapi/aggregations", "controlled": "/datasetcontrolleduserapi/transactional"}
CONTROLLED = frozenset({"use_transaction_location", "use_transaction_longitudinal", "sale_transaction", "device_event", "citation"})

FIRST_DAY = date(2026, 1, 1)
DAYS = 2
ROWS = 12

_WORDS = ("bus", "rapid transit", "commuter rail", "ferry", 'stop "A"', "north, south", "café", "")


@dataclass(frozen=True, slots=True)
class Dataset:
    """One issue of a dataset. `last_updated` is UTC without a zone, as the feeds write it."""

    type: str
    dataset_id: str
    day: date
    last_updated: datetime
    revision: int = 0

    def again(self) -> "Dataset":
        """The next issue: other content, a later time."""
        return replace(self, last_updated=self.last_updated + timedelta(hours=30, microseconds=7), revision=self.revision + 1)

    def content(self) -> bytes:
        """The file, gzip."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS[self.type])
        writer.writerows(self._rows())
        return gzip.compress(out.getvalue().encode(), mtime=0)

    def _rows(self) -> Iterator[list[str]]:
        if self.type == "agg_demo":
            for number in range(1, 6):
                yield [
                    self.day.isoformat(),
                    f"R{number}",
                    "Adult, single",
                    str(10 * number + self.revision),
                    str(int(self.day.weekday() > 4)),
                ]
            return
        seed = hashlib.sha256(f"{self.type} {self.dataset_id} {self.revision}".encode()).digest()
        chance = random.Random(seed)  # noqa: S311 - made up, not secret
        for _ in range(ROWS):
            yield [_VALUES[kind](chance, self.day) for kind in COLUMNS[self.type].values()]


_VALUES: dict[str, Callable[[random.Random, date], str]] = {
    "int": lambda chance, _: str(chance.randrange(1000)),
    "bigint": lambda chance, _: str(chance.randrange(10**12)),
    "float": lambda chance, _: f"{chance.uniform(-90, 90):.6f}",
    "date": lambda _, day: day.isoformat(),
    "timestamp": lambda chance, day: (
        f"{datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(milliseconds=chance.randrange(86_400_000)):%Y-%m-%d %H:%M:%S.%f}"
    ),
    "string": lambda chance, _: chance.choice(_WORDS),
}


def path_of(kind: str) -> str:
    """The path of the feed for a type of dataset."""
    return f"{FAMILIES['controlled' if kind in CONTROLLED else 'public']}/{kind}"


def daily(kind: str, count: int, first: date = FIRST_DAY) -> list[Dataset]:
    """So many datasets of a type, one a day, each issued at noon of the day after."""
    days = [first + timedelta(days=number) for number in range(count)]
    return [
        Dataset(
            kind,
            f"{kind}_{day:%Y%m%d}",
            day,
            datetime(day.year, day.month, day.day) + timedelta(days=1, hours=12, microseconds=897_363 + number),  # noqa: DTZ001 - as it is written
        )
        for number, day in enumerate(days)
    ]
