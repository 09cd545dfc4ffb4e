"""The curves of a model on a holdout, as points: for the report's figures and for `dvc plots`."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import precision_recall_curve, roc_curve

from credit_risk.core.arrays import Labels, Scores
from credit_risk.core.files import replacing
from credit_risk.report.tables import deciles

CURVE_POINTS = 200
HISTOGRAM_BINS = 50


def curves(labels: Labels, probabilities: Scores) -> dict[str, pd.DataFrame]:
    """All curves of one holdout by name, each with columns x and y; labels and probabilities have shape (n,)."""
    false_positive_rate, true_positive_rate, _ = roc_curve(labels, probabilities)
    precision, recall, _ = precision_recall_curve(labels, probabilities)
    captured = np.cumsum(labels[np.argsort(-probabilities, kind="stable")])
    by_decile = deciles(labels, probabilities)
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    density = [np.histogram(probabilities[labels == label], edges, density=True)[0] for label in (0, 1)]
    return {
        "roc": _thinned(false_positive_rate, true_positive_rate),
        "precision_recall": _thinned(recall[::-1], precision[::-1]),
        "gains": _thinned(np.arange(len(labels) + 1) / len(labels), np.append(0, captured) / captured[-1]),
        "calibration": pd.DataFrame({"x": by_decile["mean_probability"], "y": by_decile["positive_rate"]}),
        "scores_negative": pd.DataFrame({"x": edges[:-1], "y": density[0]}),
        "scores_positive": pd.DataFrame({"x": edges[:-1], "y": density[1]}),
    }


def write_points(found: dict[str, pd.DataFrame], folder: Path, split: str) -> None:
    """Writes the points of each curve of a split as `<curve>_<split>.csv`, `scores_<split>_<class>.csv`."""
    for name, points in found.items():
        curve, _, outcome = name.partition("_") if name.startswith("scores") else (name, "", "")
        file = folder / f"{'_'.join(filter(None, (curve, split, outcome)))}.csv"
        with replacing(file) as temporary:
            points.round(6).to_csv(temporary, index=False)


def _thinned(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> pd.DataFrame:
    """At most CURVE_POINTS points of a curve, evenly chosen, with both ends."""
    index = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).astype(int))
    return pd.DataFrame({"x": x[index], "y": y[index]})
