"""deploy/cloudformation.yaml, deployed into moto; what moto passes over is put in place from the template itself."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import boto3
from moto.cloudformation.models import cloudformation_backends
from moto.cloudformation.parsing import clean_json
from moto.core.utils import pascal_to_camelcase, remap_nested_keys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.utilities.tagging_service import TaggingService
from werkzeug.serving import make_server

from ingestion_dagster_tests.cloud.calls import Call, Recorder, Statement

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "deploy" / "cloudformation.yaml"
REGION = "eu-west-2"
ACCOUNT = "123456789012"
NAME = "tried"
EMAILS = [f"{name}@example.org" for name in ("one", "two", "three", "four", "five")]
"""As many as the template takes: moto does not leave out of a list what a condition leaves out."""
_DIGEST = f"sha256:{'0' * 64}"


@dataclass
class Stack:
    """What was deployed, and the calls that were made of it."""

    url: str
    recorder: Recorder
    name: str
    resources: Mapping[str, Any]
    """The template's resources by logical id, with all references resolved as far as moto knows them."""
    made: Mapping[str, str]
    """Ids by logical id, of what moto has made."""
    passed_over: Mapping[str, Any]
    """What moto knew of properties before they were put in place."""
    outputs: dict[str, Any]
    """What `describe-stacks` answers."""

    def client(self, service: str) -> Any:
        """A client of somebody who may do everything."""
        return admin(self.url, service)

    def settings(self) -> dict[str, str]:
        """The variables that follow from the outputs, by the way that docs/cloud.md shows."""
        script = [sys.executable, str(ROOT / "tools" / "stack_settings.py")]
        answer = json.dumps(self.outputs, default=str)
        printed = subprocess.run(script, input=answer, capture_output=True, text=True, check=True).stdout
        return dict(line.split("=", 1) for line in printed.splitlines())

    def credentials(self, role: str) -> dict[str, str]:
        """The environment of a task that has this role (by logical id)."""
        arn = self.client("iam").get_role(RoleName=self.made[role])["Role"]["Arn"]
        given = self.client("sts").assume_role(RoleArn=arn, RoleSessionName=role)["Credentials"]
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": given["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": given["SecretAccessKey"],
            "AWS_SESSION_TOKEN": given["SessionToken"],
        }

    def statements(self, role: str) -> list[Statement]:
        """What the policies of a role say."""
        policies = self.resources[role]["Properties"]["Policies"]
        return [each for policy in policies for each in policy["PolicyDocument"]["Statement"] if each is not None]

    def environment(self, task: str) -> dict[str, str]:
        """Variables that a task (by logical id) is given in the open."""
        [container] = self.resources[task]["Properties"]["ContainerDefinitions"]
        return {each["Name"]: each["Value"] for each in container["Environment"]}

    def calls(self, environment: Mapping[str, str]) -> set[Call]:
        """What was called with these credentials."""
        return self.recorder.by.get(environment["AWS_ACCESS_KEY_ID"], set())

    def of_type(self, kind: str) -> dict[str, Any]:
        """Resolved properties of the resources of a type, by logical id."""
        return {name: each["Properties"] for name, each in self.resources.items() if each["Type"] == kind}


def admin(url: str, service: str) -> Any:
    """A client of somebody who may do everything."""
    session: Any = boto3.Session(aws_access_key_id="testing", aws_secret_access_key="testing", region_name=REGION)
    return session.client(service, endpoint_url=url)


def camel(name: str) -> str:
    """A name of ours as the template has it: LifeEvents."""
    return "".join(word.capitalize() for word in name.split("_"))


@contextmanager
def moto() -> Iterator[tuple[str, Recorder]]:
    """A server on loopback that keeps what it is asked."""
    application: Any = DomainDispatcherApplication(create_backend_app)
    recorder = Recorder(application, ACCOUNT)
    server = make_server("127.0.0.1", 0, recorder, threaded=True)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}", recorder
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def deployed() -> Iterator[Stack]:
    """The stack on a server of its own. What is in the account before - network, database, addresses - is made first."""
    with moto() as (url, recorder):

        def client(service: str) -> Any:
            return admin(url, service)

        cloudformation = client("cloudformation")
        with _tags_of_keys():
            cloudformation.create_stack(StackName=NAME, TemplateBody=TEMPLATE.read_text(), Parameters=_parameters(client))
        outputs = cloudformation.describe_stacks(StackName=NAME)
        [found] = outputs["Stacks"]
        assert found["StackStatus"] == "CREATE_COMPLETE"
        made = _made(cloudformation)
        stack = Stack(url, recorder, NAME, _resolved(found["StackId"], client("secretsmanager")), made, {}, outputs)
        stack.passed_over = _known_so_far(stack)
        _complete(stack)
        yield stack
        cloudformation.delete_stack(StackName=NAME)


@contextmanager
def _tags_of_keys() -> Iterator[None]:
    """Moto takes a key's tags from a template for those of a request, which KMS alone names otherwise, and falls over them."""
    tag = TaggingService.tag_resource

    def tag_resource(service: TaggingService, arn: str, tags: list[dict[str, str]] | None) -> None:
        tag(
            service,
            arn,
            [{service.key_name: each["Key"], service.value_name: each["Value"]} if "Key" in each else each for each in tags or ()],
        )

    with patch.object(TaggingService, "tag_resource", tag_resource):
        yield


def _parameters(client: Any) -> list[dict[str, str]]:
    ec2 = client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    ec2.modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": True})
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{n}.0/24", AvailabilityZone=f"{REGION}{zone}")["Subnet"]["SubnetId"]
        for n, zone in enumerate("ab")
    ]
    groups = {name: ec2.create_security_group(VpcId=vpc, GroupName=name, Description=name)["GroupId"] for name in ("proxy", "database")}
    client("ssm").put_parameter(Name="/ingestion/alert-emails", Type="StringList", Value=",".join(EMAILS))
    secret = client("secretsmanager").create_secret(Name="database", SecretString="{}")["ARN"]
    given = {
        "Name": NAME,
        "Environment": "staging",
        "VpcId": vpc,
        "SubnetIds": ",".join(subnets),
        "ProxySecurityGroupId": groups["proxy"],
        "DatabaseSecurityGroupId": groups["database"],
        "Image": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{NAME}@{_DIGEST}",
        "WebserverImage": f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/{NAME}-webserver@{_DIGEST}",
        "DatabaseHost": "database.internal",
        "DatabaseSecretArn": secret,
        "DatabaseInstance": "database",
        "AcquirerQueueArns": f"arn:aws:sqs:{REGION}:999999999999:acquirer",
    }
    return [{"ParameterKey": name, "ParameterValue": value} for name, value in given.items()]


def _resolved(stack_id: str, secrets: Any) -> dict[str, Any]:
    """Moto's own resolution of the template: it runs in this process. Secrets, which it does not make, are made for it to name them."""
    resources = cloudformation_backends[ACCOUNT][REGION].stacks[stack_id].resource_map
    for name, each in resources._resource_json_map.items():
        if each["Type"] == "AWS::SecretsManager::Secret":
            asked = clean_json(each["Properties"], resources)
            arn = secrets.create_secret(Name=asked["Name"], SecretString=asked.get("SecretString", "{}"))["ARN"]
            resources._parsed_resources[name] = SimpleNamespace(physical_resource_id=arn, delete=lambda *_: None)
    return {name: clean_json(each, resources) for name, each in resources._resource_json_map.items()}


def _made(cloudformation: Any) -> dict[str, str]:
    pages = cloudformation.get_paginator("list_stack_resources").paginate(StackName=NAME)
    found = [each for page in pages for each in page["StackResourceSummaries"]]
    # Moto lists some of them twice, the second time without a name.
    return {each["LogicalResourceId"]: each.get("PhysicalResourceId", "") for each in found if each["LogicalResourceId"]}


def _known_so_far(stack: Stack) -> dict[str, Any]:
    s3, ecs = stack.client("s3"), stack.client("ecs")
    bucket = stack.made["MetricsLandingBucket"]
    time_to_live = stack.client("dynamodb").describe_time_to_live(TableName=stack.made["LifeEventsTable"])["TimeToLiveDescription"]
    task = ecs.describe_task_definition(taskDefinition=stack.made["MetricsTask"])["taskDefinition"]
    return {
        "versioning": s3.get_bucket_versioning(Bucket=bucket).get("Status"),
        "notifications": s3.get_bucket_notification_configuration(Bucket=bucket).get("QueueConfigurations"),
        "time to live": time_to_live["TimeToLiveStatus"],
        "network mode": task.get("networkMode") if task.get("networkMode") == "awsvpc" else None,
        "task role": task.get("taskRoleArn"),
    }


def _complete(stack: Stack) -> None:
    """Put in place what moto passes over and the pipelines or the launcher need, as the template has it."""
    s3, ecs = stack.client("s3"), stack.client("ecs")
    for bucket in stack.of_type("AWS::S3::Bucket").values():
        name = bucket["BucketName"]
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration=bucket["VersioningConfiguration"])
        s3.put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=bucket["PublicAccessBlockConfiguration"])
        if notifications := bucket.get("NotificationConfiguration"):
            queues = [{"QueueArn": each["Queue"], "Events": [each["Event"]]} for each in notifications["QueueConfigurations"]]
            s3.put_bucket_notification_configuration(Bucket=name, NotificationConfiguration={"QueueConfigurations": queues})
    for table in stack.of_type("AWS::DynamoDB::Table").values():
        stack.client("dynamodb").update_time_to_live(TableName=table["TableName"], TimeToLiveSpecification=table["TimeToLiveSpecification"])
    for task in stack.of_type("AWS::ECS::TaskDefinition").values():
        # Moto counts the memory of containers, which share that of their task here.
        containers = [each | {"Memory": int(task["Memory"])} for each in task["ContainerDefinitions"]]
        known = {name: value for name, value in task.items() if name != "Tags"} | {"ContainerDefinitions": containers}
        ecs.register_task_definition(**remap_nested_keys(known, pascal_to_camelcase))
