"""release.py and blue_green.py: against moto where it works, and against given answers of AWS where it doesn't."""

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
from clouds import ACCOUNT, REGION, REGISTRY, cloud
from moto.backends import get_backend
from projects import REPOSITORY, Project, run_script, script

from credit_risk.core.errors import ProjectError

SCRIPT, STACK = "7.deploy/release.py", "credit-risk-servers"
NAMES = script(Project(REPOSITORY), SCRIPT)
KEY = "a key for the smoke test"
TIMES = {"bake_seconds": 0.0}


class Api:
    """Stands for the public address: answers as it is told, and counts."""

    def __init__(self) -> None:
        self.answer: tuple[int, bytes] = (200, b'{"probability_of_default":0.25,"decision":"approve"}')
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
    """The stacks in moto; CodeDeploy's part, which moto's CloudFormation ignores, is made beside them."""
    with cloud(Updates=getattr(request, "param", "rolling")) as outputs:
        deployments = boto3.client("codedeploy")
        deployments.create_application(applicationName=STACK, computePlatform="Server")
        if outputs["servers"]["Updates"] == "rolling":
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
    """A stack as the script has it, with an empty bucket, all alarms quiet, and a quick clock."""
    bucket = boto3.resource("s3").Bucket(stacks["servers"]["ReleasesBucket"])
    bucket.objects.delete()
    found = NAMES["Stack"](STACK, poll_seconds=0.01, timeout_seconds=20)
    found.outputs["Url"] = api.url
    return found


def push_image(tag: str = "") -> str:
    """Puts an image into moto's ECR, under a tag of its own; returns its reference by digest."""
    tag = tag or uuid.uuid4().hex
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    # Moto derives the image's digest from its layers; without any it draws one of 101.
    blob = {"digest": "sha256:" + hashlib.sha256(tag.encode()).hexdigest()}
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": blob, "layers": [blob]}
    made = boto3.client("ecr").put_image(
        repositoryName="credit-risk", imageManifest=json.dumps(manifest), imageTag=tag
    )["image"]
    return f"{REGISTRY}/credit-risk@{made['imageId']['imageDigest']}"


@contextmanager
def codedeploy_ends(*statuses: str) -> Iterator[None]:
    """Lets moto's deployments, which would stay created for ever, end one after the other."""
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


# --- the release as a file


def test_a_release_holds_all_that_appspec_names_and_nothing_secret() -> None:
    image = f"{REGISTRY}/credit-risk@sha256:{'a' * 64}"
    content = NAMES["bundle"](image)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = set(archive.namelist())
        spec = yaml.safe_load(archive.read("appspec.yml"))
        hooks = {hook["location"] for event in spec["hooks"].values() for hook in event}
        assert names == hooks | {"appspec.yml", "hooks/common.sh", "image.env", "example.json"}
        assert archive.read("image.env").decode() == f"IMAGE={image}\n"
        assert all(archive.getinfo(name).external_attr >> 16 & 0o111 for name in hooks)
    assert content == NAMES["bundle"](image), "the same release, the same bytes"
    assert content != NAMES["bundle"](image.replace("a" * 64, "b" * 64))


# --- in place, against moto


def test_a_release_goes_out_and_a_rollback_brings_the_one_before(stack: Any, api: Api) -> None:
    first, second = push_image(), push_image()
    with codedeploy_ends("Succeeded", "Succeeded", "Succeeded"):
        NAMES["deploy"](stack, first, None, **TIMES)
        assert NAMES["recall"](stack, "previous") is None
        NAMES["deploy"](stack, second, "rolling", **TIMES)
        shown = NAMES["status"](stack)
        assert (shown["current"], shown["previous"]) == (second, first)
        NAMES["roll_back"](stack, **TIMES)
    shown = NAMES["status"](stack)
    assert (shown["current"], shown["previous"]) == (first, second)
    assert shown["last"].endswith(" Succeeded")
    one, two, three = keys_deployed()[-3:]
    assert one == three != two
    path, body, key = api.seen[-1]
    assert (path, key) == ("/predict", KEY)
    assert body == json.loads((REPOSITORY / "6.production" / "example.json").read_text())
    assert len(api.seen) == 3 * NAMES["SMOKE_REQUESTS"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (401, b'{"detail":"X-API-Key is missing or unknown"}'),
        (200, b"hello"),
        (200, b"[]"),
        (200, b'{"probability_of_default":1.5}'),
        (200, b'{"probability_of_default":"0.5"}'),
    ],
)
def test_a_release_that_answers_wrong_is_followed_by_the_one_before(
    stack: Any, api: Api, status: int, body: bytes
) -> None:
    good, bad = push_image(), push_image()
    with codedeploy_ends("Succeeded", "Succeeded", "Succeeded"):
        NAMES["deploy"](stack, good, None, **TIMES)
        api.answer = (status, body)
        with pytest.raises(ProjectError, match="/predict"):
            NAMES["deploy"](stack, bad, None, **TIMES)
    assert NAMES["status"](stack)["current"] == good
    one, two, three = keys_deployed()[-3:]
    assert one == three != two


def test_a_first_release_that_answers_wrong_says_that_it_stays(stack: Any, api: Api) -> None:
    api.answer = (500, b"{}")
    with codedeploy_ends("Succeeded"), pytest.raises(ProjectError, match="no release before it"):
        NAMES["deploy"](stack, push_image(), None, **TIMES)


def test_an_alarm_while_it_bakes_brings_the_release_before(stack: Any) -> None:
    good, slow = push_image(), push_image()
    alarm = stack.outputs["Alarms"].split(",")[1]
    try:
        with codedeploy_ends("Succeeded", "Succeeded", "Succeeded"):
            NAMES["deploy"](stack, good, None, **TIMES)
            ring = threading.Timer(0.3, put_alarm, (alarm, "ALARM"))
            ring.start()
            with pytest.raises(ProjectError, match=f"the alarm {alarm} has gone off"):
                NAMES["deploy"](stack, slow, None, bake_seconds=30)
            ring.join()
    finally:
        put_alarm(alarm, "OK")
    assert NAMES["status"](stack)["current"] == good
    assert len(set(keys_deployed()[-3:])) == 2


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (f"{REGISTRY}/credit-risk:latest", "is not REPOSITORY@sha256"),
        (f"{REGISTRY}/other@sha256:{'0' * 64}", "may pull from credit-risk, not other"),
        (f"{REGISTRY}/credit-risk@sha256:{'0' * 64}", "is not in its repository; push it first"),
    ],
)
def test_nothing_moves_for_an_image_that_servers_could_not_pull(stack: Any, image: str, sentence: str) -> None:
    before = len(deployments())
    with pytest.raises(ProjectError, match=sentence):
        NAMES["deploy"](stack, image, None, **TIMES)
    assert len(deployments()) == before


def test_another_strategy_than_the_stacks_is_refused(stack: Any) -> None:
    with pytest.raises(ProjectError, match="set up for rolling; for blue-green, update its parameter Updates"):
        NAMES["deploy"](stack, push_image(), "blue-green", **TIMES)


def test_without_a_key_to_try_it_with_nothing_is_released(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMOKE_API_KEY")
    before = len(deployments())
    with pytest.raises(ProjectError, match="set SMOKE_API_KEY"):
        NAMES["deploy"](stack, push_image(), None, **TIMES)
    assert len(deployments()) == before


def test_rolling_back_without_a_release_before_says_so(stack: Any) -> None:
    with pytest.raises(ProjectError, match="no release before"):
        NAMES["roll_back"](stack, **TIMES)


def test_waiting_has_an_end(stack: Any) -> None:
    stack.timeout_seconds = 0.05
    with pytest.raises(ProjectError, match=r"is not done after 0 seconds"):
        stack.until(lambda: None, "it")


def test_expected_errors_of_aws_are_one_sentence(stacks: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert stacks
    assert run_script(Project(REPOSITORY), SCRIPT, "--stack", "another", "status") == 1
    said = capfd.readouterr().err
    assert said.startswith("release: AWS: ")
    assert len(said.splitlines()) == 1


def test_push_gives_the_digest_or_says_what_is_wrong(
    stack: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    called, run = [], subprocess.run

    def docker(command: list[str], **how: Any) -> "subprocess.CompletedProcess[bytes]":
        """Stands for Docker: what it is asked to push is in ECR afterwards."""
        called.append(command)
        push_image(command[-1].rpartition(":")[2])
        return run(["true"], check=False, **{key: value for key, value in how.items() if key != "check"})

    image = f"{REGISTRY}/credit-risk:7"
    monkeypatch.setenv("CONTAINER_TOOL", "false")  # the program: it fails at whatever it is asked
    with pytest.raises(ProjectError, match=r"false can't push .*; is it built, and are you logged in"):
        NAMES["push"](stack, image)
    monkeypatch.delenv("CONTAINER_TOOL")
    monkeypatch.setattr(subprocess, "run", docker)
    pushed = NAMES["push"](stack, image)
    assert called == [["docker", "push", image]]
    digest = boto3.client("ecr").describe_images(repositoryName="credit-risk", imageIds=[{"imageTag": "7"}])
    assert pushed == f"{REGISTRY}/credit-risk@{digest['imageDetails'][0]['imageDigest']}"
    assert NAMES["push"](stack, image) == pushed
    assert len(called) == 1, "a tag never moves: what is there stays"
    assert capfd.readouterr().out == "", "the caller prints the digest, and nothing else may come with it"
    with pytest.raises(ProjectError, match="is not REPOSITORY:TAG"):
        NAMES["push"](stack, pushed)


# --- CodeDeploy's answers that moto does not have

ID, BACK = "d-ABCDEF123", "d-ROLLBACK1"
GROUP = {"applicationName": STACK, "deploymentGroupName": "rolling"}


def info(status: str, **more: Any) -> Any:
    return {"deploymentInfo": {"status": status, **more}}


@contextmanager
def answers(stack: Any, service: str, *calls: tuple[str, Any, Any]) -> Iterator[None]:
    """AWS gives these answers to these calls, in this order; another call, or a missing one, fails the test."""
    client = boto3.client(service)
    stack.clients[service] = client
    with Stubber(client) as stubber:
        for operation, parameters, answer in calls:
            stubber.add_response(operation, answer, parameters)
        yield
        stubber.assert_no_pending_responses()


def look(status: str, id_: str = ID, **more: Any) -> tuple[str, Any, Any]:
    return ("get_deployment", {"deploymentId": id_}, info(status, **more))


CREATE = ("create_deployment", {**GROUP, "revision": ANY}, {"deploymentId": ID})
UNFINISHED = ["Created", "Queued", "InProgress", "Ready"]


def unfinished(*ids: str, group: Any = GROUP) -> tuple[str, Any, Any]:
    return ("list_deployments", {**group, "includeOnlyStatuses": UNFINISHED}, {"deployments": list(ids)})


def interrupt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody presses Ctrl-C at the script's first pause; other threads sleep, too, and are let alone."""
    left, sleep = [KeyboardInterrupt()], time.sleep

    def interrupted(seconds: float) -> None:
        if left and threading.current_thread() is threading.main_thread():
            raise left.pop()
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", interrupted)


def test_a_failed_deployment_is_told_once_its_rollback_is_done(stack: Any) -> None:
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
    assert NAMES["recall"](stack, "current") is None


def test_ctrl_c_stops_the_deployment_and_rolls_back(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_once(monkeypatch)
    stop = ("stop_deployment", {"deploymentId": ID, "autoRollbackEnabled": True}, {"status": "Pending"})
    rolled = {"rollbackInfo": {"rollbackDeploymentId": BACK}}
    calls = [unfinished(), CREATE, look("InProgress"), look("InProgress"), stop, look("InProgress"), look("Stopped")]
    calls += [look("Stopped", **rolled), look("Succeeded", BACK)]
    with answers(stack, "codedeploy", *calls), pytest.raises(KeyboardInterrupt):
        NAMES["release"](stack, "releases/x.zip", **TIMES)


def test_a_rollback_that_fails_is_not_called_one(stack: Any) -> None:
    rolled = {"rollbackInfo": {"rollbackDeploymentId": BACK}}
    calls = [unfinished(), CREATE, *[look("Stopped", **rolled)] * 3, look("Failed", BACK)]
    with answers(stack, "codedeploy", *calls), pytest.raises(ProjectError, match=f"{BACK} is failed"):
        NAMES["release"](stack, "releases/x.zip", **TIMES)


def test_rollback_stops_what_is_under_way(stack: Any) -> None:
    NAMES["remember"](stack, "current", "releases/old.zip")
    location = {"revision": {"s3Location": {"key": "releases/new.zip"}}}
    stop = ("stop_deployment", {"deploymentId": ID, "autoRollbackEnabled": True}, {"status": "Pending"})
    calls = [unfinished(ID), look("InProgress", **location), look("InProgress"), stop, look("Stopped"), look("Stopped")]
    with answers(stack, "codedeploy", *calls):
        NAMES["roll_back"](stack, **TIMES)
    assert NAMES["recall"](stack, "current") == "releases/old.zip"


# --- blue/green

BLUE_GREEN = GROUP | {"deploymentGroupName": "blue-green"}
SWITCHED = {"instanceTerminationWaitTimeStarted": True}


def test_blue_green_is_done_when_the_traffic_is_on_the_new_servers(stack: Any) -> None:
    """CodeDeploy calls it in progress until the old servers end, an hour later; the next release ends that hour."""
    stack.outputs["Updates"] = "blue-green"
    waiting = "d-WAITING12"
    ending = ("continue_deployment", {"deploymentId": waiting, "deploymentWaitType": "TERMINATION_WAIT"}, {})
    create = (CREATE[0], {**BLUE_GREEN, "revision": ANY}, CREATE[2])
    calls = [
        *(unfinished(waiting, group=BLUE_GREEN), look("InProgress", waiting, **SWITCHED), ending),
        *(look("InProgress", waiting, **SWITCHED), look("Succeeded", waiting), create),
        *(look("InProgress"), look("InProgress", **SWITCHED)),
    ]
    with answers(stack, "codedeploy", *calls):
        NAMES["release"](stack, "releases/x.zip", **TIMES)
    assert NAMES["recall"](stack, "current") == "releases/x.zip"


def test_blue_green_switches_back_when_the_new_servers_answer_wrong(stack: Any, api: Api) -> None:
    stack.outputs["Updates"] = "blue-green"
    api.answer = (500, b"{}")
    stop = ("stop_deployment", {"deploymentId": ID, "autoRollbackEnabled": True}, {"status": "Pending"})
    calls = [
        *(unfinished(group=BLUE_GREEN), (CREATE[0], {**BLUE_GREEN, "revision": ANY}, CREATE[2])),
        *(look("InProgress", **SWITCHED), look("InProgress", **SWITCHED), stop, look("Stopped"), look("Stopped")),
    ]
    with answers(stack, "codedeploy", *calls), pytest.raises(ProjectError, match="/predict answers 500"):
        NAMES["release"](stack, "releases/x.zip", **TIMES)
    assert NAMES["recall"](stack, "current") is None


def test_blue_green_rollback_within_the_hour_switches_back_and_remembers_it(stack: Any) -> None:
    stack.outputs["Updates"] = "blue-green"
    NAMES["remember"](stack, "current", "releases/new.zip")
    NAMES["remember"](stack, "previous", "releases/old.zip")
    location = {"revision": {"s3Location": {"key": "releases/new.zip"}}}
    stop = ("stop_deployment", {"deploymentId": ID, "autoRollbackEnabled": True}, {"status": "Pending"})
    calls = [
        *(unfinished(ID, group=BLUE_GREEN), look("InProgress", **SWITCHED, **location)),
        *(look("InProgress", **SWITCHED), stop, look("Stopped"), look("Stopped")),
    ]
    with answers(stack, "codedeploy", *calls):
        NAMES["roll_back"](stack, **TIMES)
    assert NAMES["recall"](stack, "current") == "releases/old.zip"


@pytest.mark.parametrize("stacks", ["blue-green"], indirect=True)
def test_blue_greens_groups_are_made_from_the_stacks_outputs(stacks: Any, capfd: pytest.CaptureFixture[str]) -> None:
    here, name = Project(REPOSITORY), "7.deploy/blue_green.py"
    assert run_script(here, name) == 0
    assert "release.py can release now" in capfd.readouterr().out
    scaling, outputs = boto3.client("autoscaling"), stacks["servers"]
    (servers,) = scaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    assert servers["AutoScalingGroupName"] == "credit-risk-servers-first"
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
    wished = functions["deployment_group"]("s", outputs)  # moto forgets the names of alarms and of servers' groups
    assert [alarm["name"] for alarm in wished["alarmConfiguration"]["alarms"]] == outputs["Alarms"].split(",")
    assert wished["autoScalingGroups"] == ["s"], "exactly one, or CodeDeploy refuses to copy it"
    # Later, on the copy that serves then: the stack's sizes, and the balancer's check.
    scaling.update_auto_scaling_group(AutoScalingGroupName="credit-risk-servers-first", MaxSize=3)
    serving = {"autoScalingGroups": [{"name": "credit-risk-servers-first"}], "lastSuccessfulDeployment": {"status": 1}}
    assert "health check ELB" in functions["settle"](scaling, serving, outputs)
    (servers,) = scaling.describe_auto_scaling_groups()["AutoScalingGroups"]
    assert (servers["MaxSize"], servers["HealthCheckType"]) == (int(outputs["MaxServers"]), "ELB")


def test_blue_greens_groups_need_a_stack_without_servers(stacks: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert stacks["servers"]["Updates"] == "rolling"
    assert run_script(Project(REPOSITORY), "7.deploy/blue_green.py") == 1
    assert "blue/green: update credit-risk-servers with Updates=blue-green first" in capfd.readouterr().err


# --- instance refresh


def refresh(status: str) -> tuple[str, Any, Any]:
    found = {"InstanceRefreshId": "r-1", "Status": status, "StatusReason": "the alarm rang"}
    return ("describe_instance_refreshes", {"AutoScalingGroupName": STACK}, {"InstanceRefreshes": [found]})


@contextmanager
def refreshing(stack: Any, *statuses: str, undone: bool = False) -> Iterator[None]:
    """Auto Scaling's answers, with the exact wishes that it must be sent; an undoing comes before the last status."""
    stack.outputs["Updates"] = "instance-refresh"
    template = stack.outputs["TemplateId"]
    group = {
        "AutoScalingGroupName": STACK, "MinSize": 2, "MaxSize": 8, "DesiredCapacity": 2, "DefaultCooldown": 300,
        "AvailabilityZones": ["us-east-1a"], "HealthCheckType": "ELB", "CreatedTime": 0,
        "LaunchTemplate": {"LaunchTemplateId": template, "Version": "1"},
    }  # fmt: skip
    wishes = {
        "AutoScalingGroupName": STACK,
        "DesiredConfiguration": {"LaunchTemplate": {"LaunchTemplateId": template, "Version": "2"}},
        "Preferences": {
            "MinHealthyPercentage": 100,
            "MaxHealthyPercentage": 150,
            "InstanceWarmup": 60,
            "SkipMatching": True,
            "CheckpointPercentages": [20, 100],
            "CheckpointDelay": 180,
            "AutoRollback": True,
            "AlarmSpecification": {"Alarms": stack.outputs["Alarms"].split(",")},
            "BakeTime": 120,
        },
    }
    looks = [refresh(status) for status in statuses]
    undoing = ("rollback_instance_refresh", {"AutoScalingGroupName": STACK}, {"InstanceRefreshId": "r-1"})
    calls = [
        ("describe_auto_scaling_groups", {"AutoScalingGroupNames": [STACK]}, {"AutoScalingGroups": [group]}),
        ("start_instance_refresh", wishes, {"InstanceRefreshId": "r-1"}),
        *([*looks[:-2], undoing, *looks[-2:]] if undone else looks),
    ]
    # The new version is the serving one with the release's name in a tag; moto forgets what the source held.
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "release", "Value": "releases/x.zip"}]}]
    version = {
        "LaunchTemplateId": template,
        "SourceVersion": "1",
        "LaunchTemplateData": {"TagSpecifications": tags},
        "VersionDescription": "releases/x.zip",
    }
    made = {"LaunchTemplateVersion": {"LaunchTemplateId": template, "VersionNumber": 2}}
    making = ("create_launch_template_version", version, made)
    with answers(stack, "autoscaling", *calls), answers(stack, "ec2", making):
        yield


def test_a_refresh_names_the_release_in_the_template_and_is_tried_while_it_bakes(stack: Any, api: Api) -> None:
    with refreshing(stack, "Pending", "InProgress", "Baking", "Baking", "Successful"):
        NAMES["release"](stack, "releases/x.zip", **TIMES)
    assert NAMES["recall"](stack, "current") == "releases/x.zip"
    assert len(api.seen) == NAMES["SMOKE_REQUESTS"]


def test_a_refresh_that_answers_wrong_is_rolled_back(stack: Any, api: Api) -> None:
    api.answer = (500, b"{}")
    statuses = ("InProgress", "Baking", "Baking", "RollbackInProgress", "RollbackSuccessful")
    with refreshing(stack, *statuses, undone=True), pytest.raises(ProjectError, match="/predict answers 500"):
        NAMES["release"](stack, "releases/x.zip", **TIMES)
    assert NAMES["recall"](stack, "current") is None


def test_a_refresh_that_an_alarm_has_rolled_back_is_no_release(stack: Any, api: Api) -> None:
    statuses = ("InProgress", "RollbackInProgress", "RollbackInProgress", "RollbackSuccessful")
    with refreshing(stack, *statuses), pytest.raises(ProjectError, match="RollbackInProgress: the alarm rang"):
        NAMES["release"](stack, "releases/x.zip", **TIMES)
    assert not api.seen


def test_ctrl_c_rolls_a_refresh_back(stack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_once(monkeypatch)
    statuses = ("InProgress", "InProgress", "RollbackInProgress", "RollbackSuccessful")
    with refreshing(stack, *statuses, undone=True), pytest.raises(KeyboardInterrupt):
        NAMES["release"](stack, "releases/x.zip", **TIMES)
