"""The evidence for a model: each table by hand, and the report that shows them."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from projects import Project, run_script
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from credit_risk.contract import STATES
from credit_risk.evaluation.costs import mean_costs
from credit_risk.features import CATEGORICAL, FEATURE_NAMES
from credit_risk.model import TrainParams, default_probability, fit, logistic_baseline, read_split
from credit_risk.report import contents, scorecard, tables
from credit_risk.report.shap_values import attribution, uncalibrated

EVALUATE = "4.dvc_pipeline/6.evaluate_model.py"
TRAIN = "4.dvc_pipeline/5.train_model.py"


def calibrated(rows: int, seed: int = 0) -> tuple[Any, Any]:
    """Labels drawn from their scores."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(1, 4, rows)
    return (rng.random(rows) < scores).astype(np.int8), scores


def test_auc_error_is_that_of_many_samples() -> None:
    samples = [tables.auc_error(*calibrated(800, seed)) for seed in range(300)]
    aucs, errors = np.array(samples).T
    labels, scores = calibrated(800, 5)
    assert tables.auc_error(labels, scores)[0] == pytest.approx(roc_auc_score(labels, scores))
    assert errors.mean() == pytest.approx(aucs.std(), rel=0.12)


def test_deciles_by_hand() -> None:
    labels = np.array([1, 1, 1, 0, 0, 1, 0, 0, 0, 0] * 2, np.int8)
    scores = np.tile(np.linspace(0.9, 0.0, 10), 2)
    table = tables.deciles(labels, scores)
    assert table["loans"].tolist() == [2] * 10
    assert table["default_rate"].tolist() == [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert table["caught"].tolist() == pytest.approx([0.25, 0.5, 0.75, 0.75, 0.75, 1, 1, 1, 1, 1])
    assert table["paid_refused"].tolist() == pytest.approx([0, 0, 0, 1 / 6, 2 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert table["ks"].max() == pytest.approx(0.75)
    assert table["lift"].iloc[0] == pytest.approx(2.5)


def test_costs_are_those_by_which_stage_5_chooses(finished: Project) -> None:
    training = json.loads(finished.path("1.data", "5.model", "training.json").read_text())
    table = pq.read_table(finished.path("1.data", "5.model", "out_of_fold.parquet")).to_pandas()
    labels, scores = table["default"].to_numpy(), table["score"].to_numpy()
    at = np.append(training["threshold"], np.linspace(0, 1, 400))
    costs = mean_costs(labels, scores, at, 5.0, 1.0)
    assert costs[0] == pytest.approx(training["out_of_fold_cost"])
    assert costs.min() == pytest.approx(costs[0])


def test_stability_of_the_same_is_nothing_and_of_another_population_much() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(2, 20_000))
    assert tables.stability(train, test, categorical=False) < 0.01
    assert tables.stability(train, test + 1, categorical=False) > 0.25
    missing = np.where(rng.random(20_000) < 0.5, np.nan, test)
    assert tables.stability(train, missing, categorical=False) > 0.25
    codes = np.array([0.0] * 80 + [1.0] * 20)
    other = np.array([0.0] * 50 + [1.0] * 50)
    by_hand = (0.5 - 0.8) * np.log(0.5 / 0.8) + (0.5 - 0.2) * np.log(0.5 / 0.2)
    assert tables.stability(codes, other, categorical=True) == pytest.approx(by_hand)


def test_slices_mark_what_is_worse_and_nothing_else() -> None:
    labels, scores = calibrated(12_000)
    groups = np.array(["good", "noise", "understated"], dtype=object)[np.arange(12_000) % 3]
    rng = np.random.default_rng(1)
    shuffled = scores.copy()
    noise = groups == "noise"
    shuffled[noise] = rng.permutation(scores[noise])
    shuffled[groups == "understated"] *= 0.7  # the order stays
    table = tables.slices(labels, shuffled, {"kind": groups}, 200, 20).set_index("group")
    assert table["ranks_worse"].to_dict() == {"good": False, "noise": True, "understated": False}
    assert table["understated"].to_dict() == {"good": False, "noise": False, "understated": True}
    assert (table["roc_auc_low"] < table["roc_auc"]).all()
    assert (table["roc_auc"] < table["roc_auc_high"]).all()


def test_slices_of_chance_are_rarely_marked_and_small_ones_are_put_together() -> None:
    marked = 0
    for seed in range(40):
        labels, scores = calibrated(4_000, seed)
        groups = np.where(np.arange(4_000) < 50, "tiny", np.where(np.arange(4_000) % 2 == 0, "even", "odd"))
        table = tables.slices(labels, scores, {"kind": groups}, 100, 5)
        assert set(table["group"]) == {"even", "odd", "all others"}
        marked += bool(table["ranks_worse"].any())
    assert marked <= 6  # 5 % of 40 are 2


def test_a_slice_beside_loans_that_never_default_is_measured_and_not_compared() -> None:
    labels, scores = calibrated(2_000)
    groups = np.where(np.arange(2_000) < 500, "whole", "in part").astype(object)
    labels[:500] = 0
    (row,) = tables.slices(labels, scores, {"guaranteed": groups}, 100, 5).to_dict("records")
    assert row["group"] == "in part"
    assert row["roc_auc"] == pytest.approx(roc_auc_score(labels[500:], scores[500:]))
    assert not row["ranks_worse"]


def test_dependence_and_promise_of_a_known_function() -> None:
    rng = np.random.default_rng(0)
    features = rng.random((500, 2)).astype(np.float32)

    def predict(rows: Any) -> Any:
        return 0.1 + 0.5 * rows[:, 0] + 0.1 * rows[:, 1]

    curve = tables.partial_dependence(predict, features, 0, categorical=False)
    assert np.polyfit(curve["x"], curve["y"], 1)[0] == pytest.approx(0.5, abs=1e-3)
    codes = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]] * 10, np.float32)
    by_code = tables.partial_dependence(predict, codes, 0, categorical=True)
    assert by_code["x"].tolist() == [0, 1]  # missing is no value that one could have
    assert by_code["y"].tolist() == pytest.approx([0.1, 0.6])
    kept = tables.promise(np.array([0.5, 0.5, 0.5, 0.5]), np.array([0.4, 0.5, 0.5, 0.7]))
    assert kept == pytest.approx({"mean_change": 0.025, "fall": 0.25, "stay": 0.5, "rise": 0.25, "largest_rise": 0.2})


class Links(HTMLParser):
    """What a page would load, and the tags that were not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.ids: set[str] = set()

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


def test_the_report_holds_everything_and_loads_nothing(finished: Project) -> None:
    text = finished.path("1.data", "6.reports", "report.html").read_text()
    page = Links()
    page.feed(text)
    assert page.loaded == []
    assert page.anchors <= page.ids
    assert not re.search(r"url\((?!#)|@import", text)
    assert text.count("<svg") == 7
    assert not re.search(r"\bnan\b|\binf\b|None|Undefined", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
    metrics = json.loads(finished.path("1.data", "6.reports", "metrics.json").read_text())
    card = finished.path("1.data", "6.reports", "model_card.md").read_text()
    for side in ("test", "out_of_time"):
        low, auc, high = (f"{metrics[side][name]:.3f}" for name in ("roc_auc_low", "roc_auc", "roc_auc_high"))
        assert f"<td>{auc}</td><td>{low} to {high}</td>" in text
        assert f"{auc} ({low} to {high})" in card
    for heading in (
        "Intended use",
        "Calibration",
        "threshold",
        "Deciles",
        "Stability",
        "Slices",
        "Promises",
        "champion",
    ):
        assert heading in text
    assert "{{" not in text + card


def test_the_report_says_nothing_of_the_machine(finished: Project) -> None:
    for name in ("report.html", "model_card.md"):
        assert str(finished.root) not in finished.path("1.data", "6.reports", name).read_text()


@pytest.mark.parametrize("calibration", ["none", "sigmoid"])
def test_calibration_is_chosen_by_params_and_fitted_without_the_holdout(
    project: Project, inside: Callable[[Project], None], calibration: str
) -> None:
    inside(project)
    project.set_params({"train.calibration": calibration})
    sides = {side: project.path("1.data", "4.split", f"{side}.parquet") for side in ("test", "out_of_time")}
    away = {side: path.read_bytes() for side, path in sides.items()}
    for path in sides.values():
        path.unlink()
    assert run_script(project, TRAIN) == 0
    for side, path in sides.items():
        path.write_bytes(away[side])
    assert run_script(project, EVALUATE) == 0
    text = project.path("1.data", "6.reports", "report.html").read_text()
    serving = {"none": "as the classifier says (serves)", "sigmoid": "through a sigmoid fitted on train (serves)"}
    assert serving[calibration] in text
    other = serving["sigmoid" if calibration == "none" else "none"]
    assert other not in text


def test_before_and_after_calibration_are_the_same_ranking(project: Project, inside: Callable[[Project], None]) -> None:
    """What would serve with the other setting is worked out from the model at hand, without touching test."""
    inside(project)
    project.set_params({"train.calibration": "sigmoid"})
    assert run_script(project, TRAIN) == 0
    import joblib

    model = joblib.load(project.path("1.data", "5.model", "model.joblib"))
    sides = {}
    for name in ("test", "out_of_time"):
        features, labels = read_split(project.path("1.data", "4.split", f"{name}.parquet"))
        scores = default_probability(model, features)
        sides[name] = contents.Side(features, labels, scores, np.arange(len(labels)))
    before, after = contents.sigmoid(model, sides)
    for name, side in sides.items():
        assert np.array_equal(after[name], side.scores)
        assert not np.allclose(before[name], after[name], atol=1e-3)
        assert roc_auc_score(side.labels, before[name]) == pytest.approx(
            roc_auc_score(side.labels, after[name]), abs=1e-3
        )


def test_shap_values_add_up_to_the_margin(finished: Project) -> None:
    """Of the classifier itself, also where a calibration lies over it."""
    train = TrainParams.model_validate(
        yaml.safe_load(finished.path("4.dvc_pipeline", "params.yaml").read_text())["train"]
    )
    features, labels = read_split(finished.path("1.data", "4.split", "rows", "train.parquet"))
    for calibration in ("none", "sigmoid"):
        model = fit(train.model_copy(update={"calibration": calibration}), features, labels)
        found = attribution(model, features[:50])
        assert found is not None
        assert found.unit == "log-odds of default"
        margin = uncalibrated(model).decision_function(model[:-1].transform(features[:50]))
        assert found.added.sum(axis=1) + found.base == pytest.approx(margin, abs=1e-6)
        assert len(found.names) == found.added.shape[1] == model["select"].get_support().sum()
        for name, column in zip(found.names, found.columns.T, strict=True):
            known = features[:50, FEATURE_NAMES.index(name)]
            assert np.isnan(column).all() if name in CATEGORICAL else np.array_equal(column, known, equal_nan=True)


def test_shap_values_of_a_forest_are_of_the_default_class_and_of_a_sum_there_are_none(finished: Project) -> None:
    train = TrainParams.model_validate(
        yaml.safe_load(finished.path("4.dvc_pipeline", "params.yaml").read_text())["train"]
    )
    train.random_forest["n_estimators"] = 10
    features, labels = read_split(finished.path("1.data", "4.split", "rows", "train.parquet"))
    forest = fit(train.model_copy(update={"model": "random_forest"}), features, labels)
    found = attribution(forest, features[:20])
    assert found is not None
    assert found.added.sum(axis=1) + found.base == pytest.approx(default_probability(forest, features[:20]), abs=1e-6)
    assert attribution(fit(logistic_baseline(train), features, labels), features[:20]) is None


def loans_by_hand(rows: int = 4_000) -> tuple[Any, Any]:
    """Loans whose risk falls with the staff, which half of the features repeat, and is twice as high in one state."""
    rng = np.random.default_rng(0)
    features = np.zeros((rows, len(FEATURE_NAMES)), np.float32)
    staff, state = rng.integers(0, 50, rows), rng.integers(0, 2, rows)
    features[:, FEATURE_NAMES.index("employees")] = staff
    features[:, FEATURE_NAMES.index("state")] = state
    risk = 0.4 / (1 + 0.1 * staff) * (1 + state)
    return features, (rng.random(rows) < risk).astype(np.int8)


def test_weight_of_evidence_by_hand() -> None:
    features, labels = loans_by_hand()
    table = scorecard.evidence_table(scorecard.bin_features(features, labels, 0), "state").set_index("bin")
    first, second = STATES[:2]
    for state, code in ((first, 0), (second, 1)):
        mine = labels[features[:, FEATURE_NAMES.index("state")] == code]
        paid, charged_off = (mine == 0).sum() / (labels == 0).sum(), mine.sum() / labels.sum()
        assert table.loc[state, "loans"] == len(mine)
        assert table.loc[state, "default_rate"] == pytest.approx(mine.mean())
        assert table.loc[state, "woe"] == pytest.approx(np.log(paid / charged_off))
        assert table.loc[state, "iv"] == pytest.approx((paid - charged_off) * np.log(paid / charged_off))
    values = scorecard.information_values(scorecard.bin_features(features, labels, 0))
    assert list(values)[:2] == ["employees", "state"]
    assert values["state"] == pytest.approx(table["iv"].sum())
    assert values["franchise"] == 0


def test_a_scorecard_adds_up_and_gives_more_points_to_safer_groups() -> None:
    features, labels = loans_by_hand()
    card = scorecard.fit_scorecard(scorecard.bin_features(features, labels, 0), features, labels, 0)
    table = scorecard.points_table(card)
    assert set(table["feature"]) == {"employees", "state"}  # the others say nothing
    for _, groups in table.groupby("feature"):
        assert groups.sort_values("default_rate")["points"].is_monotonic_decreasing
        assert groups["points"].min() == 0
    points = scorecard.points(card, features)
    best = {feature: groups["points"].max() for feature, groups in table.groupby("feature")}
    assert points.max() == card.intercept_ + sum(best.values())
    assert roc_auc_score(labels, -points) > 0.65
    # Twenty points more double the odds of being paid.
    probability = card.predict_proba(scorecard.readable(features))[:, 1]
    expected = 600 + 20 * np.log2((1 - probability) / probability / 50)
    assert np.abs(points - expected).max() <= 2  # each group is rounded


def test_a_feature_whose_weight_turns_is_left_out() -> None:
    """Beside the staff, which holds truth and noise, jobs serve to take the noise away: against their own evidence."""
    rng = np.random.default_rng(1)
    features = np.zeros((6_000, len(FEATURE_NAMES)), np.float32)
    truth, noise = rng.normal(size=(2, 6_000))
    features[:, FEATURE_NAMES.index("employees")] = truth + noise
    features[:, FEATURE_NAMES.index("jobs_created")] = noise + 0.3 * truth
    labels = (rng.random(6_000) < 1 / (1 + np.exp(2 + 1.5 * truth))).astype(np.int8)
    groups = scorecard.bin_features(features, labels, 0)
    card = scorecard.fit_scorecard(groups, features, labels, 0)
    telling = [name for name, value in scorecard.information_values(groups).items() if value >= 0.02]
    weights = LogisticRegression(C=np.inf).fit(groups.transform(scorecard.readable(features))[telling], labels).coef_
    assert (weights > 0).any()
    assert (card.estimator_.coef_ < 0).all()
    assert set(scorecard.points_table(card)["feature"]) < set(telling)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("(-inf, 2.50)", "below 2.5"),
        ("[2.50, 12255.00)", "2.5 to 12,255"),
        ("[0.90, inf)", "0.9 or more"),
        ("(-inf, inf)", "all"),
        (np.array(["CA", "NY"]), "CA, NY"),
        ("Missing", "unknown"),
    ],
)
def test_groups_are_written_for_people(written: Any, read: str) -> None:
    assert scorecard._bin(written) == read


def test_the_scorecard_is_fitted_on_train_alone_and_shown_beside_the_model(finished: Project) -> None:
    features, labels = read_split(finished.path("1.data", "4.split", "rows", "train.parquet"))
    seed = yaml.safe_load(finished.path("4.dvc_pipeline", "params.yaml").read_text())["train"]["seed"]
    card = scorecard.fit_scorecard(scorecard.bin_features(features, labels, seed), features, labels, seed)
    text = " ".join(finished.path("1.data", "6.reports", "report.html").read_text().split())
    for side, where in (("test", "on the test"), ("out_of_time", "out of time")):
        held_out, outcomes = read_split(finished.path("1.data", "4.split", f"{side}.parquet"))
        auc = roc_auc_score(outcomes, -scorecard.points(card, held_out))
        assert f"<b>{auc:.3f}</b> {where}" in text
    assert f"Every loan starts with {int(card.intercept_)} points" in text


def test_the_report_says_what_another_threshold_would_have_cost(finished: Project) -> None:
    curve = pd.DataFrame({"threshold": [0.0, 0.1, 0.2, 0.3], "cost": [0.5, 0.402, 0.4, 0.6]})
    assert contents.cheapest(curve) == {"threshold": 0.2, "cost": 0.4}
    curve["cost"] = [0.4, 0.402, 0.5, 0.6]
    assert contents.cheapest(curve) == {"threshold": 0.1, "cost": 0.402}  # the mildest of those within 1 %
    text = " ".join(finished.path("1.data", "6.reports", "report.html").read_text().split())
    assert re.search(r"Out of time it costs \d\.\d{3}, and refusing from 0\.\d\d on would have cost \d\.\d{3}", text)


def test_the_quick_form_of_a_model_scores_the_same(finished: Project) -> None:
    train = TrainParams.model_validate(
        yaml.safe_load(finished.path("4.dvc_pipeline", "params.yaml").read_text())["train"]
    )
    features, labels = read_split(finished.path("1.data", "4.split", "rows", "train.parquet"))
    model = fit(train, features, labels)
    assert not model["select"].get_support().all()
    quick = contents.quick(model)
    assert np.array_equal(default_probability(quick, features), default_probability(model, features))


def test_out_of_fold_scores_of_other_loans_are_refused(
    project: Project, inside: Callable[[Project], None], capsys: pytest.CaptureFixture[str]
) -> None:
    inside(project)
    path = project.path("1.data", "5.model", "out_of_fold.parquet")
    pd.read_parquet(path).iloc[1:].to_parquet(path)
    assert run_script(project, EVALUATE) == 1
    assert "out_of_fold.parquet is not of the present train loans; run stage 5 again" in capsys.readouterr().err


def test_main_report_says_where_it_is_and_what_the_gate_found(finished: Project) -> None:
    output = finished.run("main.py", "report").stdout
    assert finished.path("1.data", "6.reports", "report.html").as_uri() in output
    comparison = finished.path("5.testing", "reports", "performance.html")
    assert comparison.as_uri() in output
    page = Links()
    page.feed(comparison.read_text())
    assert page.loaded == []
    assert "Version 1 as the first: there is no champion" in comparison.read_text()
    assert "version 1 (challenger) against no champion: passed" in output
    assert "skill_over_logistic" in output


def test_main_report_before_the_first_run_says_what_to_do(fresh: Project) -> None:
    result = fresh.run("main.py", "report", check=False)
    assert result.returncode == 1
    assert "report.html is missing; run the pipeline first" in result.stderr
