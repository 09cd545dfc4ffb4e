"""Programs that the rehearsal runs."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests

from credit_risk.core.errors import ProjectError


def log(message: str) -> None:
    """Prints progress; standard output has the results only."""
    print(message, file=sys.stderr, flush=True)


def call(command: list[str], problem: str, **options: Any) -> str:
    """Runs a program and returns its output.

    Raises:
        ProjectError: it failed; `problem` and the last line of its output.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        output = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise ProjectError(f"{problem}: {output[-1]}")
    return str(done.stdout).strip()


def wait_until(condition: Callable[[], bool], description: str, seconds: float = 30) -> None:
    """Waits for a condition.

    Raises:
        ProjectError: it is not true in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ProjectError(f"timed out after {seconds:.0f} s waiting for {description}")
        time.sleep(0.05)


def is_up(url: str) -> bool:
    """Whether a URL responds with success."""
    with suppress(requests.RequestException):
        return bool(requests.get(url, timeout=1).ok)
    return False


@contextmanager
def process(command: list[str], folder: Path, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs a process within the block; its log is in `folder`."""
    with (folder / f"{Path(command[0]).name}.log").open("wb") as output:
        started = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
        try:
            yield started
        finally:
            started.terminate()
            started.wait(20)
