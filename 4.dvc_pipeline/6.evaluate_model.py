"""Stage 6: measures the model on the holdouts, and checks each feature for leakage.

Reads:  1.data/5.model/*, 1.data/4.split/rows; for the report also 1.data/2.clean/rows.parquet and
        1.data/4.split/metrics.json
Writes: 1.data/6.reports/metrics.json    metrics of each holdout with intervals, a logistic baseline's, leakage check
        and, from src/*/report:
        1.data/6.reports/report.html     everything about the model on one page without links
        1.data/6.reports/model_card.md   the most important of it
        1.data/6.reports/plots/*.csv     curves for `dvc plots`
Params: evaluate, train (for the baseline)

The report is optional: without the folder src/*/report, delete the two lines with `write_report`, and what they write
in dvc.yaml.
"""

from credit_risk.core.entry_point import run

from functools import partial
from typing import Any

import joblib
import numpy as np
import pyarrow.parquet as pq
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from credit_risk.contract import CONTRACT
from credit_risk.core import params
from credit_risk.core.arrays import Labels, Scores
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json, write_json
from credit_risk.core.paths import data
from credit_risk.core.schema import OUTCOME
from credit_risk.data.splits import read_dates, read_split
from credit_risk.evaluation.bootstrap import auc_interval, metric_intervals
from credit_risk.evaluation.costs import DecisionRule, decision_costs
from credit_risk.evaluation.leakage import check_leakage, single_feature_aucs
from credit_risk.evaluation.metrics import measure
from credit_risk.evaluation.parallel import in_parallel
from credit_risk.evaluation.params import EvaluateParams
from credit_risk.evaluation.scored_split import ScoredSplit
from credit_risk.features import FEATURES
from credit_risk.formats.recalibration import Sigmoid, sigmoid_of
from credit_risk.model import TrainParams, fit, logistic_baseline, positive_probability
from credit_risk.report.write import write_report

DIGITS = 6  # of tracked metrics: the last ones differ between processors


def main() -> None:
    """Runs the stage, on one thread but for independent fits: threads wait for each other on a busy machine."""
    with threadpool_limits(1):
        evaluate()


def evaluate() -> None:
    """Measures the model and writes metrics and report."""
    section = params.load("evaluate", EvaluateParams)
    train = params.load("train", TrainParams)
    training = read_json(data("5.model", "training.json"))
    model = joblib.load(data("5.model", "model.joblib"))  # written by stage 5 on this machine, not from a registry
    features, labels = read_split("train")
    probabilities = out_of_fold(labels)
    aucs, baseline, cross_validated = in_parallel(
        [
            partial(single_feature_aucs, features, labels, FEATURES.names, train.seed, FEATURES.open_names),
            # In float64, because float32 sums depend on the processor.
            partial(fit, logistic_baseline(train), features.astype(np.float64), labels),
            partial(auc_with_interval, labels, probabilities, section, train),
        ]
    )
    check_leakage(aucs, section.leak_auc)

    splits = {"train": ScoredSplit(features, labels, probabilities, read_dates("train"))}
    splits |= {name: scored_holdout(name, model) for name in CONTRACT.holdouts}
    highest = next(iter(aucs))
    metrics: dict[str, Any] = {
        "leak": {"highest_single_feature_auc": rounded(aucs[highest]), "feature": highest},
        "cross_validated": cross_validated,
    }
    for name in CONTRACT.holdouts:
        metrics[name] = holdout_metrics(splits[name], training["threshold"], section, train)
        metrics[name]["logistic_baseline"] = baseline_metrics(splits[name], baseline, section, train)
    if sigmoid := sigmoid_of(model):
        metrics["recalibration"] = recalibration_effect(
            splits["out_of_time"], sigmoid, training["recalibration"]["threshold_before"], section, train
        )
    write_json(data("6.reports", "metrics.json"), metrics)
    write_report(model, splits, metrics, training, train, section)
    print(", ".join(f"ROC AUC {metrics[name]['roc_auc']:.3f} ({name})" for name in CONTRACT.holdouts))


def scored_holdout(name: str, model: Any) -> ScoredSplit:
    """The rows of a holdout with the model's probabilities."""
    features, labels = read_split(name)
    return ScoredSplit(features, labels, positive_probability(model, features), read_dates(name))


def holdout_metrics(
    split: ScoredSplit, threshold: float, section: EvaluateParams, train: TrainParams
) -> dict[str, float]:
    """The model's metrics and the costs of its decisions; intervals are `<metric>_low` and `<metric>_high`."""
    labels, probabilities, bins = split.labels, split.probabilities, section.calibration_bins
    rule = DecisionRule(threshold, train.cost_false_negative, train.cost_false_positive)
    found = measure(labels, probabilities, threshold, bins) | decision_costs(labels, probabilities, rule)
    intervals = metric_intervals(labels, probabilities, rule, bins, section.bootstrap_resamples, train.seed)
    for name, (low, high) in intervals.items():
        found |= {f"{name}_low": low, f"{name}_high": high}
    return {name: rounded(value) for name, value in found.items()}


def baseline_metrics(
    split: ScoredSplit, baseline: Any, section: EvaluateParams, train: TrainParams
) -> dict[str, float]:
    """What a model must beat: the metrics of plain logistic regression."""
    probabilities = positive_probability(baseline, split.features.astype(np.float64))
    found = measure(split.labels, probabilities, 0.5, section.calibration_bins)
    kept = {name: rounded(found[name]) for name in ("brier", "ece")}
    return kept | auc_with_interval(split.labels, probabilities, section, train)


def recalibration_effect(
    split: ScoredSplit, sigmoid: Sigmoid, threshold: float, section: EvaluateParams, train: TrainParams
) -> dict[str, float]:
    """The metrics that recalibration changes, without it; the model's own, with it, are those of the holdout."""
    probabilities = sigmoid.invert(split.probabilities)
    found = measure(split.labels, probabilities, threshold, section.calibration_bins) | decision_costs(
        split.labels, probabilities, DecisionRule(threshold, train.cost_false_negative, train.cost_false_positive)
    )
    return {f"{name}_without": rounded(found[name]) for name in ("ece", "brier", "log_loss", "cost")}


def auc_with_interval(
    labels: Labels, probabilities: Scores, section: EvaluateParams, train: TrainParams
) -> dict[str, float]:
    """`roc_auc` and, with enough rows of each outcome, the ends of its interval."""
    ends = auc_interval(labels, probabilities, section.bootstrap_resamples, train.seed)
    found = {"roc_auc": float(roc_auc_score(labels, probabilities))}
    found |= dict(zip(("roc_auc_low", "roc_auc_high"), ends or (), strict=False))
    return {name: rounded(value) for name, value in found.items()}


def out_of_fold(labels: Labels) -> Scores:
    """The out-of-fold probabilities of stage 5, in the order of train.

    Raises:
        ProjectError: they are of other rows.
    """
    table = pq.read_table(data("5.model", "out_of_fold.parquet"))
    if not np.array_equal(table[OUTCOME].to_numpy(), labels):
        raise ProjectError("1.data/5.model/out_of_fold.parquet does not match the rows of train; run stage 5 again")
    probabilities: Scores = table["probability"].to_numpy()
    return probabilities


def rounded(value: float) -> float:
    """The value as it is tracked."""
    return round(value, DIGITS)


if __name__ == "__main__":
    run("stage 6", main)
