"""The project's contract: the check of frames and the request model give the same result in the same words."""

import json
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rows import Row, example_row, invalid_values, rows

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import Choice, Field, Name, Number
from credit_risk.data.splits import as_frame
from credit_risk.data.validation import check_columns, failures
from credit_risk.registry.signature import contract_signature
from credit_risk.serving.request_model import (
    InvalidRowError,
    NotJsonError,
    PredictionRequest,
    field_problems,
    parse_row,
)

REQUIRED = [field for field in CONTRACT.fields if field.required]


def frame_result(row: Row) -> str | None:
    """The first rule that the frame check finds broken, or None."""
    frame = pd.DataFrame([{name: row.get(name) for name in CONTRACT.field_names}])
    for number in CONTRACT.numbers:
        value = row.get(number.name)
        if value is None or type(value) in {int, float}:
            frame[number.name] = frame[number.name].astype("float64")
    try:
        broken = failures(frame)
    except ProjectError as error:
        return str(error).removeprefix("column ").replace("'", "").partition(", but holds")[0]
    return broken.iloc[0] if len(broken) else None


def request_results(row: Row) -> list[str]:
    """All rules that the request model finds broken."""
    try:
        PredictionRequest.model_validate(row)
    except ValidationError as error:
        return [f"{problem.field} {problem.rule}" for problem in field_problems(error)]
    return []


def at_and_beyond(field: Field) -> st.SearchStrategy[Any]:
    """Values of the field's own type, or none: inside its bounds, at them, just beyond and far beyond."""
    missing = st.sampled_from([None, float("nan")] if field.required else [None])  # NaN is a frame's way to say null
    if isinstance(field, Choice):
        return st.one_of(st.sampled_from(field.choices), st.none(), st.text(max_size=3))
    if isinstance(field, Name):
        long = st.sampled_from(["a" * (field.max_length + more) for more in (0, 1)])
        return st.one_of(st.text(max_size=field.max_length + 1), st.none(), long, st.sampled_from(["?", "\t1"]))
    edges = [edge + step for edge in (field.minimum, field.maximum) for step in (-1, -0.5, -1e-9, 0, 1e-9, 0.5, 1)]
    far = st.sampled_from([-0.0, 0.0, 5e-324, 1e308, -1e308, float("inf"), -float("inf")])
    whole = st.integers(int(field.minimum), int(field.maximum)).map(float)
    return st.one_of(st.sampled_from(edges), st.floats(field.minimum, field.maximum), whole, far, missing)


def one_changed_field() -> st.SearchStrategy[Row]:
    return st.sampled_from(CONTRACT.fields).flatmap(
        lambda field: at_and_beyond(field).map(lambda value: example_row(**{field.name: value}))
    )


def any_fields() -> st.SearchStrategy[Row]:
    return st.fixed_dictionaries({f.name: st.just(f.example) | at_and_beyond(f) for f in CONTRACT.fields})


@settings(max_examples=60, deadline=None)
@given(st.lists(one_changed_field() | any_fields(), min_size=1, max_size=40))
def test_frame_check_and_request_model_agree(several: list[Row]) -> None:
    broken = failures(as_frame(several))
    for index, row in enumerate(several):
        request = request_results(row)
        if index in broken.index:
            assert broken[index] in request
        else:
            assert request == []


@settings(max_examples=60, deadline=None)
@given(rows())
def test_valid_rows_pass_both_checks(row: Row) -> None:
    assert frame_result(row) is None
    assert request_results(row) == []


@pytest.mark.parametrize("field", CONTRACT.fields, ids=CONTRACT.field_names)
def test_invalid_values_fail_both_checks_with_the_rule_of_their_field(field: Field) -> None:
    for value in invalid_values(field):
        row = example_row(**{field.name: value})
        assert frame_result(row) == f"{field.name} {field.rule}"
        assert request_results(row) == [f"{field.name} {field.rule}"]


@pytest.mark.parametrize("rule", CONTRACT.rules, ids=lambda rule: f"{rule.smaller}-{rule.larger}")
def test_a_broken_rule_fails_both_checks(rule: Any) -> None:
    larger = CONTRACT.field(rule.larger)
    assert isinstance(larger, Number)
    row = example_row(**{rule.larger: larger.minimum, rule.smaller: larger.minimum + 1})
    assert frame_result(row) == f"{rule.smaller} {rule.rule}"
    assert request_results(row) == [f"{rule.smaller} {rule.rule}"]


def any_json() -> st.SearchStrategy[Any]:
    """Any value that JSON can hold, lone surrogates and numbers of hundreds of digits among them."""
    numbers = st.integers() | st.integers(-(10**300), 10**300) | st.floats(allow_nan=False, allow_infinity=False)
    plain = st.none() | st.booleans() | numbers | st.text() | st.text(st.characters(categories=["Cs", "Cc"]))
    return st.recursive(
        plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    )


def almost_rows() -> st.SearchStrategy[Any]:
    """Valid rows with any JSON in one place, or without one field, or with one more."""
    name = st.sampled_from(CONTRACT.field_names)
    changed = st.builds(lambda row, key, value: row | {key: value}, rows(), name | st.text(), any_json())
    return changed | st.builds(lambda row, key: {k: v for k, v in row.items() if k != key}, rows(), name)


@settings(max_examples=200, deadline=None)
@given(any_json() | almost_rows())
def test_any_json_gets_the_verdict_of_the_frame_check(value: Any) -> None:
    expected = isinstance(value, dict) and frame_accepts(value)
    try:
        accepted = parse_row(json.dumps(value).encode()) is not None
    except (InvalidRowError, NotJsonError):
        accepted = False
    assert accepted == expected


def frame_accepts(row: dict[str, Any]) -> bool:
    try:
        check_columns({*row, *(field.name for field in CONTRACT.fields if not field.required)})
    except ProjectError:
        return False
    return frame_result(row) is None


@pytest.mark.parametrize("number", [number for number in CONTRACT.numbers if number.whole], ids=lambda it: it.name)
def test_almost_whole_is_not_whole(number: Number) -> None:
    for value in (number.maximum - 1e-9 * number.maximum, number.maximum - 1 + 1e-10 * number.maximum):
        row = example_row(**{number.name: value})
        assert (frame_result(row) is None) == (request_results(row) == []) == (value == round(value))


def test_a_request_may_leave_out_what_may_be_missing_and_nothing_else() -> None:
    assert request_results({field.name: field.example for field in REQUIRED}) == []
    for field in REQUIRED:
        row = {name: value for name, value in example_row().items() if name != field.name}
        assert request_results(row) == [f"{field.name} is missing; it {field.rule}"]


@pytest.mark.parametrize("column", [*CONTRACT.not_fields, CONTRACT.target.column])
def test_excluded_columns_are_rejected_however_they_are_spelt(column: str) -> None:
    for name in {column, column.lower(), column.upper()} - set(CONTRACT.field_names):
        reason = CONTRACT.rejection(name)
        assert reason
        assert request_results(example_row(**{name: 60})) == [f"{name} {reason}"]
        with pytest.raises(ProjectError, match=f"column '{name}' is "):
            check_columns([*CONTRACT.field_names, name])


def test_missing_and_unknown_columns_are_named() -> None:
    first, *others = CONTRACT.field_names
    with pytest.raises(ProjectError, match=f"column 'mood' is not in the contract; column '{first}' is missing"):
        check_columns([*others, "mood"])


def test_failures_names_each_bad_row_once() -> None:
    bad = {field.name: invalid_values(field)[3] for field in CONTRACT.choices} | {
        number.name: number.maximum + 1 for number in CONTRACT.numbers
    }
    frame = as_frame([example_row(), bad, example_row()]).set_axis([10, 20, 30])
    assert list(failures(frame).index) == [20]


def test_the_signature_is_the_contract() -> None:
    inputs = contract_signature().inputs
    assert inputs.input_names() == list(CONTRACT.field_names)
    assert inputs.required_input_names() == [field.name for field in REQUIRED]
    kinds = {"DataType.double" if isinstance(field, Number) else "DataType.string" for field in CONTRACT.fields}
    assert {str(kind) for kind in inputs.input_types()} == kinds


def test_the_json_schema_shows_an_example_that_is_valid() -> None:
    schema = PredictionRequest.model_json_schema()
    assert request_results(schema["example"]) == []
    assert schema["additionalProperties"] is False
