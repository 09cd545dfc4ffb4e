"""Brings an image onto the servers on AWS, the way their stack says, and back if anything is wrong.

The rolling out is CodeDeploy's or Auto Scaling's; this script starts it, waits, asks the public address for a score,
watches the alarms, and has it undone when one of these fails or when it is interrupted (Ctrl-C, SIGTERM).

uv run 7.deploy/release.py push --image REPOSITORY:TAG         pushes it with docker or podman; prints its digest
uv run 7.deploy/release.py deploy --image REPOSITORY@sha256:…  [--strategy rolling|blue-green|instance-refresh]
uv run 7.deploy/release.py rollback                            to the release before
uv run 7.deploy/release.py status

Environment: AWS credentials and region, as boto3 finds them; SMOKE_API_KEY, a key that the API accepts;
CONTAINER_TOOL, docker by default.
"""

import argparse
import hashlib
import io
import os
import re
import signal
import subprocess
import time
import zipfile

import requests
from botocore.exceptions import BotoCoreError, ClientError
from rollout.codedeploy import CodeDeploy
from rollout.refresh import Refresh
from rollout.stack import NOT_THERE, Stack, Way, recall, remember

from credit_risk.core.entry_point import run
from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root

STRATEGIES = ("rolling", "blue-green", "instance-refresh")
DIGEST_REF = re.compile(r"(?P<registry>[^/]+)/(?P<repository>[^@:]+)@(?P<digest>sha256:[0-9a-f]{64})")
TAG_REF = re.compile(r"(?P<registry>[^/]+)/(?P<repository>[^@:]+):(?P<tag>[\w.-]+)")
SMOKE_REQUESTS, ANSWER_SECONDS = 10, 10


def main() -> None:
    """Parses the command line and runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", default="credit-risk-servers", help="made from aws/servers.yaml: %(default)s")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    pushing = commands.add_parser("push", help="push an image and print its digest")
    pushing.add_argument("--image", required=True, help="REPOSITORY:TAG, which this machine has")
    deploying = commands.add_parser("deploy", help="release an image")
    deploying.add_argument("--image", required=True, help="REPOSITORY@sha256:…")
    deploying.add_argument("--strategy", choices=STRATEGIES, help="fails if the stack is set up for another")
    back = commands.add_parser("rollback", help="release the one before")
    for command in (deploying, back):
        command.add_argument("--bake-seconds", type=float, default=300, help="watch the alarms so long: %(default)s")
        command.add_argument("--timeout-seconds", type=float, default=3600, help="default: %(default)s")
    commands.add_parser("status", help="what is released, and how it does")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # how a cancelled workflow ends: undo as with Ctrl-C
    stack = Stack(arguments.stack, timeout_seconds=getattr(arguments, "timeout_seconds", 0))
    try:
        match arguments.command:
            case "push":
                print(push(stack, arguments.image))
            case "deploy":
                deploy(stack, arguments.image, arguments.strategy, arguments.bake_seconds)
            case "rollback":
                roll_back(stack, arguments.bake_seconds)
            case "status":
                print("\n".join(f"{name:<10} {value}" for name, value in status(stack).items()))
    except (BotoCoreError, ClientError) as error:
        raise ProjectError(f"AWS: {' '.join(str(error).split())}") from error


def push(stack: Stack, image: str) -> str:
    """Pushes an image of this machine; returns its reference by digest.

    Tags never move, so what the repository has under this tag stays: a workflow may be run again.

    Raises:
        ProjectError: the reference has no tag, or the push has failed.
    """
    parts = TAG_REF.fullmatch(image)
    if not parts:
        raise ProjectError(f"{image} is not REPOSITORY:TAG")
    found = find_image(stack, parts["repository"], imageTag=parts["tag"])
    if not found:
        tool = os.environ.get("CONTAINER_TOOL", "docker")
        if subprocess.run([tool, "push", image], stdout=subprocess.DEVNULL, check=False).returncode:
            raise ProjectError(f"{tool} can't push {image}, see above; is it built, and are you logged in?")
        found = find_image(stack, parts["repository"], imageTag=parts["tag"])
    return f"{parts['registry']}/{parts['repository']}@{found}"


def find_image(stack: Stack, repository: str, **how: str) -> str | None:
    """The digest of an image in ECR, if it is there."""
    try:
        found = stack.aws("ecr").describe_images(repositoryName=repository, imageIds=[how])["imageDetails"]
    except ClientError as error:
        if error.response["Error"]["Code"] in NOT_THERE:
            return None
        raise
    return str(found[0]["imageDigest"])


def deploy(stack: Stack, image: str, strategy: str | None, bake_seconds: float) -> None:
    """Releases an image.

    Raises:
        ProjectError: the image is not there or has failed; then the release before is back.
    """
    updates = stack.outputs["Updates"]
    if strategy not in {None, updates}:
        raise ProjectError(f"{stack.name} is set up for {updates}; for {strategy}, update its parameter Updates")
    check_image(stack, image)
    key = upload(stack, image)
    print(f"{updates} release of {image}", flush=True)
    release(stack, key, bake_seconds)


def check_image(stack: Stack, image: str) -> None:
    """Nothing moves for an image that the servers could not pull.

    Raises:
        ProjectError: it is not named by digest, or not in the stack's repository.
    """
    parts = DIGEST_REF.fullmatch(image)
    if not parts:
        raise ProjectError(f"{image} is not REPOSITORY@sha256:…; `push` prints the digest")
    if parts["repository"] != stack.outputs["Repository"]:
        raise ProjectError(f"the servers may pull from {stack.outputs['Repository']}, not {parts['repository']}")
    if not find_image(stack, parts["repository"], imageDigest=parts["digest"]):
        raise ProjectError(f"{image} is not in its repository; push it first")


def upload(stack: Stack, image: str) -> str:
    """Puts a release into the bucket; returns its key, which is the same for the same content."""
    content = bundle(image)
    digests = image.rpartition(":")[2][:12], hashlib.sha256(content).hexdigest()[:12]
    key = f"releases/{'-'.join(digests)}.zip"
    metadata = {"image": image}
    stack.aws("s3").put_object(Bucket=stack.outputs["ReleasesBucket"], Key=key, Body=content, Metadata=metadata)
    return key


def bundle(image: str) -> bytes:
    """The zip that a server gets: what to do (appspec.yml, hooks), with which image, and a request to try."""
    aws = root() / "7.deploy" / "aws"
    files = {"appspec.yml": (aws / "appspec.yml").read_bytes(), "image.env": f"IMAGE={image}\n".encode()}
    files |= {f"hooks/{path.name}": path.read_bytes() for path in sorted((aws / "hooks").glob("*.sh"))}
    files["example.json"] = (root() / "6.production" / "example.json").read_bytes()
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)  # without a date: the same content, the same bytes
            entry.external_attr = (0o755 if name.endswith(".sh") else 0o644) << 16
            archive.writestr(entry, content)
    return target.getvalue()


def release(stack: Stack, key: str, bake_seconds: float) -> None:
    """Rolls a release out, tries it, watches it, and remembers it; or undoes it.

    Raises:
        ProjectError: it has failed, and how.
    """
    if not os.environ.get("SMOKE_API_KEY"):
        raise ProjectError("set SMOKE_API_KEY, a key that the API accepts; nothing is released that can't be tried")
    way: Way = Refresh(stack, bake_seconds) if stack.outputs["Updates"] == "instance-refresh" else CodeDeploy(stack)
    way.start(key)
    try:
        way.wait()
        smoke_test(stack.outputs["Url"])
        watch(stack, bake_seconds)
    except (Exception, KeyboardInterrupt) as error:
        print(f"undoing it: {error or 'interrupted'}", flush=True)
        way.undo()
        print("the release before serves again", flush=True)
        raise
    current = recall(stack, "current")
    if current and current != key:
        remember(stack, "previous", current)
    remember(stack, "current", key)
    way.finish()
    print("released", flush=True)


def smoke_test(url: str) -> None:
    """Asks the public address for a score, some times over, so that several servers answer.

    Raises:
        ProjectError: one answer is wrong; says which.
    """
    example = (root() / "6.production" / "example.json").read_bytes()
    headers = {"content-type": "application/json", "x-api-key": os.environ["SMOKE_API_KEY"]}
    for _ in range(SMOKE_REQUESTS):
        try:
            answer = requests.post(f"{url}/predict", data=example, headers=headers, timeout=ANSWER_SECONDS)
            probability = answer.json()["probability_of_default"] if answer.ok else None
        except (requests.RequestException, KeyError, TypeError) as error:
            raise ProjectError(f"{url}/predict does not answer as it should: {error!r}") from error
        if not isinstance(probability, float) or not 0 <= probability <= 1:
            raise ProjectError(f"{url}/predict answers {answer.status_code} {answer.text[:200]}")


def watch(stack: Stack, seconds: float) -> None:
    """Looks at the alarms for a while.

    Raises:
        ProjectError: one has gone off.
    """
    deadline = time.monotonic() + seconds
    while True:
        names = stack.outputs["Alarms"].split(",")
        found = stack.aws("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]
        if ringing := [alarm["AlarmName"] for alarm in found if alarm["StateValue"] == "ALARM"]:
            raise ProjectError(f"the alarm {' and '.join(ringing)} has gone off")
        if time.monotonic() >= deadline:
            return
        time.sleep(stack.poll_seconds)


def roll_back(stack: Stack, bake_seconds: float) -> None:
    """Goes back to the release before; a deployment under way is stopped.

    Raises:
        ProjectError: there is none.
    """
    before = recall(stack, "previous")
    if stack.outputs["Updates"] != "instance-refresh":
        undone = CodeDeploy(stack).undo_unfinished()
        if undone == recall(stack, "current") and before:
            remember(stack, "current", before)
        if undone:
            print("stopped; the release before serves again")
            return
    if not before:
        raise ProjectError("there is no release before this one")
    release(stack, before, bake_seconds)


def status(stack: Stack) -> dict[str, str]:
    """What is released, and how it does."""
    way = Refresh(stack, 0) if stack.outputs["Updates"] == "instance-refresh" else CodeDeploy(stack)
    targets = stack.aws("elbv2").describe_target_health(TargetGroupArn=stack.outputs["TargetArn"])
    states = [target["TargetHealth"]["State"] for target in targets["TargetHealthDescriptions"]]
    names = stack.outputs["Alarms"].split(",")
    alarms = stack.aws("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]
    return {
        "updates": stack.outputs["Updates"],
        "current": image_of(stack, recall(stack, "current")),
        "previous": image_of(stack, recall(stack, "previous")),
        "last": way.last(),
        "servers": f"{states.count('healthy')} of {len(states)} ready",
        "alarms": ", ".join(f"{alarm['AlarmName']} {alarm['StateValue']}" for alarm in alarms),
    }


def image_of(stack: Stack, key: str | None) -> str:
    """The image of a release."""
    if not key:
        return "none"
    found = stack.aws("s3").head_object(Bucket=stack.outputs["ReleasesBucket"], Key=key)
    return str(found["Metadata"]["image"])


if __name__ == "__main__":
    run("release", main)
