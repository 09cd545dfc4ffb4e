"""The curves of a model on loans it has not seen, as pictures, and as points for `dvc plots`."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve, roc_curve

from credit_risk.core.files import replacing
from credit_risk.evaluation.metrics import Labels, Probabilities

COLORS = {"test": "#0072B2", "out_of_time": "#D55E00"}  # Okabe & Ito: told apart by the colour-blind
CURVE_POINTS = 200


def draw(scored: dict[str, tuple[Labels, Probabilities]], folder: Path, bins: int) -> None:
    """Draws each curve of both sides as a PNG, and writes its points as a CSV.

    Args:
        scored: by side (a key of COLORS) labels and scores of its loans, each of shape (n,).
        folder: where `<curve>.png` and `<curve>_<side>.csv` are written.
        bins: of equal width, for the calibration curve.
    """
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


def draw_scores(scored: dict[str, tuple[Labels, Probabilities]], folder: Path) -> None:
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


def roc(labels: Labels, scores: Probabilities, _: int) -> pd.DataFrame:
    """x: share of paid loans refused; y: share of defaults caught."""
    x, y, _ = roc_curve(labels, scores)
    return thinned(x, y)


def precision_recall(labels: Labels, scores: Probabilities, _: int) -> pd.DataFrame:
    """x: share of defaults caught; y: share of refused loans that default."""
    y, x, _ = precision_recall_curve(labels, scores)
    return thinned(x[::-1], y[::-1])


def calibration(labels: Labels, scores: Probabilities, bins: int) -> pd.DataFrame:
    """x: mean score of a bin of equal width; y: its default rate."""
    y, x = calibration_curve(labels, scores, n_bins=bins)
    return pd.DataFrame({"x": x, "y": y})


def gains(labels: Labels, scores: Probabilities, _: int) -> pd.DataFrame:
    """x: share of loans, riskiest first; y: share of all defaults among them."""
    caught = np.cumsum(labels[np.argsort(-scores, kind="stable")])
    x = np.arange(len(labels) + 1) / len(labels)
    return thinned(x, np.concatenate([[0.0], caught / caught[-1]]))


def thinned(x: Any, y: Any) -> pd.DataFrame:
    """At most CURVE_POINTS points of a curve, evenly chosen, with both ends."""
    index = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).astype(int))
    return pd.DataFrame({"x": x[index], "y": y[index]})
