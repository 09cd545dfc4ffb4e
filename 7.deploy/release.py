"""Releases an image to the servers on AWS with CodeDeploy, and goes back when something is wrong.

A release is a zip in S3: appspec.yml, the hooks, the image's digest and its attestation. `deploy` checks that no alarm
rings, uploads it, deploys it, sends smoke requests whose answers must be those of the release before, and watches the
alarms. If one of these fails, or on Ctrl-C or SIGTERM, the release before serves again. `--strategy`:
  rolling     in place, one server at a time
  blue-green  to the idle group of servers, which then gets 5, 25 and 100 % of the traffic

uv run 7.deploy/release.py deploy --image REPOSITORY@sha256:…  release an image
uv run 7.deploy/release.py undo                                undo a release that has not finished; can be repeated
uv run 7.deploy/release.py rollback                            go back to the release before, also while an alarm rings
uv run 7.deploy/release.py status                              show releases, servers, traffic and alarms
uv run 7.deploy/release.py image                               print the image that serves, or none

Environment: AWS credentials and region, as for boto3; SMOKE_API_KEY, a key that the API accepts.
"""

from credit_risk.core.entry_point import run

import argparse
import signal
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.rollout import images, releases
from credit_risk.rollout.stack import Stack


def main() -> None:
    """Parses the command line and runs the command."""
    arguments = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a cancelled workflow goes back like Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell in the background would ignore
    stack = Stack(arguments.stack, timeout_seconds=getattr(arguments, "timeout_seconds", 0))
    try:
        match arguments.command:
            case "deploy":
                options = releases.Options(
                    arguments.strategy, arguments.bake_seconds, arguments.despite_alarm, arguments.attestation
                )
                releases.deploy(stack, arguments.image, options)
            case "undo":
                releases.undo(stack, arguments.image)
            case "rollback":
                releases.roll_back(stack)
            case "image":
                print(images.image_of(stack, stack.state().current))
            case "status":
                print("\n".join(f"{name:<10} {value}" for name, value in releases.status(stack).items()))
    except (BotoCoreError, ClientError) as error:
        raise ProjectError(f"AWS: {' '.join(str(error).split())}") from error


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    stack_name = f"{CONTRACT.problem.name}-servers"
    parser.add_argument("--stack", default=stack_name, help="stack of aws/servers.yaml (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    deploy = commands.add_parser("deploy", help="release an image")
    deploy.add_argument("--image", required=True, help="REPOSITORY@sha256:…")
    deploy.add_argument("--strategy", choices=["rolling", "blue-green"], default="rolling", help="default: %(default)s")
    deploy.add_argument(
        "--bake-seconds", type=float, default=300, help="watch the alarms at each step (default: %(default)s)"
    )
    deploy.add_argument("--despite-alarm", action="store_true", help="release a fix while an alarm rings")
    deploy.add_argument(
        "--attestation", type=Path, metavar="FILE", help="of the image; servers verify it if their stack says by whom"
    )
    undo = commands.add_parser("undo", help="undo a release that has not finished")
    undo.add_argument("--image", default="", help="only a release of this image: REPOSITORY@sha256:…")
    rollback = commands.add_parser("rollback", help="go back to the release before")
    for command in (deploy, undo, rollback):
        command.add_argument("--timeout-seconds", type=float, default=3600, help="of each wait (default: %(default)s)")
    commands.add_parser("status", help="show releases, servers, traffic and alarms")
    commands.add_parser("image", help="print the image that serves, or none")
    return parser.parse_args()


if __name__ == "__main__":
    run("release", main)
