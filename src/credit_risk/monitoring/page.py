"""The pages of a monitoring run and of a shadow model, in the style of the report, from whose figures they borrow."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from credit_risk.contract import CONTRACT
from credit_risk.core import templates
from credit_risk.monitoring.reference import PROBABILITY, Reference
from credit_risk.monitoring.shadow import ShadowRows
from credit_risk.monitoring.window import Window
from credit_risk.report.figures import BLUE, EVENT_RATE, GREY, ORANGE, RC, panels, svg

TEMPLATES = Path(__file__).with_name("templates")
NAME, SHADOW_NAME = "page.html", "shadow.html"


def write_page(result: dict[str, Any], reference: Reference, window: Window, folder: Path) -> None:
    """Writes page.html."""
    mpl.use("Agg")
    with mpl.rc_context(RC):
        figures = {
            "stability": svg(draw_stability(result["checks"])),
            "probabilities": svg(draw_probabilities(reference, window)),
            "periods": svg(draw_periods(result["periods"])),
        }
    context = {"result": result, "figures": figures, "problem": CONTRACT.problem}
    templates.write(TEMPLATES / "monitor.html.j2", folder / NAME, context)


def write_page_of_shadow(result: dict[str, Any], rows: ShadowRows, folder: Path) -> None:
    """Writes shadow.html."""
    mpl.use("Agg")
    with mpl.rc_context(RC):
        figure = svg(draw_both(rows))
    context = {"result": result, "problem": CONTRACT.problem, "figure_of_probabilities": figure}
    templates.write(TEMPLATES / "shadow.html.j2", folder / SHADOW_NAME, context)


def draw_both(rows: ShadowRows) -> Figure:
    """The distributions of both versions' probabilities, and of their difference on the same row."""
    figure, axes = panels(1, 2, 2.6)
    both = {rows.champion: (rows.probabilities, BLUE), rows.shadow: (rows.shadow_probabilities, ORANGE)}
    bins = np.linspace(0, max(values.max() for values, _ in both.values()) or 1, 31)
    for version, (values, color) in both.items():
        weights = np.full(len(values), 1 / len(values))
        axes[0, 0].hist(values, bins, weights=weights, histtype="step", color=color, label=f"version {version}")
    axes[0, 0].set(xlabel="probability", ylabel=f"share of {CONTRACT.problem.rows}")
    axes[0, 0].legend()
    axes[0, 1].hist(rows.shadow_probabilities - rows.probabilities, 31, color=GREY)
    axes[0, 1].set(xlabel=f"version {rows.shadow} less version {rows.champion}", ylabel=CONTRACT.problem.rows)
    return figure


def draw_stability(checks: list[dict[str, Any]]) -> Figure:
    """The stability index of the probability and of each feature; alarms in another colour."""
    found = sorted((check for check in checks if check["kind"] == "psi"), key=lambda check: check["value"])
    figure, axes = panels(1, 1, 0.9 + 0.2 * len(found))
    axis = axes[0, 0]
    colors = [ORANGE if check["alarm"] else BLUE for check in found]
    axis.barh(range(len(found)), [check["value"] for check in found], color=colors)
    axis.axvline(found[0]["limit"], color="0.3", linewidth=1, linestyle=":")
    axis.set_yticks(range(len(found)), [check["name"] for check in found])
    axis.set(xlabel="population stability index against the reference", ylim=(-0.6, len(found) - 0.4))
    return figure


def draw_probabilities(reference: Reference, window: Window) -> Figure:
    """The share of rows in each decile of the reference's probabilities."""
    distribution = reference.features[PROBABILITY]
    bins = len(distribution.edges) + 1
    figure, axes = panels(1, 1, 2.6)
    axis, place = axes[0, 0], np.arange(bins)
    expected = np.asarray(distribution.counts)[:bins] / sum(distribution.counts)
    axis.bar(place - 0.2, expected, 0.4, color=GREY, label="reference")
    axis.bar(
        place + 0.2, distribution.count(window.probabilities)[:bins] / len(window.rows), 0.4, color=BLUE, label="window"
    )
    axis.set_xticks(place, [*(f"≤ {edge:.3f}" for edge in distribution.edges), "more"], rotation=30)
    axis.set(xlabel="probability", ylabel=f"share of {CONTRACT.problem.rows}")
    axis.legend()
    return figure


def draw_periods(periods: list[dict[str, Any]]) -> Figure:
    """By period: AUC and positive rate, estimated with intervals and realised; decline rate and rows."""
    figure, axes = panels(1, 3, 2.8)
    place = np.arange(len(periods))
    for axis, name, title in ((axes[0, 0], "roc_auc", "ROC AUC"), (axes[0, 1], "positive_rate", EVENT_RATE)):
        value, low, high = np.array([period["estimated"][name] for period in periods]).T
        axis.errorbar(place, value, [value - low, high - value], fmt="o", color=BLUE, label="estimated")
        known = [(at, period["realised"][name]) for at, period in enumerate(periods) if period["realised"]]
        points = [(at, found[0] if name == "roc_auc" else found) for at, found in known]
        axis.plot(*zip(*points, strict=True) if points else ([], []), "s", color=ORANGE, label="realised")
        axis.set(title=title)
        axis.legend()
    axes[0, 2].bar(place, [period["rows"] for period in periods], color=GREY)
    axes[0, 2].set(title=CONTRACT.problem.rows)
    for axis in axes.flat:
        axis.set_xticks(place, [period["group"] for period in periods], rotation=60)
    return figure
