"""The definitions: loadable from nothing, the same as recorded, and complete.

`python -m ingestion_dagster_tests.test_definitions` records them anew.
"""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from ingestion_dagster.catalog.gates import GATES
from ingestion_dagster.catalog.partitions import REFRESHES
from ingestion_dagster.catalog.registry import MEDIA_TYPES
from ingestion_dagster.cubic.partitions import DAYS
from ingestion_dagster.cubic.registry import registry
from ingestion_dagster.definitions import defs
from ingestion_dagster.engine.dagster import LANDING_DAYS, PIPELINE_TAG, QUEUE_TAG, documented
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.engine.sensors import LoadingJob, landing_sensor
from ingestion_dagster.metrics.assets import DASHBOARD
from ingestion_dagster.metrics.places import zone
from ingestion_dagster.metrics.registry import FILE_TYPES, TABLES
from ingestion_dagster.metrics.sensors import METRICS_JOB
from ingestion_dagster.operations.sensors import sweep_sensor
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.settings import Settings

SNAPSHOT = Path(__file__).parent / "definitions.json"
SPECS = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
CHECKS = sorted(f"{key.asset_key.to_user_string()}:{key.name}" for key in defs.resolve_asset_graph().asset_check_keys)
EXTERNAL = {
    "metrics/kinesis_stream",
    "metrics/landing_zone",
    "metrics/dashboard",
    "cubic/kinesis_stream",
    "cubic/landing_zone",
    "cubic/archive",
}
METRICS = {key for key in SPECS if key.startswith("metrics/")}
CUBIC = registry(Settings()).tables

# Run with -B and an empty environment: whatever it opens for writing, connects to or starts is a sin of importing.
LOAD_FROM_NOTHING = """
import os, sys
sins = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.bind", "subprocess.Popen", "os.posix_spawn", "os.mkdir", "os.rename", "os.remove"):
        sins.append((event, str(arguments)))
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        sins.append((event, str(arguments)))
sys.addaudithook(watch)
import socket
def refuse(*_arguments, **_named):
    raise AssertionError("a socket was connected")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refuse
import psycopg
psycopg.connect = psycopg.Connection.connect = refuse
from ingestion_dagster.cubic.partitions import DAYS
from ingestion_dagster.cubic.registry import registry
from ingestion_dagster.definitions import defs
repository = defs.get_repository_def()
assert repository.get_all_jobs()
assert list(repository.sensor_defs)
# Python's own platform.architecture() asks `file` about the interpreter, with its input from /dev/null.
print([sin for sin in sins if "/dev/null" not in sin[1] and not sin[1].startswith("('file', ['file', '-b', ")])
"""


def snapshot() -> dict[str, Any]:
    """What other tools, dashboards and people's habits hang on."""
    repository = defs.get_repository_def()
    days = LANDING_DAYS
    return {
        "assets": {
            key: {
                "deps": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
                "group": spec.group_name,
                "kinds": sorted(spec.kinds),
                "partitions": type(spec.partitions_def).__name__ if spec.partitions_def else None,
            }
            for key, spec in sorted(SPECS.items())
        },
        "checks": CHECKS,
        "jobs": {
            job.name: sorted(asset.to_user_string() for asset in job.asset_layer.selected_asset_keys)
            for job in repository.get_all_jobs()
            if not job.name.startswith("__")
        },
        "schedules": sorted(schedule.name for schedule in repository.schedule_defs),
        "sensors": {
            sensor.name: {
                "interval": sensor.minimum_interval_seconds,
                "jobs": sorted(target.job_name for target in sensor.targets if target.job_name),
                "status": sensor.default_status.value,
            }
            for sensor in repository.sensor_defs
        },
        "partitions": {
            "landing_days": {
                "start": f"{days.start:%Y-%m-%d}",
                "schedule": days.cron_schedule,
                "timezone": days.timezone,
                "end_offset": days.end_offset,
            }
        },
        "resources": sorted(repository.get_top_level_resources()),
    }


def test_definitions_are_the_recorded_ones() -> None:
    assert snapshot() == json.loads(SNAPSHOT.read_text()), (
        "if that is what you meant: .venv/bin/python -m ingestion_dagster_tests.test_definitions, and say so in the commit"
    )


def test_definitions_load_with_an_empty_environment_touch_no_network_and_write_nothing(tmp_path: Path) -> None:
    loaded = subprocess.run(
        [sys.executable, "-B", "-W", "ignore", "-c", LOAD_FROM_NOTHING],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout == "[]\n"
    assert list(tmp_path.iterdir()) == []


def test_every_job_and_sensor_resolves() -> None:
    dg.Definitions.validate_loadable(defs)


@pytest.mark.parametrize("key", sorted(SPECS))
def test_no_asset_goes_without_a_description_a_group_owners_or_kinds(key: str) -> None:
    spec = SPECS[key]
    assert len(spec.description or "") > 10
    assert spec.group_name == key.partition("/")[0]
    assert spec.owners
    assert spec.kinds
    assert (SNAPSHOT.parent.parent / str(spec.metadata["docs"])).is_file()


def test_no_job_sensor_schedule_or_check_goes_without_a_description() -> None:
    repository, graph = defs.get_repository_def(), defs.resolve_asset_graph()
    said = {job.name: job.description for job in repository.get_all_jobs() if not job.name.startswith("__")}
    said |= {sensor.name: sensor.description for sensor in repository.sensor_defs}
    said |= {schedule.name: schedule.description for schedule in repository.schedule_defs}
    said |= {f"{key.asset_key.to_user_string()}:{key.name}": graph.get_check_spec(key).description for key in graph.asset_check_keys}
    assert len(said) > 100
    assert {name for name, description in said.items() if len(description or "") <= 10} == set()


def test_assets_link_to_their_page_where_the_docs_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGESTION_DOCS_URL", "https://docs.example/ingestion/")
    spec = documented(dg.AssetSpec(["metrics", "cases"], description="Case counts."))
    assert spec.metadata["docs"] == dg.MetadataValue.url("https://docs.example/ingestion/metrics.html")
    assert spec.description == "Case counts.\n\n[More about metrics](https://docs.example/ingestion/metrics.html)"


def test_lineage_runs_from_what_arrives_to_what_is_fed_and_nothing_stands_alone() -> None:
    graph = defs.resolve_asset_graph()
    # What operations does each night hands nothing on.
    nodes = {key: graph.get(dg.AssetKey.from_user_string(key)) for key in SPECS if not key.startswith("operations/")}
    assert {key for key, node in nodes.items() if not node.parent_keys and not node.child_keys} == set()
    # What nothing leads to is outside, or is fetched from outside, or looks after what is there.
    first = {key for key, node in nodes.items() if not node.parent_keys and not node.is_external}
    assert {key for key in first if not key.startswith("cubic/dmap_feed/")} == {"cubic/maintenance/compacted"}
    for arrives, fed in (
        ("metrics/kinesis_stream", "metrics/dashboard"),
        ("cubic/kinesis_stream", "cubic/archive"),
        ("residents/drop_folder", "residents/here_to_help_api"),
        ("residents/drop_folder", "residents/outbound_folder"),
        ("life_events/landing_zone", "life_events/events_platform"),
        ("catalog/upstream/image", "catalog/image/public_alias"),
        ("catalog/upstream/audioset_view", "catalog/audio/public_alias"),
    ):
        assert dg.AssetKey.from_user_string(arrives) in graph.get_ancestor_asset_keys(dg.AssetKey.from_user_string(fed)), (arrives, fed)
    assert {f"metrics/{name}" for name in TABLES} <= {key.to_user_string() for key in graph.get_ancestor_asset_keys(DASHBOARD.key)}


def test_every_file_type_and_table_is_an_asset_and_there_is_no_other() -> None:
    assert {f"metrics/{name}" for name in (*FILE_TYPES, *TABLES)} | {key for key in EXTERNAL if key.startswith("metrics/")} == METRICS


def test_every_cubic_table_is_an_asset_and_its_newest_state_another() -> None:
    by_snapshot = {"/".join(table.asset) for table in CUBIC.values() if table.kind == "ods"}
    by_day = {"/".join(table.asset) for table in CUBIC.values() if table.kind != "ods"}
    dynamic = {key for key in SPECS if key.startswith("cubic/") and isinstance(SPECS[key].partitions_def, dg.DynamicPartitionsDefinition)}
    assert dynamic == by_snapshot
    assert {key for key in SPECS if key.startswith("cubic/") and SPECS[key].partitions_def == DAYS} == by_day
    assert {key for key in SPECS if key.startswith("cubic/current/")} == {
        f"cubic/current/{table.slug}" for table in CUBIC.values() if table.has_changes and table.typed
    }


def test_every_cubic_table_is_checked() -> None:
    wanted = {f"{'/'.join(table.asset)}:{check}" for table in CUBIC.values() for check in ("rows_add_up", "nothing_errored")}
    wanted |= {
        f"cubic/landing_zone:{check}"
        for check in (
            "rows_add_up",
            "nothing_left_errored",
            "claimed_in_time",
            "nothing_unclassified",
            "nothing_waits_for_a_decision",
            "all_of_incoming_is_in_the_ledger",
        )
    }
    assert wanted | {"cubic/archive:archive_is_readable"} <= set(CHECKS)


def test_one_load_step_per_definition_of_partitions() -> None:
    assert [node.name for node in defs.resolve_job_def("cubic_ods_load").nodes] == ["cubic_ods_load_step"]
    assert [node.name for node in defs.resolve_job_def("cubic_daily_load").nodes] == ["cubic_daily_load_step"]


def test_a_change_reaches_the_current_table_and_a_feed_its_table() -> None:
    graph = defs.resolve_asset_graph()
    table = next(table for table in CUBIC.values() if table.has_changes)
    parents = graph.get(dg.AssetKey(["cubic", "current", table.slug])).parent_keys
    assert parents == {dg.AssetKey(["cubic", "ods_qlik", table.slug]), dg.AssetKey(["cubic", "ods_qlik", f"{table.slug}__ct"])}
    dmap = next(table for table in CUBIC.values() if table.kind == "dmap" and table.is_active)
    assert dg.AssetKey(["cubic", "dmap_feed", dmap.slug]) in graph.get(dg.AssetKey(list(dmap.asset))).parent_keys


def test_every_file_type_and_fact_table_is_checked() -> None:
    wanted = {f"metrics/{name}:{check}" for name in FILE_TYPES for check in ("rows_add_up", "nothing_errored")}
    wanted |= {f"metrics/{name}:public_flag_holds" for name, table in TABLES.items() if table.is_fact}
    wanted |= {f"metrics/landing_zone:{check}" for check in ("rows_add_up", "nothing_left_errored", "claimed_in_time")}
    wanted |= {f"metrics/dashboard:{check}" for check in ("public_flag_holds", "core_and_api_agree", "topics_are_fresh", "row_counts_hold")}
    assert {check for check in CHECKS if check.startswith("metrics/")} == wanted


def test_a_load_is_one_step_and_the_daily_checks_another() -> None:
    assert [node.name for node in defs.resolve_job_def("metrics_load").nodes] == ["metrics_load_step"]
    assert [node.name for node in defs.resolve_job_def("metrics_checks").nodes] == ["metrics_daily_checks"]


def test_fact_tables_have_a_freshness_policy_and_the_instances_watch_it() -> None:
    assert {key for key in METRICS if SPECS[key].freshness_policy} == {f"metrics/{name}" for name, t in TABLES.items() if t.is_fact}
    for name in ("dagster.yaml", "deploy/dagster.yaml"):
        assert yaml.safe_load((Path(__file__).parent.parent / name).read_text())["freshness"] == {"enabled": True}


def test_every_column_but_identities_has_a_lineage_that_leads_to_the_landing_zone() -> None:
    schemas = {
        key: {column.name for column in spec.metadata["dagster/column_schema"].columns}
        for key, spec in SPECS.items()
        if key in METRICS and "dagster/column_schema" in spec.metadata
    }
    for key in sorted(schemas.keys() - {"metrics/landing_zone"}):
        lineage = SPECS[key].metadata["dagster/column_lineage"].deps_by_column
        made_here = {"id", "created_dt"} | ({"force_write"} if key == "metrics/core_headline" else set())
        assert set(lineage) == schemas[key] - made_here, key
        for deps in lineage.values():
            assert all(dep.column_name in schemas[dep.asset_key.to_user_string()] for dep in deps)


def test_lineage_runs_from_the_landing_zone_to_every_table() -> None:
    graph = defs.resolve_asset_graph()
    for name in FILE_TYPES:
        assert graph.get(dg.AssetKey(["metrics", name])).parent_keys == {dg.AssetKey(["metrics", "landing_zone"])}
    for name, table in TABLES.items():
        ancestors = {key.path[-1] for key in graph.get_ancestor_asset_keys(dg.AssetKey(["metrics", name]))}
        assert ancestors >= {"landing_zone", *table.fed_by}
        assert not ancestors & (set(FILE_TYPES) - set(table.fed_by))


@pytest.mark.parametrize("name", TABLES)
def test_column_schema_is_what_a_query_under_the_public_name_returns(name: str, database: Database) -> None:
    metadata = SPECS[f"metrics/{name}"].metadata
    shown = metadata["dagster/column_schema"].columns
    assert all(column.description for column in shown)
    with database.connect() as connection:
        found = connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [f"public.{TABLES[name].view}"],
        ).fetchall()
        assert sorted((column.name, column.type) for column in shown) == sorted(found)
        assert connection.execute("SELECT to_regclass(%s) IS NOT NULL", [metadata["dagster/table_name"]]).fetchone() == (True,)


@pytest.mark.parametrize("model", MEDIA_TYPES)
def test_a_refresh_is_a_chain_of_assets_with_its_gates_before_the_promotion(model: str) -> None:
    names = ("upstream_snapshot", "staged_table", "staged_indexes", "search_index", "filtered_index", "promoted", "retired")
    keys = {f"catalog/{model}/{name}" for name in names} | ({"catalog/image/fixes"} if model == "image" else set())
    assert {key.to_user_string() for key in defs.resolve_job_def(f"catalog_{model}_refresh").asset_layer.selected_asset_keys} == keys
    assert {SPECS[key].partitions_def for key in keys} == {REFRESHES[model]}
    graph = defs.resolve_asset_graph()
    ancestors = {key.to_user_string() for key in graph.get_ancestor_asset_keys(dg.AssetKey(["catalog", model, "public_alias"]))}
    assert keys - {f"catalog/{model}/retired", "catalog/image/fixes"} <= ancestors
    assert {f"catalog/upstream/{table.upstream}" for table in MEDIA_TYPES[model].tables} <= ancestors
    gates = [spec for spec in graph.asset_check_keys if spec.asset_key.path == ["catalog", model, "search_index"]]
    assert {gate.name for gate in gates} == set(GATES)
    assert all(graph.get_check_spec(gate).blocking for gate in gates)


def test_today_is_a_partition_from_its_first_second_and_tomorrow_is_not() -> None:
    midnight = datetime(2026, 3, 29, 0, 0, 0, tzinfo=UTC)
    with dg.partition_loading_context(effective_dt=midnight):
        assert LANDING_DAYS.has_partition_key("2026-03-29")
        assert not LANDING_DAYS.has_partition_key("2026-03-30")


def test_runs_of_the_job_hold_the_slot_of_their_pipeline() -> None:
    assert METRICS_JOB.tags == {PIPELINE_TAG: "metrics", QUEUE_TAG: "metrics"}
    assert defs.resolve_job_def("metrics_load").executor_def is dg.in_process_executor


@pytest.mark.parametrize(("value", "status"), [(None, "STOPPED"), ("stopped", "STOPPED"), ("running", "RUNNING"), ("", "STOPPED")])
def test_sensors_run_by_default_only_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch, value: str | None, status: str) -> None:
    monkeypatch.delenv("INGESTION_SENSORS", raising=False)
    if value is not None:
        monkeypatch.setenv("INGESTION_SENSORS", value)
    sensors = landing_sensor("a_sensor", "metrics", zone, [LoadingJob(METRICS_JOB)]), sweep_sensor(PIPELINES["metrics"])
    assert [sensor.default_status.value for sensor in sensors] == [status, status]


def test_sensors_are_named_for_what_they_watch() -> None:
    names = {sensor.name for sensor in defs.get_repository_def().sensor_defs}
    assert names >= {"metrics_s3_sensor", "metrics_kinesis_sensor", "metrics_sweep_sensor"}
    assert all(re.fullmatch(r"[a-z0-9_]+_sensor", name) for name in names)


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(snapshot(), indent=2) + "\n")
    sys.stderr.write(f"{SNAPSHOT} written\n")
