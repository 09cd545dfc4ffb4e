"""release.py and blue_green.py, with moto, and with stubbed responses where moto lacks a feature."""

import hashlib
import io
import json
import subprocess
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pytest
import yaml
from botocore.stub import ANY, Stubber
from clouds import ACCOUNT, PREFIX, REGION, REGISTRY, cloud
from moto.backends import get_backend
from projects import REPOSITORY, Project, run_script, script

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError

SCRIPT, STACK = "7.deploy/release.py", f"{PREFIX}-servers"
NAMES = script(Project(REPOSITORY), SCRIPT)
KEY = "a key for the smoke test"
TIMES = {"bake_seconds": 0.0}


class Api:
    """A server in place of the public address, with a configurable response."""

    def __init__(self) -> None:
        self.answer: tuple[int, bytes] = (200, b'{"probability":0.25,"decision":"yes"}')
        self.seen: list[tuple[str, Any, str | None]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                api.seen.append((self.path, json.loads(body), self.headers["x-api-key"]))
                self.send_response(api.answer[0])
                self.send_header("content-length", str(len(api.answer[1])))
                self.end_headers()
                self.wfile.write(api.answer[1])

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    monkeypatch.setenv("SMOKE_API_KEY", KEY)
    api = Api()
    yield api
    api.server.shutdown()
    api.server.server_close()


@pytest.fixture(scope="module")
def stacks(request: pytest.FixtureRequest) -> Iterator[dict[str, dict[str, str]]]:
    """The stacks in moto; CodeDeploy's resources, which moto's CloudFormation ignores, are created separately."""
    with cloud(Strategy=getattr(request, "param", "rolling")) as outputs:
        deployments = boto3.client("codedeploy")
        deployments.create_application(applicationName=STACK, computePlatform="Server")
        if outputs["servers"]["Strategy"] == "rolling":
            deployments.create_deployment_group(
                applicationName=STACK,
                deploymentGroupName="rolling",
                serviceRoleArn=outputs["servers"]["CodeDeployRoleArn"],
            )
        for name in outputs["servers"]["Alarms"].split(","):
            put_alarm(name, "OK")
        yield outputs


def put_alarm(name: str, state: str) -> None:
    alarms = boto3.client("cloudwatch")
    alarms.put_metric_alarm(
        AlarmName=name, ComparisonOperator="GreaterThanThreshold", EvaluationPeriods=1, Threshold=1, MetricName="m",
        Namespace="n", Period=60, Statistic="Sum",
    )  # fmt: skip
    alarms.set_alarm_state(AlarmName=name, StateValue=state, StateReason="the test")


@pytest.fixture
def stack(stacks: Any, api: Api) -> Any:
    """The script's stack with an empty bucket, no active alarm and short pauses."""
    bucket = boto3.resource("s3").Bucket(stacks["servers"]["ReleasesBucket"])
    bucket.objects.delete()
    found = NAMES["Stack"](STACK, poll_seconds=0.01, timeout_seconds=20)
    found.outputs["Url"] = api.url
    return found


def push_image(tag: str = "") -> str:
    """Puts an image into moto's ECR; returns its reference by digest."""
    tag = tag or uuid.uuid4().hex
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    # moto derives the digest from the layers.
    blob = {"digest": "sha256:" + hashlib.sha256(tag.encode()).hexdigest()}
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": blob, "layers": [blob]}
    made = boto3.client("ecr").put_image(repositoryName=PREFIX, imageManifest=json.dumps(manifest), imageTag=tag)[
        "image"
    ]
    return f"{REGISTRY}/{PREFIX}@{made['imageId']['imageDigest']}"


@contextmanager
def codedeploy_ends(*statuses: str) -> Iterator[None]:
    """Sets the status of moto's deployments, which never change by themselves."""
    stop = threading.Event()
    before = set(deployments())

    def work() -> None:
        left = list(statuses)
        while not stop.wait(0.01):
            for key, deployment in deployments().items():
                if left and key not in before:
                    before.add(key)
                    deployment.status = left.pop(0)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def deployments() -> dict[str, Any]:
    return dict(get_backend("codedeploy")[ACCOUNT][REGION].deployments)


def keys_deployed() -> list[str]:
    return [deployment.revision["s3Location"]["key"] for deployment in deployments().values()]  # in order of creation


# --- the bundle


def test_bundle_has_the_files_of_appspec_and_is_reproducible() -> None:
    image = f"{REGISTRY}/{PREFIX}@sha256:{'a' * 64}"
    content = NAMES["bundle"](image)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = set(archive.namelist())
        spec = yaml.safe_load(archive.read("appspec.yml"))
        hooks = {hook["location"] for event in spec["hooks"].values() for hook in event}
        assert names == hooks | {"appspec.yml", "hooks/common.sh", "image.env", "example.json"}
        assert archive.read("image.env").decode() == f"IMAGE={image}\n"
        assert all(archive.getinfo(name).external_attr >> 16 & 0o111 for name in hooks)
    assert content == NAMES["bundle"](image)
    assert content != NAMES["bundle"](image.replace("a" * 64, "b" * 64))


# --- rolling, with moto


def test_release_and_rollback(stack: Any, api: Api) -> None:
    first, second = push_image(), push_image()
    with codedeploy_ends("Succeeded", "Succeeded", "Succeeded"):
        NAMES["deploy"](stack, first, **TIMES)
        assert stack.recorded_release("previous") is None
        NAMES["deploy"](stack, second, **TIMES)
        shown = NAMES["status"](stack)
        assert (shown["current"], shown["previous"]) == (second, first)
        NAMES["roll_back"](stack, **TIMES)
    shown = NAMES["status"](stack)
    assert (shown["current"], shown["previous"]) == (first, second)
    assert shown["deployment"].endswith(" Succeeded")
    one, two, three = keys_deployed()[-3:]
    assert one == three != two
    path, body, key = api.seen[-1]
    assert (path, key) == ("/predict", KEY)
    assert body == CONTRACT.example
    assert len(api.seen) == 3 * NAMES["SMOKE_REQUESTS"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (401, b'{"detail":"X-API-Key is missing or unknown"}'),
        (200, b"hello"),
        (200, b"[]"),
        (200, b'{"probability":1.5}'),
        (200, b'{"probability":"0.5"}'),
    ],
)
def test_release_with_wrong_responses_is_rolled_back(stack: Any, api: Api, status: int, body: bytes) -> None:
    good, bad = push_image(), push_image()
    with codedeploy_ends("Succeeded", "Succeeded", "Succeeded"):
        NAMES["deploy"](stack, good, **TIMES)
        api.answer = (status, body)
        with pytest.raises(ProjectError, match="/predict"):
            NAMES["deploy"](stack, bad, **TIMES)
    assert NAMES["status"](stack)["current"] == good
    one, two, three = keys_deployed()[-3:]
    assert one == three != two


def test_bad_first_release_stays(stack: Any, api: Api) -> None:
    api.answer = (500, b"{}")
    with codedeploy_ends("Succeeded"), pytest.raises(ProjectError, match="no previous release to restore"):
        NAMES["deploy"](stack, push_image(), **TIMES)


def test_alarm_during_the_bake_time_rolls_back(stack: Any) -> None:
    good, slow = push_image(), push_image()
    alarm = stack.outputs["Alarms"].split(",")[1]
    try:
        with codedeploy_ends("Succeeded", "Succeeded", "Succeeded"):
            NAMES["deploy"](stack, good, **TIMES)
            ring = threading.Timer(0.3, put_alarm, (alarm, "ALARM"))
            ring.start()
            with pytest.raises(ProjectError, match=f"alarm: {alarm}"):
                NAMES["deploy"](stack, slow, bake_seconds=30)
            ring.join()
    finally:
        put_alarm(alarm, "OK")
    assert NAMES["status"](stack)["current"] == good
    assert len(set(keys_deployed()[-3:])) == 2


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (f"{REGISTRY}/{PREFIX}:latest", "is not REPOSITORY@sha256"),
        (f"{REGISTRY}/other@sha256:{'0' * 64}", "can pull from .*, not from other"),
        (f"{REGISTRY}/{PREFIX}@sha256:{'0' * 64}", "is not in its repository; push it first"),
    ],
)
def test_image_that_servers_can_not_pull_is_rejected(stack: Any, image: str, sentence: str) -> None:
    before = len(deployments())
    with pytest.raises(ProjectError, match=sentence):
        NAMES["deploy"](stack, image, **TIMES)
    assert len(deployments()) == before


def test_nothing_is_released_without_a_smoke_key(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMOKE_API_KEY")
    before = len(deployments())
    with pytest.raises(ProjectError, match="set SMOKE_API_KEY"):
        NAMES["deploy"](stack, push_image(), **TIMES)
    assert len(deployments()) == before


def test_rollback_without_a_previous_release(stack: Any) -> None:
    with pytest.raises(ProjectError, match="no previous release"):
        NAMES["roll_back"](stack, **TIMES)


def test_waiting_times_out(stack: Any) -> None:
    stack.timeout_seconds = 0.05
    with pytest.raises(ProjectError, match="timed out after 0 seconds waiting for it"):
        stack.wait_for(lambda: None, "it")


def test_errors_of_aws_are_one_line(stacks: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert stacks
    assert run_script(Project(REPOSITORY), SCRIPT, "--stack", "another", "status") == 1
    error = capfd.readouterr().err
    assert error.startswith("release: AWS: ")
    assert len(error.splitlines()) == 1


def test_push_prints_the_digest_or_an_error(
    stack: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    called, run = [], subprocess.run

    def docker(command: list[str], **how: Any) -> "subprocess.CompletedProcess[bytes]":
        """Replaces Docker: puts the image into ECR."""
        called.append(command)
        push_image(command[-1].rpartition(":")[2])
        return run(["true"], check=False, **{key: value for key, value in how.items() if key != "check"})

    image = f"{REGISTRY}/{PREFIX}:7"
    monkeypatch.setenv("CONTAINER_TOOL", "false")  # the program, which always fails
    with pytest.raises(ProjectError, match=r"false can't push .* is it built, and are you logged in"):
        NAMES["push"](stack, image)
    monkeypatch.delenv("CONTAINER_TOOL")
    monkeypatch.setattr(subprocess, "run", docker)
    pushed = NAMES["push"](stack, image)
    assert called == [["docker", "push", image]]
    digest = boto3.client("ecr").describe_images(repositoryName=PREFIX, imageIds=[{"imageTag": "7"}])
    assert pushed == f"{REGISTRY}/{PREFIX}@{digest['imageDetails'][0]['imageDigest']}"
    assert NAMES["push"](stack, image) == pushed
    assert len(called) == 1, "tags are immutable"
    assert capfd.readouterr().out == "", "main prints the digest"
    with pytest.raises(ProjectError, match="is not REPOSITORY:TAG"):
        NAMES["push"](stack, pushed)


# --- CodeDeploy's responses that moto lacks

ID, BACK = "d-ABCDEF123", "d-ROLLBACK1"
GROUP = {"applicationName": STACK, "deploymentGroupName": "rolling"}


def info(status: str, **more: Any) -> Any:
    return {"deploymentInfo": {"status": status, **more}}


@contextmanager
def answers(stack: Any, service: str, *calls: tuple[str, Any, Any]) -> Iterator[None]:
    """Stubs the responses to these calls, in this order; an unexpected or missing call fails the test."""
    client = boto3.client(service)
    stack.clients[service] = client
    with Stubber(client) as stubber:
        for operation, parameters, answer in calls:
            stubber.add_response(operation, answer, parameters)
        yield
        stubber.assert_no_pending_responses()


def look(status: str, id_: Any = ID, **more: Any) -> tuple[str, Any, Any]:
    return ("get_deployment", {"deploymentId": id_}, info(status, **more))


CREATE = ("create_deployment", {**GROUP, "revision": ANY}, {"deploymentId": ID})
UNFINISHED = ["Created", "Queued", "InProgress", "Ready"]


def unfinished(*ids: str, group: Any = GROUP) -> tuple[str, Any, Any]:
    return ("list_deployments", {**group, "includeOnlyStatuses": UNFINISHED}, {"deployments": list(ids)})


def interrupt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises KeyboardInterrupt at the first pause of the main thread."""
    left, sleep = [KeyboardInterrupt()], time.sleep

    def interrupted(seconds: float) -> None:
        if left and threading.current_thread() is threading.main_thread():
            raise left.pop()
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", interrupted)


def test_failed_deployment_is_reported_after_its_rollback(stack: Any) -> None:
    failed = {
        "errorInformation": {"code": "HEALTH_CONSTRAINTS", "message": "too many instances failed"},
        "rollbackInfo": {"rollbackDeploymentId": BACK},
    }
    calls = [
        *(unfinished(), CREATE, look("Created"), look("InProgress"), look("Failed", **failed)),
        *(look("Failed", **failed), look("Failed", **failed), look("InProgress", BACK), look("Succeeded", BACK)),
    ]
    with answers(stack, "codedeploy", *calls), pytest.raises(ProjectError, match="failed: HEALTH_CONSTRAINTS too"):
        NAMES["release"](stack, "releases/x.zip", **TIMES)
    assert stack.recorded_release("current") is None


def test_ctrl_c_stops_the_deployment_and_rolls_back(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_once(monkeypatch)
    stop = ("stop_deployment", {"deploymentId": ID, "autoRollbackEnabled": True}, {"status": "Pending"})
    rolled = {"rollbackInfo": {"rollbackDeploymentId": BACK}}
    calls = [unfinished(), CREATE, look("InProgress"), look("InProgress"), stop, look("InProgress"), look("Stopped")]
    calls += [look("Stopped", **rolled), look("Succeeded", BACK)]
    with answers(stack, "codedeploy", *calls), pytest.raises(KeyboardInterrupt):
        NAMES["release"](stack, "releases/x.zip", **TIMES)


def test_failed_rollback_is_an_error(stack: Any) -> None:
    rolled = {"rollbackInfo": {"rollbackDeploymentId": BACK}}
    calls = [unfinished(), CREATE, *[look("Stopped", **rolled)] * 3, look("Failed", BACK)]
    with answers(stack, "codedeploy", *calls), pytest.raises(ProjectError, match=f"{BACK} has failed"):
        NAMES["release"](stack, "releases/x.zip", **TIMES)


def test_rollback_stops_a_deployment_in_progress(stack: Any) -> None:
    stack.record_release("current", "releases/old.zip")
    location = {"revision": {"s3Location": {"key": "releases/new.zip"}}}
    stop = ("stop_deployment", {"deploymentId": ID, "autoRollbackEnabled": True}, {"status": "Pending"})
    calls = [unfinished(ID), look("InProgress", **location), look("InProgress"), stop, look("Stopped"), look("Stopped")]
    with answers(stack, "codedeploy", *calls):
        NAMES["roll_back"](stack, **TIMES)
    assert stack.recorded_release("current") == "releases/old.zip"


# --- blue/green

BLUE_GREEN = GROUP | {"deploymentGroupName": "blue-green"}
SWITCHED = {"instanceTerminationWaitTimeStarted": True}


def test_blue_green_is_released_when_the_traffic_has_switched(stack: Any) -> None:
    """CodeDeploy calls it in progress until the old servers are terminated; the next release terminates them."""
    stack.outputs["Strategy"] = "blue-green"
    waiting = "d-WAITING12"
    ending: Any = ("continue_deployment", {"deploymentId": waiting, "deploymentWaitType": "TERMINATION_WAIT"}, {})
    create = (CREATE[0], {**BLUE_GREEN, "revision": ANY}, CREATE[2])
    calls = [
        *(unfinished(waiting, group=BLUE_GREEN), look("InProgress", waiting, **SWITCHED), ending),
        *(look("InProgress", waiting, **SWITCHED), look("Succeeded", waiting), create),
        *(look("InProgress"), look("InProgress", **SWITCHED)),
    ]
    with answers(stack, "codedeploy", *calls):
        NAMES["release"](stack, "releases/x.zip", **TIMES)
    assert stack.recorded_release("current") == "releases/x.zip"


def test_blue_green_with_wrong_responses_switches_back(stack: Any, api: Api) -> None:
    stack.outputs["Strategy"] = "blue-green"
    api.answer = (500, b"{}")
    stop = ("stop_deployment", {"deploymentId": ID, "autoRollbackEnabled": True}, {"status": "Pending"})
    calls = [
        *(unfinished(group=BLUE_GREEN), (CREATE[0], {**BLUE_GREEN, "revision": ANY}, CREATE[2])),
        *(look("InProgress", **SWITCHED), look("InProgress", **SWITCHED), stop, look("Stopped"), look("Stopped")),
    ]
    with answers(stack, "codedeploy", *calls), pytest.raises(ProjectError, match="/predict responds with 500"):
        NAMES["release"](stack, "releases/x.zip", **TIMES)
    assert stack.recorded_release("current") is None


def test_blue_green_rollback_switches_back(stack: Any) -> None:
    stack.outputs["Strategy"] = "blue-green"
    stack.record_release("current", "releases/new.zip")
    stack.record_release("previous", "releases/old.zip")
    location = {"revision": {"s3Location": {"key": "releases/new.zip"}}}
    stop = ("stop_deployment", {"deploymentId": ID, "autoRollbackEnabled": True}, {"status": "Pending"})
    calls = [
        *(unfinished(ID, group=BLUE_GREEN), look("InProgress", **SWITCHED, **location)),
        *(look("InProgress", **SWITCHED), stop, look("Stopped"), look("Stopped")),
    ]
    with answers(stack, "codedeploy", *calls):
        NAMES["roll_back"](stack, **TIMES)
    assert stack.recorded_release("current") == "releases/old.zip"


@pytest.mark.parametrize("stacks", ["blue-green"], indirect=True)
def test_blue_green_groups_are_created_from_the_outputs(stacks: Any, capfd: pytest.CaptureFixture[str]) -> None:
    here, name = Project(REPOSITORY), "7.deploy/blue_green.py"
    assert run_script(here, name) == 0
    assert "next: release.py deploy" in capfd.readouterr().out
    scaling, outputs = boto3.client("autoscaling"), stacks["servers"]
    (servers,) = scaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    assert servers["AutoScalingGroupName"] == f"{STACK}-first"
    assert servers["TargetGroupARNs"] == [outputs["TargetArn"]]
    assert servers["LaunchTemplate"]["LaunchTemplateId"] == outputs["TemplateId"]
    assert servers["HealthCheckType"] == "EC2", "nothing is released yet"
    (policy,) = scaling.describe_policies()["ScalingPolicies"]
    assert policy["TargetTrackingConfiguration"]["TargetValue"] == float(outputs["RequestsPerServer"])
    names = {"applicationName": STACK, "deploymentGroupName": "blue-green"}
    group = boto3.client("codedeploy").get_deployment_group(**names)["deploymentGroupInfo"]
    assert group["deploymentStyle"]["deploymentType"] == "BLUE_GREEN"
    options = group["blueGreenDeploymentConfiguration"]
    assert options["greenFleetProvisioningOption"] == {"action": "COPY_AUTO_SCALING_GROUP"}
    assert options["terminateBlueInstancesOnDeploymentSuccess"]["terminationWaitTimeInMinutes"] >= 30
    functions = script(here, name)
    wished = functions["deployment_group"]("s", outputs)  # moto loses the names of alarms and groups
    assert [alarm["name"] for alarm in wished["alarmConfiguration"]["alarms"]] == outputs["Alarms"].split(",")
    assert wished["autoScalingGroups"] == ["s"], "CodeDeploy copies exactly one"
    # After a release: the sizes and the health check of the current group.
    scaling.update_auto_scaling_group(AutoScalingGroupName=f"{STACK}-first", MaxSize=3)
    serving = {"autoScalingGroups": [{"name": f"{STACK}-first"}], "lastSuccessfulDeployment": {"status": 1}}
    assert "health check ELB" in functions["apply_sizes"](scaling, serving, outputs)
    (servers,) = scaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    assert (servers["MaxSize"], servers["HealthCheckType"]) == (int(outputs["MaxServers"]), "ELB")


def test_blue_green_groups_need_the_strategy(stacks: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert stacks["servers"]["Strategy"] == "rolling"
    assert run_script(Project(REPOSITORY), "7.deploy/blue_green.py") == 1
    assert f"blue/green: update {STACK} with Strategy=blue-green first" in capfd.readouterr().err
