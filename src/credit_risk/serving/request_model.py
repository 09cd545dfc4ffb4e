"""The contract as the API's request model (pydantic), with the same verdict and words as the check of frames."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter, ValidationError, create_model, model_validator
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

# At the first wrong row it stops, and the rows are judged one by one: a million of them must not make a million errors.
_MANY: TypeAdapter[list[Any]] = TypeAdapter(Annotated[list[LoanApplication], FailFast()])
_validate_one = LoanApplication.__pydantic_validator__.validate_json
_validate_many = _MANY.validator.validate_json
_RULES_BY_FIELD = {field.name: field.rule for field in FIELDS}
SHOWN_NAME = 100  # characters of an unknown field's name that an error repeats
MOST_FIELDS = 4 * len(FIELDS)  # beyond it a row's fields are not told one by one


class NotJsonError(ValueError):
    """A body that can't be read as what it says it is; the message is one clause."""


class TooManyError(ValueError):
    """A list of more applications than are wanted."""


class InvalidError(ValueError):
    """An application that breaks the contract."""

    def __init__(self, problems: list[dict[str, str]]) -> None:
        """Takes what is wrong, as `explain` says it."""
        super().__init__("the application breaks the contract")
        self.problems = problems


def parse(body: bytes) -> Any:
    """One application of a JSON body.

    Raises:
        InvalidError: it is no application of the contract.
        NotJsonError: it is no JSON, or names a field twice.
    """
    try:
        application = _validate_one(body)
    except ValidationError as error:
        raise InvalidError(explain(error)) from None
    # One colon a field, unless a value holds one: only then, or when a field stands twice, the slow check is needed.
    if body.count(b":") != len(application.__pydantic_fields_set__):
        _refuse_duplicates(body)
    return application


def parse_many(body: bytes, limit: int) -> list[Any]:
    """Each item of a JSON list: its application, or what is wrong with it as a list of `explain`.

    Raises:
        NotJsonError: the body as a whole is no list of JSON, or an item names a field twice.
        TooManyError: the list has more items than the limit.
    """
    # A comma a field and one a row: so many items are too many, or none of them is an application.
    if body.count(b",") > limit * (len(FIELDS) + 1):
        raise TooManyError
    try:
        applications: list[Any] = _validate_many(body)
    except ValidationError:
        items = _read_list(body)
        if len(items) <= limit:
            _refuse_duplicates(body)
            return [_judge(item) for item in items]
        raise TooManyError from None
    if len(applications) > limit:
        raise TooManyError
    if body.count(b":") != sum(len(application.__pydantic_fields_set__) for application in applications):
        _refuse_duplicates(body)
    return applications


def _read_list(body: bytes) -> list[Any]:
    try:
        items = from_json(body)
    except ValueError as error:
        raise NotJsonError(f"the body is not JSON: {error}") from None
    if not isinstance(items, list):
        raise NotJsonError("the body must be a JSON array of applications")
    return items


def _judge(item: Any) -> Any:
    if isinstance(item, dict) and len(item) > MOST_FIELDS:
        return [{"field": "", "value_type": "object", "rule": f"must not have more than {MOST_FIELDS} fields"}]
    try:
        return LoanApplication.model_validate(item)
    except ValidationError as error:
        return explain(error)


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


def _refuse_duplicates(body: bytes) -> None:
    json.loads(body, object_pairs_hook=_without_duplicates)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) != len(dict(pairs)):
        raise NotJsonError("the body names a field twice")
    return dict(pairs)
