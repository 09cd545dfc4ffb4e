"""The contract as the API's request model (pydantic), with the rules and words of the check of data frames."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)

from credit_risk.contract import CONTRACT
from credit_risk.core.names import NO_NAME, name_code
from credit_risk.core.schema import ROW_ID, Choice, Name, Number
from credit_risk.serving.problem_details import FieldProblem

_ROW, _ROWS = CONTRACT.problem.row, CONTRACT.problem.rows
_RULES_BY_FIELD = {field.name: field.rule for field in CONTRACT.fields}
MAX_ROW_ID = 128  # characters
_RULES_BY_FIELD[ROW_ID] = f"must be a text of 1 to {MAX_ROW_ID} characters or null"


class _Rules(BaseModel):
    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, json_schema_extra={"example": dict(CONTRACT.example)}
    )

    @model_validator(mode="after")
    def _check_rules(self) -> Self:
        values = self.__dict__
        for rule in CONTRACT.rules:
            if values[rule.smaller] > values[rule.larger]:  # both are required numbers
                raise ValueError(f"{rule.smaller} {rule.rule}")
        return self


def _check_whole(value: float) -> float:
    if value % 1:  # multiple_of also accepts 7.0000000001
        raise ValueError
    return value


def _check_name(value: str) -> str:
    if name_code(value) == NO_NAME:
        raise ValueError
    return value


def _annotation(field: Number | Choice | Name) -> Any:
    kind: Any
    if isinstance(field, Choice):
        kind = Annotated[Literal[field.choices], Field()]
    elif isinstance(field, Name):
        kind = Annotated[str, Field(min_length=1, max_length=field.max_length), AfterValidator(_check_name)]
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
        if field.whole:
            kind = Annotated[kind, AfterValidator(_check_whole)]
    return kind if field.required else kind | None


_fields: dict[str, Any] = {
    field.name: (
        _annotation(field),
        Field(... if field.required else None, description=field.description, examples=[field.example]),
    )
    for field in CONTRACT.fields
}
_row_id = Field(
    None,
    min_length=1,
    max_length=MAX_ROW_ID,
    description="Optional: the caller's own name of the row, for the prediction log; no input of the model",
)
_fields[ROW_ID] = (str | None, _row_id)  # last: the fields are the first attributes
PredictionRequest: Any = create_model(
    "PredictionRequest", __base__=_Rules, __doc__=f"One {_ROW}, as the contract describes it.", **_fields
)

# Stops at the first invalid row; then rows are validated one by one: a million of them must not make a million errors.
_BATCH: TypeAdapter[list[Any]] = TypeAdapter(Annotated[list[PredictionRequest], FailFast()])
_validate_row = PredictionRequest.__pydantic_validator__.validate_json
_validate_batch = _BATCH.validator.validate_json
SHOWN_NAME = 100  # characters of an unknown field's name that an error repeats
MAX_FIELDS = 4 * len(CONTRACT.fields)  # a row with more wrong ones gets one error instead of one per field


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
        if error.error_count() > MAX_FIELDS:
            problem = FieldProblem("", "object", f"must not have more than {MAX_FIELDS} fields")
            raise InvalidRowError([problem]) from None
        raise InvalidRowError(field_problems(error)) from None
    # One colon a field, unless a value contains one or a field is repeated: only then is the slow check needed.
    if body.count(b":") != len(row.__pydantic_fields_set__):
        _reject_duplicates(body)
    return row


def parse_batch(body: bytes, limit: int) -> Sequence[Any] | Iterator[Any]:
    """Parses a JSON array: each item becomes a `PredictionRequest`, or the list of its `FieldProblem`s.

    Valid rows are parsed in one call. If there is anything wrong, rows are parsed one by one as they are asked for, so
    that each gets its own errors, and a million of them take no memory.

    Raises:
        NotJsonError: the body is not a JSON array; also while rows are asked for.
        TooManyRowsError: the array has more items than the limit; also while rows are asked for.
    """
    # With more commas than this, there may be too many rows, or texts with commas in them, or rows that are no objects.
    if body.count(b",") <= limit * (len(CONTRACT.fields) + 2):
        try:
            rows: list[Any] = _validate_batch(body)
        except ValidationError:
            return _parse_each(body, limit)
        if len(rows) > limit:
            raise TooManyRowsError
        if body.count(b":") == sum(len(row.__pydantic_fields_set__) for row in rows):
            return rows
    return _parse_each(body, limit)


def _parse_each(body: bytes, limit: int) -> Iterator[Any]:
    for number, item in enumerate(_split_array(body), 1):
        if number > limit:
            raise TooManyRowsError
        yield parse_item(item)


def parse_item(body: bytes) -> Any:
    """A row of a batch or a line of a stream: a `PredictionRequest`, or the list of its `FieldProblem`s."""
    try:
        return parse_row(body)
    except InvalidRowError as error:
        return error.problems
    except NotJsonError as error:
        return [whole_row_problem(str(error).removeprefix("the body "))]


def whole_row_problem(rule: str) -> FieldProblem:
    """What is wrong with a row that can't be read at all."""
    return FieldProblem("", "string", rule)


# Finds where a value ends and keeps nothing of it: numbers of any length, no matter whether keys are doubled.
_scan = json.JSONDecoder(
    strict=False, parse_int=len, parse_float=len, parse_constant=len, object_pairs_hook=len
).raw_decode
_space = re.compile(r"[ \t\n\r]*").match


def _split_array(body: bytes) -> Iterator[bytes]:
    """The items of a JSON array as they were sent; texts that are not UTF-8 or not Unicode are problems of the item."""
    text = body.decode("utf-8", "surrogateescape")
    at = _skip_space(text, 0)
    if text[at : at + 1] != "[":
        _scan_value(text, at, "the body is not JSON")
        raise NotJsonError(f"the body must be a JSON array of {_ROWS}")
    at = _skip_space(text, at + 1)
    number, closed = 0, text[at : at + 1] == "]"
    while not closed:
        number += 1
        end = _scan_value(text, at, f"the body is not JSON: {_ROW} {number}")
        yield text[at:end].encode("utf-8", "surrogateescape")
        at = _skip_space(text, end)
        closed = text[at : at + 1] == "]"
        if not closed and text[at : at + 1] != ",":
            raise NotJsonError(f"the body is not JSON: there is no comma or ] after {_ROW} {number}")
        at = _skip_space(text, at + 1)
    if number == 0:
        at = _skip_space(text, at + 1)
    if at < len(text):
        raise NotJsonError("the body is not JSON: there is more after the array")


def _skip_space(text: str, at: int) -> int:
    found = _space(text, at)
    return found.end() if found else at


def _scan_value(text: str, at: int, where: str) -> int:
    """Where the value ends that begins at a position."""
    try:
        return int(_scan(text, at)[1])
    except json.JSONDecodeError as error:
        raise NotJsonError(f"{where}: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise NotJsonError(f"{where} is nested too deeply") from None


def field_problems(error: ValidationError) -> list[FieldProblem]:
    """Describes what is wrong with a row in the contract's words, one problem per field; never repeats a value.

    Raises:
        NotJsonError: the row is not JSON at all.
    """
    problems: dict[str, FieldProblem] = {}
    for detail in error.errors(include_url=False):
        if detail["type"] == "json_invalid":
            raise NotJsonError(f"the body is not JSON: {detail['ctx']['error']}{_hint(detail)}")
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
        case "value_error" if not field:
            smaller, _, rule = str(detail["ctx"]["error"]).partition(" ")
            return FieldProblem(smaller, "number", rule)
        case _ if field in _RULES_BY_FIELD:
            return FieldProblem(field, value_type, _RULES_BY_FIELD[field])
        case _:
            return FieldProblem("", value_type, f"must be a JSON object with one {_ROW}")


def _hint(detail: Any) -> str:
    """What to do about several values where one is expected."""
    if not detail["ctx"]["error"].startswith("trailing characters"):
        return ""
    return (
        "; there is more than one value. Send several rows to /predict/batch: as a JSON array, or as "
        "application/x-ndjson with a row per line (curl: --data-binary, because -d removes the line ends)"
    )


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
    json.loads(body, parse_int=float, object_pairs_hook=_without_duplicates)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) != len(dict(pairs)):
        raise NotJsonError("the body names a field twice")
    return dict(pairs)
