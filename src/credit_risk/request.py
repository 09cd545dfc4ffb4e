"""The contract as the API's request model (pydantic), with the same verdict and words as the check of frames."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model, model_validator
from pydantic_core import from_json

from credit_risk.contract import FIELDS, RULES, Choice, Number, refusal


class _Rules(BaseModel):
    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        json_schema_extra={"example": {field.name: field.example for field in FIELDS}},
    )

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        for rule in RULES:
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
    for field in FIELDS
}
LoanApplication: Any = create_model(
    "LoanApplication", __base__=_Rules, __doc__="What a lender knows when a loan is approved.", **_fields
)

_MANY: TypeAdapter[list[Any]] = TypeAdapter(list[LoanApplication])
_validate_one = LoanApplication.__pydantic_validator__.validate_json
_validate_many = _MANY.validator.validate_json
_RULES_BY_FIELD = {field.name: field.rule for field in FIELDS}
SHOWN_NAME = 100  # characters of an unknown field's name that an error repeats


def parse(body: bytes) -> Any:
    """One application of a JSON body.

    Raises:
        ValidationError: it is no application of the contract; see `explain`.
        NotJsonError: it is no JSON, or names a field twice.
    """
    application = _validate_one(body)
    # One colon a field, unless a value holds one: only then, or when a field stands twice, the slow check is needed.
    if body.count(b":") != len(application.__pydantic_fields_set__):
        _refuse_duplicates(body)
    return application


def parse_many(body: bytes) -> list[Any]:
    """Each item of a JSON list: its application, or what is wrong with it as a list of `explain`.

    Raises:
        NotJsonError: the body as a whole is no list of JSON.
    """
    try:
        applications: list[Any] = _validate_many(body)
    except ValidationError as error:
        wrong = _by_row(error)
        items = from_json(body)
        valid = iter(_MANY.validate_python([item for row, item in enumerate(items) if row not in wrong]))
        applications = [explain(wrong[row]) if row in wrong else next(valid) for row in range(len(items))]
        _refuse_duplicates(body)
        return applications
    if body.count(b":") != sum(len(application.__pydantic_fields_set__) for application in applications):
        _refuse_duplicates(body)
    return applications


class NotJsonError(ValueError):
    """A body that can't be read as what it says it is; the message is one clause."""


def explain(error: ValidationError | Sequence[Any]) -> list[dict[str, str]]:
    """Says what is wrong with an application, in the contract's words; never repeats a value.

    Args:
        error: pydantic's ValidationError, or a list of its error dictionaries whose `loc` ends with the field.

    Returns:
        For each broken field `{"field": …, "value_type": …, "rule": …}`, the type as JSON calls it, or "missing";
        field is empty when the application as a whole is wrong.

    Raises:
        NotJsonError: it is not JSON at all.
    """
    details = error.errors(include_url=False) if isinstance(error, ValidationError) else error
    problems: dict[str, dict[str, str]] = {}
    for detail in details:
        if detail["type"] == "json_invalid":
            raise NotJsonError(f"the body is not JSON: {detail['ctx']['error']}")
        named = [part for part in detail["loc"] if isinstance(part, str)]
        field, value_type, rule = _explain_one(named[0] if named else "", detail)
        problems.setdefault(field, {"field": field, "value_type": value_type, "rule": rule})
    return list(problems.values())


def _explain_one(field: str, detail: Any) -> tuple[str, str, str]:
    value_type = _json_type(detail["input"])
    match detail["type"]:
        case "extra_forbidden":
            return field[:SHOWN_NAME], value_type, refusal(field) or "is not in the contract"
        case "missing" if field:
            return field, "missing", f"is missing; it {_RULES_BY_FIELD[field]}"
        case "value_error":
            smaller, _, rule = str(detail["ctx"]["error"]).partition(" ")
            return smaller, "number", rule
        case _ if field in _RULES_BY_FIELD:
            return field, value_type, _RULES_BY_FIELD[field]
        case _:
            return "", value_type, "must be a JSON object with one application"


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


def _by_row(error: ValidationError) -> dict[int, list[Any]]:
    """The errors of a list by row; raises NotJsonError when it is no list."""
    wrong: dict[int, list[Any]] = {}
    for detail in error.errors(include_url=False):
        if not detail["loc"]:
            explain([detail])  # raises when it is no JSON
            raise NotJsonError("the body must be a JSON array of applications")
        wrong.setdefault(int(detail["loc"][0]), []).append(detail)
    return wrong


def _refuse_duplicates(body: bytes) -> None:
    json.loads(body, object_pairs_hook=_without_duplicates)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) != len(dict(pairs)):
        raise NotJsonError("the body names a field twice")
    return dict(pairs)
