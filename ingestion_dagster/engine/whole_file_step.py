"""The load step of `WholeFiles`: the whole Dagster side of a pipeline that says no more than how a file is read and written."""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from ingestion_dagster.engine.checks import found_of_loads, load_check_specs, result
from ingestion_dagster.engine.dagster import Ingestion, LoadConfig
from ingestion_dagster.engine.datasets import sync_datasets
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.load_step import Loading, Part, foretold, load_step, run_load_step
from ingestion_dagster.engine.outcome import Outcome
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster.engine.whole_files import WholeFiles
from ingestion_dagster.settings import Settings


def whole_file_step(
    files: WholeFiles[Any],
    table: dg.AssetSpec,
    landing_zone: dg.AssetKey,
    before: Callable[[Connection], object] = lambda _connection: None,
) -> dg.AssetsDefinition:
    """The load step `<pipeline>_load_step`: `table` is the asset that the files become, with the checks that every dataset has.

    A dry run is told of as an observation of `landing_zone`. `before` is called at the start of each run, and not for a dry run.
    """
    spec = table.replace_attributes(deps=table.deps or [dg.AssetDep(landing_zone)], skippable=True)

    @load_step(f"{files.pipeline}_load_step", [spec], load_check_specs(spec.key.path))
    def step(context: dg.AssetExecutionContext, config: LoadConfig, ingestion: Ingestion) -> Iterator[Any]:
        def loading(settings: Settings, partitions: frozenset[str] | None) -> Loading:
            outcome, run_id = Outcome(), context.run.run_id
            not_after = config.clock() if config.as_of else None
            return Loading(
                pipeline=files.pipeline,
                zone=files.zone(settings),
                scope=Scope(files.pipeline, partitions=partitions, not_after=not_after),
                parts=[Part(spec.key, (files.dataset,))],
                outcome=outcome,
                enter=lambda connection: sync_datasets(connection, files.pipeline, [files.dataset]),
                judge=lambda _connection, loads: foretold(landing_zone, files.judge(settings, loads)),
                load=lambda connection, claim: files.load(settings, connection, claim, outcome),
                checks=lambda connection, _outcome, _told: [
                    result(check, found)
                    for check in sorted(context.selected_asset_check_keys)
                    if (found := found_of_loads(check.name, connection, files.pipeline, files.dataset, run_id)) is not None
                ],
                before=before,
            )

        yield from run_load_step(context, config, ingestion, loading)

    return step
