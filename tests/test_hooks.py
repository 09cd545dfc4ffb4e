"""The hooks of CodeDeploy, run like by its agent, with the real image in a container.

Podman replaces Docker, and a small program the AWS command line.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import threading
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import verifier
import yaml
from containers import ENVIRONMENT, has_limits, needs_podman, podman
from projects import wait_until
from servers import KEY, KEYS

from credit_risk.contract import CONTRACT
from credit_risk.project.host import free_port
from credit_risk.rollout.images import bundle

pytestmark = [pytest.mark.containers, needs_podman]

PASSWORD = "the service's password"  # noqa: S105 (of a test)
AWS_CLI = f"""#!/bin/sh
case "$*" in
"secretsmanager get-secret-value --secret-id keys --query SecretString --output text") echo {KEYS} ;;
"secretsmanager get-secret-value --secret-id password --query SecretString --output text") echo "{PASSWORD}" ;;
"s3 mv "*" s3://bucket/monitoring/log/ready --recursive --no-follow-symlinks "*) mv "$3"/* "$(dirname "$0")" ;;
"cloudwatch put-metric-data --cli-input-json "*) echo "$4" >"$(dirname "$0")/sent.json" ;;
*) echo "aws: not allowed: $*" >&2; exit 254 ;;
esac
"""
IMAGES = {  # made from the real image; on loopback only
    "good": "ENV HOST=127.0.0.1",
    "never-ready": "ENV HOST=127.0.0.1\nUSER root\nRUN rm -r /app/model\nUSER 10001",
    "crashing": 'ENTRYPOINT ["sh", "-c", "echo out of luck >&2; exit 3"]',
    "wrong": """COPY wrong.py /wrong.py
ENTRYPOINT ["python", "/wrong.py"]""",
}
WRONG = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        body = b'{"detail": "no luck"}'
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def images(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """References by digest of a good image and of bad ones."""
    folder, made = tmp_path_factory.mktemp("images"), {}
    (folder / "wrong.py").write_text(WRONG)
    tags = {name: f"localhost/aws-hooks-{name}:test" for name in IMAGES}
    try:
        for name, tag in tags.items():
            (folder / "Dockerfile").write_text(f"FROM {image}\n{IMAGES[name]}\n")
            podman("build", "--quiet", "--pull=never", "--format", "docker", "--tag", tag, str(folder))
            (found,) = json.loads(podman("image", "inspect", tag).stdout)
            made[name] = f"localhost/aws-hooks-{name}@{found['Digest']}"
        yield made
    finally:
        podman("image", "rm", "--force", *tags.values(), check=False)


@dataclass
class Machine:
    """A server after the launch template's user data, with its own container name and port."""

    root: Path
    port: int = field(default_factory=free_port)
    internal_port: int = field(default_factory=free_port)
    name: str = field(default_factory=lambda: f"aws-hooks-{uuid.uuid4().hex[:8]}")

    def set_up(self) -> None:
        (self.root / "bin").mkdir()
        command = self.root / "bin" / "aws"
        command.write_text(AWS_CLI)
        command.chmod(0o755)
        verifier.write(self.root / "verify_image")
        settings = {
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # no registry: the image has a model
            "MLFLOW_TRACKING_USERNAME": "service",
            "MLFLOW_PASSWORD_SECRET": "password",
            "API_KEYS_SECRET": "keys",
            "DRAIN_SECONDS": "2",
            "MODEL_PUBLIC_KEY": "bGluZQ==",
            "SHADOW_ALIAS": "challenger",
            "PREDICTION_LOG": "/log",
            "PREDICTION_LOG_SHARE": "1",
            "PREDICTION_LOG_EXCLUDE": CONTRACT.field_names[0],
            "LOG_ADDRESS": "s3://bucket/monitoring/log",
            "METRICS_NAMESPACE": "servers",
            "INSTANCE": "i-1",
        }
        (self.root / "server.env").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))

    def install(self, image: str) -> None:
        """Unpacks a release like CodeDeploy."""
        shutil.rmtree(self.release, ignore_errors=True)
        with zipfile.ZipFile(io.BytesIO(bundle(image))) as archive:
            archive.extractall(self.release)

    @property
    def release(self) -> Path:
        return self.root / "release"

    def event(self, name: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Runs the script of a lifecycle event with the agent's environment and appspec.yml's timeout."""
        (hook,) = yaml.safe_load((self.release / "appspec.yml").read_text())["hooks"][name]
        return self.run(hook["location"], hook["timeout"], LIFECYCLE_EVENT=name, **environment)

    def run(self, path: str, seconds: int, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Runs a script of the release with the agent's environment."""
        agent = {
            "DEPLOYMENT_ID": "d-ABCDEF123",
            "APPLICATION_NAME": "servers",
            "DEPLOYMENT_GROUP_NAME": "rolling",
            "DEPLOYMENT_GROUP_ID": str(uuid.uuid4()),
        }
        here = {
            "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}",
            "CONTAINER_NAME": self.name,
            "CONTAINER_NETWORK": "host",
            "PORT": str(self.port),
            "INTERNAL_PORT": str(self.internal_port),
            "SERVER_ENV": str(self.root / "server.env"),
            "VERIFY_IMAGE": str(self.root / "verify_image"),
            "STATE_DIRECTORY": str(self.root / "state"),
            "DATA_DIRECTORY": str(self.root / "data"),
            "IMAGE_LABEL": f"machine={self.name}",  # not those of others on this machine
        }
        return subprocess.run(
            ["bash", self.release / path],
            env=ENVIRONMENT | agent | here | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    def deploy(self, image: str) -> None:
        """Runs all events of an in-place deployment, each of which must succeed."""
        for name in ("ApplicationStop", "BeforeInstall", "AfterInstall", "ApplicationStart", "ValidateService"):
            if name == "BeforeInstall":
                self.install(image)
            if self.release.exists():  # a new server has no ApplicationStop
                done = self.event(name)
                assert done.returncode == 0, done.stdout + done.stderr
                assert done.stdout.startswith(f"{name}: ")
                assert ("images are not verified" in done.stdout) is (name == "ApplicationStart")

    def inspect(self) -> Any:
        (found,) = json.loads(podman("container", "inspect", self.name).stdout)
        return found

    def exists(self) -> bool:
        return podman("container", "exists", self.name, check=False).returncode == 0

    def predict(self, key: str) -> httpx.Response:
        url = f"http://127.0.0.1:{self.port}/predict"
        return httpx.post(url, json=CONTRACT.example, headers={"x-api-key": key}, timeout=10)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    machine.set_up()
    yield machine
    podman("rm", "--force", "--time", "0", machine.name, check=False)


def error_of(done: "subprocess.CompletedProcess[str]", event: str) -> str:
    """The last line of a failed event's error output."""
    assert done.returncode == 1, done.stdout + done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"{event}: ")
    return last


def test_release_starts_on_a_new_server_and_replaces_an_old_one(machine: Machine, images: dict[str, str]) -> None:
    machine.deploy(images["good"])
    first = machine.inspect()["Id"]
    smoke_key = (machine.root / "state" / "smoke-key").read_text()
    assert machine.predict(KEY).json()["probability"] == machine.predict(smoke_key).json()["probability"]
    assert machine.predict("another").status_code == 401
    assert (machine.root / "state" / "smoke-key").stat().st_mode & 0o077 == 0
    machine.deploy(images["good"])
    assert machine.inspect()["Id"] != first
    assert machine.predict(KEY).is_success
    assert machine.predict(smoke_key).status_code == 401, "the key is valid while its container runs"
    assert (machine.root / "data" / "images").read_text() == f"{images['good']}\n"
    for port, status in ((machine.port, 404), (machine.internal_port, 200)):
        assert httpx.get(f"http://127.0.0.1:{port}/metrics").status_code == status
    done = machine.run("hooks/send_metrics.sh", 60)
    assert done.returncode == 0, done.stderr
    sent = json.loads((machine.root / "bin" / "sent.json").read_text())
    assert sent["Namespace"] == "servers"
    assert {"Requests", "Seconds", "Probability", "ModelVersion"} <= {one["MetricName"] for one in sent["MetricData"]}
    # The first container has finished its prediction log; a file that nobody writes to is of a killed process.
    orphan = machine.root / "data" / "log" / "open" / "host-1-orphan.jsonl"
    orphan.write_text("{}\n")
    os.utime(orphan, (0, 0))
    done = machine.run("hooks/upload_log.sh", 60)
    assert done.returncode == 0, done.stdout + done.stderr
    uploaded = sorted((machine.root / "bin").glob("*.jsonl"))
    assert not list((machine.root / "data" / "log" / "ready").iterdir())
    assert not orphan.exists()
    rows = [json.loads(line)["fields"] for path in uploaded if path.name != orphan.name for line in path.open()]
    assert orphan.name in {path.name for path in uploaded}
    assert [set(row) for row in rows] == [set(CONTRACT.field_names[1:])] * 3, "two here, and that of ValidateService"
    # The model cache survives: a container without a model and without a registry serves the last champion.
    machine.deploy(images["never-ready"])
    assert machine.predict(KEY).is_success
    memory = machine.inspect()["HostConfig"]["Memory"]
    assert 0.7 < memory / psutil.virtual_memory().total < 0.85 or not has_limits()
    assert (machine.root / "data" / "images").read_text().split() == [images["good"], images["never-ready"]]


def test_container_is_read_only_and_hides_its_secrets(machine: Machine, images: dict[str, str]) -> None:
    machine.deploy(images["good"])
    found = machine.inspect()
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    assert found["EffectiveCaps"] in (None, [])
    assert "no-new-privileges" in str(found["HostConfig"]["SecurityOpt"])
    assert found["Config"]["User"] == "10001"
    written = podman("exec", machine.name, "sh", "-c", "touch /app/x; touch /tmp/x && echo temporary", check=False)
    assert "Read-only file system" in written.stderr
    assert written.stdout == "temporary\n"
    commands = " ".join(
        path.read_bytes().replace(b"\0", b" ").decode(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline")
        if path.exists()
    )  # fmt: skip
    for secret in (PASSWORD, (machine.root / "state" / "smoke-key").read_text(), hashlib.sha256(b"x").hexdigest()):
        assert secret not in commands
    inside = podman("exec", machine.name, "sh", "-c", "tr '\\0' '\\n' < /proc/1/environ").stdout
    assert f"MLFLOW_TRACKING_PASSWORD={PASSWORD}" in inside
    assert "APP_ENV=production" in inside
    assert "MODEL_PUBLIC_KEY=bGluZQ==" in inside
    assert "SHADOW_ALIAS=challenger" in inside


def test_last_two_images_that_have_served_are_kept(machine: Machine, images: dict[str, str], tmp_path: Path) -> None:
    machine.install(images["good"])
    made = {}
    for number in range(4):
        tag = f"localhost/{machine.name}-{number}:test"
        lines = f"FROM {images['good']}\nLABEL machine={machine.name} number={number}\n"
        (tmp_path / "Dockerfile").write_text(lines)
        podman("build", "--quiet", "--pull=never", "--format", "docker", "--tag", tag, str(tmp_path))
        (found,) = json.loads(podman("image", "inspect", tag).stdout)
        made[number] = f"{tag.removesuffix(':test')}@{found['Digest']}"
    try:
        (machine.root / "data").mkdir()
        (machine.root / "data" / "images").write_text("".join(f"{made[number]}\n" for number in (3, 0, 2)))
        done = machine.event("BeforeInstall")
        assert done.returncode == 0, done.stderr
        kept = [number for number, name in made.items() if podman("image", "exists", name, check=False).returncode == 0]
        assert kept == [0, 2], "neither the newest ones, nor one that has not served"
        assert podman("image", "exists", images["good"], check=False).returncode == 0, "another label"
    finally:
        podman("image", "rm", "--force", *made.values(), check=False)


def test_stopping_drains_first(machine: Machine, images: dict[str, str]) -> None:
    """For DRAIN_SECONDS it is not ready but still answers all requests."""
    machine.deploy(images["good"])
    stopping = threading.Thread(target=machine.event, args=("ApplicationStop",))
    answers: list[tuple[int, int]] = []
    with httpx.Client(base_url=f"http://127.0.0.1:{machine.port}", timeout=10) as client:
        stopping.start()
        with suppress(httpx.TransportError):
            while True:
                ready = client.get("/readyz").status_code
                predicted = client.post("/predict", json=CONTRACT.example, headers={"x-api-key": KEY})
                answers.append((ready, predicted.status_code))
    stopping.join()
    assert {predicted for _, predicted in answers} == {200}
    assert (503, 200) in answers
    assert not machine.exists()


def test_stopping_nothing_is_fine(machine: Machine, images: dict[str, str]) -> None:
    machine.install(images["good"])
    for _ in range(2):
        done = machine.event("ApplicationStop")
        assert (done.returncode, done.stdout) == (0, "ApplicationStop: no container is running\n")


@pytest.mark.fault("a container hangs when it is stopped", "it is removed")
def test_stopping_removes_a_hanging_container(machine: Machine, images: dict[str, str]) -> None:
    """Otherwise all later releases would fail on this server at ApplicationStop."""
    machine.deploy(images["good"])
    podman("pause", machine.name)
    (machine.root / "server.env").unlink()  # nor must the settings be there
    done = machine.event("ApplicationStop", DRAIN_SECONDS="-14")
    assert done.returncode == 0, done.stderr
    assert not machine.exists()


@pytest.mark.fault("the new container doesn't become ready", "it is removed, with one sentence in CodeDeploy")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("never-ready", 'the API is not ready after 3 seconds: {"ready":false'),
        ("crashing", "the API exited before it was ready"),
        ("wrong", "the response to the example has no probability"),
    ],
)
def test_bad_release_is_rejected_and_removed(machine: Machine, images: dict[str, str], name: str, message: str) -> None:
    machine.install(images[name])
    for event in ("BeforeInstall", "AfterInstall", "ApplicationStart"):
        assert machine.event(event).returncode == 0
    if name == "never-ready":
        wait_until(lambda: reachable(machine.internal_port, "status"), "the API", 30)
    done = machine.event("ValidateService", READY_SECONDS="3")
    assert message in error_of(done, "ValidateService")
    assert not machine.exists(), "it must not serve"
    if name == "crashing":
        assert "out of luck" in done.stderr, "the log has the reason"


def test_errors_are_one_line_each(machine: Machine, images: dict[str, str]) -> None:
    machine.install(f"localhost/aws-hooks-none@sha256:{'0' * 64}")
    assert "is it in the registry" in error_of(machine.event("AfterInstall"), "AfterInstall")
    machine.install("localhost/aws-hooks-good:test")
    assert "must name the image by digest" in error_of(machine.event("AfterInstall"), "AfterInstall")
    (machine.release / "image.env").unlink()
    assert "image.env is missing; release.py writes it" in error_of(machine.event("AfterInstall"), "AfterInstall")
    machine.install(images["good"])
    assert "MB are free" in error_of(machine.event("BeforeInstall", MIN_FREE_KB="999999999999"), "BeforeInstall")
    missing = machine.event("BeforeInstall", CONTAINER_TOOL="no-such-tool")
    assert "no-such-tool does not answer" in error_of(missing, "BeforeInstall")
    verifier.write(machine.root / "verify_image", "owner/name")
    assert "this release has no attestation" in error_of(machine.event("ApplicationStart"), "ApplicationStart")
    (machine.root / "verify_image").unlink()
    assert "verify_image is missing; the launch" in error_of(machine.event("ApplicationStart"), "ApplicationStart")
    verifier.write(machine.root / "verify_image")
    settings = machine.root / "server.env"
    settings.write_text(settings.read_text().replace("=password", "=another"))
    failed = machine.event("ApplicationStart")
    assert "can't read the secret another" in error_of(failed, "ApplicationStart")
    assert not machine.exists()
    settings.unlink()
    assert "user data writes it" in error_of(machine.event("BeforeInstall"), "BeforeInstall")


@pytest.mark.skipif(not shutil.which("docker-registry"), reason="docker-registry is not installed")
def test_image_is_pulled_by_digest(machine: Machine, images: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "registry.yml").write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {tmp_path}/registry}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
    )
    trusted = tmp_path / "registries.conf"
    trusted.write_text(f'[[registry]]\nlocation = "127.0.0.1:{port}"\ninsecure = true\n')
    registry = subprocess.Popen(
        ["docker-registry", "serve", tmp_path / "registry.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: reachable(port), "the registry", 20)
        repository = f"127.0.0.1:{port}/api"
        podman("push", "--quiet", "--tls-verify=false", f"--digestfile={tmp_path}/digest", images["good"], repository)
        digest = (tmp_path / "digest").read_text()
        assert digest.startswith("sha256:")
        machine.install(f"{repository}@{digest}")
        done = machine.event("AfterInstall", CONTAINERS_REGISTRIES_CONF=str(trusted))
        assert done.returncode == 0, done.stderr
        assert podman("image", "exists", f"{repository}@{digest}", check=False).returncode == 0
        machine.install(f"{repository}@sha256:{'0' * 64}")
        failed = machine.event("AfterInstall", CONTAINERS_REGISTRIES_CONF=str(trusted))
        assert "can't pull" in error_of(failed, "AfterInstall")
    finally:
        registry.terminate()
        registry.wait(20)
        podman("image", "rm", f"{repository}@{digest}", check=False)


def reachable(port: int, path: str = "v2/") -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/{path}").is_success
    return False
