"""Reasons as sentences: direction, value and typical value, in the words of the contract."""

from dataclasses import replace
from typing import Any

import pytest
from rows import valid_rows
from toy import FEATURES, ROW, TOY, changed

from credit_risk.contract import CONTRACT
from credit_risk.core.feature_set import CODE
from credit_risk.serving.explanations import field_groups
from credit_risk.serving.reasons import Reasons, shown_value

# Load (weight / limit): 0.1, 0.2, 0.25. Weights and limits are in another order.
ROWS: list[dict[str, Any]] = [
    {"weight": 6.0, "limit": 60.0, "stops": 2.0, "size": "S", "via": "sea"},
    {"weight": 2.0, "limit": 10.0, "stops": 4.0, "size": "S", "via": "sea"},
    {"weight": 5.0, "limit": 20.0, "stops": None, "size": "M", "via": None},
]
REASONS = Reasons(ROWS, TOY, FEATURES)
TIED = ("weight", "limit")


@pytest.mark.parametrize(
    ("fields", "row", "sentence"),
    [
        (("stops",), {}, "Stops is high: 7 stops; shipped parcels typically have 3 stops"),
        (("stops",), {"stops": 1.0}, "Stops is low: 1 stops; shipped parcels typically have 3 stops"),
        (("stops",), {"stops": 3.0}, "Stops is 3 stops"),
        (("stops",), {"stops": None}, "Stops is not known"),
        (("size",), {}, "Size is L; shipped parcels most often have S"),
        (("size",), {"size": "S"}, "Size is S"),
        (("via",), {}, "Via is not known; shipped parcels most often have sea"),
        # Of connected fields, the quantity that is least usual.
        (TIED, {"weight": 5.5, "limit": 12.0}, "Load is high: 46%; shipped parcels typically have 20%"),
        (TIED, {"weight": 10.0, "limit": 50.0}, "Weight is high: 10 kg; shipped parcels typically have 5 kg"),
    ],
)
def test_sentence(fields: tuple[str, ...], row: dict[str, Any], sentence: str) -> None:
    assert REASONS.sentence(fields, ROW | row) == sentence


def test_a_field_that_must_not_be_a_reason_takes_those_that_are_tied_to_it_along() -> None:
    fields = tuple(replace(field, reason=field.name != "limit") for field in TOY.fields)
    reasons = Reasons(ROWS, changed(fields=fields), FEATURES)
    assert not reasons.may_name(TIED)
    assert reasons.may_name(("stops",))
    assert REASONS.may_name(TIED)


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.5, "share 0 to 1", "50%"),
        (137_300.4, "USD", "137,300 USD"),
        (0.123456, "USD", "0.123 USD"),
        (7.0, "", "7"),
        (722_211.0, CODE, "722211"),
    ],
)
def test_numbers_are_shown_as_people_write_them(value: float, unit: str, shown: str) -> None:
    assert shown_value(value, unit) == shown


def test_every_group_of_any_contract_has_a_sentence() -> None:
    reasons = Reasons(valid_rows(20, seed=1))
    missing = {field.name: None for field in CONTRACT.fields if not field.required}
    for row in (*valid_rows(5, seed=2), CONTRACT.example, CONTRACT.example | missing):
        for group in field_groups():
            assert " is " in reasons.sentence(group, row)
