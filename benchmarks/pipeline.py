"""Measures the pipeline: the main job against one process with the same work, and each stage at several sizes.

The main job starts a process for each stage and gate, and each imports its libraries. The reference is one process that
runs the same scripts and imports once. Both start without results and without a registry, in copies of this checkout.
The sizes are the source's rows, drawn with replacement; each stage is a process of its own, as under DVC. Times and
memory are the operating system's, of one run each: read the ratios.

Usage: uv run benchmarks/pipeline.py [--rows 50000 500000 5000000]     (without sizes: --rows)
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from credit_risk.contract import CONTRACT
from credit_risk.core import params
from credit_risk.core.files import replacing
from credit_risk.core.paths import root
from credit_risk.data.sources import expand

CHUNK = 250_000  # rows written at a time
GIB = 1 << 30


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
    text = "\n\n".join([heading(), loop(), *([growth(sizes)] if sizes else [])]) + "\n"
    with replacing(root() / "benchmarks" / "results" / "pipeline.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


def heading() -> str:
    """Title of the results, and where they were measured."""
    versions = f"Python {platform.python_version()}, pandas {pd.__version__}, pyarrow {pa.__version__}"
    where = f"{platform.machine()}, {os.cpu_count()} cores, {versions}"
    return f"# Time and memory of the pipeline\n\nMade by `uv run benchmarks/pipeline.py` on {where}. One run each."


def loop() -> str:
    """The cold main job and its single-process reference, as a table."""
    runs = []
    for name, script in (("one process", "tests/spine.py"), ("`main.py`", "main.py")):
        with tempfile.TemporaryDirectory() as folder:
            copy_checkout(Path(folder))
            runs.append(measure(name, Path(folder), script))
    reference, job = runs
    rows = [f"| {run.name} | {run.seconds:.1f} | {run.cpu_seconds:.1f} |" for run in runs]
    ratio = f"| ratio | {job.seconds / reference.seconds:.2f} | {job.cpu_seconds / reference.cpu_seconds:.2f} |"
    table = ["| all stages and gates | seconds | CPU seconds |", "|---|---|---|", *rows, ratio]
    return "\n".join(["## The main job against one process", "", *table])


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
