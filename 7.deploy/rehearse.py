"""Rehearses releases on this machine: real containers of the API behind HAProxy, under a constant load.

Each scenario does to the servers what a release, an operator or bad luck does, while a client asks POST /predict at
a constant rate, and tells how many requests failed. All serve a model from an MLflow server of the rehearsal's own.
What CodeDeploy does on AWS (drain, stop, start, wait, check, go back) is done step by step here, to see it; AWS uses
none of this.

Reads:  1.data/5.model, 1.data/6.reports, … as stage 7 does: `uv run main.py` comes first
Writes: a table for people, and a JSON line for each scenario; with --report, the table as Markdown
Needs:  Linux, Docker or podman, and Debian's haproxy and nghttp2-client

Usage: uv run 7.deploy/rehearse.py [all | SCENARIO …] [--image IMAGE] [--rate 600] [--report FILE]
"""

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import requests
from rehearsal.balancer import Balancer, Server
from rehearsal.fleet import CRASH_SECONDS, EXAMPLE, BadReleaseError, Fleet
from rehearsal.programs import answers, call, process, wait_until
from rich.console import Console
from rich.table import Table

from credit_risk.core.entry_point import run
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing
from credit_risk.core.host import container_tool, free_port
from credit_risk.core.paths import root
from credit_risk.core.settings import Settings
from credit_risk.registry.client import CHALLENGER, CHAMPION, MODEL, Registry, Version

CONNECTIONS = 20  # of the client that makes the load
BASELINE_SECONDS, TAIL_SECONDS = 5, 2  # of load before and after what a scenario does
SLOW_CLIENTS = 300
PROGRAMS = {"haproxy": "haproxy", "h2load": "nghttp2-client"}  # by name: Debian's package


@dataclass(frozen=True)
class Result:
    """What a scenario showed; times in milliseconds, before and while it did what it does."""

    scenario: str
    requests: int
    failed: int
    p50_ms: float
    p99_ms: float
    p50_before_ms: float
    p99_before_ms: float
    seconds: float
    trouble: str


def main() -> None:
    """Runs the scenarios and tells what they showed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", choices=["all", *SCENARIOS], default="all", metavar="SCENARIO")
    parser.add_argument("--image", help="the image of the API (default: built from this commit)")
    parser.add_argument("--rate", type=int, default=600, help="requests a second (default: %(default)s)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the table there, too")
    arguments = parser.parse_args()
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin"  # Debian's haproxy is there, where only root looks
    chosen = list(SCENARIOS) if "all" in arguments.scenarios else arguments.scenarios
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    console = Console(stderr=True)
    with ExitStack() as stack:
        rehearsal = stack.enter_context(prepared(arguments.image, arguments.rate, console))
        results = []
        for name in chosen:
            with console.status(name):
                results.append(rehearsal.show(name))
            print(json.dumps(asdict(results[-1])), flush=True)
    console.print(table(results))
    if arguments.report:
        with replacing(arguments.report) as temporary:
            temporary.write_text(report(results, arguments.rate), encoding="utf-8")
    if bad := [result.scenario for result in results if result.trouble]:
        raise ProjectError(f"{', '.join(bad)}: not as it must be (the table tells what failed)")


def table(results: list[Result]) -> Table:
    """The results, for people."""
    shown = Table("scenario", "requests", "failed", "p50 / p99 ms", "before it", "seconds", "")
    for result in results:
        shown.add_row(
            result.scenario,
            f"{result.requests:,}",
            str(result.failed),
            f"{result.p50_ms:.1f} / {result.p99_ms:.1f}",
            f"{result.p50_before_ms:.1f} / {result.p99_before_ms:.1f}",
            f"{result.seconds:.0f}",
            result.trouble or "as it must be",
        )
    return shown


def report(results: list[Result], rate: int) -> str:
    """The results as Markdown."""
    rows = [
        f"| {one.scenario} | {one.requests:,} | {one.failed} | {one.p50_ms:.1f} / {one.p99_ms:.1f} | "
        f"{one.p50_before_ms:.1f} / {one.p99_before_ms:.1f} | {one.seconds:.0f} |"
        for one in results
    ]
    return "\n".join(
        [
            "# Releases and mishaps under load",
            "",
            f"Made by `uv run 7.deploy/rehearse.py all` on {os.cpu_count()} cores, which all of it shares,",
            f"{rate} requests a second. Times in ms: median / 99th percentile, while it happened and before.",
            "`no-drain` is the control: servers are killed, and nothing is asked twice.",
            "",
            "| scenario | requests | failed | ms while it happened | ms before | seconds |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


@contextmanager
def prepared(image: str | None, rate: int, console: Console) -> Iterator["Rehearsal"]:
    """Everything that a scenario needs, running; ended and removed afterwards, whatever happens."""
    tool = find_programs()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rehearsal-")))
        with console.status("image"):
            image = image or build(tool)
        with console.status("registry"):
            registry = stack.enter_context(registry_server(folder))
        fleet = Fleet(tool, image, registry.uri, Balancer(folder))
        stack.callback(fleet.remove_all)
        with console.status("releases"):
            fleet.build_releases()
        yield Rehearsal(folder, rate, registry, fleet)


def find_programs() -> str:
    """The container tool that answers.

    Raises:
        ProjectError: it, or another program, is missing; names the package.
    """
    if missing := [package for program, package in PROGRAMS.items() if not shutil.which(program)]:
        raise ProjectError(f"a program is missing: apt-get install {' '.join(missing)}")
    return container_tool()


def build(tool: str) -> str:
    """Builds the image of this commit; returns its name."""
    image = "credit-risk:rehearsal"
    command = [str(root() / "7.deploy" / "build_image.sh"), image]
    call(command, "the image can't be built", env=os.environ | {"CONTAINER_TOOL": tool})
    return image


@contextmanager
def registry_server(folder: Path) -> Iterator[Registry]:
    """An MLflow server whose champion is the model of the pipeline's last run, and which has it as version 2 too.

    The gates are left out: nobody but the rehearsal asks this registry, and it ends with it.
    """
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).parent / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with process(command, folder, **quiet) as server:
        wait_until(lambda: server.poll() is not None or answers(f"{uri}/health"), "the MLflow server", 90)
        stage = [sys.executable, str(root() / "4.dvc_pipeline" / "7.register_model.py")]
        trouble = "no model to rehearse with; run `uv run main.py` first"
        call(stage, trouble, cwd=root(), env=os.environ | {"MLFLOW_TRACKING_URI": uri})
        registry = Registry(Settings(mlflow_tracking_uri=uri))
        first = registry.version_of(CHALLENGER)
        if first is None:
            raise ProjectError(trouble)
        again(registry, first)
        registry.set_alias(CHAMPION, first.number)
        yield registry


def again(registry: Registry, version: Version) -> Version:
    """The same model once more, as the next version."""
    source = str(registry.client.get_model_version(MODEL, version.number).source)
    return registry.create_version(source, version.run_id, source.removeprefix("models:/"), version.tags)


@dataclass(frozen=True)
class Rehearsal:
    """The fleet under load; `rate` in requests a second."""

    folder: Path
    rate: int
    registry: Registry
    fleet: Fleet

    def show(self, name: str) -> Result:
        """Runs one scenario under load, on a fresh balancer and servers of the current image."""
        scenario = SCENARIOS[name]
        self.fleet.balancer = balancer = Balancer(self.folder, retries=scenario.retries)
        haproxy = ["haproxy", "-db", "-f", str(root() / "7.deploy" / "haproxy.cfg")]
        with process(haproxy, self.folder, **balancer.environment):
            wait_until(balancer.answers, "HAProxy to take commands")
            self.fleet.reset(scenario.servers)
            trouble = ""
            with self.load() as log:
                time.sleep(BASELINE_SECONDS)
                began = time.time()
                try:
                    scenario.act(self)
                except ProjectError as error:
                    trouble = str(error)
                so_far = BASELINE_SECONDS + time.time() - began
                time.sleep(max(TAIL_SECONDS, scenario.requests / self.rate - so_far))
                ended = time.time()
            return self.judge(name, log, began, ended, trouble)

    def judge(self, name: str, log: Path, began: float, ended: float, trouble: str) -> Result:
        """Reads the client's log: start in microseconds since 1970, status or -1, and microseconds until the end."""
        rows = [tuple(map(int, line.split("\t"))) for line in log.read_text().splitlines()]
        failed = sum(not 200 <= status < 300 for _, status, _ in rows)  # noqa: PLR2004 (HTTP's own numbers)
        before = [spent for start, _, spent in rows if start < began * 1e6]
        during = [spent for start, _, spent in rows if start >= began * 1e6]
        if len(rows) < 0.8 * self.rate * (ended - began + BASELINE_SECONDS) and not SCENARIOS[name].must_fail:
            trouble = trouble or f"the client made only {len(rows)} requests: this machine is too busy"
        if SCENARIOS[name].must_fail != bool(failed):
            trouble = trouble or ("no request failed, but some must have" if not failed else "requests failed")
        times = (*quantiles(during), *quantiles(before))
        return Result(name, len(rows), failed, *times, round(ended - began, 1), trouble)

    @contextmanager
    def load(self) -> Iterator[Path]:
        """Asks POST /predict through the balancer at the constant rate; gives the log of all requests."""
        log = self.folder / "requests.tsv"
        log.unlink(missing_ok=True)
        command = ["h2load", "--h1", "--clients", str(CONNECTIONS), "--rps", str(self.rate / CONNECTIONS)]
        command += ["--duration", "600", "--data", str(root() / EXAMPLE), "--log-file", str(log)]
        command += ["--header", "content-type: application/json", "--header", f"x-api-key: {self.fleet.key}"]
        with process([*command, f"{self.fleet.balancer.url}/predict"], self.folder):
            yield log


def quantiles(microseconds: list[int]) -> tuple[float, float]:
    """Median and 99th percentile, in milliseconds; of nothing, not a number."""
    if len(microseconds) < 2:  # noqa: PLR2004 (quantiles need two)
        return float("nan"), float("nan")
    cuts = statistics.quantiles(microseconds, n=100)
    return round(cuts[49] / 1e3, 2), round(cuts[98] / 1e3, 2)


def rolling(rehearsal: Rehearsal) -> None:
    """A new image, one server after the other."""
    rehearsal.fleet.roll(rehearsal.fleet.release("next"))


def blue_green(rehearsal: Rehearsal) -> None:
    """A new set beside the old one; switched to it, and back."""
    green = [rehearsal.fleet.start_ready(rehearsal.fleet.release("next"), "green") for _ in rehearsal.fleet.blue()]
    for server in green:
        rehearsal.fleet.balancer.admit(server)
    for color in ("green", "blue"):
        rehearsal.fleet.balancer.switch(color)
        rehearsal.fleet.watch(3)
    for server in green:
        rehearsal.fleet.balancer.drain(server)
        rehearsal.fleet.stop(server)


def bad_release(rehearsal: Rehearsal) -> None:
    """Three bad releases, each of which must be taken back."""
    for name in ("never-ready", "fails-smoke", "crashes"):
        try:
            rehearsal.fleet.roll(rehearsal.fleet.release(name), CRASH_SECONDS + 2)
        except BadReleaseError:
            if {server.image for server in rehearsal.fleet.servers} == {rehearsal.fleet.image}:
                continue
        raise ProjectError(f"the release {name} was not taken back")


def kill(rehearsal: Rehearsal) -> None:
    """A server dies at once, and another takes its place."""
    victim = rehearsal.fleet.blue()[0]
    rehearsal.fleet.stop(victim, kill=True)
    rehearsal.fleet.balancer.admit(rehearsal.fleet.start_ready(rehearsal.fleet.image))


def scale(rehearsal: Rehearsal) -> None:
    """From two servers to four and back; who goes says so in /readyz, and the balancer is told nothing else."""
    added = [rehearsal.fleet.start_ready(rehearsal.fleet.image) for _ in range(2)]
    for server in added:
        rehearsal.fleet.balancer.admit(server)
    rehearsal.fleet.watch(3)
    for server in added:
        rehearsal.fleet.stop(server)


def promote(rehearsal: Rehearsal) -> None:
    """Another version becomes champion, and the first one again; no server is started anew."""
    for version in ("2", "1"):
        rehearsal.registry.set_alias(CHAMPION, version)
        for server in rehearsal.fleet.servers:
            wait_until(partial(serves, server, version), f"{server.name} to serve version {version}")


def serves(server: Server, version: str) -> bool:
    """Whether a server's answers come from a version."""
    return f"version {version}" in requests.get(f"{server.url}/readyz", timeout=5).text


def slow_clients(rehearsal: Rehearsal) -> None:
    """Hundreds of clients begin a request and don't end it; the balancer cuts them off, and others don't notice."""
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
            raise ProjectError("the balancer did not cut off a slow client")


def no_drain(rehearsal: Rehearsal) -> None:
    """The control: servers are killed and started anew, and nothing is asked twice. Requests must fail."""
    for server in rehearsal.fleet.blue():
        rehearsal.fleet.stop(server, kill=True)
        rehearsal.fleet.balancer.admit(rehearsal.fleet.start_ready(rehearsal.fleet.release("next")))


@dataclass(frozen=True)
class Scenario:
    """What is done to how many servers, and how the balancer and the judge stand to it."""

    act: Callable[[Rehearsal], None]
    servers: int = 3
    retries: bool = True
    must_fail: bool = False
    requests: int = 0  # that the client gets time for, also where it is over sooner


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
