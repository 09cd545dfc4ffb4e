"""The registry's form of the model: a pipeline from applicant fields to probabilities, kept as skops.

skops files are read without unpickling: only the types in TRUSTED are made, and the list is this project's, not the
file's. To register another kind of model, add its types here after reading what they do.
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import skops.io
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import Pipeline

from credit_risk.core.errors import ProjectError
from credit_risk.features import FEATURE_NAMES, from_columns

FILE_NAME = "model.skops"
CODE = (  # what it needs to be loaded, below the package
    "__init__.py",
    "contract.py",
    "core/__init__.py",
    "core/errors.py",
    "core/feature_set.py",
    "core/formulas.py",
    "core/schema.py",
    "features.py",
    "formats/__init__.py",
    "formats/skops_model.py",
)
TRUSTED = [
    "credit_risk.formats.skops_model.ApplicantFeatures",
    "numpy.dtype",
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
]


class ApplicantFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """The first step: applicant fields to features. Nothing is fitted."""

    def fit(self, applications: Any, labels: Any = None) -> Self:  # noqa: ARG002 (scikit-learn's interface)
        """Does nothing; marks the step as fitted."""
        self.fitted_ = True
        return self

    def transform(self, applications: Any) -> npt.NDArray[np.float32]:
        """Features, shape (n, len(FEATURES)) in float32, of a frame with the contract's columns."""
        return from_columns(applications)

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.str_]:  # noqa: ARG002
        """The features' names."""
        return np.array(FEATURE_NAMES)


def registered_form(trained: Pipeline) -> Pipeline:
    """The trained pipeline with the feature step in front."""
    return Pipeline([("applicant_features", ApplicantFeatures().fit(None)), *trained.steps])


def load(folder: Path) -> Pipeline:
    """Loads the pipeline of a downloaded model version, without unpickling anything.

    Raises:
        ProjectError: it is not in skops form, is damaged, or holds types that the project does not trust.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        others = ", ".join(sorted(p.name for p in folder.glob("*.pkl"))) or "no model file"
        raise ProjectError(f"the model is not in skops form ({others}); models are never unpickled from a registry")
    try:
        return skops.io.load(path, trusted=TRUSTED)
    except Exception as error:  # skops and the zip reader raise many kinds on damaged files
        raise ProjectError(f"{FILE_NAME} can't be loaded: {' '.join(str(error).split())[:200]}") from error
