"""The rehearsal of releases with containers, and the rules of haproxy.cfg."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from containers import ENVIRONMENT, needs_haproxy, needs_podman, podman
from projects import REPOSITORY, Project, wait_until
from servers import LONE, fetch, running

from credit_risk.contract import CONTRACT
from credit_risk.rehearsal.balancer import Balancer, Server

pytestmark = [pytest.mark.integration, needs_haproxy]
REHEARSE = "7.deploy/rehearse.py"


def command(project: Project, image: str, *scenarios: str) -> list[str]:
    return project.command(str(project.path(REHEARSE)), *scenarios, "--image", image)


@needs_podman
@pytest.mark.rehearsal
@pytest.mark.timeout(900)
def test_no_request_fails(finished: Project, image: str) -> None:
    environment = finished.environment | ENVIRONMENT | {"PROJECT_ROOT": str(finished.root)}
    done = subprocess.run(command(finished, image, "all"), env=environment, capture_output=True, text=True, check=False)
    print(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    results = {result["scenario"]: result for result in map(json.loads, done.stdout.splitlines())}
    assert results.pop("no-drain")["failed"] > 0  # the control
    canary = results.pop("bad-canary")
    assert 0 < canary["failed"] <= canary["given"] < 0.08 * canary["requests"]
    assert set(results) == {"rolling", "blue-green", "bad-release", "kill", "scale", "promote", "slow-clients"}
    assert {name: result["failed"] for name, result in results.items() if result["failed"]} == {}
    assert results["rolling"]["requests"] >= 10_000
    assert podman("ps", "--all", "--format", "{{.Names}}").stdout.count("rehearsal-") == 0


@needs_podman
@pytest.mark.containers
def test_ctrl_c_removes_all_containers(finished: Project, image: str) -> None:
    environment = finished.environment | ENVIRONMENT | {"PROJECT_ROOT": str(finished.root)}
    rehearsal = subprocess.Popen(
        command(finished, image, "rolling"), env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(lambda: "rehearsal-" in podman("ps", "--format", "{{.Names}}").stdout, "a container")
    os.killpg(rehearsal.pid, signal.SIGINT)
    _, said = rehearsal.communicate(timeout=60)
    assert rehearsal.returncode == 130, said
    assert "rehearse: interrupted" in said
    assert "rehearsal-" not in podman("ps", "--all", "--format", "{{.Names}}").stdout


@pytest.mark.containers
def test_missing_programs_are_named_with_their_package(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / REHEARSE)],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "rehearse: a program is missing: apt-get install nghttp2-client\n")


@pytest.mark.containers
class TestBalancer:
    """haproxy.cfg with one server of the API."""

    LIMIT = 30

    @pytest.fixture
    def client(self, project: Project, tmp_path: Path) -> Iterator[httpx.Client]:
        balancer = Balancer(tmp_path)
        environment: Any = os.environ | balancer.environment | {"RATE_LIMIT": str(self.LIMIT)}
        haproxy = subprocess.Popen(["haproxy", "-db", "-f", str(REPOSITORY / "7.deploy/haproxy.cfg")], env=environment)
        cache = tmp_path / "cache"
        fetch(project, cache)
        try:
            with running(project, *LONE, MODEL_CACHE=str(cache)) as server:
                wait_until(balancer.is_up, "HAProxy")
                balancer.add(Server("one", server.port, "blue", 1, "none"))
                with httpx.Client(base_url=balancer.url) as client:
                    yield client
        finally:
            haproxy.terminate()
            haproxy.wait(20)

    def test_rate_limit_request_id_and_metrics(self, client: httpx.Client) -> None:
        first = client.post("/predict", json=CONTRACT.example)
        assert first.is_success
        assert first.headers["x-request-id"]
        second = client.post("/predict", json=CONTRACT.example, headers={"x-request-id": "mine"})
        assert second.headers["x-request-id"] == "mine"
        for path in ("/metrics", "/%6detrics", "/status"):
            assert client.get(path).status_code == 404
        answers = [client.post("/predict", json=CONTRACT.example).status_code for _ in range(self.LIMIT)]
        assert answers.count(200) == self.LIMIT - 2
        assert answers[-1] == 429
