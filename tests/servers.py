"""The API as a process of its own, for tests that use it over real HTTP."""

import hashlib
import json
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
from projects import Project, coverage, script, wait_until

from credit_risk.contract import CONTRACT
from credit_risk.project.host import free_port
from credit_risk.project.settings import Settings

EXAMPLE: dict[str, Any] = dict(CONTRACT.example)
KEY = "a key of the tests"
KEYS = hashlib.sha256(KEY.encode()).hexdigest()
SERVE = ("6.production/serve.py",)  # with model sync
LONE = ("-m", "uvicorn", "--app-dir", "6.production", "app:app", "--log-level", "warning")  # without it


@dataclass
class Server:
    """A running server: its process, a client of it, and its log."""

    process: psutil.Popen
    client: httpx.Client
    port: int
    log: Path
    internal: str = ""  # address of its internal port, if it has one

    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines of the log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextmanager
def running(project: Project, *command: str, **environment: str) -> Iterator[Server]:
    """Runs a server of the project on a free port, with a model cache of its own, until the block ends.

    The environment may contain another MODEL_CACHE; DRAIN_SECONDS is 0 by default, so that tests end soon.
    """
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        port = free_port()
        defaults = {"MODEL_CACHE": f"{folder}/cache", "DRAIN_SECONDS": "0", "MODEL_SYNC_SECONDS": "0.5"}
        process = psutil.Popen(
            [*project.command(*command), "--port", str(port)],
            cwd=project.root,
            env=project.environment | coverage() | defaults | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
                server = Server(process, client, port, Path(log.name))
                wait_until(lambda: alive(server), "the server to answer")
                yield server
        finally:
            if process.is_running():
                process.send_signal(signal.SIGTERM)
            assert process.wait(20) in {0, -signal.SIGTERM}, Path(log.name).read_text()


def alive(server: Server) -> bool:
    assert server.process.poll() is None, server.log.read_text()
    with suppress(httpx.TransportError):
        return server.client.get("/livez").is_success
    return False


def wait_until_ready(server: Server) -> None:
    wait_until(lambda: server.client.get("/readyz").is_success, "a model to be served")


def wait_for_version(client: httpx.Client, version: str, seconds: float = 30) -> None:
    wait_until(lambda: client.get("/status").text.count(f"version {version}"), f"version {version}", seconds)


def settings_of(project: Project, **values: Any) -> Settings:
    """Settings with the embedded registry of a project."""
    return Settings(mlflow_tracking_uri=f"sqlite:///{project.path('3.experiments', 'mlflow.db')}", **values)


def registry_of(project: Project) -> Any:
    """The embedded registry of a project."""
    from credit_risk.registry.client import Registry  # here, because importing MLflow takes seconds

    return Registry(settings_of(project))


def fetch(project: Project, cache: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Syncs a model cache once, in a process of its own."""
    environment |= coverage() | {"MODEL_CACHE": str(cache)}
    return project.run("6.production/model_sync.py", "--once", check=False, **environment)


def sync(project: Project, cache: Path) -> str:
    """Syncs a model cache once, in this process; returns what was done."""
    model_sync = script(project, "6.production/model_sync.py")["ModelSync"]
    return str(model_sync(settings_of(project, model_cache=cache)).sync_once())
