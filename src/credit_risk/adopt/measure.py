"""Chooses a learner that fits the size of the data, and measures what the gates may ask of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from credit_risk.adopt.plan import OUTCOMES, SEED, SMALL, Plan, Rows
from credit_risk.core.arrays import Labels, Scores
from credit_risk.evaluation.metrics import measure
from credit_risk.evaluation.parallel import in_parallel
from credit_risk.model import TrainParams, build_pipeline, positive_probability

MAX_ROWS = 10_000  # of train, on which learners are compared
FOLDS = 5
RESAMPLES = 200
ERRORS = 3  # standard errors that a threshold is below what was measured
MIN_GAIN = 0.003  # in AUC: what a model must gain over logistic regression, besides one standard error, to be worth it
UNKNOWN_LOSS = 0.1  # in AUC after the period of train, where it can't be measured
LINEAR = "logistic_regression"
BINS = {True: 5, False: 10}  # of the calibration error, by whether there are few rows


@dataclass(frozen=True)
class Measured:
    """A metric as cross-validated on train, and its standard error on as many rows as the holdout has."""

    value: float
    error: float

    @property
    def low(self) -> float:
        """What chance alone hardly ever falls below."""
        return self.value - ERRORS * self.error

    @property
    def high(self) -> float:
        """What chance alone hardly ever exceeds."""
        return self.value + ERRORS * self.error


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The chosen learner and what it reaches.

    Attributes:
        train: section `train`; of the learners that were not chosen, the best of their settings.
        aucs: cross-validated ROC AUC of the best setting of each learner.
        metrics: `roc_auc`, `ece`, `brier_skill` and `auc_over_logistic`, and `out_of_time_auc` with dates.
        folds: number of folds.
        rows: how many rows of train were used.
    """

    train: TrainParams
    aucs: Mapping[str, float]
    metrics: Mapping[str, Measured]
    folds: int
    rows: int


def choose(plan: Plan) -> Choice:
    """Compares learners on folds of train, and takes the simplest that is as good as the best."""
    source = np.random.default_rng(SEED)
    train = np.flatnonzero(plan.split == "train")
    sample = np.sort(source.choice(train, MAX_ROWS, replace=False)) if len(train) > MAX_ROWS else train
    labels = plan.rows.labels[sample]
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(sample, labels))
    candidates = settings(len(train), labels)
    scores = [out_of_fold(each, plan.rows, sample, folds) for each in candidates]
    fold_aucs = np.array([[roc_auc_score(labels[held], score[held]) for _, held in folds] for score in scores])
    best = _best_of_each(candidates, fold_aucs)
    chosen = _simplest(best, fold_aucs)
    params = candidates[chosen].model_copy(update={name: getattr(candidates[i], name) for name, i in best.items()})
    metrics = _on_holdout(plan, labels, scores[chosen], scores[best[LINEAR]])
    if plan.out_of_time_months:
        metrics["out_of_time_auc"] = _later(params, plan, train, metrics["roc_auc"])
    return Choice(
        train=params,
        aucs={model: float(fold_aucs[index].mean()) for model, index in best.items()},
        metrics=metrics,
        folds=FOLDS,
        rows=len(sample),
    )


def is_small(plan: Plan) -> bool:
    """Whether there are so few rows that small holdouts decide about the parameters."""
    return len(plan.rows.labels) < SMALL


def settings(rows: int, labels: Labels) -> list[TrainParams]:
    """The settings that are compared: two of each learner, for few rows shallower and smoother ones."""
    small = rows < SMALL
    sizes = ((100, 5), (200, 10)) if small else ((250, 15), (400, 31))
    boosting: list[dict[str, Any]] = [
        {
            "max_iter": trees,
            "learning_rate": 0.05,
            "max_leaf_nodes": leaves,
            "min_samples_leaf": 10 if small else 20,
            "l2_regularization": 1.0,
            "max_features": 0.3,
        }
        for trees, leaves in sizes
    ]
    forest = [{"n_estimators": 200, "min_samples_leaf": rows, "max_features": "sqrt"} for rows in (3, 10)]
    linear = [{"C": strength, "solver": "newton-cholesky", "tol": 1e-6} for strength in (0.1, 1.0)]
    odds = float((labels == 0).sum() / max(1, (labels == 1).sum()))
    common: dict[str, Any] = {
        "seed": SEED,
        "calibration": "none",
        "monotonic": False,
        "cost_false_negative": max(1.0, float(f"{odds:.1g}")),
        "cost_false_positive": 1.0 if odds >= 1 else float(f"{1 / odds:.1g}"),
        "threshold_folds": FOLDS,
        "selection": {"trees": 20 if small else 50, "rows": 20_000, "min_importance": 0.0},
    }
    found = []
    for parameters in zip(linear, forest, boosting, strict=True):
        sections = dict(
            zip(("logistic_regression", "random_forest", "hist_gradient_boosting"), parameters, strict=True)
        )
        found += [TrainParams.model_validate(common | sections | {"model": model}) for model in sections]
    return found


def out_of_fold(train: TrainParams, rows: Rows, sample: npt.NDArray[np.intp], folds: list[Any]) -> Scores:
    """The out-of-fold probability of each row of a sample."""
    scores = np.empty(len(sample))
    with threadpool_limits(1):
        parts = in_parallel([partial(_score, train, rows, sample[fitted], sample[held]) for fitted, held in folds])
    for (_, held), part in zip(folds, parts, strict=True):
        scores[held] = part
    return scores


def _score(train: TrainParams, rows: Rows, fitted: npt.NDArray[np.intp], held: npt.NDArray[np.intp]) -> Scores:
    pipeline = build_pipeline(train, rows.names, rows.categorical, len(fitted))
    return positive_probability(pipeline.fit(rows.features[fitted], rows.labels[fitted]), rows.features[held])


def _best_of_each(candidates: list[TrainParams], fold_aucs: npt.NDArray[np.float64]) -> dict[str, int]:
    """The index of the best setting of each learner."""
    means = fold_aucs.mean(axis=1)
    best: dict[str, int] = {}
    for index, each in enumerate(candidates):
        if each.model not in best or means[index] > means[best[each.model]]:
            best[each.model] = index
    return best


def _simplest(best: Mapping[str, int], fold_aucs: npt.NDArray[np.float64]) -> int:
    """Logistic regression unless another learner is better than it by more than chance and by enough to matter."""
    top = max(best.values(), key=lambda index: float(fold_aucs[index].mean()))
    gains = fold_aucs[top] - fold_aucs[best[LINEAR]]
    error = gains.std(ddof=1) / len(gains) ** 0.5
    return top if gains.mean() > max(error, MIN_GAIN) else best[LINEAR]


def _on_holdout(plan: Plan, labels: Labels, scores: Scores, linear: Scores) -> dict[str, Measured]:
    """Metrics of out-of-fold scores, with their standard errors on samples of the test's size."""
    bins, held_out = BINS[is_small(plan)], int((plan.split == "test").sum())

    def metrics(rows: npt.NDArray[np.intp] | slice) -> dict[str, float]:
        found = measure(labels[rows], scores[rows], 0.5, bins)
        over = found["roc_auc"] - float(roc_auc_score(labels[rows], linear[rows]))
        return {name: found[name] for name in ("roc_auc", "ece", "brier_skill")} | {"auc_over_logistic": over}

    source = np.random.default_rng(SEED)
    samples = [source.choice(len(labels), held_out) for _ in range(RESAMPLES)]
    drawn = pd.DataFrame([metrics(rows) for rows in samples if 0 < labels[rows].sum() < held_out])
    whole = metrics(slice(None))
    # The calibration error of few rows is mostly chance, and larger than that of many.
    whole["ece"] = max(whole["ece"], float(drawn["ece"].mean()))
    return {name: Measured(value, float(drawn[name].std())) for name, value in whole.items()}


def _later(train: TrainParams, plan: Plan, in_train: npt.NDArray[np.intp], in_time: Measured) -> Measured:
    """ROC AUC on the newest months of train, of a model that was fitted on the older ones."""
    labels, dates = plan.rows.labels, cast("pd.Series[pd.Timestamp]", plan.rows.dates).iloc[in_train]
    newest = (dates > dates.max() - pd.DateOffset(months=plan.out_of_time_months or 0)).to_numpy()
    old, new = in_train[~newest], in_train[newest]
    held_out, late = (int((plan.split == part).sum()) for part in ("test", "out_of_time"))
    error = in_time.error * (held_out / late) ** 0.5
    if min(np.bincount(labels[part], minlength=len(OUTCOMES)).min() for part in (old, new)) < FOLDS:
        return Measured(in_time.value - UNKNOWN_LOSS, error)
    with threadpool_limits(1):
        auc = float(roc_auc_score(labels[new], _score(train, plan.rows, old, new)))
    return Measured(min(auc, in_time.value), error)
