"""The stack of servers: its outputs, its AWS clients, and the state of its releases."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from credit_risk.core.errors import ProjectError

Color = Literal["blue", "green"]
Strategy = Literal["rolling", "blue-green", "rollback"]
NOT_FOUND = {"404", "NoSuchKey", "ImageNotFoundException"}
STATE_KEY = "state.json"  # in the stack's bucket
HISTORY = 20  # releases that can be rolled back, one after the other


def other(color: Color) -> Color:
    """The other one of the two groups of servers."""
    return "green" if color == "blue" else "blue"


@dataclass(frozen=True)
class Unfinished:
    """A release that has begun and is neither finished nor undone."""

    id: str
    key: str  # of the release in the bucket
    strategy: Strategy
    color: Color  # the group that it is deployed to
    deployment: str = ""  # CodeDeploy's id, once there is one


@dataclass(frozen=True)
class State:
    """What the servers serve; everything else (weights, sizes) is derived from it and can be repaired from it."""

    serving: Color = "blue"
    history: tuple[str, ...] = ()  # keys of finished releases, the current one last
    unfinished: Unfinished | None = None

    @property
    def current(self) -> str | None:
        """The key of the release that serves."""
        return self.history[-1] if self.history else None

    @property
    def previous(self) -> str | None:
        """The key of the release that `rollback` restores."""
        return self.history[-2] if len(self.history) > 1 else None


@dataclass
class Stack:
    """The stack of servers; the state of its releases is an object in its bucket."""

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

    def of(self, color: Color, output: str) -> str:
        """An output that each of the two groups has, as `BlueTargetArn`."""
        return self.outputs[f"{color.capitalize()}{output}"]

    def wait_for(self, poll: Callable[[], Any], description: str, seconds: float = math.inf) -> Any:
        """Polls until the result is truthy; returns it.

        Raises:
            ProjectError: it takes longer than `seconds` or `timeout_seconds`.
        """
        limit = min(seconds, self.timeout_seconds)
        deadline = time.monotonic() + limit
        while not (result := poll()):
            if time.monotonic() > deadline:
                raise ProjectError(f"timed out after {limit:.0f} seconds waiting for {description}")
            time.sleep(self.poll_seconds)
        return result

    def state(self) -> State:
        """The recorded state; the default before the first release."""
        try:
            found = self.client("s3").get_object(Bucket=self.outputs["ReleasesBucket"], Key=STATE_KEY)
        except ClientError as error:
            if error.response["Error"]["Code"] in NOT_FOUND:
                return State()
            raise
        recorded = json.loads(found["Body"].read())
        unfinished = recorded["unfinished"] and Unfinished(**recorded["unfinished"])
        return State(recorded["serving"], tuple(recorded["history"]), unfinished)

    def record(self, state: State) -> None:
        """Records the state, in one write."""
        body = json.dumps(asdict(state), indent=2).encode()
        self.client("s3").put_object(Bucket=self.outputs["ReleasesBucket"], Key=STATE_KEY, Body=body)
