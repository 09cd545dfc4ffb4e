"""Folds of train, and what a candidate reaches on one.

Everything is measured on train: a holdout that is used to choose a model is no longer a holdout.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import joblib
import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.feature_selection import SelectFromModel
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, TimeSeriesSplit
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from credit_risk.contract import CONTRACT
from credit_risk.core.arrays import Floats, Labels
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import sha256
from credit_risk.core.paths import relative
from credit_risk.data.splits import read_dates, read_split, split_path
from credit_risk.model import TrainParams, constrain, named_parameters, positive_probability
from credit_risk.search.candidates import candidate_pipeline

FOLDS = 5
FoldKind = Literal["random", "time"]
FOLD_KINDS: tuple[FoldKind, ...] = ("random", "time") if CONTRACT.has_date else ("random",)
Fold = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]  # row numbers to fit on and to score


@dataclass(frozen=True, slots=True)
class TrainRows:
    """Train: features (n, len(FEATURES)) in float32, labels (n,), its folds, and the hash of its file."""

    features: Floats
    labels: Labels
    folds: list[Fold]
    data_sha256: str
    kind: FoldKind


@dataclass(frozen=True, slots=True)
class FoldResult:
    """A candidate on one fold: metrics on the rows it was not fitted on, and the time it took."""

    roc_auc: float
    pr_auc: float
    seconds: float


def read_train_rows(kind: FoldKind, seed: int, count: int = FOLDS) -> TrainRows:
    """Train with its folds; no holdout is opened.

    Raises:
        ProjectError: the pipeline has not run, or a fold lacks an outcome.
    """
    path = split_path("train")
    if not path.exists():
        raise ProjectError(f"{relative(path)} is missing; run the pipeline first: `uv run main.py`")
    features, labels = read_split("train")
    return TrainRows(features, labels, make_folds(kind, labels, read_dates("train"), seed, count), sha256(path), kind)


def make_folds(
    kind: FoldKind, labels: Labels, dates: npt.NDArray[Any] | None, seed: int, count: int = FOLDS
) -> list[Fold]:
    """Folds of train.

    Args:
        kind: `random`: `count` parts with equal positive rates, each scored by a model of the others. `time`: rows in
            the order of their dates in `count` + 1 parts, each but the first scored by a model of all older ones.
        labels: shape (n,).
        dates: shape (n,); only needed for `time`.
        seed: of the random folds.
        count: of folds.

    Raises:
        ProjectError: a part does not have both outcomes.
    """
    if kind == "random":
        if int(np.bincount(labels, minlength=2).min()) < count:
            raise ProjectError(f"train has fewer than {count} rows of one outcome: too few to compare models")
        folds = list(StratifiedKFold(count, shuffle=True, random_state=seed).split(labels, labels))
    else:
        order = np.argsort(np.asarray(dates), kind="stable")
        folds = [(order[fitted], order[scored]) for fitted, scored in TimeSeriesSplit(count).split(order)]
    if any(np.ptp(labels[rows]) == 0 for fold in folds for rows in fold):
        raise ProjectError(f"a {kind} fold of train does not have both outcomes: too few rows to compare models")
    return folds


_forests: dict[str, Any] = {}  # fitted in this process, by everything they depend on


def selected_columns(pipeline: Pipeline, encoded: Floats, rows: TrainRows, fold: int) -> npt.NDArray[np.intp]:
    """The columns that a pipeline's selection keeps in a fold.

    The forest that selects does not depend on what is searched, so each process fits it once a fold and not once a
    candidate, which would take almost half of the time.
    """
    selector, fitted_on = pipeline["select"], rows.folds[fold][0]
    key = joblib.hash((rows.data_sha256, fitted_on, pipeline["encode"], selector.estimator))
    if key not in _forests:
        _forests[key] = clone(selector.estimator).fit(encoded, rows.labels[fitted_on])
    fitted = SelectFromModel(_forests[key], threshold=selector.threshold, prefit=True)
    return np.flatnonzero(fitted.get_support())


def score_fold(rows: TrainRows, candidate: TrainParams, fold: int) -> FoldResult:
    """Fits a candidate on a fold's other rows and scores the fold."""
    start = time.monotonic()
    fitted_on, scored = rows.folds[fold]
    with threadpool_limits(1), named_parameters(candidate):
        pipeline = candidate_pipeline(candidate, len(fitted_on))
        encoder = clone(pipeline["encode"])
        encoded = encoder.fit_transform(rows.features[fitted_on], rows.labels[fitted_on])
        columns = selected_columns(pipeline, encoded, rows, fold)
        constrain(pipeline["classify"], pipeline.signs, columns)
        classifier = pipeline["classify"].fit(encoded[:, columns], rows.labels[fitted_on])
        probabilities = positive_probability(classifier, encoder.transform(rows.features[scored])[:, columns])
    labels = rows.labels[scored]
    return FoldResult(
        float(roc_auc_score(labels, probabilities)),
        float(average_precision_score(labels, probabilities)),
        time.monotonic() - start,
    )


def mean(results: Sequence[FoldResult]) -> float:
    """Mean ROC AUC of the folds."""
    return float(np.mean([result.roc_auc for result in results]))


def standard_error(results: Sequence[FoldResult]) -> float:
    """Standard error of the mean ROC AUC, as if the folds were independent; 0 for a single one."""
    aucs = [result.roc_auc for result in results]
    return float(np.std(aucs, ddof=1) / len(aucs) ** 0.5) if len(aucs) > 1 else 0.0


def difference(candidate: list[FoldResult], current: list[FoldResult], rows: TrainRows) -> tuple[float, float]:
    """Mean difference in ROC AUC over the same folds, and its standard error.

    Folds share rows that models are fitted on, so their differences are not independent: the variance of the mean is
    taken as (1/k + scored/fitted) times that of a difference. Source: Nadeau & Bengio (2003), "Inference for the
    generalization error".
    """
    gains = [one.roc_auc - other.roc_auc for one, other in zip(candidate, current, strict=True)]
    share = float(np.mean([len(scored) / len(fitted) for fitted, scored in rows.folds]))
    return float(np.mean(gains)), float(np.std(gains, ddof=1) * (1 / len(gains) + share) ** 0.5)
