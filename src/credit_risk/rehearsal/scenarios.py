"""The scenarios of the rehearsal, and how one runs under load."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import requests

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root
from credit_risk.project.shift import shift_traffic
from credit_risk.registry.client import CHAMPION, Registry
from credit_risk.rehearsal.balancer import Balancer, Server
from credit_risk.rehearsal.fleet import CRASH_SECONDS, BadReleaseError, Fleet
from credit_risk.rehearsal.programs import log, process, wait_until
from credit_risk.rehearsal.results import Result, quantiles

CONNECTIONS = 20  # of the load generator
BASELINE_SECONDS, TAIL_SECONDS = 5, 2  # of load before and after a scenario
STEP_SECONDS = 2  # that each step of a shift is watched
MAX_CANARY = 0.08  # of the requests since HAProxy's start: 5 %, drawn at random for each request
SLOW_CLIENTS = 300


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
            problem, given = "", 0
            with self.load() as requests_log:
                time.sleep(BASELINE_SECONDS)
                start = time.time()
                try:
                    given = scenario.act(self) or 0
                except ProjectError as error:
                    problem = str(error)
                elapsed = BASELINE_SECONDS + time.time() - start
                time.sleep(max(TAIL_SECONDS, scenario.requests / self.rate - elapsed))
                end = time.time()
            return self.evaluate(name, requests_log, (start, end), problem, given)

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

    def evaluate(self, name: str, requests_log: Path, times: tuple[float, float], problem: str, given: int) -> Result:
        """Evaluates the log of h2load: start in microseconds since 1970, status or -1, duration in microseconds.

        `given` is the number of requests that the bad release of a scenario got: only these may fail.
        """
        start, end = times
        rows = [tuple(map(int, line.split("\t"))) for line in requests_log.read_text().splitlines()]
        failed = sum(not 200 <= status < 300 for _, status, _ in rows)  # noqa: PLR2004 (HTTP)
        before = [duration for began, _, duration in rows if began < start * 1e6]
        during = [duration for began, _, duration in rows if began >= start * 1e6]
        scenario = SCENARIOS[name]
        if len(rows) < 0.8 * self.rate * (end - start + BASELINE_SECONDS) and not scenario.must_fail:
            problem = problem or f"the client sent only {len(rows)} requests: this machine is too busy"
        if scenario.must_fail and not failed:
            problem = problem or "no request failed, as the control must"
        if failed > given and not scenario.must_fail:
            problem = problem or f"{failed} requests failed, {given} were given to a bad release"
        latencies = (*quantiles(during), *quantiles(before))
        return Result(name, len(rows), failed, given, *latencies, round(end - start, 1), problem)


def rolling(rehearsal: Rehearsal) -> None:
    """Releases a new image, one server after the other."""
    rehearsal.fleet.roll(rehearsal.fleet.release("next"))


def blue_green(rehearsal: Rehearsal) -> None:
    """Starts a second set of servers with a new image, gives it the traffic in steps, and takes all of it back."""
    fleet = rehearsal.fleet
    start_green(fleet, fleet.release("next"))
    shift_traffic(fleet.balancer.set_weight, lambda: fleet.watch(STEP_SECONDS))
    fleet.balancer.set_weight(0)
    stop_green(fleet)


def bad_canary(rehearsal: Rehearsal) -> int:
    """A release whose requests fail only after the smoke test: the alarm takes its 5 % back; returns their number."""
    fleet = rehearsal.fleet
    start_green(fleet, fleet.release("fails-later"))
    try:
        shift_traffic(fleet.balancer.set_weight, lambda: fleet.watch(STEP_SECONDS))
    except BadReleaseError as error:
        log(str(error))
    else:
        raise ProjectError("the bad release was not noticed")
    stop_green(fleet)
    given, _ = fleet.balancer.requests("green")
    everything = given + fleet.balancer.requests("blue")[0]
    if given > MAX_CANARY * everything:
        raise ProjectError(f"the bad release got {given} of {everything} requests")
    return given


def start_green(fleet: Fleet, image: str) -> None:
    """Starts as many green servers as there are blue ones."""
    for _ in fleet.blue():
        fleet.start_and_add(image, "green")


def stop_green(fleet: Fleet) -> None:
    """Stops the green servers, which get no new requests."""
    for server in [server for server in fleet.servers if server.color == "green"]:
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
    """A scenario: its action, the number of servers, and what is expected.

    The action returns how many requests a bad release got, which may fail.
    """

    act: Callable[[Rehearsal], int | None]
    servers: int = 3
    retries: bool = True
    must_fail: bool = False
    requests: int = 0  # minimum number of requests; the load continues until then


SCENARIOS = {
    "rolling": Scenario(rolling, requests=10_500),
    "blue-green": Scenario(blue_green),
    "bad-canary": Scenario(bad_canary),
    "bad-release": Scenario(bad_release),
    "kill": Scenario(kill),
    "scale": Scenario(scale, servers=2),
    "promote": Scenario(promote),
    "slow-clients": Scenario(slow_clients),
    "no-drain": Scenario(no_drain, retries=False, must_fail=True),
}
