"""Measures batch scoring from Parquet to Parquet, beside pandas and Dask with the registered scikit-learn pipeline.

The rows are those of stage 2, drawn with replacement, with the contract's fields. Each way runs as a process of its own
with its start and imports, one after the other, on the champion of this checkout's registry. Memory is the sum of the
private memory of all its processes, sampled ten times a second. Scores must agree to 1e-6.

Usage: uv run --group cluster benchmarks/scoring.py [--rows 10000000]
Writes: benchmarks/results/scoring.md
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from credit_risk.contract import CONTRACT
from credit_risk.core.files import replacing
from credit_risk.core.paths import data, root
from credit_risk.core.schema import ROW_ID
from credit_risk.registry.client import CHAMPION, Registry

CHUNK = 250_000  # rows of a row group
SAMPLE_SECONDS = 0.1
CHECKED = 100_000  # rows whose scores are compared
TOLERANCE = 1e-6
GIB = 1 << 30
PEERS = root() / "benchmarks" / "scoring_peers"


@dataclass(frozen=True, slots=True)
class Run:
    """A way to score: its time and the most memory that its processes held together."""

    name: str
    seconds: float
    peak_gib: float


def main() -> None:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    rows: int = parser.parse_args().rows
    registry = Registry()
    champion = registry.version_of(CHAMPION)
    assert champion, "there is no champion; run `uv run main.py` first"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, model = folder / "rows.parquet", str(registry.download(champion.number))
        write_rows(source, rows)
        ours = measure("`main.py score`", "main.py", "score", str(source), "--output", str(folder / "ours"))
        runs = [ours]
        for title, script in (
            ("pandas, `pipeline.predict_proba`", "with_pandas.py"),
            ("`dask.dataframe.map_partitions`, 2 workers", "with_dask.py"),
        ):
            target = folder / script
            runs.append(measure(title, str(PEERS / script), str(source), str(target), model))
            check_scores(folder / "ours", target)
    text = table(rows, runs)
    with replacing(root() / "benchmarks" / "results" / "scoring.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


def table(rows: int, runs: list[Run]) -> str:
    """The results as Markdown."""
    where = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, pyarrow {pa.__version__}"
    )
    ours = runs[0]
    lines = [
        "# Batch scoring",
        "",
        f"Made by `uv run --group cluster benchmarks/scoring.py --rows {rows}` on {where}: {rows:,} rows from",
        "Parquet to Parquet, with imports and start. One run each, one after the other.",
        "",
        "| | rows/s | seconds | peak memory | rows/s of ours, in multiples |",
        "|---|---|---|---|---|",
    ]
    for run in runs:
        ratio = f"{run.seconds / ours.seconds:.1f}"
        lines.append(
            f"| {run.name} | {rows / run.seconds:,.0f} | {run.seconds:.1f} | {run.peak_gib:.2f} GiB | {ratio} |"
        )
    return "\n".join(lines) + "\n"


def write_rows(path: Path, rows: int) -> None:
    """Rows of stage 2, drawn with replacement, each with a row id of its own."""
    clean = pq.read_table(data("2.clean", "rows.parquet"), columns=[ROW_ID, *CONTRACT.field_names])
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(path, clean.schema, compression="zstd") as writer:
        for start in range(0, rows, CHUNK):
            count = min(CHUNK, rows - start)
            drawn = clean.take(pa.array(rng.integers(clean.num_rows, size=count)))
            writer.write_table(drawn.set_column(0, ROW_ID, pa.array(np.arange(start, start + count).astype(str))))


def measure(name: str, *command: str) -> Run:
    """Runs a script as a process.

    Raises:
        SystemExit: it has failed.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    start, peak = time.monotonic(), 0
    process = psutil.Popen([sys.executable, *command], cwd=root(), env=environment, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, held(process))
        time.sleep(SAMPLE_SECONDS)
    run = Run(name, time.monotonic() - start, peak / GIB)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed")
    print(f"{run.name:<45} {run.seconds:7.1f} s {run.peak_gib:6.2f} GiB", flush=True)
    return run


def held(process: psutil.Process) -> int:
    """Bytes that a process and its children hold, without what they share with others."""
    total = 0
    with suppress(psutil.Error):
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                memory = each.memory_info()
                total += memory.rss - getattr(memory, "shared", 0)
    return total


def check_scores(ours: Path, theirs: Path) -> None:
    """Compares the scores of the first rows."""
    tables = []
    for path in (ours, theirs):
        first = ds.dataset(path).filter(ds.field(ROW_ID).cast(pa.int64()) < CHECKED)
        tables.append(first.to_table(columns=[ROW_ID, "probability"]).sort_by(ROW_ID))
    one, other = tables
    assert one[ROW_ID].to_pylist() == other[ROW_ID].to_pylist()
    assert np.abs(one["probability"].to_numpy() - other["probability"].to_numpy()).max() <= TOLERANCE


if __name__ == "__main__":
    main()
