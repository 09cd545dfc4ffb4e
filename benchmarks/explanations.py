"""How long an explained prediction takes, as a whole and by its parts, and how stable its first reason is.

Serves the registry's champion with one worker and sends held-out rows one after the other over one connection; then
the same without explanations, and the explanation alone, in this process. Each answer is checked: the contributions
add up to its log-odds. Then the same rows get noise within the rounding of their numbers.

Usage: uv run main.py, then: uv run --group test benchmarks/explanations.py [--requests 2000]
Writes: benchmarks/results/explanations.md
"""

from credit_risk.core.entry_point import run

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from credit_risk.contract import CONTRACT
from credit_risk.core.arrays import log_odds
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing
from credit_risk.core.paths import root
from credit_risk.data.splits import as_records, read_holdout
from credit_risk.project.host import free_port
from credit_risk.serving import model_cache
from credit_risk.serving.active_model import LoadedModel
from credit_risk.serving.explanations import PERMUTATIONS, Explainer

BUDGET_MS = 2.0
ROWS = 200  # held-out rows that are sent in turn
NOISE = 0.005  # of a number: half a unit of the third digit, for numbers that begin with 1
DRAWS = 5  # noisy rows of each row
WARM_UP = 100  # requests that are not counted
READY_SECONDS = 60


def main() -> None:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, help="of each kind (default: %(default)s)")
    count: int = parser.parse_args().requests
    rows = as_records(read_holdout("test").rows.head(ROWS))
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as client:
        explainer = LoadedModel(model_cache.load(Path(folder))).explainer
        measured = {
            "`POST /predict?explain=true`": timed(lambda row: check(post(client, row, explain="true")), rows, count),
            "`POST /predict`, without explanation": timed(lambda row: post(client, row), rows, count),
            "the explanation alone, without HTTP": timed(explainer.explain, rows, count),
        }
        stable = same_first_reason(explainer, rows)
    text = report(measured, count, stable)
    with replacing(root() / "benchmarks" / "results" / "explanations.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


@contextmanager
def serving(cache: Path) -> Iterator[httpx.Client]:
    """A client of a server of the champion.

    Raises:
        ProjectError: there is no champion, or the server does not become ready.
    """
    environment, port = os.environ | {"MODEL_CACHE": str(cache)}, free_port()
    sync = [sys.executable, "6.production/model_sync.py", "--once"]
    if subprocess.run(sync, cwd=root(), env=environment, check=False).returncode:
        raise ProjectError("the champion can't be fetched; run `uv run main.py` first")
    command = [sys.executable, "6.production/serve.py", "--no-sync", "--port", str(port)]
    server = subprocess.Popen(command, cwd=root(), env=environment, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            wait_until_ready(client)
            yield client
    finally:
        server.terminate()
        server.wait()


def wait_until_ready(client: httpx.Client) -> None:
    """Waits until the server answers /readyz with 200.

    Raises:
        ProjectError: it takes more than READY_SECONDS.
    """
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if client.get("/readyz").is_success:
                return
        time.sleep(0.1)
    raise ProjectError(f"the server was not ready within {READY_SECONDS} s")


def post(client: httpx.Client, row: dict[str, Any], **query: str) -> Any:
    """The answer to one row."""
    return client.post("/predict", params=query, json=row).raise_for_status().json()


def check(answer: dict[str, Any]) -> None:
    """Checks that the contributions add up to the log-odds of the answer.

    Raises:
        ProjectError: they do not.
    """
    explanation = answer["explanation"]
    total = explanation["reference_log_odds"] + sum(each["log_odds"] for each in explanation["contributions"])
    if abs(total - log_odds(answer["probability"]).item()) > 1e-5:  # noqa: PLR2004 (float32 scores)
        raise ProjectError(f"the contributions of {answer} do not add up to its log-odds")


def timed(call: Callable[[dict[str, Any]], Any], rows: list[dict[str, Any]], count: int) -> list[float]:
    """Milliseconds of each call, with the rows in turn."""
    seconds = []
    for number in range(WARM_UP + count):
        start = time.perf_counter()
        call(rows[number % len(rows)])
        seconds.append(time.perf_counter() - start)
    return [1000 * each for each in seconds[WARM_UP:]]


def same_first_reason(explainer: Explainer, rows: list[dict[str, Any]]) -> float:
    """The share of noisy rows whose largest contribution is of the same fields as that of the row itself."""
    random = np.random.default_rng(0)
    same = []
    for row in rows:
        first = explainer.explain(row)[0].fields
        same += [explainer.explain(with_noise(row, random))[0].fields == first for _ in range(DRAWS)]
    return float(np.mean(same))


def with_noise(row: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    """A row whose numbers, but for whole ones, differ by up to NOISE; they stay within ranges and rules."""
    noisy = dict(row)
    for field in CONTRACT.numbers:
        if row[field.name] is not None and not field.whole:
            value = row[field.name] * (1 + random.uniform(-NOISE, NOISE))
            noisy[field.name] = min(max(value, field.minimum), field.maximum)
    for rule in CONTRACT.rules:
        noisy[rule.smaller] = min(noisy[rule.smaller], noisy[rule.larger])
    return noisy


def report(measured: dict[str, list[float]], count: int, stable: float) -> str:
    """The results as Markdown."""
    lines = [
        "# How long explanations take",
        "",
        f"Made by `uv run benchmarks/explanations.py --requests {count}` on {platform.machine()},",
        f"{os.cpu_count()} cores, Python {platform.python_version()}. The champion, one worker, {count:,} requests one",
        "after the other over one connection, client and server on the same machine. The budget of an explained",
        f"prediction is {BUDGET_MS:g} ms; explanations use {PERMUTATIONS} permutations of the fields.",
        "",
        "| what | median, ms | 95th percentile, ms | 99th percentile, ms | within the budget |",
        "|---|---|---|---|---|",
    ]
    for name, times in measured.items():
        figures = " | ".join(f"{value:.2f}" for value in np.percentile(times, [50, 95, 99]))
        lines.append(f"| {name} | {figures} | {np.mean(np.array(times) <= BUDGET_MS):.1%} |")
    lines += [
        "",
        f"Rows whose numbers (but for whole ones) get noise of up to {NOISE:.1%}, as if they were rounded,",
        f"have the same first reason in {stable:.1%} of {ROWS * DRAWS:,} cases.",
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    run("explanations benchmark", main)
