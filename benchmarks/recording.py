"""What prediction log and shadow model cost the requests: throughput, latency and processor time, as ratios to without.

Serves the registry's champion with one worker, in turn without recording, with the log, and with log and shadow model
(the same model again, under another version). h2load sends held-out rows over HTTP/1.1. The processor time of the
server is the most certain of the figures: other processes of the machine change it least.

Usage: uv run main.py, then: uv run --group test benchmarks/recording.py [--rounds 5] [--requests 20000]
Writes: benchmarks/results/recording.md; needs h2load (Debian: apt-get install nghttp2-client)
"""

from credit_risk.core.entry_point import run

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing
from credit_risk.core.paths import root
from credit_risk.project.host import free_port
from credit_risk.serving import model_cache

CONNECTIONS = 16
WARM_UP = 2_000  # requests that are not counted
READY_SECONDS = 60
RESULTS = Path(__file__).resolve().parent / "results" / "recording.md"
WAYS = ("without", "log", "log and shadow model")


@dataclass(frozen=True, slots=True)
class Measured:
    """Of one round: requests/s, 99th percentile in ms, microseconds of processor time a request, memory in MB."""

    per_second: float
    p99: float
    processor: float
    memory: float


def main() -> None:
    """Measures all ways in rounds, each beginning with another one, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="passes over all ways (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=20_000, help="of each measurement (default: %(default)s)")
    arguments = parser.parse_args()
    if not shutil.which("h2load"):
        raise ProjectError("the load generator h2load is missing; install it (Debian: apt-get install nghttp2-client)")
    measured: dict[str, list[Measured]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="recording-") as name:
        folder = Path(name)
        fill_caches(folder)
        (folder / "body.json").write_text(json.dumps(CONTRACT.example))
        for number in range(arguments.rounds):
            for way in (*WAYS[number % 3 :], *WAYS[: number % 3]):
                print(f"round {number + 1} of {arguments.rounds}: {way}", file=sys.stderr, flush=True)
                measured[way].append(measure(way, folder, arguments.requests))
    text = report(measured, arguments.requests)
    with replacing(RESULTS) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


def fill_caches(folder: Path) -> None:
    """Fetches the champion, and installs it once more as the shadow model.

    Raises:
        ProjectError: there is no champion.
    """
    cache = folder / "cache"
    sync = [sys.executable, "6.production/model_sync.py", "--once"]
    done = subprocess.run(sync, cwd=root(), env=os.environ | {"MODEL_CACHE": str(cache)}, check=False)
    if done.returncode:
        raise ProjectError("the champion can't be fetched; run `uv run main.py` first")
    (model,) = cache.rglob(model_cache.ONNX)
    files = {name: model.with_name(name) for name in (model_cache.ONNX, model_cache.REFERENCE_ROWS)}
    info = model_cache.load(cache).info
    model_cache.install(cache / ".shadow", files, info | {"version": str(int(info["version"]) + 1)})


def measure(way: str, folder: Path, requests: int) -> Measured:
    """Starts a server and sends it requests.

    Raises:
        ProjectError: a request fails, or a row is neither logged nor counted as dropped.
    """
    variables = {"PREDICTION_LOG": str(folder / "log")} if way != "without" else {}
    variables |= {"SHADOW_ALIAS": "challenger"} if "shadow" in way else {}
    with serving(folder / "cache", variables) as (url, server):
        load(url, folder, WARM_UP)
        before = server.cpu_times()
        per_second, p99 = load(url, folder, requests)
        after = server.cpu_times()
        used = after.user + after.system - before.user - before.system
        memory = server.memory_info().rss / 1e6
    lines = 0
    for path in folder.glob("log/*/*"):
        lines += path.read_text().count("\n")
        path.unlink()
    if variables and lines != WARM_UP + requests:
        raise ProjectError(f"{lines} of {WARM_UP + requests} rows are in the log")
    return Measured(per_second, p99, used / requests * 1e6, memory)


@contextmanager
def serving(cache: Path, variables: dict[str, str]) -> Iterator[tuple[str, psutil.Process]]:
    """The address and the process of a server that is ready."""
    port = free_port()
    environment = os.environ | {"MODEL_CACHE": str(cache), "DRAIN_SECONDS": "0", "MAX_QUEUE_SECONDS": "10"} | variables
    command = [sys.executable, "6.production/serve.py", "--no-sync", "--port", str(port)]
    server = psutil.Popen(command, cwd=root(), env=environment, stderr=subprocess.DEVNULL)
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if httpx.get(f"{url}/readyz", trust_env=False).is_success:
                    break
            time.sleep(0.1)
        else:
            raise ProjectError(f"the server was not ready within {READY_SECONDS} s")
        yield url, server
    finally:
        server.terminate()
        server.wait()


def load(url: str, folder: Path, requests: int) -> tuple[float, float]:
    """Sends requests; returns how many a second were answered, and the 99th percentile of their times in ms.

    Raises:
        ProjectError: one was not answered with 200.
    """
    times = folder / "times"
    times.unlink(missing_ok=True)
    command = ["h2load", "--h1", "--clients", str(CONNECTIONS), "--requests", str(requests), "--log-file", str(times)]
    command += ["--header", "content-type: application/json", "--data", str(folder / "body.json"), f"{url}/predict"]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    _, status, microseconds = np.loadtxt(times, delimiter="\t", unpack=True)
    if done.returncode or len(status) != requests or (status != 200).any():  # noqa: PLR2004 (HTTP)
        raise ProjectError(f"requests fail: {' '.join((done.stderr or done.stdout).split())[:300]}")
    return requests / seconds, float(np.percentile(microseconds, 99)) / 1000


def report(measured: dict[str, list[Measured]], requests: int) -> str:
    """The results as Markdown: medians of the rounds, and of each round's ratios."""
    lines = [
        "# What prediction log and shadow model cost",
        "",
        f"Made by `uv run benchmarks/recording.py` on {platform.machine()}, {os.cpu_count()} cores, Python",
        f"{platform.python_version()}; load average {os.getloadavg()[1]:.1f}. The champion, one worker, {requests:,}",
        f"requests a measurement over {CONNECTIONS} connections, client and server on the same machine; medians of",
        f"{len(measured[WAYS[0]])} rounds, and ratios to without in the same round. Every row was found in the log.",
        "",
        "| recording | requests/s | ratio | p99, ms | ratio | processor time, µs/request | ratio | memory, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way, rounds in measured.items():
        cells = [way]
        for name, digits in (("per_second", 0), ("p99", 2), ("processor", 1)):
            values = np.array([getattr(each, name) for each in rounds])
            base = np.array([getattr(each, name) for each in measured[WAYS[0]]])
            cells += [f"{np.median(values):,.{digits}f}", f"{np.median(values / base):.2f}"]
        lines.append(f"| {' | '.join([*cells, f'{np.median([each.memory for each in rounds]):.0f}'])} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    run("recording benchmark", main)
