"""The sensor that asks for a run when something is due: what it keeps for its next tick, and what keeps it from asking."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from ingestion_dagster.engine.dagster import ENVIRONMENT_TAG, INGESTION, PIPELINE_TAG, QUEUE_TAG
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster.engine.sensors import Due, due_sensor
from ingestion_dagster.settings import Settings

A, B = dg.AssetKey("a"), dg.AssetKey("b")


@dg.asset
def a() -> None:
    """Nothing."""


@dg.asset
def b() -> None:
    """Nothing."""


JOB: Any = dg.define_asset_job("a_job", selection=[A, B])

Tick = Callable[..., Any]


class Finding:
    """What is due, and what each tick was given of the one before."""

    def __init__(self) -> None:
        self.assets: list[dg.AssetKey] = []
        self.seen: dict[str, str] = {"at": "1"}
        self.given: list[dict[str, str]] = []

    def find(self, connection: Connection, settings: Settings, seen: dict[str, str]) -> Due:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert settings.environment == "local"
        self.given.append(seen)
        return Due(self.assets, f"{len(self.assets)} due", self.seen)


@pytest.fixture
def finding() -> Finding:
    return Finding()


@pytest.fixture(scope="module")
def of_module() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def instance(of_module: dg.DagsterInstance) -> dg.DagsterInstance:
    of_module.wipe()
    return of_module


@pytest.fixture
def tick(one: Database, finding: Finding, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Tick:
    """One evaluation as the daemon makes it."""
    monkeypatch.setenv("INGESTION_DATABASE_URL", one.sqlalchemy_url)
    sensor = due_sensor("a_sensor", "parcels", JOB, finding.find, "Watches what is due.")
    definitions = dg.Definitions(assets=[a, b], jobs=[JOB], sensors=[sensor], resources={"ingestion": INGESTION})

    def evaluate(cursor: str | None = None) -> Any:
        context = dg.build_sensor_context(
            instance=instance,
            cursor=cursor,
            repository_def=definitions.get_repository_def(),
            resources={"ingestion": INGESTION},
            sensor_name=sensor.name,
        )
        return sensor.evaluate_tick(context)

    return evaluate


def test_a_tick_with_nothing_due_says_so_and_leaves_what_it_has_seen(tick: Tick, finding: Finding) -> None:
    result = tick()
    assert (result.run_requests, result.skip_message) == ([], "0 due")
    finding.seen = {"at": "2"}
    again = tick(result.cursor)
    assert finding.given == [{}, {"at": "1"}]
    assert json.loads(again.cursor) == {"version": 1, "seen": {"at": "2"}}


def test_one_run_is_asked_for_of_what_is_due_and_of_nothing_else(tick: Tick, finding: Finding) -> None:
    finding.assets = [B]
    result = tick()
    [request] = result.run_requests
    assert (request.job_name, request.asset_selection, request.partition_key, request.run_key) == ("a_job", [B], None, None)
    assert request.tags.items() >= {PIPELINE_TAG: "parcels", ENVIRONMENT_TAG: "local", QUEUE_TAG: "a_job"}.items()
    assert json.loads(result.cursor)["seen"] == {"at": "1"}


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE], ids=["in flight", "failed"])
def test_what_could_not_be_asked_for_is_as_new_to_the_next_tick(
    tick: Tick, finding: Finding, instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    first = tick()
    create_run_for_test(instance, job_name="a_job", status=status, tags={PIPELINE_TAG: "parcels"})
    finding.assets, finding.seen = [A], {"at": "2"}
    result = tick(first.cursor)
    assert result.run_requests == []
    assert result.skip_message.startswith("1 due; ")
    assert result.cursor in (None, first.cursor)


def test_a_run_of_another_job_keeps_nothing_back(tick: Tick, finding: Finding, instance: dg.DagsterInstance) -> None:
    create_run_for_test(instance, job_name="another", status=dg.DagsterRunStatus.STARTED, tags={PIPELINE_TAG: "parcels"})
    finding.assets = [A, B]
    assert len(tick().run_requests) == 1


@pytest.mark.parametrize(
    "cursor",
    ["garbage", "null", "7", "[]", '{"version": 1}', '{"version": 9, "seen": {"at": "1"}}', '{"version": 1, "seen": ["at"]}'],
    ids=["garbage", "null", "number", "list", "nothing seen", "newer", "seen a list"],
)
def test_an_unreadable_cursor_costs_a_look_and_a_warning(
    tick: Tick, finding: Finding, cursor: str, capfd: pytest.CaptureFixture[str]
) -> None:
    finding.assets = [A]
    result = tick(cursor)
    assert finding.given == [{}]
    assert len(result.run_requests) == 1
    assert json.loads(result.cursor)["seen"] == {"at": "1"}
    assert "the cursor could not be read; looking anew" in capfd.readouterr().err


@pytest.mark.parametrize(("value", "status"), [("running", "RUNNING"), ("stopped", "STOPPED")])
def test_it_runs_by_default_only_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch, value: str, status: str) -> None:
    monkeypatch.setenv("INGESTION_SENSORS", value)
    assert due_sensor("a_sensor", "parcels", JOB, Finding().find, "Watches what is due.").default_status.value == status
