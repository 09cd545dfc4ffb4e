"""What the report shows beyond metrics.json, computed from the scored splits."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logit
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from credit_risk.contract import CONTRACT
from credit_risk.core.arrays import Floats, Labels, Scores
from credit_risk.data.splits import read_holdout
from credit_risk.evaluation.costs import cheapest_threshold, mean_costs
from credit_risk.evaluation.metrics import expected_calibration_error
from credit_risk.evaluation.params import EvaluateParams
from credit_risk.evaluation.scored_split import ScoredSplit
from credit_risk.features import FEATURES
from credit_risk.model import TrainParams, positive_probability
from credit_risk.report import curves, tables

Splits = dict[str, ScoredSplit]
COST_THRESHOLDS = np.linspace(0, 1, 201)
DEPENDENCE_FEATURES = 6  # the most important ones
DEPENDENCE_ROWS = 500
UNCALIBRATED, SIGMOID = "classifier's own", "sigmoid fitted on train"


def contents(
    model: Pipeline, splits: Splits, threshold: float, train: TrainParams, section: EvaluateParams
) -> dict[str, Any]:
    """Tables and curves by the names that the templates use.

    Args:
        model: the fitted pipeline.
        splits: `train` and the holdouts.
        threshold: the decision threshold.
        train: the parameters that the model was trained with.
        section: sizes of bins, slices and samples.
    """
    holdouts = {name: splits[name] for name in CONTRACT.holdouts}
    rows = sample_rows(holdouts["test"].labels, section.importance_rows, train.seed)
    sample = holdouts["test"].features[rows]
    importances = tables.permutation_importance(
        lambda features: positive_probability(model, features),
        sample,
        holdouts["test"].labels[rows],
        FEATURES.names,
        train.seed,
    )
    calibrated = calibrations(model, splits)
    costs = (train.cost_false_negative, train.cost_false_positive)
    return {
        "splits": {name: split_summary(split) for name, split in splits.items()},
        "curves": {name: curves.curves(split.labels, split.probabilities) for name, split in holdouts.items()},
        "deciles": {name: tables.deciles(split.labels, split.probabilities) for name, split in holdouts.items()},
        "calibration": {
            name: {kind: tables.deciles(split.labels, scores) for kind, scores in calibrated[name].items()}
            for name, split in holdouts.items()
        },
        "calibration_errors": {
            name: {
                kind: expected_calibration_error(split.labels, scores, section.calibration_bins)
                for kind, scores in calibrated[name].items()
            }
            for name, split in holdouts.items()
        },
        "recalibration": recalibrated(holdouts["out_of_time"], section.calibration_bins) if CONTRACT.has_date else None,
        "costs": {
            name: pd.DataFrame(
                {"x": COST_THRESHOLDS, "y": mean_costs(split.labels, split.probabilities, COST_THRESHOLDS, *costs)}
            )
            for name, split in splits.items()
        },
        "cheapest": {
            name: dict(
                zip(("threshold", "cost"), cheapest_threshold(split.labels, split.probabilities, *costs), strict=True)
            )
            for name, split in holdouts.items()
        },
        "threshold": threshold,
        "stability": stability(splits),
        "slices": {
            name: tables.slices(
                split.labels,
                split.probabilities,
                {each.name: FEATURES.groups(split.features, each) for each in FEATURES.slices},
                section.min_slice_rows,
            )
            for name, split in holdouts.items()
        },
        "importances": importances,
        "dependence": dependence(
            model, sample[:DEPENDENCE_ROWS], importances["feature"].head(DEPENDENCE_FEATURES).to_list()
        ),
        "what_ifs": what_ifs(model, rows),
    }


def sample_rows(labels: Labels, count: int, seed: int) -> Any:
    """Indices of at most `count` rows drawn at random, both outcomes among them."""
    order = np.random.default_rng(seed).permutation(len(labels))
    rows = order[:count]
    if np.ptp(labels[rows]) == 0:
        rows[-1] = order[np.flatnonzero(labels[order] != labels[rows[0]])[0]]
    return rows


def split_summary(split: ScoredSplit) -> dict[str, Any]:
    """Rows, positive rate and, where rows have dates, the first and the last."""
    summary: dict[str, Any] = {"rows": len(split.labels), "positive_rate": float(split.labels.mean())}
    if split.dates is not None:
        first, last = (str(np.datetime64(day, "D")) for day in (split.dates.min(), split.dates.max()))
        summary |= {"from": first, "to": last}
    return summary


def calibrations(model: Pipeline, splits: Splits) -> dict[str, dict[str, Scores]]:
    """Probabilities of the holdouts from the classifier itself, and through a sigmoid fitted on train.

    One of them is what the model answers, depending on `train.calibration`; the other is there to compare. A sigmoid
    that the model lacks is fitted on out-of-fold probabilities. Source: Platt (1999), "Probabilistic outputs for
    support vector machines".
    """
    classifier = model["classify"]
    own = {name: splits[name].probabilities for name in CONTRACT.holdouts}
    if isinstance(classifier, CalibratedClassifierCV):
        inner = Pipeline([*model.steps[:-1], ("classify", classifier.calibrated_classifiers_[0].estimator)])
        return {
            name: {UNCALIBRATED: positive_probability(inner, splits[name].features), SIGMOID: scores}
            for name, scores in own.items()
        }
    sigmoid = fit_sigmoid(splits["train"].probabilities, splits["train"].labels)
    return {
        name: {UNCALIBRATED: scores, SIGMOID: positive_probability(sigmoid, log_odds(scores))}
        for name, scores in own.items()
    }


def log_odds(probabilities: Scores) -> Floats:
    """Log-odds as one column, shape (n, 1); probabilities of 0 and 1 are moved inwards to keep them finite."""
    column: Floats = logit(np.clip(probabilities, 1e-7, 1 - 1e-7))[:, None]
    return column


def fit_sigmoid(probabilities: Scores, labels: Labels) -> LogisticRegression:
    """Logistic regression of the outcome on the log-odds, without penalty."""
    return LogisticRegression(C=np.inf).fit(log_odds(probabilities), labels)


def recalibrated(split: ScoredSplit, bins: int) -> dict[str, float] | None:
    """Out of time: a sigmoid fitted on the outcomes of the older half, measured on the newer half.

    None when a half has fewer than MIN_OUTCOME_ROWS of an outcome.
    """
    days = np.asarray(split.dates).astype("datetime64[D]").astype(np.int64)
    older = days <= np.quantile(days, 0.5)
    counts = [np.bincount(split.labels[half], minlength=2).min() for half in (older, ~older)]
    if min(counts) < tables.MIN_OUTCOME_ROWS:
        return None
    before, labels = split.probabilities[~older], split.labels[~older]
    sigmoid = fit_sigmoid(split.probabilities[older], split.labels[older])
    after = positive_probability(sigmoid, log_odds(before))
    return {
        "positive_rate": float(labels.mean()),
        "mean_before": float(before.mean()),
        "mean_after": float(after.mean()),
        "error_before": expected_calibration_error(labels, before, bins),
        "error_after": expected_calibration_error(labels, after, bins),
    }


def stability(splits: Splits) -> pd.DataFrame:
    """Stability index against train of the probability and of each feature; a column for each holdout."""
    train = splits["train"]

    def moved(name: str) -> dict[str, Any]:
        categorical = name in FEATURES.categorical
        column = FEATURES.column(train.features, name)
        return {
            holdout: tables.stability_index(
                column, FEATURES.column(splits[holdout].features, name), categorical=categorical
            )
            for holdout in CONTRACT.holdouts
        }

    by_feature = pd.DataFrame([{"name": name, **moved(name)} for name in FEATURES.names])
    by_feature = by_feature.sort_values(CONTRACT.holdouts[-1], ascending=False, kind="stable")
    # Rounded: probabilities of train come from several models, whose extreme values differ in the third digit.
    scores: dict[str, Any] = {
        name: tables.stability_index(
            train.probabilities.round(2), splits[name].probabilities.round(2), categorical=False
        )
        for name in CONTRACT.holdouts
    }
    return pd.concat([pd.DataFrame([{"name": "probability", **scores}]), by_feature], ignore_index=True)


def dependence(model: Pipeline, sample: Floats, names: list[str]) -> dict[str, pd.DataFrame]:
    """How the mean probability depends on each feature; categories and flags by their words, lowest first."""
    found = {}
    for name in names:
        in_words = name in FEATURES.categorical or name in FEATURES.flags
        curve = tables.partial_dependence(
            lambda rows: positive_probability(model, rows), sample, FEATURES.names.index(name), categorical=in_words
        )
        if in_words:
            words = FEATURES.words(name, curve["x"].to_numpy())
            # Rounded, so that the order of equal categories is the same on every processor.
            curve = curve.assign(x=pd.Series(words, dtype=object)).sort_values(
                "y", key=lambda y: y.round(9), kind="stable", ignore_index=True
            )
        found[name] = curve
    return found


def what_ifs(model: Pipeline, rows: Any) -> list[dict[str, Any]]:
    """For each change declared in features.py, how it moves the probabilities of these rows of test."""
    if not FEATURES.what_ifs:
        return []
    fields = read_holdout("test").rows.iloc[rows]
    before = positive_probability(model, FEATURES.from_columns(fields))
    return [
        {
            "change": each.change,
            **tables.change_summary(
                before, positive_probability(model, FEATURES.from_columns(FEATURES.changed(fields, each)))
            ),
        }
        for each in FEATURES.what_ifs
    ]
