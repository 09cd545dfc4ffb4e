"""Stage 6: measures the model on loans it has not seen, and looks for leaks.

Reads:  1.data/5.model/model.joblib, 1.data/5.model/training.json, 1.data/4.split/*.parquet
Writes: 1.data/6.reports/metrics.json    figures on test and out-of-time, a logistic baseline's beside them, leak check
        1.data/6.reports/plots/*.png     ROC, precision-recall, calibration, gains, scores by outcome
        1.data/6.reports/plots/*.csv     the same curves, for `dvc plots`
Params: evaluate, train (for the baseline)

Accuracy is shown beside the majority class's, because it misleads here: always saying "paid" is right for nine loans in
ten of the test, without knowing anything.
"""

import shutil
from pathlib import Path
from typing import Any

import joblib
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve, roc_curve

from credit_risk import params
from credit_risk.errors import CreditRiskError
from credit_risk.features import FEATURE_NAMES
from credit_risk.files import read_json, replacing, write_json
from credit_risk.leak import single_feature_aucs
from credit_risk.metrics import Labels, Scores, auc_interval, measure
from credit_risk.model import TrainParams, default_probability, fit, logistic_baseline, read_side
from credit_risk.paths import data
from credit_risk.script import run

SIDES = ("test", "out_of_time")
COLORS = {"test": "#0072B2", "out_of_time": "#D55E00"}  # Okabe & Ito: told apart by the colour-blind
CURVE_POINTS = 200


class EvaluateParams(params.Params):
    """Section `evaluate` of params.yaml."""

    bootstrap_resamples: int = Field(ge=100)
    calibration_bins: int = Field(ge=2)
    leak_auc: float = Field(gt=0.5, le=1)


def main() -> None:
    """Runs the stage."""
    section = params.load("evaluate", EvaluateParams)
    train = params.load("train", TrainParams)
    features, labels = read_side(data("4.split", "train.parquet"))
    alone = single_feature_aucs(features, labels, FEATURE_NAMES, train.seed)
    check_leak(alone, section.leak_auc)
    baseline = fit(logistic_baseline(train), features, labels)
    model = joblib.load(data("5.model", "model.joblib"))  # made by stage 5 on this machine, not from a registry
    threshold = read_json(data("5.model", "training.json"))["threshold"]

    report: dict[str, Any] = {"leak": {"highest_single_feature_auc": rounded(next(iter(alone.values())))}}
    report["leak"]["feature"] = next(iter(alone))
    scored: dict[str, tuple[Labels, Scores]] = {}
    for side in SIDES:
        features, labels = read_side(data("4.split", f"{side}.parquet"))
        scores = default_probability(model, features)
        figures = measure(labels, scores, threshold, section.calibration_bins)
        low, high = auc_interval(labels, scores, section.bootstrap_resamples, train.seed)
        against = measure(labels, default_probability(baseline, features), threshold, section.calibration_bins)
        report[side] = {name: rounded(value) for name, value in figures.items()}
        report[side] |= {"roc_auc_low": rounded(low), "roc_auc_high": rounded(high)}
        report[side]["logistic_baseline"] = {name: rounded(against[name]) for name in ("roc_auc", "brier", "ece")}
        scored[side] = labels, scores
    plots = data("6.reports", "plots")
    shutil.rmtree(plots, ignore_errors=True)  # run by hand, it must not mix with older plots
    draw(scored, plots, section.calibration_bins)
    write_json(data("6.reports", "metrics.json"), report)
    print(f"ROC AUC {report['test']['roc_auc']:.3f} in time, {report['out_of_time']['roc_auc']:.3f} out of time")


def check_leak(alone: dict[str, float], most: float) -> None:
    """No single feature may reach an out-of-fold AUC of `most`.

    Raises:
        CreditRiskError: names the features that do.
    """
    leaking = [f"{name} ({auc:.2f})" for name, auc in alone.items() if auc >= most]
    if leaking:
        raise CreditRiskError(
            f"{', '.join(leaking)} alone reaches a ROC AUC of evaluate.leak_auc ({most:.2f}) or more, so it probably "
            "tells the outcome; check when its value is known, and take it out of src/credit_risk/features.py"
        )


def rounded(value: float) -> float:
    """Six digits: more than can be told apart, fewer than differ between processors."""
    return round(value, 6)


def draw(scored: dict[str, tuple[Labels, Scores]], folder: Path, bins: int) -> None:
    """Draws each curve of both sides as a PNG, and writes its points as a CSV."""
    mpl.use("Agg")
    curves = {
        "roc": (roc, "share of paid loans refused", "share of defaults caught"),
        "precision_recall": (precision_recall, "share of defaults caught", "share of refused loans that default"),
        "calibration": (calibration, "mean score", "default rate"),
        "gains": (gains, "share of loans, riskiest first", "share of defaults caught"),
    }
    for name, (curve, x_label, y_label) in curves.items():
        points = {side: curve(labels, scores, bins) for side, (labels, scores) in scored.items()}
        figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
        for side, frame in points.items():
            marker = "o" if name == "calibration" else None
            axes.plot(frame["x"], frame["y"], color=COLORS[side], marker=marker, label=side.replace("_", " "))
        if name != "precision_recall":
            label = "calibrated" if name == "calibration" else "chance"
            axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1, label=label)
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, 1), ylim=(0, 1))
        axes.legend(frameon=False)
        save(figure, folder / f"{name}.png")
        for side, frame in points.items():
            save_points(frame, folder / f"{name}_{side}.csv")
    draw_scores(scored, folder)


def draw_scores(scored: dict[str, tuple[Labels, Scores]], folder: Path) -> None:
    """Draws the distribution of the scores of paid and of defaulted loans, for each side."""
    figure, all_axes = plt.subplots(1, len(scored), figsize=(8, 3.5), layout="constrained", sharey=True)
    edges = np.linspace(0, 1, 51)
    for axes, (side, (labels, scores)) in zip(all_axes, scored.items(), strict=True):
        for label, outcome, color in ((0, "paid in full", "#56B4E9"), (1, "charged off", "#E69F00")):
            density, _ = np.histogram(scores[labels == label], edges, density=True)
            axes.stairs(density, edges, fill=True, alpha=0.6, color=color, label=outcome)
            points = pd.DataFrame({"x": edges[:-1], "y": density})
            save_points(points, folder / f"scores_{side}_{outcome.replace(' ', '_')}.csv")
        axes.set(title=side.replace("_", " "), xlabel="score", xlim=(0, 1))
    all_axes[0].set(ylabel="density")
    all_axes[0].legend(frameon=False)
    save(figure, folder / "scores.png")


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG without the drawing library's version, so that equal pictures are equal bytes."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)


def save_points(points: pd.DataFrame, path: Path) -> None:
    """Writes a curve's points, x and y."""
    with replacing(path) as temporary:
        points.round(6).to_csv(temporary, index=False)


def roc(labels: Labels, scores: Scores, _: int) -> pd.DataFrame:
    """x: share of paid loans refused; y: share of defaults caught."""
    x, y, _ = roc_curve(labels, scores)
    return thinned(x, y)


def precision_recall(labels: Labels, scores: Scores, _: int) -> pd.DataFrame:
    """x: share of defaults caught; y: share of refused loans that default."""
    y, x, _ = precision_recall_curve(labels, scores)
    return thinned(x[::-1], y[::-1])


def calibration(labels: Labels, scores: Scores, bins: int) -> pd.DataFrame:
    """x: mean score of a bin of equal width; y: its default rate."""
    y, x = calibration_curve(labels, scores, n_bins=bins)
    return pd.DataFrame({"x": x, "y": y})


def gains(labels: Labels, scores: Scores, _: int) -> pd.DataFrame:
    """x: share of loans, riskiest first; y: share of all defaults among them."""
    caught = np.cumsum(labels[np.argsort(-scores, kind="stable")])
    x = np.arange(len(labels) + 1) / len(labels)
    return thinned(x, np.concatenate([[0.0], caught / caught[-1]]))


def thinned(x: Any, y: Any) -> pd.DataFrame:
    """At most CURVE_POINTS points of a curve, evenly chosen, with both ends."""
    index = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).astype(int))
    return pd.DataFrame({"x": x[index], "y": y[index]})


if __name__ == "__main__":
    run("stage 6", main)
