"""Rehearses releases on this machine: containers of the API behind HAProxy, under a constant load.

Each scenario performs a release, a scaling or a failure while a client sends POST /predict at a constant rate, and
reports how many requests failed. The steps of CodeDeploy (drain, stop, start, wait, test, roll back) are performed one
by one; AWS uses none of this code.

Reads:  1.data/5.model, 1.data/6.reports and others, like stage 7: run `uv run main.py` first
Writes: a JSON line per scenario and a table; with --report, the table as a Markdown page
Needs:  Linux, Docker or podman, and Debian's packages haproxy and nghttp2-client

Usage: uv run 7.deploy/rehearse.py [all | SCENARIO …] [--image IMAGE] [--rate 600] [--report FILE]
"""

from credit_risk.core.entry_point import run

import argparse
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import requests

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing
from credit_risk.core.paths import root
from credit_risk.project.host import container_tool, free_port
from credit_risk.project.settings import Settings
from credit_risk.registry.client import CHALLENGER, CHAMPION, Registry

CONNECTIONS = 20  # of the load generator
BASELINE_SECONDS, TAIL_SECONDS = 5, 2  # of load before and after a scenario
CRASH_SECONDS = 8  # until the release `crashes` exits
DRAIN_SECONDS = 1  # HAProxy checks four times a second and drops a server after two failures
READY_SECONDS = 30  # a release that is not ready by then is bad
SLOW_CLIENTS = 300
PROGRAMS = {"haproxy": "haproxy", "h2load": "nghttp2-client"}  # program: Debian's package
RELEASES = {  # lines added to the image under rehearsal
    "next": "LABEL org.opencontainers.image.version=next",
    "never-ready": 'ENTRYPOINT ["sleep", "600"]',
    "fails-smoke": "ENV MAX_BODY_BYTES=8",  # ready, but rejects each request as too large
    "crashes": f'ENTRYPOINT ["timeout", "--signal=KILL", "{CRASH_SECONDS}", "/app/7.deploy/start.sh"]',
}


class BadReleaseError(ProjectError):
    """A new server is not ready in time, fails the smoke test or has exited."""


def main() -> None:
    """Runs the scenarios and prints their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", choices=["all", *SCENARIOS], default="all", metavar="SCENARIO")
    parser.add_argument("--image", help="image of the API (default: built from this commit)")
    parser.add_argument("--rate", type=int, default=600, help="requests per second (default: %(default)s)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the table to this file")
    arguments = parser.parse_args()
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin"  # Debian's haproxy
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is cleaned up
    results = []
    with prepare(arguments.image, arguments.rate) as rehearsal:
        for name in SCENARIOS if "all" in arguments.scenarios else arguments.scenarios:
            log(name)
            results.append(rehearsal.run(name))
            print(json.dumps(asdict(results[-1])), flush=True)
    log(table(results))
    if arguments.report:
        with replacing(arguments.report) as temporary:
            temporary.write_text(report(results, arguments.rate), encoding="utf-8")
    if bad := [f"{result.scenario}: {result.problem}" for result in results if result.problem]:
        raise ProjectError("; ".join(bad))


# Programs


def log(message: str) -> None:
    """Prints progress; standard output has the results only."""
    print(message, file=sys.stderr, flush=True)


def call(command: list[str], problem: str, **options: Any) -> str:
    """Runs a program and returns its output.

    Raises:
        ProjectError: it failed; `problem` and the last line of its output.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        output = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise ProjectError(f"{problem}: {output[-1]}")
    return str(done.stdout).strip()


def wait_until(condition: Callable[[], bool], description: str, seconds: float = 30) -> None:
    """Waits for a condition.

    Raises:
        ProjectError: it is not true in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ProjectError(f"timed out after {seconds:.0f} s waiting for {description}")
        time.sleep(0.05)


def is_up(url: str) -> bool:
    """Whether a URL responds with success."""
    with suppress(requests.RequestException):
        return bool(requests.get(url, timeout=1).ok)
    return False


@contextmanager
def process(command: list[str], folder: Path, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs a process within the block; its log is in `folder`."""
    with (folder / f"{Path(command[0]).name}.log").open("wb") as output:
        started = subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output)
        try:
            yield started
        finally:
            started.terminate()
            started.wait(20)


# HAProxy and the servers


@dataclass(frozen=True)
class Server:
    """A container of the API and its slot in HAProxy."""

    name: str
    port: int
    color: str
    slot: int
    image: str

    @property
    def haproxy_name(self) -> str:
        """Backend and server name in HAProxy."""
        return f"{self.color}/server{self.slot}"

    @property
    def url(self) -> str:
        """Address without HAProxy."""
        return f"http://127.0.0.1:{self.port}"


class Balancer:
    """HAProxy, configured at run time through its stats socket."""

    def __init__(self, folder: Path, *, retries: bool = True) -> None:
        """Takes a folder for its files; without retries, a request to a dead server fails."""
        self.port = free_port()
        self._socket, self._live = folder / "haproxy.sock", folder / "live.map"
        self._live.write_text("live blue\n")
        self.environment = {
            "BIND": f"127.0.0.1:{self.port}",
            "SOCKET": str(self._socket),
            "LIVE_MAP": str(self._live),
            "RATE_LIMIT": "1000000",  # the load generator is a single client
            "RETRIES": "3" if retries else "0",
            "RETRY_ON": "conn-failure empty-response" if retries else "none",
        }

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"http://127.0.0.1:{self.port}"

    def command(self, command: str) -> str:
        """Sends a command to HAProxy; returns its output."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._socket))
            connection.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode().strip()

    def is_up(self) -> bool:
        """Whether it accepts commands."""
        with suppress(OSError):
            return bool(self.command("show info"))
        return False

    def add(self, server: Server) -> None:
        """Routes requests to a server, and waits until its health check passes."""
        self.command(f"set server {server.haproxy_name} addr 127.0.0.1 port {server.port}")
        self.command(f"set server {server.haproxy_name} state ready")
        wait_until(lambda: self.status(server)["status"] == "UP", f"HAProxy to find {server.name} healthy")

    def drain(self, server: Server) -> None:
        """Routes no new request to a server, and waits until its requests are finished."""
        self.command(f"set server {server.haproxy_name} state drain")
        wait_until(lambda: self.status(server)["scur"] == "0", f"{server.name} to finish its requests")

    def remove(self, server: Server) -> None:
        """Frees the slot of a server."""
        self.command(f"set server {server.haproxy_name} state maint")

    def switch(self, color: str) -> None:
        """Routes all new requests to the blue or the green set."""
        self.command(f"set map {self._live} live {color}")

    def status(self, server: Server) -> dict[str, str]:
        """HAProxy's statistics of a server."""
        names, *rows = [line.split(",") for line in self.command("show stat").lstrip("# ").splitlines()]
        found = [dict(zip(names, row, strict=False)) for row in rows]
        return next(one for one in found if f"{one['pxname']}/{one['svname']}" == server.haproxy_name)


@dataclass
class Fleet:
    """The servers and HAProxy; `remove_all` removes the containers and images."""

    tool: str  # docker or podman
    image: str  # the current release
    registry: str  # address of the MLflow server
    balancer: Balancer
    servers: list[Server] = field(default_factory=list)
    prefix: str = field(default_factory=lambda: f"rehearsal-{secrets.token_hex(3)}")
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def release(self, name: str) -> str:
        """The image of a release."""
        return f"{self.prefix}:{name}"

    def build_releases(self) -> None:
        """Builds the images of RELEASES."""
        options = ["--format", "docker"] if self.tool == "podman" else []
        for name, line in RELEASES.items():
            command = [self.tool, "build", "--quiet", *options, "--tag", self.release(name), "-"]
            call(command, f"can't build the release {name}", input=f"FROM {self.image}\n{line}\n")

    def start(self, image: str, color: str = "blue") -> Server:
        """Starts a server, waits until it is ready and tests it; HAProxy sends it no requests yet.

        Raises:
            BadReleaseError: it is not ready in time or fails the test; it is removed.
        """
        used = {server.slot for server in self.servers if server.color == color}
        port = free_port()
        server = Server(f"{self.prefix}-{port}", port, color, min({*range(1, 9)} - used), image)
        environment = {
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "WORKERS": "1",
            "APP_ENV": "production",
            "API_KEYS_SHA256": hashlib.sha256(self.key.encode()).hexdigest(),
            "MLFLOW_TRACKING_URI": self.registry,
            "DRAIN_SECONDS": str(DRAIN_SECONDS),
        }
        command = [self.tool, "run", "--detach", "--name", server.name, "--network", "host", "--read-only"]
        command += ["--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges", "--memory", "512m"]  # noqa: S108
        command += ["--no-healthcheck"]  # HAProxy checks
        command += [part for name, value in environment.items() for part in ("--env", f"{name}={value}")]
        self.servers.append(server)
        try:
            call([*command, image], f"can't start {server.name}")
            wait_until(lambda: is_up(f"{server.url}/readyz"), f"{server.name} to be ready", READY_SECONDS)
            self.smoke_test(server)
        except ProjectError as error:
            self.stop(server, kill=True)
            raise BadReleaseError(str(error)) from error
        return server

    def start_and_add(self, image: str, color: str = "blue") -> Server:
        """Starts a server and routes requests to it."""
        server = self.start(image, color)
        self.balancer.add(server)
        return server

    def smoke_test(self, server: Server) -> None:
        """Sends the example request to a server.

        Raises:
            ProjectError: the response has no probability.
        """
        headers = {"X-API-Key": self.key}
        response = requests.post(f"{server.url}/predict", json=CONTRACT.example, headers=headers, timeout=5)
        if not response.ok or not 0 <= response.json()["probability"] <= 1:
            raise ProjectError(f"{server.name} responds to the example with {response.status_code}")

    def stop(self, server: Server, *, kill: bool = False) -> None:
        """Stops a server, with SIGTERM like a release or with SIGKILL, and removes it."""
        ending = [self.tool, "kill", "--signal", "KILL"] if kill else [self.tool, "stop", "--time", "15"]
        with suppress(ProjectError):  # it has exited by itself
            call([*ending, server.name], "can't stop")
        call([self.tool, "rm", "--force", server.name], f"can't remove {server.name}")
        self.balancer.remove(server)
        self.servers.remove(server)

    def remove_all(self) -> None:
        """Removes all containers and images of this rehearsal."""
        for server in self.servers:
            subprocess.run([self.tool, "rm", "--force", server.name], capture_output=True, check=False)
        releases = [self.release(name) for name in RELEASES]
        subprocess.run([self.tool, "rmi", "--force", *releases], capture_output=True, check=False)

    def blue(self) -> list[Server]:
        """The servers of the blue set, oldest first."""
        return [server for server in self.servers if server.color == "blue"]

    def reset(self, count: int) -> None:
        """Scales to `count` blue servers of the current image and adds them to HAProxy."""
        for server in self.servers.copy():
            if server.color != "blue" or server.image != self.image or not is_up(f"{server.url}/readyz"):
                self.stop(server)
        for server in self.blue()[count:]:
            self.stop(server)
        while len(self.blue()) < count:
            self.start(self.image)
        for server in self.blue():
            self.balancer.add(server)

    def replace(self, old: Server, image: str) -> None:
        """Drains and stops a server, and starts one of another image; restores the old image if that is bad."""
        self.balancer.drain(old)
        self.stop(old)
        try:
            self.start_and_add(image)
        except BadReleaseError:
            self.start_and_add(old.image)
            raise

    def roll(self, image: str, watch_seconds: float = 2) -> None:
        """Replaces one server after the other and watches the first one; rolls back if the release is bad.

        Raises:
            BadReleaseError: the release was bad; all servers have the old image again.
        """
        first, *others = self.blue()
        try:
            self.replace(first, image)
            self.watch(watch_seconds)
            for server in others:
                self.replace(server, image)
        except BadReleaseError:
            for server in [server for server in self.servers if server.image == image]:
                self.replace(server, first.image)
            raise

    def watch(self, seconds: float) -> None:
        """Checks for a while that no server exits.

        Raises:
            BadReleaseError: one has exited.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for server in self.servers:
                state = [self.tool, "inspect", "--format", "{{.State.Running}}", server.name]
                if call(state, f"{server.name} is gone") != "true":
                    raise BadReleaseError(f"{server.name} has exited")
            time.sleep(0.2)


# The rehearsal


@contextmanager
def prepare(image: str | None, rate: int) -> Iterator["Rehearsal"]:
    """Starts everything that a scenario needs, and removes it afterwards.

    Raises:
        ProjectError: a program is missing; names its package.
    """
    if missing := [package for program, package in PROGRAMS.items() if not shutil.which(program)]:
        raise ProjectError(f"a program is missing: apt-get install {' '.join(missing)}")
    tool = container_tool()
    if not image:
        image = f"{CONTRACT.problem.name}:rehearsal"
        log(f"building {image}")
        build = [str(root() / "7.deploy" / "build_image.sh"), image]
        call(build, "can't build the image", env=os.environ | {"CONTAINER_TOOL": tool})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rehearsal-")))
        log("starting the registry")
        registry = stack.enter_context(registry_server(folder))
        fleet = Fleet(tool, image, registry.uri, Balancer(folder))
        stack.callback(fleet.remove_all)
        fleet.build_releases()
        yield Rehearsal(folder, rate, registry, fleet)


@contextmanager
def registry_server(folder: Path) -> Iterator[Registry]:
    """Starts an MLflow server with the model of the last pipeline run as champion, and again as version 2.

    Gates are skipped: only the rehearsal uses this registry.
    """
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).parent / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with process(command, folder, **quiet) as server:
        wait_until(lambda: server.poll() is not None or is_up(f"{uri}/health"), "the MLflow server", 90)
        stage = [sys.executable, str(root() / "4.dvc_pipeline" / "7.register_model.py")]
        problem = "no model to rehearse with; run `uv run main.py` first"
        call(stage, problem, cwd=root(), env=os.environ | {"MLFLOW_TRACKING_URI": uri})
        registry = Registry(Settings(mlflow_tracking_uri=uri))
        first = registry.version_of(CHALLENGER)
        if first is None:
            raise ProjectError(problem)
        source = str(registry.client.get_model_version(CONTRACT.problem.model_name, first.number).source)
        registry.create_version(source, first.run_id, source.removeprefix("models:/"), first.tags)
        registry.set_alias(CHAMPION, first.number)
        yield registry


@dataclass(frozen=True)
class Result:
    """Result of a scenario; latencies in milliseconds, during and before it."""

    scenario: str
    requests: int
    failed: int
    p50_ms: float
    p99_ms: float
    p50_before_ms: float
    p99_before_ms: float
    seconds: float
    problem: str


@dataclass(frozen=True)
class Rehearsal:
    """The fleet under load; `rate` in requests per second."""

    folder: Path
    rate: int
    registry: Registry
    fleet: Fleet

    def run(self, name: str) -> Result:
        """Runs a scenario under load, with a new HAProxy and servers of the current image."""
        scenario = SCENARIOS[name]
        self.fleet.balancer = balancer = Balancer(self.folder, retries=scenario.retries)
        haproxy = ["haproxy", "-db", "-f", str(root() / "7.deploy" / "haproxy.cfg")]
        with process(haproxy, self.folder, **balancer.environment):
            wait_until(balancer.is_up, "HAProxy to accept commands")
            self.fleet.reset(scenario.servers)
            problem = ""
            with self.load() as requests_log:
                time.sleep(BASELINE_SECONDS)
                start = time.time()
                try:
                    scenario.act(self)
                except ProjectError as error:
                    problem = str(error)
                elapsed = BASELINE_SECONDS + time.time() - start
                time.sleep(max(TAIL_SECONDS, scenario.requests / self.rate - elapsed))
                end = time.time()
            return self.evaluate(name, requests_log, start, end, problem)

    @contextmanager
    def load(self) -> Iterator[Path]:
        """Sends POST /predict through HAProxy at the constant rate; gives the log of all requests."""
        requests_log, body = self.folder / "requests.tsv", self.folder / "request.json"
        requests_log.unlink(missing_ok=True)
        body.write_text(json.dumps(CONTRACT.example), encoding="utf-8")
        command = ["h2load", "--h1", "--clients", str(CONNECTIONS), "--rps", str(self.rate / CONNECTIONS)]
        command += ["--duration", "600", "--data", str(body), "--log-file", str(requests_log)]
        command += ["--header", "content-type: application/json", "--header", f"x-api-key: {self.fleet.key}"]
        with process([*command, f"{self.fleet.balancer.url}/predict"], self.folder):
            yield requests_log

    def evaluate(self, name: str, requests_log: Path, start: float, end: float, problem: str) -> Result:
        """Evaluates the log of h2load: start in microseconds since 1970, status or -1, duration in microseconds."""
        rows = [tuple(map(int, line.split("\t"))) for line in requests_log.read_text().splitlines()]
        failed = sum(not 200 <= status < 300 for _, status, _ in rows)  # noqa: PLR2004 (HTTP)
        before = [duration for began, _, duration in rows if began < start * 1e6]
        during = [duration for began, _, duration in rows if began >= start * 1e6]
        scenario = SCENARIOS[name]
        if len(rows) < 0.8 * self.rate * (end - start + BASELINE_SECONDS) and not scenario.must_fail:
            problem = problem or f"the client sent only {len(rows)} requests: this machine is too busy"
        if scenario.must_fail != bool(failed):
            problem = problem or (f"{failed} requests failed" if failed else "no request failed, as the control must")
        latencies = (*quantiles(during), *quantiles(before))
        return Result(name, len(rows), failed, *latencies, round(end - start, 1), problem)


def quantiles(microseconds: list[int]) -> tuple[float, float]:
    """Median and 99th percentile in milliseconds; NaN without data."""
    if len(microseconds) < 2:  # noqa: PLR2004 (needed by statistics.quantiles)
        return float("nan"), float("nan")
    cuts = statistics.quantiles(microseconds, n=100)
    return round(cuts[49] / 1e3, 2), round(cuts[98] / 1e3, 2)


def table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    head = [
        "| scenario | requests | failed | ms during | ms before | seconds | result |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = [
        f"| {one.scenario} | {one.requests:,} | {one.failed} | {one.p50_ms:.1f} / {one.p99_ms:.1f} | "
        f"{one.p50_before_ms:.1f} / {one.p99_before_ms:.1f} | {one.seconds:.0f} | {one.problem or 'ok'} |"
        for one in results
    ]
    return "\n".join([*head, *rows])


def report(results: list[Result], rate: int) -> str:
    """The Markdown page with the results."""
    return f"""# Releases and failures under load

`uv run 7.deploy/rehearse.py all` on {os.cpu_count()} cores, shared by servers, HAProxy and client; {rate} requests per
second. Latencies are median / 99th percentile, during the scenario and before it. `no-drain` is the control: servers
are killed without draining or retries, and requests must fail.

{table(results)}
"""


# Scenarios


def rolling(rehearsal: Rehearsal) -> None:
    """Releases a new image, one server after the other."""
    rehearsal.fleet.roll(rehearsal.fleet.release("next"))


def blue_green(rehearsal: Rehearsal) -> None:
    """Starts a second set of servers with a new image, switches to it and back."""
    fleet = rehearsal.fleet
    green = [fleet.start_and_add(fleet.release("next"), "green") for _ in fleet.blue()]
    for color in ("green", "blue"):
        fleet.balancer.switch(color)
        fleet.watch(3)
    for server in green:
        fleet.balancer.drain(server)
        fleet.stop(server)


def bad_release(rehearsal: Rehearsal) -> None:
    """Releases three bad images, each of which must be rolled back."""
    for name in ("never-ready", "fails-smoke", "crashes"):
        try:
            rehearsal.fleet.roll(rehearsal.fleet.release(name), CRASH_SECONDS + 2)
        except BadReleaseError:
            if {server.image for server in rehearsal.fleet.servers} == {rehearsal.fleet.image}:
                continue
        raise ProjectError(f"the release {name} was not rolled back")


def kill(rehearsal: Rehearsal) -> None:
    """Kills a server and starts another."""
    rehearsal.fleet.stop(rehearsal.fleet.blue()[0], kill=True)
    rehearsal.fleet.start_and_add(rehearsal.fleet.image)


def scale(rehearsal: Rehearsal) -> None:
    """Scales from two servers to four and back; stopping servers are found by the health check alone."""
    added = [rehearsal.fleet.start_and_add(rehearsal.fleet.image) for _ in range(2)]
    rehearsal.fleet.watch(3)
    for server in added:
        rehearsal.fleet.stop(server)


def promote(rehearsal: Rehearsal) -> None:
    """Promotes version 2 and then version 1 again; no server restarts."""
    for version in ("2", "1"):
        rehearsal.registry.set_alias(CHAMPION, version)
        for server in rehearsal.fleet.servers:
            wait_until(partial(serves, server, version), f"{server.name} to serve version {version}")


def serves(server: Server, version: str) -> bool:
    """Whether a server serves a version of the model."""
    return f"version {version}" in requests.get(f"{server.url}/status", timeout=5).text


def slow_clients(rehearsal: Rehearsal) -> None:
    """Opens hundreds of connections with incomplete requests; HAProxy must close them without harm to others."""
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    starts = (b"POST /pre", head, head + b"content-length: 100\r\n\r\n{")
    with ExitStack() as stack:
        slow = []
        for number in range(SLOW_CLIENTS):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", rehearsal.fleet.balancer.port)))
            connection.sendall(starts[number % len(starts)])
            connection.settimeout(10)
            slow.append(connection)
        if not all(b" 408 " in connection.recv(4096) for connection in slow):
            raise ProjectError("HAProxy did not disconnect a slow client")


def no_drain(rehearsal: Rehearsal) -> None:
    """The control: replaces servers with SIGKILL, without draining or retries. Requests must fail."""
    for server in rehearsal.fleet.blue():
        rehearsal.fleet.stop(server, kill=True)
        rehearsal.fleet.start_and_add(rehearsal.fleet.release("next"))


@dataclass(frozen=True)
class Scenario:
    """A scenario: its action, the number of servers, and what is expected."""

    act: Callable[[Rehearsal], None]
    servers: int = 3
    retries: bool = True
    must_fail: bool = False
    requests: int = 0  # minimum number of requests; the load continues until then


SCENARIOS = {
    "rolling": Scenario(rolling, requests=10_500),
    "blue-green": Scenario(blue_green),
    "bad-release": Scenario(bad_release),
    "kill": Scenario(kill),
    "scale": Scenario(scale, servers=2),
    "promote": Scenario(promote),
    "slow-clients": Scenario(slow_clients),
    "no-drain": Scenario(no_drain, retries=False, must_fail=True),
}

if __name__ == "__main__":
    run("rehearse", main)
