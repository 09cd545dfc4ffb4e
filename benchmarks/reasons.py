"""How long a decision with its reasons takes (`POST /predict?explain=true`), beside one without, over real HTTP.

One client on one connection asks about held-out loans in turn, with reasons and without, alternately.

Usage: uv run main.py and uv run main.py serve once, then: uv run benchmarks/reasons.py [--requests 2000]
Writes: benchmarks/results/reasons.md
"""

import argparse
import http.client
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from credit_risk import champion_cache
from credit_risk.errors import CreditRiskError
from credit_risk.files import replacing
from credit_risk.paths import root
from credit_risk.script import run
from credit_risk.settings import Settings

RESULTS = Path(__file__).parent / "results" / "reasons.md"
PATHS = {"without reasons": "/predict", "with reasons": "/predict?explain=true"}
START_SECONDS, WARM_UP, AIM_MS = 30, 200, 2


def main() -> None:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="of each kind (default: %(default)s)")
    requests: int = parser.parse_args().requests
    loans = champion_cache.load(Settings().model_cache).golden["applications"]
    bodies = [json.dumps(loan) for loan in loans]
    with server() as connection:
        for number in range(WARM_UP):
            ask(connection, PATHS["with reasons"], bodies[number % len(bodies)])
        took: dict[str, list[float]] = {name: [] for name in PATHS}
        for number in range(requests):
            for name, path in PATHS.items():
                took[name].append(ask(connection, path, bodies[number % len(bodies)]))
    rows = [
        f"| {name} | {statistics.median(times):.2f} | {statistics.quantiles(times, n=100)[98]:.2f} |"
        for name, times in took.items()
    ]
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    text = f"""# A decision with its reasons

Made by `uv run benchmarks/reasons.py` on {machine}: one connection, {requests:,} requests of each kind in
turn, over HTTP; milliseconds as the client sees them. With reasons, a median of {AIM_MS} ms is aimed at.

| decision | median, ms | 99th percentile, ms |
|---|---|---|
{chr(10).join(rows)}
"""
    with replacing(RESULTS) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


@contextmanager
def server() -> Iterator[http.client.HTTPConnection]:
    """A connection to the API, which serves from the cache with one worker."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, str(root() / "6.production" / "serve.py"), "--port", str(port), "--no-keeper"]
    process = subprocess.Popen(command, env=os.environ | {"DRAIN_SECONDS": "0"}, stderr=subprocess.DEVNULL)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        end = time.monotonic() + START_SECONDS
        while not ready(connection):
            if time.monotonic() > end or process.poll() is not None:
                raise CreditRiskError("the API does not get ready; look at `uv run main.py serve`")
            time.sleep(0.05)
        yield connection
    finally:
        connection.close()
        process.terminate()
        process.wait()


def ready(connection: http.client.HTTPConnection) -> bool:
    """Whether the API serves."""
    with suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        answer.read()
        return answer.status == http.client.OK
    connection.close()
    return False


def ask(connection: http.client.HTTPConnection, path: str, body: str) -> float:
    """Milliseconds of one request, from its first byte to the answer's last."""
    start = time.perf_counter()
    connection.request("POST", path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    took = (time.perf_counter() - start) * 1e3
    assert answer.status == http.client.OK, content
    return took


if __name__ == "__main__":
    run("reasons", main)
