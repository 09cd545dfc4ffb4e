"""Candidates of a search: sections `train` of params.yaml, and the pipelines they describe."""

from typing import Any

from sklearn.pipeline import Pipeline

from credit_risk.model import TrainParams, build_pipeline

LEARNERS = ("logistic_regression", "random_forest", "hist_gradient_boosting")


def with_learner(train: TrainParams, model: str) -> TrainParams:
    """The same section with another learner, whose parameters are in it already."""
    return train.model_copy(update={"model": model})


def learner_parameters(train: TrainParams) -> dict[str, Any]:
    """The parameters of the section's own learner."""
    return dict(getattr(train, train.model))


def candidate_pipeline(train: TrainParams, rows: int) -> Pipeline:
    """The unfitted pipeline of a candidate, to be fitted on so many rows with one thread.

    Without calibration: a sigmoid does not change the ranking, so it would cost five more fits and change no metric
    that candidates are compared by.
    """
    return build_pipeline(train.model_copy(update={"calibration": "none"}), rows=rows)


def searched_parameters(train: TrainParams) -> dict[str, Any]:
    """What of a section a search changes, in the layout of params.yaml; sections of other learners do not count."""
    return {
        "model": train.model,
        "calibration": train.calibration,
        "monotonic": train.monotonic,
        "selection": {"min_importance": train.selection.min_importance},
        train.model: learner_parameters(train),
    }
