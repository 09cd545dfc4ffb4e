"""The project's features: the same bits for one row and for many, in any order, by any of their ways in."""

import json
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import Row, columns, example_row, rows

from credit_risk.contract import CONTRACT
from credit_risk.core.feature_set import default_features
from credit_risk.features import FEATURES
from credit_risk.serving.request_model import parse_batch


@settings(max_examples=200, deadline=None)
@given(st.lists(rows(), min_size=1, max_size=5), st.randoms())
def test_one_row_and_many_give_the_same_bits_in_any_order(several: list[Row], random: Any) -> None:
    many = FEATURES.from_columns(columns(several))
    single = np.concatenate([FEATURES.from_row(row) for row in several])
    assert many.dtype == single.dtype == np.float32
    assert many.shape == (len(several), len(FEATURES))
    assert np.array_equal(many, single, equal_nan=True)
    order = list(range(len(several)))
    random.shuffle(order)
    assert np.array_equal(FEATURES.from_columns(columns([several[i] for i in order])), many[order], equal_nan=True)


@settings(max_examples=100, deadline=None)
@given(st.lists(rows(), min_size=1, max_size=5), st.randoms())
def test_rows_of_requests_give_the_same_bits(several: list[Row], random: Any) -> None:
    """Whatever the order of their fields, and whether a missing one is null or absent."""
    sent = []
    for row in several:
        items = [(name, value) for name, value in row.items() if value is not None or random.random() > 0.5]
        random.shuffle(items)
        sent.append(dict(items))
    parsed = parse_batch(json.dumps(sent).encode(), len(sent))
    expected = np.concatenate([FEATURES.from_row(row) for row in several])
    assert np.array_equal(FEATURES.from_rows(list(parsed)), expected, equal_nan=True)


def test_a_dictionary_of_lists_is_enough() -> None:
    expected = np.repeat(FEATURES.from_row(example_row()), 2, axis=0)
    assert np.array_equal(FEATURES.from_columns(columns([example_row()] * 2)), expected, equal_nan=True)


def test_every_feature_says_its_unit_and_reason() -> None:
    assert all(feature.unit and feature.reason for feature in FEATURES)


def test_default_features_are_the_fields_as_they_are() -> None:
    protected = {field.name for field in CONTRACT.fields if field.protected}
    assert {feature.name for feature in default_features(CONTRACT)} == set(CONTRACT.field_names) - protected


def test_what_ifs_give_valid_rows() -> None:
    for what_if in FEATURES.what_ifs:
        changed = FEATURES.changed(columns([example_row()]), what_if)
        for name in what_if.fields:
            assert CONTRACT.field(name).accepts(changed[name].tolist()[0])
