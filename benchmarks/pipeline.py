"""Time and peak memory of each stage as the loans grow: 50 thousand, 500 thousand and 5 million.

The committed loans are drawn again with fresh loan numbers, and each stage runs as it does under DVC, in a process of
its own, in a temporary folder. Whole-process figures of the operating system; one run each, so read the ratios.

Usage: uv run benchmarks/pipeline.py [--rows 50000 500000 5000000]
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

from credit_risk.core.files import replacing
from credit_risk.core.paths import root

CHUNK = 250_000  # rows written at a time
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Run:
    """One stage on so many rows."""

    stage: str
    rows: int
    seconds: float
    peak_gib: float


def main() -> None:
    """Runs the stages at each size and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 500_000, 5_000_000])
    sizes: list[int] = parser.parse_args().rows
    runs = [run for rows in sizes for run in measure(rows)]
    text = report(runs, sizes)
    with replacing(root() / "benchmarks" / "results" / "pipeline.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


def measure(rows: int) -> list[Run]:
    """Runs all stages on so many rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("pyproject.toml", "uv.lock", "4.dvc_pipeline", "src"):
            source = root() / file
            shutil.copytree(source, folder / file) if source.is_dir() else shutil.copy(source, folder / file)
        write_loans(folder / "1.data" / "source" / "loans.csv", rows)
        stages = sorted((folder / "4.dvc_pipeline").glob("[1-7].*.py"))
        return [run_stage(stage, folder, rows) for stage in stages]


def write_loans(path: Path, rows: int) -> None:
    """The committed loans, drawn with replacement, each with a loan number of its own."""
    path.parent.mkdir(parents=True)
    loans = pd.read_csv(root() / "1.data" / "source" / "sba_loans.csv.gz", dtype="str", keep_default_na=False)
    rng = np.random.default_rng(0)
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        drawn = loans if rows == len(loans) else loans.iloc[rng.integers(len(loans), size=count)]
        drawn = drawn.assign(LoanNr_ChkDgt=np.arange(10**9 + start, 10**9 + start + count).astype(str))
        drawn.to_csv(path, mode="a", header=start == 0, index=False)


def run_stage(script: Path, folder: Path, rows: int) -> Run:
    """Runs a stage as a process of its own; its time and the most memory it held."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment["PROJECT_ROOT"] = str(folder)
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, script], env=environment, cwd=folder)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{script.name} failed on {rows:,} rows")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    run = Run(script.stem, rows, time.monotonic() - start, usage.ru_maxrss * unit / GIB)
    print(f"{rows:>10,} rows  {run.stage:<18} {run.seconds:7.1f} s  {run.peak_gib:5.2f} GiB", flush=True)
    return run


def report(runs: list[Run], sizes: list[int]) -> str:
    """The runs as a Markdown table: a row a stage, and for each size seconds and peak GiB."""
    names = list(dict.fromkeys(run.stage for run in runs))
    header = " | ".join(f"{rows:,} rows" for rows in sizes)
    made = (
        f"on {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, pandas {pd.__version__}"
    )
    lines = [
        "# Time and memory of each stage",
        "",
        f"Made by `uv run benchmarks/pipeline.py` {made}, pyarrow {pa.__version__}. One run each.",
        "",
        f"| stage | {header} |",
        f"|---|{'---|' * len(sizes)}",
    ]
    for name in names:
        cells = [f"{run.seconds:.1f} s, {run.peak_gib:.2f} GiB" for run in runs if run.stage == name]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    totals = [sum(run.seconds for run in runs if run.rows == rows) for rows in sizes]
    peaks = [max(run.peak_gib for run in runs if run.rows == rows) for rows in sizes]
    cells = [f"{seconds:.1f} s, {peak:.2f} GiB" for seconds, peak in zip(totals, peaks, strict=True)]
    lines.append(f"| **all** | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
