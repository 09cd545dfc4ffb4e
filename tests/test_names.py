"""Names with an open vocabulary: their spelling, their codes, and how the pipeline encodes them."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from toy import TOY

from credit_risk.core import params
from credit_risk.core.errors import ProjectError
from credit_risk.core.feature_set import CODE, MISSING, UNSEEN, Feature, FeatureSet, Slice, default_features
from credit_risk.core.names import CODES, COMMON, NO_NAME, common_codes, name_code, normalized
from credit_risk.core.schema import Name
from credit_risk.formats.onnx_export import export_onnx
from credit_risk.formats.onnx_scorer import OnnxMetadata, OnnxScorer
from credit_risk.model import TrainParams, build_pipeline, positive_probability, with_float32_encodings

SHOP = Name(name="shop", column="Shop", max_length=12, description="Shop", example="Corner", required=False)
CONTRACT = replace(TOY, fields=(*TOY.fields, SHOP))
FEATURES = FeatureSet(CONTRACT, default_features(CONTRACT))
ROW = CONTRACT.example
COLUMNS = ["x", "shop"]
MODELS = ("hist_gradient_boosting", "random_forest", "logistic_regression")


@given(st.text())
def test_codes_are_whole_numbers_that_float32_holds(name: str) -> None:
    assert normalized(normalized(name)) == normalized(name)
    assert normalized(f" {name}.") == normalized(name)
    code = name_code(name)
    assert code == NO_NAME or 0 <= code < CODES
    assert float(np.float32(code)) == code == int(code)


def test_spellings_of_one_name_have_one_code() -> None:
    spellings = (
        "Bank of America, N.A.",
        "BANK OF  AMERICA (NA)",
        "ban\uff4b of america_n-a",
        "bank\u00a0of america n a",
    )
    assert {normalized(name) for name in spellings} == {"bankofamericana"}
    assert {name_code(name) for name in spellings} == {3_033_180.0}  # of every process, machine and release
    assert name_code("Bank of Americas NA") != name_code(spellings[0])
    assert name_code("Straße") == name_code("STRASSE")


def test_names_of_other_scripts_keep_their_vowels() -> None:
    """Signs of vowels are no letters of their own; without them, two names would be one."""
    assert normalized("\u0915\u093f\u0930\u0923") != normalized("\u0915\u0930\u0923")  # Kiran, Karan
    assert normalized("\u0e01\u0e34") != normalized("\u0e01\u0e38")  # Thai
    assert normalized("Cafe\u0301") == normalized("CAF\u00c9")
    assert normalized("Bank \u2615\ufe0f") == "bank"
    assert name_code("\u0915\u093f") >= 0


@pytest.mark.parametrize(
    "text", ["", "?", " - ", "tab\tname", "\x00", "\ud800", "a\ud800", "a\u2028b", "a\u202eb", "\u0301"]
)
def test_what_is_no_name(text: str) -> None:
    assert name_code(text) == NO_NAME
    assert not SHOP.accepts(text)


def test_what_a_field_accepts() -> None:
    assert SHOP.accepts("Corner shop!")  # 12 characters
    assert not SHOP.accepts("Corner shops!")
    assert SHOP.accepts(None)
    assert not replace(SHOP, required=True).accepts(None)
    assert not SHOP.accepts(7)
    with pytest.raises(ProjectError, match="the example of field 'shop' is '\\?', but it must be a line of 1 to 12"):
        replace(CONTRACT, fields=(*TOY.fields, replace(SHOP, example="?")))
    with pytest.raises(ProjectError, match="field 'shop' needs a max_length from 1 to 200"):
        replace(CONTRACT, fields=(*TOY.fields, replace(SHOP, max_length=5_000)))


def test_features_of_columns_rows_and_codes_are_the_same() -> None:
    assert FEATURES.open_names == ("shop",)
    assert "shop" not in FEATURES.categorical
    rows = [ROW, ROW | {"shop": "CORNER."}, ROW | {"shop": None}, ROW | {"shop": 7}]
    shops = [FEATURES.row_values(row)[-1] for row in rows]
    assert shops == [name_code("corner"), name_code("corner"), MISSING, UNSEEN]
    columns = {name: [row[name] for row in rows] for name in CONTRACT.field_names}
    assert FEATURES.from_columns(columns)[:, -1].tolist() == shops
    assert FEATURES.from_columns({name: column for name, column in columns.items() if name != "shop"})[0, -1] == MISSING
    assert FEATURES.code("shop", "Corner") == shops[0]


def test_a_name_is_no_group() -> None:
    with pytest.raises(ProjectError, match="'shop' has too many values to be grouped"):
        FeatureSet(CONTRACT, [Feature("shop", CODE, "")], slices=[Slice("shop", "shop")])


def test_common_codes_are_those_of_most_rows() -> None:
    codes = np.repeat(np.arange(30.0), np.arange(30) + 1)
    assert common_codes(codes).tolist() == list(range(30 - COMMON, 30))
    assert common_codes(np.array([3.0, 1.0, 3.0])).tolist() == [1.0, 3.0]


def made(rows: int, names: int, seed: int) -> tuple[Any, Any]:
    """Features (a number that says something, and the code of a name that says nothing) and labels."""
    random = np.random.default_rng(seed)
    codes = np.array([name_code(f"shop {number}") for number in range(names)])
    features = np.column_stack([random.normal(size=rows), random.choice(codes, rows)]).astype(np.float32)
    return features, (random.random(rows) < 1 / (1 + np.exp(-features[:, 0]))).astype(np.int8)


def fitted(model: str, features: Any, labels: Any) -> Any:
    selection = {"trees": 10, "rows": 2_000, "min_importance": 0.0}
    small = {"hist_gradient_boosting": {"max_iter": 40}, "random_forest": {"n_estimators": 20, "min_samples_leaf": 5}}
    train = TrainParams.model_validate(params.raw("train") | {"model": model, "selection": selection} | small)
    return with_float32_encodings(build_pipeline(train, COLUMNS, [], None, ["shop"]).fit(features, labels))


@pytest.mark.parametrize("model", MODELS)
def test_onnx_encodes_names_as_scikit_learn_does(model: str) -> None:
    features, labels = made(8_000, 5_000, 0)
    pipeline = fitted(model, features, labels)
    assert len(np.unique(features[:, 1])) > 3_000
    rows = made(2_000, 6_000, 1)[0]  # a sixth of the names are new
    rows[:100, 1] = MISSING
    scorer = OnnxScorer(export_onnx(pipeline, OnnxMetadata(tuple(COLUMNS), 0.5)), None)
    assert np.abs(scorer.score(rows) - positive_probability(pipeline, rows)).max() <= 1e-6


def test_a_new_name_counts_as_an_average_one() -> None:
    features, labels = made(2_000, 50, 0)
    encode = fitted(MODELS[0], features, labels)["encode"]
    new = encode.transform(np.array([[0.0, name_code("never seen")]], np.float32))[0, 0]
    assert new == pytest.approx(labels.mean(), abs=1e-6)


def test_names_that_say_nothing_do_not_give_outcomes_away() -> None:
    """Encoded by outcomes that include its own, each of these names would be the best feature in training."""
    (features, labels), (others, expected) = made(4_000, 2_000, 0), made(4_000, 2_000, 1)
    pipeline = fitted(MODELS[0], features, labels)
    best = roc_auc_score(expected, others[:, 0])
    assert roc_auc_score(expected, positive_probability(pipeline, others)) > best - 0.03
