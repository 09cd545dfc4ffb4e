"""What the page of the performance gate shows: the metrics of one or two versions, and the decisions that differ."""

from typing import Any

import numpy as np
import numpy.typing as npt

from credit_risk.contract import CONTRACT
from credit_risk.core.arrays import Labels
from credit_risk.gates.evaluated import EvaluatedVersion
from credit_risk.registry.error_messages import error_text
from credit_risk.registry.gate_params import GateParams
from credit_risk.registry.gate_results import GateResult


def page_context(result: GateResult, evaluated: list[EvaluatedVersion], section: GateParams) -> dict[str, Any]:
    """What the comparison page shows; for a model that can't be measured, the error instead of its metrics."""
    context: dict[str, Any] = {
        "words": CONTRACT.problem,
        "result": result,
        "versions": [each.version.number for each in evaluated],
        "error": "",
    }
    try:
        return context | {
            "holdouts": [holdout_context(name, evaluated, section.calibration_bins) for name in CONTRACT.holdouts]
        }
    except Exception as error:  # noqa: BLE001 (a damaged model may raise anything; its checks have failed)
        return context | {"error": error_text(error), "holdouts": []}


def holdout_context(name: str, evaluated: list[EvaluatedVersion], bins: int) -> dict[str, Any]:
    """Metrics of one or two versions on a holdout, and the decisions that differ."""
    labels = evaluated[0].holdouts[name].labels
    metrics = []
    for each in evaluated:
        declined = each.decisions(name)
        metrics.append(
            each.metrics(name, bins)
            | {"declined": float(declined.mean()), "accepted_positive_rate": positive_rate(labels, ~declined)}
        )
    decisions = changed_decisions(labels, evaluated[0].decisions(name), evaluated[-1].decisions(name))
    return {"name": name, "metrics": metrics, "decisions": decisions}


def changed_decisions(labels: Labels, new: npt.NDArray[np.bool_], old: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Rows grouped by the decisions of two models: how many, their share, and the positive rate among them.

    Args:
        labels: shape (n,).
        new: whether the new model declines each row, shape (n,).
        old: the same of the old model.
    """
    accepted, declined = CONTRACT.problem.accepted, CONTRACT.problem.declined
    groups = {
        f"{accepted} by both": ~new & ~old,
        f"{declined} by both": new & old,
        f"{declined} by the new one only": new & ~old,
        f"{declined} by the old one only": ~new & old,
    }
    return [
        {
            "decision": decision,
            "rows": int(group.sum()),
            "share": float(group.mean()),
            "positive_rate": positive_rate(labels, group),
        }
        for decision, group in groups.items()
    ]


def positive_rate(labels: Labels, group: npt.NDArray[np.bool_]) -> float:
    """Share of positives in a group of rows; 0 for an empty one."""
    return float(labels[group].mean()) if group.any() else 0.0
