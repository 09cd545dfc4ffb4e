"""Running programs, and waiting for them."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests

from credit_risk.core.errors import ProjectError


def call(command: list[str], trouble: str, **how: Any) -> str:
    """Runs a program and returns what it printed.

    Raises:
        ProjectError: it failed; `trouble`, and the last line it wrote.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, **how)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise ProjectError(f"{trouble}: {said[-1]}")
    return str(done.stdout).strip()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Waits until something is so.

    Raises:
        ProjectError: it isn't, in time.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise ProjectError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.05)


def answers(url: str) -> bool:
    """Whether a URL answers with success."""
    with suppress(requests.RequestException):
        return bool(requests.get(url, timeout=1).ok)
    return False


@contextmanager
def process(command: list[str], folder: Path, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process for as long as the block runs; its log is beside its files."""
    with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
        started = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)
        try:
            yield started
        finally:
            started.terminate()
            started.wait(20)
