"""An ordinary FastAPI handler with this project's features and ONNX model, without its fast path.

MODEL_FOLDER: folder of the downloaded model version.
"""

import os
from pathlib import Path

from fastapi import FastAPI

from credit_risk.features import FEATURES
from credit_risk.formats.onnx_scorer import OnnxScorer
from credit_risk.serving.request_model import PredictionRequest

app = FastAPI()
scorer = OnnxScorer.load(Path(os.environ["MODEL_FOLDER"], "extra_files", "model.onnx"))


@app.post("/predict")
async def predict(row: PredictionRequest) -> dict[str, float]:
    """Probability of one row."""
    return {"probability": float(scorer.score(FEATURES.from_row(vars(row)))[0])}
