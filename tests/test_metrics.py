"""Metrics, intervals and costs: against hand-made cases, scikit-learn and published formulas."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from credit_risk.core.errors import ProjectError
from credit_risk.core.names import name_code
from credit_risk.evaluation import metrics
from credit_risk.evaluation.bootstrap import Ranked, auc_difference, auc_interval, average_precision, metric_intervals
from credit_risk.evaluation.costs import DecisionRule, cheapest_threshold, decision_costs, mean_costs
from credit_risk.evaluation.leakage import check_leakage, single_feature_aucs

LABELS = np.array([0, 0, 1, 1], np.int8)
PROBABILITIES = np.array([0.1, 0.6, 0.4, 0.9])
RULE = DecisionRule(0.5, 5.0, 1.0)


def made_up(rows: int, skill: float, seed: int = 0) -> tuple[Any, Any]:
    """Labels, and probabilities that rank them better the higher the skill is."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.3).astype(np.int8)
    return labels, 1 / (1 + np.exp(-(skill * labels + rng.normal(size=rows))))


def test_measure_by_hand() -> None:
    figures = metrics.measure(LABELS, PROBABILITIES, threshold=0.5, bins=2)
    assert figures["roc_auc"] == 0.75  # three of four pairs are in order
    assert figures["gini"] == 0.5
    assert figures["ks"] == 0.5
    assert figures["accuracy"] == 0.5  # the second and the third are wrong
    assert figures["majority_accuracy"] == 0.5
    assert figures["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)
    assert figures["brier_skill"] == pytest.approx(1 - 0.185 / 0.25)
    assert figures["ece"] == pytest.approx((abs(1 - 0.5) + abs(1 - 1.5)) / 4)
    assert figures["rows"] == 4
    assert figures["positive_rate"] == 0.5


def test_calibration_error_is_zero_for_calibrated_probabilities_and_one_at_worst() -> None:
    labels = np.array([0, 0, 0, 1] * 25, np.int8)
    assert metrics.expected_calibration_error(labels, np.full(100, 0.25), 10) == pytest.approx(0)
    assert metrics.expected_calibration_error(LABELS, (1 - LABELS).astype(np.float64), 10) == 1


def test_brier_skill_of_the_base_rate_is_zero() -> None:
    assert metrics.brier_skill(LABELS, np.full(4, 0.5), 0.5) == 0
    assert metrics.brier_skill(LABELS, LABELS.astype(float), 0.5) == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9])), min_size=2, max_size=60))
def test_weighted_auc_equals_scikit_learn_on_repeated_rows(pairs: list[tuple[bool, float]]) -> None:
    labels, probabilities = np.array([p[0] for p in pairs], np.int8), np.array([p[1] for p in pairs])
    if labels.min() == labels.max():
        return
    weights = np.arange(len(labels)) % 3 + 1
    expected = roc_auc_score(np.repeat(labels, weights), np.repeat(probabilities, weights))
    assert Ranked(labels, probabilities).auc(weights) == pytest.approx(expected)


def test_intervals_contain_the_metrics() -> None:
    labels, probabilities = made_up(2_000, 1.0)
    probabilities = probabilities.round(2)  # with ties
    figures = metrics.measure(labels, probabilities, 0.5, 10)
    intervals = metric_intervals(labels, probabilities, RULE, 10, 400, seed=3)
    figures |= decision_costs(labels, probabilities, RULE)
    assert set(figures) - set(intervals) == {"rows", "best_threshold", "best_cost"}
    for name, (low, high) in intervals.items():
        assert low < figures[name] < high or name == "ece"  # resampling biases ECE upwards
    assert 0 < intervals["ece"][0] < intervals["ece"][1]


def test_auc_interval_has_the_width_of_the_closed_formula() -> None:
    labels, probabilities = made_up(2_000, 1.0)
    low, high = metric_intervals(labels, probabilities, RULE, 10, 500, 0)["roc_auc"]
    auc, positives, negatives = roc_auc_score(labels, probabilities), labels.sum(), (1 - labels).sum()
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)  # Hanley & McNeil (1982)
    variance = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    error = np.sqrt(variance / (positives * negatives))
    assert low < auc < high
    assert (high - low) == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_paired_difference_is_narrower_than_single_intervals() -> None:
    labels, probabilities = made_up(2_000, 1.0)
    worse = probabilities + np.random.default_rng(1).normal(scale=0.05, size=2_000)
    difference, interval = auc_difference(labels, probabilities, worse, 300, 0)
    assert interval is not None
    low, high = interval
    assert difference == pytest.approx(roc_auc_score(labels, probabilities) - roc_auc_score(labels, worse))
    assert 0 < low < difference < high
    single_low, single_high = metric_intervals(labels, probabilities, RULE, 10, 300, 0)["roc_auc"]
    assert high - low < 0.5 * (single_high - single_low)


def test_a_model_does_not_differ_from_itself() -> None:
    labels, probabilities = made_up(500, 1.0)
    assert auc_difference(labels, probabilities, probabilities, 100, 0) == (0.0, (0.0, 0.0))


def test_too_few_rows_of_an_outcome_have_metrics_but_no_interval() -> None:
    labels = np.zeros(60, np.int8)
    labels[7] = 1
    probabilities = np.linspace(0.1, 0.9, 60)
    assert all(np.isfinite(list(metrics.measure(labels, probabilities, 0.5, 10).values())))
    assert metric_intervals(labels, probabilities, RULE, 10, 100, 0) == {}
    assert auc_difference(labels, probabilities, probabilities[::-1], 100, 0)[1] is None
    assert auc_interval(labels, probabilities, 100, 0) is None


def test_costs_by_hand() -> None:
    labels, probabilities = np.array([0, 1, 0, 1], np.int8), np.array([0.1, 0.2, 0.3, 0.4])
    costs = mean_costs(labels, probabilities, [0.0, 0.15, 0.2, 0.35, 1.0], false_negative=5.0, false_positive=1.0)
    # All declined; one negative declined; the same, as 0.2 is declined at 0.2; one positive accepted; all accepted.
    assert costs.tolist() == [0.5, 0.25, 0.25, 1.25, 2.5]
    assert mean_costs(labels, probabilities, 0.2, 5.0, 1.0) == 0.25


def test_decisions_and_trivial_policies_by_hand() -> None:
    labels, probabilities = np.array([0, 1, 0, 1], np.int8), np.array([0.1, 0.2, 0.3, 0.4])
    costs = decision_costs(labels, probabilities, DecisionRule(0.35, 5.0, 1.0))
    assert costs == pytest.approx(
        {"cost": 1.25, "cost_accept_all": 2.5, "cost_decline_all": 0.5, "best_threshold": 0.15, "best_cost": 0.25}
    )


def test_cheapest_threshold_by_hand() -> None:
    labels, probabilities = np.array([0, 1, 0, 1], np.int8), np.array([0.1, 0.2, 0.3, 0.4])
    # False negatives cost five: declining all but the lowest costs one false positive.
    assert cheapest_threshold(labels, probabilities, 5.0, 1.0) == pytest.approx((0.15, 0.25))
    # False positives cost five: declining only the highest costs one false negative.
    assert cheapest_threshold(labels, probabilities, 1.0, 5.0) == pytest.approx((0.35, 0.25))
    # No threshold separates equal probabilities.
    assert cheapest_threshold(labels, np.full(4, 0.5), 1.0, 1.0)[0] in {0.0, 1.0}


def test_cheapest_threshold_is_the_minimum_and_follows_elkans_rule() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random(2_000)
    labels = (rng.random(2_000) < probabilities).astype(np.int8)  # calibrated
    threshold, cost = cheapest_threshold(labels, probabilities, 4.0, 1.0)
    declined = probabilities >= threshold
    assert cost == pytest.approx(np.mean(np.where(declined, labels == 0, 4.0 * (labels == 1))))
    assert cost <= mean_costs(labels, probabilities, np.linspace(0, 1, 501), 4.0, 1.0).min()
    assert threshold == pytest.approx(1 / 5, abs=0.06)


def test_leakage_check_finds_the_leaking_feature_and_no_honest_one() -> None:
    labels, honest = made_up(3_000, 0.8)
    noise = np.random.default_rng(3).normal(size=3_000)
    leaking = np.where(labels == 1, np.round(np.abs(noise) * 40), 12 * np.round(np.abs(noise) * 5 + 1))
    features = np.column_stack([noise, honest, leaking, np.full(3_000, np.nan)]).astype(np.float32)
    aucs = single_feature_aucs(features, labels, ["noise", "honest", "leaking", "missing"], 0)
    assert next(iter(aucs)) == "leaking"
    assert aucs["leaking"] > 0.8
    assert 0.6 < aucs["honest"] < 0.8
    assert aucs["noise"] < 0.6
    assert aucs["missing"] == 0.5
    check_leakage({name: auc for name, auc in aucs.items() if name != "leaking"}, 0.8)
    with pytest.raises(ProjectError, match=r"^leaking \(0\.\d\d\) alone reaches"):
        check_leakage(aucs, 0.8)
    check_leakage({"leaking": 1.0}, 1.0)  # switched off


def test_leakage_check_finds_a_name_that_gives_the_outcome_away() -> None:
    """Codes of names have no order: a tree that splits them finds nothing."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 4_000).astype(np.int8)
    leaking = np.array([name_code(f"{label} {random.integers(1_000)}") for label in labels])
    features = np.column_stack([leaking, random.permutation(leaking)]).astype(np.float32)
    names = ["leaking", "honest"]
    assert single_feature_aucs(features, labels, names, 0)["leaking"] < 0.75
    aucs = single_feature_aucs(features, labels, names, 0, open_names=names)
    assert aucs["leaking"] > 0.9
    assert aucs["honest"] < 0.55


def test_leakage_check_samples_many_rows() -> None:
    labels, honest = made_up(60_000, 2.5)
    aucs = single_feature_aucs(honest[:, None].astype(np.float32), labels, ["a"], 0)
    assert aucs["a"] == pytest.approx(roc_auc_score(labels, honest), abs=0.02)


def test_leakage_check_of_too_few_rows_says_so() -> None:
    labels = np.array([0] * 58 + [1] * 2, np.int8)
    with pytest.raises(ProjectError, match="too few rows for the leakage check: 2 of one outcome"):
        single_feature_aucs(np.zeros((60, 1), np.float32), labels, ["a"], 0)


def test_the_cheapest_threshold_is_found_wherever_it_is() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.random(4_000)
    labels = (rng.random(4_000) < probabilities).astype(np.int8)  # calibrated
    threshold, cost = cheapest_threshold(labels, probabilities, 1.0, 9.0)
    assert threshold == pytest.approx(0.9, abs=0.06)
    assert cost <= mean_costs(labels, probabilities, np.linspace(0, 1, 501), 1.0, 9.0).min()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.5, 0.9])), min_size=2, max_size=40))
def test_weighted_average_precision_equals_scikit_learn_on_repeated_rows(pairs: list[tuple[bool, float]]) -> None:
    labels, probabilities = np.array([p[0] for p in pairs], np.int8), np.array([p[1] for p in pairs])
    weights = np.arange(len(labels)) % 3  # some rows are not drawn
    drawn = np.repeat(labels, weights)
    if len(set(drawn.tolist())) < 2:
        return
    shares = Ranked(labels, probabilities).shares_below(weights)
    expected = average_precision_score(drawn, np.repeat(probabilities, weights))
    assert average_precision(*shares, float(drawn.mean())) == pytest.approx(expected)
