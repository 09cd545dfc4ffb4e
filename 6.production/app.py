"""The API: one application in, probability of default and decision out.

Serves the ONNX form of the champion from the cache that fetch_champion.py fills. Imports neither pandas, scikit-learn
nor MLflow, and never unpickles.

Usage: uv run main.py serve                                    fetches the champion first
       uv run uvicorn --app-dir 6.production app:app           serves what is in the cache
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from credit_risk import champion_cache
from credit_risk.champion_cache import ServedModel
from credit_risk.errors import CreditRiskError
from credit_risk.features import from_application
from credit_risk.request import LoanApplication, explain
from credit_risk.settings import Settings


class Prediction(BaseModel):
    """The answer to one application."""

    model_config = ConfigDict(protected_namespaces=())

    probability_of_default: float = Field(description="Probability that the loan is charged off", ge=0, le=1)
    decision: Literal["approve", "refuse"] = Field(description="refuse when the probability is at least the threshold")
    threshold: float = Field(description="The cheapest threshold on the training loans, stored with the model")
    model_version: str = Field(description="Version of the model in the registry")


class Problem(BaseModel):
    """One thing that is wrong with a request."""

    field: str = Field(description="Applicant field; empty when the body as a whole is wrong")
    reason: str


class Problems(BaseModel):
    """Body of a 422."""

    detail: list[Problem]


class Detail(BaseModel):
    """Body of a 503, and of the health checks."""

    detail: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Loads the model once; without one the API starts all the same, and says so in /readyz."""
    app.state.model, app.state.reason = None, ""
    try:
        app.state.model = champion_cache.load(Settings().model_cache)
    except CreditRiskError as error:
        app.state.reason = str(error)
    yield


app = FastAPI(title="Credit risk", version="1", lifespan=lifespan)


def served_model(request: Request) -> ServedModel:
    """The loaded model; 503 when there is none."""
    model: ServedModel | None = request.app.state.model
    if model is None:
        raise HTTPException(503, request.app.state.reason)
    return model


Served = Annotated[ServedModel, Depends(served_model)]
NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": Detail, "description": "No model is loaded"}}
INVALID: dict[int | str, dict[str, Any]] = {422: {"model": Problems, "description": "The application is not valid"}}


@app.exception_handler(RequestValidationError)
async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    """Names field and rule, in the contract's words; never echoes the input."""
    return JSONResponse({"detail": explain(error.errors())}, 422)


@app.post("/predict", responses=INVALID | NOT_READY)
def predict(application: LoanApplication, model: Served) -> Prediction:
    """Probability of default and decision for one application."""
    probability = float(model.scorer.score(from_application(vars(application)))[0])
    threshold = model.scorer.facts.threshold
    return Prediction(
        probability_of_default=probability,
        decision="refuse" if probability >= threshold else "approve",
        threshold=threshold,
        model_version=model.version,
    )


@app.get("/model", responses=NOT_READY)
def about(model: Served) -> dict[str, Any]:
    """The served version: where it comes from, and what the gates measured."""
    return model.about


@app.get("/livez")
def livez() -> Detail:
    """Whether the process answers."""
    return Detail(detail="alive")


@app.get("/readyz", responses=NOT_READY)
def readyz(model: Served) -> Detail:
    """Whether it can predict."""
    return Detail(detail=f"serving version {model.version}")
