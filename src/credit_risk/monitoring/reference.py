"""The reference that a window of predictions is compared with: distributions of the rows that a version was trained on.

It is computed at registration and stored with the version's run as a small JSON file, so that monitoring needs no
training data. Probabilities are those predicted out of fold: a model scores its own training rows too well.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression

from credit_risk.contract import CONTRACT
from credit_risk.core import params
from credit_risk.core.arrays import Floats, Scores, log_odds
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json, write_json
from credit_risk.core.names import common_codes
from credit_risk.core.paths import data
from credit_risk.core.schema import OUTCOME, ROW_ID
from credit_risk.data.splits import read_split, split_path
from credit_risk.features import FEATURES
from credit_risk.monitoring.estimate import expected_auc

FILE_NAME = "monitoring_reference.json"
BINS = 10  # of numbers, at the reference's quantiles
PROBABILITY = "probability"
RECALIBRATED = (1.0, 0.0)  # calibration of a version that is fitted to newer outcomes than those of train


@dataclass(frozen=True, slots=True)
class Distribution:
    """Counts of the reference's rows in bins.

    Attributes:
        edges: of numbers, the upper bounds of all bins but the last of known values; the last bin is of missing ones.
        codes: of a category, its codes in the order of the bins; the last bin is of all other codes.
        counts: by bin.
    """

    edges: tuple[float, ...]
    codes: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: npt.NDArray[Any], *, categorical: bool, open_name: bool = False) -> Self:
        """The distribution of the values, shape (n,); of a name with an open vocabulary, the common codes have bins."""
        if categorical or open_name:
            edges, codes = (), tuple((common_codes(values) if open_name else np.unique(values)).tolist())
        else:
            known = values[~np.isnan(values)]
            quantiles = np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1]) if len(known) else np.array([])
            edges, codes = tuple(np.unique(quantiles).tolist()), ()
        empty = cls(edges, codes, ())
        return cls(edges, codes, tuple(empty.count(values).tolist()))

    def count(self, values: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
        """How many values fall into each bin."""
        if self.codes:
            codes = np.asarray(self.codes)
            places = np.minimum(np.searchsorted(codes, values), len(codes) - 1)
            bins = np.where(codes[places] == values, places, len(codes))
            return np.bincount(bins, minlength=len(codes) + 1)
        bins = np.where(np.isnan(values), len(self.edges) + 1, np.searchsorted(self.edges, values))
        return np.bincount(bins, minlength=len(self.edges) + 2)


@dataclass(frozen=True, slots=True)
class Reference:
    """What is known of a version's training period.

    Attributes:
        rows: count.
        features: by feature name its distribution; the predicted probability is one of them.
        missing: by field name the share of rows without it.
        threshold: the decision threshold.
        costs: of a false negative and of a false positive.
        calibration: slope and intercept by which log-odds become calibrated.
        metrics: out of fold: `positive_rate`, `decline_rate`, `roc_auc`; and `estimated_auc`, from the
            probabilities alone.
    """

    rows: int
    features: dict[str, Distribution]
    missing: dict[str, float]
    threshold: float
    costs: tuple[float, float]
    calibration: tuple[float, float]
    metrics: dict[str, float]

    def calibrated(self, probabilities: Scores) -> Scores:
        """Probabilities through the sigmoid that was fitted on the reference."""
        slope, intercept = self.calibration
        result: Scores = 1 / (1 + np.exp(-(slope * log_odds(probabilities) + intercept)))
        return result

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a file of `write_training_reference`.

        Raises:
            ProjectError: it has a feature that this code does not compute.
        """
        content = read_json(path)
        if absent := content["features"].keys() - {PROBABILITY, *FEATURES.names}:
            raise ProjectError(
                f"the version was trained with the features {', '.join(sorted(absent))}, which this code does not "
                "compute; monitor it with the code it was trained with"
            )
        content["features"] = {
            name: Distribution(*(tuple(each[key]) for key in ("edges", "codes", "counts")))
            for name, each in content["features"].items()
        }
        return cls(**content | {"costs": tuple(content["costs"]), "calibration": tuple(content["calibration"])})


def write_training_reference(folder: Path) -> Path:
    """Writes the reference of the model in `1.data/5.model` into a folder; returns the file's path."""
    features, _ = read_split("train")
    scored = pq.read_table(data("5.model", "out_of_fold.parquet"))
    train, training = params.raw("train"), read_json(data("5.model", "training.json"))
    reference = make_reference(
        features,
        scored[PROBABILITY].to_numpy().astype(np.float64),
        scored[OUTCOME].to_numpy().astype(np.int8),
        missing_shares(),
        training["threshold"],
        (train["cost_false_negative"], train["cost_false_positive"]),
        RECALIBRATED if "recalibration" in training else None,
    )
    write_json(folder / FILE_NAME, asdict(reference))
    return folder / FILE_NAME


def make_reference(  # noqa: PLR0913, PLR0917 (all that is known of the rows)
    features: Floats,
    probabilities: Scores,
    labels: npt.NDArray[np.int8],
    missing: dict[str, float],
    threshold: float,
    costs: tuple[float, float],
    calibration: tuple[float, float] | None = None,
) -> Reference:
    """The reference of n rows: features (n, len(FEATURES)), probabilities and labels (n,); see `Reference`.

    Without a calibration, one is fitted on these rows.
    """
    distributions = {
        name: Distribution.of(
            FEATURES.column(features, name),
            categorical=name in FEATURES.categorical,
            open_name=name in FEATURES.open_names,
        )
        for name in FEATURES.names
    }
    if calibration is None:
        sigmoid = LogisticRegression(C=np.inf).fit(log_odds(probabilities)[:, None], labels)
        calibration = (float(sigmoid.coef_[0, 0]), float(sigmoid.intercept_[0]))
    reference = Reference(
        len(labels),
        distributions | {PROBABILITY: Distribution.of(probabilities, categorical=False)},
        missing,
        threshold,
        costs,
        calibration,
        {
            "positive_rate": float(labels.mean()),
            "decline_rate": float((probabilities >= threshold).mean()),
            "roc_auc": expected_auc(probabilities, labels.astype(np.float64)),
        },
    )
    reference.metrics["estimated_auc"] = expected_auc(reference.calibrated(probabilities))
    return reference


def missing_shares() -> dict[str, float]:
    """By field name the share of the rows of train without it."""
    ids = pq.read_table(split_path("train"), columns=[ROW_ID])[ROW_ID].to_pandas()
    rows = pq.read_table(data("2.clean", "rows.parquet"), columns=[ROW_ID, *CONTRACT.field_names]).to_pandas()
    shares = rows.set_index(ROW_ID).loc[ids].isna().mean()
    return {name: float(shares[name]) for name in CONTRACT.field_names}
