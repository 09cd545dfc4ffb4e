"""Scores files of any size: raw columns of the source or the contract's fields in, probabilities and decisions out.

INPUT is a CSV, CSV.gz or Parquet file, or a folder of them; OUTPUT a folder; both may be URLs as s3://bucket/path.
OUTPUT gets Parquet files with row id, probability, decision and model version, and in `_rejected` the rows that break
the contract, with reasons. An interrupted job resumes when the same command is run again. Memory does not grow with
the input. With --scheduler, the workers of a Dask cluster do the work (`uv run --group cluster 6.production/score.py`).

Usage: uv run main.py score INPUT --output OUTPUT [--version N] [--scheduler tcp://HOST:PORT]
"""

from credit_risk.core.entry_point import run

import argparse
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from credit_risk.data.store import Store
from credit_risk.scoring import job as jobs


def main() -> None:
    """Parses the command line and scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="file, folder or URL")
    parser.add_argument("--output", required=True, help="folder or URL")
    parser.add_argument("--version", help="number of a registered version (default: the champion)")
    parser.add_argument("--scheduler", help="address of a Dask scheduler")
    arguments = parser.parse_args()
    output = Store(arguments.output)
    job = jobs.begun(arguments.input, output, arguments.version)
    if job and (summary := jobs.finished(output)):
        print(f"nothing to do: {output.name} has all {summary['scored']:,} scores of version {job.version}")
        return
    if job is None:
        from credit_risk.registry.client import Registry
        from credit_risk.scoring.registered import download

        job = jobs.prepare(arguments.input, output, *download(Registry(), arguments.version))
    start = time.monotonic()
    rows = score(job, arguments.scheduler)
    seconds = time.monotonic() - start
    summary = jobs.finish(job)
    print(
        f"{summary['scored']:,} rows scored with version {job.version}, {summary['rejected']:,} rejected; "
        f"{rows / seconds:,.0f} rows/s"
    )


def score(job: jobs.Job, scheduler: str | None) -> int:
    """Scores what is left of a job, with a progress bar on a terminal; returns the rows that it scored."""
    pieces = jobs.job_pieces(Store(job.output))
    columns = (BarColumn(), "{task.percentage:>3.0f} %", TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    console = Console(stderr=True)
    start, rows = time.monotonic(), 0
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("", total=sum(piece.size for piece in pieces), speed="")

        def report(scored: int, size: float) -> None:
            nonlocal rows
            rows += scored
            speed = f"{rows:,} rows, {rows / (time.monotonic() - start):,.0f} rows/s"
            progress.update(task, advance=size, speed=speed)

        if scheduler:
            from credit_risk.scoring.cluster import score_on_cluster

            score_on_cluster(scheduler, job, pieces, report)
        else:
            jobs.score_pieces(job, pieces, report)
    return rows


if __name__ == "__main__":
    run("score", main)
