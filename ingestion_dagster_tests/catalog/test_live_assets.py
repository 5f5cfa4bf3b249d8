"""Updates, the filtered index and tasks of the API under Dagster: what they tell, and what keeps them from it."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import instance_for_test

from ingestion_dagster.catalog import readers, refreshes
from ingestion_dagster.catalog.pipeline import refresh_job
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.catalog.sensors import HOURLY, WEEKLY, catalog_upstream_sensor
from ingestion_dagster.definitions import defs
from ingestion_dagster.engine.dagster import INGESTION, PIPELINE_TAG
from ingestion_dagster.engine.datasets import pause_dataset, sync_datasets
from ingestion_dagster.engine.postgres import Connection
from ingestion_dagster_tests.catalog import scene
from ingestion_dagster_tests.catalog.test_assets import connection, why

__all__ = ["connection"]

IMAGE = MEDIA_TYPES["image"]

Do = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """One that schedules can be evaluated with."""
    with instance_for_test() as instance:
        yield instance


@pytest.fixture
def do(connection: Connection, instance: dg.DagsterInstance) -> Do:
    """One run of a job of images: `do("update")`."""

    def execute(what: str, config: dict[str, Any] | None = None, partition: str | None = None) -> dg.ExecuteInProcessResult:
        job = defs.resolve_job_def(f"catalog_image_{what}")
        if partition:
            instance.add_dynamic_partitions(refreshes.definition("image"), [partition])
        return job.execute_in_process(
            instance=instance,
            partition_key=partition,
            tags={PIPELINE_TAG: "catalog"},
            run_config={"ops": {node.name: {"config": config} for node in job.nodes}} if config else None,
            raise_on_error=False,
        )

    return execute


@pytest.fixture
def evaluate(connection: Connection, instance: dg.DagsterInstance) -> Callable[[dg.ScheduleDefinition], Any]:
    """One tick of a schedule."""
    repository = defs.get_repository_def()

    def tick(schedule: dg.ScheduleDefinition) -> Any:
        with dg.partition_loading_context(dynamic_partitions_store=instance):
            return schedule.evaluate_tick(
                dg.build_schedule_context(instance=instance, repository_def=repository, resources={"ingestion": INGESTION})
            )

    return tick


def told(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Metadata of the one asset that was made."""
    [event] = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def test_updates_wait_for_the_first_refresh_and_then_bring_what_has_changed(
    do: Do, evaluate: Callable[[dg.ScheduleDefinition], Any], places: Places
) -> None:
    [hourly] = [each for each in HOURLY if each.name == "catalog_image_hourly_schedule"]
    assert "'ingestion run catalog --dataset image' makes the first refresh" in evaluate(hourly).skip_message
    assert told(do("update"))["why"] == "nothing is live yet"
    assert "has not been refreshed yet: 'ingestion run catalog" in why(do("filter"))

    assert do("refresh", partition="one").success
    with places.upstream.connect() as upstream:
        scene.change_upstream(upstream, "image", 3, title="A zeppelin at last")
    assert len(evaluate(hourly).run_requests) == 1
    found = told(do("update"))
    assert (found["rows_in"], found["rows_written"], found["documents_deleted"]) == (1, 1, 0)
    assert {"watermark", "seconds", "dagster/row_count"} <= {*found}
    assert readers.search(places.settings, "image", "zeppelin").total == 1

    rebuilt = told(do("filter"))
    assert rebuilt["dagster/row_count"] == 30
    with closing(places.search()) as engine:
        assert engine.behind("image-filtered") == (rebuilt["index"],)


def test_a_paused_media_type_is_left_alone_by_every_schedule_and_sensor_and_each_says_so(
    do: Do, evaluate: Callable[[dg.ScheduleDefinition], Any], connection: Connection, instance: dg.DagsterInstance
) -> None:
    sync_datasets(connection, "catalog", ["image", "audio"])
    pause_dataset(connection, "catalog", "image", "figures under review")
    says = "image is paused (figures under review): 'ingestion resume catalog image' lets it go on"
    for schedule in (*WEEKLY, *HOURLY):
        if "image" in schedule.name:
            assert evaluate(schedule).skip_message == says, schedule.name
    context = dg.build_sensor_context(instance=instance, repository_def=defs.get_repository_def(), resources={"ingestion": INGESTION})
    assert says in str(catalog_upstream_sensor.evaluate_tick(context).skip_message)
    assert why(do("update")) == says
    assert why(do("refresh", partition="one")) == says
    assert refreshes.of_model(connection, "image") == []


def test_an_operation_without_its_task_says_where_tasks_come_from(do: Do) -> None:
    assert "'POST /task' of the private API enters one" in why(do("operation", {"task_id": "nobody"}))


def test_an_update_beside_another_says_that_the_next_run_does_it(do: Do, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    from ingestion_dagster.catalog import updates

    assert do("refresh", partition="one").success

    def busy(*_: object, **__: object) -> None:
        raise refreshes.Busy("image", "a promotion")

    monkeypatch.setattr(updates, "update_live", busy)
    assert why(do("update")) == "image is being worked on: a promotion; the next run does it"


def test_the_jobs_are_those_that_the_sensors_ask_for() -> None:
    for model in MEDIA_TYPES:
        for name in (refresh_job(model), *(f"catalog_{model}_{what}" for what in ("update", "filter", "operation"))):
            tags = defs.resolve_job_def(name).tags
            assert tags[PIPELINE_TAG] == "catalog"
            assert int(tags["dagster/max_runtime"]) > 4 * 24 * 3600, "Dagster would end a large refresh as one that hangs"
