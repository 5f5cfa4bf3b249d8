"""Current tables in Dagster: they follow their inputs, tell what they did, and one table's trouble is not another's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ingestion_dagster.cubic import catalogue, current_state, delta_table
from ingestion_dagster.cubic.current_assets import (
    CATALOGUE_KEY,
    COMPACTED_KEY,
    ROWS_MATCH,
    UP_TO_DATE,
    VACUUMED_KEY,
    CurrentDefinitions,
    definitions_of,
    key_of,
)
from ingestion_dagster.cubic.partitions import SNAPSHOTS
from ingestion_dagster.cubic.registry import Registry, parse_registry
from ingestion_dagster.engine.dagster import PIPELINE_TAG, QUEUE_TAG, Ingestion
from ingestion_dagster.engine.errors import ConfigurationError
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster.settings import current as current_settings
from ingestion_dagster_tests.cubic.lake import COLUMNS, NAME, TAP, TAP_CT, Lake, change

TABLES = f"""
tables:
  - {{name: cubic__ods_qlik__edw_other, prefix: cubic/ods_qlik/EDW.OTHER, kind: ods}}
  - {{name: {NAME}, prefix: cubic/ods_qlik/EDW.TAP, kind: ods}}
  - {{name: cubic__ods_qlik__edw_raw, prefix: cubic/ods_qlik/EDW.RAW, kind: ods, typed: false}}
  - {{name: cubic__dmap__agg, prefix: cubic/dmap/agg, kind: dmap}}
"""
REGISTRY = parse_registry(TABLES)
OTHER = REGISTRY.tables["cubic__ods_qlik__edw_other"]
STEP, UPKEEP, CATALOGUE = 0, 1, 2


@pytest.fixture
def lake(database: Database, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    written = tmp_path / "tables.yaml"
    written.write_text(TABLES)
    monkeypatch.setenv("INGESTION_CUBIC_TABLES", str(written))
    with database.connect() as connection:
        made = Lake(connection, current_settings(), REGISTRY)
        made.schemas()
        made.schema(OTHER, (), ())
        yield made


def offered(settings: Settings | None = None) -> CurrentDefinitions:
    return definitions_of(REGISTRY, settings or current_settings())


def materialize(which: int = STEP, **options: Any) -> dg.ExecuteInProcessResult:
    instance = dg.DagsterInstance.ephemeral()
    return dg.materialize(
        [offered().assets[which]], resources={"ingestion": Ingestion()}, instance=instance, raise_on_error=False, **options
    )


def loaded(lake: Lake) -> None:
    lake.load(TAP, "LOAD00000001.csv.gz", [{"k1": number, "k2": "a", "v": "secret"} for number in range(3)])


def load_other(lake: Lake) -> None:
    lake.schema(OTHER, COLUMNS)
    lake.load(OTHER, "LOAD00000001.csv.gz", [{"k1": 1, "k2": "a", "v": "x"}])


def test_a_run_brings_tables_up_to_date_and_tells_of_it(lake: Lake):
    loaded(lake)
    run = materialize()
    assert run.success
    (event,) = run.asset_materializations_for_node("cubic_current_step")
    assert event.asset_key == key_of(TAP)
    told: dict[str, Any] = {name: value.value for name, value in event.metadata.items()}
    assert (told["dagster/row_count"], told["rebuilt"], told["loads_merged"], told["snapshot"]) == (3, True, 1, "20260101T060000Z")
    assert told["dagster/uri"] == delta_table.location(lake.settings, TAP)
    assert [column.name for column in told["dagster/column_schema"].columns][:3] == ["k1", "k2", "v"]
    (check,) = run.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == (UP_TO_DATE, True)
    lake.load(TAP_CT, "a.csv.gz", [change("D", 1, {"k1": 0, "k2": "a"})])
    (again,) = materialize().asset_materializations_for_node("cubic_current_step")
    assert (again.metadata["rows_deleted"].value, again.metadata["rebuilt"].value) == (1, False)
    (rebuilt,) = materialize(run_config={"ops": {"cubic_current_step": {"config": {"rebuild": True}}}}).asset_materializations_for_node(
        "cubic_current_step"
    )
    assert rebuilt.metadata["rebuilt"].value is True
    assert "secret" not in str(run.all_events)


def test_one_tables_trouble_is_not_anothers(lake: Lake):
    loaded(lake)
    load_other(lake)
    lake.part(OTHER, "LOAD00000001.csv.gz").unlink()
    run = materialize()
    assert not run.success
    assert {event.asset_key for event in run.asset_materializations_for_node("cubic_current_step")} == {key_of(TAP)}
    checks = {check.asset_key: check for check in run.get_asset_check_evaluations()}
    assert checks[key_of(TAP)].passed
    assert not checks[key_of(OTHER)].passed
    assert checks[key_of(OTHER)].metadata["code"].value == "springboard_part_missing"
    assert len(lake.state()) == 3


def test_a_selection_of_tables_leaves_the_others_alone(lake: Lake):
    loaded(lake)
    load_other(lake)
    run = materialize(selection=[key_of(OTHER)])
    assert {event.asset_key for event in run.asset_materializations_for_node("cubic_current_step")} == {key_of(OTHER)}
    assert [table.name for table in current_state.behind(lake.connection, REGISTRY)] == [NAME]


def test_upkeep_goes_over_all_tables(lake: Lake):
    loaded(lake)
    lake.refresh()
    for number in range(1, 4):
        lake.load(TAP_CT, f"{number}.csv.gz", [change("I", number, {"k1": 100 + number, "k2": "a", "v": "x"})])
        lake.refresh()
    run = materialize(UPKEEP, run_config={"ops": {"cubic_current_upkeep": {"config": {"retention_hours": 0}}}})
    assert run.success
    told: dict[dg.AssetKey, Any] = {each.asset_key: each.metadata for each in run.asset_materializations_for_node("cubic_current_upkeep")}
    assert told[COMPACTED_KEY]["files_removed"].value > 1
    assert told[VACUUMED_KEY]["files_deleted"].value > 1
    assert len(lake.state()) == 6


def check_rows() -> dict[dg.AssetKey, Any]:
    definitions = offered()
    run = (
        dg.Definitions(
            assets=definitions.assets,
            asset_checks=definitions.asset_checks,
            jobs=definitions.jobs,
            resources={"ingestion": Ingestion()},
        )
        .resolve_job_def("cubic_current_checks")
        .execute_in_process(instance=dg.DagsterInstance.ephemeral())
    )
    return {check.asset_key: check for check in run.get_asset_check_evaluations() if check.check_name == ROWS_MATCH}


def test_rows_that_differ_from_the_springboard_are_found(lake: Lake):
    loaded(lake)
    assert check_rows()[key_of(TAP)].metadata["compared"].value is False
    lake.refresh()
    assert check_rows()[key_of(TAP)].passed
    delta = delta_table.open_delta(lake.settings, TAP)
    assert delta is not None
    delta.delete("k1 = 1")
    found = check_rows()[key_of(TAP)]
    assert not found.passed
    assert (found.metadata["rows"].value, found.metadata["keys_in_springboard"].value) == (2, 3)


def test_the_catalogue_never_fails_a_current_table(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    def unavailable(*_arguments: Any) -> catalogue.Published:
        raise ConfigurationError("Glue is not open to us (AccessDeniedException)")

    monkeypatch.setattr(catalogue, "sync", unavailable)
    loaded(lake)
    assert materialize().success
    monkeypatch.setenv("INGESTION_CUBIC_GLUE_DATABASES", "springboard")
    assert not materialize(CATALOGUE).success


def test_the_catalogue_has_nothing_to_do_without_databases(lake: Lake):
    run = materialize(CATALOGUE)
    assert run.success
    assert run.asset_materializations_for_node("cubic_catalogue_step") == []


def test_current_tables_follow_whatever_partition_of_their_inputs_is_loaded():
    inputs = [dg.AssetSpec(list(table.asset), partitions_def=SNAPSHOTS) for table in REGISTRY.tables.values() if table.kind == "ods"]
    definitions = dg.Definitions(assets=[*inputs, offered().assets[STEP]], resources={"ingestion": Ingestion()})
    instance = dg.DagsterInstance.ephemeral()
    instance.add_dynamic_partitions("cubic_snapshots", ["20260101T060000Z", "20260201T060000Z"])

    def load(table: Any, partition: str) -> None:
        instance.report_runless_asset_event(dg.AssetMaterialization(list(table.asset), partition=partition))

    first = dg.evaluate_automation_conditions(definitions, instance)
    assert first.total_requested == 0
    load(TAP, "20260101T060000Z")
    second = dg.evaluate_automation_conditions(definitions, instance, cursor=first.cursor)
    assert second.get_num_requested(key_of(TAP)) == 1
    assert second.total_requested == 1
    quiet = dg.evaluate_automation_conditions(definitions, instance, cursor=second.cursor)
    assert quiet.total_requested == 0
    load(TAP_CT, "20260101T060000Z")
    again = dg.evaluate_automation_conditions(definitions, instance, cursor=quiet.cursor)
    assert again.get_num_requested(key_of(TAP)) == 1
    load(TAP_CT, "20260201T060000Z")
    assert dg.evaluate_automation_conditions(definitions, instance, cursor=again.cursor).total_requested == 1


def test_definitions_load_and_every_asset_is_described():
    made = offered()
    definitions = dg.Definitions(
        assets=made.assets,
        asset_checks=made.asset_checks,
        jobs=made.jobs,
        schedules=made.schedules,
        sensors=made.sensors,
        resources={"ingestion": Ingestion()},
    )
    dg.Definitions.validate_loadable(definitions)
    specs = {key: spec for asset in made.assets for key, spec in asset.specs_by_key.items()}
    assert set(specs) == {key_of(TAP), key_of(OTHER), COMPACTED_KEY, VACUUMED_KEY, CATALOGUE_KEY}
    assert all(spec.description and spec.owners and spec.kinds and spec.group_name == "cubic" for spec in specs.values())
    assert {dep.asset_key for dep in specs[key_of(TAP)].deps} == {dg.AssetKey(list(TAP.asset)), dg.AssetKey(list(TAP_CT.asset))}
    job = definitions.resolve_job_def("cubic_current")
    assert (job.tags[PIPELINE_TAG], job.tags[QUEUE_TAG]) == ("cubic", "cubic_current")


def test_sensor_and_schedules_run_only_if_the_settings_say_so():
    stopped: Any = offered(Settings(sensors="stopped"))
    running: Any = offered(Settings(sensors="running"))
    assert {each.default_status.value for each in (*stopped.sensors, *stopped.schedules)} == {"STOPPED"}
    assert {each.default_status.value for each in (*running.sensors, *running.schedules)} == {"RUNNING"}


def test_without_ods_tables_there_is_nothing():
    only_dmap = parse_registry("tables: [{name: a, prefix: cubic/dmap/a, kind: dmap}]")
    made = definitions_of(only_dmap, Settings())
    assert [key for asset in made.assets for key in asset.keys] == [CATALOGUE_KEY]
    assert definitions_of(Registry([]), Settings()) == CurrentDefinitions()
