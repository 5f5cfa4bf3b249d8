"""Dagster: its home, whether its instance is the one of the project, its storage, and whether its daemon is alive."""

import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from ingestion_dagster.doctor.examination import Said, ok, problem, warning
from ingestion_dagster.engine.home import project_file
from ingestion_dagster.settings import Settings

SILENT = timedelta(minutes=5)
"""A daemon beats every half minute."""

_OF_THE_PLACE = frozenset({"storage", "compute_logs", "run_launcher", "run_storage", "event_log_storage", "schedule_storage"})
"""What an instance has of its own: where things are kept, and what starts runs."""


def dagster(settings: Settings, now: Callable[[], datetime]) -> Iterator[Said]:
    """The home that is meant: DAGSTER_HOME, or the one below INGESTION_HOME. Nothing is made."""
    own = os.environ.get("DAGSTER_HOME")
    home = Path(own) if own else settings.home_folder / "dagster"
    if own and (not home.is_absolute() or not home.is_dir()):
        yield problem("DAGSTER_HOME is no absolute path of a folder that is there", "correct it, or unset it")
        return
    if not (home / "dagster.yaml").is_file():
        if own:
            yield problem(f"{home} has no dagster.yaml", "copy deploy/dagster.yaml there")
        else:
            yield ok(f"{home} is made when it is first used")
        return
    yield _configuration(home, settings)
    if not own and not (home / "history").exists():
        yield ok("no run has been there yet")
        return
    yield from _instance(home, settings, now)


def _configuration(home: Path, settings: Settings) -> Said:
    there: dict[str, Any] = yaml.safe_load((home / "dagster.yaml").read_text(encoding="utf-8")) or {}
    wanted: dict[str, Any] = yaml.safe_load(project_file("dagster.yaml").read_text(encoding="utf-8"))
    differing = sorted(name for name in wanted.keys() | there.keys() if name not in _OF_THE_PLACE and wanted.get(name) != there.get(name))
    if differing:
        return warning(f"{home}/dagster.yaml has other {', '.join(differing)} than the project", "take them over, unless they are meant")
    limit = wanted["concurrency"]["runs"]["tag_concurrency_limits"][0]["limit"]
    if settings.runs_per_pipeline > limit:
        return warning(
            f"INGESTION_RUNS_PER_PIPELINE is {settings.runs_per_pipeline}, and the queue lets {limit} run",
            "raise the limit in dagster.yaml with it",
        )
    return ok(f"{home}/dagster.yaml is the project's")


def _instance(home: Path, settings: Settings, now: Callable[[], datetime]) -> Iterator[Said]:
    import dagster as dg

    with dg.DagsterInstance.from_config(str(home)) as instance:
        runs = instance.get_runs_count()
        yield ok(f"its storage answers: {runs} runs")
        beats = instance.get_daemon_heartbeats()
        if not beats:
            said = "no daemon has ever run here: sensors and queued runs need one"
            yield (
                warning(said, "start 'dagster-daemon run', or 'make dev'")
                if settings.environment != "production"
                else problem(said, "start 'dagster-daemon run'")
            )
            return
        silent = timedelta(seconds=max(0.0, now().timestamp() - max(beat.timestamp for beat in beats.values())))
        if silent > SILENT:
            said = f"the daemon has been silent for {int(silent.total_seconds() // 60)} minutes"
            advice = "start it: nothing is discovered, no queued run begins, no alert is told"
            yield problem(said, advice) if settings.environment in ("staging", "production") else warning(said, advice)
        else:
            yield ok("the daemon is alive")
