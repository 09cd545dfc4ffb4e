"""The contract as a check of data frames: vectorised, with the same results and words as the API's request model."""

from collections.abc import Iterable
from functools import partial

import pandas as pd
import pandera.pandas as pa

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import Choice, Field, Name, NotAbove


def check_columns(columns: Iterable[str]) -> None:
    """Checks that a frame of rows has the contract's columns and no others.

    Raises:
        ProjectError: names each column that is missing or may not be there, and why.
    """
    given = list(columns)
    problems = [f"column '{name}' {why}" for name in given if (why := CONTRACT.rejection(name))]
    problems += [f"column '{name}' is missing" for name in CONTRACT.field_names if name not in given]
    if problems:
        raise ProjectError(f"{'; '.join(problems)} (see contract.py)")


def failures(rows: pd.DataFrame) -> "pd.Series[str]":
    """The rows that break the contract.

    Args:
        rows: one column per field: float64 for numbers (NaN when missing), str or object for words.

    Returns:
        For each failing row its index label and the first broken rule, such as `employees must be a whole number …`.
        Empty when every row is valid.

    Raises:
        ProjectError: columns are missing or unknown, or a column of numbers does not hold numbers.
    """
    check_columns(rows.columns)
    try:
        SCHEMA.validate(rows, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
        # A column of another type also breaks the rules that compare it, without a row.
        whole_column = cases[cases["index"].isna() & (cases["schema_context"] == "Column")]
        if len(whole_column):
            case = whole_column.iloc[0]
            rule = CONTRACT.field(case["column"]).rule
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
    rule = CONTRACT.field(case["column"]).rule
    return f"{case['column']} {rule}"


def _column(field: Field) -> pa.Column:
    if isinstance(field, Choice):
        return pa.Column(checks=pa.Check.isin(field.choices), nullable=not field.required)
    if isinstance(field, Name):
        return pa.Column(checks=pa.Check(partial(_are_names, field)), nullable=not field.required)
    checks = [pa.Check.in_range(field.minimum, field.maximum)]
    if field.whole:
        checks.append(pa.Check(_is_whole))
    return pa.Column("float64", checks, nullable=not field.required)


def _are_names(field: Name, values: "pd.Series[str]") -> "pd.Series[bool]":
    return values.isin([name for name in values.unique() if field.accepts(name)])


def _is_whole(values: "pd.Series[float]") -> "pd.Series[bool]":
    return values == values.round()


def _rule(rule: NotAbove) -> pa.Check:
    def holds(frame: pd.DataFrame) -> "pd.Series[bool]":
        return ~(frame[rule.smaller] > frame[rule.larger])  # a missing value breaks its own field's rule, not this

    return pa.Check(holds, error=f"{rule.smaller} {rule.rule}")


SCHEMA = pa.DataFrameSchema(
    {field.name: _column(field) for field in CONTRACT.fields},
    checks=[_rule(rule) for rule in CONTRACT.rules],
    strict=True,
)
