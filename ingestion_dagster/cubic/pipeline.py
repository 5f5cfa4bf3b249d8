"""The cubic pipeline as the command line sees it. What reads files is imported when a file is to be read: `ingestion --help` is quick."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ingestion_dagster.cubic.registry import PIPELINE, Registry, registry
from ingestion_dagster.engine import whereabouts
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.pipeline import STREAM_DAYS, Delivery, LoadJob, Pipeline
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings, current

if TYPE_CHECKING:
    from ingestion_dagster.cubic import samples

SNAPSHOTS = "cubic_snapshots"
_STORES = ("archive", "error", "springboard", "current")


def _registry() -> Registry:
    return registry(current())


def _datasets(*, by_snapshot: bool) -> frozenset[str]:
    from ingestion_dagster.cubic.kinds import KINDS

    return frozenset(table.name for table in _registry().tables.values() if KINDS[table.kind].by_snapshot == by_snapshot)


def _asset_of(dataset: str) -> tuple[str, ...] | None:
    table = _registry().tables.get(dataset)
    return table.asset if table else None


def _prefix_of(dataset: str) -> str:
    table = _registry().tables.get(dataset)
    return table.prefix if table else ""


def _zone(settings: Settings) -> Zone:
    from ingestion_dagster.cubic.zone import zone

    return zone(settings, registry(settings))


def _sync(connection: Connection, settings: Settings) -> None:
    from ingestion_dagster.cubic.zone import prepare

    prepare(connection, registry(settings))


def _check(settings: Settings, key: str, raw: bytes, beside: Callable[[str], bytes | None]) -> tuple[Problem, ...]:
    """Every problem of a file; of a `.dfm`, whether it can be read."""
    from ingestion_dagster.cubic import dfm
    from ingestion_dagster.cubic.check import check_file
    from ingestion_dagster.cubic.kinds import KINDS
    from ingestion_dagster.cubic.ods import METADATA

    if key.endswith(METADATA):
        try:
            return dfm.parse(raw).warnings
        except Refused as refused:
            return refused.problems
    table = registry(settings).of_key(key)
    names = KINDS[table.kind].companions(key) if table else ()
    return check_file(settings, key, raw, next((found for name in names if (found := beside(name)) is not None), None))


def _partitions(connection: Connection) -> dict[str, list[str]]:
    from ingestion_dagster.cubic import discovery

    return {SNAPSHOTS: discovery.snapshots(connection)}


def _leftovers(_connection: Connection, settings: Settings, before: datetime) -> dict[str, int]:
    from ingestion_dagster.cubic import current, reconciliation

    cleared = reconciliation.clear_leftovers(settings, before, seconds=0)
    return {"staged_files": cleared.staged, "scratch_folders": cleared.folders + current.clear_leftovers(before)}


def _behind(connection: Connection, settings: Settings) -> list[tuple[str, ...]]:
    from ingestion_dagster.cubic import current_state

    return [(PIPELINE, "current", table.slug) for table in current_state.behind(connection, registry(settings))]


def _contents(connection: Connection, settings: Settings) -> list[tuple[int, str]]:
    """Rows of each table that has any, and of its newest state."""
    from ingestion_dagster.cubic import current_state, delta_table, query

    tables = registry(settings)
    filled = {row["dataset"] for row in whereabouts.status_counts(connection, PIPELINE) if row["rows_written"]}
    names = [table.name for table in tables.tables.values() if table.typed and table.name in filled]
    followed = current_state.tables(tables)
    names += [f"{table.name}__current" for table in followed if delta_table.open_delta(settings, table) is not None]
    return [(query.run(connection, settings, tables, f"SELECT count(*) AS n FROM {name}")[1][0]["n"], name) for name in names]  # noqa: S608 - names of the registry


def _samples(folder: Path, scratch: Path) -> tuple[Delivery, ...]:
    from ingestion_dagster.cubic import samples

    samples.place(folder, scratch)
    return tuple(
        Delivery(each.name, scratch / each.name, partial(_is_known, each), partial(_surprises, each)) for each in samples.deliveries(folder)
    )


def _is_known(delivery: "samples.Delivery", connection: Connection) -> bool:
    from ingestion_dagster.cubic import samples

    return samples.is_known(connection, delivery)


def _surprises(delivery: "samples.Delivery", connection: Connection) -> list[str]:
    from ingestion_dagster.cubic import samples

    return samples.surprises(connection, delivery)


def _take_over(database: Database, dry_run: bool) -> tuple[str, ...]:
    from ingestion_dagster.cubic import adoption

    settings = current()
    return adoption.take_over(database, settings, registry(settings), dry_run=dry_run)


CUBIC = Pipeline(
    name=PIPELINE,
    known=lambda: _registry().datasets,
    zone=_zone,
    check=_check,
    jobs=(
        LoadJob("cubic_ods_load", lambda: _datasets(by_snapshot=True)),
        LoadJob("cubic_daily_load", lambda: _datasets(by_snapshot=False)),
    ),
    asset_of=_asset_of,
    places=lambda settings: (
        ("loaded", settings.zone(PIPELINE, "springboard", "cubic/springboard")),
        ("current", settings.zone(PIPELINE, "current", "cubic/current")),
        ("archived", settings.zone(PIPELINE, "archive", "cubic/archive")),
        ("refused", settings.zone(PIPELINE, "error", "cubic/error")),
    ),
    contents=_contents,
    samples=_samples,
    prefix_of=_prefix_of,
    sync=_sync,
    dynamic_partitions=_partitions,
    behind=_behind,
    follow_job="cubic_current",
    takes_over_loads=True,
    take_over=_take_over,
    sensors=lambda _settings: ("cubic_s3_sensor", "cubic_current_sensor"),
    remembers=lambda settings: STREAM_DAYS if settings.cubic_kinesis_stream else 0,
    leftovers=_leftovers,
    claimable_minutes=lambda settings: settings.cubic_claimable_minutes,
)
