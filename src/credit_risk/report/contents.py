"""What the report shows beyond metrics.json, computed from the scored splits."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from credit_risk.contract import CONTRACT
from credit_risk.core.arrays import Labels, Scores, log_odds
from credit_risk.core.feature_set import UNSEEN
from credit_risk.core.files import read_json
from credit_risk.core.names import common_codes
from credit_risk.core.paths import data
from credit_risk.core.schema import DATE, OUTCOME
from credit_risk.data.splits import read_holdout
from credit_risk.evaluation.costs import mean_costs
from credit_risk.evaluation.metrics import expected_calibration_error
from credit_risk.evaluation.params import EvaluateParams
from credit_risk.evaluation.scored_split import ScoredSplit
from credit_risk.features import FEATURES
from credit_risk.formats.recalibration import sigmoid_of
from credit_risk.model import TrainParams, positive_probability
from credit_risk.report import curves, tables, variation
from credit_risk.report.outcomes import combine_few, outcomes, protected_groups
from credit_risk.report.vintages import vintages

Splits = dict[str, ScoredSplit]
COST_THRESHOLDS = np.linspace(0, 1, 201)
DEPENDENCE_FIELDS = 6  # the most important ones
DEPENDENCE_ROWS = 500
UNCALIBRATED, SIGMOID, NEWEST = "classifier's own", "sigmoid fitted on train", "sigmoid fitted on the newest outcomes"


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
    fields = {name: read_holdout(name).rows for name in CONTRACT.holdouts}
    rows = sample_rows(holdouts["test"].labels, section.importance_rows, train.seed)
    sample = fields["test"].iloc[rows].reset_index(drop=True)

    def predict(changed: pd.DataFrame) -> Scores:
        return positive_probability(
            model, FEATURES.from_columns({str(name): column for name, column in changed.items()})
        )

    importances = variation.permutation_importance(predict, sample, holdouts["test"].labels[rows], CONTRACT, train.seed)
    most_important = [name for names in importances["field"] for name in names.split(variation.AND)]
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
        "calibration_in_use": {"none": UNCALIBRATED, "sigmoid": SIGMOID, "newest": NEWEST}[train.calibration],
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
        "dependence": {
            name: variation.dependence(predict, sample.head(DEPENDENCE_ROWS), CONTRACT, name)
            for name in most_important[:DEPENDENCE_FIELDS]
        },
        "what_ifs": what_ifs(predict, sample),
        "monotonic": FEATURES.directions if train.monotonic and train.model != "logistic_regression" else {},
        "outcomes": {
            name: outcomes(
                split.labels,
                split.probabilities >= threshold,
                {
                    each.name: combine_few(FEATURES.groups(split.features, each), section.min_slice_rows)
                    for each in FEATURES.slices
                }
                | protected_groups(CONTRACT, fields[name]),
            )
            for name, split in holdouts.items()
        },
        "protected": [field.name for field in CONTRACT.fields if field.protected],
        "vintages": read_vintages(),
        "performance_window": read_json(data("4.split", "metrics.json")).get("performance_window"),
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

    One of them is what the model answers, depending on `train.calibration`; the others are there to compare. A sigmoid
    that the model lacks is fitted on out-of-fold probabilities; one on the newest outcomes is not added. Source: Platt
    (1999), "Probabilistic outputs for support vector machines".
    """
    classifier = model["classify"]
    own = {name: splits[name].probabilities for name in CONTRACT.holdouts}
    if isinstance(classifier, CalibratedClassifierCV):
        inner = Pipeline([*model.steps[:-1], ("classify", classifier.calibrated_classifiers_[0].estimator)])
        return {
            name: {UNCALIBRATED: positive_probability(inner, splits[name].features), SIGMOID: scores}
            for name, scores in own.items()
        }
    newest, train = sigmoid_of(model), splits["train"].probabilities
    answered = {name: {NEWEST: scores} if newest else {} for name, scores in own.items()}
    if newest:
        own, train = {name: newest.invert(scores) for name, scores in own.items()}, newest.invert(train)
    sigmoid = fit_sigmoid(train, splits["train"].labels)
    return {
        name: {UNCALIBRATED: scores, SIGMOID: positive_probability(sigmoid, log_odds(scores)[:, None])} | answered[name]
        for name, scores in own.items()
    }


def fit_sigmoid(probabilities: Scores, labels: Labels) -> LogisticRegression:
    """Logistic regression of the outcome on the log-odds, without penalty."""
    return LogisticRegression(C=np.inf).fit(log_odds(probabilities)[:, None], labels)


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
    after = positive_probability(sigmoid, log_odds(before)[:, None])
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
        categorical = name in FEATURES.categorical + FEATURES.open_names
        columns = {split: FEATURES.column(splits[split].features, name) for split in CONTRACT.splits}
        if name in FEATURES.open_names:
            common = common_codes(columns["train"])
            columns = {split: np.where(np.isin(codes, common), codes, UNSEEN) for split, codes in columns.items()}
        return {
            holdout: tables.stability_index(columns["train"], columns[holdout], categorical=categorical)
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


def read_vintages() -> pd.DataFrame | None:
    """The vintages of all clean rows, with or without an outcome; None where rows have no date."""
    if not CONTRACT.has_date:
        return None
    rows = pd.read_parquet(data("2.clean", "rows.parquet"), columns=[DATE, OUTCOME])
    return vintages(rows[DATE], rows[OUTCOME])


def what_ifs(predict: variation.PredictRows, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """For each change declared in features.py, how it moves the probabilities of the rows, a frame of the contract."""
    before, columns = predict(rows), {str(name): column for name, column in rows.items()}
    return [
        {
            "change": each.change,
            **tables.change_summary(before, predict(pd.DataFrame(FEATURES.changed(columns, each)))),
        }
        for each in FEATURES.what_ifs
    ]
