"""compose.yaml, started with podman-compose; this machine's programs stand in for all images but that of the API.

Old podman without systemd can't wait for the health of a service: here all services start at once, and those that
need others are started again until these answer. The health checks themselves are run.
"""

import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from subprocess import run
from typing import Any

import pytest
import requests
import yaml
from clouds import tool
from containers import BASE, ENVIRONMENT, needs_haproxy, needs_podman, podman
from projects import REPOSITORY, wait_until

from credit_risk.contract import CONTRACT
from credit_risk.project.host import free_port

DEPLOY = REPOSITORY / "7.deploy"
WRITTEN: Any = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
PASSWORDS = {
    f"{name}": f"test-{name.lower()}"
    for name in (
        *("POSTGRES_PASSWORD", "S3_PASSWORD", "MLFLOW_ADMIN_PASSWORD", "MLFLOW_PIPELINE_PASSWORD"),
        *("MLFLOW_SERVICE_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"),
    )
}
DATABASE = """
mkdir -p /tmp/data && chown postgres /tmp/data && echo "$POSTGRES_PASSWORD" > /tmp/password && chmod 644 /tmp/password
as() { setpriv --reuid postgres --regid postgres --clear-groups "$@"; }
programs=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
as "$programs/initdb" -D /tmp/data -U "$POSTGRES_USER" --pwfile /tmp/password -A scram-sha-256 >/dev/null
echo "host all all all scram-sha-256" >> /tmp/data/pg_hba.conf
echo "create database $POSTGRES_DB" | as "$programs/postgres" --single -D /tmp/data postgres >/dev/null
as "$programs/postgres" -D /tmp/data -h 0.0.0.0 -c unix_socket_directories= "$@"
"""  # what the entry point of the image does


def test_ports_are_on_loopback_and_the_api_is_a_profile() -> None:
    ports = [port for service in WRITTEN["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert {name for name, service in WRITTEN["services"].items() if service.get("profiles") == ["api"]} == {
        "api",
        "haproxy",
    }


def test_database_has_the_version_of_aws() -> None:
    (version,) = [
        line.split('"')[1]
        for line in (DEPLOY / "aws" / "storage.yaml").read_text().splitlines()
        if line.strip().startswith("EngineVersion:")
    ]
    assert WRITTEN["services"]["postgres"]["image"].startswith(f"postgres:{version}-")


def stand_in(port: dict[str, int], api: str) -> dict[str, Any]:
    """The file with this machine's programs instead of images, but for that of the API, and free ports."""
    python, programs = Path(sys.prefix), f"{sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    mounts = ["/usr:/usr:ro", "/etc/passwd:/etc/passwd:ro", "/etc/group:/etc/group:ro"]
    mounts += [f"{folder}:{folder}:ro" for folder in dict.fromkeys((str(REPOSITORY), str(python), sys.base_prefix))]
    written: Any = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = written["services"]
    for name, service in services.items():
        service.pop("build", None)
        service.pop("depends_on", None)
        if name == "api":
            service["image"] = api
            continue
        given = [file.split(":") for file in service.get("volumes", []) if file.startswith("./")]
        files = [f"{DEPLOY / source}:/{Path(source).name}:ro" for source, *_ in given]  # /usr is this machine's
        service |= {"image": BASE, "volumes": [*mounts, *files], "working_dir": str(DEPLOY / "mlflow")}
        service["environment"] = service.get("environment", {}) | {"PATH": programs}
        if "ports" in service:
            service["ports"] = [f"127.0.0.1:{port[name]}:{service['ports'][0].rpartition(':')[2]}"]
    services["postgres"]["entrypoint"] = ["sh", "-ec", DATABASE.replace("$", "$$"), "postgres"]
    services["s3"]["volumes"].append("s3:/data")
    dockerfile = (DEPLOY / "mlflow" / "Dockerfile").read_text()
    (command,) = [line[4:] for line in dockerfile.splitlines() if line.startswith("CMD [")]
    services["mlflow"]["command"] = yaml.safe_load(command)
    services["mlflow"]["environment"] |= {
        "MLFLOW_AUTH_CONFIG_PATH": str(DEPLOY / "mlflow" / "users.ini"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "HOME": "/tmp",  # noqa: S108
    }
    services["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"] += f",127.0.0.1:{port['mlflow']}"
    services["haproxy"]["command"] = ["haproxy", "-f", "/compose_haproxy.cfg"]
    return dict(written)


@pytest.fixture
def running(image: str, tmp_path: Path) -> Iterator[tuple[str, dict[str, int]]]:
    """Name of the running project, and ports of its services."""
    project, ports = f"test-{uuid.uuid4().hex[:8]}", {n: free_port() for n in ("postgres", "s3", "mlflow", "haproxy")}
    file = tmp_path / "compose.yaml"
    file.write_text(yaml.safe_dump(stand_in(ports, image)))
    uv = tool("uv") if Path(tool("uv")).exists() else shutil.which("uv") or pytest.skip("uv is not installed")
    compose = [uv, "tool", "run", "--from", "podman-compose==1.6.0", "podman-compose", "-p", project, "-f", str(file)]
    compose += ["--profile", "api"]
    options: dict[str, Any] = {"env": ENVIRONMENT | PASSWORDS, "capture_output": True, "text": True}
    try:
        done = run([*compose, "up", "--detach"], check=False, **options, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        yield project, ports
    except BaseException:
        for name in WRITTEN["services"]:
            done = podman("logs", "--tail", "15", f"{project}_{name}_1", check=False)
            print(name, done.stdout, done.stderr)
        raise
    finally:
        run([*compose, "down", "--volumes", "--timeout", "1"], check=False, **options, timeout=60)


@pytest.mark.containers
@pytest.mark.timeout(600)  # the first test that needs the image builds it
@needs_podman
@needs_haproxy
@pytest.mark.skipif(not Path("/usr/lib/postgresql").exists(), reason="postgresql is not installed")
def test_all_services_start_by_themselves(running: tuple[str, dict[str, int]]) -> None:
    project, ports = running

    def status(name: str, path: str, user: str = "") -> int:
        login = (user, PASSWORDS[f"MLFLOW_{user.upper()}_PASSWORD"]) if user else None
        try:
            return requests.get(f"http://127.0.0.1:{ports[name]}{path}", auth=login, timeout=5).status_code
        except requests.RequestException:
            return 0

    search = "/api/2.0/mlflow/registered-models/search"
    # The users are made last, and need the server, which needs database and buckets.
    wait_until(lambda: status("mlflow", search, "service") == 200, "users of the MLflow server", 120)
    for name in ("postgres", "s3", "mlflow"):
        podman("healthcheck", "run", f"{project}_{name}_1")
    assert status("mlflow", search, "pipeline") == 200
    assert status("mlflow", search) == 401
    # The registry has no champion: the API, from its image and read-only, serves the one that is baked in.
    wait_until(lambda: status("haproxy", "/readyz") == 200, "the API behind HAProxy", 30)
    url = f"http://127.0.0.1:{ports['haproxy']}/predict"
    assert 0 <= requests.post(url, json=CONTRACT.example, timeout=5).json()["probability"] <= 1
