"""The contract as the API's request model (pydantic), with the same verdict and words as the check of frames."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

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


def explain(error: ValidationError | Any) -> list[dict[str, str]]:
    """Says what is wrong with an application, in the contract's words.

    Args:
        error: pydantic's ValidationError, or a list of its error dictionaries whose `loc` ends with the field.

    Returns:
        For each broken field `{"field": …, "reason": …}`; field is empty when the body as a whole is wrong.
    """
    details: Any = error.errors() if isinstance(error, ValidationError) else error
    problems: dict[str, str] = {}
    for detail in details:
        named = [part for part in detail["loc"] if isinstance(part, str) and part != "body"]
        field, reason = _explain_one(named[0] if named else "", detail)
        problems.setdefault(field, reason)
    return [{"field": field, "reason": reason} for field, reason in problems.items()]


def _explain_one(field: str, detail: dict[str, Any]) -> tuple[str, str]:
    rules = {known.name: known.rule for known in FIELDS}
    match detail["type"]:
        case "extra_forbidden":
            return field, refusal(field) or "is not in the contract"
        case "missing" if field:
            return field, f"is missing; it {rules[field]}"
        case "value_error":
            smaller, _, rule = str(detail["ctx"]["error"]).partition(" ")
            return smaller, rule
        case _ if field in rules:
            return field, rules[field]
        case "json_invalid":
            return "", f"the body is not JSON: {detail['ctx']['error']}"
        case _:
            return "", "the body must be a JSON object with one application"
