"""The contract as the API's request model (pydantic), with the rules and words of the check of data frames."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter, ValidationError, create_model, model_validator
from pydantic_core import from_json

from credit_risk.contract import CONTRACT
from credit_risk.core.schema import Choice, Number
from credit_risk.serving.problem_details import FieldProblem

_ROW, _ROWS = CONTRACT.problem.row, CONTRACT.problem.rows


class _Rules(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, json_schema_extra={"example": dict(CONTRACT.example)}
    )

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        for rule in CONTRACT.rules:
            if getattr(self, rule.smaller) > getattr(self, rule.larger):
                raise ValueError(f"{rule.smaller} {rule.rule}")
        return self


def _annotation(field: Number | Choice) -> Any:
    kind: Any
    if isinstance(field, Choice):
        kind = Annotated[Literal[field.choices], Field()]
    else:
        # JSON has one kind of number: 7 and 7.0 are the same, so whole numbers are a multiple of 1, not an int.
        kind = Annotated[
            float,
            Field(
                ge=field.minimum,
                le=field.maximum,
                multiple_of=1 if field.whole else None,
                allow_inf_nan=False,
                json_schema_extra={"unit": field.unit},
            ),
        ]
    return kind if field.required else kind | None


_fields: dict[str, Any] = {
    field.name: (
        _annotation(field),
        Field(... if field.required else None, description=field.description, examples=[field.example]),
    )
    for field in CONTRACT.fields
}
PredictionRequest: Any = create_model(
    "PredictionRequest", __base__=_Rules, __doc__=f"One {_ROW}, as the contract describes it.", **_fields
)

# Stops at the first invalid row; then rows are validated one by one: a million of them must not make a million errors.
_BATCH: TypeAdapter[list[Any]] = TypeAdapter(Annotated[list[PredictionRequest], FailFast()])
_validate_row = PredictionRequest.__pydantic_validator__.validate_json
_validate_batch = _BATCH.validator.validate_json
_RULES_BY_FIELD = {field.name: field.rule for field in CONTRACT.fields}
SHOWN_NAME = 100  # characters of an unknown field's name that an error repeats
MAX_FIELDS = 4 * len(CONTRACT.fields)  # a row with more gets one error instead of one per field


class NotJsonError(ValueError):
    """The body is not valid JSON of the expected kind; the message is one clause."""


class TooManyRowsError(ValueError):
    """A list has more rows than allowed."""


class InvalidRowError(ValueError):
    """A row breaks the contract."""

    def __init__(self, problems: list[FieldProblem]) -> None:
        super().__init__(f"the {_ROW} breaks the contract")
        self.problems = problems


def parse_row(body: bytes) -> Any:
    """Parses a JSON object into a `PredictionRequest`.

    Raises:
        InvalidRowError: it breaks the contract.
        NotJsonError: it is not JSON, or names a field twice.
    """
    try:
        row = _validate_row(body)
    except ValidationError as error:
        raise InvalidRowError(field_problems(error)) from None
    # One colon a field, unless a value contains one or a field is repeated: only then is the slow check needed.
    if body.count(b":") != len(row.__pydantic_fields_set__):
        _reject_duplicates(body)
    return row


def parse_batch(body: bytes, limit: int) -> list[Any]:
    """Parses a JSON list: each item becomes a `PredictionRequest`, or the list of its `FieldProblem`s.

    Raises:
        NotJsonError: the body is not a JSON list, or an item names a field twice.
        TooManyRowsError: the list has more items than the limit.
    """
    # A comma per field and one per row: with more of them, there are too many rows, or none of them is valid.
    if body.count(b",") > limit * (len(CONTRACT.fields) + 1):
        raise TooManyRowsError
    try:
        rows: list[Any] = _validate_batch(body)
    except ValidationError:
        items = _read_list(body)
        if len(items) <= limit:
            _reject_duplicates(body)
            return [_validate_item(item) for item in items]
        raise TooManyRowsError from None
    if len(rows) > limit:
        raise TooManyRowsError
    if body.count(b":") != sum(len(row.__pydantic_fields_set__) for row in rows):
        _reject_duplicates(body)
    return rows


def _read_list(body: bytes) -> list[Any]:
    try:
        items = from_json(body)
    except ValueError as error:
        raise NotJsonError(f"the body is not JSON: {error}") from None
    if not isinstance(items, list):
        raise NotJsonError(f"the body must be a JSON array of {_ROWS}")
    return items


def _validate_item(item: Any) -> Any:
    if isinstance(item, dict) and len(item) > MAX_FIELDS:
        return [FieldProblem("", "object", f"must not have more than {MAX_FIELDS} fields")]
    try:
        return PredictionRequest.model_validate(item)
    except ValidationError as error:
        return field_problems(error)


def field_problems(error: ValidationError | Sequence[Any]) -> list[FieldProblem]:
    """Describes what is wrong with a row in the contract's words, one problem per field; never repeats a value.

    Args:
        error: pydantic's ValidationError, or a list of its error dictionaries whose `loc` ends with the field.

    Raises:
        NotJsonError: the row is not JSON at all.
    """
    details = error.errors(include_url=False) if isinstance(error, ValidationError) else error
    problems: dict[str, FieldProblem] = {}
    for detail in details:
        if detail["type"] == "json_invalid":
            raise NotJsonError(f"the body is not JSON: {detail['ctx']['error']}")
        names = [part for part in detail["loc"] if isinstance(part, str)]
        problem = _field_problem(names[0] if names else "", detail)
        problems.setdefault(problem.field, problem)
    return list(problems.values())


def _field_problem(field: str, detail: Any) -> FieldProblem:
    value_type = _json_type(detail["input"])
    match detail["type"]:
        case "extra_forbidden":
            return FieldProblem(field[:SHOWN_NAME], value_type, CONTRACT.rejection(field) or "is not in the contract")
        case "missing" if field:
            return FieldProblem(field, "missing", f"is missing; it {_RULES_BY_FIELD[field]}")
        case "value_error":
            smaller, _, rule = str(detail["ctx"]["error"]).partition(" ")
            return FieldProblem(smaller, "number", rule)
        case _ if field in _RULES_BY_FIELD:
            return FieldProblem(field, value_type, _RULES_BY_FIELD[field])
        case _:
            return FieldProblem("", value_type, f"must be a JSON object with one {_ROW}")


def _json_type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str() | bytes():
            return "string"
        case list():
            return "array"
        case _:
            return "object"


def _reject_duplicates(body: bytes) -> None:
    json.loads(body, object_pairs_hook=_without_duplicates)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) != len(dict(pairs)):
        raise NotJsonError("the body names a field twice")
    return dict(pairs)
