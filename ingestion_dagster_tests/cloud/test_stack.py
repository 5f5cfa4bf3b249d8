"""The pipelines against what the template makes, each with the role of its tasks; and what moto makes of the template."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import dagster as dg
import pytest
import yaml
from dagster._core.launcher import LaunchRunContext
from dagster_aws.ecs import EcsRunLauncher

from ingestion_dagster import runs
from ingestion_dagster.definitions import defs
from ingestion_dagster.engine import landing, ledger, s3_store
from ingestion_dagster.engine.dagster import INGESTION
from ingestion_dagster.engine.embedded_postgres import EmbeddedServer
from ingestion_dagster.engine.ledger import Scope
from ingestion_dagster.engine.object_store import open_store
from ingestion_dagster.engine.postgres import Database
from ingestion_dagster.engine.whereabouts import RunSummary
from ingestion_dagster.metrics.sensors import metrics_kinesis_sensor
from ingestion_dagster.operations import leftovers, reconciliation
from ingestion_dagster.pipelines import PIPELINES
from ingestion_dagster.settings import Settings, current
from ingestion_dagster_tests.cloud import daemon_task
from ingestion_dagster_tests.cloud.calls import Call, is_allowed, listed
from ingestion_dagster_tests.cloud.daemon_task import LOCATIONS, network_of, run_of
from ingestion_dagster_tests.cloud.stack import ACCOUNT, EMAILS, REGION, ROOT, Stack, camel
from ingestion_dagster_tests.life_events import driver as life_events_driver
from ingestion_dagster_tests.life_events import scene
from ingestion_dagster_tests.life_events.stand_in import StandIn
from ingestion_dagster_tests.metrics.conftest import time_series_payload
from ingestion_dagster_tests.metrics.one_database import one_database

# Moto warns of each resource that it does not know; which these are is asserted.
pytestmark = pytest.mark.filterwarnings("ignore:Tried to parse")
stand_in_of_module = scene.stand_in_of_module
daemon = daemon_task.daemon

UNKNOWN_TO_MOTO = {
    "AWS::CloudWatch::Alarm",
    "AWS::EC2::SecurityGroupEgress",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
    "AWS::SecretsManager::Secret",
    "AWS::ServiceDiscovery::PrivateDnsNamespace",
    "AWS::ServiceDiscovery::Service",
}
PASSED_OVER = {"versioning": None, "notifications": None, "time to live": "DISABLED", "network mode": None, "task role": None}

As = Callable[[str], Settings]


@pytest.fixture(scope="module")
def database(server: EmbeddedServer) -> Iterator[Database]:
    """One migrated database for the tests of a module."""
    with one_database(server) as made:
        yield made


@pytest.fixture
def as_task_of(stack: Stack, database: Database, aws_environment: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[As]:
    """Makes this process the task of a pipeline: the stack's settings, the credentials of its role, and what only the owner knows.

    Dagster's instances are in memory: SQLite waits for the disk a lot.
    """
    aws_environment.setenv("DAGSTER_HOME", str(tmp_path))
    aws_environment.setattr(dg.DagsterInstance, "get", dg.DagsterInstance.ephemeral)

    def become(pipeline: str) -> Settings:
        given = stack.settings() | stack.credentials(role_of(pipeline))
        known = {
            "INGESTION_HOME": str(tmp_path),
            "INGESTION_DATABASE_URL": database.sqlalchemy_url,
            "INGESTION_CUBIC_METADATA_SECONDS": "0",
            "INGESTION_LIFE_EVENTS_HMAC_KEYS": life_events_driver.HMAC_KEYS,
            "INGESTION_LIFE_EVENTS_ENCRYPTION_KEYS": life_events_driver.ENCRYPTION_KEYS,
            "INGESTION_LIFE_EVENTS_EXPECTED_FILE": "off",
        }
        for name, value in (given | known).items():
            aws_environment.setenv(name, value)
        open_store.cache_clear()
        s3_store._session.cache_clear()
        return current()

    yield become
    s3_store._session.cache_clear()


def role_of(pipeline: str) -> str:
    return f"{camel(pipeline)}Role"


def run(pipeline: str, settings: Settings) -> RunSummary:
    """What `ingestion run` does."""
    return runs.run(PIPELINES[pipeline], settings, runs.Request())


def loaded(done: RunSummary) -> tuple[int, int]:
    """How many loads a run has loaded and refused."""
    return done.loads - done.errored, done.errored


def keys(stack: Stack, bucket: str) -> list[str]:
    """What stands in a bucket of the stack."""
    found = stack.client("s3").list_objects_v2(Bucket=stack.made[bucket]).get("Contents", [])
    return sorted(each["Key"] for each in found)


def put(stack: Stack, bucket: str, objects: Mapping[str, bytes]) -> None:
    """What a producer does."""
    for key, content in objects.items():
        stack.client("s3").put_object(Bucket=stack.made[bucket], Key=key, Body=content)


def of_its_own(stack: Stack, pipeline: str, environment: Mapping[str, str]) -> set[Call]:
    """What the pipeline has called; its role allows all of it, and no other pipeline's allows any but what all may do."""
    calls = stack.calls(environment)
    mine = stack.statements(role_of(pipeline))
    assert [call for call in sorted(calls) if not is_allowed(call, mine)] == []
    named = {call for call in calls if call.resource and not call.action.startswith("sns:")}
    assert {call.action for call in named} >= {"s3:GetObjectVersion", "s3:PutObject", "s3:DeleteObjectVersion"}
    for other in {*PIPELINES} - {pipeline}:
        assert [call for call in sorted(named) if is_allowed(call, stack.statements(role_of(other)))] == [], other
    return calls


def test_moto_makes_every_resource_of_a_type_that_it_knows(stack: Stack) -> None:
    assert {each["Type"] for name, each in stack.resources.items() if name not in stack.made} == UNKNOWN_TO_MOTO
    known = {name for name, each in stack.resources.items() if each["Type"] not in UNKNOWN_TO_MOTO}
    assert known == {*stack.made}


def test_what_moto_passes_over_is_what_the_test_has_put_in_place(stack: Stack) -> None:
    assert stack.passed_over == PASSED_OVER
    s3 = stack.client("s3")
    assert s3.get_bucket_versioning(Bucket=stack.made["MetricsLandingBucket"])["Status"] == "Enabled"


def test_alerts_go_to_the_addresses_of_the_parameter_and_to_who_else_subscribes(stack: Stack, as_task_of: As) -> None:
    settings = as_task_of("metrics")
    sqs, sns = stack.client("sqs"), stack.client("sns")
    topic = settings.sns_topic_arn
    asked = sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
    assert [each["Endpoint"] for each in asked if each["Protocol"] == "email"] == EMAILS
    box = sqs.create_queue(QueueName="box")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=box, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    bad = "RSV_healthcare_unknownSex_CTRY_E92000001_all_all_default.json"
    put(stack, "MetricsLandingBucket", {bad: (ROOT / "source_data" / "metrics" / "bad" / bad).read_bytes()})
    assert loaded(run("metrics", settings)) == (0, 1)
    [message] = sqs.receive_message(QueueUrl=box)["Messages"]
    assert "1 load errored" in json.loads(message["Body"])["Subject"]
    assert Call("sns:Publish", str(topic)) in of_its_own(stack, "metrics", os.environ)


def test_metric_files_are_loaded_moved_replayed_and_booted(stack: Stack, as_task_of: As, database: Database, tmp_path: Path) -> None:
    settings = as_task_of("metrics")
    good = json.dumps(time_series_payload()).encode()
    processed, archived = keys(stack, "MetricsProcessedBucket"), keys(stack, "MetricsArchiveBucket")
    put(stack, "MetricsLandingBucket", {"in a+b/é.json": good})
    assert (loaded(run("metrics", settings)), keys(stack, "MetricsLandingBucket")) == ((1, 0), [])
    assert {*keys(stack, "MetricsProcessedBucket")} - {*processed} == {"processed/in a+b/é.json"}
    archived_now = keys(stack, "MetricsArchiveBucket")
    assert len(archived_now) == len(archived) + 1
    with database.connect() as connection:
        ledger.replay(connection, Scope("metrics"))
        ledger.retry(connection, Scope("metrics"))
    run("metrics", settings)
    assert keys(stack, "MetricsArchiveBucket") == archived_now
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot" / "again.json").write_bytes(good)
    runs.run(PIPELINES["metrics"], settings, runs.Request(boot_from=tmp_path / "boot"))
    of_its_own(stack, "metrics", os.environ)


def test_operations_may_finish_compare_and_tidy_up_what_dead_runs_have_left(stack: Stack, as_task_of: As, database: Database) -> None:
    put(stack, "MetricsLandingBucket", {"left.json": json.dumps(time_series_payload(stratum="left")).encode()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_store.S3Store, "remove", lambda store, obj: False)
        run("metrics", as_task_of("metrics"))
    assert keys(stack, "MetricsLandingBucket") == ["left.json"]
    settings = as_task_of("operations")
    with database.connect() as connection:
        landing.discover(connection, PIPELINES["metrics"].zone(settings), datetime.now(UTC))
        PIPELINES["metrics"].sweep(connection, settings)
        for name in ("metrics", "cubic", "life_events"):
            assert reconciliation.reconcile(connection, PIPELINES[name], settings, "nightly").gone_ids == ()
            leftovers.clear(connection, PIPELINES[name], settings, datetime.now(UTC))
    assert keys(stack, "MetricsLandingBucket") == []
    mine, calls = stack.statements("OperationsRole"), stack.calls(os.environ)
    assert [call for call in sorted(calls) if not is_allowed(call, mine)] == []
    assert "s3:ListBucketVersions" in {call.action for call in calls}


def test_records_of_the_stream_become_metric_files(stack: Stack, as_task_of: As) -> None:
    settings = as_task_of("metrics")
    record = json.dumps({"name": "in/streamed.json", "data": time_series_payload(stratum="streamed")})
    stack.client("kinesis").put_record(StreamARN=settings.metrics_kinesis_stream, Data=record, PartitionKey="any")
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(
            instance=instance,
            repository_def=defs.get_repository_def(),
            resources={"ingestion": INGESTION},
            sensor_name=metrics_kinesis_sensor.name,
        )
        assert metrics_kinesis_sensor.evaluate_tick(context).run_requests
    assert keys(stack, "MetricsLandingBucket") == ["streamed.json"]
    assert loaded(run("metrics", settings)) == (1, 0)
    assert "kinesis:GetRecords" in {call.action for call in of_its_own(stack, "metrics", os.environ)}


def test_cubic_files_become_parquet_current_tables_and_a_catalogue(stack: Stack, as_task_of: As) -> None:
    settings = as_task_of("cubic")
    good = ROOT / "source_data" / "cubic" / "good"
    files = [path for folder in ("ods_qlik/EDW.TRANSFER_SLIP", "dmap/device_event") for path in (good / "cubic" / folder).iterdir()]
    put(stack, "CubicLandingBucket", {path.relative_to(good).as_posix(): path.read_bytes() for path in files})
    assert loaded(run("cubic", settings)) == (2, 0)
    assert (keys(stack, "CubicLandingBucket"), len(keys(stack, "CubicArchiveBucket"))) == ([], len(files))
    published = keys(stack, "CubicSpringboardBucket")
    assert {key.split("/")[0] for key in published} == {"current", "springboard"}
    tables = stack.client("glue").get_tables(DatabaseName="cubic_current")["TableList"]
    assert tables
    of_its_own(stack, "cubic", os.environ)


def test_life_events_are_kept_in_the_table_until_they_are_consumed(
    stack: Stack, as_task_of: As, stand_in_of_module: StandIn, aws_environment: pytest.MonkeyPatch
) -> None:
    as_task_of("life_events")
    stand_in_of_module.forget()
    scene.set_platform(aws_environment, stand_in_of_module.url)
    put(stack, "LifeEventsLandingBucket", {"a.xml": scene.file_of(1, 2, 3), "b.xml": scene.file_of(scene.bad(4), count=2)})
    assert loaded(run("life_events", current())) == (1, 1)
    assert keys(stack, "LifeEventsLandingBucket") == []
    assert len(keys(stack, "LifeEventsQuarantineBucket")) == 2
    items = stack.client("dynamodb").scan(TableName=stack.made["LifeEventsTable"])["Items"]
    assert len(items) == 3
    ttl = stack.client("dynamodb").describe_time_to_live(TableName=stack.made["LifeEventsTable"])["TimeToLiveDescription"]
    assert ttl["AttributeName"] in items[0], "the table expires by an attribute that its items do not have"
    of_its_own(stack, "life_events", os.environ)


@pytest.mark.parametrize("pipeline", ["metrics", "cubic", "life_events"])
def test_s3_tells_the_queue_of_a_new_object(stack: Stack, pipeline: str) -> None:
    """Moto tells without the object's version, without `s3:TestEvent` at first, and without asking the queue's policy."""
    name = camel(pipeline)
    queue = stack.settings()[f"INGESTION_{pipeline.upper()}_QUEUE_URL"]
    sqs = stack.client("sqs")
    sqs.purge_queue(QueueUrl=queue)
    put(stack, f"{name}LandingBucket", {"told/a b+ü.json": b"{}"})
    [message] = sqs.receive_message(QueueUrl=queue)["Messages"]
    [record] = json.loads(message["Body"])["Records"]
    assert (record["eventName"], unquote_plus(record["s3"]["object"]["key"])) == ("ObjectCreated:Put", "told/a b+ü.json")
    stack.client("s3").delete_object(Bucket=stack.made[f"{name}LandingBucket"], Key="told/a b+ü.json")


def test_a_run_becomes_a_task_of_its_pipelines_definition_in_the_daemons_network(
    stack: Stack, daemon: dict[str, Any], tmp_path: Path
) -> None:
    ecs = stack.client("ecs")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert isinstance(instance.run_launcher, EcsRunLauncher)
        for location in LOCATIONS:
            run = run_of(instance, stack, location)
            instance.run_launcher.launch_run(LaunchRunContext(run, None))
            launched = instance.get_run_by_id(run.run_id)
            assert launched is not None
            [task] = ecs.describe_tasks(cluster=stack.name, tasks=[launched.tags["ecs/task_arn"]])["tasks"]
            definition = ecs.describe_task_definition(taskDefinition=task["taskDefinitionArn"])["taskDefinition"]
            assert definition["family"] == f"{stack.name}-{location.replace('_', '-')}"
            assert definition["taskRoleArn"] == stack.client("iam").get_role(RoleName=stack.made[role_of(location)])["Role"]["Arn"]
            [override] = task["overrides"]["containerOverrides"]
            assert override["command"][:3] == ["dagster", "api", "execute_run"]
            assert [each["name"] for each in definition["containerDefinitions"]] == [override["name"]]
            assert network_of(task) == network_of(daemon)
            assert instance.run_launcher.check_run_worker_health(launched).status.value == "RUNNING"
            assert instance.run_launcher.terminate(run.run_id)
    statements = stack.statements("DaemonRole")
    calls = stack.calls(os.environ)
    assert {"ecs:RunTask", "ecs:StopTask", "ec2:DescribeNetworkInterfaces"} <= {call.action for call in calls}
    assert [call for call in sorted(calls) if not is_allowed(call, statements)] == []


TAGS = {"Project", "Environment", "Pipeline", "PersonalData"}
UNTAGGED = {
    "AWS::EC2::SecurityGroupEgress",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::S3::BucketPolicy",
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
}
WITHOUT_RESOURCES = {"ecr:GetAuthorizationToken", "ec2:DescribeNetworkInterfaces", "ecs:DescribeTaskDefinition"}


def test_everything_that_can_be_tagged_is(stack: Stack) -> None:
    for name, each in stack.resources.items():
        if each["Type"] not in UNTAGGED:
            assert {tag["Key"] for tag in each["Properties"]["Tags"]} == TAGS, name


def test_everything_that_keeps_data_is_private_and_under_a_key_of_ours(stack: Stack) -> None:
    keys_of_ours = {f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{stack.made[name]}" for name in ("DataKey", "PersonalDataKey")}
    policies = {each["Bucket"]: each["PolicyDocument"]["Statement"][0] for each in stack.of_type("AWS::S3::BucketPolicy").values()}
    for name, bucket in stack.of_type("AWS::S3::Bucket").items():
        assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}, name
        [rule] = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        of_s3 = name == "AccessLogsBucket"  # S3 can write its access logs under no other
        assert of_s3 or rule["ServerSideEncryptionByDefault"]["KMSMasterKeyID"] in keys_of_ours, name
        denied = policies[bucket["BucketName"]]
        assert (denied["Effect"], denied["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}}), name
    used = [queue["KmsMasterKeyId"] for queue in stack.of_type("AWS::SQS::Queue").values()]
    used += [topic["KmsMasterKeyId"] for topic in stack.of_type("AWS::SNS::Topic").values()]
    used += [stream["StreamEncryption"]["KeyId"] for stream in stack.of_type("AWS::Kinesis::Stream").values()]
    used += [table["SSESpecification"]["KMSMasterKeyId"] for table in stack.of_type("AWS::DynamoDB::Table").values()]
    used += [group["KmsKeyId"] for group in stack.of_type("AWS::Logs::LogGroup").values()]
    used += [secret["KmsKeyId"] for secret in stack.of_type("AWS::SecretsManager::Secret").values()]
    assert set(used) <= keys_of_ours
    for name, task in stack.of_type("AWS::ECS::TaskDefinition").items():
        [container] = task["ContainerDefinitions"]
        assert container["ReadonlyRootFilesystem"], name
    for name, service in stack.of_type("AWS::ECS::Service").items():
        assert service["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "DISABLED", name


def test_no_role_may_do_anything_at_all_or_to_anything_at_all(stack: Stack) -> None:
    for role in stack.of_type("AWS::IAM::Role"):
        for statement in stack.statements(role):
            assert not any("*" in action for action in listed(statement["Action"])), role
            if "*" in listed(statement["Resource"]):
                assert set(listed(statement["Action"])) <= WITHOUT_RESOURCES, role


def test_tasks_are_given_settings_that_there_are_as_the_outputs_have_them(stack: Stack) -> None:
    told = stack.settings()
    given: dict[str, set[str]] = {}
    for name, task in stack.of_type("AWS::ECS::TaskDefinition").items():
        [container] = task["ContainerDefinitions"]
        variables = stack.environment(name) | dict.fromkeys((each["Name"] for each in container["Secrets"]), "")
        for variable, value in variables.items():
            given.setdefault(variable, set()).add(value)
    settings = {f"INGESTION_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in given if name.startswith("INGESTION_")} <= settings
    assert {name: {value} for name, value in told.items()} == {name: given[name] for name in told}


def test_the_template_has_a_code_server_for_each_of_the_workspace(stack: Stack) -> None:
    servers = [each["grpc_server"] for each in yaml.safe_load((ROOT / "deploy" / "workspace.yaml").read_text())["load_from"]]
    served = {
        (
            alias["DnsName"],
            alias["Port"],
            stack.resources[f"{camel(alias['DnsName'])}Task"]["Properties"]["ContainerDefinitions"][0]["Command"][-1],
        )
        for service in stack.of_type("AWS::ECS::Service").values()
        for each in service.get("ServiceConnectConfiguration", {}).get("Services", [])
        for alias in each["ClientAliases"]
    }
    assert served == {(each["host"], each["port"], f"ingestion_dagster.{each['location_name']}.definitions") for each in servers}
    assert {each["location_name"] for each in servers} == {*LOCATIONS}
