"""Stage 6: measures the model on loans it has not seen, and looks for leaks.

Reads:  1.data/5.model/*, 1.data/4.split/*.parquet, 1.data/2.clean/rows.parquet
Writes: 1.data/6.reports/metrics.json    figures on test and out-of-time, a logistic baseline's beside them, leak check
        1.data/6.reports/report.html     all the evidence for people who decide, in one file without links
        1.data/6.reports/model_card.md   the same in one page
        1.data/6.reports/plots/*.png     ROC, precision-recall, calibration, gains, scores by outcome
        1.data/6.reports/plots/*.csv     the same curves, for `dvc plots`
Params: evaluate, train (for the baseline)

Accuracy is shown beside the majority class's, because it misleads here: always saying "paid" is right for nine loans in
ten of the test, without knowing anything.
"""

import shutil
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from pydantic import Field
from threadpoolctl import threadpool_limits

from credit_risk.contract import APPROVAL_DATE, DEFAULT
from credit_risk.core import params, templates
from credit_risk.core.entry_point import run
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json, write_json
from credit_risk.core.paths import data, root
from credit_risk.evaluation.bootstrap import metric_intervals
from credit_risk.evaluation.leakage import check_leakage, single_feature_aucs
from credit_risk.evaluation.metrics import Labels, Probabilities, measure
from credit_risk.features import FEATURE_NAMES
from credit_risk.model import TrainParams, default_probability, fit, logistic_baseline, read_split
from credit_risk.report import curves
from credit_risk.report.contents import SIDES, Side, Sizes, classic_scorecard, findings
from credit_risk.report.plots import pictures


class EvaluateParams(params.Params):
    """Section `evaluate` of params.yaml."""

    bootstrap_resamples: int = Field(ge=100)
    calibration_bins: int = Field(ge=2)
    leak_auc: float = Field(gt=0.5, le=1)
    min_slice_rows: int = Field(ge=10)
    importance_rows: int = Field(ge=100)
    attribution_rows: int = Field(ge=100)


def main() -> None:
    """Runs the stage."""
    section = params.load("evaluate", EvaluateParams)
    train = params.load("train", TrainParams)
    features, labels = read_split(data("4.split", "rows", "train.parquet"))
    alone = single_feature_aucs(features, labels, FEATURE_NAMES, train.seed)
    check_leakage(alone, section.leak_auc)
    highest, auc = next(iter(alone.items()))
    baseline = fit(logistic_baseline(train), features, labels)
    model = joblib.load(data("5.model", "model.joblib"))  # made by stage 5 on this machine, not from a registry
    training = read_json(data("5.model", "training.json"))
    threshold = training["threshold"]

    sides = {"train": Side(features, labels, out_of_fold(labels), approval_days("train"))}
    sides |= {name: held_out(name, model, section, train.seed) for name in SIDES}
    metrics: dict[str, Any] = {"leak": {"highest_single_feature_auc": rounded(auc), "feature": highest}}
    metrics |= {name: figures(sides[name], baseline, threshold, section.calibration_bins) for name in SIDES}
    plots = data("6.reports", "plots")
    shutil.rmtree(plots, ignore_errors=True)  # run by hand, it must not mix with older plots
    curves.draw({name: (sides[name].labels, sides[name].scores) for name in SIDES}, plots, section.calibration_bins)
    sizes = Sizes(section.calibration_bins, section.min_slice_rows, section.importance_rows, section.attribution_rows)
    facts = {"metrics": metrics, "train": train, "training": training, "threshold": threshold}
    with threadpool_limits(1):  # hundreds of short predictions: threads would mostly wait for each other
        facts |= findings(model, sides, train, threshold, sizes)
        facts |= classic_scorecard(sides, train.seed)
    facts |= {"pictures": pictures(facts)}
    for name in ("report.html", "model_card.md"):
        templates.write(root() / "4.dvc_pipeline" / f"{name}.j2", data("6.reports", name), facts)
    write_json(data("6.reports", "metrics.json"), metrics)
    print(f"ROC AUC {metrics['test']['roc_auc']:.3f} in time, {metrics['out_of_time']['roc_auc']:.3f} out of time")


def held_out(name: str, model: Any, section: EvaluateParams, seed: int) -> Side:
    """The loans of a held-out side with the model's scores, and the intervals of its figures."""
    features, labels = read_split(data("4.split", "rows", f"{name}.parquet"))
    scores = default_probability(model, features)
    intervals = metric_intervals(labels, scores, section.calibration_bins, section.bootstrap_resamples, seed)
    return Side(features, labels, scores, approval_days(name), intervals)


def figures(side: Side, baseline: Any, threshold: float, bins: int) -> dict[str, Any]:
    """The model's figures on a side, and the baseline's beside them."""
    mine = measure(side.labels, side.scores, threshold, bins)
    low, high = side.intervals["roc_auc"]
    against = measure(side.labels, default_probability(baseline, side.features), threshold, bins)
    return {name: rounded(value) for name, value in mine.items()} | {
        "roc_auc_low": rounded(low),
        "roc_auc_high": rounded(high),
        "logistic_baseline": {name: rounded(against[name]) for name in ("roc_auc", "brier", "ece")},
    }


def out_of_fold(labels: Labels) -> Probabilities:
    """Stage 5's scores of the train loans, each by a model that has not seen it, in the order of train."""
    table = pq.read_table(data("5.model", "out_of_fold.parquet"))
    if not np.array_equal(table[DEFAULT].to_numpy(), labels):
        raise ProjectError("1.data/5.model/out_of_fold.parquet is not of the present train loans; run stage 5 again")
    scores: Probabilities = table["score"].to_numpy()
    return scores


def approval_days(side: str) -> npt.NDArray[Any]:
    """Day of approval of each loan of a side."""
    days: npt.NDArray[Any] = pq.read_table(data("4.split", "rows", f"{side}.parquet"), columns=[APPROVAL_DATE])[
        APPROVAL_DATE
    ].to_numpy()
    return days


def rounded(value: float) -> float:
    """Six digits: more than can be told apart, fewer than differ between processors."""
    return round(value, 6)


if __name__ == "__main__":
    run("stage 6", main)
