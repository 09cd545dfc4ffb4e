"""The report: its tables by hand, and the pages that show them for whatever contract."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from projects import Project, run_script
from sklearn.metrics import roc_auc_score
from toy import FEATURES as FEATURES_OF_TOY
from toy import TOY
from toy import changed as changed_toy

from credit_risk.contract import CONTRACT
from credit_risk.core.names import COMMON
from credit_risk.core.schema import OUTCOME, Name
from credit_risk.data.splits import read_split
from credit_risk.evaluation.costs import DecisionRule, decision_costs, mean_costs
from credit_risk.evaluation.metrics import measure
from credit_risk.evaluation.scored_split import ScoredSplit
from credit_risk.features import FEATURES
from credit_risk.model import positive_probability
from credit_risk.report import contents, curves, outcomes, tables, variation
from credit_risk.report.vintages import vintages

EVALUATE = "4.dvc_pipeline/6.evaluate_model.py"
TRAIN = "4.dvc_pipeline/5.train_model.py"


def calibrated(rows: int, seed: int = 0) -> tuple[Any, Any]:
    """Labels drawn from their probabilities."""
    rng = np.random.default_rng(seed)
    probabilities = rng.beta(1, 4, rows)
    return (rng.random(rows) < probabilities).astype(np.int8), probabilities


def test_auc_error_is_the_spread_over_many_samples() -> None:
    samples = [tables.auc_error(*calibrated(800, seed)) for seed in range(150)]
    aucs, errors = np.array(samples).T
    labels, probabilities = calibrated(800, 5)
    assert tables.auc_error(labels, probabilities)[0] == pytest.approx(roc_auc_score(labels, probabilities))
    assert errors.mean() == pytest.approx(aucs.std(), rel=0.15)


def test_deciles_by_hand() -> None:
    labels = np.array([1, 1, 1, 0, 0, 1, 0, 0, 0, 0] * 2, np.int8)
    probabilities = np.tile(np.linspace(0.9, 0.0, 10), 2)
    table = tables.deciles(labels, probabilities)
    assert table["rows"].tolist() == [2] * 10
    assert table["positive_rate"].tolist() == [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert table["positives_captured"].tolist() == pytest.approx([0.25, 0.5, 0.75, 0.75, 0.75, 1, 1, 1, 1, 1])
    assert table["negatives_captured"].tolist() == pytest.approx([0, 0, 0, 1 / 6, 2 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert table["ks"].max() == pytest.approx(0.75)
    assert table["lift"].iloc[0] == pytest.approx(2.5)


def test_stability_index_is_zero_for_the_same_and_high_for_another_population() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(2, 20_000))
    assert tables.stability_index(train, test, categorical=False) < 0.01
    assert tables.stability_index(train, test + 1, categorical=False) > 0.25
    missing = np.where(rng.random(20_000) < 0.5, np.nan, test)
    assert tables.stability_index(train, missing, categorical=False) > 0.25
    never_known = np.full(100, np.nan)
    assert tables.stability_index(never_known, never_known[:10], categorical=False) == pytest.approx(0)
    codes = np.array([0.0] * 80 + [1.0] * 20)
    other = np.array([0.0] * 50 + [1.0] * 50)
    by_hand = (0.5 - 0.8) * np.log(0.5 / 0.8) + (0.5 - 0.2) * np.log(0.5 / 0.2)
    assert tables.stability_index(codes, other, categorical=True) == pytest.approx(by_hand)


def test_slices_flag_what_is_worse_and_nothing_else() -> None:
    labels, probabilities = calibrated(12_000)
    groups = np.array(["good", "noise", "understated"], dtype=object)[np.arange(12_000) % 3]
    changed = probabilities.copy()
    noise = groups == "noise"
    changed[noise] = np.random.default_rng(1).permutation(probabilities[noise])
    changed[groups == "understated"] *= 0.7  # the order stays
    table = tables.slices(labels, changed, {"kind": groups}, 200).set_index("group")
    assert table["ranks_worse"].to_dict() == {"good": False, "noise": True, "understated": False}
    assert table["understated"].to_dict() == {"good": False, "noise": False, "understated": True}
    assert (table["roc_auc_low"] < table["roc_auc"]).all()
    assert (table["roc_auc"] < table["roc_auc_high"]).all()


def test_random_slices_are_rarely_flagged_and_small_ones_are_combined() -> None:
    flagged = 0
    for seed in range(20):
        labels, probabilities = calibrated(4_000, seed)
        small = np.arange(4_000) < 160
        groups = np.where(small, np.arange(4_000) % 4, np.where(np.arange(4_000) % 2 == 0, "even", "odd"))
        table = tables.slices(labels, probabilities, {"kind": groups}, 100)
        assert set(table["group"]) == {"even", "odd", tables.OTHERS}
        flagged += bool(table["ranks_worse"].any())
    assert flagged <= 4  # 5 % of 20 is 1


def test_a_slice_whose_other_rows_have_one_outcome_is_measured_and_not_compared() -> None:
    labels, probabilities = calibrated(2_000)
    groups = np.where(np.arange(2_000) < 500, "one", "both").astype(object)
    labels[:500] = 0
    (row,) = tables.slices(labels, probabilities, {"kind": groups}, 100).to_dict("records")
    assert row["group"] == "both"
    assert row["roc_auc"] == pytest.approx(roc_auc_score(labels[500:], probabilities[500:]))
    assert not row["ranks_worse"]


def test_changes_of_a_known_function() -> None:
    summary = tables.change_summary(np.array([0.5, 0.5, 0.5, 0.5]), np.array([0.4, 0.5, 0.5, 0.7]))
    assert summary == pytest.approx(
        {"mean_change": 0.025, "fall": 0.25, "stay": 0.5, "rise": 0.25, "largest_rise": 0.2}
    )


def toy_rows(count: int = 400, seed: int = 0) -> pd.DataFrame:
    """Valid rows of the toy contract."""
    rng = np.random.default_rng(seed)
    limit = rng.uniform(10, 60, count)
    return pd.DataFrame(
        {
            "weight": limit * rng.uniform(0.1, 0.8, count),
            "limit": limit,
            "stops": np.where(rng.random(count) < 0.2, np.nan, rng.integers(0, 10, count)),
            "size": rng.choice(["S", "M", "L"], count),
            "via": rng.choice(np.array(["air", "sea", None], dtype=object), count, p=[0.35, 0.35, 0.3]),
        }
    )


def test_importance_and_dependence_see_possible_rows_only() -> None:
    seen: list[pd.DataFrame] = []

    def predict(rows: pd.DataFrame) -> Any:
        seen.append(rows)
        return 0.1 + 0.5 * rows["weight"].to_numpy() / 60 + 0.2 * (rows["size"] == "L").to_numpy()

    rows = toy_rows()
    labels = (np.random.default_rng(1).random(400) < predict(rows)).astype(np.int8)
    importance = variation.permutation_importance(predict, rows, labels, TOY, 0).set_index("field")["mean"]
    assert set(importance.index) == {"weight and limit", "stops", "size", "via"}
    assert importance["stops"] == importance["via"] == 0
    assert importance["weight and limit"] > 0.02
    by_weight = variation.dependence(predict, rows, TOY, "weight")
    assert np.polyfit(by_weight["x"], by_weight["y"], 1)[0] == pytest.approx(0.5 / 60, rel=0.01)
    by_limit = variation.dependence(predict, rows, TOY, "limit")  # the weight keeps its share of it
    share = (rows["weight"] / rows["limit"]).mean()
    assert np.polyfit(by_limit["x"], by_limit["y"], 1)[0] == pytest.approx(0.5 / 60 * share, rel=0.01)
    by_size = variation.dependence(predict, rows, TOY, "size")
    assert by_size["x"].tolist() == ["S", "M", "L"]
    assert np.diff(by_size["y"]).tolist() == pytest.approx([0, 0.2])
    stops = variation.dependence(predict, rows, TOY, "stops")["x"]
    assert (stops == stops.round()).all()
    for each in seen:
        assert (each["weight"] <= each["limit"]).all()
        assert all(each[number.name].dropna().between(number.minimum, number.maximum).all() for number in TOY.numbers)


def test_features_are_computed_again_when_a_field_changes() -> None:
    rows = toy_rows()
    changed = variation.with_value(rows, TOY, "weight", 20.0)
    load = FEATURES_OF_TOY.column(
        FEATURES_OF_TOY.from_columns({name: changed[name] for name in TOY.field_names}), "load"
    )
    assert load == pytest.approx(20 / changed["limit"].to_numpy(), rel=1e-6)


def test_a_planted_disparity_in_a_protected_field_is_found() -> None:
    contract = changed_toy(fields=(*TOY.fields[:-1], replace(TOY.fields[-1], protected=True)))
    rows = toy_rows(6_000)
    assert "via" not in " ".join(" ".join(names) for names in variation.tied_fields(contract))
    rng = np.random.default_rng(2)
    labels = (rng.random(6_000) < 0.3).astype(np.int8)  # equal risk in all groups
    declined = rng.random(6_000) < np.where(rows["via"] == "sea", 0.5, 0.2)  # and unequal decisions
    groups = outcomes.protected_groups(contract, rows)
    assert set(groups) == {"via"}
    table = outcomes.outcomes(labels, declined, groups).set_index("group")
    assert set(table.index) == {"air", "sea", "unknown"}
    assert table["below_four_fifths"].to_dict() == {"air": False, "sea": True, "unknown": False}
    assert table.loc["sea", "ratio"] == pytest.approx(0.5 / 0.8, abs=0.04)
    sea = table.loc["sea"]
    assert 0.45 < sea["declined_low"] < sea["declined"] < sea["declined_high"] < 0.55
    assert sea["false_positive_low"] > table.loc["air", "false_positive_high"]
    assert sea["false_negative_high"] < table.loc["air", "false_negative_low"]
    fair = outcomes.outcomes(labels, rng.random(6_000) < 0.2, groups)
    assert not fair["below_four_fifths"].any()


def test_groups_of_a_protected_name_are_the_common_names_in_any_spelling() -> None:
    field = Name(name="shop", column="Shop", description="Shop", example="Corner", protected=True)
    common = [spelling for number in range(COMMON) for spelling in (f"Shop {number}", f"SHOP-{number}")]
    groups = outcomes.groups_of(pd.Series([*common, "Rare", None]), field).tolist()
    assert groups == [*(f"Shop {number}" for number in range(COMMON) for _ in range(2)), "all others", "unknown"]
    assert outcomes.groups_of(pd.Series([None, None]), field).tolist() == ["unknown", "unknown"]


def test_groups_of_a_protected_number_are_its_quarters() -> None:
    field = TOY.field("stops")
    values = pd.Series([*map(float, range(8)), np.nan])
    groups = outcomes.groups_of(values, field).tolist()
    assert groups == [*["up to 1.75"] * 2, *["up to 3.5"] * 2, *["up to 5.25"] * 2, *["above 5.25"] * 2, "unknown"]
    assert outcomes.groups_of(pd.Series([np.nan, np.nan]), field).tolist() == ["unknown", "unknown"]


def test_shares_of_no_rows_have_no_figure_and_single_groups_no_table() -> None:
    assert tables.share_with_interval("x", np.array([], bool)) == {"x": None, "x_low": None, "x_high": None}
    low_high = tables.share_with_interval("x", np.zeros(10, bool))
    assert low_high["x"] == low_high["x_low"] == 0
    assert low_high["x_high"] == pytest.approx(0.2775, abs=1e-3)  # Wilson (1927) by hand: z²/(n + z²)
    assert outcomes.outcomes(np.array([0, 1], np.int8), np.array([True, False]), {"a": np.array(["x", "x"])}).empty


def test_combined_groups_have_shares_and_no_ratio() -> None:
    groups = np.array(["a"] * 6 + ["b"] * 5 + ["c", "d"], object)
    combined = outcomes.combine_few(groups, 5)
    assert combined.tolist() == ["a"] * 6 + ["b"] * 5 + [tables.OTHERS] * 2
    declined = groups == "b"
    table = outcomes.outcomes(np.arange(13, dtype=np.int8) % 2, declined, {"kind": combined}).set_index("group")
    assert table["ratio"].to_dict() == {"a": 1, "b": 0, tables.OTHERS: None}
    assert table["below_four_fifths"].to_dict() == {"a": False, "b": True, tables.OTHERS: False}


def test_vintages_by_hand() -> None:
    dates = pd.Series(pd.to_datetime(["2004-02-01", "2004-11-01", "2005-01-01", "2005-06-30", "2006-01-01"]))
    table = vintages(dates, pd.Series([1, 0, 0, None, None], dtype="Int8"))
    assert table["year"].tolist() == [2004, 2005, 2006]
    assert table["rows"].tolist() == [2, 2, 1]
    assert table["labelled"].tolist() == [1, 0.5, 0]
    assert table["positive"].tolist() == [0.5, 0, None]


def test_a_sample_of_rows_has_both_outcomes() -> None:
    labels = np.zeros(5_000, np.int8)
    labels[17] = 1
    for seed in range(5):
        rows = contents.sample_rows(labels, 100, seed)
        assert len(set(rows.tolist())) == 100
        assert 17 in rows


def test_recalibration_needs_enough_rows_of_each_outcome() -> None:
    labels, probabilities = calibrated(4_000)
    features = np.zeros((4_000, 1), np.float32)
    days = np.arange(4_000).astype("datetime64[D]")
    split = ScoredSplit(features, labels, probabilities * 0.4, days)
    found = contents.recalibrated(split, 10)
    assert found is not None
    assert found["error_after"] < found["error_before"]
    assert found["mean_after"] == pytest.approx(found["positive_rate"], abs=0.02)
    few = ScoredSplit(features[:60], labels[:60], probabilities[:60], days[:60])
    assert contents.recalibrated(few, 10) is None


class Links(HTMLParser):
    """What a page would load, its anchors and its ids."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.ids: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.add(value)
            if name in ("src", "srcset", "data") or (name == "href" and tag == "link"):
                self.loaded.append(value)
            if name.endswith("href") and (value or "").startswith("#"):
                self.anchors.add(value[1:])
        if tag in ("script", "iframe", "object"):
            self.loaded.append(tag)


def pages(project: Project) -> tuple[str, str]:
    """Report and model card."""
    report, card = (project.path("1.data", "6.reports", name) for name in ("report.html", "model_card.md"))
    return report.read_text(encoding="utf-8"), card.read_text(encoding="utf-8")


def metrics(project: Project) -> Any:
    return json.loads(project.path("1.data", "6.reports", "metrics.json").read_text())


def without_figures(text: str) -> str:
    return re.sub(r"<svg.*?</svg>|<style.*?</style>", "", text, flags=re.DOTALL)


def test_the_report_shows_the_metrics_and_loads_nothing(finished: Project) -> None:
    text, card = pages(finished)
    links = Links(text)
    assert links.loaded == []
    assert links.anchors <= links.ids
    assert not re.search(r"url\((?!#)|@import", text)
    assert text.count("<svg") == 7 + CONTRACT.has_date
    assert not re.search(r"\bnan\b|\binf\b|None|Undefined|\{\{", without_figures(text) + card)
    for name in CONTRACT.holdouts:
        low, auc, high = (f"{metrics(finished)[name][key]:.3f}" for key in ("roc_auc_low", "roc_auc", "roc_auc_high"))
        assert f"<td>{auc}</td><td>{low} to {high}</td>" in text
        assert f"{auc} ({low} to {high})" in card
    sections = "use data window metrics calibration threshold deciles stability drivers"
    assert set(sections.split()) <= links.ids
    assert ("outcomes" in links.ids) == (bool(FEATURES.slices) or any(field.protected for field in CONTRACT.fields))
    assert str(finished.root) not in text + card


def test_the_pages_use_the_words_of_the_contract(finished: Project) -> None:
    text, card = pages(finished)
    problem = CONTRACT.problem
    for page in (text, card):
        plain = page.replace("&#39;", "'").replace("&amp;", "&")
        for words in (problem.title, problem.question, *problem.limits):
            assert words in plain
    for column in CONTRACT.not_fields:
        assert f"<td>{column}</td>" in text
    assert ("slices" in Links(text).ids) == bool(FEATURES.slices)
    for what_if in FEATURES.what_ifs:
        assert f"<td>{what_if.change}</td>" in text


@pytest.mark.integration
@pytest.mark.parametrize("calibration", ["none", "sigmoid"])
def test_calibration_is_set_by_params_and_fitted_without_the_holdouts(
    project: Project, inside: Callable[[Project], None], calibration: str
) -> None:
    inside(project)
    project.set_params({"train.calibration": calibration})
    files = [project.path("1.data", "4.split", "rows", f"{name}.parquet") for name in CONTRACT.holdouts]
    holdouts = {path: path.read_bytes() for path in files}
    for path in holdouts:
        path.unlink()
    assert run_script(project, TRAIN) == 0
    for path, content in holdouts.items():
        path.write_bytes(content)
    assert run_script(project, EVALUATE) == 0
    in_use = {"none": "classifier&#39;s own (in use)", "sigmoid": "sigmoid fitted on train (in use)"}
    text, _ = pages(project)
    assert [kind for kind, shown in in_use.items() if shown in text] == [calibration]

    model = joblib.load(project.path("1.data", "5.model", "model.joblib"))
    splits = {}
    for name in CONTRACT.splits:
        features, labels = read_split(name)
        splits[name] = ScoredSplit(features, labels, positive_probability(model, features), None)
    for name, both in contents.calibrations(model, splits).items():
        own, sigmoid = both[contents.UNCALIBRATED], both[contents.SIGMOID]
        assert np.array_equal(own if calibration == "none" else sigmoid, splits[name].probabilities)
        assert not np.allclose(own, sigmoid, atol=1e-3)
        labels = splits[name].labels
        assert roc_auc_score(labels, own) == pytest.approx(roc_auc_score(labels, sigmoid), abs=1e-3)


def test_the_threshold_is_the_cheapest_and_the_report_shows_what_it_costs(finished: Project) -> None:
    training = json.loads(finished.path("1.data", "5.model", "training.json").read_text())
    table = pq.read_table(finished.path("1.data", "5.model", "out_of_fold.parquet")).to_pandas()
    costs = (finished.params["train"]["cost_false_negative"], finished.params["train"]["cost_false_positive"])
    labels, probabilities = table[OUTCOME].to_numpy(), table["probability"].to_numpy()
    at = mean_costs(labels, probabilities, np.append(training["threshold"], np.linspace(0, 1, 400)), *costs)
    assert at[0] == pytest.approx(training["out_of_fold_cost"])
    assert at.min() == pytest.approx(at[0])
    text, _ = pages(finished)
    for name in CONTRACT.holdouts:
        found = metrics(finished)[name]
        assert found["cost_accept_all"] == pytest.approx(costs[0] * found["positive_rate"], abs=1e-3)
        assert found["cost_decline_all"] == pytest.approx(costs[1] * (1 - found["positive_rate"]), abs=1e-3)
        assert f"<td>{found['cost']:.3f}</td>" in text


def test_one_positive_row_in_a_holdout_is_reported_without_intervals(
    project: Project, inside: Callable[[Project], None]
) -> None:
    inside(project)
    path = project.path("1.data", "4.split", "rows", "test.parquet")
    rows = pd.read_parquet(path)
    positives = rows[rows[OUTCOME] == 1].head(1)
    pd.concat([rows[rows[OUTCOME] == 0].head(59), positives]).to_parquet(path)
    assert run_script(project, EVALUATE) == 0
    found = metrics(project)["test"]
    assert found["rows"] == 60
    assert "roc_auc_low" not in found
    text, card = pages(project)
    assert f"Test has too few {CONTRACT.problem.rows} of one outcome for intervals." in text
    assert not re.search(r"\bnan\b|\binf\b|None", without_figures(text) + card)


@st.composite
def few_rows(draw: st.DrawFn) -> tuple[Any, Any, Any, Any]:
    """Labels, probabilities, a number that is often missing, and groups of two to thirty rows; both outcomes occur."""
    more = draw(st.lists(st.booleans(), max_size=28))
    labels = np.array(draw(st.permutations([0, 1, *more])), np.int8)
    columns = (st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.sampled_from([np.nan, 1.0, 2.0]), st.sampled_from("ab"))
    drawn = [draw(st.lists(column, min_size=len(labels), max_size=len(labels))) for column in columns]
    return labels, np.array(drawn[0]), np.array(drawn[1]), np.array(drawn[2], object)


def many(column: Any) -> Any:
    """The column so often that a slice with one row of an outcome is shown."""
    return np.repeat(column, tables.MIN_OUTCOME_ROWS)


@settings(max_examples=50)
@given(few_rows(), st.integers(1, 10))
def test_few_rows_give_finite_figures_or_none(drawn: tuple[Any, Any, Any, Any], min_rows: int) -> None:
    labels, probabilities, numbers, groups = drawn
    grouped = {"letter": groups, "number": outcomes.groups_of(pd.Series(numbers), TOY.numbers[0])}
    days = pd.Series(np.datetime64("2020-01-01") + 200 * np.arange(len(labels)))
    found = [
        tables.deciles(labels, probabilities),
        tables.slices(
            many(labels), many(probabilities), {name: many(each) for name, each in grouped.items()}, min_rows
        ),
        outcomes.outcomes(labels, probabilities >= 0.5, grouped),
        vintages(days, pd.Series(labels).where(numbers == 1)),
        pd.DataFrame([tables.change_summary(probabilities, probabilities[::-1])]),
        pd.DataFrame([measure(labels, probabilities, 0.5, 10)]),
        pd.DataFrame([decision_costs(labels, probabilities, DecisionRule(0.5, 5, 1))]),
        pd.DataFrame([{"psi": tables.stability_index(numbers, numbers[::-1], categorical=False)}]),
        *curves.curves(labels, probabilities).values(),
    ]
    for table in found:
        values = [value for value in table.to_numpy(object).ravel() if value is not None and not isinstance(value, str)]
        assert np.isfinite(np.array(values, float)).all(), table


def test_out_of_fold_probabilities_of_other_rows_are_rejected(
    project: Project, inside: Callable[[Project], None], capsys: pytest.CaptureFixture[str]
) -> None:
    inside(project)
    path = project.path("1.data", "5.model", "out_of_fold.parquet")
    pd.read_parquet(path).iloc[1:].to_parquet(path)
    assert run_script(project, EVALUATE) == 1
    assert "out_of_fold.parquet does not match the rows of train; run stage 5 again" in capsys.readouterr().err


@pytest.mark.integration
def test_main_report_says_where_the_pages_are_and_what_the_gate_found(finished: Project) -> None:
    output = finished.run("main.py", "report").stdout
    assert finished.path("1.data", "6.reports", "report.html").as_uri() in output
    comparison = finished.path("5.testing", "reports", "performance.html")
    assert comparison.as_uri() in output
    assert Links(comparison.read_text()).loaded == []
    assert "skill_over_logistic" in output


@pytest.mark.integration
def test_main_report_before_the_first_run_says_what_to_do(fresh: Project) -> None:
    result = fresh.run("main.py", "report", check=False)
    assert result.returncode == 1
    assert "report.html is missing; run the pipeline first" in result.stderr
