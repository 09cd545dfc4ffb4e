"""Predictions: from the body of a request to the body of its response.

The dataclasses below are the API's response schemas. Pydantic writes them as JSON, and OpenAPI documents them.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import islice
from time import time
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from credit_risk.contract import CONTRACT
from credit_risk.features import FEATURES
from credit_risk.serving.active_model import LoadedModel
from credit_risk.serving.explanations import Contribution
from credit_risk.serving.problem_details import FieldProblem, Problem, invalid_row
from credit_risk.serving.prometheus import PROBABILITIES
from credit_risk.serving.recorder import Recorder
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
    sentences: Annotated[
        list[str], Field(description="The same as sentences: each value, and the one that accepted rows typically have")
    ]
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


async def predict_one(
    body: bytes, model: LoadedModel, recorder: Recorder, request_id: bytes, *, explain: bool = False
) -> bytes:
    """The response to one row, with its explanation if `explain`; the recorder gets row and prediction.

    Raises:
        Problem: 400, the body is not JSON; 422, it breaks the contract.
    """
    try:
        row = vars(parse_row(body))
    except InvalidRowError as error:
        raise invalid_row(error.problems) from None
    except NotJsonError as error:
        raise Problem(400, str(error)) from None
    features = FEATURES.row_values(row)
    probability = await model.batcher.score(features)
    _probabilities.append(probability)
    decision = _decision(probability, model)
    if recorder.enabled:
        recorder.add(time(), request_id, row, probability, decision, model.version, features, body)
    values = (probability, decision, model.threshold, model.version, SCHEMA_VERSION)
    if explain:
        return _explained_json(ExplainedPrediction(*values, _explanation(row, model)))
    return _prediction_json(Prediction(*values))


def _decision(probability: float, model: LoadedModel) -> str:
    return _DECLINE if probability >= model.threshold else _ACCEPT


def _explanation(row: dict[str, Any], model: LoadedModel) -> Explanation:
    contributions = model.explainer.explain(row)
    raising = [each for each in contributions if each.log_odds > 0 and model.reasons.may_name(each.fields)][
        :MAX_REASONS
    ]
    names = [name for each in raising for name in each.fields]
    sentences = [model.reasons.sentence(each.fields, row) for each in raising]
    return Explanation(names, sentences, model.explainer.reference, contributions)


async def predict_batch(body: bytes, model: LoadedModel, limit: int, recorder: Recorder, request_id: bytes) -> bytes:
    """The response to a JSON list of rows; a row that breaks the contract gets its errors instead of a prediction.

    Raises:
        Problem: 400, the body is not a JSON list; 413, it has more rows than the limit.
    """
    results: list[Result | RejectedRow] = []
    try:
        rows = iter(parse_batch(body, limit))
        while group := list(islice(rows, GROUP)):
            results += _results(group, model, recorder, request_id, first=len(results) + 1)
            await asyncio.sleep(0)
    except TooManyRowsError:
        raise Problem(413, f"a batch must not have more than {limit:,} {_PROBLEM.rows}; send NDJSON") from None
    except NotJsonError as error:
        raise Problem(400, str(error)) from None
    return _batch_json(BatchPrediction(results, model.threshold, model.version, SCHEMA_VERSION))


async def predict_stream(
    lines: AsyncIterator[list[bytes]], model: LoadedModel, recorder: Recorder, request_id: bytes
) -> AsyncIterator[bytes]:
    """The responses to rows that arrive one per line: a line each, in their order.

    Args:
        lines: groups of lines, as they arrive.
        model: used for all of them.
        recorder: gets rows and predictions.
        request_id: of the whole stream.
    """
    shared, row = (model.threshold, model.version, SCHEMA_VERSION), 1
    try:
        async for group in lines:
            results = _results([parse_item(line) for line in group], model, recorder, request_id, first=row)
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


def _results(
    rows: list[Any], model: LoadedModel, recorder: Recorder, request_id: bytes, *, first: int
) -> list[Result | RejectedRow]:
    """The result of each row, a parsed one or the list of its problems; `first` is the number of the first."""
    valid = [row for row in rows if not isinstance(row, list)]
    results = _score(valid, model, recorder, request_id) if valid else []
    remaining = iter(results)
    return [
        RejectedRow(number, row) if isinstance(row, list) else next(remaining) for number, row in enumerate(rows, first)
    ]


def _score(rows: list[Any], model: LoadedModel, recorder: Recorder, request_id: bytes) -> list[Result]:
    features = FEATURES.from_rows(rows)
    probabilities = model.scorer.score_many(features).tolist()
    _probabilities.extend(probabilities)
    results = [Result(probability, _decision(probability, model)) for probability in probabilities]
    if recorder.enabled:
        now = time()
        for row, result, values in zip(rows, results, features, strict=True):
            prediction = result.probability, result.decision, model.version
            recorder.add(now, request_id, vars(row), *prediction, values, None)
    return results
