"""The model under BentoML: a service that scores each request alone, and one with adaptive batching.

A batchable endpoint takes a list, so each request sends a list of one. BentoML's documentation puts a second service in
front that makes such lists; without it there is one hop less.

MODEL_FOLDER: folder of the downloaded model version.
"""

import os
from pathlib import Path

import bentoml
import pandas as pd

from credit_risk.formats.skops_model import load
from credit_risk.serving.request_model import PredictionRequest

QUIET = {"access": {"enabled": False}}


@bentoml.service(workers=1, logging=QUIET)
class Plain:
    """One prediction a request."""

    def __init__(self) -> None:
        """Loads the model."""
        self.model = load(Path(os.environ["MODEL_FOLDER"]))

    @bentoml.api
    def predict(self, row: PredictionRequest) -> float:
        """Probability of one row."""
        frame = pd.DataFrame([row.model_dump()])
        return float(self.model.predict_proba(frame)[0, 1])


@bentoml.service(workers=1, logging=QUIET)
class Adaptive:
    """One prediction for all waiting requests."""

    def __init__(self) -> None:
        """Loads the model."""
        self.model = load(Path(os.environ["MODEL_FOLDER"]))

    @bentoml.api(batchable=True)
    def predict(self, rows: list[PredictionRequest]) -> list[float]:
        """Probabilities of many rows, in their order."""
        frame = pd.DataFrame([row.model_dump() for row in rows])
        probabilities: list[float] = self.model.predict_proba(frame)[:, 1].tolist()
        return probabilities
