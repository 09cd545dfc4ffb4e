"""Generated rows keep the contract: as the request model says, and as the check of frames says."""

import pandas as pd
import pytest
from hypothesis import given
from rows import columns, example_row, invalid_values, rows, valid_rows

from credit_risk.contract import CONTRACT
from credit_risk.core.schema import Field, Number
from credit_risk.data.validation import failures


def frame(rows: list[dict[str, object]]) -> pd.DataFrame:
    numbers = {field.name: "float64" for field in CONTRACT.fields if isinstance(field, Number)}
    return pd.DataFrame(columns(rows)).astype(numbers)


def test_valid_rows_pass_and_are_reproducible() -> None:
    generated = valid_rows(200)
    assert failures(frame([example_row(), *generated])).empty
    assert generated == valid_rows(200)
    assert generated != valid_rows(200, seed=1)


def test_optional_fields_are_sometimes_missing() -> None:
    missing = {name for row in valid_rows(200) for name, value in row.items() if value is None}
    assert missing == {field.name for field in CONTRACT.fields if not field.required}


@given(row=rows())
def test_every_row_of_the_strategy_is_valid(row: dict[str, object]) -> None:
    assert row.keys() == set(CONTRACT.field_names)
    assert all(CONTRACT.field(name).accepts(value) for name, value in row.items())
    assert all(row[rule.smaller] <= row[rule.larger] for rule in CONTRACT.rules)  # type: ignore[operator]


@pytest.mark.parametrize("field", CONTRACT.fields, ids=CONTRACT.field_names)
def test_invalid_values_are_rejected(field: Field) -> None:
    assert not any(field.accepts(value) for value in invalid_values(field))
