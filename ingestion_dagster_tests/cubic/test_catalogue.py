"""The Glue catalogue: what a reader finds there after loads, new columns, crashes, and where Glue is not open to us."""

from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from ingestion_dagster.cubic import catalogue
from ingestion_dagster.cubic.catalogue import Published
from ingestion_dagster.cubic.columns import CHANGE_COLUMNS, Column
from ingestion_dagster.engine.errors import ConfigurationError, Transient
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import Settings
from ingestion_dagster.settings import current as current_settings
from ingestion_dagster_tests.cubic.lake import COLUMNS, FIRST, NAME, REGISTRY, TAP, TAP_CT, Lake, change
from ingestion_dagster_tests.engine.conftest import aws_environment, moto_server, new_bucket
from ingestion_dagster_tests.engine.processes import run_until_killed

__all__ = ["aws_environment", "moto_server", "new_bucket"]


@pytest.fixture
def bucket(new_bucket: Callable[..., str]) -> str:
    return new_bucket()


@pytest.fixture
def lake(database: Database, settings: Settings, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    monkeypatch.setenv("INGESTION_CUBIC_GLUE_DATABASES", f"springboard-{bucket}, current-{bucket}")
    monkeypatch.setenv("INGESTION_STORAGE_URL", f"s3://{bucket}/lake")
    with database.connect() as connection:
        made = Lake(connection, current_settings())
        made.schemas()
        yield made


def glue() -> Any:
    return boto3.client("glue", region_name="eu-west-2")


def sync(lake: Lake) -> Published:
    return catalogue.sync(lake.connection, lake.settings, REGISTRY)


def partitions(database: str, table: str) -> dict[tuple[str, ...], str]:
    pages = glue().get_paginator("get_partitions").paginate(DatabaseName=database, TableName=table)
    return {tuple(each["Values"]): each["StorageDescriptor"]["Location"] for page in pages for each in page["Partitions"]}


def columns(database: str, table: str) -> list[tuple[str, str]]:
    found = glue().get_table(DatabaseName=database, Name=table)["Table"]
    return [(each["Name"], each["Type"]) for each in found["StorageDescriptor"]["Columns"]]


def test_what_is_loaded_is_found_under_its_names(lake: Lake, bucket: str):
    lake.load(TAP, "LOAD00000001.csv.gz", [{"k1": 1, "k2": "a", "v": "x"}])
    lake.load(TAP_CT, "a.csv.gz", [change("U", 1, {"k1": 1, "k2": "a", "v": "y"})])
    lake.refresh()
    assert sync(lake) == Published(tables=5, partitions=4)
    springboard, current = f"springboard-{bucket}", f"current-{bucket}"
    assert columns(springboard, NAME) == [("k1", "bigint"), ("k2", "string"), ("v", "string")]
    assert columns(springboard, f"raw_{NAME}") == [("k1", "string"), ("k2", "string"), ("v", "string")]
    assert columns(springboard, f"{NAME}__ct")[:3] == [
        ("header__change_seq", "string"),
        ("header__change_oper", "string"),
        ("header__timestamp", "timestamp"),
    ]
    folder = f"s3://{bucket}/lake/cubic/springboard/cubic/ods_qlik/EDW.TAP/snapshot=20260101T060000Z/identifier=LOAD00000001.csv.gz/"
    assert partitions(springboard, NAME) == {("20260101T060000Z", "LOAD00000001.csv.gz"): folder}
    stored = boto3.client("s3").list_objects_v2(Bucket=bucket, Prefix=folder.removeprefix(f"s3://{bucket}/"))
    assert stored["KeyCount"] == 1
    table = glue().get_table(DatabaseName=current, Name=NAME)["Table"]
    assert table["Parameters"]["table_type"] == "DELTA"
    assert table["StorageDescriptor"]["Location"] == f"s3://{bucket}/lake/cubic/current/{NAME}"
    assert [each["Name"] for each in glue().get_table(DatabaseName=springboard, Name=NAME)["Table"]["PartitionKeys"]] == [
        "snapshot",
        "identifier",
    ]


def test_a_second_sync_asks_nobody(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    lake.load(TAP, "LOAD00000001.csv.gz", [{"k1": 1}])
    sync(lake)
    monkeypatch.setattr(catalogue, "_client", lambda: pytest.fail("Glue was asked"))
    assert sync(lake) == Published()


def test_more_partitions_than_one_request_takes(lake: Lake, bucket: str):
    lake.load(TAP, "LOAD00000001.csv.gz", [{"k1": 1}])
    for number in range(230):
        lake.commit(lake.enter(TAP_CT, f"{number}.csv.gz", snapshot=FIRST), rows=1)
    assert sync(lake).partitions == 2 * 231
    assert len(partitions(f"springboard-{bucket}", f"{NAME}__ct")) == 230


def test_a_column_that_is_added_is_published(lake: Lake, bucket: str):
    lake.load(TAP_CT, "a.csv.gz", [change("U", 1, {"k1": 1})])
    sync(lake)
    lake.schema(TAP_CT, (*CHANGE_COLUMNS, *COLUMNS, Column("fare", "decimal(10,2)"), Column("at", "time")))
    assert sync(lake) == Published(tables=2, partitions=0)
    assert columns(f"springboard-{bucket}", f"{NAME}__ct")[-2:] == [("fare", "decimal(10,2)"), ("at", "string")]


def test_a_table_without_snapshots_is_partitioned_by_file(lake: Lake, bucket: str):
    table = REGISTRY.tables["cubic__dmap__agg"]
    lake.schema(table, (Column("day", "date"), Column("identifier", "string")), ())
    lake.load(table, "agg_1.csv.gz", [{"day": None}], (Column("day", "date"),), snapshot=None)
    sync(lake)
    assert columns(f"springboard-{bucket}", "cubic__dmap__agg") == [("day", "date")]
    assert list(partitions(f"springboard-{bucket}", "cubic__dmap__agg")) == [("agg_1.csv.gz",)]


def test_without_databases_nothing_is_published(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("INGESTION_CUBIC_GLUE_DATABASES", "")
    monkeypatch.setattr(catalogue, "_client", lambda: pytest.fail("Glue was asked"))
    lake.settings = current_settings()
    lake.load(TAP, "LOAD00000001.csv.gz", [{"k1": 1}])
    assert sync(lake) == Published()


@pytest.mark.parametrize("names", ["a,b,c", "a,a", ",a"])
def test_databases_that_cannot_be_meant_are_a_mistake_of_setup(lake: Lake, monkeypatch: pytest.MonkeyPatch, names: str):
    monkeypatch.setenv("INGESTION_CUBIC_GLUE_DATABASES", names)
    with pytest.raises(ConfigurationError, match="GLUE_DATABASES"):
        catalogue.databases(current_settings())


@pytest.mark.parametrize(
    ("code", "kind"),
    [("AccessDeniedException", ConfigurationError), ("ThrottlingException", Transient), ("InternalServiceException", Transient)],
)
def test_what_glue_refuses_is_told_by_its_kind(lake: Lake, monkeypatch: pytest.MonkeyPatch, code: str, kind: type[Exception]):
    lake.load(TAP, "LOAD00000001.csv.gz", [{"k1": 1}])

    class Refusing:
        def create_database(self, **request: Any) -> None:
            raise ClientError({"Error": {"Code": code, "Message": "a secret"}}, "CreateDatabase")

    monkeypatch.setattr(catalogue, "_client", Refusing)
    with pytest.raises(kind, match=code) as told:
        sync(lake)
    assert "secret" not in str(told.value)


def test_glue_that_is_not_there_is_transient(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    lake.load(TAP, "LOAD00000001.csv.gz", [{"k1": 1}])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(Transient, match="catalogue_unavailable"):
        sync(lake)


CRASHING = """
from ingestion_dagster.cubic import catalogue
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.settings import current as settings
from ingestion_dagster_tests.cubic.lake import REGISTRY

with Database.at(settings().database_url).connect() as connection:
    catalogue.sync(connection, settings(), REGISTRY)
"""


KILLED_AT = ["cubic.catalogue.publish", "cubic.catalogue.partitions", "cubic.catalogue.published"]


@pytest.mark.parametrize("point", KILLED_AT)
def test_killed_in_between_a_sync_can_be_repeated(lake: Lake, bucket: str, point: str):
    lake.load(TAP, "LOAD00000001.csv.gz", [{"k1": 1}])
    run_until_killed(CRASHING, point)
    assert sync(lake).partitions == 2
    assert len(partitions(f"springboard-{bucket}", NAME)) == 1
    assert catalogue.missing(lake.connection, lake.settings, REGISTRY) == []
