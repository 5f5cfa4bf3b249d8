"""What a run has told Dagster, by asset and partition or check."""

from typing import Any

import dagster as dg

Materialized = dict[tuple[str, str | None], dict[str, Any]]


def materialized(result: dg.ExecuteInProcessResult) -> Materialized:
    """Metadata values by asset and partition."""
    found: Materialized = {}
    for event in result.all_events:
        if event.is_step_materialization:
            of = event.materialization
            key = (of.asset_key.path[-1], of.partition)
            assert key not in found, f"{key} is materialized twice by one run"
            found[key] = {name: value.value for name, value in of.metadata.items()}
    return found


def evaluations(result: dg.ExecuteInProcessResult) -> dict[tuple[str, str], dg.AssetCheckEvaluation]:
    return {(found.asset_key.path[-1], found.check_name): found for found in result.get_asset_check_evaluations()}


def failed(result: dg.ExecuteInProcessResult) -> set[tuple[str, str]]:
    return {key for key, evaluation in evaluations(result).items() if not evaluation.passed}
