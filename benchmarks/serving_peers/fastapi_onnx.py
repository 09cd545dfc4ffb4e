"""An ordinary FastAPI handler around this project's scoring core: what is left of the gain without the fast path.

MODEL_FOLDER: folder of the downloaded model version.
"""

import os
from pathlib import Path

from fastapi import FastAPI

from credit_risk.features import FEATURES
from credit_risk.formats.onnx_scorer import Scorer
from credit_risk.serving.request_model import LoanApplication

app = FastAPI()
scorer = Scorer.load(Path(os.environ["MODEL_FOLDER"], "extra_files", "model.onnx"))


@app.post("/predict")
async def predict(application: LoanApplication) -> dict[str, float]:
    """Probability of default of one application."""
    return {"probability": float(scorer.score(FEATURES.from_row(application.__dict__))[0])}
