"""From the bytes of a request to the bytes of its answer."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from credit_risk.features import from_application, from_applications, row_of
from credit_risk.serving.active_model import LoadedModel
from credit_risk.serving.explanations import MAX_REASONS
from credit_risk.serving.problem_details import FieldProblem, Problem, invalid
from credit_risk.serving.prometheus import SCORES
from credit_risk.serving.request_body import GROUP
from credit_risk.serving.request_model import InvalidError, NotJsonError, TooManyError, parse, parse_many


class Decision(BaseModel):
    """What the model says of one application."""

    probability_of_default: float = Field(description="Probability that the loan is charged off", ge=0, le=1)
    decision: Literal["approve", "refuse"] = Field(description="refuse when the probability is at least the threshold")


class _ByModel(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    schema_version: Literal[1] = Field(description="Version of this answer's schema")
    model_version: str = Field(description="Version of the model in the registry")
    threshold: float = Field(description="The cheapest threshold on the training loans, stored with the model")


class Prediction(_ByModel, Decision):
    """The answer to one application."""


class FieldContribution(BaseModel):
    """What a field adds to the risk of this applicant; fields that a rule ties together count as one."""

    fields: list[str]
    log_odds: float = Field(description="Added to the log-odds of default; negative: it lowers the risk")


class Explanation(BaseModel):
    """Where the risk comes from, against held-out applicants whom the model would approve."""

    reasons: list[str] = Field(description="The fields that raise the risk most, at most four groups of them")
    reference_log_odds: float = Field(description="Mean log-odds of default of the applicants compared with")
    contributions: list[FieldContribution] = Field(
        description="All fields, the largest first; with the reference they add up to this applicant's log-odds"
    )


class ExplainedPrediction(Prediction):
    """The answer to one application, with its explanation if one was asked for."""

    explanation: Explanation | None = None


class Errors(BaseModel):
    """What stands in the place of a row that breaks the contract."""

    errors: list[FieldProblem]


class Predictions(_ByModel):
    """The answer to a list of applications, in their order."""

    results: list[Decision | Errors]


async def one(body: bytes, champion: LoadedModel) -> bytes:
    """The answer to one application, in JSON.

    Raises:
        Problem: 400, the body is no JSON; 422, it breaks the contract.
    """
    application = _parsed(body)
    probability = await champion.together.score(row_of(application.__dict__))
    return (_decision(probability, champion.threshold)[:-1] + champion.tail).encode()


def explained(body: bytes, champion: LoadedModel) -> ExplainedPrediction:
    """The answer to one application, with its explanation.

    Raises:
        Problem: as for `one`.
    """
    application = vars(_parsed(body))
    probability = champion.scorer.score(from_application(application)).item()
    contributions = champion.reasons.explain(application)
    raising = [contribution for contribution in contributions if contribution.log_odds > 0][:MAX_REASONS]
    explanation = Explanation(
        reasons=[name for contribution in raising for name in contribution.fields],
        reference_log_odds=champion.reasons.reference,
        contributions=[FieldContribution(fields=list(it.fields), log_odds=it.log_odds) for it in contributions],
    )
    answer = json.loads(_decision(probability, champion.threshold)[:-1] + champion.tail)
    return ExplainedPrediction(**answer, explanation=explanation)


def _parsed(body: bytes) -> Any:
    try:
        return parse(body)
    except InvalidError as error:
        raise invalid(error.problems) from None
    except NotJsonError as error:
        raise Problem(400, str(error)) from None


def _decision(probability: float, threshold: float) -> str:
    SCORES.note(probability)
    word = "refuse" if probability >= threshold else "approve"
    return f'{{"probability_of_default":{probability!r},"decision":"{word}"}}'


async def many(body: bytes, champion: LoadedModel, limit: int) -> bytes:
    """The answer to a JSON list of applications, in JSON; a row that breaks the contract gets errors in its place.

    Raises:
        Problem: 400, the body is no list of JSON; 413, it has more rows than the limit.
    """
    try:
        rows = parse_many(body, limit)
    except TooManyError:
        raise Problem(413, f"a batch must not have more than {limit:,} applications; send NDJSON") from None
    except NotJsonError as error:
        raise Problem(400, str(error)) from None
    results: list[str] = []
    for start in range(0, len(rows), GROUP):
        results += _score(rows[start : start + GROUP], champion)
        await asyncio.sleep(0)
    return f'{{"results":[{",".join(results)}]{champion.tail}'.encode()


async def stream(lines: AsyncIterator[list[bytes]], champion: LoadedModel) -> AsyncIterator[bytes]:
    """The answers to applications that come a line each, a line each, in their order.

    Args:
        lines: groups of lines, as they arrive.
        champion: answers all of them.
    """
    tail = champion.tail
    try:
        async for group in lines:
            results = _score([_parse_line(line) for line in group], champion)
            yield "".join(f"{result[:-1]}{tail}\n" for result in results).encode()
            await asyncio.sleep(0)
    except Problem as problem:  # the answer has begun: all that is left is to say so in its last line
        yield json.dumps({"errors": [_whole_row(problem.detail)]}).encode() + b"\n"


def _parse_line(line: bytes) -> Any:
    try:
        return parse(line)
    except InvalidError as error:
        return error.problems
    except NotJsonError as error:
        return [_whole_row(str(error).removeprefix("the body "))]


def _whole_row(rule: str) -> dict[str, str]:
    return {"field": "", "value_type": "string", "rule": rule}


def _score(rows: list[Any], champion: LoadedModel) -> list[str]:
    """The JSON of each row's result: of its application's decision, or of its errors."""
    applications = [row for row in rows if not isinstance(row, list)]
    probabilities = champion.scorer.score_many(from_applications(applications)).tolist() if applications else []
    decisions = [_decision(probability, champion.threshold) for probability in probabilities]
    if len(decisions) == len(rows):
        return decisions
    decided = iter(decisions)
    return [json.dumps({"errors": row}) if isinstance(row, list) else next(decided) for row in rows]
