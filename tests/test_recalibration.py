"""Recalibration on newer outcomes: two numbers, the same in every format, measured on rows that they never saw."""

import json
from collections.abc import Callable

import numpy as np
import pytest
from projects import Project, run_script

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.evaluation.recalibration import effect, is_better
from credit_risk.formats.recalibration import Sigmoid
from credit_risk.registry import lineage
from credit_risk.registry.client import CHALLENGER, Registry
from credit_risk.registry.gate_results import read_gate_result

STAGES = ("4.split_data", "5.train_model", "6.evaluate_model", "7.register_model")
needs_date = pytest.mark.skipif(not CONTRACT.has_date, reason="the contract has no date")


def test_a_sigmoid_by_hand() -> None:
    sigmoid = Sigmoid(2.0, 0.0)
    assert sigmoid.apply([0.5, 0.75]) == pytest.approx([0.5, 0.9])  # odds of 3 become odds of 9
    assert sigmoid.invert([0.5, 0.9]) == pytest.approx([0.5, 0.75])
    assert Sigmoid(1.0, float(np.log(3))).apply([0.5]) == pytest.approx([0.75])


def test_it_finds_the_shift_of_the_log_odds_and_keeps_the_order() -> None:
    rng = np.random.default_rng(0)
    true = rng.uniform(0.05, 0.6, 100_000)
    labels = (rng.random(100_000) < true).astype(np.int8)
    wrong = Sigmoid(0.8, -1.0).apply(true)
    sigmoid = Sigmoid.fit(wrong, labels)
    assert (sigmoid.slope, sigmoid.intercept) == pytest.approx((1.25, 1.25), abs=0.05)
    after = sigmoid.apply(wrong)
    assert np.abs(after - true).max() < 0.01
    assert np.array_equal(np.argsort(after), np.argsort(wrong))
    found = effect(labels, wrong, after, 10)
    assert is_better(found)
    assert not is_better(effect(labels, after, wrong, 10))
    assert not is_better(effect(labels, after, after, 10))
    assert found["brier_before"] - found["brier_after"] == pytest.approx(np.mean((wrong - true) ** 2), abs=0.002)


def test_outcomes_that_contradict_the_ranking_are_no_basis() -> None:
    with pytest.raises(ProjectError, match="contradict the model's ranking"):
        Sigmoid.fit([0.1, 0.2, 0.8, 0.9] * 10, [1, 1, 0, 0] * 10)


@pytest.mark.integration
@needs_date
def test_newest_is_fitted_on_rows_set_apart_and_gated_on_newer_ones(
    project: Project, inside: Callable[[Project], None], capsys: pytest.CaptureFixture[str]
) -> None:
    inside(project)
    project.set_params({"train.calibration": "newest"})
    assert run_script(project, "4.dvc_pipeline/5.train_model.py") == 1
    assert "set split.calibration_months" in capsys.readouterr().err
    project.set_params({"split.calibration_months": 12})
    for stage in STAGES:
        assert run_script(project, f"4.dvc_pipeline/{stage}.py") == 0
    assert "sigmoid fitted on the newest outcomes (in use)" in project.path("1.data/6.reports/report.html").read_text()
    metrics = json.loads(project.path("1.data/6.reports/metrics.json").read_text())
    assert run_script(project, "5.testing/loading.py") == 0
    run_script(project, "5.testing/performance.py", "--no-promote")  # the champion was trained on another split
    challenger = Registry().version_of(CHALLENGER)
    assert challenger is not None
    recorded = lineage.of(challenger)[lineage.RECALIBRATION]
    assert (
        recorded["rows"] == json.loads(project.path("1.data/4.split/metrics.json").read_text())["calibration"]["rows"]
    )
    result = read_gate_result(challenger, "performance")
    assert result is not None
    checks = {check["name"]: check for check in result["checks"]}
    assert not checks.keys() & {"calibration", "skill_over_majority"}
    before, after = metrics["recalibration"]["brier_without"], metrics["out_of_time"]["brier"]
    assert f"Brier score {before:.3f} → {after:.3f}" in checks["recalibration"]["measured"]
    assert not checks["same_split"]["passed"]
