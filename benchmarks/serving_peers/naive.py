"""The handler of most tutorials: a pydantic model, a data frame of one row, the scikit-learn pipeline.

MODEL_FOLDER: folder of the downloaded model version.
"""

import os
from pathlib import Path

import pandas as pd
from fastapi import FastAPI

from credit_risk.formats.skops_model import load
from credit_risk.serving.request_model import LoanApplication

app = FastAPI()
model = load(Path(os.environ["MODEL_FOLDER"]))


@app.post("/predict")
def predict(application: LoanApplication) -> dict[str, float]:
    """Probability of default of one application."""
    frame = pd.DataFrame([application.model_dump()])
    return {"probability_of_default": float(model.predict_proba(frame)[0, 1])}
