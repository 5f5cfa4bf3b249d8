"""The cubic pipeline as the command line sees it."""

from collections.abc import Callable

from ingestion_dagster.cubic import dfm, discovery
from ingestion_dagster.cubic.kinds import KINDS
from ingestion_dagster.cubic.registry import PIPELINE, Registry, registry
from ingestion_dagster.engine.errors import Problem, Refused
from ingestion_dagster.engine.landing import Zone
from ingestion_dagster.engine.pipeline import LoadJob, Pipeline
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.settings import Settings, current

SNAPSHOTS = "cubic_snapshots"


def _registry() -> Registry:
    return registry(current())


def _datasets(*, by_snapshot: bool) -> frozenset[str]:
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
    from ingestion_dagster.cubic.check import check_file

    if key.endswith(discovery.METADATA):
        try:
            return dfm.parse(raw).warnings
        except Refused as refused:
            return refused.problems
    table = registry(settings).of_key(key)
    names = KINDS[table.kind].companions(key) if table else ()
    return check_file(settings, key, raw, next((found for name in names if (found := beside(name)) is not None), None))


def _behind(connection: Connection, settings: Settings) -> list[tuple[str, ...]]:
    from ingestion_dagster.cubic import current as current_tables

    return [(PIPELINE, "current", table.slug) for table in current_tables.behind(connection, registry(settings))]


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
    tables=(),
    prefix_of=_prefix_of,
    sync=_sync,
    dynamic_partitions=lambda connection: (SNAPSHOTS, discovery.snapshots(connection)),
    behind=_behind,
    follow_job="cubic_current",
    take_over=_take_over,
)
