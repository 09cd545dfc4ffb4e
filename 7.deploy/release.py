"""Releases an image to the servers on AWS with CodeDeploy, and rolls back when something is wrong.

A release is a zip in S3: appspec.yml, the hooks and the image's digest. `deploy` uploads it, waits for CodeDeploy,
sends smoke requests to the public address and watches the alarms. If one of these fails, or on Ctrl-C or SIGTERM, the
previous release is restored. The stack's parameter Strategy selects rolling or blue/green.

uv run 7.deploy/release.py push --image REPOSITORY:TAG         push with docker or podman, print the digest
uv run 7.deploy/release.py deploy --image REPOSITORY@sha256:…  release an image
uv run 7.deploy/release.py rollback                            restore the previous release
uv run 7.deploy/release.py status                              show releases, servers and alarms

Environment: AWS credentials and region, as for boto3; SMOKE_API_KEY, a key that the API accepts; CONTAINER_TOOL, docker
by default.
"""

from credit_risk.core.entry_point import run

import argparse
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import boto3
import requests
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root

DIGEST_REF = re.compile(r"(?P<registry>[^/]+)/(?P<repository>[^@:]+)@(?P<digest>sha256:[0-9a-f]{64})")
TAG_REF = re.compile(r"(?P<registry>[^/]+)/(?P<repository>[^@:]+):(?P<tag>[\w.-]+)")
NOT_FOUND = {"404", "NoSuchKey", "ImageNotFoundException"}
SMOKE_REQUESTS, SMOKE_SECONDS = 10, 10


def main() -> None:
    """Parses the command line and runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stack_name = f"{CONTRACT.problem.name}-servers"
    parser.add_argument("--stack", default=stack_name, help="stack of aws/servers.yaml (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    push_parser = commands.add_parser("push", help="push an image and print its digest")
    push_parser.add_argument("--image", required=True, help="local image, as REPOSITORY:TAG")
    deploy_parser = commands.add_parser("deploy", help="release an image")
    deploy_parser.add_argument("--image", required=True, help="REPOSITORY@sha256:…")
    rollback_parser = commands.add_parser("rollback", help="restore the previous release")
    for command in (deploy_parser, rollback_parser):
        command.add_argument("--bake-seconds", type=float, default=300, help="watch the alarms (default: %(default)s)")
        command.add_argument("--timeout-seconds", type=float, default=3600, help="default: %(default)s")
    commands.add_parser("status", help="show releases, servers and alarms")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cancelled workflow rolls back like Ctrl-C
    stack = Stack(arguments.stack, timeout_seconds=getattr(arguments, "timeout_seconds", 0))
    try:
        match arguments.command:
            case "push":
                print(push(stack, arguments.image))
            case "deploy":
                deploy(stack, arguments.image, arguments.bake_seconds)
            case "rollback":
                roll_back(stack, arguments.bake_seconds)
            case "status":
                print("\n".join(f"{name:<10} {value}" for name, value in status(stack).items()))
    except (BotoCoreError, ClientError) as error:
        raise ProjectError(f"AWS: {' '.join(str(error).split())}") from error


@dataclass
class Stack:
    """The stack of servers: its outputs, its AWS clients and the releases recorded in its bucket."""

    name: str
    poll_seconds: float = 5
    timeout_seconds: float = 3600
    clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        """The boto3 client of a service, created on first use."""
        if service not in self.clients:
            self.clients[service] = boto3.client(service, config=Config(retries={"mode": "standard"}))
        return self.clients[service]

    @cached_property
    def outputs(self) -> dict[str, str]:
        """The outputs of the stack, by key."""
        (found,) = self.client("cloudformation").describe_stacks(StackName=self.name)["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}

    def wait_for(self, poll: Callable[[], Any], description: str) -> Any:
        """Polls until the result is truthy; returns it.

        Raises:
            ProjectError: it takes longer than `timeout_seconds`.
        """
        deadline = time.monotonic() + self.timeout_seconds
        while not (result := poll()):
            if time.monotonic() > deadline:
                raise ProjectError(f"timed out after {self.timeout_seconds:.0f} seconds waiting for {description}")
            time.sleep(self.poll_seconds)
        return result

    def recorded_release(self, which: str) -> str | None:
        """The bucket key of the `current` or `previous` release; None if there is none."""
        try:
            found = self.client("s3").get_object(Bucket=self.outputs["ReleasesBucket"], Key=which)
        except ClientError as error:
            if error.response["Error"]["Code"] in NOT_FOUND:
                return None
            raise
        return str(found["Body"].read().decode())

    def record_release(self, which: str, key: str) -> None:
        """Records the bucket key of the `current` or `previous` release."""
        self.client("s3").put_object(Bucket=self.outputs["ReleasesBucket"], Key=which, Body=key.encode())


class Deployment:
    """A CodeDeploy deployment in the group of the stack, which is named after its strategy."""

    def __init__(self, stack: Stack) -> None:
        """Takes the stack; `start` creates the deployment."""
        self._stack, self._id = stack, ""
        self._group = {
            "applicationName": stack.outputs["Application"],
            "deploymentGroupName": stack.outputs["Strategy"],
        }

    def start(self, key: str) -> None:
        """Creates the deployment of a release.

        An earlier blue/green deployment that only waits to terminate its old servers is continued first.
        """
        for waiting in self._unfinished():
            if _has_switched(self._info(waiting)):
                self._call("continue_deployment", deploymentId=waiting, deploymentWaitType="TERMINATION_WAIT")
                self._wait_for_end(waiting)
        location = {"bucket": self._stack.outputs["ReleasesBucket"], "key": key, "bundleType": "zip"}
        revision = {"revisionType": "S3", "s3Location": location}
        self._id = self._call("create_deployment", **self._group, revision=revision)["deploymentId"]

    def wait(self) -> None:
        """Waits until the new release has all traffic.

        Blue/green is then still in progress: the old servers are kept for an hour, so that a rollback takes seconds.

        Raises:
            ProjectError: the deployment has failed or was stopped, by an alarm or by somebody.
        """
        info = self._stack.wait_for(self._switched_or_ended, f"the deployment {self._id}")
        if info["status"] in {"Failed", "Stopped"}:
            reason = info.get("errorInformation", {})
            message = f"{reason.get('code', '')} {reason.get('message', '')}"
            raise ProjectError(f"the deployment {self._id} has {info['status'].lower()}: {message}")

    def undo(self) -> None:
        """Restores the previous release: CodeDeploy rolls back what it stops; after success, it is deployed again."""
        status = self._info(self._id)["status"]
        if status == "Succeeded":
            previous = self._stack.recorded_release("current")
            if not previous:
                raise ProjectError("there is no previous release to restore; this one stays")
            again = Deployment(self._stack)
            again.start(previous)
            again.wait()
            return
        if status not in {"Failed", "Stopped"}:
            self._call("stop_deployment", deploymentId=self._id, autoRollbackEnabled=True)
            self._wait_for_end(self._id)
        if rollback := self._info(self._id).get("rollbackInfo", {}).get("rollbackDeploymentId"):
            self._id = rollback
            self.wait()

    def undo_unfinished(self) -> str | None:
        """Stops a deployment in progress; returns the bucket key of its release, or None without one."""
        unfinished = self._unfinished()
        if not unfinished:
            return None
        self._id = unfinished[0]
        location = self._info(self._id)["revision"]["s3Location"]
        self.undo()
        return str(location["key"])

    def latest(self) -> str:
        """Id and status of the latest deployment."""
        found = self._call("list_deployments", **self._group)["deployments"][:1]
        return " ".join([*found, *(self._info(id_)["status"] for id_ in found)]) or "none"

    def _unfinished(self) -> list[str]:
        states = ["Created", "Queued", "InProgress", "Ready"]
        return list(self._call("list_deployments", **self._group, includeOnlyStatuses=states)["deployments"])

    def _wait_for_end(self, deployment_id: str) -> None:
        self._stack.wait_for(lambda: _has_ended(self._info(deployment_id)), f"the end of deployment {deployment_id}")

    def _switched_or_ended(self) -> dict[str, Any] | None:
        info = self._info(self._id)
        return info if _has_switched(info) or _has_ended(info) else None

    def _info(self, deployment_id: str) -> dict[str, Any]:
        return dict(self._call("get_deployment", deploymentId=deployment_id)["deploymentInfo"])

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        return dict(getattr(self._stack.client("codedeploy"), operation)(**arguments))


def _has_ended(info: dict[str, Any]) -> bool:
    return info["status"] in {"Succeeded", "Failed", "Stopped"}


def _has_switched(info: dict[str, Any]) -> bool:
    """Whether blue/green has shifted the traffic and waits before it terminates the old servers."""
    return bool(info.get("instanceTerminationWaitTimeStarted")) and not _has_ended(info)


def push(stack: Stack, image: str) -> str:
    """Pushes a local image; returns its reference by digest.

    Tags are immutable: an image that the repository already has under this tag is kept, so a workflow can be re-run.

    Raises:
        ProjectError: the reference has no tag, or the push has failed.
    """
    parts = TAG_REF.fullmatch(image)
    if not parts:
        raise ProjectError(f"{image} is not REPOSITORY:TAG")
    digest = image_digest(stack, parts["repository"], imageTag=parts["tag"])
    if not digest:
        tool = os.environ.get("CONTAINER_TOOL", "docker")
        if subprocess.run([tool, "push", image], stdout=subprocess.DEVNULL, check=False).returncode:
            raise ProjectError(f"{tool} can't push {image} (see above); is it built, and are you logged in?")
        digest = image_digest(stack, parts["repository"], imageTag=parts["tag"])
    return f"{parts['registry']}/{parts['repository']}@{digest}"


def image_digest(stack: Stack, repository: str, **image_id: str) -> str | None:
    """The digest of an image in ECR; None if it is not there."""
    try:
        found = stack.client("ecr").describe_images(repositoryName=repository, imageIds=[image_id])["imageDetails"]
    except ClientError as error:
        if error.response["Error"]["Code"] in NOT_FOUND:
            return None
        raise
    return str(found[0]["imageDigest"])


def deploy(stack: Stack, image: str, bake_seconds: float) -> None:
    """Releases an image.

    Raises:
        ProjectError: the image is not in the repository, or the release has failed and the previous one is restored.
    """
    check_image(stack, image)
    key = upload(stack, image)
    print(f"{stack.outputs['Strategy']} release of {image}", flush=True)
    release(stack, key, bake_seconds)


def check_image(stack: Stack, image: str) -> None:
    """Checks that the servers can pull an image, before anything changes.

    Raises:
        ProjectError: it is not named by digest, or not in the stack's repository.
    """
    parts = DIGEST_REF.fullmatch(image)
    if not parts:
        raise ProjectError(f"{image} is not REPOSITORY@sha256:…; `push` prints the digest")
    if parts["repository"] != stack.outputs["Repository"]:
        raise ProjectError(f"the servers can pull from {stack.outputs['Repository']}, not from {parts['repository']}")
    if not image_digest(stack, parts["repository"], imageDigest=parts["digest"]):
        raise ProjectError(f"{image} is not in its repository; push it first")


def upload(stack: Stack, image: str) -> str:
    """Uploads a release; returns its bucket key, which is the same for the same content."""
    content = bundle(image)
    digests = image.rpartition(":")[2][:12], hashlib.sha256(content).hexdigest()[:12]
    key = f"releases/{'-'.join(digests)}.zip"
    metadata = {"image": image}
    stack.client("s3").put_object(Bucket=stack.outputs["ReleasesBucket"], Key=key, Body=content, Metadata=metadata)
    return key


def bundle(image: str) -> bytes:
    """The zip that CodeDeploy unpacks on a server: appspec.yml, hooks, the image's digest and the example request."""
    aws = root() / "7.deploy" / "aws"
    files = {"appspec.yml": (aws / "appspec.yml").read_bytes(), "image.env": f"IMAGE={image}\n".encode()}
    files |= {f"hooks/{path.name}": path.read_bytes() for path in sorted((aws / "hooks").glob("*.sh"))}
    files["example.json"] = json.dumps(CONTRACT.example).encode()
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)  # without a date, so that equal content gives equal bytes
            entry.external_attr = (0o755 if name.endswith(".sh") else 0o644) << 16
            archive.writestr(entry, content)
    return target.getvalue()


def release(stack: Stack, key: str, bake_seconds: float) -> None:
    """Deploys a release, tests it, watches the alarms and records it; restores the previous one on failure.

    Raises:
        ProjectError: it has failed; says why.
    """
    if not os.environ.get("SMOKE_API_KEY"):
        raise ProjectError("set SMOKE_API_KEY to a key that the API accepts: a release is tested before it counts")
    deployment = Deployment(stack)
    deployment.start(key)
    try:
        deployment.wait()
        smoke_test(stack.outputs["Url"])
        watch_alarms(stack, bake_seconds)
    except (Exception, KeyboardInterrupt) as error:
        print(f"rolling back: {error or 'interrupted'}", flush=True)
        deployment.undo()
        print("rolled back to the previous release", flush=True)
        raise
    current = stack.recorded_release("current")
    if current and current != key:
        stack.record_release("previous", current)
    stack.record_release("current", key)
    print("released", flush=True)


def smoke_test(url: str) -> None:
    """Sends the example request to the public address several times, so that several servers answer.

    Raises:
        ProjectError: a response is wrong.
    """
    headers = {"x-api-key": os.environ["SMOKE_API_KEY"]}
    for _ in range(SMOKE_REQUESTS):
        try:
            response = requests.post(f"{url}/predict", json=CONTRACT.example, headers=headers, timeout=SMOKE_SECONDS)
            probability = response.json()["probability"] if response.ok else None
        except (requests.RequestException, KeyError, TypeError) as error:
            raise ProjectError(f"{url}/predict gives no valid response: {error!r}") from error
        if not isinstance(probability, float) or not 0 <= probability <= 1:
            raise ProjectError(f"{url}/predict responds with {response.status_code} {response.text[:200]}")


def watch_alarms(stack: Stack, seconds: float) -> None:
    """Checks the alarms for a while.

    Raises:
        ProjectError: an alarm is active.
    """
    deadline = time.monotonic() + seconds
    while True:
        if active := [name for name, state in alarm_states(stack).items() if state == "ALARM"]:
            raise ProjectError(f"alarm: {', '.join(active)}")
        if time.monotonic() >= deadline:
            return
        time.sleep(stack.poll_seconds)


def alarm_states(stack: Stack) -> dict[str, str]:
    """The state of each alarm that stops a release, by name."""
    names = stack.outputs["Alarms"].split(",")
    found = stack.client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]
    return {alarm["AlarmName"]: alarm["StateValue"] for alarm in found}


def roll_back(stack: Stack, bake_seconds: float) -> None:
    """Restores the previous release; a deployment in progress is stopped instead.

    Raises:
        ProjectError: there is no previous release.
    """
    previous = stack.recorded_release("previous")
    stopped = Deployment(stack).undo_unfinished()
    if stopped:
        if stopped == stack.recorded_release("current") and previous:
            stack.record_release("current", previous)
        print("stopped the deployment; the previous release serves again")
        return
    if not previous:
        raise ProjectError("there is no previous release")
    release(stack, previous, bake_seconds)


def status(stack: Stack) -> dict[str, str]:
    """Releases, latest deployment, servers and alarms."""
    targets = stack.client("elbv2").describe_target_health(TargetGroupArn=stack.outputs["TargetArn"])
    states = [target["TargetHealth"]["State"] for target in targets["TargetHealthDescriptions"]]
    return {
        "strategy": stack.outputs["Strategy"],
        "current": image_of(stack, stack.recorded_release("current")),
        "previous": image_of(stack, stack.recorded_release("previous")),
        "deployment": Deployment(stack).latest(),
        "servers": f"{states.count('healthy')} of {len(states)} healthy",
        "alarms": ", ".join(f"{name} {state}" for name, state in alarm_states(stack).items()),
    }


def image_of(stack: Stack, key: str | None) -> str:
    """The image of a release."""
    if not key:
        return "none"
    found = stack.client("s3").head_object(Bucket=stack.outputs["ReleasesBucket"], Key=key)
    return str(found["Metadata"]["image"])


if __name__ == "__main__":
    run("release", main)
