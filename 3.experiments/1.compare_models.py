"""Compares learners on the same folds of train: logistic regression, random forest and gradient boosting.

Each has the parameters of params.yaml and is a run within one run of the search's MLflow experiment. The holdouts are
not opened.

Usage: uv run --group experiments 3.experiments/1.compare_models.py [--folds time] [--processes N]
Reads:  1.data/4.split/rows/train.parquet, section train of params.yaml
"""

from credit_risk.core.entry_point import run

import argparse
import time

from rich.console import Console
from rich.table import Column, Table

from credit_risk.core import params
from credit_risk.model import TrainParams
from credit_risk.registry.client import Registry
from credit_risk.search.backends import add_arguments, process_pool, progress_bar
from credit_risk.search.candidates import LEARNERS, with_learner
from credit_risk.search.folds import FOLDS, FoldResult, mean, read_train_rows, standard_error
from credit_risk.search.tracking import SearchLog


def main() -> None:
    """Measures each learner on each fold and shows them in one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    options = parser.parse_args()
    train = params.load("train", TrainParams)
    rows = read_train_rows(options.folds, train.seed)
    log = SearchLog(Registry(), rows)
    results: dict[str, list[FoldResult]] = {model: [] for model in LEARNERS}
    jobs = [(with_learner(train, model), fold) for model in LEARNERS for fold in range(FOLDS)]
    with progress_bar() as progress:
        parent = log.parent("compare models", f"compare {time.time_ns()}")
        runs = {model: log.start(parent, model, with_learner(train, model)) for model in LEARNERS}
        task = progress.add_task("", total=len(jobs))
        evaluate = process_pool(rows, options.processes)
        for (candidate, _), result in zip(jobs, evaluate(jobs), strict=True):
            measured = results[candidate.model]
            measured.append(result)
            if len(measured) == FOLDS:
                log.finish(runs[candidate.model], measured)
            progress.update(task, advance=1, description=best_so_far(results))
        log.end(parent)
    Console().print(table(results, options.folds))


def best_so_far(results: dict[str, list[FoldResult]]) -> str:
    """The best of the learners that were measured on all folds."""
    complete = {model: mean(measured) for model, measured in results.items() if len(measured) == FOLDS}
    if not complete:
        return ""
    model = max(complete, key=lambda name: complete[name])
    return f"best so far {complete[model]:.4f}, {model}"


def table(results: dict[str, list[FoldResult]], folds: str) -> Table:
    """The learners, best first."""
    titles = ("learner", "ROC AUC", "± s.e.", "seconds")
    learner, auc, error, seconds = (Column(title, no_wrap=True) for title in titles)
    shown = Table(learner, auc, error, f"each of {FOLDS} {folds} folds", seconds)
    for model, measured in sorted(results.items(), key=lambda item: -mean(item[1])):
        each = " ".join(f"{result.roc_auc:.3f}" for result in measured)
        took = sum(result.seconds for result in measured)
        shown.add_row(model, f"{mean(measured):.4f}", f"{standard_error(measured):.4f}", each, f"{took:.1f}")
    return shown


if __name__ == "__main__":
    run("compare models", main)
