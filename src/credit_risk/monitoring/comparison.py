"""Compares a window of predictions with the version's reference: what has moved, by how much, and whether to alarm.

An alarm about a distribution or a share needs two things: a difference that chance does not explain, and one that is
large enough to matter. For the first, the p-values of all tests of a window are corrected together by Holm's method, so
that the probability of any false alarm is at most `monitor.alpha`; for the second, each kind has a threshold. Sources:
Holm (1979), "A simple sequentially rejective multiple test procedure"; Siddiqi (2017), "Intelligent credit scoring".
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import chi2_contingency, norm

from credit_risk.contract import CONTRACT
from credit_risk.core.schema import Number
from credit_risk.evaluation.costs import mean_costs
from credit_risk.evaluation.metrics import expected_calibration_error
from credit_risk.features import FEATURES
from credit_risk.monitoring.estimate import DRAWS, estimate, expected_auc
from credit_risk.monitoring.params import MonitorParams
from credit_risk.monitoring.reference import BINS, PROBABILITY, Reference
from credit_risk.monitoring.window import Window

MIN_EXPECTED = 5  # rows a bin, below which the chi-squared distribution is a poor approximation
MIN_OUTCOMES = 20  # of each kind, for figures that need outcomes


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison.

    Attributes:
        kind: `psi`, `missing`, `invalid`, `decline_rate`, `volume`, `estimated_auc`, `realised_auc` or `event_rate`.
        name: of the feature or field; empty where the kind says all.
        value: in the window.
        expected: in the reference; for `psi` 0.
        limit: from which difference on it alarms.
        beyond: whether the difference is large enough to matter.
        p_value: probability of such a difference by chance; None for a check that is no test.
        alarm: whether it alarms; filled in by `corrected`.
    """

    kind: str
    name: str
    value: float
    expected: float
    limit: float
    beyond: bool
    p_value: float | None = None
    alarm: bool = False


def compare(
    reference: Reference, window: Window, section: MonitorParams, traffic: tuple[int, int] | None = None
) -> list[Check]:
    """All checks of a window.

    Args:
        reference: of the version that scored the window.
        window: at least one row.
        section: the thresholds.
        traffic: rows of all versions in the window, and in one as long just before it; None if that has none.
    """
    checks = [
        volume(len(window.rows), section, traffic),
        *drift(reference, window, section),
        *shares(reference, window, section),
        *estimated(reference, window, section),
        *realised_checks(reference, window, section),
    ]
    return corrected(checks, section.alpha)


def corrected(checks: list[Check], alpha: float) -> list[Check]:
    """The checks with their alarms; the p-values are corrected by Holm's method."""
    tests = sorted((check.p_value, number) for number, check in enumerate(checks) if check.p_value is not None)
    significant: set[int] = set()
    for rank, (p_value, number) in enumerate(tests):
        if p_value > alpha / (len(tests) - rank):
            break
        significant.add(number)
    return [
        replace(check, alarm=check.beyond and (check.p_value is None or number in significant))
        for number, check in enumerate(checks)
    ]


def volume(rows: int, section: MonitorParams, traffic: tuple[int, int] | None) -> Check:
    """Too few rows of the version to compare, or fewer than half of all versions' rows in the window before."""
    if rows < section.min_rows:
        return Check("volume", "", rows, section.min_rows, section.min_rows, beyond=True)
    now, before = traffic or (rows, rows)  # of all versions: a new champion has no window before
    return Check("volume", "", now, before, before / 2, beyond=now < before / 2)


def drift(reference: Reference, window: Window, section: MonitorParams) -> Iterator[Check]:
    """The distribution of the probability and of each feature, without those of ignored fields."""
    ignored = {each.name for each in FEATURES if FEATURES.fields_of(each) & set(section.ignored_fields)}
    for name, distribution in reference.features.items():
        if name in ignored:
            continue
        values = window.probabilities if name == PROBABILITY else FEATURES.column(window.features, name)
        expected, found = np.asarray(distribution.counts), distribution.count(values)
        index = psi(expected, found)
        yield Check(
            "psi", name, index, 0.0, section.min_psi, index >= section.min_psi, same_distribution(expected, found)
        )


def psi(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    """Population stability index of counts by bin; an empty bin counts as half a row."""
    used = (expected + found) > 0
    one, other = (np.maximum(counts[used], 0.5) / counts.sum() for counts in (expected, found))
    return float(((other - one) * np.log(other / one)).sum())


def same_distribution(expected: npt.NDArray[Any], found: npt.NDArray[Any]) -> float:
    """p-value of the chi-squared test of two samples' counts by bin; rare bins are one."""
    counts = np.array([expected, found], float)
    small = counts.sum(axis=0) * counts.sum(axis=1).min() / counts.sum() < MIN_EXPECTED
    counts = np.column_stack([counts[:, ~small], counts[:, small].sum(axis=1)])
    counts = counts[:, counts.sum(axis=0) > 0]
    return float(chi2_contingency(counts, correction=False).pvalue) if counts.shape[1] > 1 else 1.0


def shares(reference: Reference, window: Window, section: MonitorParams) -> Iterator[Check]:
    """Missing and invalid values of each field, and declined rows."""
    rows = len(window.rows)
    for field in CONTRACT.fields:
        if field.name in section.ignored_fields or field.name not in reference.missing:  # it was added since
            continue
        values = window.rows[field.name]
        missing = int(values.isna().sum())
        yield _share("missing", field.name, missing, rows, reference.missing[field.name], reference.rows, section)
        known = values.dropna()
        right = known.between(field.minimum, field.maximum) if isinstance(field, Number) else known.map(field.accepts)
        share = float((~right).sum()) / rows
        limit = section.max_invalid_share
        yield Check("invalid", field.name, share, 0.0, limit, beyond=share > limit)
    expected = reference.metrics["decline_rate"]
    yield _share("decline_rate", "", int(window.declined.sum()), rows, expected, reference.rows, section)


def _share(  # noqa: PLR0913, PLR0917 (two shares, each with its rows)
    kind: str, name: str, count: int, rows: int, expected: float, expected_rows: int, section: MonitorParams
) -> Check:
    value, limit = count / rows, section.min_share_change
    before = round(expected * expected_rows)
    p_value = same_distribution(np.array([before, expected_rows - before]), np.array([count, rows - count]))
    return Check(kind, name, value, expected, limit, abs(value - expected) >= limit, p_value)


def estimated(reference: Reference, window: Window, section: MonitorParams) -> Iterator[Check]:
    """The AUC that the probabilities imply; it alarms when the whole interval is below the limit."""
    found = estimate(reference.calibrated(window.probabilities), window.declined, reference.costs)
    expected = reference.metrics["estimated_auc"]
    value, _, high = found["roc_auc"]
    limit = expected - section.max_auc_drop
    yield Check("estimated_auc", "", value, expected, limit, beyond=high < limit)


def realised_checks(reference: Reference, window: Window, section: MonitorParams) -> Iterator[Check]:
    """The AUC of the rows with outcomes, and their positive rate against what their probabilities say."""
    known = window.select(~np.isnan(window.labels))
    if not enough(known.labels):
        return
    figures = realised(reference, known)
    auc, _, high = figures["roc_auc"]
    expected, limit = reference.metrics["roc_auc"], reference.metrics["roc_auc"] - section.max_auc_drop
    yield Check("realised_auc", "", auc, expected, limit, beyond=high < limit)
    calibrated = reference.calibrated(known.probabilities)
    rate, implied = float(known.labels.mean()), float(calibrated.mean())
    deviation = float((calibrated * (1 - calibrated)).sum()) ** 0.5 / len(calibrated)
    p_value = float(2 * norm.sf(abs(rate - implied) / deviation))
    gap = section.min_rate_gap
    yield Check("event_rate", "", rate, implied, gap, abs(rate - implied) >= gap, p_value)


def enough(labels: npt.NDArray[np.float64]) -> bool:
    """Whether labels, NaN where unknown, hold enough of both outcomes for figures."""
    return min(int((labels == 1).sum()), int((labels == 0).sum())) >= MIN_OUTCOMES


def realised(reference: Reference, known: Window) -> dict[str, Any]:
    """Figures of rows that all have outcomes; the AUC with its 95 % bootstrap interval."""
    labels, probabilities, (false_negative, false_positive) = known.labels, known.probabilities, reference.costs
    rng = np.random.default_rng(0)
    rows = len(labels)
    draws = [
        expected_auc(
            probabilities, labels, np.bincount(rng.integers(rows, size=rows), minlength=rows).astype(np.float64)
        )
        for _ in range(DRAWS)
    ]
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return {
        "rows": rows,
        "roc_auc": (expected_auc(probabilities, labels), float(low), float(high)),
        "ece": expected_calibration_error(labels.astype(np.int8), probabilities, BINS),
        "positive_rate": float(labels.mean()),
        "mean_probability": float(probabilities.mean()),
        "decline_rate": float(known.declined.mean()),
        "cost": float(np.where(known.declined, false_positive * (1 - labels), false_negative * labels).mean()),
        "cost_of_accepting_all": float(mean_costs(labels.astype(np.int8), probabilities, 1.1, *reference.costs)),
    }


def by_group(reference: Reference, window: Window, groups: "pd.Series[str]") -> list[dict[str, Any]]:
    """Estimated and, where enough outcomes are known, realised figures of each group of rows."""
    found = []
    for group in sorted(groups.unique()):
        part = window.select((groups == group).to_numpy())
        known = part.select(~np.isnan(part.labels))
        found.append(
            {
                "group": group,
                "rows": len(part.rows),
                "decline_rate": float(part.declined.mean()),
                "estimated": estimate(reference.calibrated(part.probabilities), part.declined, reference.costs),
                "realised": realised(reference, known) if enough(known.labels) else None,
            }
        )
    return found
