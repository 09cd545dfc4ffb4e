"""The MLflow server of AWS, as its image starts it, on a real PostgreSQL: one database, and users with their rights."""

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
from clouds import AWS, only, tool
from projects import REPOSITORY, Project, script, wait_until
from stacks import Stack, free_port

from credit_risk.registry.client import EXPERIMENT, MODEL

FOLDER = AWS / "mlflow"
PASSWORDS = {user: f"the password of {user} in a test" for user in ("admin", "pipeline", "service")}


def test_the_images_dockerfile_is_clean() -> None:
    found = subprocess.run([tool("hadolint"), FOLDER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_names_are_those_of_the_project() -> None:
    names = script(Project(REPOSITORY), "7.deploy/aws/mlflow/make_users.py")
    assert (names["EXPERIMENT"], names["MODEL"]) == (EXPERIMENT, MODEL)
    text = (FOLDER / "make_users.py").read_text()
    _, users = only("AWS::ECS::TaskDefinition")["ContainerDefinitions"]
    given = {secret["Name"] for secret in users["Secrets"]}
    assert given == {f"MLFLOW_{user.upper()}_PASSWORD" for user in PASSWORDS}
    assert all(name in text for name in given)


@dataclass
class Server:
    url: str

    def ask(self, user: str | None, path: str, method: str = "POST", **body: str) -> int:
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
    """The command of the Dockerfile with the variables of the template, on a database of its own."""
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
    assert set(settings) == given - {"PGSSLMODE", "AWS_DEFAULT_REGION"}, "nothing else is needed"
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
def test_users_are_made_once_and_only_pipeline_may_write(server: Server) -> None:
    for _ in range(2):
        made = server.make_users()
        assert made.returncode == 0, made.stderr
    read, tag = f"registered-models/get?name={MODEL}", {"name": MODEL, "key": "k", "value": "v"}
    assert server.ask(None, read, "GET") == 401
    assert server.ask("service", read, "GET") == server.ask("pipeline", read, "GET") == 200
    assert server.ask("service", "registered-models/set-tag", **tag) == 403
    assert server.ask("pipeline", "registered-models/set-tag", **tag) == 200
    other = requests.get(f"{server.url}/api/2.0/mlflow/{read}", headers={"host": "evil.example.com"}, timeout=10)
    assert other.status_code == 403, "the server answers to its own name only"
