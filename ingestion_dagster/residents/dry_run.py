"""What loading a file would do, found out by reading only: nothing is sent, entered or written."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from ingestion_dagster.engine import postgres
from ingestion_dagster.engine.errors import ConfigurationError, Refused
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.residents import row_ledger
from ingestion_dagster.residents.datasets import DATASETS, IDS_NAME_NO_PERSON
from ingestion_dagster.residents.dates import LONDON
from ingestion_dagster.residents.identity import Hasher, Namesakes, hasher
from ingestion_dagster.residents.job import day_asked_for, rules
from ingestion_dagster.residents.model import Prepared, RowStatus
from ingestion_dagster.residents.places import NAMES, api_address
from ingestion_dagster.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ingestion_dagster.residents.api_client import HereToHelp

ROWS, REFUSED_FILES = "rows", "refused_files"
_AT_ONCE = 500


def predict_file(settings: Settings, key: str, raw: bytes, as_of: str | None) -> Mapping[str, int]:
    """What would become of a file's rows: how many `created`, `matched`, `skipped`, `refused`; or `refused_files`: 1.

    The dataset is the first part of the key. Raises `ConfigurationError` and `Transient`.
    """
    name = key.partition("/")[0]
    if name not in DATASETS:
        raise ConfigurationError(f"say of which dataset this is: --dataset, one of {', '.join(NAMES)}")
    day = day_asked_for(as_of) or datetime.now(LONDON).date()
    with postgres.ready(settings).connect() as connection:
        return predict(connection, settings, hasher(settings), name, key.rpartition("/")[2], raw, day)


def predict(connection: Connection, settings: Settings, by: Hasher, dataset: str, name: str, raw: bytes, as_of: date) -> Counter[str]:
    """What would become of a file's rows: `rows`, and of them `created`, `matched`, `skipped` (not ours, or done before), `refused`."""
    from ingestion_dagster.residents import sheets

    kind = DATASETS[dataset]
    counts: Counter[str] = Counter()
    if len(raw) > settings.residents_max_file_bytes:
        return Counter({REFUSED_FILES: 1})
    try:
        sheet = sheets.read(name, raw, kind)
    except Refused:
        return Counter({REFUSED_FILES: 1})
    seen: set[tuple[bytes, bytes]] = set()
    first_of = Namesakes()
    judged = (kind.judge(cells, number, rules(settings, as_of)) for number, cells in sheet.rows())

    def to_ask() -> "Iterator[Prepared]":
        while batch := list(islice(judged, _AT_ONCE)):
            counts[ROWS] += len(batch)
            counts.update(each.status.value for each in batch if each.prepared is None)
            due = [each.prepared for each in batch if each.prepared is not None]
            rows = [by.of_row(dataset, each) for each in due]
            done = row_ledger.known(connection, dataset, rows)
            others = set() if dataset in IDS_NAME_NO_PERSON else row_ledger.strangers(connection, dataset, rows)
            for position, (each, row) in enumerate(zip(due, rows, strict=True)):
                if position in others or (dataset not in IDS_NAME_NO_PERSON and first_of.is_somebody_else(row)):
                    counts[RowStatus.REFUSED] += 1
                elif position in done or (row.identity, row.row_hash) in seen:
                    counts[RowStatus.SKIPPED] += 1
                else:
                    seen.add((row.identity, row.row_hash))
                    yield each

    from ingestion_dagster.residents.line import Line
    from ingestion_dagster.residents.predict import predict as foresee

    with Line(settings, api_address(settings)) as line:

        async def foretold(batch: list[Prepared], api: "HereToHelp") -> None:
            counts.update(action.value for action in await asyncio.gather(*(foresee(api, each) for each in batch)))

        due = to_ask()
        while batch := list(islice(due, settings.residents_requests_in_flight * 4)):
            line.run(partial(foretold, batch))
    return +counts
