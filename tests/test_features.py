"""The features: right by hand, the same for one application and for many, whatever the order."""

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credit_risk.contract import FIELDS, SECTORS, STATES, Choice
from credit_risk.data.splits import as_frame
from credit_risk.features import (
    FEATURE_NAMES,
    FEATURES,
    MISSING,
    UNSEEN,
    from_application,
    from_applications,
    from_columns,
)
from credit_risk.serving.request_model import parse_many

EXAMPLE: dict[str, Any] = {field.name: field.example for field in FIELDS}


def named(features: np.ndarray[Any, Any]) -> dict[str, float]:
    return dict(zip(FEATURE_NAMES, features[0].tolist(), strict=True))


def applications() -> st.SearchStrategy[dict[str, Any]]:
    """Valid applications, of which one in a few has something missing."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in FIELDS:
        if isinstance(field, Choice):
            values: st.SearchStrategy[Any] = st.sampled_from(field.choices)
        elif field.whole:
            values = st.integers(int(field.minimum), int(field.maximum)).map(float)
        else:
            values = st.floats(field.minimum, field.maximum)
        fields[field.name] = values if field.required else st.none() | values
    return st.fixed_dictionaries(fields)


def test_by_hand() -> None:
    row = EXAMPLE | {
        "gross_approved": 100_000.0,
        "sba_guaranteed": 75_000.0,
        "employees": 3.0,
        "jobs_created": 2.0,
        "jobs_retained": 4.0,
        "naics": 722_211.0,
        "state": "AK",
        "bank_state": "AK",
        "new_business": "yes",
    }
    features = named(from_application(row))
    assert features["guaranteed_share"] == 0.75
    assert features["unguaranteed"] == 25_000
    assert features["loan_per_employee"] == 25_000  # three employees and the owner
    assert features["created_ratio"] == 0.5
    assert features["retained_ratio"] == 1.0
    assert features["loan_per_job"] == pytest.approx(100_000 / 6)
    assert features["sector"] == SECTORS.index(72)
    assert features["industry"] == 722
    assert features["state"] == STATES.index("AK") == 1
    assert features["same_state_bank"] == 1
    assert features["new_business"] == 1
    assert features["naics_known"] == 1
    assert features["round_amount"] == 1
    assert named(from_application(row | {"bank_state": "TX"}))["same_state_bank"] == 0


def test_missing_values() -> None:
    features = named(from_application({field.name: field.example for field in FIELDS if field.required}))
    assert features["sector"] == features["state"] == features["bank_state"] == features["low_doc"] == MISSING
    assert math.isnan(features["industry"])
    assert math.isnan(features["jobs_created"])
    assert features["naics_known"] == features["jobs_known"] == features["same_state_bank"] == 0


def test_unseen_words_and_sectors_have_a_code_of_their_own() -> None:
    features = named(from_application(EXAMPLE | {"state": "ZZ", "naics": 999_999.0}))
    assert features["state"] == features["sector"] == UNSEEN


@settings(max_examples=300, deadline=None)
@given(st.lists(applications(), min_size=1, max_size=5), st.randoms())
def test_one_and_many_give_the_same_bits_in_any_order(rows: list[dict[str, Any]], random: Any) -> None:
    many = from_columns(as_frame(rows))
    single = np.concatenate([from_application(row) for row in rows])
    assert many.dtype == single.dtype == np.float32
    assert many.shape == (len(rows), len(FEATURES))
    assert many.tobytes() == single.tobytes() or np.array_equal(many, single, equal_nan=True)
    order = list(range(len(rows)))
    random.shuffle(order)
    assert np.array_equal(from_columns(as_frame([rows[i] for i in order])), many[order], equal_nan=True)


@settings(max_examples=100, deadline=None)
@given(st.lists(applications(), min_size=1, max_size=5), st.randoms())
def test_applications_of_requests_give_the_same_bits(rows: list[dict[str, Any]], random: Any) -> None:
    """Whatever the order of their fields, and whether a missing one is null or absent."""
    sent = []
    for row in rows:
        row["sba_guaranteed"] = min(row["sba_guaranteed"], row["gross_approved"])
        items = [(name, value) for name, value in row.items() if value is not None or random.random() > 0.5]
        random.shuffle(items)
        sent.append(dict(items))
    parsed = parse_many(json.dumps(sent).encode(), len(sent))
    assert from_applications(parsed).tobytes() == np.concatenate([from_application(row) for row in rows]).tobytes()


def test_a_plain_dictionary_of_lists_will_do() -> None:
    columns = {name: [value, value] for name, value in EXAMPLE.items()}
    assert np.array_equal(from_columns(columns), np.repeat(from_application(EXAMPLE), 2, axis=0))


@pytest.mark.parametrize("name", ["gross_approved", "employees", "state"])
def test_columns_of_unequal_length_are_refused(name: str) -> None:
    columns = {other: [value, value] for other, value in EXAMPLE.items()}
    with pytest.raises(ValueError, match=r"shape|dimension|length"):
        from_columns(columns | {name: [EXAMPLE[name]] * 3})


def test_optional_columns_may_be_absent_and_required_ones_may_not() -> None:
    frame = pd.DataFrame([EXAMPLE])
    without = from_columns(frame.drop(columns=["state", "naics"]))
    assert np.array_equal(without, from_columns(frame.assign(state=None, naics=np.nan)), equal_nan=True)
    with pytest.raises(KeyError, match="franchise"):
        from_columns(frame.drop(columns=["franchise"]))


def test_no_calendar_and_nothing_unknown_at_approval() -> None:
    words = {"year", "date", "month", "term", "disbursement", "balance", "chgoff"}
    assert not [name for name in FEATURE_NAMES if words & set(name.split("_"))]


def test_every_feature_says_its_unit_and_reason() -> None:
    assert len(set(FEATURE_NAMES)) == len(FEATURES)
    assert all(feature.unit and feature.reason for feature in FEATURES)
