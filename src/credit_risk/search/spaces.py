"""What a search draws from, for each learner: functions from a trial to a candidate."""

from collections.abc import Callable
from typing import Any

import optuna

from credit_risk.features import FEATURES
from credit_risk.model import TrainParams

# Whether trees keep the directions that features.py declares, if it declares any.
MONOTONIC = [False, True] if FEATURES.directions else [False]


def _section(train: TrainParams, trial: optuna.Trial, model: str, drawn: dict[str, Any]) -> TrainParams:
    """Section train with a learner's parameters replaced by drawn ones, and what goes with them.

    Weighted classes shift probabilities, so the model needs calibration.
    """
    parameters = dict(getattr(train, model)) | drawn
    if not parameters.get("class_weight"):
        parameters.pop("class_weight", None)
    monotonic = model != "logistic_regression" and trial.suggest_categorical("monotonic", MONOTONIC)
    importance = trial.suggest_categorical("min_importance", [0.0, 0.1, 0.3])
    changes = {
        "model": model,
        model: parameters,
        "monotonic": monotonic,
        "selection": train.selection.model_copy(update={"min_importance": importance}),
        "calibration": "sigmoid" if "class_weight" in parameters else train.calibration,
    }
    return train.model_copy(update=changes)


def _log_uniform(trial: optuna.Trial, name: str, low: float, high: float) -> float:
    """A number between two, evenly distributed on a logarithmic scale, with two digits."""
    return float(f"{trial.suggest_float(name, low, high, log=True):.1e}")


def _weight(trial: optuna.Trial, balanced: str = "balanced") -> str | None:
    """Whether each class counts as much as the other."""
    return balanced if trial.suggest_categorical("class_weight", ["none", "balanced"]) == "balanced" else None


def logistic_regression(trial: optuna.Trial, train: TrainParams) -> TrainParams:
    """A linear model: strength of the penalty, class weights."""
    drawn = {"C": _log_uniform(trial, "C", 1e-3, 1e2), "class_weight": _weight(trial)}
    return _section(train, trial, "logistic_regression", drawn)


def random_forest(trial: optuna.Trial, train: TrainParams) -> TrainParams:
    """A forest: size of leaves, features of a split, constraints and class weights."""
    drawn = {
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 2, 60, log=True),
        "max_features": round(trial.suggest_float("max_features", 0.1, 0.6), 2),
        "class_weight": _weight(trial, "balanced_subsample"),
    }
    return _section(train, trial, "random_forest", drawn)


def hist_gradient_boosting(trial: optuna.Trial, train: TrainParams) -> TrainParams:
    """Boosting: number, size and weight of trees, penalty, constraints and class weights."""
    drawn = {
        "max_iter": trial.suggest_int("max_iter", 100, 400, step=50),
        "learning_rate": _log_uniform(trial, "learning_rate", 0.02, 0.2),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 7, 48, log=True),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 10, 200, log=True),
        "l2_regularization": _log_uniform(trial, "l2_regularization", 1e-2, 30.0),
        "max_features": round(trial.suggest_float("max_features", 0.15, 1.0), 2),
        "class_weight": _weight(trial),
    }
    return _section(train, trial, "hist_gradient_boosting", drawn)


SPACES: dict[str, Callable[[optuna.Trial, TrainParams], TrainParams]] = {
    "logistic_regression": logistic_regression,
    "random_forest": random_forest,
    "hist_gradient_boosting": hist_gradient_boosting,
}
