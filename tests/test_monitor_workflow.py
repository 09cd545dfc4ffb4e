"""monitor.yml: what it does with and without an account, and what its role may do."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import boto3
import pytest
import requests
from clouds import rendered, resources
from test_monitoring import line
from test_workflows import CALLED, act_alone

from credit_risk.core.errors import ProjectError
from credit_risk.data.store import Store
from credit_risk.monitoring.outcomes import SCHEMA, known_outcomes
from credit_risk.monitoring.shipping import ship_uploaded
from credit_risk.monitoring.window import read_predictions

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer

VARIABLES = {"AWS_MONITOR_ROLE": "arn", "DVC_REMOTE_URL": "s3://data", "SERVERS_STACK": "x"}
UV = f"""{CALLED}
[ "$3" = monitor ] || exit 0
mkdir -p 6.production/monitoring
echo '{{"alarms": ["one", "another"]}}' >6.production/monitoring/result.json
exit CODE
"""


def run(folder: Path, code: int, **variables: str) -> tuple[bool, list[str]]:
    """Runs the workflow; its monitoring ends with this exit code."""
    programs = {"uv": UV.replace("CODE", str(code)), "aws": CALLED}
    return act_alone(folder, "monitor", "schedule", programs, variables)


@pytest.mark.parametrize(("code", "green"), [(0, True), (3, True), (1, False)])
def test_log_is_shipped_then_compared_and_alarms_become_a_metric(tmp_path: Path, code: int, green: bool) -> None:
    """Exit code 3 of `monitor` is an alarm, for which CloudWatch's alarm rings; others are errors."""
    done, calls = run(tmp_path, code, **VARIABLES)
    ship, password, compare, *metric = calls
    assert ship == "uv run main.py log ship --log s3://data/monitoring/log"
    assert password.startswith("aws secretsmanager get-secret-value")
    assert compare == "uv run main.py monitor"
    assert done is green
    sent = ["aws cloudwatch put-metric-data --namespace x --metric-name MonitorAlarms --value 2"] if green else []
    assert metric == sent


def test_forks_without_a_role_skip_it(tmp_path: Path) -> None:
    assert run(tmp_path, 1) == (True, [])


def test_alarm_rings_for_the_metric_that_is_sent() -> None:
    """The role may send it to the namespace of the servers' stack, which has the alarm."""
    alarm = dict(resources("AWS::CloudWatch::Alarm", "servers"))["servers.DriftAlarm"]
    assert alarm["MetricName"] == "MonitorAlarms"
    assert alarm["Namespace"] == {"Ref": "AWS::StackName"}
    (send,) = [s for s in rights() if s["Action"] == "cloudwatch:PutMetricData"]
    assert send["Condition"] == {"StringEquals": {"cloudwatch:namespace": "x-servers"}}


def rights() -> list[dict[str, Any]]:
    """The statements of the role, for a bucket `data`."""
    (policy,) = dict(resources("AWS::IAM::Role", "github"))["github.MonitorRole"]["Policies"]
    text = json.dumps(policy["PolicyDocument"]["Statement"])
    bucket = '{"Fn::ImportValue": {"Fn::Sub": "${Prefix}-storage-DataBucket"}}'
    statements = json.loads(text.replace(bucket, '"data"').replace("${AWS::Partition}", "aws"))
    return [rendered(statement, "github", {"Prefix": "x"}) for statement in statements]


OUTCOMES = "monitoring/outcomes/one.parquet"
EVER = (date(1, 1, 1), date(9999, 12, 31))
UPLOADED, PREDICTIONS = "monitoring/log/ready/host-1-a.jsonl", "monitoring/predictions/day=2026-11-27/host-1-a.parquet"


class Bucket:
    """A bucket `data` in moto, which keeps to the policies of users as AWS does, but for their conditions."""

    def __init__(self, address: str, patch: pytest.MonkeyPatch) -> None:
        self.address, self.patch = address, patch
        self.s3, self.iam = boto3.client("s3"), boto3.client("iam")
        self.s3.create_bucket(Bucket="data")
        self.iam.create_user(UserName="monitor")
        self.keys = self.iam.create_access_key(UserName="monitor")["AccessKey"]

    def fill(self) -> None:
        self.s3.put_object(Bucket="data", Key=UPLOADED, Body=f"{line(1)}\ndamaged\n".encode())
        Store("s3://data").write_table(OUTCOMES, SCHEMA.empty_table())

    def names(self) -> set[str]:
        return {found["Key"] for found in self.s3.list_objects_v2(Bucket="data")["Contents"]}

    @contextmanager
    def allowing(self, statements: list[dict[str, Any]]) -> Iterator[None]:
        """The process has the keys of a user with these rights."""
        document = {
            "Version": "2012-10-17",
            "Statement": [{part: s[part] for part in ("Effect", "Action", "Resource")} for s in statements],
        }
        self.iam.put_user_policy(UserName="monitor", PolicyName="p", PolicyDocument=json.dumps(document))
        with self.patch.context() as patch:
            patch.setenv("AWS_ACCESS_KEY_ID", self.keys["AccessKeyId"])
            patch.setenv("AWS_SECRET_ACCESS_KEY", self.keys["SecretAccessKey"])
            pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
            requests.post(f"{self.address}/moto-api/reset-auth", data=b"0", timeout=5)  # from now on policies count
            try:
                yield
            finally:
                requests.post(f"{self.address}/moto-api/reset-auth", data=b"inf", timeout=5)


@pytest.fixture
def bucket(s3_server: "ThreadedMotoServer", monkeypatch: pytest.MonkeyPatch) -> Bucket:
    return Bucket("http://{}:{}".format(*s3_server.get_host_and_port()), monkeypatch)


def ship_and_read() -> int:
    """What the workflow does in the bucket."""
    store = Store("s3://data/monitoring")
    ship_uploaded(Store("s3://data/monitoring/log"), store)
    known_outcomes(store)
    return len(read_predictions(store, *EVER))


@pytest.mark.integration
def test_role_has_exactly_the_rights_that_shipping_and_comparing_need(
    bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "werkzeug")  # it logs requests
    needed = [statement for statement in rights() if statement["Action"].startswith("s3:")]
    assert len(needed) == 4
    for left_out in needed:
        bucket.fill()
        with (
            bucket.allowing([s for s in needed if s is not left_out]),
            pytest.raises(ProjectError, match=r"Access Denied|Forbidden"),
        ):
            ship_and_read()
    bucket.fill()
    with bucket.allowing(needed):
        assert ship_and_read() == 1
        for foreign in (OUTCOMES, "1.data/file"):
            with pytest.raises(ProjectError, match=r"Access Denied|Forbidden"):
                Store("s3://data").write(foreign, b"")
            with pytest.raises(ProjectError, match=r"Access Denied|Forbidden"):
                Store("s3://data").remove(foreign)
        with pytest.raises(ProjectError, match=r"Access Denied|Forbidden"):
            Store("s3://data").read("1.data/file")
    assert bucket.names() == {PREDICTIONS, "monitoring/_damaged/host-1-a.jsonl", OUTCOMES}
    (condition,) = [s["Condition"]["StringLikeIfExists"]["s3:prefix"] for s in needed if "Condition" in s]
    listed = {unquote(prefix) for prefix in re.findall(r"[?&]prefix=([^&\s]+)", caplog.text)}
    assert len(listed) >= 3
    assert [prefix for prefix in listed if not fnmatch(prefix, condition)] == []
