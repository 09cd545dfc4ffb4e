"""Predictions: from the body of a request to the body of its response.

The dataclasses below are the API's response schemas. Pydantic writes them as JSON, and OpenAPI documents them.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from credit_risk.contract import CONTRACT
from credit_risk.features import FEATURES
from credit_risk.serving.active_model import LoadedModel
from credit_risk.serving.explanations import Contribution
from credit_risk.serving.problem_details import FieldProblem, Problem, invalid_row
from credit_risk.serving.prometheus import PROBABILITIES
from credit_risk.serving.request_body import GROUP
from credit_risk.serving.request_model import (
    InvalidRowError,
    NotJsonError,
    TooManyRowsError,
    parse_batch,
    parse_item,
    parse_row,
    whole_row_problem,
)

SCHEMA_VERSION: Literal[1] = 1  # of the responses; raised by a change that breaks clients
MAX_REASONS = 4  # as many as US lenders name for a decline (12 CFR 1002.9, official interpretation)
_PROBLEM = CONTRACT.problem
_ACCEPT, _DECLINE = _PROBLEM.accept, _PROBLEM.decline

Probability = Annotated[float, Field(ge=0, le=1, description=f"Probability of {_PROBLEM.event}")]
Decision = Annotated[
    str,
    Field(
        description=f"{_DECLINE} when the probability is at or above the threshold",
        json_schema_extra={"enum": [_ACCEPT, _DECLINE]},
    ),
]
Threshold = Annotated[float, Field(description="The decision threshold, stored with the model")]
ModelVersion = Annotated[str, Field(description="Version of the model in the registry")]
SchemaVersion = Annotated[Literal[1], Field(description="Version of this response's schema")]


@dataclass(slots=True)
class Result:
    """The prediction for one row of a batch."""

    probability: Probability
    decision: Decision


@dataclass(slots=True)
class RejectedRow:
    """Takes the place of a row that breaks the contract."""

    row: Annotated[int, Field(description="Number of the row in the request, from 1; empty lines are not counted")]
    errors: list[FieldProblem]


@dataclass(slots=True)
class Prediction(Result):
    """The prediction for one row."""

    threshold: Threshold
    model_version: ModelVersion
    schema_version: SchemaVersion


@dataclass(slots=True)
class Explanation:
    """Where the risk comes from, compared with held-out rows that the model accepts."""

    reasons: Annotated[list[str], Field(description=f"Fields that raise the risk most, {MAX_REASONS} groups at most")]
    reference_log_odds: Annotated[float, Field(description="Mean log-odds of the rows compared with")]
    contributions: Annotated[
        list[Contribution],
        Field(description="All fields, the largest first; plus the reference they give the log-odds"),
    ]


@dataclass(slots=True)
class ExplainedPrediction(Prediction):
    """The prediction for one row, with its explanation."""

    explanation: Explanation


@dataclass(slots=True)
class BatchPrediction:
    """The predictions for a list of rows, in their order."""

    results: list[Result | RejectedRow]
    threshold: Threshold
    model_version: ModelVersion
    schema_version: SchemaVersion


_prediction_json = TypeAdapter(Prediction).serializer.to_json
_explained_json = TypeAdapter(ExplainedPrediction).serializer.to_json
_batch_json = TypeAdapter(BatchPrediction).serializer.to_json
_rejected_json = TypeAdapter(RejectedRow).serializer.to_json
_probabilities = PROBABILITIES.values()


async def predict_one(body: bytes, model: LoadedModel, *, explain: bool = False) -> bytes:
    """The response to one row, with its explanation if `explain`.

    Raises:
        Problem: 400, the body is not JSON; 422, it breaks the contract.
    """
    try:
        row = vars(parse_row(body))
    except InvalidRowError as error:
        raise invalid_row(error.problems) from None
    except NotJsonError as error:
        raise Problem(400, str(error)) from None
    probability = await model.batcher.score(FEATURES.row_values(row))
    _probabilities.append(probability)
    values = (probability, _decision(probability, model), model.threshold, model.version, SCHEMA_VERSION)
    if explain:
        return _explained_json(ExplainedPrediction(*values, _explanation(row, model)))
    return _prediction_json(Prediction(*values))


def _decision(probability: float, model: LoadedModel) -> str:
    return _DECLINE if probability >= model.threshold else _ACCEPT


def _explanation(row: dict[str, Any], model: LoadedModel) -> Explanation:
    contributions = model.explainer.explain(row)
    raising = [contribution for contribution in contributions if contribution.log_odds > 0]
    reasons = [name for contribution in raising[:MAX_REASONS] for name in contribution.fields]
    return Explanation(reasons, model.explainer.reference, contributions)


async def predict_batch(body: bytes, model: LoadedModel, limit: int) -> bytes:
    """The response to a JSON list of rows; a row that breaks the contract gets its errors instead of a prediction.

    Raises:
        Problem: 400, the body is not a JSON list; 413, it has more rows than the limit.
    """
    results: list[Result | RejectedRow] = []
    try:
        rows = iter(parse_batch(body, limit))
        while group := list(islice(rows, GROUP)):
            results += _results(group, model, first=len(results) + 1)
            await asyncio.sleep(0)
    except TooManyRowsError:
        raise Problem(413, f"a batch must not have more than {limit:,} {_PROBLEM.rows}; send NDJSON") from None
    except NotJsonError as error:
        raise Problem(400, str(error)) from None
    return _batch_json(BatchPrediction(results, model.threshold, model.version, SCHEMA_VERSION))


async def predict_stream(lines: AsyncIterator[list[bytes]], model: LoadedModel) -> AsyncIterator[bytes]:
    """The responses to rows that arrive one per line: a line each, in their order.

    Args:
        lines: groups of lines, as they arrive.
        model: used for all of them.
    """
    shared, row = (model.threshold, model.version, SCHEMA_VERSION), 1
    try:
        async for group in lines:
            results = _results([parse_item(line) for line in group], model, first=row)
            row += len(results)
            yield b"".join(
                (
                    _rejected_json(result)
                    if isinstance(result, RejectedRow)
                    else _prediction_json(Prediction(result.probability, result.decision, *shared))
                )
                + b"\n"
                for result in results
            )
            await asyncio.sleep(0)
    except Problem as problem:  # the response has begun, so its last line has to carry the error
        yield _rejected_json(RejectedRow(row, [whole_row_problem(problem.detail)])) + b"\n"


def _results(rows: list[Any], model: LoadedModel, *, first: int) -> list[Result | RejectedRow]:
    """The result of each row, a parsed one or the list of its problems; `first` is the number of the first."""
    valid = [row for row in rows if not isinstance(row, list)]
    probabilities = model.scorer.score_many(FEATURES.from_rows(valid)).tolist() if valid else []
    _probabilities.extend(probabilities)
    remaining = iter(probabilities)
    return [
        RejectedRow(number, row)
        if isinstance(row, list)
        else Result(probability := next(remaining), _decision(probability, model))
        for number, row in enumerate(rows, first)
    ]
