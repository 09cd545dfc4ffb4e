"""What each feature adds to the score, over many loans: SHAP values of a model of trees, for the report.

Exact Shapley values of the trees' own output, given the splits of train (Lundberg et al., 2020, "From local
explanations to global understanding with explainable AI for trees"). Single decisions are explained by `reasons.py`: it
speaks of fields instead of features, and needs neither scikit-learn nor the trees.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shap
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.pipeline import Pipeline

from credit_risk.features import CATEGORICAL, FEATURE_NAMES
from credit_risk.model import Floats


@dataclass(frozen=True, slots=True)
class Attribution:
    """SHAP values of n loans.

    Attributes:
        added: what each column adds, shape (n, k).
        base: the mean output, to which a loan's values add up to its own.
        columns: what the classifier gets, shape (n, k); category codes are NaN, as their order means nothing.
        names: of the columns.
        unit: what is explained.
    """

    added: npt.NDArray[np.float64]
    base: float
    columns: npt.NDArray[np.float64]
    names: list[str]
    unit: str


def attribution(model: Pipeline, features: Floats) -> Attribution | None:
    """Explains the classifier of trees inside the pipeline, beneath its calibration; None if it has no trees.

    Args:
        model: the fitted pipeline.
        features: shape (n, len(FEATURES)).
    """
    classifier = uncalibrated(model)
    if not isinstance(classifier, HistGradientBoostingClassifier | RandomForestClassifier):
        return None
    encoded = model["encode"].get_feature_names_out(FEATURE_NAMES)[model["select"].get_support()]
    names = [name.partition("__")[2] for name in encoded]
    columns = np.asarray(model[:-1].transform(features), np.float64)
    found = shap.TreeExplainer(classifier)(columns)
    values, base = np.asarray(found.values), np.asarray(found.base_values)
    if isinstance(classifier, RandomForestClassifier):  # explains the probability of each class
        default = list(classifier.classes_).index(1)
        values, base, unit = values[:, :, default], base[:, default], "probability of default"
    else:
        unit = "log-odds of default"
    shown = np.where([name in CATEGORICAL for name in names], np.nan, columns)
    return Attribution(values, float(base[0]), shown, names, unit)


def uncalibrated(model: Pipeline) -> Any:
    """The classifier itself, without a calibration around it."""
    classifier = model["classify"]
    if isinstance(classifier, CalibratedClassifierCV):
        return classifier.calibrated_classifiers_[0].estimator
    return classifier
