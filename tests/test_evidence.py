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
from projects import Project, run_script, script
from sklearn.metrics import brier_score_loss, roc_auc_score, roc_curve

from credit_risk import evidence
from credit_risk.metrics import auc_interval, expected_calibration_error
from credit_risk.model import read_side

EVALUATE = "4.dvc_pipeline/6.evaluate_model.py"
TRAIN = "4.dvc_pipeline/5.train_model.py"


def calibrated(rows: int, seed: int = 0) -> tuple[Any, Any]:
    """Labels drawn from their scores."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(1, 4, rows)
    return (rng.random(rows) < scores).astype(np.int8), scores


def test_intervals_hold_the_figures_and_agree_with_the_gates() -> None:
    labels, scores = calibrated(2_000)
    scores = scores.round(2)  # equal scores
    found = evidence.intervals(labels, scores, 10, 400, seed=3)
    assert found["roc_auc"] == pytest.approx(auc_interval(labels, scores, 400, 3), abs=1e-12)
    false_positive, true_positive, _ = roc_curve(labels, scores)
    figures = {
        "roc_auc": roc_auc_score(labels, scores),
        "gini": 2 * roc_auc_score(labels, scores) - 1,
        "ks": np.max(true_positive - false_positive),
        "brier": brier_score_loss(labels, scores),
    }
    for name, value in figures.items():
        low, high = found[name]
        assert low < value < high
    assert 0 < found["ece"][0] < found["ece"][1]
    # One resample of equal weights is the set itself: the figures inside are those of the other module.
    assert expected_calibration_error(labels, scores, 10) < found["ece"][1]


def test_auc_error_is_that_of_many_samples() -> None:
    samples = [evidence.auc_error(*calibrated(800, seed)) for seed in range(300)]
    aucs, errors = np.array(samples).T
    labels, scores = calibrated(800, 5)
    assert evidence.auc_error(labels, scores)[0] == pytest.approx(roc_auc_score(labels, scores))
    assert errors.mean() == pytest.approx(aucs.std(), rel=0.12)


def test_deciles_by_hand() -> None:
    labels = np.array([1, 1, 1, 0, 0, 1, 0, 0, 0, 0] * 2, np.int8)
    scores = np.tile(np.linspace(0.9, 0.0, 10), 2)
    table = evidence.deciles(labels, scores)
    assert table["loans"].tolist() == [2] * 10
    assert table["default_rate"].tolist() == [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert table["caught"].tolist() == pytest.approx([0.25, 0.5, 0.75, 0.75, 0.75, 1, 1, 1, 1, 1])
    assert table["paid_refused"].tolist() == pytest.approx([0, 0, 0, 1 / 6, 2 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
    assert table["ks"].max() == pytest.approx(0.75)
    assert table["lift"].iloc[0] == pytest.approx(2.5)


def test_costs_by_hand() -> None:
    labels, scores = np.array([0, 1, 0, 1], np.int8), np.array([0.1, 0.2, 0.3, 0.4])
    costs = evidence.mean_costs(labels, scores, np.array([0.0, 0.15, 0.2, 0.35, 1.0]), approval=5.0, refusal=1.0)
    # All refused; one paid refused; the same, as 0.2 is refused at 0.2; one default approved; all approved.
    assert costs.tolist() == [0.5, 0.25, 0.25, 1.25, 2.5]


def test_costs_are_those_by_which_stage_5_chooses(finished: Project) -> None:
    training = json.loads(finished.path("1.data", "5.model", "training.json").read_text())
    table = pq.read_table(finished.path("1.data", "5.model", "out_of_fold.parquet")).to_pandas()
    labels, scores = table["default"].to_numpy(), table["score"].to_numpy()
    at = np.append(training["threshold"], np.linspace(0, 1, 400))
    costs = evidence.mean_costs(labels, scores, at, 5.0, 1.0)
    assert costs[0] == pytest.approx(training["out_of_fold_cost"])
    assert costs.min() == pytest.approx(costs[0])


def test_stability_of_the_same_is_nothing_and_of_another_population_much() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(2, 20_000))
    assert evidence.stability(train, test, categorical=False) < 0.01
    assert evidence.stability(train, test + 1, categorical=False) > 0.25
    missing = np.where(rng.random(20_000) < 0.5, np.nan, test)
    assert evidence.stability(train, missing, categorical=False) > 0.25
    codes = np.array([0.0] * 80 + [1.0] * 20)
    other = np.array([0.0] * 50 + [1.0] * 50)
    by_hand = (0.5 - 0.8) * np.log(0.5 / 0.8) + (0.5 - 0.2) * np.log(0.5 / 0.2)
    assert evidence.stability(codes, other, categorical=True) == pytest.approx(by_hand)


def test_slices_mark_what_is_worse_and_nothing_else() -> None:
    labels, scores = calibrated(12_000)
    groups = np.array(["good", "noise", "understated"], dtype=object)[np.arange(12_000) % 3]
    rng = np.random.default_rng(1)
    shuffled = scores.copy()
    noise = groups == "noise"
    shuffled[noise] = rng.permutation(scores[noise])
    shuffled[groups == "understated"] *= 0.7  # the order stays
    table = evidence.slices(labels, shuffled, {"kind": groups}, 200, 20).set_index("group")
    assert table["ranks_worse"].to_dict() == {"good": False, "noise": True, "understated": False}
    assert table["understated"].to_dict() == {"good": False, "noise": False, "understated": True}
    assert (table["roc_auc_low"] < table["roc_auc"]).all()
    assert (table["roc_auc"] < table["roc_auc_high"]).all()


def test_slices_of_chance_are_rarely_marked_and_small_ones_are_put_together() -> None:
    marked = 0
    for seed in range(40):
        labels, scores = calibrated(4_000, seed)
        groups = np.where(np.arange(4_000) < 50, "tiny", np.where(np.arange(4_000) % 2 == 0, "even", "odd"))
        table = evidence.slices(labels, scores, {"kind": groups}, 100, 5)
        assert set(table["group"]) == {"even", "odd", "all others"}
        marked += bool(table["ranks_worse"].any())
    assert marked <= 6  # 5 % of 40 are 2


def test_a_slice_beside_loans_that_never_default_is_measured_and_not_compared() -> None:
    labels, scores = calibrated(2_000)
    groups = np.where(np.arange(2_000) < 500, "whole", "in part").astype(object)
    labels[:500] = 0
    (row,) = evidence.slices(labels, scores, {"guaranteed": groups}, 100, 5).to_dict("records")
    assert row["group"] == "in part"
    assert row["roc_auc"] == pytest.approx(roc_auc_score(labels[500:], scores[500:]))
    assert not row["ranks_worse"]


def test_dependence_and_promise_of_a_known_function() -> None:
    rng = np.random.default_rng(0)
    features = rng.random((500, 2)).astype(np.float32)

    def predict(rows: Any) -> Any:
        return 0.1 + 0.5 * rows[:, 0] + 0.1 * rows[:, 1]

    curve = evidence.partial_dependence(predict, features, 0, categorical=False)
    assert np.polyfit(curve["x"], curve["y"], 1)[0] == pytest.approx(0.5, abs=1e-3)
    codes = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]] * 10, np.float32)
    by_code = evidence.partial_dependence(predict, codes, 0, categorical=True)
    assert by_code["x"].tolist() == [0, 1]  # missing is no value that one could have
    assert by_code["y"].tolist() == pytest.approx([0.1, 0.6])
    kept = evidence.promise(np.array([0.5, 0.5, 0.5, 0.5]), np.array([0.4, 0.5, 0.5, 0.7]))
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
    project.set_param("calibration: none", f"calibration: {calibration}")
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
    project.set_param("calibration: none", "calibration: sigmoid")
    assert run_script(project, TRAIN) == 0
    import joblib

    names = script(project, EVALUATE)
    model = joblib.load(project.path("1.data", "5.model", "model.joblib"))
    sides = {}
    for name in ("test", "out_of_time"):
        features, labels = read_side(project.path("1.data", "4.split", f"{name}.parquet"))
        scores = names["default_probability"](model, features)
        sides[name] = names["Side"](features, labels, scores, np.arange(len(labels)))
    before, after = names["sigmoid"](model, sides)
    for name, side in sides.items():
        assert np.array_equal(after[name], side.scores)
        assert not np.allclose(before[name], after[name], atol=1e-3)
        assert roc_auc_score(side.labels, before[name]) == pytest.approx(
            roc_auc_score(side.labels, after[name]), abs=1e-3
        )


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
    assert "version 1 (challenger) against no champion: passed" in output
    assert "skill_over_logistic" in output


def test_main_report_before_the_first_run_says_what_to_do(fresh: Project) -> None:
    result = fresh.run("main.py", "report", check=False)
    assert result.returncode == 1
    assert "report.html is missing; run the pipeline first" in result.stderr
