"""Where candidates are fitted: processes of this machine, with a thread each."""

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import joblib
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from credit_risk.model import TrainParams
from credit_risk.search.folds import FOLD_KINDS, FoldResult, TrainRows, score_fold

Job = tuple[TrainParams, int]  # a candidate and the number of a fold
Evaluate = Callable[[Sequence[Job]], Iterator[FoldResult]]  # results in the order of the jobs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of all scripts of a search."""
    parser.add_argument(
        "--folds",
        choices=FOLD_KINDS,
        default="random",
        help="random parts of train; or time: fitted on older rows, scored on newer (default: %(default)s)",
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="fits that run at the same time (default: %(default)s)"
    )


def process_pool(rows: TrainRows, processes: int) -> Evaluate:
    """Evaluates jobs in so many processes. A cluster would be another function of this type."""

    def evaluate(jobs: Sequence[Job]) -> Iterator[FoldResult]:
        pool = joblib.Parallel(processes, return_as="generator")
        results: Iterator[FoldResult] = pool(joblib.delayed(score_fold)(rows, *job) for job in jobs)
        return results

    return evaluate


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar with what is done, the time it took, and a description: the best candidate so far."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns) as progress:
        yield progress
