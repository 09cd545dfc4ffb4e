"""The templates as stacks of ministack, which makes what moto skips (secrets, ECS, alarms) and updates stacks."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from clouds import CONNECTION, DIGEST, NAMES, PREFIX, REGION, REGISTRY, template, tool
from projects import wait_until

from credit_risk.project.host import free_port

pytestmark = [pytest.mark.containers, pytest.mark.timeout(240)]  # ministack needs an environment of its own

MISSING = {  # types that ministack lacks; something without properties stands for each, so that references work
    *("AWS::Budgets::Budget", "AWS::CodeDeploy::Application", "AWS::CodeDeploy::DeploymentGroup", "AWS::EC2::EIP"),
    *("AWS::EC2::FlowLog", "AWS::EC2::NatGateway", "AWS::EC2::SecurityGroupEgress", "AWS::IAM::OIDCProvider"),
    *("AWS::WAFv2::LoggingConfiguration", "AWS::WAFv2::WebACLAssociation"),
}
STAND_IN = {"Type": "AWS::CloudFormation::WaitConditionHandle"}


class Cloud:
    """Clients of a running ministack, and its stacks."""

    def __init__(self, url: str) -> None:
        self.url = url

    def client(self, service: str) -> Any:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client(service, endpoint_url=self.url, region_name=REGION, **keys)

    def create(self, name: str, given: dict[str, str]) -> None:
        parameters = ({"Prefix": PREFIX} if "Prefix" in template(name).get("Parameters", {}) else {}) | given
        self.client("cloudformation").create_stack(
            StackName=f"{PREFIX}-{name}", TemplateBody=body(name), Parameters=listed(parameters)
        )
        self.settle(name)

    def update(self, name: str, **changed: str) -> None:
        known = {entry["ParameterKey"] for entry in self.stack(name)["Parameters"]}
        kept = [{"ParameterKey": key, "UsePreviousValue": True} for key in known - set(changed)]
        self.client("cloudformation").update_stack(
            StackName=f"{PREFIX}-{name}", TemplateBody=body(name), Parameters=[*kept, *listed(changed)]
        )
        self.settle(name)

    def stack(self, name: str) -> Any:
        (found,) = self.client("cloudformation").describe_stacks(StackName=f"{PREFIX}-{name}")["Stacks"]
        return found

    def settle(self, name: str) -> None:
        wait_until(lambda: "IN_PROGRESS" not in self.stack(name)["StackStatus"], f"the stack {name}", 60)
        events = self.client("cloudformation").describe_stack_events(StackName=f"{PREFIX}-{name}")["StackEvents"]
        failed = [event.get("ResourceStatusReason") for event in events if "FAILED" in event["ResourceStatus"]]
        assert self.stack(name)["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), failed

    def output(self, name: str, key: str) -> str:
        (value,) = [o["OutputValue"] for o in self.stack(name)["Outputs"] if o["OutputKey"] == key]
        return str(value)


def listed(parameters: dict[str, str]) -> list[dict[str, str]]:
    return [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]


def body(name: str) -> str:
    written = json.loads(json.dumps(template(name)))
    resources = written["Resources"].items()
    written["Resources"] = {key: STAND_IN if lacks(value) else value for key, value in resources}
    return json.dumps(written)


def lacks(resource: Any) -> bool:
    """Whether ministack can't make it; alarms on an expression are among these."""
    return resource["Type"] in MISSING or "Metrics" in resource.get("Properties", {})


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    uv = tool("uv") if Path(tool("uv")).exists() else shutil.which("uv") or pytest.skip("uv is not installed")
    folder, port = tmp_path_factory.mktemp("ministack"), str(free_port())
    environment = os.environ | {"GATEWAY_PORT": port, "HOME": str(folder), "UV_CACHE_DIR": cache_of(uv)}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [uv, "tool", "run", "--from", "ministack==1.5.33", "ministack"],
            env=environment, cwd=folder, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        made = Cloud(f"http://127.0.0.1:{port}")

        def up() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                return requests.get(f"{made.url}/_ministack/health", timeout=2).ok
            except requests.ConnectionError:
                return False

        try:
            wait_until(up, "ministack", 60)
            yield made
        finally:
            process.terminate()
            process.wait(20)


def cache_of(uv: str) -> str:
    return subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()


def test_all_stacks_are_created_and_updated(cloud: Cloud) -> None:
    certificate = cloud.client("acm").request_certificate(DomainName="example.com")["CertificateArn"]
    zone = cloud.client("route53").create_hosted_zone(Name="example.com", CallerReference="once")["HostedZone"]["Id"]
    keys = cloud.client("secretsmanager").create_secret(Name="api-keys", SecretString="f" * 64)["ARN"]
    public = {"HostedZoneId": zone.rpartition("/")[2], "CertificateArn": certificate}
    given = {
        "registry": public | {"HostName": "mlflow.example.com", "MlflowImage": f"{REGISTRY}/mlflow@{DIGEST}"},
        "balancer": public | {"HostName": "api.example.com"},
        "servers": {"ApiKeysSecretArn": keys, "Serving": f"/{PREFIX}/serving", "Image": "ami-12c6146b"},
        "github": {"Repository": "owner/name", "OwnerId": "1", "RepositoryId": "2"},
        "runner": {"Repository": "owner/name", "ConnectionArn": CONNECTION},
        "budget": {"Email": "costs@example.com"},
    }
    for name in NAMES:
        cloud.create(name, given.get(name, {}))

    secrets = cloud.client("secretsmanager")
    made = {secrets.get_secret_value(SecretId=cloud.output("storage", f"{user}Secret"))["SecretString"]
            for user in ("Database", "Admin", "Pipeline", "Service", "Session")}  # fmt: skip
    assert {len(password) for password in made} == {40}
    assert len(made) == 5
    (cluster,) = cloud.client("ecs").list_clusters()["clusterArns"]
    assert len(cloud.client("ecs").list_services(cluster=cluster)["serviceArns"]) == 1

    def protected() -> bool:
        (database,) = cloud.client("rds").describe_db_instances()["DBInstances"]
        return str(database["DeletionProtection"]).lower() == "true"

    assert not protected()  # a failed creation can be rolled back
    cloud.update("storage", Protect="true")
    assert protected()

    def sizes() -> dict[str, tuple[int, int]]:
        groups = cloud.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        return {group["AutoScalingGroupName"]: (group["MinSize"], group["MaxSize"]) for group in groups}

    before = sizes()
    assert len(before) == 2  # blue and green
    cloud.update("servers", MinServers="4", MaxServers="20")  # the runbook's line
    assert set(sizes()) == set(before)
    assert {high for _, high in sizes().values()} == {20}
