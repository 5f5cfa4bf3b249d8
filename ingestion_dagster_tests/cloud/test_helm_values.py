"""deploy/helm-values.yaml means what deploy/dagster.yaml and deploy/workspace.yaml mean: the same locations, the same limits."""

from typing import Any

import pytest
import yaml

from ingestion_dagster_tests.cloud.stack import ROOT

OF_THE_CHART = {"storage", "compute_logs", "telemetry"}
"""What the chart writes from values of its own, and of which a file may have no second one."""


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / "deploy" / name).read_text())


@pytest.fixture(scope="module")
def values() -> Any:
    return read("helm-values.yaml")


def test_the_instance_is_that_of_dagster_yaml(values: Any) -> None:
    instance = read("dagster.yaml")
    assert values["additionalInstanceConfig"] == {name: value for name, value in instance.items() if name not in OF_THE_CHART}
    daemon = values["dagsterDaemon"]
    twice = [daemon["runCoordinator"]["enabled"], daemon["runMonitoring"]["enabled"], daemon["runRetries"]["enabled"]]
    twice += [daemon["sensors"]["useThreads"], values["retention"]["enabled"]]
    assert not any(twice), "the chart would write a key a second time"
    assert "pythonLogs" not in values
    assert "concurrency" not in values
    assert values["telemetry"] == instance["telemetry"]
    logs, told = instance["compute_logs"]["config"], values["computeLogManager"]["config"]["s3ComputeLogManager"]
    assert (told["prefix"], told["uploadInterval"], told["skipEmptyFiles"]) == (
        logs["prefix"],
        logs["upload_interval"],
        logs["skip_empty_files"],
    )
    assert values["postgresql"]["postgresqlScheme"] == instance["storage"]["postgres"]["postgres_db"]["scheme"]


def test_there_is_a_deployment_for_each_code_server_of_the_workspace(values: Any) -> None:
    servers = [each["grpc_server"] for each in read("workspace.yaml")["load_from"]]
    deployments = {each["name"].replace("-", "_"): each for each in values["dagster-user-deployments"]["deployments"]}
    assert set(deployments) == {server["location_name"] for server in servers}
    for server in servers:
        deployment = deployments[server["location_name"]]
        assert deployment["port"] == server["port"]
        assert deployment["dagsterApiGrpcArgs"] == ["-m", f"ingestion_dagster.{server['location_name']}.definitions"]


def test_no_two_pipelines_have_the_same_role_or_secret(values: Any) -> None:
    deployments = values["dagster-user-deployments"]["deployments"]
    roles = {each["serviceAccount"]["annotations"]["eks.amazonaws.com/role-arn"] for each in deployments}
    assert len(roles) == len(deployments)
    of_one = [each["name"] for deployment in deployments for each in deployment["envSecrets"] if each["name"] != "ingestion-database"]
    assert len(set(of_one)) == len(deployments)
    assert values["dagsterWebserver"]["enableReadOnly"]
    assert not values["ingress"]["enabled"]
