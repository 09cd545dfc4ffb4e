"""A project's API while something is measured or photographed: scripts of documents and benchmarks use it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import requests

from credit_risk.core.errors import ProjectError
from credit_risk.project.host import free_port

START_SECONDS = 90


def environment_of_copy(project: Path) -> dict[str, str]:
    """The environment of commands in a copy of the project: its own package, registry and cache."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PIPELINE_"))}
    return kept | {"PROJECT_ROOT": str(project), "PYTHONPATH": str(project / "src")}


@contextmanager
def served(project: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a server with the project's champion, which ends with the block.

    Raises:
        ProjectError: it does not start.
    """
    port = free_port()
    command = [sys.executable, "main.py", "serve", "--port", str(port)]
    server = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.DEVNULL)
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    try:
        while not _ready(address):
            if server.poll() is not None or time.monotonic() > deadline:
                raise ProjectError("the server does not start; try `uv run main.py serve`")
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait()


def _ready(address: str) -> bool:
    try:
        return requests.get(f"{address}/readyz", timeout=5).ok
    except requests.RequestException:
        return False
