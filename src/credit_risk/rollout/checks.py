"""What a release is checked for: the answers to smoke requests, and alarms."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import requests

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.rollout.stack import Color, Stack

SMOKE_REQUESTS, SMOKE_SECONDS = 10, 10
ATTEMPTS = 3  # a new champion reaches the servers within seconds of each other
TOLERANCE = 1e-6  # of probabilities of one model version


@dataclass(frozen=True)
class Answer:
    """The answer to the example request."""

    probability: float
    version: str


def require_key() -> None:
    """Checks that smoke requests can be sent.

    Raises:
        ProjectError: SMOKE_API_KEY is not set.
    """
    if not os.environ.get("SMOKE_API_KEY"):
        raise ProjectError("set SMOKE_API_KEY to a key that the API accepts: a release is tested before it counts")


def ask(url: str) -> Answer:
    """Sends the example request to the API at this address.

    Raises:
        ProjectError: there is no answer, or it has no probability.
    """
    headers = {"x-api-key": os.environ["SMOKE_API_KEY"]}
    try:
        response = requests.post(f"{url}/predict", json=CONTRACT.example, headers=headers, timeout=SMOKE_SECONDS)
        answer = response.json() if response.ok else {}
        probability, version = (answer["probability"], str(answer["model_version"])) if response.ok else (None, "")
    except (requests.RequestException, KeyError, TypeError) as error:
        raise ProjectError(f"{url}/predict gives no valid response: {error!r}") from error
    if not isinstance(probability, float) or not 0 <= probability <= 1:
        raise ProjectError(f"{url}/predict responds with {response.status_code} {response.text[:200]}")
    return Answer(probability, version)


def smoke_test(stack: Stack, url: str, reference: Callable[[], Answer] | None) -> None:
    """Sends the example several times, so that several servers answer.

    Args:
        stack: the stack of servers.
        url: of the servers to test.
        reference: gives the answer of the release before this one: the champion's version and its probability must be
            the same. None without such a release.

    Raises:
        ProjectError: an answer is wrong, or differs from that of the release before.
    """
    problem = ""
    for _ in range(ATTEMPTS):
        expected = reference() if reference else None
        answers = [ask(url) for _ in range(SMOKE_REQUESTS)]
        problem = compare(answers, expected or answers[0])
        if not problem:
            return
        time.sleep(stack.poll_seconds)
    raise ProjectError(f"{url}/predict: {problem}")


def compare(answers: list[Answer], expected: Answer) -> str:
    """What is wrong with answers; empty if they are as expected."""
    for answer in answers:
        if answer.version != expected.version:
            return f"model version {answer.version} answers; the release before this one serves {expected.version}"
        if not math.isclose(answer.probability, expected.probability, abs_tol=TOLERANCE):
            return f"the example's probability is {answer.probability}, and was {expected.probability}"
    return ""


class AlarmWatch:
    """The alarms of a group. Alarms that rang before the release do not count until they have been OK once."""

    def __init__(self, stack: Stack, color: Color) -> None:
        """Looks which alarms ring already."""
        self._stack, self._color = stack, color
        self._before = set(ringing(stack, color))

    def check(self) -> None:
        """Looks at the alarms.

        Raises:
            ProjectError: an alarm rings that did not ring before.
        """
        now = set(ringing(self._stack, self._color))
        self._before &= now
        if new := sorted(now - self._before):
            raise ProjectError(f"alarm: {', '.join(new)}")


def ringing(stack: Stack, *colors: Color) -> list[str]:
    """The names of alarms that ring."""
    return [name for name, state in alarm_states(stack, *colors).items() if state == "ALARM"]


def alarm_states(stack: Stack, *colors: Color) -> dict[str, str]:
    """The state of each alarm that stops a release to these groups, by name."""
    names = sorted({name for color in colors for name in stack.of(color, "Alarms").split(",")})
    found = stack.client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]
    return {alarm["AlarmName"]: alarm["StateValue"] for alarm in found}
