"""The stack of servers, which releases it has had, and what every way of bringing one onto it can do."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from credit_risk.core.errors import ProjectError

NOT_THERE = {"404", "NoSuchKey", "ImageNotFoundException"}
Info = dict[str, Any]


@dataclass
class Stack:
    """The stack of servers, and how to ask AWS about it; clients by service are made when they are needed."""

    name: str
    poll_seconds: float = 5
    timeout_seconds: float = 3600
    clients: dict[str, Any] = field(default_factory=dict)

    def aws(self, service: str) -> Any:
        """The client of a service."""
        if service not in self.clients:
            self.clients[service] = boto3.client(service, config=Config(retries={"mode": "standard"}))
        return self.clients[service]

    @cached_property
    def outputs(self) -> dict[str, str]:
        """What the stack tells."""
        (found,) = self.aws("cloudformation").describe_stacks(StackName=self.name)["Stacks"]
        return {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}

    def until(self, done: Callable[[], Any], what: str) -> Any:
        """Asks again and again, until the answer is truthy; returns it.

        Raises:
            ProjectError: it takes too long.
        """
        deadline = time.monotonic() + self.timeout_seconds
        while not (answer := done()):
            if time.monotonic() > deadline:
                raise ProjectError(f"{what} is not done after {self.timeout_seconds:.0f} seconds")
            time.sleep(self.poll_seconds)
        return answer


class Way(Protocol):
    """How a release comes onto the servers."""

    def start(self, key: str) -> None:
        """Begins with the release at a key of the bucket."""

    def wait(self) -> None:
        """Returns when the new servers have the traffic, and the old can still come back."""

    def finish(self) -> None:
        """Returns when nothing more is to be done."""

    def undo(self) -> None:
        """Has the servers as they were before `start`."""


def recall(stack: Stack, what: str) -> str | None:
    """The key of the current or the previous release, if there is one."""
    try:
        found = stack.aws("s3").get_object(Bucket=stack.outputs["ReleasesBucket"], Key=what)
    except ClientError as error:
        if error.response["Error"]["Code"] in NOT_THERE:
            return None
        raise
    return str(found["Body"].read().decode())


def remember(stack: Stack, what: str, key: str) -> None:
    """Notes the key; servers that start later take the current one."""
    stack.aws("s3").put_object(Bucket=stack.outputs["ReleasesBucket"], Key=what, Body=key.encode())
