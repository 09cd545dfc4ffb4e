"""The contract as a check of data frames: vectorised, with the same verdict and words as the API's request model."""

from collections.abc import Iterable

import pandas as pd
import pandera.pandas as pa

from credit_risk.contract import FIELD_NAMES, FIELDS, RULES, Choice, NotAbove, Number, refusal
from credit_risk.core.errors import ProjectError


def check_columns(columns: Iterable[str]) -> None:
    """Checks that a frame of applications has the contract's columns and no others.

    Raises:
        ProjectError: names each column that is missing or may not be there, and why.
    """
    given = list(columns)
    problems = [f"column '{name}' {why}" for name in given if (why := refusal(name))]
    problems += [f"column '{name}' is missing" for name in FIELD_NAMES if name not in given]
    if problems:
        raise ProjectError(f"{'; '.join(problems)} (contract: src/credit_risk/contract.py)")


def failures(applications: pd.DataFrame) -> "pd.Series[str]":
    """The rows that break the contract.

    Args:
        applications: one column a field: float64 for numbers (NaN when missing), str or object for words.

    Returns:
        For each failing row its index label and the first broken rule, such as `employees must be a whole number …`.
        Empty when every row is valid.

    Raises:
        ProjectError: columns are missing or unknown, or a column of numbers does not hold numbers.
    """
    check_columns(applications.columns)
    try:
        SCHEMA.validate(applications, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
        # A column of another type also breaks the rules that compare it, without a row.
        whole_column = cases[cases["index"].isna() & (cases["schema_context"] == "Column")]
        if len(whole_column):
            case = whole_column.iloc[0]
            rule = next(field.rule for field in FIELDS if field.name == case["column"])
            raise ProjectError(f"column '{case['column']}' {rule}, but holds {case['failure_case']} values") from error
        # A rule over two fields counts only where each field is right by itself, as in the request model.
        cases = cases.sort_values("schema_context", key=lambda context: context == "DataFrameSchema", kind="stable")
        sentences = cases.apply(_sentence, axis=1)
        first = pd.Series(sentences.to_numpy(), index=cases["index"].to_numpy())
        return first[~first.index.duplicated()].sort_index()
    return pd.Series(dtype="str")


def _sentence(case: "pd.Series[str]") -> str:
    """`field rule` of one failure; a rule over two fields already begins with its field."""
    if case["schema_context"] == "DataFrameSchema":
        return str(case["check"])
    rule = next(field.rule for field in FIELDS if field.name == case["column"])
    return f"{case['column']} {rule}"


def _column(field: Number | Choice) -> pa.Column:
    if isinstance(field, Choice):
        return pa.Column(checks=pa.Check.isin(field.choices), nullable=not field.required)
    checks = [pa.Check.in_range(field.minimum, field.maximum)]
    if field.whole:
        checks.append(pa.Check(_is_whole))
    return pa.Column("float64", checks, nullable=not field.required)


def _is_whole(values: "pd.Series[float]") -> "pd.Series[bool]":
    """As pydantic's multiple_of: whole within a billionth."""
    return (values - values.round()).abs() <= 1e-9  # noqa: PLR2004 (pydantic's own number)


def _rule(rule: NotAbove) -> pa.Check:
    def holds(frame: pd.DataFrame) -> "pd.Series[bool]":
        return ~(frame[rule.smaller] > frame[rule.larger])  # a missing value breaks its own field's rule, not this

    return pa.Check(holds, error=f"{rule.smaller} {rule.rule}")


SCHEMA = pa.DataFrameSchema(
    {field.name: _column(field) for field in FIELDS},
    checks=[_rule(rule) for rule in RULES],
    strict=True,
)
