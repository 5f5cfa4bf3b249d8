"""Replay: archived files are loaded again from the archive, as often as one likes, and what they say is in the tables afterwards."""

import json
import signal
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dagster._core.storage.tags import ASSET_PARTITION_RANGE_END_TAG, ASSET_PARTITION_RANGE_START_TAG

from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.metrics import files as metric_files
from ingestion_dagster.settings import Settings
from ingestion_dagster_tests import test_cli
from ingestion_dagster_tests.engine import conftest as s3
from ingestion_dagster_tests.engine.histories import assert_history_is_legal, differences, let_leases_run_out
from ingestion_dagster_tests.metrics import boot_driver, driver, test_assets
from ingestion_dagster_tests.metrics.conftest import Metrics, headline_payload, time_series_payload
from ingestion_dagster_tests.metrics.driver import settings_for
from ingestion_dagster_tests.metrics.one_database import empty

moto_server = s3.moto_server
aws_environment = s3.aws_environment
new_bucket = s3.new_bucket
ingestion = test_cli.ingestion
run = test_assets.run

TODAY, YESTERDAY = test_assets.TODAY, test_assets.YESTERDAY
BEFORE_YESTERDAY = f"{datetime.now(UTC) - timedelta(days=2):%Y-%m-%d}"
CASES: dict[str, Any] = {"metric_group": "cases", "metric": "COVID-19_cases_casesByDay"}
ROWS = "SELECT age, date::text, metric_value::float FROM public.data_apitimeseries ORDER BY 1, 2, 3"
WIPE = "DELETE FROM metrics.core_time_series; DELETE FROM metrics.api_time_series; DELETE FROM metrics.core_headline"
HISTORY = "SELECT from_status, to_status FROM ledger.load_events AS e JOIN ledger.loads AS l ON l.id = load_id WHERE key = %s ORDER BY e.id"


@pytest.fixture
def database(shared: Database) -> Database:
    """That database, emptied."""
    return empty(shared)


@pytest.fixture
def archive(metrics: Metrics) -> Metrics:
    """Files of every fate that ends in the archive, two versions of one key, and a refused one."""
    return fill(metrics)


def fill(metrics: Metrics, days: Mapping[str, str] | None = None) -> Metrics:
    """`days`: of what was not discovered today, the day on which it was."""
    metrics.land(a=time_series_payload(), twice=time_series_payload([("2023-06-20", 1)], **CASES), headline=headline_payload())
    metrics.land(bad=time_series_payload(sex="banana"))
    driver.run(metrics.settings)
    metrics.land(a=time_series_payload())
    metrics.land(twice=time_series_payload([("2023-06-20", 2)], **CASES, refresh_date="2023-10-11"))
    driver.run(metrics.settings)
    metrics.land(
        late=time_series_payload([("2023-06-19", 9), ("2023-06-21", 0)], refresh_date="2023-10-01"),
        twice=time_series_payload([("2023-06-20", 3)], **CASES, refresh_date="2023-10-12"),
    )
    driver.discover(metrics.settings)
    for key, day in (days or {}).items():
        metrics.query("UPDATE ledger.loads SET partition = %s WHERE key = %s AND status = 'ready'", [day, key])
    driver.run(metrics.settings)
    return metrics


def facts(metrics: Metrics) -> dict[str, list[str]]:
    return {name: rows for name, rows in driver.tables(metrics.settings).items() if name != "series"}


def standing(metrics: Metrics) -> dict[str, Any]:
    """What a replay must leave as it was: tables, statuses and objects."""
    return {"tables": driver.tables(metrics.settings), "statuses": statuses(metrics), "objects": driver.files(metrics.settings)}


def statuses(metrics: Metrics) -> list[tuple[str, int, str, str | None]]:
    return [(load["key"], load["number"], load["status"], load["error_code"]) for load in driver.loads(metrics.settings)]


# The command


def test_a_replay_changes_nothing_but_the_history_and_may_be_repeated(ingestion: test_cli.Command, archive: Metrics) -> None:
    before = standing(archive)
    for _ in range(2):
        result = ingestion("replay", "metrics", "--partition", TODAY)
        assert result.code == 0, result.err
        assert "4 loads: 4 loaded (0 duplicates, 1 late), 0 refused" in result.out
        assert result.err.count("superseded: a newer version of") == 3
        assert differences(standing(archive), before) == []
    stations = ["archived", "ready", "ingesting", "ready_for_archiving", "archiving", "archived"]
    chain = list(pairwise(stations))
    assert archive.query(HISTORY, ["late.json"]) == [(None, "ready"), *chain[1:], *chain, *chain]
    assert_history_is_legal(archive.settings)


def test_rows_deleted_by_hand_come_back(ingestion: test_cli.Command, archive: Metrics) -> None:
    before = facts(archive)
    with archive.database.connect() as connection:
        connection.execute(WIPE)
    assert ingestion("replay", "metrics", "-p", TODAY).code == 0
    assert differences(facts(archive), before) == []


def test_a_replay_is_narrowed_to_a_dataset_and_a_day(ingestion: test_cli.Command, metrics: Metrics) -> None:
    archive = fill(metrics, {"late.json": YESTERDAY})
    with archive.database.connect() as connection:
        connection.execute(WIPE)
    result = ingestion("replay", "metrics", "--partition", TODAY, "--dataset", "cases")
    assert "1 loads: 1 loaded" in result.out
    assert archive.query(ROWS) == [("all", "2023-06-20", 3)]
    assert ingestion("replay", "metrics", "--partition", YESTERDAY).code == 0
    assert archive.query(ROWS) == [("all", "2023-06-19", 9), ("all", "2023-06-20", 3), ("all", "2023-06-21", 0)]
    nothing = ingestion("replay", "metrics", "--partition", BEFORE_YESTERDAY)
    assert (nothing.code, nothing.err.strip()) == (0, "nothing to replay")
    assert ingestion("replay", "metrics").code == 2, "a partition is asked for"


def test_a_load_whose_object_is_gone_is_refused_and_its_rows_stay(ingestion: test_cli.Command, archive: Metrics) -> None:
    before = facts(archive)
    store = open_store(f"{archive.settings.storage}/metrics/archive")
    for seen in store.list():
        if "/headline." in f"/{seen.key}":
            store.remove(seen)
    result = ingestion("replay", "metrics", "--partition", TODAY, "--dataset", "headline")
    assert result.code == 2
    assert ("headline.json", 1, "errored", "object_missing") in statuses(archive)
    assert archive.report("headline")["problems"][0]["code"] == "object_missing"
    assert differences(facts(archive), before) == []


def test_a_load_that_the_rules_refuse_by_now_is_reported_and_its_rows_stay(
    ingestion: test_cli.Command, archive: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = facts(archive)
    judge = metric_files.judge

    def stricter(payload: Mapping[str, Any], key: str) -> metric_files.MetricFile:
        return judge({**payload, "sex": "banana"}, key)

    with monkeypatch.context() as patch:
        patch.setattr(metric_files, "judge", stricter)
        assert ingestion("replay", "metrics", "--partition", TODAY, "--dataset", "cases").code == 2
    assert ("twice.json", 3, "errored", "unknown_sex") in statuses(archive)
    assert archive.report("twice")["problems"][0]["code"] == "unknown_sex"
    assert differences(facts(archive), before) == []
    assert ingestion("retry", "metrics", "--key", "twice.json").code == 0
    assert ("twice.json", 3, "archived", None) in statuses(archive)
    assert differences(facts(archive), before) == []


# The launchpad


def test_a_backfill_replays_its_days_and_no_other(run: test_assets.Run, metrics: Metrics) -> None:
    archive = fill(metrics, {"late.json": YESTERDAY, "twice.json": BEFORE_YESTERDAY})
    before = standing(archive)
    with archive.database.connect() as connection:
        connection.execute(WIPE)
    run(tags={ASSET_PARTITION_RANGE_START_TAG: BEFORE_YESTERDAY, ASSET_PARTITION_RANGE_END_TAG: YESTERDAY}, replay=True)
    assert archive.query(ROWS) == [("all", "2023-06-19", 9), ("all", "2023-06-20", 3), ("all", "2023-06-21", 0)]
    run(partition_key=TODAY, replay=True)
    assert differences(standing(archive), before) == []


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [({}, "needs a partition"), ({"partition_key": TODAY, "only_errored": True}, "ask for one of them")],
    ids=["no partition", "contradiction"],
)
def test_a_replay_that_cannot_be_meant_is_refused(run: test_assets.Run, archive: Metrics, asked: dict[str, Any], complaint: str) -> None:
    before = archive.rows("ledger.load_events")
    result = run(replay=True, raise_on_error=False, **asked)
    [failure] = [event.step_failure_data.user_failure_data for event in result.all_events if event.is_step_failure]
    assert failure is not None
    assert complaint in (failure.description or "")
    assert archive.rows("ledger.load_events") == before


def test_a_dry_run_of_a_replay_judges_and_puts_nothing_back(run: test_assets.Run, archive: Metrics) -> None:
    before = archive.rows("ledger.load_events")
    result = run(partition_key=TODAY, replay=True, dry_run=True)
    [observation] = [event.asset_observation_data.asset_observation for event in result.all_events if event.is_asset_observation]
    assert observation.metadata["loads"].value == 4
    assert archive.rows("ledger.load_events") == before


# Deaths, and another storage


@pytest.fixture(scope="module")
def undisturbed(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a replay leaves behind when nobody dies."""
    settings = settings_for(driver.copy_of_template(server, "undisturbed_replay"), tmp_path_factory.mktemp("undisturbed"))
    fill(Metrics(settings, Database.at(settings.database_url or "")))
    boot_driver.replay(settings, TODAY)
    return dict(driver.left_behind(settings))


@pytest.mark.parametrize(
    "point",
    [
        "transition.archived.ready.before",
        "transition.archived.ready.after",
        "transition.ready.ingesting.after",
        "metrics.merged",
        "transition.ingesting.ready_for_archiving.after",
        "object_store.copy.before_write",
        "object_store.copy.after_write:2",
        "transition.archiving.archived.before",
    ],
)
def test_a_replay_that_is_killed_ends_like_one_that_is_not(point: str, archive: Metrics, undisturbed: dict[str, Any]) -> None:
    code, complaint = boot_driver.start(archive.settings, "replay", TODAY, fault=point).end()
    assert code == -signal.SIGKILL, complaint
    let_leases_run_out(archive.settings)
    driver.finish(archive.settings)
    boot_driver.replay(archive.settings, TODAY)
    assert differences(driver.left_behind(archive.settings), undisturbed) == []
    assert_history_is_legal(archive.settings)


@pytest.mark.parametrize("versioned", [False, True], ids=["unversioned", "versioned"])
def test_a_replay_reads_from_an_archive_on_s3(
    database: Database, tmp_path: Path, new_bucket: Callable[..., str], versioned: bool, undisturbed: dict[str, Any]
) -> None:
    settings = Settings(
        home=tmp_path, database_url=database.sqlalchemy_url, settle_seconds=0, storage_url=f"s3://{new_bucket(versioned=versioned)}/here"
    )
    metrics = fill(Metrics(settings, database))
    before = standing(metrics)
    with database.connect() as connection:
        connection.execute(WIPE)
    boot_driver.replay(settings, TODAY)
    assert differences(standing(metrics), before) == []


@pytest.mark.parametrize("point", ["transition.archived.ready.after", "metrics.merged"])
def test_the_command_given_again_after_a_death_does_what_was_left(ingestion: test_cli.Command, archive: Metrics, point: str) -> None:
    before = facts(archive)
    with archive.database.connect() as connection:
        connection.execute(WIPE)
    assert boot_driver.start(archive.settings, "replay", TODAY, fault=point).end()[0] == -signal.SIGKILL
    let_leases_run_out(archive.settings)
    assert ingestion("replay", "metrics", "--partition", TODAY).code == 0
    assert differences(facts(archive), before) == []


def test_a_run_with_replay_does_what_an_attempt_that_died_has_left(run: test_assets.Run, archive: Metrics) -> None:
    before = facts(archive)
    with archive.database.connect() as connection:
        connection.execute(WIPE)
    killed = boot_driver.start(archive.settings, "replay", TODAY, fault="transition.archived.ready.after")
    assert killed.end()[0] == -signal.SIGKILL
    run(partition_key=TODAY, replay=True)
    assert differences(facts(archive), before) == []


def test_what_was_landed_again_after_a_boot_is_not_undone_by_replaying_the_boot(metrics: Metrics, tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/a.json").write_text(json.dumps(time_series_payload([("2023-06-20", 1)])))
    boot_driver.boot(metrics.settings, tmp_path / "boot")
    metrics.load("a.json", time_series_payload([("2023-06-20", 2)]))
    again = boot_driver.replay(metrics.settings, TODAY)
    assert (list(again.ready.values()), list(again.superseded.values())) == (["a.json"], ["a.json"])
    assert metrics.query("SELECT metric_value::int FROM public.data_coretimeseries") == [(2,)]
