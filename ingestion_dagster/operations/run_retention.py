"""Which runs leave Dagster with their events; never one that holds what an asset, a partition or a check shows as its latest."""

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import dagster as dg
from dagster._core.events import DagsterEventType
from dagster._core.storage.dagster_run import FINISHED_STATUSES

from ingestion_dagster.engine.faults import fault_point
from ingestion_dagster.operations.failures import owner_of
from ingestion_dagster.settings import Settings

SECONDS = 600.0
"""How long is worked on it in one night; the next one goes on, since what went is gone."""

_PAGE = 100


@dataclass(slots=True)
class Pruned:
    """Runs past their term: how many went, and how many stay, and for what."""

    runs: int = 0
    latest: int = 0
    """Stay: they hold the latest materialization of an asset or partition, its latest observation, or the latest word of a check."""
    last: int = 0
    """Stay: the last run of its job."""
    unfinished: bool = False
    """Time was up before all were looked at."""


@dataclass(slots=True)
class _Latest:
    """What is shown as the latest, looked up once by asset: if it is another by the end, more has stayed than need be."""

    instance: dg.DagsterInstance
    of_assets: dict[tuple[dg.AssetKey, DagsterEventType], frozenset[str]] = field(default_factory=dict)
    jobs: dict[str, str] = field(default_factory=dict)

    def is_in(self, run: dg.DagsterRun) -> bool:
        """Whether a run holds any of it."""
        for kind in (DagsterEventType.ASSET_MATERIALIZATION, DagsterEventType.ASSET_OBSERVATION):
            for record in self.instance.get_records_for_run(run.run_id, of_type=kind).records:
                event = record.event_log_entry.dagster_event
                if event and event.asset_key and run.run_id in self._of_asset(event.asset_key, kind):
                    return True
        checked = self.instance.get_records_for_run(run.run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION).records
        keys = {
            event.event_specific_data.asset_check_key
            for record in checked
            if (event := record.event_log_entry.dagster_event) and isinstance(event.event_specific_data, dg.AssetCheckEvaluation)
        }
        if not keys:
            return False
        executions = self.instance.event_log_storage.get_latest_asset_check_execution_by_key(sorted(keys))
        return any(execution.run_id == run.run_id for execution in executions.values())

    def _of_asset(self, key: dg.AssetKey, kind: DagsterEventType) -> frozenset[str]:
        """The runs that hold the latest of an asset and of each of its partitions: where storage is SQLite, an event has one id by run and
        another by asset.
        """
        if (key, kind) not in self.of_assets:
            is_made = kind is DagsterEventType.ASSET_MATERIALIZATION
            fetch = self.instance.fetch_materializations if is_made else self.instance.fetch_observations
            newest = [*self.instance.event_log_storage.get_latest_storage_id_by_partition(key, kind).values()]
            records = [*fetch(key, limit=1).records]
            for chunk in (newest[begin : begin + _PAGE] for begin in range(0, len(newest), _PAGE)):
                records += fetch(dg.AssetRecordsFilter(asset_key=key, storage_ids=chunk), limit=len(chunk)).records
            self.of_assets[key, kind] = frozenset(record.run_id for record in records)
        return self.of_assets[key, kind]

    def is_last_of_its_job(self, run: dg.DagsterRun) -> bool:
        """Whether no newer run of its job is known."""
        if run.job_name not in self.jobs:
            [newest] = self.instance.get_runs(dg.RunsFilter(job_name=run.job_name), limit=1)
            self.jobs[run.job_name] = newest.run_id
        return self.jobs[run.job_name] == run.run_id


def prune(
    instance: dg.DagsterInstance,
    settings: Settings,
    names: Collection[str],
    now: datetime,
    *,
    seconds: float = SECONDS,
    dry_run: bool = False,
) -> Pruned:
    """Delete the finished runs of these pipelines that are past their term, with all their events and logs; oldest first.

    Runs of others in the same Dagster are theirs. Events go before their run: killed in between, the next call finds the run, and two at
    once find what is left. With `dry_run` nothing is deleted.
    """
    pruned = Pruned()
    terms = [days for days in (settings.run_history_days, settings.failed_run_history_days) if days]
    if not terms:
        return pruned
    latest = _Latest(instance)
    deadline = time.monotonic() + seconds
    before = now - timedelta(days=min(terms))
    cursor = None
    past = dg.RunsFilter(statuses=FINISHED_STATUSES, updated_before=before)
    while records := instance.get_run_records(past, limit=_PAGE, cursor=cursor, ascending=True):
        for record in records:
            run = record.dagster_run
            if time.monotonic() > deadline:
                pruned.unfinished = True
                return pruned
            ours = owner_of(run, names) is not None and _is_past(settings, run, record.update_timestamp, now)
            if not ours:
                pass
            elif latest.is_last_of_its_job(run):
                pruned.last += 1
            elif latest.is_in(run):
                pruned.latest += 1
            else:
                pruned.runs += 1
                if not dry_run:
                    _delete(instance, run.run_id)
                    continue
            cursor = run.run_id  # the last one that stays: behind one that is gone, nothing is found
    return pruned


def _is_past(settings: Settings, run: dg.DagsterRun, updated: datetime, now: datetime) -> bool:
    failed = run.status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    days = settings.failed_run_history_days if failed else settings.run_history_days
    return days > 0 and updated < now - timedelta(days=days)


def _delete(instance: dg.DagsterInstance, run_id: str) -> None:
    instance.event_log_storage.delete_events(run_id)
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    fault_point("operations.prune.within")
    instance.delete_run(run_id)
