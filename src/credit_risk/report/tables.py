"""What a credit committee asks of a model beyond one figure: deciles, stability, slices, what drives it, and promises.

Pure functions from labels, scores and features to tables. What is asked: Siddiqi (2017), "Intelligent credit scoring";
Federal Reserve, SR 11-7, "Guidance on model risk management".
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from optbinning.binning.metrics import jeffrey
from scipy.stats import norm, rankdata

from credit_risk.evaluation.metrics import Labels, Probabilities
from credit_risk.features import MISSING, UNSEEN

Predict = Callable[[Any], Probabilities]  # probability of default of each row of features
SIGNIFICANCE = 0.05  # for all slices together


def auc_error(labels: Labels, scores: Probabilities) -> tuple[float, float]:
    """ROC AUC and its standard error.

    Source: DeLong, DeLong & Clarke-Pearson (1988), "Comparing the areas under two or more correlated receiver operating
    characteristic curves".
    """
    defaulted = labels == 1
    bad, good = int(defaulted.sum()), int((~defaulted).sum())
    ranks = rankdata(scores)
    over_good = (ranks[defaulted] - rankdata(scores[defaulted])) / good  # share of paid loans below each default
    under_bad = 1 - (ranks[~defaulted] - rankdata(scores[~defaulted])) / bad
    variance = over_good.var(ddof=1) / bad + under_bad.var(ddof=1) / good
    return float(over_good.mean()), float(variance**0.5)


def deciles(labels: Labels, scores: Probabilities) -> pd.DataFrame:
    """Tenths of the loans, riskiest first: loans, score, default rate, and what is caught and refused up to there."""
    order = np.argsort(-scores, kind="stable")
    tenth = pd.Series(np.arange(len(order)) * 10 // len(order) + 1, name="tenth")
    frame = pd.DataFrame({"default": labels[order], "score": scores[order]}).groupby(tenth)
    table = pd.DataFrame(
        {
            "loans": frame.size(),
            "lowest_score": frame["score"].min(),
            "mean_score": frame["score"].mean(),
            "default_rate": frame["default"].mean(),
            "defaults": frame["default"].sum(),
        }
    )
    caught = table["defaults"].cumsum() / labels.sum()
    refused = (table["loans"] - table["defaults"]).cumsum() / (labels == 0).sum()
    table["lift"] = table["default_rate"] / labels.mean()
    table["caught"], table["paid_refused"], table["ks"] = caught, refused, caught - refused
    return table.reset_index()


def stability(reference: npt.NDArray[Any], other: npt.NDArray[Any], *, categorical: bool, bins: int = 10) -> float:
    """Population stability index: how far a distribution has moved; above 0.25 it is another population.

    Numbers are cut at the reference's quantiles; missing values are a group. The index is OptBinning's (Jeffrey's
    divergence); the groups are ours, as its ScorecardMonitoring knows no score but its own scorecard's, and loses loans
    in groups that train does not have. Source: Siddiqi (2017).
    """
    if categorical:
        codes = np.union1d(reference, other)
        counts = [np.bincount(np.searchsorted(codes, side), minlength=len(codes)) for side in (reference, other)]
    else:
        edges = np.unique(np.nanquantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))
        groups = [np.where(np.isnan(side), len(edges) + 1, np.searchsorted(edges, side)) for side in (reference, other)]
        counts = [np.bincount(group, minlength=len(edges) + 2) for group in groups]
    expected, actual = (np.maximum(count, 0.5) / count.sum() for count in counts)
    return float(jeffrey(actual, expected, return_sum=True))


def slices(
    labels: Labels,
    scores: Probabilities,
    dimensions: Mapping[str, npt.NDArray[Any]],
    least_loans: int,
    least_defaults: int,
) -> pd.DataFrame:
    """The model on parts of the loans.

    Args:
        labels: shape (n,).
        scores: shape (n,).
        dimensions: by name the group of each loan, shape (n,). Groups with too few loans or outcomes are put together.
        least_loans: that a group needs to be shown by itself.
        least_defaults: … and of each outcome.

    Returns:
        For each group: loans, default rate, mean score, AUC with its 95 % interval, and two flags at a level of 5 % for
        all groups together (Bonferroni): `ranks_worse` than on the other loans, and `understated` risk (more defaults
        than the scores say, beyond chance).
    """
    rows: list[dict[str, Any]] = []
    for dimension, groups in dimensions.items():
        named = np.asarray(groups, dtype=object).copy()
        for group in pd.unique(named):
            mine = named == group
            outcomes = np.bincount(labels[mine], minlength=2)
            if mine.sum() < least_loans or outcomes.min() < least_defaults:
                named[mine] = "all others"
        for group in sorted(pd.unique(named), key=lambda group: (group == "all others", str(group))):
            mine = named == group
            if not mine.all() and np.bincount(labels[mine], minlength=2).min() >= 2:  # noqa: PLR2004 (a variance)
                rows.append({"dimension": dimension, "group": str(group), **_slice(labels, scores, mine)})
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    beyond = norm.isf(SIGNIFICANCE / len(table))
    table["ranks_worse"] = table.pop("z_rank") > beyond
    table["understated"] = table.pop("z_level") > beyond
    return table


def _slice(labels: Labels, scores: Probabilities, mine: npt.NDArray[np.bool_]) -> dict[str, float]:
    auc, error = auc_error(labels[mine], scores[mine])
    comparable = np.bincount(labels[~mine], minlength=2).min() >= 2  # noqa: PLR2004 (a variance)
    rest, rest_error = auc_error(labels[~mine], scores[~mine]) if comparable else (auc, error)
    mean, observed = float(scores[mine].mean()), float(labels[mine].mean())
    spread = float((scores[mine] * (1 - scores[mine])).sum()) ** 0.5
    return {
        "loans": int(mine.sum()),
        "default_rate": observed,
        "mean_score": mean,
        "roc_auc": auc,
        "roc_auc_low": max(auc - 1.96 * error, 0.0),
        "roc_auc_high": min(auc + 1.96 * error, 1.0),
        "z_rank": (rest - auc) / float(np.hypot(error, rest_error)),
        "z_level": (observed - mean) * mine.sum() / spread,
    }


def partial_dependence(
    predict: Predict, features: npt.NDArray[np.float32], index: int, *, categorical: bool, points: int = 20
) -> pd.DataFrame:
    """Mean score of the loans if one feature had a certain value in all of them; x: value, y: mean score.

    Source: Friedman (2001), "Greedy function approximation: a gradient boosting machine".
    """
    column = features[:, index]
    known = column[~np.isnan(column)]
    if categorical:
        grid, counts = np.unique(known, return_counts=True)
        grid = grid[(counts >= len(known) / 200) & (grid != MISSING) & (grid != UNSEEN)]
    else:
        grid = np.unique(np.quantile(known, np.linspace(0.02, 0.98, points)).astype(np.float32))
    changed = features.copy()
    means = []
    for value in grid:
        changed[:, index] = value
        means.append(float(predict(changed).mean()))
    return pd.DataFrame({"x": grid, "y": means})


def promise(before: Probabilities, after: Probabilities, tolerance: float = 1e-6) -> dict[str, float]:
    """Whether a change lowers the risk, loan by loan: the mean change, and the shares that fall, stay and rise."""
    change = after - before
    return {
        "mean_change": float(change.mean()),
        "fall": float((change < -tolerance).mean()),
        "stay": float((np.abs(change) <= tolerance).mean()),
        "rise": float((change > tolerance).mean()),
        "largest_rise": float(max(change.max(), 0.0)),
    }
