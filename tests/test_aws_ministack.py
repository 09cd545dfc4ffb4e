"""The templates as stacks of ministack, which makes what moto skips (secrets, ECS, alarms), and updates stacks."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache
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


@dataclass(frozen=True)
class Cloud:
    """Clients of a running ministack, and a set of stacks in it."""

    url: str
    prefix: str = PREFIX

    def client(self, service: str) -> Any:
        return client(self.url, service)

    def create(self, name: str, given: dict[str, str]) -> None:
        parameters = ({"Prefix": self.prefix} if "Prefix" in template(name).get("Parameters", {}) else {}) | given
        self.client("cloudformation").create_stack(
            StackName=f"{self.prefix}-{name}", TemplateBody=body(name), Parameters=listed(parameters)
        )
        self.settle(name)

    def update(self, name: str, **changed: str) -> None:
        known = {entry["ParameterKey"] for entry in self.stack(name)["Parameters"]}
        kept = [{"ParameterKey": key, "UsePreviousValue": True} for key in known - set(changed)]
        self.client("cloudformation").update_stack(
            StackName=f"{self.prefix}-{name}", TemplateBody=body(name), Parameters=[*kept, *listed(changed)]
        )
        self.settle(name)

    def delete(self, name: str) -> None:
        cloudformation, stack = self.client("cloudformation"), self.stack(name)["StackId"]
        cloudformation.delete_stack(StackName=stack)

        def gone() -> bool:
            (found,) = cloudformation.describe_stacks(StackName=stack)["Stacks"]
            assert found["StackStatus"] != "DELETE_FAILED"
            return bool(found["StackStatus"] == "DELETE_COMPLETE")

        wait_until(gone, f"the stack {name} to be gone", 60)

    def stack(self, name: str) -> Any:
        (found,) = self.client("cloudformation").describe_stacks(StackName=f"{self.prefix}-{name}")["Stacks"]
        return found

    def settle(self, name: str) -> None:
        wait_until(lambda: "IN_PROGRESS" not in self.stack(name)["StackStatus"], f"the stack {name}", 60)
        events = self.client("cloudformation").describe_stack_events(StackName=f"{self.prefix}-{name}")["StackEvents"]
        failed = [event.get("ResourceStatusReason") for event in events if "FAILED" in event["ResourceStatus"]]
        assert self.stack(name)["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), failed

    def resources(self) -> dict[str, str]:
        """Id of each resource of all its stacks, by stack and logical name."""
        cloudformation = self.client("cloudformation")
        return {
            f"{name}.{found['LogicalResourceId']}": found["PhysicalResourceId"]
            for name in NAMES
            for found in cloudformation.describe_stack_resources(StackName=f"{self.prefix}-{name}")["StackResources"]
        }

    def output(self, name: str, key: str) -> str:
        (value,) = [o["OutputValue"] for o in self.stack(name)["Outputs"] if o["OutputKey"] == key]
        return str(value)


@cache
def client(url: str, service: str) -> Any:
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client(service, endpoint_url=url, region_name=REGION, **keys)


def listed(parameters: dict[str, str]) -> list[dict[str, str]]:
    return [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()]


def body(name: str) -> str:
    written = json.loads(json.dumps(template(name)))
    for key, resource in written["Resources"].items():
        if lacks(resource):
            written["Resources"][key] = STAND_IN | {part: resource[part] for part in resource if part == "Condition"}
    return json.dumps(written)


def lacks(resource: Any) -> bool:
    """Whether ministack can't make it; alarms on an expression are among these."""
    return resource["Type"] in MISSING or "Metrics" in resource.get("Properties", {})


@pytest.fixture(scope="module")
def ministack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
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


def create_all(cloud: Cloud, **further: dict[str, str]) -> None:
    """Creates the stacks of a set; `further` parameters are by stack."""
    domain = f"{cloud.prefix}.example.com"
    certificate = cloud.client("acm").request_certificate(DomainName=domain)["CertificateArn"]
    zone = cloud.client("route53").create_hosted_zone(Name=domain, CallerReference=domain)["HostedZone"]["Id"]
    keys = cloud.client("secretsmanager").create_secret(Name=f"{cloud.prefix}/api-keys", SecretString="f" * 64)["ARN"]
    public = {"HostedZoneId": zone.rpartition("/")[2], "CertificateArn": certificate}
    given = {
        "registry": public | {"HostName": f"mlflow.{domain}", "MlflowImage": f"{REGISTRY}/mlflow@{DIGEST}"},
        "balancer": public | {"HostName": f"api.{domain}"},
        "servers": {"ApiKeysSecretArn": keys, "Serving": f"/{cloud.prefix}/serving", "Image": "ami-12c6146b"},
        "github": {"Repository": "owner/name", "OwnerId": "1", "RepositoryId": "2"},
        "runner": {"Repository": "owner/name", "ConnectionArn": CONNECTION},
        "budget": {"Email": "costs@example.com"},
    }
    for name in NAMES:
        cloud.create(name, given.get(name, {}) | further.get(name, {}))


@pytest.fixture(scope="module")
def cloud(ministack: Cloud) -> Cloud:
    """With the first set of stacks, production."""
    create_all(ministack)
    return ministack


def test_all_stacks_are_created_and_updated(cloud: Cloud) -> None:
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


PROVIDER = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"
KINDS = (  # service, call, and where the answer has the items
    *(("ec2", f"describe_{kind}") for kind in ("vpcs", "subnets", "security_groups", "route_tables", "vpc_endpoints")),
    *(("ec2", "describe_launch_templates"), ("ecr", "describe_repositories"), ("s3", "list_buckets")),
    *(("secretsmanager", "list_secrets"), ("rds", "describe_db_instances"), ("rds", "describe_db_subnet_groups")),
    *(("ecs", "list_clusters"), ("ecs", "list_task_definitions"), ("elbv2", "describe_load_balancers")),
    *(("elbv2", "describe_target_groups"), ("autoscaling", "describe_auto_scaling_groups")),
    *(("autoscaling", "describe_policies"), ("cloudwatch", "describe_alarms"), ("cloudwatch", "list_dashboards")),
    *(
        ("logs", "describe_log_groups"),
        ("iam", "list_roles"),
        ("iam", "list_instance_profiles"),
        ("sns", "list_topics"),
    ),
    *(("codebuild", "list_projects"), ("ssm", "describe_parameters"), ("cloudformation", "list_exports")),
)


def account(cloud: Cloud) -> set[str]:
    """All that is in the account, as JSON."""
    found = set()
    for service, call in KINDS:
        for items in getattr(cloud.client(service), call)().values():
            entries = items if isinstance(items, list) else []
            found |= {f"{call} {json.dumps(item, default=str, sort_keys=True)}" for item in entries}
    return found


def granted(cloud: Cloud) -> set[str]:
    """What the policies of a set's roles name, as patterns, but for what all sets share."""
    iam, patterns = cloud.client("iam"), set[str]()
    for name, role in cloud.resources().items():
        if not name.endswith("Role"):
            continue
        for policy in iam.list_role_policies(RoleName=role)["PolicyNames"]:
            document = iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
            for statement in document["Statement"]:
                named = statement["Resource"]
                patterns |= {*(named if isinstance(named, list) else [named])}
    return {pattern for pattern in patterns if cloud.prefix in pattern}


@pytest.mark.fault("staging is updated or deleted in production's account", "production stays as it was")
def test_a_second_set_leaves_the_first_one_alone(cloud: Cloud) -> None:
    """Staging, whose prefix begins with that of production: in one account, with names and rights of its own."""
    staging, alone = replace(cloud, prefix=f"{PREFIX}-staging"), account(cloud)
    assert len(alone) > 100
    create_all(staging, network={"Addresses": "10.21"}, github={"Environment": "staging", "ProviderArn": PROVIDER})
    assert alone <= account(cloud)
    first, second = cloud.resources(), staging.resources()
    assert set(first) - set(second) == {"github.Provider"}  # an account can have only one
    assert not {*first.values()} & {*second.values()}
    for mine, others in ((cloud, staging), (staging, cloud)):
        own, foreign = granted(mine), granted(others)
        assert len(own) > 20
        theirs = [name for name in foreign for pattern in own if fnmatch(name, pattern)]
        assert theirs == [], f"roles of {mine.prefix} have rights on the set {others.prefix}"

    beside = account(cloud)
    staging.update("servers", MinServers="1", MaxServers="2")
    assert beside - account(cloud), "the update has changed nothing"
    assert alone <= account(cloud)

    for name in reversed(NAMES):
        staging.delete(name)
    kept = account(cloud) - alone
    assert alone <= account(cloud)
    assert {entry.split()[0] for entry in kept} == {"list_buckets", "describe_repositories", "list_secrets"}
    assert all(f"{PREFIX}-staging" in entry for entry in kept)
