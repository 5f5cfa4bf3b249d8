"""Which runs leave Dagster: never what an asset, a partition or a check shows as its latest, nor what is another project's."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from ingestion_dagster.engine.dagster import PIPELINE_TAG
from ingestion_dagster.operations import run_retention
from ingestion_dagster.operations.run_retention import Pruned
from ingestion_dagster.settings import Settings

NAMES = ("metrics", "operations")
DAYS = dg.StaticPartitionsDefinition(["monday", "tuesday"])

Prune = Callable[..., Pruned]


@dg.asset(key=["metrics", "by_day"], partitions_def=DAYS)
def by_day() -> None:
    """A table by day."""


@dg.asset(key=["metrics", "whole"], check_specs=[dg.AssetCheckSpec("holds", asset=["metrics", "whole"])])
def whole(context: dg.AssetExecutionContext) -> Iterator[Any]:
    """A table with a check."""
    yield dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=True, check_name="holds")])


@pytest.fixture(params=["memory", "SQLite"])
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance as a test has it, and as a machine of one's own has it: SQLite has a file for each run, with ids of its own."""
    in_memory = request.param == "memory"
    with dg.DagsterInstance.ephemeral() if in_memory else dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def prune(instance: dg.DagsterInstance) -> Prune:
    def night(age: timedelta = timedelta(days=1000), settings: Settings | None = None, **named: Any) -> Pruned:
        return run_retention.prune(instance, settings or Settings(), NAMES, datetime.now(UTC) + age, **named)

    return night


def run(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, partition: str | None = None, **tags: str) -> str:
    done = dg.materialize([asset], instance=instance, partition_key=partition, tags={PIPELINE_TAG: "metrics"} | tags)
    return done.run_id


def empty_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus, tag: str = "metrics", job: str = "a_job") -> str:
    return create_run_for_test(instance, job_name=job, status=status, tags={PIPELINE_TAG: tag}).run_id


def standing(instance: dg.DagsterInstance) -> set[str]:
    return {each.run_id for each in instance.get_runs()}


def test_the_latest_materialization_of_a_partition_stays_and_those_before_it_go(instance: dg.DagsterInstance, prune: Prune) -> None:
    old, monday, tuesday = (run(instance, by_day, day) for day in ("monday", "monday", "tuesday"))
    last = empty_run(instance, dg.DagsterRunStatus.SUCCESS, job="__ephemeral_asset_job__")
    assert prune() == Pruned(runs=1, latest=2, last=1)
    assert standing(instance) == {monday, tuesday, last}
    assert instance.get_materialized_partitions(by_day.key) == {"monday", "tuesday"}
    assert not instance.all_logs(old)


def test_the_latest_materialization_of_an_asset_and_the_latest_word_of_a_check_stay(instance: dg.DagsterInstance, prune: Prune) -> None:
    old, new = run(instance, whole), run(instance, whole)
    empty_run(instance, dg.DagsterRunStatus.SUCCESS, job="__ephemeral_asset_job__")
    assert prune() == Pruned(runs=1, latest=1, last=1)
    assert (old in standing(instance), new in standing(instance)) == (False, True)
    latest = instance.get_latest_materialization_event(whole.key)
    assert latest is not None
    assert latest.run_id == new
    key = dg.AssetCheckKey(whole.key, "holds")
    assert instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key].run_id == new


def test_a_check_that_was_last_evaluated_by_itself_long_ago_keeps_its_run(instance: dg.DagsterInstance, prune: Prune) -> None:
    @dg.asset_check(asset=whole, name="by_itself")
    def by_itself() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    job = dg.Definitions(
        assets=[whole],
        asset_checks=[by_itself],
        jobs=[dg.define_asset_job("checks", selection=dg.AssetSelection.checks(by_itself), tags={PIPELINE_TAG: "metrics"})],
    ).resolve_job_def("checks")
    kept = job.execute_in_process(instance=instance).run_id
    empty_run(instance, dg.DagsterRunStatus.SUCCESS, job="checks")
    assert prune() == Pruned(latest=1, last=1)
    assert kept in standing(instance)


def test_runs_at_work_and_those_of_other_projects_stay_however_old(instance: dg.DagsterInstance, prune: Prune) -> None:
    kept = {empty_run(instance, status) for status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING)}
    kept.add(empty_run(instance, dg.DagsterRunStatus.SUCCESS, tag="parcels"))
    gone = empty_run(instance, dg.DagsterRunStatus.SUCCESS)
    kept.add(empty_run(instance, dg.DagsterRunStatus.STARTED))
    assert prune() == Pruned(runs=1)
    assert standing(instance) == kept
    assert gone not in kept


def test_failed_runs_have_a_term_of_their_own_and_0_is_for_ever(instance: dg.DagsterInstance, prune: Prune) -> None:
    for status in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.STARTED):
        empty_run(instance, status)
    settings = Settings(run_history_days=10, failed_run_history_days=20)
    assert prune(timedelta(days=9), settings).runs == 0
    assert prune(timedelta(days=15), settings, dry_run=True).runs == 1
    assert prune(timedelta(days=25), settings, dry_run=True).runs == 3
    assert prune(settings=Settings(run_history_days=10, failed_run_history_days=0), dry_run=True).runs == 1
    assert prune(settings=Settings(run_history_days=0, failed_run_history_days=0)) == Pruned()
    assert len(standing(instance)) == 4


def test_more_runs_than_a_page_are_all_looked_at(instance: dg.DagsterInstance, prune: Prune, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cursor at a run that is gone would end the listing."""
    monkeypatch.setattr(run_retention, "_PAGE", 2)
    kept = []
    for _ in range(3):
        empty_run(instance, dg.DagsterRunStatus.SUCCESS)
        kept.append(empty_run(instance, dg.DagsterRunStatus.SUCCESS, tag="parcels"))
        empty_run(instance, dg.DagsterRunStatus.SUCCESS)
    kept.append(empty_run(instance, dg.DagsterRunStatus.STARTED))
    assert prune(dry_run=True).runs == 6
    assert prune().runs == 6
    assert standing(instance) == set(kept)


NIGHT = f"""
import sys
from datetime import UTC, datetime, timedelta
import dagster as dg
from ingestion_dagster.operations import run_retention
from ingestion_dagster.settings import Settings

with dg.DagsterInstance.local_temp(sys.argv[1]) as instance:
    run_retention.prune(instance, Settings(), {NAMES}, datetime.now(UTC) + timedelta(days=1000))
"""

KILLED_AT = "operations.prune.within"


def test_a_night_that_is_killed_between_events_and_run_is_gone_on_with(tmp_path: Path) -> None:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        old = run(instance, whole)
        run(instance, whole)
        environment = os.environ | {"INGESTION_TEST_FAULT": KILLED_AT}
        killed = subprocess.run([sys.executable, "-c", NIGHT, tmp_path], env=environment, capture_output=True, text=True, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert old in standing(instance)
        assert not instance.all_logs(old)
        assert run_retention.prune(instance, Settings(), NAMES, datetime.now(UTC) + timedelta(days=1000)).runs == 1
        assert old not in standing(instance)


def test_a_run_that_another_night_deletes_at_this_moment_is_no_trouble(
    instance: dg.DagsterInstance, prune: Prune, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        run(instance, whole)
    others: list[Pruned] = []

    def meanwhile(_name: str) -> None:
        if not others:
            others.append(Pruned())
            others[0] = prune()

    monkeypatch.setattr(run_retention, "fault_point", meanwhile)
    assert prune().runs >= 1
    assert len(standing(instance)) == 1
    assert instance.get_latest_materialization_event(whole.key) is not None
