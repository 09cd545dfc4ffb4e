"""AWS on this machine: the CloudFormation templates, parsed, and as stacks created by moto."""

import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import moto.elbv2.models
import pytest
from cfnlint.decode import decode
from moto import mock_aws
from projects import REPOSITORY

from credit_risk.contract import CONTRACT

AWS = REPOSITORY / "7.deploy" / "aws"
NAMES = (
    "network",
    "images",
    "storage",
    "registry",
    "balancer",
    "servers",
    "github",
    "runner",
    "budget",
)  # in the order of creation
PREFIX = CONTRACT.problem.name
ACCOUNT, REGION = "123456789012", "us-east-1"
DIGEST = "sha256:" + "0" * 64
CONNECTION = f"arn:aws:codeconnections:{REGION}:{ACCOUNT}:connection/c"
REGISTRY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"

# References to resources that moto can't create (secrets, alarms, CodeDeploy), and their values.
REFERENCES = {
    "storage": {
        f"Value: !Ref {name}Secret": f"Value: arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name.lower()}-AbCdEf"
        for name in ("Database", "Admin", "Pipeline", "Service", "Session")
    }
    | {"Value: !GetAtt Database.Endpoint.Address": "Value: database.example.com"},
    "runner": {'!Sub "codebuild-${Runner}"': f"codebuild-{PREFIX}-runner"},
    "balancer": {
        f"Value: !Ref {alarm}Alarm\n": f"Value: {PREFIX}-balancer-{alarm}\n"
        for alarm in ("Failures", "BlueFailures", "BlueSlow", "GreenFailures", "GreenSlow")
    },
    "servers": {"Value: !Ref Application": f"Value: {PREFIX}-servers"},
}


def template(name: str) -> Any:
    """A template, with functions as {"Ref": …} and {"Fn::…": …}."""
    parsed, problems = decode(str(AWS / f"{name}.yaml"))
    assert not problems
    return parsed


def resources(kind: str, *names: str) -> Iterator[tuple[str, Any]]:
    """Resources of a type: name (`template.resource`) and properties."""
    for name in names or NAMES:
        for key, resource in template(name)["Resources"].items():
            if resource["Type"] == kind:
                yield f"{name}.{key}", resource.get("Properties", {})


def only(kind: str, *names: str) -> Any:
    """Properties of the only resource of a type."""
    ((_, properties),) = resources(kind, *names)
    return properties


@contextmanager
def cloud(**parameters: str) -> Iterator[dict[str, dict[str, str]]]:
    """All stacks in moto; gives their outputs. Parameters are for the servers."""
    with pytest.MonkeyPatch.context() as patch, mock_aws(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Tried to parse AWS::")  # types unknown to moto, see test_aws.py
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        _complete_moto(patch)
        certificate = boto3.client("acm").request_certificate(DomainName="example.com")["CertificateArn"]
        zone = boto3.client("route53").create_hosted_zone(Name="example.com", CallerReference="once")["HostedZone"]
        public = {"HostedZoneId": zone["Id"].rpartition("/")[2], "CertificateArn": certificate}
        keys = boto3.client("secretsmanager").create_secret(Name="api-keys", SecretString="f" * 64)["ARN"]
        given = {
            "registry": public | {"HostName": "mlflow.example.com", "MlflowImage": f"{REGISTRY}/mlflow@{DIGEST}"},
            "balancer": public | {"HostName": "api.example.com"},
            "servers": {"ApiKeysSecretArn": keys, "Serving": f"/{PREFIX}/serving", "Image": "ami-12c6146b"}
            | parameters,
            "github": {"Repository": "owner/name", "OwnerId": "1", "RepositoryId": "2"},
            "runner": {"Repository": "owner/name", "ConnectionArn": CONNECTION},
            "budget": {"Email": "costs@example.com"},
        }
        yield {name: _create(name, given.get(name, {})) for name in NAMES}


def text(name: str) -> str:
    """A template as text, without the references that moto lacks."""
    found = (AWS / f"{name}.yaml").read_text()
    for old, new in REFERENCES.get(name, {}).items():
        assert old in found
        found = found.replace(old, new)
    return found


def _create(name: str, parameters: dict[str, str]) -> dict[str, str]:
    if "  Prefix: " in text(name):
        parameters = {"Prefix": PREFIX} | parameters
    client, stack = boto3.client("cloudformation"), f"{PREFIX}-{name}"
    client.create_stack(
        StackName=stack,
        TemplateBody=text(name),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    (made,) = client.describe_stacks(StackName=stack)["Stacks"]
    assert made["StackStatus"] == "CREATE_COMPLETE"
    return {output["OutputKey"]: output["OutputValue"] for output in made.get("Outputs", [])}


def _complete_moto(patch: pytest.MonkeyPatch) -> None:
    """Adds attributes of load balancers and target groups that moto lacks."""
    known = moto.elbv2.models.FakeLoadBalancer.get_cfn_attribute

    def of_balancer(self: Any, name: str) -> Any:
        full = "app/" + "/".join(self.arn.split("/")[-2:])
        missing = {"LoadBalancerFullName": full, "CanonicalHostedZoneID": "Z0"}
        return missing[name] if name in missing else known(self, name)

    def of_target(self: Any, name: str) -> Any:
        full = self.arn.rpartition(":")[2]
        return {"TargetGroupName": str(self.name), "TargetGroupFullName": full}[name]

    patch.setattr(moto.elbv2.models.FakeLoadBalancer, "get_cfn_attribute", of_balancer)
    patch.setattr(moto.elbv2.models.FakeTargetGroup, "get_cfn_attribute", of_target, raising=False)


class Rendering:
    """The functions of CloudFormation that conditions and names need; other references stay as they are."""

    def __init__(self, name: str, given: dict[str, str]) -> None:
        written = template(name)
        defaults = {key: parameter.get("Default") for key, parameter in written.get("Parameters", {}).items()}
        self.known, self.conditions = defaults | given, written.get("Conditions", {})
        self.functions: dict[str, Callable[[Any], Any]] = {
            "Ref": lambda name: self.known.get(name, {"Ref": name}),
            "Fn::Equals": lambda pair: self.render(pair[0]) == self.render(pair[1]),
            "Fn::Not": lambda one: not self.render(one[0]),
            "Fn::If": lambda choice: self.render(choice[1 if self.render(self.conditions[choice[0]]) else 2]),
            "Fn::Split": lambda parts: self.render(parts[1]).split(parts[0]),
            "Fn::Select": lambda chosen: self.render(chosen[1])[int(chosen[0])],
            "Fn::Sub": self.substitute,
        }

    def render(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.render(item) for item in value]
        if not isinstance(value, dict):
            return value
        function = next(iter(value), "")
        if function in self.functions:
            return self.functions[function](value[function])
        return value if function.startswith("Fn::") else {str(key): self.render(item) for key, item in value.items()}

    def substitute(self, argument: Any) -> str:
        text, own = argument if isinstance(argument, list) else (argument, {})
        names = {key: value for key, value in (self.known | self.render(own)).items() if isinstance(value, str)}
        return re.sub(r"\$\{(\w+)\}", lambda match: names.get(match[1], match[0]), text)


def rendered(value: Any, name: str, given: dict[str, str]) -> Any:
    """A value of a template, for these parameters."""
    return Rendering(name, given).render(value)


def tool(name: str) -> str:
    """A program of the Python environment."""
    return str(Path(sys.executable).parent / name)
