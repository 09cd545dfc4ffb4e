"""As most tutorials do it: a pydantic model, a data frame of one row, the scikit-learn pipeline.

MODEL_FOLDER: folder of the downloaded model version.
"""

import os
from pathlib import Path

import pandas as pd
from fastapi import FastAPI

from credit_risk.formats.skops_model import load
from credit_risk.serving.request_model import PredictionRequest

app = FastAPI()
model = load(Path(os.environ["MODEL_FOLDER"]))


@app.post("/predict")
def predict(row: PredictionRequest) -> dict[str, float]:
    """Probability of one row."""
    frame = pd.DataFrame([row.model_dump()])
    return {"probability": float(model.predict_proba(frame)[0, 1])}
