"""The classes of the contract: what is derived from a declaration, and which declarations are rejected."""

from dataclasses import replace
from typing import Any

import pytest
from toy import PROBLEM, TOY, changed

from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import Choice, NotAbove, Number, RowId, Target, name_problem, plain_code

WEIGHT = TOY.fields[0]
SIZE = TOY.choices[0]


@pytest.mark.parametrize(
    ("code", "plain"),
    [("1", "1"), ("01", "1"), ("1.0", "1"), ("007.", "7"), ("000", "0"), ("-01.00", "-1"), ("10", "10")]
    + [(code, code) for code in ("", "1.5", "A01", "1e3", "٣", "0x1", "1 ")],
)
def test_a_code_loses_what_spreadsheets_add_to_numbers(code: str, plain: str) -> None:
    assert plain_code(code) == plain


def test_names_are_derived_from_the_problem() -> None:
    assert (PROBLEM.package, PROBLEM.model_name, PROBLEM.experiment) == (
        "late_parcels",
        "LateParcelsModel",
        "late-parcels",
    )


def test_keys_and_splits_follow_the_date() -> None:
    assert TOY.keys == ("row_id", "date", "outcome")
    assert TOY.splits == ("train", "test", "out_of_time")
    without = changed(date=None)
    assert without.keys == ("row_id", "outcome")
    assert without.splits == ("train", "test")
    assert without.holdouts == ("test",)


def test_every_raw_column_is_known_by_its_role() -> None:
    assert TOY.raw_columns == {"Late", "Parcel", "Sent", "Weight", "Limit", "Stops", "Size", "Via", "Arrived"}
    assert changed(row_id=None, date=None).raw_columns == TOY.raw_columns - {"Parcel", "Sent"}


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("weight", None),
        ("Arrived", "is excluded: it is known only afterwards"),
        ("ARRIVED", "is excluded: it is known only afterwards"),
        ("ar_rived", "is excluded: it is known only afterwards"),
        ("late", "is the outcome itself"),
        ("parcel", "is excluded: it identifies the row"),
        ("sent", "is excluded: it orders the rows for the split"),
        ("colour", "is not in the contract"),
    ],
)
def test_rejection_of_columns(column: str, reason: str | None) -> None:
    assert TOY.rejection(column) == reason


@pytest.mark.parametrize(
    ("number", "rule"),
    [
        ({"minimum": 0.05, "maximum": 0.95, "example": 0.5}, "must be a number from 0.05 to 0.95"),
        ({"minimum": 0, "maximum": 5_500_000}, "must be a number from 0 to 5,500,000"),
        ({"whole": True, "example": 3.0, "required": False}, "must be a whole number from 0 to 50 or null"),
    ],
)
def test_the_rule_of_a_number_shows_its_bounds(number: dict[str, Any], rule: str) -> None:
    assert replace(WEIGHT, **number).rule == rule


def test_the_rule_of_a_choice_shows_a_few_words() -> None:
    assert TOY.field("size").rule == "must be one of S, M, L"
    many = Choice(name="x", column="X", choices=tuple("abcdef"), description="", example="a", required=False)
    assert many.rule == "must be one of a, b, c, … or null"


def number(**attributes: Any) -> tuple[Any, ...]:
    return (replace(WEIGHT, **attributes), *TOY.fields[1:])


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"fields": ()}, "there are no fields"),
        ({"fields": (*TOY.fields, TOY.fields[0])}, "field 'weight' is declared twice"),
        ({"fields": number(minimum=60)}, "field 'weight' has a minimum above its maximum"),
        (
            {"fields": number(maximum=float("inf"))},
            "field 'weight' has a minimum above its maximum, or one that is not",
        ),
        (
            {"fields": number(example=51.0)},
            "the example of field 'weight' is 51.0, but it must be a number from 0 to 50",
        ),
        ({"fields": number(example=None)}, "the example of field 'weight' is None"),
        ({"fields": number(whole=True)}, "the example of field 'weight' is 2.5"),
        ({"fields": number(name="Weight")}, "field 'Weight' must be a lower-case name"),
        ({"fields": number(name="outcome")}, "field 'outcome' must be a lower-case name and none of"),
        ({"fields": number(name="probability")}, "field 'probability' must be a lower-case name and none of"),
        ({"fields": number(column="Arrived")}, "reads column 'Arrived', which is excluded"),
        ({"fields": number(column="Late")}, "reads column 'Late', which is the outcome itself"),
        ({"fields": number(column="Parcel")}, "reads column 'Parcel', which is excluded: it identifies"),
        (
            {"fields": (Choice(name="x", column="X", choices=("a", "a"), description="", example="a"),)},
            "field 'x' needs choices, each once",
        ),
        ({"target": Target(column="Late", positive=(), negative=("N",))}, "the target needs at least one positive"),
        ({"target": Target(column="Late", positive=("Y",), negative=("Y",))}, "'Y' has more than one outcome"),
        ({"rules": (NotAbove("weight", "stops"),)}, "needs required numbers, and 'stops' is none"),
        ({"rules": (NotAbove("weight", "size"),)}, "needs required numbers, and 'size' is none"),
        ({"rules": (NotAbove("limit", "weight"),)}, "the examples break the rule 'limit must not be above weight'"),
        ({"problem": replace(PROBLEM, name="Late Parcels")}, "must be lower-case words"),
        ({"problem": replace(PROBLEM, rows="")}, "problem rows: a text is empty"),
        ({"problem": replace(PROBLEM, limits=("Not for pricing.", " "))}, "problem limits: a text is empty"),
        ({"fields": number(description=" ")}, "field 'weight': a text is empty"),
        ({"fields": number(column="")}, "columns: a text is empty"),
        ({"fields": (*TOY.fields[:3], replace(SIZE, choices=("M", "")))}, "field 'size': a text is empty"),
        ({"not_fields": {"Arrived": ""}}, "not_fields: a text is empty"),
        ({"date": ""}, "columns: a text is empty"),
        ({"row_id": RowId("Parcel", "[0-9]*")}, "the pattern '[0-9]*' of the row id accepts rows without an id"),
        ({"row_id": RowId("Parcel", "[0-9")}, "the pattern of the row id is not a regular expression"),
        ({"target": Target(column="Late", positive=("Y ",), negative=("N",))}, "'Y ' begins or ends with a blank"),
        (
            {"fields": (*TOY.fields[:3], replace(SIZE, choices=("M", " L")))},
            "' L' begins or ends with a blank",
        ),
        ({"target": Target(column="Late", positive=("",), negative=("N",), unlabelled=())}, "an empty target value"),
        ({"target": Target(column="Late", positive=("1",), negative=("01",))}, "'1' has more than one outcome"),
    ],
    ids=str,
)
def test_a_wrong_declaration_is_rejected_in_words(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProjectError, match=r"^contract\.py: ") as caught:
        changed(**attributes)
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["churn", "late-parcels", "a1-b2-c3"])
def test_good_names(name: str) -> None:
    assert name_problem(name) is None


@pytest.mark.parametrize(
    "name",
    ["", "Churn", "1churn", "late_parcels", "late--parcels", "-x", "x-", "ü", "aws-x", "class", "json", "x" * 33],
)
def test_names_that_python_aws_or_docker_do_not_take(name: str) -> None:
    assert name_problem(name)


def test_a_contract_without_id_and_rules_is_complete() -> None:
    plain = changed(row_id=None, date=None, rules=())
    assert plain.example == {field.name: field.example for field in TOY.fields}
    assert plain.identity["fields"] == sorted(TOY.field_names)


def test_a_required_number_accepts_its_range_only() -> None:
    weight = Number(name="w", column="W", unit="kg", minimum=1, maximum=2, description="", example=1.5)
    assert [weight.accepts(value) for value in (1, 2, 1.5, 0.99, 2.01, None, "1", True, float("nan"))] == [
        *(True, True, True),
        *(False, False, False, False, False, False),
    ]


def test_a_row_id_may_have_any_pattern() -> None:
    assert changed(row_id=RowId("Parcel")).row_id == RowId("Parcel", ".+")
