"""The features of the SBA loans, computed by hand."""

import math
from typing import Any

import numpy as np
import pytest
from rows import example_row

from credit_risk.contract import CONTRACT, STATES
from credit_risk.core.feature_set import MISSING, UNSEEN
from credit_risk.features import FEATURES, SECTORS


def named(features: np.ndarray[Any, Any]) -> dict[str, float]:
    return dict(zip(FEATURES.names, features[0].tolist(), strict=True))


def test_by_hand() -> None:
    row = example_row() | {
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
    features = named(FEATURES.from_row(row))
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
    assert named(FEATURES.from_row(row | {"bank_state": "TX"}))["same_state_bank"] == 0


def test_missing_values() -> None:
    features = named(FEATURES.from_row({field.name: field.example for field in CONTRACT.fields if field.required}))
    assert features["sector"] == features["state"] == features["bank_state"] == features["low_doc"] == MISSING
    assert math.isnan(features["industry"])
    assert math.isnan(features["jobs_created"])
    assert features["naics_known"] == features["jobs_known"] == features["same_state_bank"] == 0


def test_unseen_words_and_sectors_have_a_code_of_their_own() -> None:
    features = named(FEATURES.from_row(example_row() | {"state": "ZZ", "naics": 999_999.0}))
    assert features["state"] == features["sector"] == UNSEEN
