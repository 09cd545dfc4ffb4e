"""Compares this API with other ways to serve the same registered model: requests a second, latency, memory, size.

Each server gets the registry's champion, one worker, an environment of its own (kept in benchmarks/.environments) and
a core to itself; the load generator, wrk, has another. They are measured one after the other, in rounds, each after its
probabilities for held-out rows were compared with those of the registered scikit-learn model. serving_parts/peers.py
says how each is set up.

Usage: uv run benchmarks/serving.py            a quarter of an hour; needs wrk (Debian: apt-get install wrk)
       uv run benchmarks/serving.py --quick    one short round, two to three minutes; writes nothing
       uv run benchmarks/serving.py --quick --only "bare ASGI"      this API and these; writes nothing
Writes: benchmarks/results/serving.md and serving.png
"""

from credit_risk.core.entry_point import run

import argparse
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
from serving_parts.environments import ENVIRONMENTS, build
from serving_parts.peers import PEERS, THIS, WORKER, Peer
from serving_parts.report import (
    BATCH_CONNECTIONS,
    BATCH_ROWS,
    CONNECTIONS,
    ROWS,
    Load,
    Measured,
    machine,
    named,
    plot,
    report,
    wrk_version,
)
from serving_parts.servers import (
    OK,
    PEER_FILES,
    Bench,
    Server,
    free_ports,
    memory_mb,
    on_core,
    process,
    serving,
    wait_for,
    wait_for_sync,
)

from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing
from credit_risk.core.paths import relative
from credit_risk.data.splits import as_records, read_holdout
from credit_risk.formats import skops_model
from credit_risk.model import positive_probability
from credit_risk.registry.client import CHAMPION, Registry

ROUNDS, SECONDS = 5, 3  # passes over all servers; length of each measurement
QUICK_SECONDS = WARM_UP_SECONDS = 1
# A slow server is measured for longer, so that each connection gets several answers.
ANSWERS, LONGEST_SECONDS = 4, 8
TOLERANCE = 1e-6  # between a server's probability and the registered scikit-learn model's
RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    """Measures all servers in rounds and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round; prints the report and writes nothing")
    names = [peer.name for peer in PEERS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help="; ".join(names))
    arguments = parser.parse_args()
    if not shutil.which("wrk"):
        raise ProjectError("the load generator wrk is missing; install it (Debian: apt-get install wrk)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the servers are ended first
    peers = [peer for peer in PEERS if peer.name in {THIS, *arguments.only}]
    rounds, seconds = (1, QUICK_SECONDS) if arguments.quick else (ROUNDS, SECONDS)
    began, busy = time.monotonic(), os.getloadavg()[0]
    measured = {peer.name: Measured() for peer in [*peers, WORKER]}
    with tempfile.TemporaryDirectory(prefix="serving-") as name, registry(prepare(Path(name))) as bench:
        for environment in dict.fromkeys(peer.environment for peer in peers):
            build(environment, bench.model)
        with serving(PEERS[0], bench) as server:  # fills the API's cache
            empty = server.ready
        for number in range(rounds):
            # Each round begins with another server, so that none always runs after the same one.
            for peer in [*peers[number % len(peers) :], *peers[: number % len(peers)]]:
                say(f"round {number + 1} of {rounds}: {peer.name}")
                try:
                    measure(peer, bench, seconds, measured[peer.name])
                except ProjectError as error:
                    if not measured[peer.name].loads:
                        raise
                    say(f"left out of this round: {error}")  # the other rounds still count
            with serving(WORKER, bench) as server:
                measured[WORKER.name].ready.append(server.ready)
        core = measure_core(bench)
    text = report(
        measured,
        peers,
        date=f"{datetime.now(UTC):%d %B %Y}",
        machine=machine(),
        busy=f"{busy:.1f}" + (" (other processes were running: trust the ratios only)" if busy > 1 else ""),
        version=bench.version,
        wrk=wrk_version(),
        rounds=f"{rounds} round" + "s" * (rounds > 1),
        seconds=seconds,
        minutes=f"{(time.monotonic() - began) / 60:.0f}",
        empty=f"{empty:.1f}",
        **{name: f"{figure:.1f}" for name, figure in core.items()},
    )
    print(text)
    if arguments.quick or len(peers) < len(PEERS):
        return
    with replacing(RESULTS / "serving.png") as temporary:
        plot(measured, peers, temporary)
    with replacing(RESULTS / "serving.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    say(f"wrote {relative(RESULTS / 'serving.md')} and serving.png")


def say(text: str) -> None:
    """Prints progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def prepare(scratch: Path) -> Bench:
    """Downloads the champion; scores the rows that will be sent with its scikit-learn model."""
    cores = None
    if sys.platform == "linux":
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2:  # noqa: PLR2004 (one for the servers, one for the load)
            raise ProjectError("this benchmark needs two cores: one for the servers, one for the load generator")
        cores = (usable[-1], usable[0])
    client = Registry()
    champion = client.version_of(CHAMPION)
    if champion is None:
        raise ProjectError(f"{client.address} has no champion yet; run `uv run main.py` first")
    model = client.download(champion.number, into=scratch / "model")
    frame = read_holdout("test").rows.head(ROWS)
    expected = positive_probability(skops_model.load(model), frame)
    return Bench(model, champion.number, scratch, as_records(frame), expected, cores)


@contextmanager
def registry(bench: Bench) -> Iterator[Bench]:
    """Adds the address of an MLflow server, as in production; starts one for a SQLite file."""
    known = Registry()
    if not known.embedded:
        yield replace(bench, registry=known.uri)
        return
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", known.uri, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--workers", "1", "--no-serve-artifacts"]
    log = bench.scratch / "mlflow-server.log"
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # it would start eight processes that are not needed here
    with process(command, quiet, bench, log, for_load=True) as server, httpx.Client(trust_env=False) as client:
        wait_for(lambda: client.get(f"http://127.0.0.1:{port}/health"), server, "the MLflow server", log)
        yield replace(bench, registry=f"http://127.0.0.1:{port}")


@dataclass(frozen=True, slots=True)
class Requests:
    """What is sent: the path, and the file with one body per line."""

    path: str
    file: Path


def measure(peer: Peer, bench: Bench, seconds: int, measured: Measured) -> None:
    """Starts a peer, checks its probabilities if that has not been done yet, and measures it under load."""
    requests = Requests(peer.path, bench.write("bodies", [peer.body(row) for row in bench.rows]))
    bodies = requests.file.read_bytes().splitlines()
    with serving(peer, bench) as server:
        if peer.probability and not measured.loads:
            measured.difference = check(peer, bodies, bench, server)
        if peer.name == THIS:
            wait_for_sync(server)
        rate = load(server, requests, bench, WARM_UP_SECONDS, 16).per_second
        loads = []
        for connections in CONNECTIONS:
            server.client.post(peer.path, content=bodies[0])  # queued requests are finished first
            enough = math.ceil(ANSWERS * connections / max(rate, 1))
            loads.append(load(server, requests, bench, max(seconds, min(enough, LONGEST_SECONDS)), connections))
            if not loads[-1].per_second:
                raise ProjectError(f"{peer.name} answers no request at {named(connections)}; is the machine busy?")
        measured.loads += loads
        total, sync = memory_mb(server.pid)
        measured.ready.append(server.ready)
        measured.memory.append(total)
        measured.sync_memory.append(sync)
        if peer.name == THIS:
            rows = bench.rows * (BATCH_ROWS // ROWS)
            batches = Requests("/predict/batch", bench.write("batch", [rows]))
            measured.batches += [load(server, batches, bench, seconds, count) for count in BATCH_CONNECTIONS]


def check(peer: Peer, bodies: list[bytes], bench: Bench, server: Server) -> float:
    """The largest difference between a peer's probabilities and those of the registered scikit-learn model.

    Sends sixteen requests at a time: a server that batches must not mix them up.

    Raises:
        ProjectError: it is more than TOLERANCE.
    """
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: server.client.post(peer.path, content=body), bodies))
    failed = [answer for answer in answers if answer.status_code != OK]
    if failed:
        raise ProjectError(f"{peer.name} rejects a row: {failed[0].status_code} {failed[0].text[:200]}")
    scores = [peer.probability(answer.json()) for answer in answers if peer.probability]
    difference = float(np.abs(np.array(scores) - bench.expected).max())
    if not difference <= TOLERANCE:
        raise ProjectError(f"{peer.name} is {difference:.1e} off the registered model's probabilities")
    return difference


def load(server: Server, requests: Requests, bench: Bench, seconds: int, connections: int) -> Load:
    """Sends requests over a number of connections for some seconds, each as soon as the last one is answered."""
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    command += ["--timeout", "30s", "--script", str(PEER_FILES / "load.lua")]
    for name in ("content-type", "x-api-key"):
        if name in server.client.headers:
            command += ["--header", f"{name}: {server.client.headers[name]}"]
    command += [server.url + requests.path, "--", str(requests.file)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with on_core(bench.cores, for_load=True):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise ProjectError(f"wrk failed: {' '.join((done.stderr or done.stdout).split())[:300]}")
    result = json.loads(done.stdout.splitlines()[-1])
    duration = result["microseconds"] / 1e6
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    answered = result["requests"] - result["rejected"]
    p50, p99 = result["p50"] / 1000, result["p99"] / 1000
    return Load(connections, answered / duration, p50, p99, result["rejected"] + result["lost"], used / duration)


def measure_core(bench: Bench) -> dict[str, float]:
    """Microseconds per row of validation and scoring, in a process of its own, on the servers' core."""
    program, rows = ENVIRONMENTS / "serving" / "bin" / "python", bench.write("core", bench.rows)
    with on_core(bench.cores, for_load=False):
        command = [program, PEER_FILES / "core.py", bench.scratch / "cache", rows]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    run("serving benchmark", main)
