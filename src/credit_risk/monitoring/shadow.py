"""Compares a shadow model with the champion on the rows of the shipped log that both have scored.

Agreement, shift of the probabilities and changed decisions need no outcomes. With outcomes, both are measured on the
same rows, with paired bootstrap intervals. Outcomes are often known for accepted rows only: then the figures are too.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import spearmanr

from credit_risk.contract import CONTRACT
from credit_risk.core.arrays import Labels, Scores
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import ROW_ID
from credit_risk.data.store import Store
from credit_risk.evaluation.bootstrap import auc_difference, bootstrap
from credit_risk.monitoring.comparison import enough, psi
from credit_risk.monitoring.outcomes import known_outcomes, labels_of
from credit_risk.monitoring.reference import Distribution
from credit_risk.monitoring.shipping import read_shipped, shipped_days
from credit_risk.registry.gate_params import ShadowDemands
from credit_risk.registry.gate_results import Check

_COLUMNS = ["time", ROW_ID, "version", "probability", "decision", "shadow_version", "shadow_probability"]


@dataclass(frozen=True, slots=True)
class ShadowRows:
    """Rows that both have scored, in the order of time; arrays of shape (n,).

    Attributes:
        champion: number of the version that answered.
        shadow: number of the version in its shadow.
        scored_share: of the champion's rows in that time, those that the shadow model has scored too.
        days: of each row, in UTC, as 2024-12-31.
        probabilities: the champion's.
        shadow_probabilities: the shadow model's.
        declined: whether the champion declined the row.
        shadow_declined: whether the shadow model would have.
        labels: 1 positive, 0 negative, NaN where no outcome is known.
    """

    champion: str
    shadow: str
    scored_share: float
    days: npt.NDArray[Any]
    probabilities: Scores
    shadow_probabilities: Scores
    declined: npt.NDArray[np.bool_]
    shadow_declined: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.float64]

    @classmethod
    def read(cls, store: Store, champion: str, shadow: str, threshold: float) -> Self:
        """The rows of two versions; of rows with the same id the last. `threshold` is the shadow model's.

        Raises:
            ProjectError: the store has none, or fails.
        """
        frame = _read(store, champion, shadow)
        scored = frame["shadow_version"] == shadow
        times = frame["time"][scored]
        during = frame["time"].between(times.min(), times.max())
        rows = frame[scored].sort_values("time", kind="stable")
        rows = rows[rows[ROW_ID].isna() | ~rows.duplicated(ROW_ID, keep="last")]
        shadow_probabilities = rows["shadow_probability"].to_numpy(np.float64)
        return cls(
            champion,
            shadow,
            float(scored[during].mean()),
            rows["time"].dt.strftime("%Y-%m-%d").to_numpy(),
            rows["probability"].to_numpy(np.float64),
            shadow_probabilities,
            (rows["decision"] == CONTRACT.problem.decline).to_numpy(bool),
            shadow_probabilities >= threshold,
            labels_of(rows, known_outcomes(store))[0],
        )


def _read(store: Store, champion: str, shadow: str) -> pd.DataFrame:
    """The champion's rows in the log; at least one has the shadow model's score."""
    pairs: Counter[str] = Counter()
    tables = []
    for day in shipped_days(store):
        for table in read_shipped(store, day, _COLUMNS):
            frame = table.to_pandas()
            tables.append(frame[frame["version"] == champion])
            both = frame["version"] + " with " + frame["shadow_version"]
            pairs.update(both.dropna())
    if f"{champion} with {shadow}" not in pairs:
        found = f"but of {', '.join(sorted(pairs))} in its shadow" if pairs else "nor of any other shadow model"
        raise ProjectError(
            f"{store.name} has no row of version {champion} with {shadow} in its shadow, {found}; serve with "
            "SHADOW_ALIAS=challenger and PREDICTION_LOG, then `uv run main.py log ship`"
        )
    rows: pd.DataFrame = pd.concat(tables, ignore_index=True)
    return rows


def compare(rows: ShadowRows, costs: tuple[float, float], resamples: int, seed: int) -> dict[str, Any]:
    """The comparison, as JSON has it.

    Args:
        rows: at least one.
        costs: of a false negative and of a false positive.
        resamples: of the bootstrap.
        seed: of the resampling.
    """
    old, new = rows.probabilities, rows.shadow_probabilities
    distribution = Distribution.of(old, categorical=False)
    return {
        "champion": rows.champion,
        "shadow": rows.shadow,
        "from": rows.days.min(),
        "to": rows.days.max(),
        "days": len(np.unique(rows.days)),
        "rows": len(old),
        "scored_share": rows.scored_share,
        "mean_probability": [float(old.mean()), float(new.mean())],
        "mean_absolute_difference": float(np.abs(new - old).mean()),
        "rank_correlation": float(spearmanr(old, new).statistic) if min(np.ptp(old), np.ptp(new)) > 0 else None,
        "psi": psi(np.asarray(distribution.counts), distribution.count(new)),
        "decline_rate": [float(rows.declined.mean()), float(rows.shadow_declined.mean())],
        "changed_decisions": float((rows.declined != rows.shadow_declined).mean()),
        "decisions": _decisions(rows),
        "realised": _realised(rows, costs, resamples, seed),
    }


def _decisions(rows: ShadowRows) -> list[dict[str, Any]]:
    """Rows by the decisions of both: how many, and the positive rate of those with outcomes."""
    accepted, declined = CONTRACT.problem.accepted, CONTRACT.problem.declined
    found = []
    for old, new, decision in (
        (False, False, f"{accepted} by both"),
        (True, True, f"{declined} by both"),
        (False, True, f"{declined} by version {rows.shadow} only"),
        (True, False, f"{declined} by version {rows.champion} only"),
    ):
        group = (rows.declined == old) & (rows.shadow_declined == new)
        known = rows.labels[group & ~np.isnan(rows.labels)]
        found.append(
            {
                "decision": decision,
                "rows": int(group.sum()),
                "share": float(group.mean()),
                "outcomes": len(known),
                "positive_rate": float(known.mean()) if len(known) else None,
            }
        )
    return found


def _realised(rows: ShadowRows, costs: tuple[float, float], resamples: int, seed: int) -> dict[str, Any] | None:
    """AUC and cost of a row: the shadow model's less the champion's, with intervals; None for too few outcomes."""
    known = ~np.isnan(rows.labels)
    if not enough(rows.labels):
        return None
    labels: Labels = rows.labels[known].astype(np.int8)
    auc, auc_interval = auc_difference(
        labels, rows.shadow_probabilities[known], rows.probabilities[known], resamples, seed
    )
    wrong = [(declined[known] != labels).astype(np.int8) for declined in (rows.declined, rows.shadow_declined)]
    difference = (wrong[1] - wrong[0]) * np.where(labels == 1, *costs)
    intervals = bootstrap(
        lambda weights: {"cost": float(weights @ difference / len(labels))},
        labels,
        resamples,
        seed,
    )
    return {
        "rows": int(known.sum()),
        "positive_rate": float(labels.mean()),
        "auc_difference": [auc, *(auc_interval or ())],
        "cost_difference": [float(difference.mean()), *intervals["cost"]],
    }


def checks(result: dict[str, Any], demands: ShadowDemands) -> tuple[Check, ...]:
    """What is demanded of a comparison; too few outcomes are no reason to reject, significantly worse ones are."""
    index, real = result["psi"], result["realised"]
    changed, limit = result["changed_decisions"], demands.max_changed_decisions
    found = [
        _at_least("shadow_days", result["days"], demands.days),
        _at_least("shadow_rows", result["rows"], demands.rows),
        Check("shadow_decisions", changed <= limit, f"{changed:.1%} changed", f"≤ {limit:.1%}"),
    ]
    if demands.max_psi is not None:
        found.append(Check("shadow_psi", index <= demands.max_psi, f"{index:.3f}", f"≤ {demands.max_psi:.3f}"))
    if real:
        (auc, low, high), (cost, cost_low, cost_high) = real["auc_difference"], real["cost_difference"]
        shown = f"{auc:+.4f} ({low:+.4f} to {high:+.4f}), {real['rows']:,} outcomes"
        found.append(Check("shadow_auc", high >= 0, shown, "AUC difference, upper end ≥ 0"))
        shown = f"{cost:+.4f} ({cost_low:+.4f} to {cost_high:+.4f})"
        found.append(Check("shadow_cost", cost_low <= 0, shown, "cost difference, lower end ≤ 0"))
    return tuple(found)


def _at_least(name: str, count: int, least: int) -> Check:
    return Check(name, count >= least, f"{count:,}", f"≥ {least:,}")
