"""The model under BentoML: a service that answers each request by itself, and one that batches adaptively.

A batchable endpoint takes a list, so there each request brings a list of one. BentoML's documentation puts a second
service in front that turns one application into such a list; without it there is one hop less.

MODEL_FOLDER: folder of the downloaded model version.
"""

import os
from pathlib import Path

import bentoml
import pandas as pd

from credit_risk.formats.skops_model import load
from credit_risk.serving.request_model import LoanApplication

QUIET = {"access": {"enabled": False}}


@bentoml.service(workers=1, logging=QUIET)
class Plain:
    """One prediction a request."""

    def __init__(self) -> None:
        """Loads the model."""
        self.model = load(Path(os.environ["MODEL_FOLDER"]))

    @bentoml.api
    def predict(self, application: LoanApplication) -> float:
        """Probability of default of one application."""
        frame = pd.DataFrame([application.model_dump()])
        return float(self.model.predict_proba(frame)[0, 1])


@bentoml.service(workers=1, logging=QUIET)
class Adaptive:
    """One prediction for all requests that wait."""

    def __init__(self) -> None:
        """Loads the model."""
        self.model = load(Path(os.environ["MODEL_FOLDER"]))

    @bentoml.api(batchable=True)
    def predict(self, applications: list[LoanApplication]) -> list[float]:
        """Probabilities of default of many applications, in their order."""
        frame = pd.DataFrame([application.model_dump() for application in applications])
        probabilities: list[float] = self.model.predict_proba(frame)[:, 1].tolist()
        return probabilities
