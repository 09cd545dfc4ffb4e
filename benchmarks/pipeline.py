"""Measures the pipeline: the main job against one process, threads of a fit, and stages at several sizes.

The main job starts a process for each stage but the last and for the loading gate, and each imports its libraries. The
reference is one process that runs the same scripts and pays for imports once. Both start without results and registry,
in copies of this checkout, and take turns; medians are shown.
Fits are measured on a quiet machine and next to busy loops, one for each processor and one more.
The sizes are the source's rows, drawn with replacement; each stage is a process of its own, as under DVC, and runs
once. Times and memory are the operating system's: read the ratios.

Usage: uv run benchmarks/pipeline.py [--rows 50000 500000 5000000]     (without sizes: --rows; on a quiet machine)
Writes: benchmarks/results/pipeline.md
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from credit_risk.contract import CONTRACT
from credit_risk.core import params
from credit_risk.core.files import replacing
from credit_risk.core.paths import root
from credit_risk.data.sources import expand
from credit_risk.evaluation.parallel import in_parallel

ROUNDS = 3  # of the main job and its reference
CHUNK = 250_000  # rows written at a time
GIB = 1 << 30
FITS, FIT_ROWS, TREES = 6, 30_000, 250  # as many fits as stage 5 has: folds, and all rows


@dataclass(frozen=True, slots=True)
class Run:
    """A process: its time and the most memory that it held."""

    name: str
    seconds: float
    cpu_seconds: float
    peak_gib: float


def main() -> None:
    """Measures and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[50_000, 500_000, 5_000_000])
    sizes: list[int] = parser.parse_args().rows
    text = "\n\n".join([heading(), loop(), fits(), *([growth(sizes)] if sizes else [])]) + "\n"
    with replacing(root() / "benchmarks" / "results" / "pipeline.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


def heading() -> str:
    """Title of the results, and where they were measured."""
    versions = f"Python {platform.python_version()}, pandas {pd.__version__}, pyarrow {pa.__version__}"
    where = f"{platform.machine()}, {os.cpu_count()} cores, {versions}"
    return f"# Time and memory of the pipeline\n\nMade by `uv run benchmarks/pipeline.py` on {where}."


def loop() -> str:
    """The cold main job and its single-process reference, as a table of medians."""
    scripts = {"one process": "tests/spine.py", "`main.py`": "main.py"}
    runs: dict[str, list[Run]] = {name: [] for name in scripts}
    for name, script in [*scripts.items()] * ROUNDS:
        with tempfile.TemporaryDirectory() as folder:
            copy_checkout(Path(folder))
            runs[name].append(measure(name, Path(folder), script))
    found = {
        name: (median(r.seconds for r in each), median(r.cpu_seconds for r in each)) for name, each in runs.items()
    }
    rows = [f"| {name} | {wall:.1f} | {cpu:.1f} |" for name, (wall, cpu) in found.items()]
    reference, job = found.values()
    ratio = f"| `main.py` / one process | {job[0] / reference[0]:.2f} | {job[1] / reference[1]:.2f} |"
    table = ["| all stages and gates, cold | seconds | CPU seconds |", "|---|---|---|", *rows, ratio]
    return "\n".join(["## The main job against one process", "", *table])


def fits() -> str:
    """Six fits as stage 5 runs them, one thread each and in parallel, against one after another with all threads."""
    ways = {
        "one thread a fit, fits in parallel": parallel_fits,
        "all threads a fit, one fit after another": threaded_fits,
    }
    lines = ["| way | quiet | next to busy loops |", "|---|---|---|"]
    for name, way in ways.items():
        quiet = seconds(way)
        with busy_loops((os.cpu_count() or 1) + 1):
            busy = seconds(way)
        lines.append(f"| {name} | {quiet:.1f} s | {busy:.1f} s |")
        print(lines[-1], flush=True)
    about = f"{FITS} fits of a boosted model with {TREES} trees on {FIT_ROWS:,} rows and 20 features."
    return "\n".join(["## Threads of a fit", "", about, "", *lines])


def made_rows() -> tuple[Any, Any]:
    """Features and labels, made up."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(FIT_ROWS, 20)).astype(np.float32)
    return features, (features[:, 0] + rng.normal(size=FIT_ROWS) > 1).astype(np.int8)


def classifier() -> HistGradientBoostingClassifier:
    """An unfitted boosted model."""
    return HistGradientBoostingClassifier(max_iter=TREES, max_leaf_nodes=15, early_stopping=False, random_state=0)


def parallel_fits() -> None:
    """The fits as stage 5 runs them."""
    features, labels = made_rows()

    def fit() -> None:
        with threadpool_limits(1):
            classifier().fit(features, labels)

    in_parallel([fit] * FITS)


def threaded_fits() -> None:
    """The same fits, each with all threads."""
    features, labels = made_rows()
    for _ in range(FITS):
        classifier().fit(features, labels)


def seconds(work: Callable[[], None]) -> float:
    """How long it takes."""
    start = time.monotonic()
    work()
    return time.monotonic() - start


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many processes that do nothing but use a processor, until the block ends."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop_ in loops:
            loop_.kill()
            loop_.wait()


def copy_checkout(folder: Path) -> None:
    """Copies the files that git tracks, without results, as a repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root(), capture_output=True, check=True, text=True).stdout
    for name in [*filter(None, listed.split("\0")), "uv.lock"]:
        if (root() / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root() / name, folder / name)
    (folder / "4.dvc_pipeline" / "dvc.lock").unlink(missing_ok=True)
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)


def growth(sizes: list[int]) -> str:
    """Each stage at each size, as a table."""
    runs: dict[int, list[Run]] = {}
    for rows in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            copy_checkout(folder)
            shutil.rmtree(folder / "1.data" / "source")
            write_rows(folder / "1.data" / "source" / "rows.csv", rows)
            stages = sorted((folder / "4.dvc_pipeline").glob("[1-7].*.py"))
            runs[rows] = [measure(stage.stem, folder, str(stage)) for stage in stages]
    lines = [f"| stage | {' | '.join(f'{rows:,} rows' for rows in sizes)} |", f"|---|{'---|' * len(sizes)}"]
    for at_sizes in zip(*runs.values(), strict=True):
        cells = [f"{run.seconds:.1f} s, {run.peak_gib:.2f} GiB" for run in at_sizes]
        lines.append(f"| {at_sizes[0].name} | {' | '.join(cells)} |")
    totals = [(sum(run.seconds for run in each), max(run.peak_gib for run in each)) for each in runs.values()]
    lines.append(f"| **all** | {' | '.join(f'{seconds:.1f} s, {peak:.2f} GiB' for seconds, peak in totals)} |")
    return "\n".join(["## Each stage", "", *lines])


def write_rows(path: Path, rows: int) -> None:
    """Rows of the first source, drawn with replacement, each with a row id of its own."""
    path.parent.mkdir(parents=True)
    source = expand(params.raw("data")["sources"])[0]
    original = pd.read_csv(source.path, dtype="str", keep_default_na=False)
    rng = np.random.default_rng(0)
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        drawn = original if rows == len(original) else original.iloc[rng.integers(len(original), size=count)]
        if CONTRACT.row_id:
            ids = np.arange(10**9 + start, 10**9 + start + count).astype(str)
            drawn = drawn.assign(**{CONTRACT.row_id.column: ids})
        drawn.to_csv(path, mode="a", header=start == 0, index=False)


def measure(name: str, folder: Path, script: str) -> Run:
    """Runs a script of a copy as a process.

    Raises:
        SystemExit: it has failed.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PROJECT_ROOT"] = str(folder)
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, script], env=environment, cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{script} failed")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    run = Run(name, time.monotonic() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / GIB)
    print(f"{run.name:<18} {run.seconds:7.1f} s  {run.cpu_seconds:7.1f} CPU s  {run.peak_gib:5.2f} GiB", flush=True)
    return run


if __name__ == "__main__":
    main()
