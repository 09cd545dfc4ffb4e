"""release.py on the stacks in moto, with an emulation of CodeDeploy and of the API behind the load balancer."""

import base64
import hashlib
import io
import json
import signal
import subprocess
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from clouds import PREFIX, REGISTRY, cloud, template, text
from fake_codedeploy import LOG, CodeDeploy, Deployment
from projects import REPOSITORY, Project, run_script, wait_until

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.rollout import images, releases, servers
from credit_risk.rollout.releases import Options
from credit_risk.rollout.stack import Color, Stack, Unfinished

SCRIPT, STACK = "7.deploy/release.py", f"{PREFIX}-servers"
KEY = "a key for the smoke test"
GOOD = {"probability": 0.25, "decision": "yes", "model_version": "3"}
ROLLING, BLUE_GREEN = Options("rolling", 0), Options("blue-green", 0)


class Api:
    """An address whose answer to /predict is configurable."""

    def __init__(self, answer: Callable[[], tuple[int, bytes]]) -> None:
        self.seen: list[tuple[str, Any, str | None]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                api.seen.append((self.path, json.loads(body), self.headers["x-api-key"]))
                status, content = answer()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@dataclass
class World:
    """The servers in moto, what they answer, and what happens to them."""

    stack: Stack
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)  # by image; others answer well
    failing: dict[str, int] = field(default_factory=dict)  # image: number of the server on which it fails
    shares: list[int] = field(default_factory=list)  # that green got, in this order

    def __post_init__(self) -> None:
        self.public = Api(lambda: self.answer(self.heavier))
        self.tested = Api(lambda: self.answer(self.connected))
        self.stack.outputs.update(Url=self.public.url, TestUrl=self.tested.url)
        self.codedeploy = CodeDeploy(self.stack, self.fails)
        self.stack.clients["codedeploy"] = self.codedeploy
        self.heavier: Color = "blue"  # has most of the public traffic
        self.connected: Color = "blue"  # with the test listener
        self.images: dict[str, str] = {"": ""}
        events = self.stack.client("elbv2").meta.events
        for operation in ("ModifyRule", "ModifyListener"):
            events.register(f"provide-client-params.elastic-load-balancing-v2.{operation}", self.observe)

    def observe(self, params: Any, **_: Any) -> None:
        """Notes where the traffic goes."""
        (forward,) = params.get("Actions") or params["DefaultActions"]
        targets = forward["ForwardConfig"]["TargetGroups"]
        weights = {one["TargetGroupArn"]: one["Weight"] for one in targets}
        share = weights.get(self.stack.outputs["GreenTargetArn"], 0)
        color: Color = "green" if share > 50 else "blue"
        if "Actions" in params:
            self.shares.append(share)
            self.heavier = color
        else:
            self.connected = color

    def image(self, key: str) -> str:
        if key not in self.images:
            self.images[key] = images.image_of(self.stack, key)
        return self.images[key]

    def fails(self, key: str, number: int) -> bool:
        return self.failing.get(self.image(key)) == number

    def answer(self, color: Color) -> tuple[int, bytes]:
        key = (self.codedeploy.keys(color) or [""])[-1]
        return self.answers.get(self.image(key), (200, json.dumps(GOOD).encode()))

    def serving(self) -> set[str]:
        """The images on all servers that get traffic."""
        colors: tuple[Color, ...] = ("blue", "green")
        keys = [key for color in colors if servers.weight(self.stack, color) for key in self.codedeploy.keys(color)]
        return {self.image(key) for key in keys}

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Minimum and desired size of each group."""
        found = client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        return {
            group["AutoScalingGroupName"].rpartition("-")[2]: (group["MinSize"], group["DesiredCapacity"])
            for group in found
        }

    def serving_parameter(self) -> str:
        name = self.stack.outputs["ServingParameter"]
        return str(client("ssm").get_parameter(Name=name)["Parameter"]["Value"])

    def alarm(self, number: int, color: Color = "blue") -> str:
        return self.stack.of(color, "Alarms").split(",")[number]


@pytest.fixture(scope="module")
def outputs() -> Iterator[dict[str, str]]:
    with cloud() as made:
        yield made["servers"]
        CLIENTS.clear()


CLIENTS: dict[str, Any] = {}  # of boto3, which take long to make


def client(service: str) -> Any:
    if service not in CLIENTS:
        CLIENTS[service] = boto3.client(service)
    return CLIENTS[service]


@pytest.fixture
def world(outputs: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The stack before its first release, with no active alarm and short pauses."""
    monkeypatch.setenv("SMOKE_API_KEY", KEY)
    client("s3").delete_object(Bucket=outputs["ReleasesBucket"], Key="state.json")
    shared = {service: client(service) for service in ("autoscaling", "cloudwatch", "ecr", "s3", "ssm")}
    stack = Stack(STACK, poll_seconds=0.001, timeout_seconds=20, clients=shared)
    stack.outputs = dict(outputs)
    releases.settle(stack, stack.state())
    client("autoscaling").set_desired_capacity(AutoScalingGroupName=outputs["BlueServers"], DesiredCapacity=2)
    for color in ("blue", "green"):
        for name in outputs[f"{color.capitalize()}Alarms"].split(","):
            put_alarm(name, "OK")
    world = World(stack)
    yield world
    world.public.close()
    world.tested.close()


def put_alarm(name: str, state: str) -> None:
    alarms = client("cloudwatch")
    alarms.put_metric_alarm(
        AlarmName=name, ComparisonOperator="GreaterThanThreshold", EvaluationPeriods=1, Threshold=1, MetricName="m",
        Namespace="n", Period=60, Statistic="Sum",
    )  # fmt: skip
    alarms.set_alarm_state(AlarmName=name, StateValue=state, StateReason="the test")


def push_image(tag: str = "") -> str:
    """Puts an image into moto's ECR; returns its reference by digest."""
    tag = tag or uuid.uuid4().hex
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    # moto derives the digest from the layers.
    blob = {"digest": "sha256:" + hashlib.sha256(tag.encode()).hexdigest()}
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": blob, "layers": [blob]}
    put = client("ecr").put_image(repositoryName=PREFIX, imageManifest=json.dumps(manifest), imageTag=tag)
    return f"{REGISTRY}/{PREFIX}@{put['image']['imageId']['imageDigest']}"


# --- the bundle


def test_bundle_has_the_files_of_appspec_and_is_reproducible() -> None:
    image = f"{REGISTRY}/{PREFIX}@sha256:{'a' * 64}"
    content = images.bundle(image)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = set(archive.namelist())
        spec = yaml.safe_load(archive.read("appspec.yml"))
        hooks = {hook["location"] for event in spec["hooks"].values() for hook in event}
        timers = {"hooks/send_metrics.sh", "hooks/upload_log.sh"}
        assert names == hooks | timers | {"appspec.yml", "hooks/common.sh", "image.env", "example.json"}
        assert archive.read("image.env").decode() == f"IMAGE={image}\n"
        assert all(archive.getinfo(name).external_attr >> 16 & 0o111 for name in hooks)
    assert content == images.bundle(image)
    assert content != images.bundle(image.replace("a" * 64, "b" * 64))


@pytest.mark.fault(
    "`deploy` or `rollback` of an image without the attestation that servers verify", "refused before anything changes"
)
def test_servers_that_verify_images_get_the_attestation_again_at_a_rollback(world: World, tmp_path: Path) -> None:
    path = tmp_path / "attestation.jsonl"
    images_made = [push_image() for _ in range(3)]
    releases.deploy(world.stack, images_made[0], ROLLING)  # when servers verified nothing
    world.stack.outputs["SignerRepository"] = "owner/name"
    with pytest.raises(ProjectError, match="give --attestation FILE; `gh attestation download oci://"):
        releases.deploy(world.stack, images_made[1], ROLLING)
    for content in ("", "no JSON", attestation_of(images_made[0])):
        path.write_text(content)
        with pytest.raises(ProjectError, match=r"attestation.jsonl is no attestation of"):
            releases.deploy(world.stack, images_made[1], replace(ROLLING, attestation=path))
    with pytest.raises(ProjectError, match=r"can't read the attestation .*: No such file"):
        releases.deploy(world.stack, images_made[1], replace(ROLLING, attestation=tmp_path / "none"))
    assert world.serving() == {images_made[0]}
    for image in images_made[1:]:
        path.write_text(attestation_of(image))
        releases.deploy(world.stack, image, replace(ROLLING, attestation=path))
    releases.roll_back(world.stack)
    assert world.serving() == {images_made[1]}
    (key,) = set(world.codedeploy.keys("blue"))
    body = client("s3").get_object(Bucket=world.stack.outputs["ReleasesBucket"], Key=key)["Body"].read()
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.read("attestation.jsonl").decode() == attestation_of(images_made[1])
    with pytest.raises(ProjectError, match="the release before has no attestation"):
        releases.roll_back(world.stack)
    assert world.serving() == {images_made[1]}


def attestation_of(image: str) -> str:
    """In the form of GitHub's, without a signature."""
    claim = json.dumps({"subject": [{"digest": {"sha256": image.rpartition(":")[2]}}]})
    return json.dumps({"dsseEnvelope": {"payload": base64.b64encode(claim.encode()).decode()}}) + "\n"


# --- rolling


def test_release_and_rollback(world: World) -> None:
    first, second = push_image(), push_image()
    releases.deploy(world.stack, first, ROLLING)
    assert world.stack.state().previous is None
    releases.deploy(world.stack, second, ROLLING)
    shown = releases.status(world.stack)
    assert (shown["current"], shown["previous"]) == (second, first)
    assert world.serving() == {second}
    releases.roll_back(world.stack)
    shown = releases.status(world.stack)
    # What was rolled back is no place to go back to.
    assert (shown["current"], shown["previous"], shown["unfinished"]) == (first, "none", "none")
    assert shown["blue"] == "100 % of the traffic, 2 of 2 servers healthy"
    assert shown["green"] == "0 % of the traffic, 0 of 0 servers healthy"
    assert world.serving() == {first}
    with pytest.raises(ProjectError, match="no release before this one"):
        releases.roll_back(world.stack)
    assert world.public.seen[-1] == ("/predict", CONTRACT.example, KEY)
    assert world.shares == []
    assert {one.config for one in world.codedeploy.deployments} == {"CodeDeployDefault.OneAtATime"}


@pytest.mark.fault("the new release answers wrongly", "it is undone; the one before serves")
@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"{}"),
        (401, b'{"detail":"X-API-Key is missing or unknown"}'),
        (200, b"hello"),
        (200, b"[]"),
        (200, json.dumps(GOOD | {"probability": 1.5}).encode()),
        (200, json.dumps(GOOD | {"probability": "0.5"}).encode()),
        (200, json.dumps(GOOD | {"probability": 0.2501}).encode()),  # not what the release before answered
        (200, json.dumps(GOOD | {"model_version": "2"}).encode()),  # not the champion
    ],
)
def test_release_with_wrong_responses_is_undone(world: World, status: int, body: bytes) -> None:
    good, bad = push_image(), push_image()
    releases.deploy(world.stack, good, ROLLING)
    world.answers[bad] = (status, body)
    with pytest.raises(ProjectError, match="/predict"):
        releases.deploy(world.stack, bad, ROLLING)
    assert world.serving() == {good}
    assert releases.status(world.stack)["current"] == good
    assert world.stack.state().unfinished is None


def test_bad_first_release_stays(world: World) -> None:
    bad = push_image()
    world.answers[bad] = (500, b"{}")
    with pytest.raises(ProjectError, match="no release before this one; it stays"):
        releases.deploy(world.stack, bad, ROLLING)
    releases.deploy(world.stack, push_image(), ROLLING)


@pytest.mark.fault("an alarm rings during the bake time", "it is undone, although the alarm goes on")
def test_alarm_during_the_bake_time_undoes_although_it_goes_on_ringing(world: World) -> None:
    good, slow = push_image(), push_image()
    releases.deploy(world.stack, good, ROLLING)
    alarm = world.alarm(2)
    ring = threading.Timer(0.5, put_alarm, (alarm, "ALARM"))
    ring.start()
    with pytest.raises(ProjectError, match=f"alarm: {alarm}"):
        releases.deploy(world.stack, slow, replace(ROLLING, bake_seconds=30))
    ring.join()
    assert world.serving() == {good}


@pytest.mark.fault("an alarm rings and somebody rolls back", "the release before serves and stays")
def test_rollback_works_while_the_alarm_rings_and_is_not_undone(world: World) -> None:
    good, bad = push_image(), push_image()
    releases.deploy(world.stack, good, ROLLING)
    releases.deploy(world.stack, bad, ROLLING)
    put_alarm(world.alarm(0), "ALARM")
    with pytest.raises(ProjectError, match=f"alarm: {world.alarm(0)}; `release.py rollback` goes back"):
        releases.deploy(world.stack, push_image(), ROLLING)
    releases.roll_back(world.stack)
    assert world.serving() == {good}
    assert len(world.codedeploy.deployments) == 3


def test_failed_rollback_stays_and_can_be_repeated(world: World) -> None:
    good, bad = push_image(), push_image()
    releases.deploy(world.stack, good, ROLLING)
    releases.deploy(world.stack, bad, ROLLING)
    world.failing[good] = 2
    with pytest.raises(ProjectError, match="failed on 1 servers"):
        releases.roll_back(world.stack)
    with pytest.raises(ProjectError, match=r"run `release\.py rollback` again"):
        releases.undo(world.stack)
    world.failing.clear()
    releases.roll_back(world.stack)
    assert world.serving() == {good}


def test_fix_is_released_despite_an_alarm(world: World) -> None:
    """An alarm that rang before counts again once it was OK; the release that rang is no place to go back to."""
    good, bad, worse, fix = (push_image() for _ in range(4))
    releases.deploy(world.stack, good, ROLLING)
    releases.deploy(world.stack, bad, ROLLING)
    alarm = world.alarm(1)
    put_alarm(alarm, "ALARM")
    options = replace(ROLLING, despite_alarm=True)

    def ring_again(_: Deployment) -> None:
        world.codedeploy.at_look = lambda _: None
        threading.Timer(0.3, put_alarm, (alarm, "OK")).start()
        threading.Timer(0.8, put_alarm, (alarm, "ALARM")).start()

    world.codedeploy.at_look = ring_again
    with pytest.raises(ProjectError, match=f"alarm: {alarm}"):
        releases.deploy(world.stack, worse, replace(options, bake_seconds=30))
    assert world.serving() == {bad}
    releases.deploy(world.stack, fix, options)
    assert world.serving() == {fix}
    shown = releases.status(world.stack)
    assert (shown["current"], shown["previous"]) == (fix, good)


@pytest.mark.fault("Auto Scaling starts a server during a rollback", "its deployment is waited for")
def test_rollback_waits_for_the_deployments_of_auto_scaling(world: World) -> None:
    good, bad = push_image(), push_image()
    releases.deploy(world.stack, good, ROLLING)
    releases.deploy(world.stack, bad, ROLLING)
    scale_out = world.codedeploy.begin("blue", world.stack.state().current or "", "autoscaling")
    releases.roll_back(world.stack)
    assert scale_out.status == "Succeeded", "it was not stopped"
    assert world.serving() == {good}


@pytest.mark.fault("one server fails, even the last one", "the release is undone and says what the hook said")
@pytest.mark.parametrize("server", [1, 2], ids=["first", "last"])
def test_release_that_fails_on_a_server_is_undone_and_says_why(world: World, server: int) -> None:
    """One at a time, CodeDeploy calls a deployment successful that has failed on the last server."""
    good, bad = push_image(), push_image()
    releases.deploy(world.stack, good, ROLLING)
    world.failing[bad] = server
    with pytest.raises(ProjectError, match="ValidateService:") as caught:
        releases.deploy(world.stack, bad, ROLLING)
    assert LOG in str(caught.value)
    assert world.serving() == {good}


def test_undo_accepts_what_codedeploy_has_rolled_back_by_itself(world: World) -> None:
    good, bad = push_image(), push_image()
    releases.deploy(world.stack, good, ROLLING)
    world.failing[bad] = 1
    key = world.stack.state().current or ""

    def roll_back(deployment: Deployment) -> None:
        if not deployment.rollback and deployment.creator == "user":
            deployment.rollback = world.codedeploy.begin("blue", key, "codeDeployRollback").id

    world.codedeploy.at_look = roll_back
    with pytest.raises(ProjectError, match="HEALTH_CONSTRAINTS"):
        releases.deploy(world.stack, bad, ROLLING)
    assert world.serving() == {good}
    assert [one.creator for one in world.codedeploy.deployments] == ["user", "user", "codeDeployRollback"]


def interrupt(world: World) -> None:
    """Sends Ctrl-C to this process at the next look at a running deployment."""

    def send(_: Deployment) -> None:
        world.codedeploy.at_look = lambda _: None
        signal.raise_signal(signal.SIGINT)

    world.codedeploy.at_look = send


def test_ctrl_c_stops_the_deployment_and_goes_back(world: World) -> None:
    good, bad = push_image(), push_image()
    releases.deploy(world.stack, good, ROLLING)
    interrupt(world)
    with pytest.raises(KeyboardInterrupt):
        releases.deploy(world.stack, bad, ROLLING)
    assert [one.status for one in world.codedeploy.deployments] == ["Succeeded", "Stopped", "Succeeded"]
    assert world.serving() == {good}


@pytest.mark.fault("the release's process is killed", "`release.py undo` ends it, as often as you like")
def test_undo_ends_a_release_whose_process_was_killed_and_can_be_repeated(world: World) -> None:
    good, bad = push_image(), push_image()
    releases.deploy(world.stack, good, ROLLING)
    state = world.stack.state()
    key = images.upload(world.stack, bad)
    running = world.codedeploy.begin("blue", key)
    world.stack.record(replace(state, unfinished=Unfinished("x", key, "rolling", "blue", running.id)))
    with pytest.raises(ProjectError, match="has not finished: wait for it, or undo it"):
        releases.deploy(world.stack, push_image(), ROLLING)
    releases.undo(world.stack, good)
    assert running.status == "InProgress", "the release of another image is left alone"
    releases.undo(world.stack, bad)
    assert running.status == "Stopped"
    assert world.serving() == {good}
    for _ in range(2):
        releases.undo(world.stack)
    assert len(world.codedeploy.deployments) == 3, "nothing more was deployed"


# --- blue/green


def test_blue_green_takes_over_in_steps(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    first, second, third = (push_image() for _ in range(3))
    releases.deploy(world.stack, first, ROLLING)
    client("autoscaling").set_desired_capacity(AutoScalingGroupName=f"{STACK}-blue", DesiredCapacity=3)
    during: list[Any] = []
    world.codedeploy.at_look = lambda _: during.append((world.sizes(), list(world.shares)))
    releases.deploy(world.stack, second, BLUE_GREEN)
    # The new group is as large as the old one, scaling may remove none of both, and nobody sees it before it is tested.
    assert during[-1] == ({"blue": (3, 3), "green": (3, 3)}, [])
    assert world.tested.seen[-1] == ("/predict", CONTRACT.example, KEY)
    assert world.shares == [5, 25, 100]
    assert world.sizes() == {"blue": (0, 0), "green": (2, 3)}
    assert world.serving_parameter() == "green"
    assert world.serving() == {second}
    assert world.codedeploy.deployments[-1].config == "CodeDeployDefault.AllAtOnce"
    # The next one goes to the other group, and a rollback stays in the group that serves.
    releases.deploy(world.stack, third, BLUE_GREEN)
    assert world.shares[3:] == [95, 75, 0]
    assert world.sizes() == {"blue": (2, 3), "green": (0, 0)}
    releases.roll_back(world.stack)
    assert world.serving() == {second}
    assert world.stack.state().serving == "blue"
    assert "green gets 25 % of the traffic" in capfd.readouterr().out


@pytest.mark.parametrize(
    "answer", [(500, b"{}"), (200, json.dumps(GOOD | {"model_version": "2"}).encode())], ids=["error", "not champion"]
)
def test_blue_green_with_wrong_answers_gets_no_traffic(world: World, answer: tuple[int, bytes]) -> None:
    good, bad = push_image(), push_image()
    releases.deploy(world.stack, good, ROLLING)
    world.answers[bad] = answer
    with pytest.raises(ProjectError, match=f"{world.tested.url}/predict"):
        releases.deploy(world.stack, bad, BLUE_GREEN)
    assert world.shares == []
    assert world.sizes() == {"blue": (2, 2), "green": (0, 0)}
    assert world.serving() == {good}


@pytest.mark.fault("a bad release gets 5 % of the traffic", "the weights go back")
def test_alarm_of_the_new_group_takes_its_traffic_back(world: World) -> None:
    good, bad = push_image(), push_image()
    releases.deploy(world.stack, good, ROLLING)
    alarm = world.alarm(1, "green")

    def ring(params: Any, **_: Any) -> None:
        if 25 in [one["Weight"] for one in params["Actions"][0]["ForwardConfig"]["TargetGroups"]]:
            put_alarm(alarm, "ALARM")

    events = world.stack.client("elbv2").meta.events
    events.register("provide-client-params.elastic-load-balancing-v2.ModifyRule", ring)
    with pytest.raises(ProjectError, match=f"alarm: {alarm}"):
        releases.deploy(world.stack, bad, BLUE_GREEN)
    assert world.shares == [5, 25, 0]
    assert world.sizes() == {"blue": (2, 2), "green": (0, 0)}
    assert (world.stack.state().serving, world.serving_parameter()) == ("blue", "blue")
    assert world.serving() == {good}


def test_blue_green_release_whose_process_was_killed_is_undone_by_its_weights(world: World) -> None:
    good, bad = push_image(), push_image()
    releases.deploy(world.stack, good, ROLLING)
    key = images.upload(world.stack, bad)
    servers.set_minimum(world.stack, "green", 2)
    servers.set_weight(world.stack, "green", 100)
    world.stack.record(replace(world.stack.state(), unfinished=Unfinished("x", key, "blue-green", "green")))
    before = len(world.codedeploy.deployments)
    releases.roll_back(world.stack)  # undoes what has not finished
    assert world.shares == [100, 0]
    assert world.serving() == {good}
    assert world.sizes() == {"blue": (2, 2), "green": (0, 0)}
    assert len(world.codedeploy.deployments) == before


def test_release_ends_when_another_process_undoes_it(world: World) -> None:
    good, new = push_image(), push_image()
    releases.deploy(world.stack, good, ROLLING)
    operator = Stack(STACK, poll_seconds=0.001, timeout_seconds=20, clients={"codedeploy": world.codedeploy})

    def go_back() -> None:
        while servers.weight(operator, "green") != 5:
            time.sleep(0.01)
        releases.roll_back(operator)

    thread = threading.Thread(target=go_back)
    thread.start()
    with pytest.raises(ProjectError, match="undone by another process"):
        releases.deploy(world.stack, new, replace(BLUE_GREEN, bake_seconds=30))
    thread.join()
    assert servers.weight(world.stack, "green") == 0
    assert world.sizes() == {"blue": (2, 2), "green": (0, 0)}
    assert world.serving() == {good}


@pytest.mark.fault("a stack is updated while servers are busy", "number of servers and traffic stay")
@pytest.mark.filterwarnings("ignore:Tried to parse AWS:")
def test_update_of_the_stack_keeps_sizes_and_traffic(world: World) -> None:
    releases.deploy(world.stack, push_image(), BLUE_GREEN)
    cloudformation = boto3.client("cloudformation")
    serving = {"Serving": world.stack.outputs["ServingParameter"]}  # moto describes its value instead
    changes = {"servers": serving | {"MaxServers": "9", "MinServers": "4"}, "balancer": {"SlowSeconds": "1"}}
    for name, change in changes.items():
        (found,) = cloudformation.describe_stacks(StackName=f"{PREFIX}-{name}")["Stacks"]
        given = {one["ParameterKey"]: one["ParameterValue"] for one in found["Parameters"]} | change
        cloudformation.update_stack(
            StackName=f"{PREFIX}-{name}",
            TemplateBody=text(name),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
            Capabilities=["CAPABILITY_IAM"],
        )
    minimums = {color: minimum for color, (minimum, _) in world.sizes().items()}
    assert minimums == {"blue": 0, "green": 4}, "the update knows which group serves"
    assert servers.weight(world.stack, "green") == 100
    # CloudFormation sends what is in the template (and moto the minimum, if there is nothing).
    groups = [one for one in template("servers")["Resources"].values() if "AutoScalingGroup" in one["Type"]]
    assert [group["Properties"].get("DesiredCapacity") for group in groups] == [None, None]


# --- images


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (f"{REGISTRY}/{PREFIX}:latest", "is not REPOSITORY@sha256"),
        (f"{REGISTRY}/other@sha256:{'0' * 64}", "can pull from .*, not from other"),
        (f"{REGISTRY}/{PREFIX}@sha256:{'0' * 64}", "is not in its repository; push it first"),
    ],
)
def test_image_that_servers_can_not_pull_is_rejected(world: World, image: str, sentence: str) -> None:
    with pytest.raises(ProjectError, match=sentence):
        releases.deploy(world.stack, image, ROLLING)
    assert world.codedeploy.deployments == []


def test_released_images_have_a_tag_that_does_not_expire(world: World) -> None:
    image = push_image()
    for _ in range(2):
        releases.deploy(world.stack, image, ROLLING)
    digest = image.partition("@")[2]
    (found,) = client("ecr").describe_images(repositoryName=PREFIX, imageIds=[{"imageDigest": digest}])["imageDetails"]
    protected = [tag for tag in found["imageTags"] if tag.startswith(images.PROTECTED)]
    assert protected == [f"released-{digest[7:19]}"]
    repository = template("images")["Resources"]["Api"]["Properties"]
    rules = json.loads(repository["LifecyclePolicy"]["LifecyclePolicyText"])["rules"]
    first = min(rules, key=lambda rule: rule["rulePriority"])
    # An image that matches a rule's tags is out of reach for rules of lower priority.
    assert (first["selection"]["tagPrefixList"], first["selection"]["countType"]) == (
        [images.PROTECTED],
        "imageCountMoreThan",
    )


@pytest.mark.fault("the image to go back to is gone", "said at once; nothing changes")
def test_rollback_needs_the_image(world: World) -> None:
    gone, current = push_image(), push_image()
    releases.deploy(world.stack, gone, ROLLING)
    releases.deploy(world.stack, current, ROLLING)
    digest = gone.partition("@")[2]
    client("ecr").batch_delete_image(repositoryName=PREFIX, imageIds=[{"imageDigest": digest}])
    with pytest.raises(ProjectError, match="is not in its repository"):
        releases.roll_back(world.stack)
    assert world.serving() == {current}


# --- the command and the workflow


def steps_of_deploy() -> list[Any]:
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "release.yml").read_text())
    return list(workflow["jobs"]["deploy"]["steps"])


@pytest.mark.fault("the workflow is cancelled", "the release is interrupted and undone")
def test_cancelled_workflow_interrupts_the_release(tmp_path: Path) -> None:
    """The runner signals the process of the step alone, not its children."""
    (step,) = [step for step in steps_of_deploy() if step.get("name") == "Deploy"]
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        "#!/bin/bash\ntrap 'echo $* >interrupted; exit 130' INT\ntouch started\nwhile :; do sleep 0.05; done\n"
    )
    python.chmod(0o755)
    (tmp_path / "step").write_text(step["run"])
    environment = {"PATH": "/usr/bin:/bin", "STACK": "s", "STRATEGY": "rolling", "IMAGE": "i"}
    job = subprocess.Popen(["bash", "-e", "step"], cwd=tmp_path, env=environment)
    wait_until((tmp_path / "started").exists, "the step", 20)
    job.send_signal(signal.SIGINT)
    try:
        assert job.wait(5) == 130
    finally:
        job.kill()
    assert "deploy --strategy rolling --image i" in (tmp_path / "interrupted").read_text()


def test_workflow_undoes_what_is_left() -> None:
    deploy = next(number for number, step in enumerate(steps_of_deploy()) if step.get("name") == "Deploy")
    undo = steps_of_deploy()[deploy + 1]
    assert undo["if"] == "cancelled() || failure()"
    assert undo["run"].endswith(' undo --image "$IMAGE"'), "not the release of somebody else"


def test_nothing_is_released_without_a_smoke_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMOKE_API_KEY")
    with pytest.raises(ProjectError, match="set SMOKE_API_KEY"):
        releases.deploy(world.stack, push_image(), ROLLING)
    assert world.codedeploy.deployments == []


def test_waiting_times_out(world: World) -> None:
    world.stack.timeout_seconds = 0.05
    with pytest.raises(ProjectError, match="timed out after 0 seconds waiting for it"):
        world.stack.wait_for(lambda: None, "it")


def script(*arguments: str) -> int:
    """Runs release.py, whose signal handlers end with it."""
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        return run_script(Project(REPOSITORY), SCRIPT, *arguments)
    finally:
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGINT, before[1])


def test_image_that_serves_is_printed_for_the_scan(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    image = push_image()
    for expected in ("none", image):
        capfd.readouterr()
        assert script("image") == 0
        assert capfd.readouterr().out == f"{expected}\n"
        releases.deploy(world.stack, image, ROLLING)


def test_errors_of_aws_are_one_line(outputs: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    assert outputs
    assert script("--stack", "another", "status") == 1
    error = capfd.readouterr().err
    assert error.startswith("release: AWS: ")
    assert len(error.splitlines()) == 1
