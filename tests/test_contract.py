"""The contract, and that the check of frames and the request model give the same verdict and words."""

from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from credit_risk.contract import (
    CALENDAR,
    FIELD_NAMES,
    FIELDS,
    IDENTITY,
    RAW_COLUMNS,
    UNKNOWN_AT_APPROVAL,
    Choice,
    Number,
    check_fields,
    refusal,
)
from credit_risk.core.errors import ProjectError
from credit_risk.data.splits import as_frame
from credit_risk.data.validation import check_columns, failures
from credit_risk.registry.signature import contract_signature
from credit_risk.serving.request_model import LoanApplication, explain

EXAMPLE: dict[str, Any] = {field.name: field.example for field in FIELDS}


def frame_verdict(row: dict[str, Any]) -> str | None:
    """What the frame check says of one application: the first broken rule, or None."""
    frame = pd.DataFrame([{name: row.get(name) for name in FIELD_NAMES}])
    for field in FIELDS:
        value = row.get(field.name)
        if isinstance(field, Number) and (value is None or type(value) in {int, float}):
            frame[field.name] = frame[field.name].astype("float64")
    try:
        broken = failures(frame)
    except ProjectError as error:
        return str(error).removeprefix("column ").replace("'", "").partition(", but holds")[0]
    return broken.iloc[0] if len(broken) else None


def request_verdicts(row: dict[str, Any]) -> list[str]:
    """What the request model says of one application: all broken rules."""
    try:
        LoanApplication.model_validate(row)
    except ValidationError as error:
        return [f"{problem['field']} {problem['rule']}" for problem in explain(error)]
    return []


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"employees": 0},
        {"employees": 9_999},
        {"employees": 12.0},
        {"gross_approved": 100, "sba_guaranteed": 100},
        {"gross_approved": 5_500_000.0},
        {"naics": 110_000},
        {"naics": 999_999},
        {"state": "PR", "urban_rural": "rural"},
        {field.name: None for field in FIELDS if not field.required},
    ],
    ids=str,
)
def test_good_applications_pass_both_checks(change: dict[str, Any]) -> None:
    assert frame_verdict(EXAMPLE | change) is None
    assert request_verdicts(EXAMPLE | change) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"employees": -1}, "employees must be a whole number from 0 to 9,999"),
        ({"employees": 10_000}, "employees must be a whole number from 0 to 9,999"),
        ({"employees": 2.5}, "employees must be a whole number from 0 to 9,999"),
        ({"employees": "5"}, "employees must be a whole number from 0 to 9,999"),
        ({"employees": True}, "employees must be a whole number from 0 to 9,999"),
        ({"employees": None}, "employees must be a whole number from 0 to 9,999"),
        ({"gross_approved": 99.99}, "gross_approved must be a number from 100 to 5,500,000"),
        ({"gross_approved": float("nan")}, "gross_approved must be a number from 100 to 5,500,000"),
        ({"gross_approved": float("inf")}, "gross_approved must be a number from 100 to 5,500,000"),
        ({"sba_guaranteed": 200_000.0}, "sba_guaranteed must not be above gross_approved"),
        ({"naics": 109_999}, "naics must be a whole number from 110,000 to 999,999 or null"),
        ({"jobs_created": -3}, "jobs_created must be a whole number from 0 to 9,999 or null"),
        ({"state": "ZZ"}, "state must be one of AL, AK, AZ, … or null"),
        ({"state": "tx"}, "state must be one of AL, AK, AZ, … or null"),
        ({"state": ""}, "state must be one of AL, AK, AZ, … or null"),
        ({"new_business": "Yes"}, "new_business must be one of no, yes or null"),
        ({"franchise": None}, "franchise must be one of no, yes"),
        ({"urban_rural": 1}, "urban_rural must be one of urban, rural or null"),
    ],
    ids=str,
)
def test_bad_applications_fail_both_checks_with_the_same_message(change: dict[str, Any], message: str) -> None:
    assert frame_verdict(EXAMPLE | change) == message
    assert request_verdicts(EXAMPLE | change) == [message]


def at_and_beyond(field: Number | Choice) -> st.SearchStrategy[Any]:
    """Values of the field's own type, or none: inside its bounds, at them, just beyond and far beyond."""
    missing = st.sampled_from([None, float("nan")] if field.required else [None])  # NaN is a frame's way to say null
    if isinstance(field, Choice):
        return st.one_of(st.sampled_from(field.choices), st.none(), st.text("ABYesnoru", max_size=3))
    edges = [edge + step for edge in (field.minimum, field.maximum) for step in (-1, -0.5, -1e-9, 0, 1e-9, 0.5, 1)]
    far = st.sampled_from([-0.0, 0.0, 5e-324, 1e308, -1e308, float("inf"), -float("inf")])
    whole = st.integers(int(field.minimum), int(field.maximum)).map(float)
    return st.one_of(st.sampled_from(edges), st.floats(field.minimum, field.maximum), whole, far, missing)


def one_changed_field() -> st.SearchStrategy[dict[str, Any]]:
    return st.sampled_from(FIELDS).flatmap(lambda field: at_and_beyond(field).map(lambda v: EXAMPLE | {field.name: v}))


def any_fields() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({field.name: st.just(field.example) | at_and_beyond(field) for field in FIELDS})


@settings(max_examples=60, deadline=None)
@given(st.lists(one_changed_field() | any_fields(), min_size=1, max_size=40))
def test_frame_check_and_request_model_agree(rows: list[dict[str, Any]]) -> None:
    broken = failures(as_frame(rows))
    for index, row in enumerate(rows):
        request = request_verdicts(row)
        if index in broken.index:
            assert broken[index] in request
        else:
            assert request == []


@pytest.mark.parametrize("field", FIELDS, ids=FIELD_NAMES)
@pytest.mark.parametrize("value", ["5", True, 7, [], {}, "yes "], ids=repr)
def test_values_of_another_type_get_the_same_verdict(field: Number | Choice, value: Any) -> None:
    row = EXAMPLE | {field.name: value}
    frame, request = frame_verdict(row), request_verdicts(row)
    assert request == ([] if frame is None else [frame])


def test_request_may_leave_out_what_may_be_missing_and_nothing_else() -> None:
    assert request_verdicts({f.name: f.example for f in FIELDS if f.required}) == []
    del (row := dict(EXAMPLE))["franchise"]
    assert request_verdicts(row) == ["franchise is missing; it must be one of no, yes"]


@pytest.mark.parametrize("raw", UNKNOWN_AT_APPROVAL)
def test_columns_unknown_at_approval_are_refused_by_name(raw: str) -> None:
    for name in (raw, raw.lower(), raw.upper()):
        expected = f"is unknown at approval: {UNKNOWN_AT_APPROVAL[raw]}"
        assert refusal(name) == expected
        assert request_verdicts(EXAMPLE | {name: 60}) == [f"{name} {expected}"]
        with pytest.raises(ProjectError, match=f"column '{name}' is unknown at approval"):
            check_columns([*FIELD_NAMES, name])
        field = Number("months", "months", 0, 600, True, True, name, "", 60)
        with pytest.raises(ProjectError, match=f"reads column '{name}', which is unknown at approval"):
            check_fields([*FIELDS, field])


@pytest.mark.parametrize("raw", [*IDENTITY, *CALENDAR])
def test_identities_and_the_calendar_are_no_fields(raw: str) -> None:
    with pytest.raises(ProjectError, match="an identity or the calendar"):
        check_fields([*FIELDS, Choice("bad", ("a",), True, raw, "", "a")])


def test_a_field_may_not_stand_twice() -> None:
    with pytest.raises(ProjectError, match="field 'naics' is declared twice"):
        check_fields([*FIELDS, FIELDS[2]])


def test_missing_and_unknown_columns_are_named() -> None:
    columns = [name for name in FIELD_NAMES if name != "state"]
    with pytest.raises(ProjectError, match=r"column 'mood' is not in the contract; column 'state' is missing"):
        check_columns([*columns, "mood"])


def test_every_raw_column_has_one_role() -> None:
    roles = [*(field.raw for field in FIELDS), *UNKNOWN_AT_APPROVAL, *IDENTITY, *CALENDAR]
    assert len(roles) == len(set(roles)) == len(RAW_COLUMNS) == 27


def test_failures_names_each_bad_row_once() -> None:
    frame = pd.DataFrame([EXAMPLE, EXAMPLE | {"employees": -1.0, "state": "ZZ"}, EXAMPLE], index=[10, 20, 30])
    broken = failures(frame)
    assert list(broken.index) == [20]


def test_signature_is_the_contract() -> None:
    inputs = contract_signature().inputs
    assert inputs.input_names() == list(FIELD_NAMES)
    assert inputs.required_input_names() == [field.name for field in FIELDS if field.required]
    assert {str(kind) for kind in inputs.input_types()} == {"DataType.double", "DataType.string"}


def test_json_schema_shows_an_example_that_is_valid() -> None:
    schema = LoanApplication.model_json_schema()
    assert request_verdicts(schema["example"]) == []
    assert schema["additionalProperties"] is False


def test_labels_are_names_as_people_write_them() -> None:
    labels = {field.name: field.label for field in FIELDS}
    assert (labels["gross_approved"], labels["sba_guaranteed"], labels["naics"]) == (
        "Gross approved",
        "SBA guaranteed",
        "NAICS",
    )
