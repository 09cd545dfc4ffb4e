"""The figures: against hand-made cases and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from credit_risk.evaluation import metrics
from credit_risk.evaluation.leakage import single_feature_aucs

LABELS = np.array([0, 0, 1, 1], np.int8)
SCORES = np.array([0.1, 0.6, 0.4, 0.9])


def test_measure_by_hand() -> None:
    figures = metrics.measure(LABELS, SCORES, threshold=0.5, bins=2)
    assert figures["roc_auc"] == 0.75  # three of four pairs are in order
    assert figures["gini"] == 0.5
    assert figures["ks"] == 0.5
    assert figures["accuracy"] == 0.5  # the second and the third are wrong
    assert figures["majority_accuracy"] == 0.5
    assert figures["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.01) / 4)
    assert figures["brier_skill"] == pytest.approx(1 - 0.185 / 0.25)
    assert figures["ece"] == pytest.approx((abs(1 - 0.5) + abs(1 - 1.5)) / 4)
    assert figures["rows"] == 4


def test_calibration_error_is_zero_where_scores_are_rates_and_one_at_worst() -> None:
    labels = np.array([0, 0, 0, 1] * 25, np.int8)
    assert metrics.expected_calibration_error(labels, np.full(100, 0.25), 10) == pytest.approx(0)
    assert metrics.expected_calibration_error(LABELS, 1.0 - LABELS, 10) == 1


def test_brier_skill_of_saying_the_rate_is_zero() -> None:
    assert metrics.brier_skill(LABELS, np.full(4, 0.5), 0.5) == 0
    assert metrics.brier_skill(LABELS, LABELS.astype(float), 0.5) == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.9])), min_size=2, max_size=60))
def test_auc_from_counts_is_scikit_learns(pairs: list[tuple[bool, float]]) -> None:
    labels, scores = np.array([p[0] for p in pairs], np.int8), np.array([p[1] for p in pairs])
    if labels.min() == labels.max():
        return
    distinct, place = np.unique(scores, return_inverse=True)
    counts = tuple(np.bincount(place[labels == label], minlength=len(distinct)) for label in (0, 1))
    assert metrics.auc(counts) == pytest.approx(roc_auc_score(labels, scores))  # type: ignore[arg-type]


def made_up(rows: int, skill: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.3).astype(np.int8)
    return labels, 1 / (1 + np.exp(-(skill * labels + rng.normal(size=rows))))


def test_interval_has_the_width_that_theory_gives() -> None:
    labels, scores = made_up(2_000, 1.0)
    low, high = metrics.auc_interval(labels, scores, 500, 0)
    area, bad, good = roc_auc_score(labels, scores), labels.sum(), (1 - labels).sum()
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)  # Hanley & McNeil (1982)
    error = np.sqrt((area * (1 - area) + (bad - 1) * (q1 - area**2) + (good - 1) * (q2 - area**2)) / (bad * good))
    assert low < area < high
    assert (high - low) == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_paired_difference_sees_what_single_intervals_do_not() -> None:
    labels, scores = made_up(2_000, 1.0)
    worse = scores + np.random.default_rng(1).normal(scale=0.05, size=2_000)
    difference, (low, high) = metrics.auc_difference_interval(labels, scores, worse, 300, 0)
    assert difference == pytest.approx(roc_auc_score(labels, scores) - roc_auc_score(labels, worse))
    assert 0 < low < difference < high
    assert high - low < 0.5 * np.subtract(*metrics.auc_interval(labels, scores, 300, 0)[::-1])


def test_no_difference_to_itself() -> None:
    labels, scores = made_up(500, 1.0)
    assert metrics.auc_difference_interval(labels, scores, scores, 100, 0) == (0.0, (0.0, 0.0))


def test_leak_check_finds_the_feature_that_tells_and_not_the_honest_ones() -> None:
    labels, honest = made_up(3_000, 0.8)
    noise = np.random.default_rng(3).normal(size=3_000)
    term = np.where(labels == 1, np.round(np.abs(noise) * 40), 12 * np.round(np.abs(noise) * 5 + 1))
    features = np.column_stack([noise, honest, term, np.full(3_000, np.nan)]).astype(np.float32)
    aucs = single_feature_aucs(features, labels, ["noise", "honest", "term", "missing"], 0)
    assert next(iter(aucs)) == "term"
    assert aucs["term"] > 0.8
    assert 0.6 < aucs["honest"] < 0.8
    assert aucs["noise"] < 0.6
    assert aucs["missing"] == 0.5


def test_leak_check_on_many_rows_uses_a_sample() -> None:
    labels, honest = made_up(60_000, 2.5)
    aucs = single_feature_aucs(honest[:, None].astype(np.float32), labels, ["a"], 0)
    assert aucs["a"] == pytest.approx(roc_auc_score(labels, honest), abs=0.02)
