"""Tables of the report: deciles, stability, slices, what-if changes.

Pure functions of labels, probabilities and features. What a model review looks at: Siddiqi (2017), "Intelligent credit
scoring"; Federal Reserve, SR 11-7, "Guidance on model risk management".
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import binomtest, norm, rankdata

from credit_risk.core.arrays import Labels, Scores

SIGNIFICANCE = 0.05  # for all slices of a table together
MIN_OUTCOME_ROWS = 20  # of each outcome, for a slice to be shown on its own
OTHERS = "all others"


def share_with_interval(name: str, flags: npt.NDArray[np.bool_]) -> dict[str, float | None]:
    """The share of true flags with its 95 % Wilson interval; None where there are no rows."""
    if not len(flags):
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    ends = binomtest(int(flags.sum()), len(flags)).proportion_ci(method="wilson")
    return {name: float(flags.mean()), f"{name}_low": float(ends.low), f"{name}_high": float(ends.high)}


def deciles(labels: Labels, probabilities: Scores) -> pd.DataFrame:
    """Tenths of the rows, highest probabilities first.

    Returns:
        For each decile: rows, lowest and mean probability, positive rate with its 95 % Wilson interval, lift over the
        whole, and what declining down to this decile would capture: shares of all positives and of all negatives, and
        their difference (KS).
    """
    order = np.argsort(-probabilities, kind="stable")
    decile = pd.Series(np.arange(len(order)) * 10 // len(order) + 1, name="decile")
    grouped = pd.DataFrame({"label": labels[order], "probability": probabilities[order]}).groupby(decile)
    positives, rows = grouped["label"].sum(), grouped.size()
    captured = positives.cumsum() / labels.sum()
    negatives_captured = (rows - positives).cumsum() / (labels == 0).sum()
    table = pd.DataFrame(
        {
            "rows": rows,
            "lowest_probability": grouped["probability"].min(),
            "mean_probability": grouped["probability"].mean(),
            "positive_rate": positives / rows,
            "lift": positives / rows / labels.mean(),
            "positives_captured": captured,
            "negatives_captured": negatives_captured,
            "ks": captured - negatives_captured,
        }
    )
    intervals = [share_with_interval("positive_rate", group.to_numpy(bool)) for _, group in grouped["label"]]
    for end in ("low", "high"):
        table[f"positive_rate_{end}"] = [interval[f"positive_rate_{end}"] for interval in intervals]
    return table.reset_index()


def stability_index(
    reference: npt.NDArray[Any], other: npt.NDArray[Any], *, categorical: bool, bins: int = 10
) -> float:
    """Population stability index: how far a distribution has moved; above 0.25 it is another population.

    Numbers are cut at the reference's quantiles; missing values are a group. Source: Siddiqi (2017).
    """
    if categorical:
        codes = np.union1d(reference, other)
        groups = [np.searchsorted(codes, values) for values in (reference, other)]
    else:
        known = reference[~np.isnan(reference)]
        edges = np.unique(np.quantile(known, np.linspace(0, 1, bins + 1)[1:-1])) if len(known) else np.array([])
        groups = [
            np.where(np.isnan(values), len(edges) + 1, np.searchsorted(edges, values)) for values in (reference, other)
        ]
    size = max(int(group.max()) for group in groups) + 1
    counts = np.array([np.bincount(group, minlength=size) for group in groups])
    counts = counts[:, counts.sum(axis=0) > 0]
    expected, actual = np.maximum(counts, 0.5) / counts.sum(
        axis=1, keepdims=True
    )  # an empty group counts as half a row
    return float(((actual - expected) * np.log(actual / expected)).sum())


def auc_error(labels: Labels, probabilities: Scores) -> tuple[float, float]:
    """ROC AUC and its standard error; each outcome needs two rows.

    Source: DeLong, DeLong & Clarke-Pearson (1988), "Comparing the areas under two or more correlated receiver operating
    characteristic curves".
    """
    is_positive = labels == 1
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    ranks = rankdata(probabilities)
    # For each positive the share of negatives below it, and for each negative the share of positives above it.
    below = (ranks[is_positive] - rankdata(probabilities[is_positive])) / negatives
    above = 1 - (ranks[~is_positive] - rankdata(probabilities[~is_positive])) / positives
    variance = below.var(ddof=1) / positives + above.var(ddof=1) / negatives
    return float(below.mean()), float(variance**0.5)


def slices(
    labels: Labels, probabilities: Scores, groupings: Mapping[str, npt.NDArray[Any]], min_rows: int
) -> pd.DataFrame:
    """The model on groups of rows.

    Args:
        labels: shape (n,).
        probabilities: shape (n,).
        groupings: by name of the grouping the group of each row, shape (n,). Small groups are combined.
        min_rows: that a group needs to be shown on its own; it also needs MIN_OUTCOME_ROWS of each outcome.

    Returns:
        For each group: rows, positive rate and AUC with their 95 % intervals, mean probability, and two flags at a
        level of 5 % for all groups together (Bonferroni): `ranks_worse` than on the other rows, and `understated` risk
        (more positives than the probabilities say, beyond chance).
    """
    found = []
    for name, groups in groupings.items():
        combined = combine_small_groups(labels, groups, min_rows)
        for group in sorted(pd.unique(combined), key=lambda group: (group == OTHERS, str(group))):
            inside = combined == group
            if not inside.all() and _comparable(labels[inside]):
                found.append({"grouping": name, "group": str(group), **_slice(labels, probabilities, inside)})
    table = pd.DataFrame(found)
    if table.empty:
        return table
    limit = norm.isf(SIGNIFICANCE / len(table))
    table["ranks_worse"] = table.pop("z_rank") > limit
    table["understated"] = table.pop("z_level") > limit
    return table


def combine_small_groups(labels: Labels, groups: npt.NDArray[Any], min_rows: int) -> npt.NDArray[Any]:
    """The groups, with those that have too few rows or too few of an outcome as one group OTHERS."""
    combined = np.asarray(groups, dtype=object).copy()
    for group in pd.unique(groups):
        inside = groups == group
        if inside.sum() < min_rows or np.bincount(labels[inside], minlength=2).min() < MIN_OUTCOME_ROWS:
            combined[inside] = OTHERS
    return combined


def _comparable(labels: Labels) -> bool:
    return bool(np.bincount(labels, minlength=2).min() >= 2)  # noqa: PLR2004 (a variance needs two)


def _slice(labels: Labels, probabilities: Scores, inside: npt.NDArray[np.bool_]) -> dict[str, Any]:
    auc, error = auc_error(labels[inside], probabilities[inside])
    others = ~inside
    rest, rest_error = auc_error(labels[others], probabilities[others]) if _comparable(labels[others]) else (auc, error)
    own = probabilities[inside]
    mean, observed = float(own.mean()), float(labels[inside].mean())
    deviation = float((own * (1 - own)).sum()) ** 0.5
    difference_error = float(np.hypot(error, rest_error))
    return {
        "rows": int(inside.sum()),
        **share_with_interval("positive_rate", labels[inside] == 1),
        "mean_probability": mean,
        "roc_auc": auc,
        "roc_auc_low": max(auc - 1.96 * error, 0.0),
        "roc_auc_high": min(auc + 1.96 * error, 1.0),
        "z_rank": (rest - auc) / difference_error if difference_error else 0.0,
        "z_level": (observed - mean) * inside.sum() / deviation if deviation else 0.0,
    }


def change_summary(before: Scores, after: Scores, tolerance: float = 1e-6) -> dict[str, float]:
    """How a change of the rows moves their probabilities: the mean change, and the shares that fall, stay and rise."""
    change = after - before
    return {
        "mean_change": float(change.mean()),
        "fall": float((change < -tolerance).mean()),
        "stay": float((np.abs(change) <= tolerance).mean()),
        "rise": float((change > tolerance).mean()),
        "largest_rise": float(max(change.max(), 0.0)),
    }
