"""The MLflow server of AWS, started like in its image, on PostgreSQL: one database, users and permissions."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml
from clouds import only, tool
from projects import REPOSITORY, Project, script, wait_until
from stacks import Stack

from credit_risk.project.host import free_port

FOLDER = REPOSITORY / "7.deploy" / "mlflow"
PASSWORDS = {user: f"the password of {user} in a test" for user in ("admin", "pipeline", "service")}


def test_dockerfile_passes_hadolint() -> None:
    found = subprocess.run([tool("hadolint"), FOLDER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_task_definition_passes_all_passwords() -> None:
    _, users = only("AWS::ECS::TaskDefinition")["ContainerDefinitions"]
    assert {secret["Name"] for secret in users["Secrets"]} == {f"MLFLOW_{user.upper()}_PASSWORD" for user in PASSWORDS}


def test_the_database_must_be_the_one_that_it_says_it_is() -> None:
    container, _ = only("AWS::ECS::TaskDefinition")["ContainerDefinitions"]
    given = {variable["Name"]: variable["Value"] for variable in container["Environment"]}
    assert given["PGSSLMODE"] == "verify-full"  # `require` accepts any certificate
    *_, (last, body) = re.findall(
        r"^FROM (.*)\n((?:(?!FROM ).*\n)*)", (FOLDER / "Dockerfile").read_text(), re.MULTILINE
    )
    assert last == "local AS aws"
    assert re.findall(r"^ADD .* (\S+)$", body, re.MULTILINE) == [given["PGSSLROOTCERT"]]
    compose = yaml.safe_load((REPOSITORY / "7.deploy" / "compose.yaml").read_text())["services"]["mlflow"]["build"]
    assert compose == {"context": "mlflow", "target": "local"}


def test_a_rebuilt_image_has_the_same_packages() -> None:
    """Otherwise a rebuild is an upgrade, and a newer server refuses the database."""
    assert "pip install --no-cache-dir --require-hashes -r" in (FOLDER / "Dockerfile").read_text()
    locked = re.findall(
        r"^([\w.-]+)(?:\[\w+\])?==(\S+) \\\n    --hash=sha256:",
        (FOLDER / "requirements.lock").read_text(),
        re.MULTILINE,
    )
    assert len(locked) > 50
    client = re.findall(r"^mlflow==(\S+)", (REPOSITORY / "requirements-pipeline.lock").read_text(), re.MULTILINE)
    assert [version for name, version in locked if name == "mlflow"] == client, "server and clients are of one version"


@dataclass
class Server:
    url: str

    def request(self, user: str | None, path: str, method: str = "POST", **body: str) -> int:
        auth = (user, PASSWORDS[user]) if user else None
        answer = requests.request(method, f"{self.url}/api/2.0/mlflow/{path}", json=body or None, auth=auth, timeout=30)
        return answer.status_code

    def make_users(self) -> "subprocess.CompletedProcess[str]":
        settings = {f"MLFLOW_{user.upper()}_PASSWORD": password for user, password in PASSWORDS.items()}
        command = [sys.executable, str(FOLDER / "make_users.py")]
        environment = os.environ | settings | {"MLFLOW_URL": self.url}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def server(stack: Stack, tmp_path: Path) -> Iterator[Server]:
    """The command of the Dockerfile with the variables of the template, on a new database."""
    names = script(Project(REPOSITORY), "7.deploy/local_stack.py")
    connection = names["connect"](names["Stack"](**stack.state))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("create database aws")
    connection.close()
    text = (FOLDER / "Dockerfile").read_text()
    command = json.loads(re.findall(r"^CMD (.*)$", text, re.MULTILINE)[0])
    port = str(free_port())
    moved = {"0.0.0.0": "127.0.0.1", "5000": port, "2": "1"}
    moved["postgresql+psycopg2:///mlflow"] = "postgresql+psycopg2:///aws"
    (tmp_path / "users.ini").write_text((FOLDER / "users.ini").read_text().replace(":///mlflow", ":///aws"))
    container, _ = only("AWS::ECS::TaskDefinition")["ContainerDefinitions"]
    given = {variable["Name"] for variable in [*container["Environment"], *container["Secrets"]]}
    settings = {
        "PGHOST": "127.0.0.1",
        "PGUSER": "mlflow",
        "PGPASSWORD": stack.state["passwords"]["POSTGRES_PASSWORD"],
        "PGCONNECT_TIMEOUT": "5",
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS["admin"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "of a test",
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port}",
        "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "artifacts"),
    }
    assert set(settings) == given - {"PGSSLMODE", "PGSSLROOTCERT", "AWS_DEFAULT_REGION"}, "no other variable is needed"
    own = dict(re.findall(r"^(?:ENV|   ) (MLFLOW_\w+)=(\S+)", text, re.MULTILINE)) | {
        "PGPORT": str(stack.state["ports"]["postgres"]),
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "users.ini"),
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_", "PG"))}
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [tool("mlflow"), *(moved.get(word, word) for word in command[1:])],
            cwd=tmp_path,
            env=inherited | own | settings,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        running = Server(f"http://127.0.0.1:{port}")

        def healthy() -> bool:
            assert process.poll() is None, (tmp_path / "log").read_text()
            with suppress(requests.RequestException):
                return requests.get(f"{running.url}/health", timeout=2).ok
            return False

        try:
            wait_until(healthy, "the MLflow server")
            yield running
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.stack
def test_only_the_creator_of_a_model_can_write(server: Server) -> None:
    for _ in range(2):
        made = server.make_users()
        assert made.returncode == 0, made.stderr
    assert server.request("pipeline", "registered-models/create", name="model") == 200
    read, tag = "registered-models/get?name=model", {"name": "model", "key": "k", "value": "v"}
    assert server.request(None, read, "GET") == 401
    assert server.request("service", read, "GET") == server.request("pipeline", read, "GET") == 200
    assert server.request("service", "registered-models/set-tag", **tag) == 403
    assert server.request("pipeline", "registered-models/set-tag", **tag) == 200
    other = requests.get(f"{server.url}/api/2.0/mlflow/{read}", headers={"host": "evil.example.com"}, timeout=10)
    assert other.status_code == 403, "only allowed host names"
