"""The engine of the features: formulas by hand, the same bits for one row and for many, and what is rejected."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from toy import FEATURES, ROW, TOY, changed

from credit_risk.core.errors import ProjectError
from credit_risk.core.feature_set import (
    CODE,
    FLAG,
    MISSING,
    UNSEEN,
    Feature,
    FeatureSet,
    Slice,
    WhatIf,
    default_features,
)


def named(row: dict[str, Any], features: FeatureSet = FEATURES) -> dict[str, float]:
    return dict(zip(features.names, features.from_row(row)[0].tolist(), strict=True))


def test_by_hand() -> None:
    assert named(ROW) == {
        "weight": 6.0,
        "load": pytest.approx(0.2),
        "many_stops": 1.0,
        "stops_known": 1.0,
        "class": 1.0,  # 7 // 2 is 3, the second of the categories
        "size": 2.0,
    }


def test_missing_and_unseen() -> None:
    found = named({"weight": 6.0, "limit": 30.0, "size": "XL"})
    assert found["size"] == UNSEEN
    assert found["class"] == MISSING
    assert found["many_stops"] == found["stops_known"] == 0
    assert named(ROW | {"stops": 5.0})["class"] == UNSEEN
    assert named(ROW | {"size": None})["size"] == MISSING


def test_division_by_zero_is_missing_for_one_row_and_for_many() -> None:
    for weight in (0.0, 6.0):
        row = ROW | {"weight": weight, "limit": 0.0}
        assert math.isnan(named(row)["load"])
        many = FEATURES.from_columns({name: [row[name]] * 2 for name in TOY.field_names})
        assert np.array_equal(many[:1], FEATURES.from_row(row), equal_nan=True)


def test_a_quotient_beyond_float32_is_missing_for_one_row_and_for_many() -> None:
    row = ROW | {"limit": 1e-300}
    assert math.isnan(named(row)["load"])
    assert math.isnan(FEATURES.row_values(row)[1])
    many = FEATURES.from_columns({name: [row[name]] * 2 for name in TOY.field_names})
    assert np.array_equal(many[:1], FEATURES.from_row(row), equal_nan=True)


def test_truth_values_are_numbers_in_arithmetic() -> None:
    features = FeatureSet(TOY, [Feature("x", "count", "", "(weight > 1) + (limit > 1) - (size == 0)")])
    assert named(ROW, features)["x"] == 2
    assert features.from_columns({name: [value] for name, value in ROW.items()})[0, 0] == 2


def test_a_field_may_have_any_name() -> None:
    """Also that of what the compiled formulas call."""
    names = ("values", "code", "finite", "known")
    fields = tuple(replace(TOY.fields[2], name=name, column=name.upper()) for name in names)
    contract = replace(TOY, fields=fields, rules=())
    codes = Feature("rounded", "code", "", "code // 2", categories=(0.0, 1.0, 2.0))
    features = FeatureSet(contract, [*default_features(contract), codes, Feature("share", "", "", "values / finite")])
    row = dict(zip(names, (1.0, 2.0, 4.0, 3.0), strict=True))
    assert features.from_row(row)[0].tolist() == [1, 2, 4, 3, 1, 0.25]


def test_words_flags_categories_and_directions() -> None:
    assert FEATURES.categorical == ("class", "size")
    assert FEATURES.flags == ("many_stops", "stops_known")
    assert FEATURES.directions == {"weight": 1}
    assert FEATURES.words("size", np.array([0.0, 2.0, MISSING, UNSEEN])).tolist() == ["S", "L", "unknown", "unseen"]
    assert FEATURES.words("class", np.array([0.0, 1.0])).tolist() == ["1", "3"]
    assert FEATURES.words("many_stops", np.array([0.0, 1.0])).tolist() == ["no", "yes"]


def test_batch_order_sorts_by_the_first_name_first() -> None:
    columns = np.array([[1.0, 0, 0, 0, 0, 2], [5.0, 0, 0, 0, 0, 1], [3.0, 0, 0, 0, 0, 1]])
    order = np.lexsort(columns[:, FEATURES.batch_order].T)
    assert order.tolist() == [2, 1, 0]


def test_groups_of_slices() -> None:
    rows = [ROW | {"weight": weight, "size": size} for weight, size in ((1.0, "S"), (1.5, "M"), (10.5, None))]
    features = np.concatenate([FEATURES.from_row(row) for row in rows])
    by_size, by_weight = (FEATURES.groups(features, each).tolist() for each in FEATURES.slices)
    assert by_size == ["S", "M", "unknown"]
    assert by_weight == ["light", "middle", "heavy"]


def test_a_slice_without_labels_names_its_edges() -> None:
    features = FeatureSet(TOY, [Feature("stops", "stops", "")], slices=[Slice("stops", "stops", edges=(2,))])
    columns = np.array([[1.0], [3.0], [np.nan]], np.float32)
    assert features.groups(columns, features.slices[0]).tolist() == ["up to 2", "more", "unknown"]


def test_what_ifs_stay_within_ranges_and_rules() -> None:
    columns = {name: [value] for name, value in (ROW | {"stops": 8.0}).items()}
    heavier = WhatIf("", {"weight": "weight * 100"})
    assert FEATURES.changed(columns, heavier)["weight"].tolist() == [30.0]  # at most 50, and at most the limit
    assert FEATURES.changed(columns, WhatIf("", {"limit": "0 * limit"}))["limit"].tolist() == [6.0]
    assert FEATURES.changed(columns, WhatIf("", {"stops": "stops / 3"}))["stops"].tolist() == [3.0]  # whole
    assert FEATURES.changed(columns, FEATURES.what_ifs[1])["size"].tolist() == ["S"]


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("wieght", "uses 'wieght', which is not a field"),
        ("weight +", "is not an expression"),
        ("log(weight)", "the only function of formulas is known(field)"),
        ("known(weight, limit)", "the only function of formulas is known(field)"),
        ("weight if limit else 0", "may only have numbers, fields"),
        ("weight ** 2", "may only have numbers, fields"),
        ("weight and limit", "may only have numbers, fields"),
        ("weight == 'x'", "may only have numbers, fields"),
        ("0 < weight < 1", "write a < b < c as"),
        ("().__class__", "may only have numbers, fields"),
    ],
)
def test_a_wrong_formula_is_rejected_in_words(formula: str, message: str) -> None:
    with pytest.raises(ProjectError, match=r"features\.py: feature 'x'") as caught:
        FeatureSet(TOY, [Feature("x", "", "", formula)])
    assert message in str(caught.value)


def test_protected_fields_never_become_features() -> None:
    contract = changed(fields=(replace(TOY.fields[0], protected=True), *TOY.fields[1:]))
    assert "weight" not in [feature.name for feature in default_features(contract)]
    with pytest.raises(ProjectError, match="uses 'weight', which is not a field that it may use"):
        FeatureSet(contract, [Feature("load", "", "", "weight / limit")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"features": [Feature("size", CODE, ""), Feature("size", CODE, "")]}, "feature 'size' is declared twice"),
        ({"features": [Feature("outcome", CODE, "", "size")]}, "feature 'outcome' has the name of another column"),
        ({"batch_order": ["load"]}, "names 'load', which is not a feature"),
        ({"slices": [Slice("load", "load")]}, "names 'load', which is not a feature"),
        ({"slices": [Slice("size", "size", edges=(1,))]}, "a number needs edges and one label more"),
        ({"slices": [Slice("weight", "weight")]}, "a number needs edges and one label more"),
        ({"slices": [Slice("weight", "weight", (1,), ("a",))]}, "a number needs edges and one label more"),
        ({"what_ifs": [WhatIf("bigger", {"colour": "1"})]}, "what-if 'bigger' changes 'colour', which is not a field"),
        ({"what_ifs": [WhatIf("bigger", {"size": "XL"})]}, "what-if 'bigger': 'size' must be one of S, M, L"),
        ({"what_ifs": [WhatIf("bigger", {"weight": "wieght"})]}, "what-if 'bigger' uses 'wieght'"),
    ],
    ids=str,
)
def test_a_wrong_declaration_is_rejected_in_words(arguments: dict[str, Any], message: str) -> None:
    default = {"features": [Feature("weight", "kg", ""), Feature("size", CODE, "")]}
    with pytest.raises(ProjectError, match=r"^features\.py: ") as caught:
        FeatureSet(TOY, **(default | arguments))
    assert message in str(caught.value)


def test_columns_of_unequal_length_are_rejected() -> None:
    columns = {name: [value, value] for name, value in ROW.items()}
    for wrong in (1, 3):
        with pytest.raises(ValueError, match="column 'limit' has another length"):
            FEATURES.from_columns(columns | {"limit": [30.0] * wrong})


def test_optional_columns_may_be_absent_and_required_ones_may_not() -> None:
    columns = {name: [value] for name, value in ROW.items()}
    del columns["stops"], columns["via"]
    assert named(ROW | {"stops": None}) == pytest.approx(
        dict(zip(FEATURES.names, FEATURES.from_columns(columns)[0].tolist(), strict=True)), nan_ok=True
    )
    del columns["size"]
    with pytest.raises(KeyError, match="size"):
        FEATURES.from_columns(columns)


def test_a_flag_is_a_number_of_the_declared_unit() -> None:
    features = FeatureSet(TOY, [Feature("heavy", FLAG, "", "weight > 5")])
    assert features.flags == ("heavy",)
    assert features.categorical == ()
