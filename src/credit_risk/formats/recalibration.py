"""Recalibration: a sigmoid on the log-odds of a fitted model, two numbers that are fitted on newer outcomes.

It moves the probabilities to the level of the newer rows and, with a positive slope, keeps their order. Source: Platt
(1999), "Probabilistic outputs for support vector machines".
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from credit_risk.core.arrays import log_odds
from credit_risk.core.errors import ProjectError

SMALLEST = 1e-6  # probabilities nearer to 0 or 1 are moved there: float32 has no exact log-odds for them
DIGITS = 6  # of both numbers: the last ones differ between processors


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """New log-odds are `slope` times the model's, plus `intercept`."""

    slope: float
    intercept: float

    @classmethod
    def fit(cls, probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> Self:
        """Logistic regression, without penalty, of the outcomes on the log-odds of the probabilities; both shape (n,).

        Raises:
            ProjectError: the outcomes contradict the order of the probabilities.
        """
        fitted = LogisticRegression(C=np.inf).fit(log_odds(probabilities, SMALLEST)[:, None], labels)
        slope, intercept = round(float(fitted.coef_[0, 0]), DIGITS), round(float(fitted.intercept_[0]), DIGITS)
        if slope <= 0:
            raise ProjectError(
                f"the newest outcomes contradict the model's ranking (slope {slope:g}), so recalibration can't help; "
                "train a new model"
            )
        return cls(slope, intercept)

    def apply(self, probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The recalibrated probabilities, shape (n,)."""
        return _probabilities(self.slope * log_odds(probabilities, SMALLEST) + self.intercept)

    def invert(self, probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The model's own probabilities, shape (n,), from recalibrated ones."""
        return _probabilities((log_odds(probabilities, SMALLEST) - self.intercept) / self.slope)


class Recalibrated(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A fitted classifier whose probabilities go through a sigmoid."""

    def __init__(self, estimator: Any, slope: float = 1.0, intercept: float = 0.0) -> None:
        """Takes the fitted classifier, and both numbers of the sigmoid."""
        self.estimator = estimator
        self.slope = slope
        self.intercept = intercept

    @property
    def sigmoid(self) -> Sigmoid:
        """The sigmoid."""
        return Sigmoid(self.slope, self.intercept)

    @property
    def classes_(self) -> Any:
        """The classes of the classifier, 0 and 1."""
        return self.estimator.classes_

    def __sklearn_is_fitted__(self) -> bool:
        """It is made around a fitted classifier."""
        return True

    def fit(self, rows: Any, labels: Any) -> Self:
        """Fits the classifier; the sigmoid stays."""
        self.estimator.fit(rows, labels)
        return self

    def predict_proba(self, rows: Any) -> npt.NDArray[np.float64]:
        """Probabilities of both classes, shape (n, 2)."""
        positive = self.sigmoid.apply(self.estimator.predict_proba(rows)[:, 1])
        return np.column_stack([1 - positive, positive])


def recalibrated(pipeline: Pipeline, sigmoid: Sigmoid) -> Pipeline:
    """The pipeline with the sigmoid after its classifier, instead of one that it may have."""
    *steps, (name, classifier) = without_recalibration(pipeline).steps
    return Pipeline([*steps, (name, Recalibrated(classifier, sigmoid.slope, sigmoid.intercept))])


def without_recalibration(pipeline: Pipeline) -> Pipeline:
    """The pipeline without the sigmoid after its classifier."""
    *steps, (name, classifier) = pipeline.steps
    return Pipeline([*steps, (name, classifier.estimator if isinstance(classifier, Recalibrated) else classifier)])


def sigmoid_of(pipeline: Pipeline) -> Sigmoid | None:
    """The sigmoid after the classifier; None without one."""
    classifier = pipeline[-1]
    return classifier.sigmoid if isinstance(classifier, Recalibrated) else None


def _probabilities(odds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    result: npt.NDArray[np.float64] = 1 / (1 + np.exp(-odds))
    return result
