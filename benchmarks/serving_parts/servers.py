"""Starts the servers on a core of their own, waits for them, and ends them."""

import hashlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from serving_parts.environments import ENVIRONMENTS, MB
from serving_parts.peers import ALWAYS, PRODUCTION, Peer, Row

from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root

PEER_FILES = Path(__file__).resolve().parents[1] / "serving_peers"
READY_SECONDS = 120  # until a server that does not answer counts as failed
LIFE_SECONDS = 1800  # no server lives longer, even if the benchmark is killed
GRACE_SECONDS = 5  # between SIGTERM and SIGKILL
POLL_SECONDS = 0.01
OK = 200


@dataclass(frozen=True, slots=True)
class Bench:
    """What all measurements share: the model's folder and version, rows and their probabilities, cores, registry."""

    model: Path
    version: str
    scratch: Path
    rows: list[Row]
    expected: Any
    cores: tuple[int, int] | None  # of the servers, of the load generator; None where the system can't pin
    registry: str = ""
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def write(self, name: str, bodies: list[Any]) -> Path:
        """Writes bodies to a file, one per line."""
        path = self.scratch / f"{name}.jsonl"
        path.write_text("".join(json.dumps(body) + "\n" for body in bodies), encoding="utf-8")
        return path


def free_ports(count: int) -> list[int]:
    """Ports that are free."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [it.getsockname()[1] for it in sockets]
    for it in sockets:
        it.close()
    return ports


@contextmanager
def on_core(cores: tuple[int, int] | None, *, for_load: bool) -> Iterator[None]:
    """Pins this process and its new children to the core of the load generator or of the servers."""
    if cores is None:
        yield
        return
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores[1 if for_load else 0]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


@contextmanager
def process(
    command: list[str], variables: dict[str, str], bench: Bench, log: Path, *, for_load: bool
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with this block, and on Linux also when the benchmark is killed."""
    ours = ("PYTHON", "MLFLOW_", "UV", "VIRTUAL_ENV", "PROJECT_ROOT")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    if shutil.which("setpriv") and shutil.which("timeout"):
        # SIGTERM when the benchmark dies, and SIGKILL for the whole group soon after any SIGTERM.
        guard = ["setpriv", "--pdeathsig", "TERM", "timeout", f"--kill-after={GRACE_SECONDS}", str(LIFE_SECONDS)]
        command = [*guard, *command]
    with log.open("wb") as output, on_core(bench.cores, for_load=for_load):
        child = subprocess.Popen(
            command,
            cwd=bench.scratch,
            env=environment | ALWAYS | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only the benchmark, which ends them
        )
    try:
        yield child
    finally:
        below = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS + 1)
        child.kill()
        child.wait()
        for remaining in below:
            with suppress(psutil.NoSuchProcess):
                remaining.kill()


def wait_for(ask: Callable[[], httpx.Response], server: subprocess.Popen[bytes], name: str, log: Path) -> None:
    """Sends requests until the answer is 200.

    Raises:
        ProjectError: the server has ended, or has not answered within READY_SECONDS.
    """
    deadline, last = time.monotonic() + READY_SECONDS, "nothing"
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            answer = ask()
            if answer.status_code == OK:
                return
            last = f"{answer.status_code} {answer.text[:200]}"
        time.sleep(POLL_SECONDS)
    lines = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
    what = "ended" if server.poll() is not None else f"did not answer in {READY_SECONDS} s (last answer: {last})"
    raise ProjectError(f"{name} {what}; the last line of its log is: {lines[-1][:300]}")


@dataclass(frozen=True, slots=True)
class Server:
    """A running peer."""

    client: httpx.Client
    url: str
    ready: float  # seconds from its start to its first prediction
    pid: int


@contextmanager
def serving(peer: Peer, bench: Bench) -> Iterator[Server]:
    """Starts a peer, waits for its first prediction, and ends it."""
    port, *more_ports = free_ports(3)
    values: dict[str, Any] = {
        "port": port,
        "more_ports": more_ports,
        "model": bench.model,
        "peers": PEER_FILES,
        "root": root(),
        "scratch": bench.scratch,
        "registry": bench.registry,
        "key_sha256": hashlib.sha256(bench.key.encode()).hexdigest(),
    }
    programs = ENVIRONMENTS / peer.environment / "bin"
    command = [part.format(**values) for part in f"{programs}/{peer.command}".split()]
    variables = {name: value.format(**values) for name, value in peer.variables.items()}
    variables["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    headers = {"content-type": "application/json"} | ({"x-api-key": bench.key} if peer.variables is PRODUCTION else {})
    url, log = f"http://127.0.0.1:{port}", bench.scratch / "server.log"
    body = json.dumps(peer.body(bench.rows[0]))
    start = time.monotonic()
    with (
        process(command, variables, bench, log, for_load=False) as child,
        httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client,
    ):
        wait_for(lambda: client.post(peer.path, content=body), child, peer.name, log)
        yield Server(client, url, time.monotonic() - start, child.pid)


def wait_for_sync(server: Server) -> None:
    """Waits for the first sync of this API with the registry: starting it occupies the core once.

    Raises:
        ProjectError: it has not done so in READY_SECONDS.
    """
    deadline = time.monotonic() + READY_SECONDS
    while "from the cache" in server.client.get("/status").json()["detail"]:
        if time.monotonic() > deadline:
            raise ProjectError(f"model sync has not reported in {READY_SECONDS} s")
        time.sleep(POLL_SECONDS)


def memory_mb(pid: int) -> tuple[float, float]:
    """Memory of a process and its descendants, shared pages counted once; and the part of model sync."""
    total = sync = 0.0
    for it in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            used = (it.memory_full_info().pss if sys.platform == "linux" else it.memory_info().rss) / MB
            total += used
            sync += used if any(part.endswith("model_sync.py") for part in it.cmdline()) else 0.0
    return total, sync
