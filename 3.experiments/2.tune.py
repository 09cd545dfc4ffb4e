"""Searches for better parameters of one learner with Optuna, on the folds that 1.compare_models.py uses.

Each trial is a run within one run of the MLflow experiment `credit-risk-search`. A trial that is worse than the median
after two folds or more is pruned. Trials are asked for in batches, fitted fold by fold in as many processes as there
are (here or on a Dask cluster), and told in order: the search depends on the seed and the batch, not on who is done
first. Killed, it goes on where it was, from its own storage, and finds what it would have found. The held-out loans
are not opened.

Usage: uv run 3.experiments/2.tune.py [--model random_forest] [--trials 50] [--folds time] [--scheduler tcp://HOST:PORT]
Reads:  1.data/4.split/rows/train.parquet, section train of params.yaml
Writes: 3.experiments/optuna.db
"""

import argparse
import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState
from rich.console import Console

from credit_risk.core import params
from credit_risk.core.entry_point import run
from credit_risk.core.files import sha256
from credit_risk.core.paths import root
from credit_risk.model import TrainParams
from credit_risk.registry.client import Registry
from credit_risk.search.candidates import (
    COMPLETE,
    PRUNED,
    Candidate,
    Evaluate,
    FoldResult,
    Loans,
    RunLog,
    arguments,
    mean,
    progress_bar,
    read_loans,
    workers,
)

RANDOM_TRIALS = 10  # drawn at random before the sampler has something to go by
FOLDS_BEFORE_PRUNING = 2  # one fold says little
RUN = "mlflow_run"  # attribute of a trial
# What a lender may promise, where the train loans agree: more staff, or more of the SBA's guarantee, is no more risk.
MONOTONIC: dict[str, dict[str, int]] = {
    "free": {},
    "employees": {"employees": -1},
    "employees, guarantee": {"employees": -1, "guaranteed_share": -1},
}


def main() -> None:
    """Runs as many trials as are still to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    train = params.load("train", TrainParams)
    parser.add_argument("--model", choices=list(SPACES), default=train.model, help="learner (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=50, help="in all, those of earlier runs included")
    parser.add_argument("--batch", type=int, default=4, help="trials asked for together (default: %(default)s)")
    arguments(parser)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", ExperimentalWarning)
    registry, loans = Registry(), read_loans(options.folds, train.seed)
    log = RunLog(registry, loans)
    study = open_study(identity(options.model, options.batch, train, loans, registry.address))
    parent = log.parent(f"tune {options.model}", study.study_name)
    drop_interrupted(study, log)
    with workers(loans, options.scheduler, options.processes) as evaluate, progress_bar() as progress:
        task = progress.add_task(best(study), total=options.trials, completed=len(done(study)))
        while (count := len(done(study))) < options.trials:
            study.sampler = sampler(train.seed + count)
            batch = Batch(study, log, parent)
            batch.ask(min(options.batch, options.trials - count), options.model, train)
            batch.measure(evaluate, len(loans.folds), lambda part: progress.update(task, completed=part))
            batch.tell()
            progress.update(task, completed=len(done(study)), description=best(study))
    log.end(parent)
    pruned = len(study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)))
    Console().print(f"{options.model}: {len(done(study))} trials, {pruned} of them pruned; {best(study)}")


def identity(model: str, batch: int, train: TrainParams, loans: Loans, registry: str) -> str:
    """Name of the study: another one for other loans, folds, settings, registry, or another version of this script."""
    made_of = {
        "data": loans.data_sha256,
        "folds": loans.kind,
        "batch": batch,
        "train": train.model_dump(),
        "registry": registry,
        "script": sha256(Path(__file__)),
    }
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return f"{model} {loans.kind} {digest[:12]}"


def open_study(name: str) -> optuna.Study:
    """The study of this name, new or as it was left."""
    return optuna.create_study(
        storage=f"sqlite:///{root() / '3.experiments' / 'optuna.db'}",
        study_name=name,
        load_if_exists=True,
        direction="maximize",
        sampler=sampler(0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=FOLDS_BEFORE_PRUNING - 1),
    )


def sampler(seed: int) -> optuna.samplers.BaseSampler:
    """A sampler that has drawn nothing yet: with one a batch, an interrupted search draws what it would have drawn.

    It takes the trials of the same batch for bad ones, so that they differ. Source of the method: Bergstra et al.
    (2011), "Algorithms for hyper-parameter optimization".
    """
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=RANDOM_TRIALS, multivariate=True, group=True, constant_liar=True
    )


def done(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that were measured, on all folds or until they were pruned."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def drop_interrupted(study: optuna.Study, log: RunLog) -> None:
    """Trials that a kill left open are given up; the next batch asks for them again."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if run_id := trial.user_attrs.get(RUN):
            log.end(run_id, killed=True)
        study.tell(trial.number, state=TrialState.FAIL)


def best(study: optuna.Study) -> str:
    """The best trial so far."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return ""
    trial = max(complete, key=lambda trial: trial.value or 0.0)
    return f"best so far {trial.value:.4f}, trial {trial.number}"


class Batch:
    """Trials that are asked for, measured and told together."""

    def __init__(self, study: optuna.Study, log: RunLog, parent: str) -> None:
        self._study = study
        self._log = log
        self._parent = parent
        self._trials: list[optuna.Trial] = []
        self._candidates: list[Candidate] = []
        self._results: list[list[FoldResult]] = []
        self._pruned: set[int] = set()

    def ask(self, count: int, model: str, train: TrainParams) -> None:
        """Draws candidates and opens their runs."""
        for _ in range(count):
            trial = self._study.ask()
            candidate = SPACES[model](trial, train)
            run_id = self._log.start(self._parent, f"trial {trial.number}", candidate)
            trial.set_user_attr(RUN, run_id)
            self._trials.append(trial)
            self._candidates.append(candidate)
            self._results.append([])

    def measure(self, evaluate: Evaluate, folds: int, tick: Callable[[float], Any]) -> None:
        """Measures the candidates fold by fold; those that are worse than earlier trials leave."""
        before = len(done(self._study))
        # Those before the first pruning together: the fewer ends, the less do processes wait for the slowest candidate.
        rounds = [range(FOLDS_BEFORE_PRUNING), *([fold] for fold in range(FOLDS_BEFORE_PRUNING, folds))]
        for measured in rounds:
            alive = [index for index in range(len(self._trials)) if index not in self._pruned]
            jobs = [(index, fold) for index in alive for fold in measured]
            found = evaluate([(self._candidates[index], fold) for index, fold in jobs])
            for (index, fold), result in zip(jobs, found, strict=True):
                self._results[index].append(result)
                self._trials[index].report(mean(self._results[index]), fold)
                tick(before + sum(map(len, self._results)) / folds)
            if measured[-1] < folds - 1:
                self._pruned |= {index for index in alive if self._trials[index].should_prune()}

    def tell(self) -> None:
        """Logs and tells all of them, so that an interrupted batch is asked for again as a whole."""
        for index, trial in enumerate(self._trials):
            pruned = index in self._pruned
            self._log.finish(trial.user_attrs[RUN], self._results[index], PRUNED if pruned else COMPLETE)
        for index, trial in enumerate(self._trials):
            state = TrialState.PRUNED if index in self._pruned else TrialState.COMPLETE
            self._study.tell(trial, mean(self._results[index]) if state == TrialState.COMPLETE else None, state)


def chosen(train: TrainParams, trial: optuna.Trial, model: str, parameters: dict[str, Any]) -> TrainParams:
    """Section train with a model's parameters replaced, and what goes with them drawn.

    Weighted classes shift probabilities, so the model needs calibration. Constraints bind columns by position, so the
    features must all be kept.
    """
    parameters = dict(getattr(train, model)) | parameters
    for optional in ("class_weight", "monotonic_cst"):
        if not parameters.get(optional):
            parameters.pop(optional, None)
    importance = 0.0 if "monotonic_cst" in parameters else trial.suggest_categorical("min_importance", [0.0, 0.1, 0.3])
    changes = {
        "model": model,
        model: parameters,
        "selection": train.selection.model_copy(update={"min_importance": importance}),
        "calibration": "sigmoid" if "class_weight" in parameters else train.calibration,
    }
    return train.model_copy(update=changes)


def log_uniform(trial: optuna.Trial, name: str, low: float, high: float) -> float:
    """A number between two, evenly on a logarithmic scale, with the two digits that a person would write."""
    return float(f"{trial.suggest_float(name, low, high, log=True):.1e}")


def weight(trial: optuna.Trial, balanced: str = "balanced") -> str | None:
    """Whether each class counts as much as the other."""
    return balanced if trial.suggest_categorical("class_weight", ["none", "balanced"]) == "balanced" else None


def monotonic(trial: optuna.Trial) -> dict[str, int]:
    """Signs by feature name."""
    return dict(MONOTONIC[trial.suggest_categorical("monotonic", list(MONOTONIC))])


def logistic_regression(trial: optuna.Trial, train: TrainParams) -> Candidate:
    """A linear model: how much it is held back, and weights."""
    drawn = {"C": log_uniform(trial, "C", 1e-3, 1e2), "class_weight": weight(trial)}
    return Candidate(chosen(train, trial, "logistic_regression", drawn))


def random_forest(trial: optuna.Trial, train: TrainParams) -> Candidate:
    """A forest: how alike its trees are, how fine, constraints and weights."""
    drawn = {
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 2, 60, log=True),
        "max_features": round(trial.suggest_float("max_features", 0.1, 0.6), 2),
        "class_weight": weight(trial, "balanced_subsample"),
        "monotonic_cst": monotonic(trial),
    }
    return Candidate(chosen(train, trial, "random_forest", drawn))


def hist_gradient_boosting(trial: optuna.Trial, train: TrainParams) -> Candidate:
    """Boosting: how many trees and how much each may say, how fine they are, constraints and weights."""
    drawn = {
        "max_iter": trial.suggest_int("max_iter", 100, 400, step=50),
        "learning_rate": log_uniform(trial, "learning_rate", 0.02, 0.2),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 7, 48, log=True),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 10, 200, log=True),
        "l2_regularization": log_uniform(trial, "l2_regularization", 1e-2, 30.0),
        "max_features": round(trial.suggest_float("max_features", 0.15, 1.0), 2),
        "class_weight": weight(trial),
        "monotonic_cst": monotonic(trial),
    }
    return Candidate(chosen(train, trial, "hist_gradient_boosting", drawn))


def lightgbm(trial: optuna.Trial, train: TrainParams) -> Candidate:
    """The same with LightGBM's names; for comparison, as the stages can't serve it."""
    drawn = {
        "n_estimators": trial.suggest_int("n_estimators", 100, 400, step=50),
        "learning_rate": log_uniform(trial, "learning_rate", 0.02, 0.2),
        "num_leaves": trial.suggest_int("num_leaves", 7, 48, log=True),
        "min_child_samples": trial.suggest_int("min_child_samples", 10, 200, log=True),
        "reg_lambda": log_uniform(trial, "reg_lambda", 1e-2, 30.0),
        "colsample_bytree": round(trial.suggest_float("colsample_bytree", 0.15, 1.0), 2),
        "class_weight": weight(trial),
        "monotonic_cst": monotonic(trial),
    }
    # What goes with weights and constraints is the same for both kinds of boosting; the rest of the section is unused.
    kept = {name: drawn[name] for name in ("class_weight", "monotonic_cst") if drawn[name]}
    section = chosen(train, trial, "hist_gradient_boosting", kept)
    return Candidate(section, {name: value for name, value in drawn.items() if value})


SPACES: dict[str, Callable[[optuna.Trial, TrainParams], Candidate]] = {
    "logistic_regression": logistic_regression,
    "random_forest": random_forest,
    "hist_gradient_boosting": hist_gradient_boosting,
    "lightgbm": lightgbm,
}


if __name__ == "__main__":
    run("tune", main)
