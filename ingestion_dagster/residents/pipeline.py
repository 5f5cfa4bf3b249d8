"""The residents pipeline as the command line sees it. What reads spreadsheets is imported when one is to be read."""

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from pathlib import Path

from ingestion_dagster.engine.errors import Problem
from ingestion_dagster.engine.ledger import Again, Scope
from ingestion_dagster.engine.pipeline import Delivery, LoadJob, Pipeline
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.residents import first_day, places
from ingestion_dagster.residents.registry import PIPELINE
from ingestion_dagster.settings import Settings

LOAD_JOB = "residents_load"


def _sync(connection: Connection, settings: Settings) -> None:
    from ingestion_dagster.residents import upkeep

    upkeep.sync(connection, settings)


def _check(settings: Settings, key: str, raw: bytes, _beside: object) -> tuple[Problem, ...]:
    from datetime import datetime

    from ingestion_dagster.residents import job, sheet_file
    from ingestion_dagster.residents.check import check_file
    from ingestion_dagster.residents.dates import LONDON

    name = key.partition("/")[0]
    if name not in places.NAMES:
        return (Problem("unknown_dataset", "the whole file", f"say which it is for: --dataset, one of {', '.join(places.NAMES)}"),)
    if len(raw) > settings.residents_max_file_bytes:
        return (sheet_file.too_large(settings),)
    return check_file(key.rpartition("/")[2], raw, name, job.rules(settings, datetime.now(LONDON).date()))


def _retry(connection: Connection, scope: Scope, key: str | None) -> Again:
    from ingestion_dagster.residents import row_ledger

    return row_ledger.retry(connection, scope, key)


def _replay(connection: Connection, scope: Scope) -> Again:
    from ingestion_dagster.residents import row_ledger

    return row_ledger.replay(connection, scope)


def _predict(settings: Settings, key: str, raw: bytes, as_of: str | None) -> Mapping[str, int]:
    from ingestion_dagster.residents.dry_run import predict_file

    return predict_file(settings, key, raw, as_of)


def _samples(folder: Path, scratch: Path) -> tuple[Delivery, ...]:
    from ingestion_dagster.residents import samples

    samples.place(folder, scratch)
    told = partial(samples.surprises, folder=folder)
    return (Delivery(folder.name, scratch, surprises=told, as_of=samples.as_of(folder)),)


def _contents(connection: Connection, _settings: Settings) -> list[tuple[int, str]]:
    """Rows by how far they have come."""
    rows = connection.execute("SELECT step, count(*) FROM residents.rows GROUP BY step ORDER BY step").fetchall()
    return [(count, f"residents.rows, {step}") for step, count in rows]


def _progress(connection: Connection) -> int:
    row = connection.execute("SELECT count(*) FROM residents.rows WHERE step IN ('done', 'failed', 'quarantined')").fetchone()
    return int(row[0]) if row else 0


def _leftovers(_connection: Connection, settings: Settings, before: datetime) -> dict[str, int]:
    from ingestion_dagster.residents import outbound

    return {"unwritten_reports": outbound.clear_leftovers(settings, before)}


RESIDENTS = Pipeline(
    name=PIPELINE,
    known=lambda: places.NAMES,
    zone=places.zone,
    check=_check,
    jobs=(LoadJob(LOAD_JOB),),
    asset_of=lambda dataset: (PIPELINE, dataset) if dataset in places.NAMES else None,
    places=lambda settings: (
        ("arriving", f"{settings.drive}/<dataset>/inbound"),
        ("reports", f"{settings.drive}/<dataset>/outbound"),
    ),
    contents=_contents,
    samples=_samples,
    watched=lambda settings: tuple(f"{settings.drive}/{name}/inbound" for name in places.NAMES),
    prefix_of=lambda dataset: f"{dataset}/",
    sync=_sync,
    stand_ins=places.stand_ins_needed,
    landing_key=places.landing_key,
    retry=_retry,
    replay=_replay,
    predict=_predict,
    done=first_day.done,
    as_of_narrows=False,
    progress=_progress,
    sensors=lambda _settings: ("residents_drive_sensor",),
    remembers=lambda settings: settings.residents_retention_days,
    leftovers=_leftovers,
    claimable_minutes=lambda settings: settings.residents_claimable_minutes,
)
