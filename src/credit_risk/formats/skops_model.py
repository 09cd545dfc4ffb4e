"""The scikit-learn model as it is registered: a pipeline from fields to probabilities, stored with skops.

skops files are loaded without unpickling: only the types in TRUSTED are created, and the list is this project's, not
the file's. To register another kind of model, read what its types do and add them here.
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import skops.io
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import Pipeline

from credit_risk.core.errors import ProjectError
from credit_risk.features import FEATURES
from credit_risk.formats.recalibration import Recalibrated

FILE_NAME = "model.skops"
TRUSTED = [
    f"{__name__}.FeatureStep",
    f"{Recalibrated.__module__}.Recalibrated",
    "numpy.dtype",
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.loss.HalfBinomialLoss",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.tree._tree.Tree",
]


class FeatureStep(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """First step of the registered pipeline: computes the features from the fields. Nothing is fitted."""

    def fit(self, rows: Any, labels: Any = None) -> Self:  # noqa: ARG002 (scikit-learn's interface)
        """Marks the step as fitted."""
        self.fitted_ = True
        return self

    def transform(self, rows: Any) -> npt.NDArray[np.float32]:
        """Features, shape (n, len(FEATURES)) in float32, of a frame with the contract's fields as columns."""
        return FEATURES.from_columns(rows)

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[np.str_]:  # noqa: ARG002
        """Names of the features."""
        return np.array(FEATURES.names)


def registered_pipeline(trained: Pipeline) -> Pipeline:
    """The trained pipeline with the feature step in front."""
    return Pipeline([("features", FeatureStep().fit(None)), *trained.steps])


def load(folder: Path) -> Pipeline:
    """Loads the pipeline of a downloaded version without unpickling.

    Raises:
        ProjectError: it is not stored with skops, is damaged, or has types that the project does not trust.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in folder.glob("*.pkl"))) or "no model file"
        raise ProjectError(f"the model is not stored with skops ({found}), and pickled models are never loaded")
    try:
        return skops.io.load(path, trusted=TRUSTED)
    except Exception as error:  # skops and the zip reader raise many kinds on damaged files
        raise ProjectError(f"{FILE_NAME} can't be loaded: {' '.join(str(error).split())[:200]}") from error
