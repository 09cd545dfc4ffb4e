"""The image of the API, built and run with podman."""

import json
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from containers import Container, has_limits, needs_podman, podman, running, wait_until_ready
from projects import REPOSITORY, Project, wait_until

from credit_risk.contract import CONTRACT
from credit_risk.formats.reference_rows import TOLERANCE

pytestmark = [pytest.mark.containers, needs_podman]
MAX_BYTES = 600e6
FIND_PIP_SETTINGS = ("/", "-xdev", "-name", "pip.conf", "-size", "+0")


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[Container]:
    with running(image) as started:
        wait_until_ready(started)
        yield started


def inspected(image: str) -> Any:
    return json.loads(podman("image", "inspect", image).stdout)[0]


def in_image(image: str, *command: str) -> str:
    return podman("run", "--rm", "--entrypoint", command[0], image, *command[1:]).stdout


def test_labels_name_version_and_commit(image: str, finished: Project) -> None:
    found = inspected(image)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=finished.root, capture_output=True, text=True, check=True)
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert found["Labels"]["org.opencontainers.image.title"] == CONTRACT.problem.name
    assert found["Labels"]["org.opencontainers.image.version"] == version
    assert found["Labels"]["org.opencontainers.image.revision"].startswith(commit.stdout.strip())
    assert found["User"] == "10001"
    assert found["Config"]["StopSignal"] == "SIGTERM"
    assert found["Size"] <= MAX_BYTES


def test_only_locked_packages_and_serving_files_are_included(image: str) -> None:
    code = "import importlib.metadata as m, json; print(json.dumps(sorted(d.name.lower() for d in m.distributions())))"
    names = {name.replace("_", "-") for name in json.loads(in_image(image, "python", "-c", code))}
    bill = subprocess.run(
        [Path(sys.executable).parent / "cyclonedx-py", "requirements", "requirements.lock"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    listed = {component["name"].lower().replace("_", "-") for component in json.loads(bill.stdout)["components"]}
    assert names <= listed
    assert listed - names <= {"colorama", "tzdata"}  # on other systems
    assert {"onnxruntime", "uvicorn"} <= names
    assert not {"pandas", "scikit-learn", "mlflow", "pip"} & names
    files = in_image(image, "sh", "-c", "find /app -type f ! -name '*.pyc'; id -u").split()
    assert "/app/6.production/app.py" in files
    assert "10001" in files
    assert not [name for name in files if "new_api_key" in name or "1.data" in name or ".env" in name]


def test_no_address_or_secret_is_included(image: str) -> None:
    # A file mounted for the build leaves an empty file.
    assert podman("run", "--rm", "--user", "0", "--entrypoint", "find", image, *FIND_PIP_SETTINGS).stdout == ""
    history = podman("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    assert "STOPSIGNAL SIGTERM" in history
    assert "://" not in history.replace("http://127.0.0.1", "")  # the health check
    settings = dict(line.split("=", 1) for line in inspected(image)["Config"]["Env"])
    assert not [name for name in settings if "KEY" in name or "PASSWORD" in name or "URI" in name]


def test_baked_in_model_is_served(container: Container) -> None:
    reference_rows = json.loads(
        podman("exec", container.name, "sh", "-c", "cat /app/model/*/reference_rows.json").stdout
    )
    for application, score in zip(reference_rows["rows"], reference_rows["scores"], strict=True):
        answer = container.client.post("/predict", json=application)
        assert abs(answer.json()["probability"] - score) <= TOLERANCE
    podman("healthcheck", "run", container.name)
    assert "model sync has not reported yet" in container.client.get("/status").text  # it has no registry to follow


def test_started_request_is_finished_when_the_container_stops(image: str) -> None:
    body = json.dumps(CONTRACT.example).encode()
    with running(image, DRAIN_SECONDS="0") as started:
        wait_until_ready(started)
        with socket.create_connection(("127.0.0.1", started.client.base_url.port or 0), timeout=20) as connection:
            head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
            connection.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body[:10])
            begun = "http_requests_in_flight 1.0"
            wait_until(lambda: begun in started.client.get("/metrics").text, "the request to begin")
            podman("kill", "--signal", "TERM", started.name)
            wait_until(lambda: "Shutting down" in started.logs(), "the server to shut down")
            connection.sendall(body[10:])
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        wait_until(lambda: started.state("Running") == "false", "the container to end")
        assert started.state("ExitCode") == "0"


@pytest.mark.parametrize(
    ("flags", "workers"), [(("--cpus", "0.5"), 1), (("--cpus", "1"), 1), (("--env", "WORKERS=3"), 3)]
)
def test_workers_match_the_cpus_of_the_container(image: str, flags: tuple[str, ...], workers: int) -> None:
    if "--cpus" in flags and not has_limits():
        pytest.skip("podman has no cgroup controllers here, and ignores limits")
    with running(image, *flags) as started:
        wait_until_ready(started)
        wait_until(lambda: started.logs().count("Started server process") == workers, f"{workers} workers")


def test_without_model_and_registry_it_exits_with_an_error(image: str, tmp_path: Path) -> None:
    done = podman("run", "--rm", "--volume", f"{tmp_path}:/app/model:ro", image, check=False)
    assert done.returncode == 1
    assert "start.sh: no model: set MLFLOW_TRACKING_URI" in done.stderr
