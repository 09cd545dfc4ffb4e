"""The CloudFormation templates, as text and as stacks created by moto.

moto ignores the OIDC provider, scaling policies, alarms, the firewall, secrets, bucket policies and CodeDeploy, and
some properties (a bucket's versioning, a repository's scanning, a subnet's routes): these are checked in the template.
"""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import boto3
import pytest
import uvicorn
import yaml
from clouds import ACCOUNT, AWS, NAMES, PREFIX, cloud, only, rendered, resources, template, tool
from policy_sentry.querying.actions import get_action_data
from projects import REPOSITORY

from credit_risk.serving.middleware import HEALTH, INTERNAL

EVERYWHERE = {"0.0.0.0/0", "::/0"}
HOOKS = AWS / "hooks"


@pytest.fixture(scope="module")
def outputs() -> Iterator[dict[str, dict[str, str]]]:
    """The outputs of all stacks."""
    with cloud() as made:
        yield made


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def attributes(properties: Any, key: str) -> dict[str, Any]:
    return {item["Key"]: item["Value"] for item in properties[key]}


# --- static checks


@pytest.mark.integration  # takes several seconds
def test_cfn_lint() -> None:
    found = subprocess.run(
        [tool("cfn-lint"), *(AWS / f"{name}.yaml" for name in NAMES)], capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.containers  # slow: checkov needs an environment of its own
def test_checkov() -> None:
    command = [tool("uv"), "tool", "run", "--from", "checkov==3.3.30", "checkov"]
    if not Path(command[0]).exists():
        command[0] = shutil.which("uv") or pytest.skip("uv is not installed")
    config = ["--config-file", "7.deploy/aws/.checkov.yaml", "--output", "json"]
    found = subprocess.run([*command, *config], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    summary = json.loads(found.stdout)["summary"]
    assert summary["passed"] > 150
    assert summary["parsing_errors"] == 0


def test_each_suppression_has_a_reason() -> None:
    lines = (AWS / ".checkov.yaml").read_text().splitlines()
    skipped = [line for line in lines if re.match(r"\s+- CKV", line)]
    assert len(skipped) == len(yaml.safe_load("\n".join(lines))["skip-check"])
    assert all(len(line.partition("#")[2]) > 20 for line in skipped)
    for name in NAMES:
        for resource in template(name)["Resources"].values():
            for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", []):
                assert len(skip["comment"]) > 20


def test_imports_are_exported_by_an_earlier_stack() -> None:
    texts = {name: (AWS / f"{name}.yaml").read_text() for name in NAMES}
    exports = {
        f"{name}-{export}"
        for name, text in texts.items()
        for export in re.findall(r'Export: \{Name: !Sub "\$\{AWS::StackName\}-(\w+)"', text)
    }
    imports = {
        (importer, f"{name}-{export}")
        for importer, text in texts.items()
        for name, export in re.findall(r'ImportValue": !Sub "\$\{Prefix\}-(\w+)-(\w+)"', text)
    }
    assert len(imports) > 20
    for importer, wanted in imports:
        assert wanted in exports, f"{importer} imports {wanted}"
        assert NAMES.index(wanted.partition("-")[0]) < NAMES.index(importer)


# --- network access


def test_only_the_balancer_is_public() -> None:
    rules = [
        (name, rule["FromPort"], rule["ToPort"])
        for name, group in resources("AWS::EC2::SecurityGroup")
        for rule in group["SecurityGroupIngress"]
        if {str(rule.get("CidrIp")), str(rule.get("CidrIpv6"))} & EVERYWHERE or "Ref" in str(rule.get("CidrIp"))
    ]
    # 80 redirects to 443; 8443 is the test listener, for the addresses of a parameter.
    assert [rule for rule in rules if rule[0] == "balancer.BalancerGroup"] == [
        ("balancer.BalancerGroup", port, port) for port in (443, 80, 8443)
    ]
    assert {name for name, *_ in rules if not name.startswith("registry.")} == {"balancer.BalancerGroup"}
    assert not list(resources("AWS::EC2::SecurityGroupIngress"))


def test_each_security_group_restricts_egress() -> None:
    groups = dict(resources("AWS::EC2::SecurityGroup"))
    with_rules = {name for name, group in groups.items() if group.get("SecurityGroupEgress")}
    # A group without a rule allows everything; the rule of the load balancer is a separate resource.
    assert set(groups) - with_rules == {"balancer.BalancerGroup"}
    assert only("AWS::EC2::SecurityGroupEgress")["GroupId"] == {"Ref": "BalancerGroup"}
    ports = {rule["ToPort"] for name in with_rules for rule in groups[name]["SecurityGroupEgress"]}
    assert ports <= {443, 5000, 5432, 65535}


def test_balancers_use_modern_tls_only() -> None:
    listeners = dict(resources("AWS::ElasticLoadBalancingV2::Listener"))
    redirect = listeners.pop("balancer.Redirect")
    (action,) = redirect["DefaultActions"]
    assert (action["Type"], action["RedirectConfig"]["Protocol"]) == ("redirect", "HTTPS")
    assert len(listeners) == 3
    for listener in listeners.values():
        assert listener["Protocol"] == "HTTPS"
        assert listener["SslPolicy"].startswith("ELBSecurityPolicy-TLS13-1-2")
        assert listener["Certificates"]
    header = attributes(listeners["balancer.Listener"], "ListenerAttributes")
    age = header["routing.http.response.strict_transport_security.header_value"]
    assert int(age.removeprefix("max-age=")) >= 31536000, "browsers use TLS from the first request on"


def rules_of(listener: str) -> dict[str, Any]:
    """The rules of a listener of the public load balancer, by resource."""
    found = resources("AWS::ElasticLoadBalancingV2::ListenerRule", "balancer")
    return {name.partition(".")[2]: rule for name, rule in found if rule["ListenerArn"] == {"Ref": listener}}


def test_metrics_are_not_public() -> None:
    for listener in ("Listener", "TestListener"):
        first = min(rules_of(listener).values(), key=lambda rule: int(rule["Priority"]))
        assert first["Conditions"] == [{"Field": "path-pattern", "PathPatternConfig": {"Values": sorted(INTERNAL)}}]
        assert first["Actions"][0]["FixedResponseConfig"]["StatusCode"] == "404"


def test_requests_in_clear_text_are_rejected_not_redirected() -> None:
    (rule,) = rules_of("Redirect").values()
    (condition,) = rule["Conditions"]
    assert condition["HttpRequestMethodConfig"]["Values"] == ["POST", "PUT", "PATCH", "DELETE"]
    assert rule["Actions"][0]["FixedResponseConfig"]["StatusCode"] == "403"


def test_no_parameter_changes_the_weights() -> None:
    """release.py shifts the traffic; an update of the rule would set the weights of the template."""
    (forward,) = rules_of("Listener")["Traffic"]["Actions"]
    weights = {one["TargetGroupArn"]["Ref"]: one["Weight"] for one in forward["ForwardConfig"]["TargetGroups"]}
    assert weights == {"BlueTarget": 100, "GreenTarget": 0}
    parameters = template("balancer")["Parameters"]
    assert not [name for name in parameters if f"'{name}'" in str(rules_of("Listener")["Traffic"])]


def test_firewall_limits_the_rate_of_each_key_and_of_each_address() -> None:
    firewall = only("AWS::WAFv2::WebACL")
    key, address = (rule["Statement"]["RateBasedStatement"] for rule in firewall["Rules"][:2])
    assert (key["AggregateKeyType"], key["CustomKeys"][0]["Header"]["Name"]) == ("CUSTOM_KEYS", "x-api-key")
    assert address == {"AggregateKeyType": "IP", "Limit": {"Ref": "RequestsPerClient"}}
    limits = template("balancer")["Parameters"]
    assert limits["KeyRequests"]["Default"] < limits["RequestsPerClient"]["Default"]
    assert {rule["Action"]["Block"]["CustomResponse"]["ResponseCode"] for rule in firewall["Rules"][:2]} == {429}
    assert only("AWS::WAFv2::WebACLAssociation")["ResourceArn"] == {"Ref": "Balancer"}
    logging = only("AWS::WAFv2::LoggingConfiguration")
    assert logging["RedactedFields"] == [{"SingleHeader": {"Name": "x-api-key"}}]


# --- secrets and encryption


def test_each_bucket_is_encrypted_versioned_private_and_tls_only() -> None:
    buckets = dict(resources("AWS::S3::Bucket"))
    assert len(buckets) == 4
    for bucket in buckets.values():
        assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
        assert len(bucket["PublicAccessBlockConfiguration"]) == 4
        assert all(bucket["PublicAccessBlockConfiguration"].values())
    closed = set()
    for name, policy in resources("AWS::S3::BucketPolicy"):
        (tls,) = [s for s in policy["PolicyDocument"]["Statement"] if s["Effect"] == "Deny"]
        bucket = policy["Bucket"]["Ref"]
        assert (tls["Action"], tls["Principal"]) == ("s3:*", "*")
        assert tls["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        assert tls["Resource"] == [{"Fn::GetAtt": [bucket, "Arn"]}, {"Fn::Sub": f"${{{bucket}.Arn}}/*"}]
        closed.add(f"{name.partition('.')[0]}.{bucket}")
    assert closed == set(buckets)


def test_disks_database_images_and_alarms_are_encrypted() -> None:
    assert only("AWS::RDS::DBInstance")["StorageEncrypted"] is True
    for disk in only("AWS::EC2::LaunchTemplate")["LaunchTemplateData"]["BlockDeviceMappings"]:
        assert disk["Ebs"]["Encrypted"] is True
    assert all(repository["EncryptionConfiguration"] for _, repository in resources("AWS::ECR::Repository"))
    assert only("AWS::SNS::Topic")["KmsMasterKeyId"] == {"Ref": "AlarmKey"}


def test_each_secret_is_generated() -> None:
    secrets = dict(resources("AWS::SecretsManager::Secret"))
    assert len(secrets) == 5
    for secret in secrets.values():
        assert secret["GenerateSecretString"]["PasswordLength"] >= 32
        assert "SecretString" not in secret
    assert only("AWS::RDS::DBInstance")["MasterUserPassword"] == {
        "Fn::Sub": "{{resolve:secretsmanager:${DatabaseSecret}}}"
    }
    for name in NAMES:
        for key, parameter in template(name).get("Parameters", {}).items():
            assert not re.search("password|token|(?<!Public)key$", key, re.IGNORECASE), f"{name}.{key}"
            assert "NoEcho" not in parameter


def test_registry_containers_get_passwords_as_secrets() -> None:
    for container in only("AWS::ECS::TaskDefinition")["ContainerDefinitions"]:
        assert container["ReadonlyRootFilesystem"] is True
        assert container["User"] != "0"
        plain = {variable["Name"] for variable in container.get("Environment", [])}
        assert not {name for name in plain if re.search("PASSWORD|SECRET", name)}
        for secret in container["Secrets"]:
            assert secret["ValueFrom"]["Fn::ImportValue"]["Fn::Sub"].endswith("Secret")


def test_database_is_private_and_protected() -> None:
    database = only("AWS::RDS::DBInstance")
    assert database["PubliclyAccessible"] is False
    assert database["DeletionProtection"] == {"Ref": "Protect"}
    assert database["BackupRetentionPeriod"] >= 7
    assert template("storage")["Resources"]["Database"]["DeletionPolicy"] == "Snapshot"
    assert database["MultiAZ"] == {"Ref": "MultiAz"}


# --- permissions

ANY_RESOURCE = {  # statement: why its resource is *
    "Login": "ecr:GetAuthorizationToken has no resource",
    "Describe": "these actions have no resource",
    "StopAndExplain": "these actions have no resource",
    "SendMetrics": "restricted by a condition to one namespace",
}


def statements() -> Iterator[tuple[str, Any]]:
    for name, role in resources("AWS::IAM::Role"):
        for policy in role.get("Policies", []):
            for statement in policy["PolicyDocument"]["Statement"]:
                yield name, statement


def test_no_policy_uses_wildcards_without_a_reason() -> None:
    assert len(list(statements())) > 20
    for name, statement in statements():
        for action in listed(statement["Action"]):
            assert "*" not in action, f"{name}: {action}"
        if "*" in listed(statement["Resource"]):
            assert statement["Sid"] in ANY_RESOURCE, f"{name}: {statement['Sid']}"
        if statement["Action"] == "iam:PassRole":
            assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}


ISSUER = "token.actions.githubusercontent.com"
NEW, OLD = "repo:owner@1/name@2", "repo:owner/name"
MAIN, PRODUCTION, MODEL = "ref:refs/heads/main", "environment:production", "environment:model"
TRUSTED = {  # role: the job's subject and workflows
    "BuildRole": (MAIN, "release"),
    "DeployRole": (PRODUCTION, "release"),
    "RetrainRole": (MAIN, "retrain"),
    "PromoteRole": (MODEL, "retrain", "registry"),
    "MonitorRole": (MAIN, "monitor"),
    "ScanRole": (MAIN, "security"),
}


def trusts(
    role: str, repository: dict[str, str], subject: str, workflow: str, audience: str = "sts.amazonaws.com"
) -> bool:
    """Whether the rendered trust policy lets a job with these claims in."""
    properties = dict(resources("AWS::IAM::Role", "github"))[f"github.{role}"]
    (statement,) = rendered(properties["AssumeRolePolicyDocument"]["Statement"], "github", repository)
    assert list(statement["Condition"]) == ["StringEquals"], "StringLike with a * would trust branches of any name"
    claims = {"sub": subject, "aud": audience, "job_workflow_ref": workflow}
    wanted = statement["Condition"]["StringEquals"]
    assert set(wanted) == {f"{ISSUER}:{claim}" for claim in claims}
    return all(value in listed(wanted[f"{ISSUER}:{claim}"]) for claim, value in claims.items())


@pytest.mark.fault("a job of another repository, branch or workflow asks for a role", "it gets none")
@pytest.mark.parametrize("role", TRUSTED)
def test_githubs_roles_trust_one_job_of_one_repository(role: str) -> None:
    kind, workflow, *others = TRUSTED[role]
    file = f"owner/name/.github/workflows/{workflow}.yml@refs/heads/main"
    plain = {"Repository": "owner/name"}
    numbered = plain | {"OwnerId": "1", "RepositoryId": "2"}
    for trusted in (workflow, *others):
        assert trusts(role, numbered, f"{NEW}:{kind}", file.replace(workflow, trusted))
    assert trusts(role, plain, f"{OLD}:{kind}", file)
    assert not trusts(role, plain, f"{NEW}:{kind}", file)
    foreign = {OLD, "repo:owner@1/name", "repo:owner/name@2"}
    foreign |= {"repo:owner@1/name@3", "repo:owner@9/name@2", "repo:owner@1/other@2"}
    for repository in foreign:
        assert not trusts(role, numbered, f"{repository}:{kind}", file), repository
    kinds = {MAIN, PRODUCTION, MODEL, "pull_request", "ref:refs/heads/retrained", "ref:refs/tags/main", f"{kind}2"} - {
        kind
    }
    for other in kinds:
        assert not trusts(role, numbered, f"{NEW}:{other}", file), other
    for branch in ("refs/heads/retrained", "refs/pull/1/merge"):
        assert not trusts(role, numbered, f"{NEW}:{kind}", file.replace("refs/heads/main", branch))
    for other in {path.stem for path in (REPOSITORY / ".github" / "workflows").glob("*.yml")} - {workflow, *others}:
        assert not trusts(role, numbered, f"{NEW}:{kind}", file.replace(workflow, other)), other
    assert not trusts(role, numbered, f"{NEW}:{kind}", file, "https://github.com/owner")


def test_provider_of_the_account_outlives_the_stack() -> None:
    """A second set uses the one that the first set made."""
    assert template("github")["Resources"]["Provider"]["DeletionPolicy"] == "Retain"


def test_githubs_roles_end_and_names_have_no_wildcard() -> None:
    roles = dict(resources("AWS::IAM::Role", "github"))
    assert {name.split(".")[1] for name in roles} == set(TRUSTED)
    for role in roles.values():
        (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
        assert trust["Action"] == "sts:AssumeRoleWithWebIdentity"
        assert role["MaxSessionDuration"] <= 7200
    parameters = template("github")["Parameters"]
    for wildcard in ("owner/*", "*/name", "owner"):
        assert not re.search(parameters["Repository"]["AllowedPattern"], wildcard)
    for name in ("OwnerId", "RepositoryId", "Branch", "Environment", "ModelEnvironment"):
        assert not re.search(parameters[name]["AllowedPattern"], "*")


def resource_forms(action: str) -> set[str]:
    """The ARNs that an action takes by AWS's own reference; `*` if it knows no resource."""
    service, _, operation = action.partition(":")
    entries = get_action_data(service, operation)
    assert entries, f"AWS has no action {action}"
    return {entry["resource_arn_format"] for entry in entries[service]}


def fits(arn: str, form: str) -> bool:
    """Whether an ARN, with * or ${…} for any text, can be of this form."""
    placeholder = re.compile(r"\$\{[\w:]+\}")
    one, other = (
        fnmatch(placeholder.sub("x", text), placeholder.sub("*", pattern))
        for text, pattern in ((arn, form), (form, arn))
    )
    return one or other


def test_each_right_fits_its_resource() -> None:
    """An action that knows no resource is refused by AWS if the statement names one."""
    for name, statement in statements():
        named = [rendered(item, name.split(".")[0], {}) for item in listed(statement["Resource"])]
        arns = [item for item in named if str(item).startswith(("arn:", "*"))]  # others refer to a resource
        for action in listed(statement["Action"]):
            forms = resource_forms(action)
            if "*" in arns:
                assert "*" in forms or "Condition" in statement, f"{name}: {action} takes a resource"
            else:
                assert forms != {"*"}, f"{name}: {action} knows no resource and needs *, in a statement of its own"
                known = any(fits(arn, form) for form in forms - {"*"} for arn in arns)
                assert known or len(arns) < len(named), f"{name}: {action} does not take {arns}"


def test_githubs_roles_have_least_privilege() -> None:
    rights: dict[str, set[str]] = {}
    for name, statement in statements():
        rights.setdefault(name, set()).update(action.split(":")[0] for action in listed(statement["Action"]))
    assert rights["github.BuildRole"] == {"ecr"}
    assert rights["github.PromoteRole"] == rights["github.RetrainRole"] == {"s3", "secretsmanager"}
    deploy = {a for n, s in statements() if n == "github.DeployRole" for a in listed(s["Action"])}
    writes = {action for action in deploy if re.search("Delete|Terminate|Put|Secret|Push|Upload", action)}
    assert writes == {"s3:PutObject", "ssm:PutParameter", "ecr:PutImage"}
    scan = {a for n, s in statements() if n == "github.ScanRole" for a in listed(s["Action"])}
    assert not [action for action in scan if not re.search(":(Batch)?(Get|Check|Describe|List)", action)], (
        "it reads only"
    )
    deleting = [s["Sid"] for n, s in statements() if n.startswith("github") and ":Delete" in str(s["Action"])]
    assert deleting == ["DeleteWhatWasShipped"]  # of MonitorRole; see test_monitor_workflow.py


def test_deploy_role_allows_the_calls_of_release_py() -> None:
    """Each operation of boto3 in the script is allowed; those of S3 have other names."""
    text = "".join(path.read_text() for path in (REPOSITORY / "src").glob("*/rollout/*.py"))
    called = set(re.findall(r'(?:client\("\w+"\)|client|ecr|ssm)\.(\w+)\(', text)) - {"client"}
    assert {"create_deployment", "modify_rule", "put_image", "put_parameter", "update_auto_scaling_group"} <= called
    allowed = {a.partition(":")[2] for n, s in statements() if n == "github.DeployRole" for a in listed(s["Action"])}
    for operation in called - {"head_object"}:
        assert operation.title().replace("_", "") in allowed, operation


# --- servers


def test_servers_have_no_key_pair_and_require_imdsv2() -> None:
    data = only("AWS::EC2::LaunchTemplate")["LaunchTemplateData"]
    assert "KeyName" not in data
    assert data["MetadataOptions"]["HttpTokens"] == "required"
    assert data["MetadataOptions"]["HttpPutResponseHopLimit"] == 1


def test_both_groups_have_sizes_and_scaling_policies() -> None:
    parameters = template("servers")["Parameters"]
    assert 2 <= parameters["MinServers"]["Default"] <= parameters["MaxServers"]["Default"], "one for each zone at least"
    tracked: dict[str, set[str]] = {"Blue": set(), "Green": set()}
    for _, policy in resources("AWS::AutoScaling::ScalingPolicy"):
        metric = policy["TargetTrackingConfiguration"]["PredefinedMetricSpecification"]
        tracked[policy["AutoScalingGroupName"]["Ref"]].add(metric["PredefinedMetricType"])
    assert tracked["Blue"] == tracked["Green"] == {"ALBRequestCountPerTarget", "ASGAverageCPUUtilization"}


def test_health_check_fits_the_api_and_its_draining() -> None:
    target, green = (target for _, target in resources("AWS::ElasticLoadBalancingV2::TargetGroup", "balancer"))
    assert target == green
    assert target["HealthCheckPath"] in HEALTH
    assert f'@api.get("{target["HealthCheckPath"]}"' in (REPOSITORY / "6.production" / "app.py").read_text()
    drain = int(re.findall(r"^ *DRAIN_SECONDS=(\d+)$", (AWS / "servers.yaml").read_text(), re.MULTILINE)[0])
    unnoticed = target["HealthCheckIntervalSeconds"] * target["UnhealthyThresholdCount"]
    options = attributes(target, "TargetGroupAttributes")
    assert unnoticed < drain <= int(options["deregistration_delay.timeout_seconds"])
    assert options["load_balancing.algorithm.type"] == "least_outstanding_requests"
    balancer = attributes(only("AWS::ElasticLoadBalancingV2::LoadBalancer", "balancer"), "LoadBalancerAttributes")
    # Otherwise a request on a connection that the API closes is answered with 502.
    assert int(balancer["idle_timeout.timeout_seconds"]) < keep_alive_seconds()


def keep_alive_seconds() -> int:
    own = re.findall(r"timeout_keep_alive=(\d+)", (REPOSITORY / "6.production" / "serve.py").read_text())
    return int(own[0]) if own else uvicorn.Config("app").timeout_keep_alive


def test_deployment_groups_deploy_in_place_to_their_servers() -> None:
    groups = dict(resources("AWS::CodeDeploy::DeploymentGroup"))
    assert {name: group["DeploymentGroupName"] for name, group in groups.items()} == {
        "servers.BlueDeployments": "blue",
        "servers.GreenDeployments": "green",
    }
    for group in groups.values():
        color = group["DeploymentGroupName"].capitalize()
        assert group["AutoScalingGroups"] == [{"Ref": color}]
        assert group["DeploymentStyle"] == {"DeploymentType": "IN_PLACE", "DeploymentOption": "WITH_TRAFFIC_CONTROL"}
        assert f"balancer-{color}TargetName" in str(group["LoadBalancerInfo"])
        # What release.py watches stops CodeDeploy, too.
        watched = template("servers")["Outputs"][f"{color}Alarms"]["Value"]["Fn::Join"][1]
        assert [alarm["Name"] for alarm in group["AlarmConfiguration"]["Alarms"]] == watched


def test_alarms_of_releases_look_at_one_group_and_ignore_few_requests() -> None:
    alarms = {name.partition(".")[2]: alarm for name, alarm in resources("AWS::CloudWatch::Alarm", "balancer")}
    for color in ("Blue", "Green"):
        slow = alarms[f"{color}SlowAlarm"]
        assert (slow["MetricName"], slow["ExtendedStatistic"]) == ("TargetResponseTime", "p99")
        assert f"{color}Target" in str(slow["Dimensions"])
        for metric in alarms[f"{color}FailuresAlarm"]["Metrics"][1:]:
            assert f"{color}Target" in str(metric["MetricStat"]["Metric"]["Dimensions"])
    failures = alarms["FailuresAlarm"]
    counted = {m["MetricStat"]["Metric"]["MetricName"] for m in failures["Metrics"] if "MetricStat" in m}
    assert counted == {"HTTPCode_Target_5XX_Count", "HTTPCode_ELB_5XX_Count", "RequestCount"}
    assert [failed_percent(failures, *counts) for counts in ((1, 0, 1), (0, 20, 20), (1, 0, 100), (1, 2, 100))] == [
        0, 0, 1, 3,
    ]  # fmt: skip
    assert failures["Threshold"] == 1
    assert all(alarm["AlarmActions"] == [{"Ref": "AlarmTopic"}] for alarm in alarms.values())
    assert all(alarm["TreatMissingData"] == "notBreaching" for alarm in alarms.values())
    assert {"UnhealthyAlarm", "NoServerAlarm", "BudgetAlarm", "CertificateAlarm"} <= set(alarms)


def failed_percent(alarm: Any, target: int, balancer: int, requests: int) -> float:
    """The alarm's expression for these counts, evaluated like CloudWatch's."""
    expression = alarm["Metrics"][0]["Expression"].replace("IF(", "choose(")
    names = {
        "target": target,
        "balancer": balancer,
        "requests": requests,
        "FILL": lambda value, _: value,
        "choose": lambda condition, yes, no: yes if condition else no,
    }
    return float(eval(expression, {"__builtins__": {}}, names))  # noqa: S307 (of our own template)


def test_dashboard_shows_metrics_that_the_servers_send() -> None:
    body, values = only("AWS::CloudWatch::Dashboard")["DashboardBody"]["Fn::Sub"]
    names = {"AWS::Region", "AWS::StackName"} | set(values)
    assert set(re.findall(r"\$\{([\w:]+)\}", body)) == names
    widgets = json.loads(re.sub(r"\$\{[\w:]+\}", "x", body))["widgets"]
    shown = json.dumps(widgets)
    sent = set(re.findall(r'"(\w+)"', shown)) & {"Seconds", "Probability", "SyncFailures"}
    assert sent == {"Seconds", "Probability", "SyncFailures"}
    assert "ModelVersion" in shown
    assert {widget["properties"]["title"] for widget in widgets if widget["type"] == "metric"} >= {
        "Requests per minute, by group",
        "Predicted probability",
    }


# --- hooks


def test_appspec_lists_the_five_hooks() -> None:
    spec = yaml.safe_load((AWS / "appspec.yml").read_text())
    events = ["ApplicationStop", "BeforeInstall", "AfterInstall", "ApplicationStart", "ValidateService"]
    assert list(spec["hooks"]) == events
    for event, (hook,) in spec["hooks"].items():
        expected = re.sub("(?<!^)([A-Z])", r"_\1", event).lower()
        assert hook["location"] == f"hooks/{expected}.sh"
        assert (AWS / hook["location"]).stat().st_mode & 0o111, f"{expected}.sh is not executable"
    start = {event: hook[0]["timeout"] for event, hook in spec["hooks"].items()}
    assert sum(start.values()) < 3600, "CodeDeploy's limit for all of them"
    ready = int(re.findall(r"READY_SECONDS:-(\d+)", (HOOKS / "validate_service.sh").read_text())[0])
    assert ready < start["ValidateService"], "the hook's error comes before CodeDeploy's timeout"


def test_hooks_pass_shellcheck() -> None:
    scripts = sorted(map(str, HOOKS.glob("*.sh")))
    assert len(scripts) == 8
    check = [tool("shellcheck"), "--external-sources", "--source-path=SCRIPTDIR", *scripts]
    found = subprocess.run(check, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
    assert "set -euo pipefail" in (HOOKS / "common.sh").read_text()


def test_container_is_read_only_and_gets_secrets_from_the_environment() -> None:
    text = (HOOKS / "application_start.sh").read_text()
    for flag in ("--read-only", "--tmpfs /tmp", "--cap-drop all", "--security-opt no-new-privileges"):
        assert flag in text
    assert re.findall(r"--env (\w+)", text)[:3] == ["PORT", "APP_ENV", "API_KEYS_SHA256"]
    assert not re.findall(r"--env \w+=", text), "arguments are visible to all users"


# --- the stacks, created by moto


def test_subnets_are_in_two_zones_and_only_public_ones_have_an_internet_route(outputs: Any) -> None:
    ec2 = boto3.client("ec2")
    for kind in ("Public", "Private", "Data"):
        subnets = ec2.describe_subnets(SubnetIds=outputs["network"][f"{kind}Subnets"].split(","))["Subnets"]
        assert len({subnet["AvailabilityZone"] for subnet in subnets}) == 2
        assert not any(subnet["MapPublicIpOnLaunch"] for subnet in subnets)
    tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [outputs["network"]["VpcId"]]}])
    ways_out = [
        "public" if "GatewayId" in route else "nat"
        for table in tables["RouteTables"]
        for route in table["Routes"]
        if route.get("DestinationCidrBlock") == "0.0.0.0/0"
    ]
    assert sorted(ways_out) == ["nat", "nat", "public"]
    # moto loses the association of subnets and tables.
    routed = {
        association["SubnetId"]["Ref"]: association["RouteTableId"]["Ref"]
        for _, association in resources("AWS::EC2::SubnetRouteTableAssociation")
    }
    assert routed == {
        "PublicA": "PublicRoutes",
        "PublicB": "PublicRoutes",
        "PrivateA": "PrivateRoutesA",
        "PrivateB": "PrivateRoutesB",
        "DataA": "DataRoutes",
        "DataB": "DataRoutes",
    }
    assert "DataRoutes" not in {route["RouteTableId"]["Ref"] for _, route in resources("AWS::EC2::Route")}


def test_created_groups_are_public_on_three_ports(outputs: Any) -> None:
    groups = boto3.client("ec2").describe_security_groups(
        Filters=[{"Name": "vpc-id", "Values": [outputs["network"]["VpcId"]]}]
    )["SecurityGroups"]
    open_ports = [
        rule["FromPort"]
        for group in groups
        for rule in group["IpPermissions"]
        if any(address["CidrIp"] in EVERYWHERE for address in rule["IpRanges"])
    ]
    assert sorted(open_ports) == [80, 443, 8443]


def test_servers_are_in_private_subnets_behind_the_public_balancer(outputs: Any) -> None:
    found = boto3.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    assert [(group["MinSize"], group["DesiredCapacity"], group["MaxSize"]) for group in found] == [(2, 2, 8), (0, 0, 8)]
    for group, color in zip(found, ("Blue", "Green"), strict=True):
        assert sorted(group["VPCZoneIdentifier"].split(",")) == sorted(outputs["network"]["PrivateSubnets"].split(","))
        assert group["TargetGroupARNs"] == [outputs["balancer"][f"{color}TargetArn"]]
        assert group["HealthCheckType"] == "ELB"
        assert group["LaunchTemplate"]["Version"] == "1"
    elb = boto3.client("elbv2")
    balancers = {balancer["Scheme"]: balancer for balancer in elb.describe_load_balancers()["LoadBalancers"]}
    public = {zone["SubnetId"] for zone in balancers["internet-facing"]["AvailabilityZones"]}
    assert public == set(outputs["network"]["PublicSubnets"].split(","))
    inside = {zone["SubnetId"] for zone in balancers["internal"]["AvailabilityZones"]}
    assert inside == set(outputs["network"]["PrivateSubnets"].split(","))
    for balancer in balancers.values():
        listeners = elb.describe_listeners(LoadBalancerArn=balancer["LoadBalancerArn"])["Listeners"]
        assert ("HTTPS", 443) in {(listener["Protocol"], listener["Port"]) for listener in listeners}
    arns = [outputs["balancer"]["BlueTargetArn"], outputs["balancer"]["GreenTargetArn"]]
    for target in elb.describe_target_groups(TargetGroupArns=arns)["TargetGroups"]:
        assert (target["HealthCheckPath"], target["Port"]) == ("/readyz", 8000)


def user_data(outputs: Any) -> str:
    (version,) = boto3.client("ec2").describe_launch_template_versions(
        LaunchTemplateId=outputs["servers"]["TemplateId"]
    )["LaunchTemplateVersions"]
    return base64.b64decode(version["LaunchTemplateData"]["UserData"]).decode()


def test_user_data_passes_shellcheck_and_has_no_secret(outputs: Any, tmp_path: Path) -> None:
    text = user_data(outputs)
    path = tmp_path / "user-data.sh"
    path.write_text(text)
    found = subprocess.run([tool("shellcheck"), path], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
    settings = dict(re.findall(r"^([A-Z_]+)=(\S+)$", text, re.MULTILINE))
    assert settings["MLFLOW_TRACKING_URI"] == "https://mlflow.example.com"
    assert settings["API_KEYS_SECRET"].startswith(f"arn:aws:secretsmanager:us-east-1:{ACCOUNT}:secret:")
    assert settings["MLFLOW_PASSWORD_SECRET"].startswith("arn:aws:secretsmanager:")
    assert "f" * 64 not in text
    assert not re.search("(?i)password=[^a]", text.replace("MLFLOW_PASSWORD_SECRET", ""))
    assert "${" not in text.replace("${1", ""), "a placeholder is left"


def test_servers_that_verify_images_have_what_that_needs(outputs: Any, tmp_path: Path) -> None:
    """The identity is in the user data, gh is installed, and release.py knows from an output."""
    written = only("AWS::EC2::LaunchTemplate")["LaunchTemplateData"]["UserData"]["Fn::Base64"]
    on = re.sub(r"\$\{[\w:]+\}", "x", rendered(written, "servers", {"SignerRepository": "owner/name"}))
    (tmp_path / "on.sh").write_text(on)
    found = subprocess.run([tool("shellcheck"), tmp_path / "on.sh"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
    off = user_data(outputs)
    for text, repository in ((on, "owner/name"), (off, "")):
        assert f"repository='{repository}' workflow='.github/workflows/release.yml@refs/heads/main'" in text
        assert bool(re.search(r"dnf install .*/gh_", text)) is bool(repository)
        assert len(text) < 16_000, "EC2's limit"
    output = template("servers")["Outputs"]["SignerRepository"]
    assert (output["Condition"], "SignerRepository" in outputs["servers"]) == ("VerifyImages", False)
    parameters = template("servers")["Parameters"]
    for name, foreign in (("SignerRepository", "owner/name'; x"), ("SignerWorkflow", ".github/workflows/x.yml@y'")):
        assert not re.search(parameters[name]["AllowedPattern"], foreign)
    assert re.search(parameters["SignerWorkflow"]["AllowedPattern"], parameters["SignerWorkflow"]["Default"])


def test_prediction_log_is_off_by_default_and_goes_to_its_prefix_only(outputs: Any) -> None:
    settings = dict(re.findall(r"^([A-Z_]+)=(\S*)$", user_data(outputs), re.MULTILINE))
    names = ("PREDICTION_LOG", "PREDICTION_LOG_SHARE", "PREDICTION_LOG_EXCLUDE", "SHADOW_ALIAS")
    assert [settings[name] for name in names] == ["", "1", "", ""]
    bucket = outputs["storage"]["DataBucket"]
    assert settings["LOG_ADDRESS"] == f"s3://{bucket}/monitoring/log"
    start = (HOOKS / "application_start.sh").read_text()
    assert set(names) <= set(re.findall(r"--env (\w+)", start))
    template_of_servers = template("servers")
    assert template_of_servers["Conditions"]["LogPredictions"] == {"Fn::Equals": [{"Ref": "PredictionLog"}, "true"]}
    _, values = only("AWS::EC2::LaunchTemplate")["LaunchTemplateData"]["UserData"]["Fn::Base64"]["Fn::Sub"]
    assert values["LogFolder"] == {"Fn::If": ["LogPredictions", "/log", ""]}
    assert '--volume "$DATA/log:/log"' in start
    written = [s for n, s in statements() if n == "servers.ServerRole" and "s3:PutObject" in listed(s["Action"])]
    (statement,) = written
    assert statement["Action"] == "s3:PutObject"
    assert statement["Resource"]["Fn::Sub"][0].endswith("${Bucket}/monitoring/log/*")


def test_logs_of_servers_reach_cloudwatch_and_do_not_block(outputs: Any) -> None:
    files = {
        name: json.loads(text)
        for name, text in re.findall(r"cat > /etc/(\S+\.json) <<'?END'?\n(.*?)\nEND", user_data(outputs), re.DOTALL)
    }
    docker = files["docker/daemon.json"]["log-opts"]
    assert (docker["mode"], docker["awslogs-group"]) == ("non-blocking", outputs["servers"]["LogGroup"])
    collected = files["api/logs.json"]["logs"]["logs_collected"]["files"]["collect_list"]
    assert {log["log_group_name"] for log in collected} == {outputs["servers"]["LogGroup"]}
    assert [log["log_stream_name"].partition("/")[0] for log in collected] == ["boot", "agent", "hooks"]


def test_update_of_the_stack_changes_the_image_of_servers_only_on_purpose() -> None:
    image = template("servers")["Parameters"]["Image"]
    assert (image["Type"], "Default" in image) == ("AWS::EC2::Image::Id", False)


def test_created_database_is_encrypted_and_private(outputs: Any) -> None:
    (database,) = boto3.client("rds").describe_db_instances()["DBInstances"]
    assert database["StorageEncrypted"] is True
    assert database["PubliclyAccessible"] is False
    assert database["MultiAZ"] is True
    (subnets,) = boto3.client("rds").describe_db_subnet_groups()["DBSubnetGroups"]
    ids = {subnet["SubnetIdentifier"] for subnet in subnets["Subnets"]}
    assert ids == set(outputs["network"]["DataSubnets"].split(","))


def test_created_repositories_are_immutable(outputs: Any) -> None:
    repositories = boto3.client("ecr").describe_repositories()["repositories"]
    assert {repository["repositoryName"] for repository in repositories} == {PREFIX, f"{PREFIX}-mlflow"}
    for repository in repositories:
        assert repository["imageTagMutability"] == "IMMUTABLE"
    for _, written in resources("AWS::ECR::Repository"):
        assert written["ImageScanningConfiguration"] == {"ScanOnPush": True}
        assert len(json.loads(written["LifecyclePolicy"]["LifecyclePolicyText"])["rules"]) >= 2
    assert outputs["images"]["ApiRepository"] == PREFIX


def test_created_buckets_are_encrypted(outputs: Any) -> None:
    s3 = boto3.client("s3")
    names = {outputs["storage"]["ArtifactsBucket"], outputs["storage"]["DataBucket"]}
    names.add(outputs["servers"]["ReleasesBucket"])
    assert len(names) == 3
    for name in names:
        assert s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"]


def test_sets_with_two_prefixes_share_no_name() -> None:
    """Staging stands next to production in one account and region; host names are given."""
    inside = {"DBName", "DeploymentGroupName"}  # of a database, of an application
    others = {"ServiceName", "MetricName", "DeploymentConfigName"}
    found = {"a-set": set[str](), "b-set": set[str]()}
    for prefix, names in found.items():
        for stack in NAMES:
            written = template(stack)
            for resource in written["Resources"].values():
                for key, value in resource.get("Properties", {}).items():
                    refers = isinstance(value, dict) and value.get("Ref") in {*written["Resources"], "HostName"}
                    if re.search("Name$|^Family$", key) and key not in inside | others and not refers:
                        names.add(f"{resource['Type']} {key} {named(value, stack, prefix)}")
            exports = [output["Export"]["Name"] for output in written.get("Outputs", {}).values() if "Export" in output]
            names |= {f"export {named(name, stack, prefix)}" for name in exports}
    assert len(found["a-set"]) == len(found["b-set"]) > 30
    assert found["a-set"] & found["b-set"] == set()


def named(value: Any, stack: str, prefix: str) -> str:
    """A name, as written in a template, in the stack of a set."""
    text = "${" + value["Ref"] + "}" if isinstance(value, dict) and "Ref" in value else value
    text = text["Fn::Sub"] if isinstance(text, dict) else text
    return str(text).replace("${AWS::StackName}", f"{prefix}-{stack}").replace("${Prefix}", prefix)
