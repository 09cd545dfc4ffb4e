"""Compares learners on the same folds of train: logistic regression, random forest, two kinds of boosting.

Each with the parameters of params.yaml (LightGBM: with the boosting's), as a run within one run of the MLflow
experiment `credit-risk-search`. The held-out loans are not opened.

Usage: uv run 3.experiments/1.compare_models.py [--folds time] [--scheduler tcp://HOST:PORT]
Reads:  1.data/4.split/rows/train.parquet, section train of params.yaml
"""

import argparse
import time

from rich.console import Console
from rich.table import Column, Table

from credit_risk.core import params
from credit_risk.core.entry_point import run
from credit_risk.model import TrainParams
from credit_risk.registry.client import Registry
from credit_risk.search.candidates import (
    FOLDS,
    Candidate,
    FoldResult,
    RunLog,
    arguments,
    mean,
    progress_bar,
    read_loans,
    standard_error,
    workers,
)


def main() -> None:
    """Measures each learner on each fold and shows them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments(parser)
    options = parser.parse_args()
    train = params.load("train", TrainParams)
    loans = read_loans(options.folds, train.seed)
    log = RunLog(Registry(), loans)
    candidates = learners(train)
    results: dict[str, list[FoldResult]] = {candidate.model: [] for candidate in candidates}
    jobs = [(candidate, fold) for candidate in candidates for fold in range(FOLDS)]
    with workers(loans, options.scheduler, options.processes) as evaluate, progress_bar() as progress:
        parent = log.parent("compare models", f"compare {time.time_ns()}")
        runs = {candidate.model: log.start(parent, candidate.model, candidate) for candidate in candidates}
        task = progress.add_task("", total=len(jobs))
        for (candidate, _), result in zip(jobs, evaluate(jobs), strict=True):
            measured = results[candidate.model]
            measured.append(result)
            if len(measured) == FOLDS:
                log.finish(runs[candidate.model], measured)
            progress.update(task, advance=1, description=best(results))
        log.end(parent)
    Console().print(table(results, options.folds))


def learners(train: TrainParams) -> list[Candidate]:
    """What is compared. LightGBM gets the parameters of scikit-learn's boosting, under its own names for them."""
    boosting = train.hist_gradient_boosting
    names = {
        "max_iter": "n_estimators",
        "learning_rate": "learning_rate",
        "max_leaf_nodes": "num_leaves",
        "min_samples_leaf": "min_child_samples",
        "l2_regularization": "reg_lambda",
        "max_features": "colsample_bytree",
        "class_weight": "class_weight",
        "monotonic_cst": "monotonic_cst",
    }
    lightgbm = {names[name]: value for name, value in boosting.items() if name in names}
    models = ("logistic_regression", "random_forest", "hist_gradient_boosting")
    return [
        *(Candidate(train.model_copy(update={"model": model})) for model in models),
        Candidate(train.model_copy(update={"model": "hist_gradient_boosting"}), lightgbm),
    ]


def best(results: dict[str, list[FoldResult]]) -> str:
    """The best learner of those that have seen all folds."""
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
