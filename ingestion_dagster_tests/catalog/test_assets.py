"""A refresh under Dagster: what each asset tells, what a red gate keeps from running, and what one asset alone says that cannot be."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import dagster as dg
import orjson
import pytest

from ingestion_dagster.catalog import refreshes, steps
from ingestion_dagster.catalog.pipeline import refresh_job
from ingestion_dagster.catalog.places import Places
from ingestion_dagster.catalog.registry import MEDIA_TYPES, index_name
from ingestion_dagster.catalog.tables import NEXT
from ingestion_dagster.definitions import defs
from ingestion_dagster.engine import ledger
from ingestion_dagster.engine.dagster import PIPELINE_TAG
from ingestion_dagster.engine.datasets import pause_dataset, resume_dataset
from ingestion_dagster.engine.postgres import Connection, Database
from ingestion_dagster_tests.catalog import scene

IMAGE = MEDIA_TYPES["image"]
STEPS = ("upstream_snapshot", "staged_table", "fixes", "staged_indexes", "search_index", "filtered_index", "promoted", "retired")
COMMON = {
    "dagster/row_count", "dagster/partition_row_count", "loads_archived", "loads_errored", "rows_in", "rows_written", "rows_rejected",
    "bytes", "seconds", "refresh_state", "load_statuses",
}  # fmt: skip
INDEX = COMMON | {"dagster/uri", "documents_per_second", "retries"}
TOLD = {
    "upstream_snapshot": COMMON | {"snapshot_at", "tables", "by_provider"},
    "staged_table": COMMON | {"cleaned_rows", "fixes", "ids_kept", "ids_new"},
    "fixes": COMMON | {"cleaned_rows", "by_rule"},
    "staged_indexes": COMMON | {"indexes"},
    "search_index": INDEX,
    "filtered_index": INDEX,
}

Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def connection(places: Places) -> Iterator[Connection]:
    """To the ledger, of an installation with thirty images upstream."""
    with places.upstream.connect() as upstream:
        scene.upstream_tables(upstream)
        scene.put_upstream(upstream, "image", scene.rows(range(1, 31)))
    with places.ledger.connect() as connection:
        yield connection


@pytest.fixture
def run(connection: Connection, instance: dg.DagsterInstance) -> Run:
    """One run of the refresh of images with a partition that a person has added, narrowed to some assets: `run("autumn", "promoted")`."""

    def execute(suffix: str, *names: str) -> dg.ExecuteInProcessResult:
        instance.add_dynamic_partitions(refreshes.definition("image"), [suffix])
        return defs.resolve_job_def(refresh_job("image")).execute_in_process(
            instance=instance,
            partition_key=suffix,
            asset_selection=[dg.AssetKey(["catalog", "image", name]) for name in names] or None,
            tags={PIPELINE_TAG: "catalog"},
            raise_on_error=False,
        )

    return execute


def told(result: dg.ExecuteInProcessResult) -> dict[str, Mapping[str, Any]]:
    """Metadata values by asset."""
    found: dict[str, Mapping[str, Any]] = {}
    for event in result.get_asset_materialization_events():
        materialization = event.materialization
        assert materialization.partition == result.dagster_run.tags["dagster/partition"]
        found[materialization.asset_key.path[-1]] = {name: value.value for name, value in materialization.metadata.items()}
    return found


def judged(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {each.check_name: each for each in result.get_asset_check_evaluations()}


def why(result: dg.ExecuteInProcessResult) -> str:
    """What the first step that failed says."""
    assert not result.success
    for event in result.all_events:
        if event.is_step_failure:
            failure = event.step_failure_data.user_failure_data
            assert failure is not None, event.step_failure_data.error
            return str(failure.description)
    raise AssertionError("no step has failed")


def state(connection: Connection, suffix: str) -> tuple[str, str]:
    """Of a refresh and its load."""
    refresh = refreshes.get(connection, "image", suffix)
    (load,) = ledger.loads(connection, [refresh.load_id])
    return refresh.state, load.status.value


def test_a_partition_that_a_person_adds_becomes_a_refresh_and_each_asset_tells_its_counts(run: Run, connection: Connection) -> None:
    result = run("autumn")
    assert result.success
    found = told(result)
    assert {*found} == {*STEPS}
    for name, expected in TOLD.items():
        assert expected <= {*found[name]}, name
        rows = 0 if name == "fixes" else 30  # none of them is dirty
        assert (found[name]["dagster/row_count"], found[name]["rows_in"], found[name]["rows_rejected"]) == (rows, 30, 0), name
    assert next(iter(found["promoted"])) == "report", "it is what a person looks for"
    assert "Refresh `autumn` of `image`" in found["promoted"]["report"]
    assert (found["promoted"]["refresh_state"], found["promoted"]["alias"], found["promoted"]["loads_archived"]) == ("live", "image", 1)
    assert found["staged_table"]["ids_new"] == 30
    columns = {column.name: column for column in found["promoted"]["dagster/column_schema"].columns}
    assert columns == {column.name: column for column in found["staged_table"]["dagster/column_schema"].columns}
    assert (columns["identifier"].type, columns["identifier"].description) == ("uuid", "never null")
    gates = judged(result)
    assert len(gates) >= 11
    assert {name for name, each in gates.items() if not each.passed} == set()
    assert {each.metadata["refresh"].value for each in gates.values()} == {"autumn"}
    live = refreshes.live(connection, "image")
    assert live is not None
    assert (live.suffix, live.asked_by) == ("autumn", "by hand in Dagster")

    again = run("autumn")
    assert again.success
    assert told(again)["promoted"]["dagster/row_count"] == 30
    assert all(each.passed and each.metadata["judged"].value == "before; now it is live" for each in judged(again).values())


def test_a_red_gate_keeps_the_promotion_from_running_and_a_retry_judges_again(run: Run, places: Places, connection: Connection) -> None:
    assert run("first", *STEPS[:6]).success
    index = index_name("image", "first")
    with closing(places.search()) as engine, places.api.connect() as api:
        documents = scene.documents(api, IMAGE, NEXT)
        engine.delete_documents(index, [7])
        engine.refresh(index)
    refused = run("first")
    assert not refused.success
    assert {*told(refused)} == {*STEPS[:6]}
    assert {name for name, each in judged(refused).items() if not each.passed} >= {"document_count"}
    assert state(connection, "first") == ("filled", "errored")
    alone = run("first", "promoted")
    assert "first of image is refused: document_count: " in why(alone)
    assert "mend the cause, then 'ingestion retry catalog --dataset image', or 'ingestion catalog discard image'" in why(alone)
    assert refreshes.live(connection, "image") is None

    with closing(places.search()) as engine:
        engine.bulk(index, [(7, orjson.dumps(documents[7]))])
        engine.refresh(index)
    refresh = refreshes.get(connection, "image", "first")
    assert ledger.retry(connection, ledger.Scope("catalog", ids=frozenset({refresh.load_id}))).ready
    assert run("first").success
    assert state(connection, "first") == ("live", "archived")


def test_one_asset_that_cannot_be_made_alone_says_what_to_do(run: Run, places: Places, connection: Connection) -> None:
    for name in STEPS[3:]:
        assert "no refresh unknown of image: materialize upstream_snapshot" in why(run("unknown", name)), name
    assert "cannot end the name of an index" in why(run("Autumn!", *STEPS[:2]))
    assert run("one", *STEPS[:2]).success
    assert "one is copied: materialize staged_indexes first" in why(run("one", "search_index"))
    assert "one is copied: materialize search_index first" in why(run("one", "promoted"))
    assert "refresh one" in why(run("two", *STEPS[:2])), "one at a time"
    pause_dataset(connection, "catalog", "image", "figures under review")
    paused = why(run("one"))
    assert "image is paused (figures under review): 'ingestion resume catalog image'" in paused
    assert state(connection, "one") == ("copied", "ready")
    resume_dataset(connection, "catalog", "image")
    for suffix in ("one", "two", "three"):
        assert run(suffix).success, suffix
    for name in ("staged_table", "staged_indexes", "search_index", "promoted"):
        assert "refresh two of image is previous" in why(run("two", name))
        assert "'ingestion catalog rollback image' brings it back" in why(run("two", name))
    assert "refresh one of image is retired" in why(run("one", "promoted"))
    given_up = steps.begin(places, connection, IMAGE, "test", asked_by="test", suffix="four")
    steps.give_up(places, connection, given_up)
    assert "refresh four of image is discarded: it was given up; 'ingestion run" in why(run("four", "upstream_snapshot", "staged_table"))
    assert state(connection, "three") == ("live", "archived")


def test_a_gate_that_was_not_asked_is_shown_as_a_warning_and_not_as_a_pass(run: Run, instance: dg.DagsterInstance) -> None:
    assert run("one", *STEPS[:2]).success
    job = defs.resolve_job_def(refresh_job("image"))
    gates = next(node for node in job.graph.node_dict if node.endswith("gates"))
    result = job.execute_in_process(instance=instance, op_selection=[gates], partition_key="one", raise_on_error=False)
    assert result.success
    found = judged(result)
    assert {each.passed for each in found.values()} == {False}
    assert {each.severity for each in found.values()} == {dg.AssetCheckSeverity.WARN}
    assert {each.metadata["not judged"].value for each in found.values()} == {"it is copied; what is judged is a refresh that is filled"}


def test_what_a_database_says_of_a_row_is_not_shown(run: Run, upstream: Database, connection: Connection) -> None:
    """A unique violation quotes the value that is there twice."""
    with upstream.connect() as changing:
        changing.execute("ALTER TABLE image DROP CONSTRAINT IF EXISTS image_url_key")
        changing.execute("UPDATE image SET url = 'https://quoted.example/zyxwquark.jpg' WHERE foreign_identifier IN ('work-1', 'work-2')")
    result = run("twice")
    assert "duplicate_value" in why(result)
    shown = "\n".join(str(event) for event in result.all_events)
    assert "zyxwquark" not in shown
    assert "Key (" not in shown
    assert state(connection, "twice")[1] == "errored"
