"""Writes the report, the model card and the points of the curves."""

import shutil
from pathlib import Path
from typing import Any

from sklearn.pipeline import Pipeline

from credit_risk.contract import CONTRACT
from credit_risk.core import templates
from credit_risk.core.paths import data
from credit_risk.evaluation.params import EvaluateParams
from credit_risk.features import FEATURES
from credit_risk.model import TrainParams
from credit_risk.report.contents import Splits, contents
from credit_risk.report.curves import write_points
from credit_risk.report.figures import figures

TEMPLATES = Path(__file__).parent


def write_report(  # noqa: PLR0913, PLR0917 (all that stage 6 has)
    model: Pipeline,
    splits: Splits,
    metrics: dict[str, Any],
    training: dict[str, Any],
    train: TrainParams,
    section: EvaluateParams,
) -> None:
    """Writes report.html, model_card.md and plots/*.csv into 1.data/6.reports.

    Args:
        model: the fitted pipeline.
        splits: `train` and the holdouts of the contract.
        metrics: the content of metrics.json.
        training: the content of training.json.
        train: section `train` of params.yaml.
        section: section `evaluate` of params.yaml.
    """
    context = contents(model, splits, training["threshold"], train, section)
    plots = data("6.reports", "plots")
    shutil.rmtree(plots, ignore_errors=True)  # curves of an earlier run must not stay
    for name, found in context["curves"].items():
        write_points(found, plots, name)
    context |= {"contract": CONTRACT, "problem": CONTRACT.problem, "holdouts": CONTRACT.holdouts, "features": FEATURES}
    context |= {"metrics": metrics, "training": training, "train": train, "figures": figures(context)}
    for name in ("report.html", "model_card.md"):
        templates.write(TEMPLATES / f"{name}.j2", data("6.reports", name), context)
