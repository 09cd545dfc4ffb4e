"""How long an answer with its reasons takes: `POST /predict?explain=true`, whole and by its parts.

Serves the registry's champion as `uv run main.py serve` does, with one worker, and sends held-out loans one after the
other over one connection. Beside it: the same without reasons, and the explanation alone, in this process. Each answer
is checked: what the fields add is the score's log-odds less the references'.

Usage: uv run main.py, then: uv run benchmarks/reasons.py [--requests 2000]
Writes: benchmarks/results/reasons.md
"""

import argparse
import http.client
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from credit_risk.core.entry_point import run
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing
from credit_risk.core.host import free_port
from credit_risk.core.paths import root
from credit_risk.data.splits import as_records, read_holdout
from credit_risk.serving import model_cache
from credit_risk.serving.active_model import LoadedModel
from credit_risk.serving.explanations import PERMUTATIONS, log_odds

BUDGET_MS = 2.0
LOANS = 200  # held-out loans that are sent in turn
WARM_UP = 100  # requests that are not counted
WAIT_SECONDS = 60  # for the server to be ready


def main() -> None:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="of each kind (default: %(default)s)")
    count: int = parser.parse_args().requests
    loans = as_records(read_holdout("test").applications.head(LOANS))
    bodies = [json.dumps(loan).encode() for loan in loans]
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as connection:
        reasons = LoadedModel(model_cache.load(Path(folder))).reasons
        rows = {
            "`POST /predict?explain=true`": timed(
                lambda i: check(ask(connection, "/predict?explain=true", bodies[i])), count
            ),
            "`POST /predict`, without reasons": timed(lambda i: ask(connection, "/predict", bodies[i]), count),
            "the explanation alone, without HTTP": timed(lambda i: reasons.explain(loans[i]), count),
        }
    text = report(rows, count)
    with replacing(root() / "benchmarks" / "results" / "reasons.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


@contextmanager
def served(cache: Path) -> Iterator[http.client.HTTPConnection]:
    """A connection to a server of the champion, with a cache of its own.

    Raises:
        ProjectError: there is no champion, or the server does not get ready.
    """
    environment = os.environ | {"MODEL_CACHE": str(cache)}
    fetched = subprocess.run(
        [sys.executable, "6.production/model_sync.py", "--once"], cwd=root(), env=environment, check=False
    )
    if fetched.returncode:
        raise ProjectError("the champion can't be fetched; run `uv run main.py` first")
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "6.production/serve.py", "--host", "127.0.0.1", "--port", str(port)],
        cwd=root(),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield ready(port)
    finally:
        server.terminate()
        server.wait()


def ready(port: int) -> http.client.HTTPConnection:
    """A connection to the server, once it says that it is ready."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            response.read()
            if response.status == http.client.OK:
                return connection
        except OSError:
            pass
        time.sleep(0.1)
    raise ProjectError(f"the server was not ready within {WAIT_SECONDS} s")


def ask(connection: http.client.HTTPConnection, path: str, body: bytes) -> bytes:
    """The answer to an application."""
    connection.request("POST", path, body, {"content-type": "application/json"})
    response = connection.getresponse()
    content = response.read()
    assert response.status == http.client.OK, content
    return content


def check(answer: bytes) -> None:
    """The contributions add up to the score."""
    content = json.loads(answer)
    explanation = content["explanation"]
    total = explanation["reference_log_odds"] + sum(each["log_odds"] for each in explanation["contributions"])
    assert abs(total - log_odds(content["probability_of_default"]).item()) < 1e-5  # noqa: PLR2004 (float32 scores)


def timed(call: Callable[[int], Any], count: int) -> list[float]:
    """Milliseconds of each call, of the loans in turn."""
    took = []
    for number in range(-WARM_UP, count):
        start = time.perf_counter()
        call(number % LOANS)
        took.append((time.perf_counter() - start) * 1000)
    return took[WARM_UP:]


def report(rows: dict[str, list[float]], count: int) -> str:
    """The results as Markdown."""
    lines = [
        "# How long reasons take",
        "",
        f"Made by `uv run benchmarks/reasons.py --requests {count}` on {platform.machine()}, {os.cpu_count()} cores,",
        f"Python {platform.python_version()}. The champion, one worker, {count:,} requests one after the other",
        "over one connection, client and server on the same machine. The budget of an explained answer is",
        f"{BUDGET_MS:g} ms; reasons come from {PERMUTATIONS} orders in which fields take the applicant's values.",
        "",
        "| what | median, ms | 95th percentile, ms | 99th percentile, ms | within the budget |",
        "|---|---|---|---|---|",
    ]
    for name, took in rows.items():
        figures = " | ".join(f"{value:.2f}" for value in np.percentile(took, [50, 95, 99]))
        lines.append(f"| {name} | {figures} | {np.mean(np.array(took) <= BUDGET_MS):.1%} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    run("reasons", main)
