"""What Dagster's own storage tells of its queue, its daemon and its sensors. It alone imports Dagster into the API."""

import time
from functools import cache
from pathlib import Path

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import SensorInstigatorData

from ingestion_dagster.engine.figures import Figure, Row

_STATES = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED)


@cache
def _instance(home: Path) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(str(home))


def figures(home: Path) -> list[Figure]:
    """Runs that wait and work, and since when daemon and sensors have been silent."""
    instance = _instance(home)
    now = time.time()
    runs: list[Row] = [((status.value.lower(),), float(instance.get_runs_count(dg.RunsFilter(statuses=[status])))) for status in _STATES]
    beats: list[Row] = [((kind,), max(0.0, now - beat.timestamp)) for kind, beat in sorted(instance.get_daemon_heartbeats().items())]
    ticks: dict[str, float] = {}
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SENSOR):
        data = state.instigator_data
        if isinstance(data, SensorInstigatorData) and data.last_tick_timestamp:
            silent = max(0.0, now - data.last_tick_timestamp)
            ticks[state.name] = min(silent, ticks.get(state.name, silent))
    return [
        Figure("runs", "Runs that wait in Dagster's queue, and that work.", ("state",), runs),
        Figure("daemon_silent_seconds", "Since when a daemon of Dagster's has not beaten.", ("daemon",), beats),
        Figure(
            "sensor_silent_seconds",
            "Since when a sensor has not ticked.",
            ("sensor",),
            [((name,), age) for name, age in sorted(ticks.items())],
        ),
    ]
