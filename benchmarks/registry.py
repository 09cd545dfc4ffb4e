"""Measures registration and loading over PostgreSQL and S3, compared with MLflow's defaults for the same model.

Starts the local stack in a temporary folder and works on the files that `uv run main.py` has made: preflight, the whole
registration stage as a process, and loading the champion as a server does, with nothing cached. The comparison is
`mlflow.sklearn.log_model` with a pickle and its defaults, which infers the requirements, and `load_model`.

Usage: uv run main.py, then: uv run benchmarks/registry.py [--repeat 5]
Writes: benchmarks/results/registry.md
"""

import argparse
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import mlflow
import mlflow.sklearn

from credit_risk.core.files import replacing, sha256
from credit_risk.core.paths import data, root
from credit_risk.formats.onnx_scorer import OnnxScorer
from credit_risk.formats.reference_rows import TOLERANCE, max_score_difference
from credit_risk.project.host import free_port
from credit_risk.registry.client import CHALLENGER, ONNX_PATH, ONNX_SHA256, REFERENCE_ROWS_PATH, Registry
from credit_risk.registry.preflight import preflight

REPOSITORY = root()
STACK, REGISTER = REPOSITORY / "7.deploy" / "local_stack.py", "4.dvc_pipeline/7.register_model.py"
PLAIN = "PlainModel"
CLIENTS, LOOKUP_SECONDS = 8, 5


def main() -> None:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5, help="default: %(default)s")
    repeat: int = parser.parse_args().repeat
    if not data("7.registered", "model.json").exists():
        raise SystemExit("there is no model yet; run `uv run main.py` first")
    with working_copy() as folder, running_stack(folder):
        rows = measure(folder, repeat)
        text = report(rows, repeat, lookups_per_second(Registry()))
    with replacing(REPOSITORY / "benchmarks" / "results" / "registry.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


@contextmanager
def working_copy() -> Iterator[Path]:
    """A temporary folder with what registration reads; the project resolves against it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user when this runs as root
        for part in ("1.data", "4.dvc_pipeline", "src", "pyproject.toml", "uv.lock"):
            source = REPOSITORY / part
            shutil.copytree(source, folder / part) if source.is_dir() else shutil.copy(source, folder / part)
        os.environ["PROJECT_ROOT"] = str(folder)
        yield folder


@contextmanager
def running_stack(folder: Path) -> Iterator[None]:
    """Starts the stack on free ports, sets the environment that uses it, and ends it afterwards."""
    ports = [str(free_port()) for _ in range(3)]
    try:
        subprocess.run([sys.executable, STACK, "up", "--ports", *ports], check=True)
        for name, value in re.findall(r"^(\w+)=(.*)$", (folder / ".env.local").read_text(), re.MULTILINE):
            os.environ[name] = value
        yield
    finally:
        subprocess.run([sys.executable, STACK, "down"], check=True)


def measure(folder: Path, repeat: int) -> dict[str, list[float]]:
    """Seconds of each operation, `repeat` times."""
    registry = Registry()
    preflight(registry)  # connections are opened, caches filled
    rows = {"preflight": times(repeat, lambda _: preflight(registry))}
    register(folder, 0)
    rows["whole registration stage, as a process"] = times(repeat, lambda number: register(folder, number + 1))
    rows["champion from S3, checked, nothing cached"] = times(repeat, lambda _: load_champion(registry))
    pipeline = joblib.load(data("5.model", "model.joblib"))
    mlflow.set_experiment("plain")
    rows["MLflow's defaults: `log_model`, with a version"] = times(repeat, lambda _: log_plain(pipeline))
    rows["MLflow's defaults: `load_model`"] = times(
        repeat, lambda number: mlflow.sklearn.load_model(f"models:/{PLAIN}/{number + 1}")
    )
    return rows


def times(repeat: int, work: Callable[[int], Any]) -> list[float]:
    """Runs work repeatedly, with the number of the run; returns the seconds of each."""
    seconds = []
    for number in range(repeat):
        start = time.perf_counter()
        work(number)
        seconds.append(time.perf_counter() - start)
    return seconds


def lookups_per_second(registry: Registry) -> float:
    """Alias lookups per second that the server answers to several clients on the same machine."""
    end = time.perf_counter() + LOOKUP_SECONDS

    def look_up(_: int) -> int:
        lookups = 0
        while time.perf_counter() < end:
            registry.version_of(CHALLENGER)
            lookups += 1
        return lookups

    with ThreadPoolExecutor(CLIENTS) as pool:
        return sum(pool.map(look_up, range(CLIENTS))) / LOOKUP_SECONDS


def register(folder: Path, number: int) -> None:
    """Runs stage 7; another parameter makes it another lineage, so a new version each time."""
    params = folder / "4.dvc_pipeline" / "params.yaml"
    changed = re.sub(r"max_rejected_share: \S+", f"max_rejected_share: 0.01{number}", params.read_text())
    params.write_text(changed)
    done = subprocess.run([sys.executable, folder / REGISTER], capture_output=True, text=True, check=True)
    assert "registered version" in done.stdout


def load_champion(registry: Registry) -> None:
    """What a server does: resolves the alias, downloads, checks the digest and the reference rows."""
    version = registry.version_of(CHALLENGER)
    assert version
    onnx, reference_rows = (registry.download(version.number, path) for path in (ONNX_PATH, REFERENCE_ROWS_PATH))
    assert sha256(onnx) == version.tags[ONNX_SHA256]
    scorer = OnnxScorer.load(onnx)
    difference = max_score_difference(reference_rows, scorer.score_rows)
    assert difference <= TOLERANCE


def log_plain(pipeline: Any) -> None:
    """Logs with MLflow's defaults, except the format: the default rejects this model's types."""
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            pipeline, name="model", serialization_format="cloudpickle", registered_model_name=PLAIN
        )


def report(rows: dict[str, list[float]], repeat: int, lookups: float) -> str:
    """The seconds as a Markdown table."""
    made = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    lines = [
        "# Registration and loading over PostgreSQL and S3",
        "",
        f"Made by `uv run benchmarks/registry.py` on {made}, MLflow {mlflow.__version__}, all on one machine.",
        f"Median of {repeat} and the slowest, in seconds, after a first run.",
        "",
        "| what | median | slowest |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {statistics.median(took):.2f} | {max(took):.2f} |" for name, took in rows.items()]
    lines += [
        "",
        f"The server answers {lookups:.0f} alias lookups a second from {CLIENTS} clients on the same cores.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
