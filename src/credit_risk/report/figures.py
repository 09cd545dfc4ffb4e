"""The figures of the report, as SVG elements, so that the page needs no other file.

Colours are distinguishable for the colour-blind (Okabe & Ito), and lines also by their dashes.
"""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from credit_risk.contract import CONTRACT
from credit_risk.core.templates import words

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.6"
STYLES: dict[str, dict[str, Any]] = {
    "train": {"color": GREEN, "linestyle": ":"},
    "test": {"color": BLUE, "linestyle": "-"},
    "out_of_time": {"color": ORANGE, "linestyle": "--"},
}
RC: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "report",  # the same figure has the same bytes
    "font.family": "sans-serif",
}
SHOWN_ENDS = 7  # of many categories, those with the lowest and the highest mean probabilities
LABEL = 18  # characters of a category that are shown
WIDE_RANGE = 10_000  # larger numbers are drawn on a logarithmic axis
EVENT_RATE = f"{CONTRACT.problem.event} rate"


def figures(context: Mapping[str, Any]) -> dict[str, Markup]:
    """All figures of the report by name; `context` is the result of `contents`."""
    mpl.use("Agg")
    with mpl.rc_context(RC):
        return {
            "curves": svg(draw_curves(context["curves"])),
            "deciles": svg(draw_deciles(context["deciles"])),
            "calibration": svg(draw_calibration(context["calibration"])),
            "costs": svg(draw_costs(context["costs"], context["threshold"])),
            "stability": svg(draw_stability(context["stability"].set_index("name"))),
            "importances": svg(draw_importances(context["importances"])),
            "dependence": svg(draw_dependence(context["dependence"])),
        } | ({} if context["vintages"] is None else {"vintages": svg(draw_vintages(context["vintages"]))})


def svg(figure: Figure) -> Markup:
    """A figure as an SVG element that fits the width of the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])  # noqa: S704 (our own drawing)


def panels(rows: int, columns: int, height: float, **options: Any) -> tuple[Figure, Any]:
    """A figure as wide as the page, and its axes in an array of shape (rows, columns)."""
    figure, axes = plt.subplots(rows, columns, figsize=(8, height), layout="constrained", squeeze=False, **options)
    return figure, axes


def draw_curves(by_split: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """ROC, precision and recall, gains, and the distribution of probabilities by outcome."""
    problem = CONTRACT.problem
    labels = {
        "roc": (
            "ROC",
            f"{problem.negative}: share {problem.declined}",
            f"{problem.positive}: share {problem.declined}",
        ),
        "precision_recall": ("Precision and recall", "recall", "precision"),
        "gains": ("Gains", f"share of {problem.rows}, highest first", f"share of all {problem.positive}"),
    }
    figure, axes = panels(2, 2, 6)
    for axis, (curve, (title, x_label, y_label)) in zip(axes.flat, labels.items(), strict=False):
        for split, found in by_split.items():
            axis.plot(found[curve]["x"], found[curve]["y"], label=words(split), **STYLES[split])
        if curve != "precision_recall":
            axis.plot([0, 1], [0, 1], color=GREY, linewidth=1, label="chance")
        axis.set(title=title, xlabel=x_label, ylabel=y_label, xlim=(0, 1), ylim=(0, 1))
    draw_densities(axes[1, 1], by_split["test"])
    for axis in axes.flat:
        axis.legend()
    return figure


def draw_densities(axis: Axes, found: Mapping[str, pd.DataFrame]) -> None:
    """The distribution of the probabilities of each outcome (test)."""
    outcomes = (
        (CONTRACT.problem.negative, "scores_negative", BLUE),
        (CONTRACT.problem.positive, "scores_positive", ORANGE),
    )
    for label, curve, color in outcomes:
        axis.fill_between(found[curve]["x"], found[curve]["y"], step="post", color=color, alpha=0.6, label=label)
    axis.set(
        title="Probabilities by outcome (test)", xlabel="probability", ylabel="density", xlim=(0, 1), ylim=(0, None)
    )


def draw_deciles(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """The positive rate of each decile and its mean probability."""
    figure, axes = panels(1, len(tables), 3)
    for axis, (split, table) in zip(axes.flat, tables.items(), strict=True):
        axis.bar(table["decile"], table["positive_rate"], color=STYLES[split]["color"], label=EVENT_RATE)
        axis.plot(
            table["decile"], table["mean_probability"], "k_", markersize=14, markeredgewidth=2, label="mean probability"
        )
        axis.set(title=words(split), xlabel="decile, highest probabilities first", xticks=range(1, 11))
        axis.legend()
    return figure


def draw_calibration(by_split: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """The positive rate of each decile against its mean probability, with and without a sigmoid."""
    figure, axes = panels(1, len(by_split), 3.6)
    for axis, (split, tables) in zip(axes.flat, by_split.items(), strict=True):
        top = max(float(table[["mean_probability", "positive_rate"]].to_numpy().max()) for table in tables.values())
        axis.plot([0, top], [0, top], color=GREY, linewidth=1, label="perfect")
        for (name, table), style, color in zip(tables.items(), ("o-", "s--", "^:"), (BLUE, ORANGE, GREY), strict=False):
            axis.plot(table["mean_probability"], table["positive_rate"], style, color=color, markersize=4, label=name)
        axis.set(title=words(split), xlabel="mean probability of a decile", ylabel=f"its {EVENT_RATE}")
        axis.legend()
    return figure


def draw_costs(curves: Mapping[str, pd.DataFrame], threshold: float) -> Figure:
    """The mean cost of a row at each threshold."""
    figure, axes = panels(1, 1, 3.2)
    axis = axes[0, 0]
    for split, curve in curves.items():
        label = "train, out of fold" if split == "train" else words(split)
        axis.plot(curve["x"], curve["y"], label=label, **STYLES[split])
    axis.axvline(threshold, color="black", linewidth=1)
    axis.annotate(f"chosen: {threshold:.3f}", (threshold, 0.02), (4, 0), textcoords="offset points")
    axis.set(xlabel="threshold", ylabel=f"mean cost of a {CONTRACT.problem.row}", xlim=(0, 1), ylim=(0, None))
    axis.legend()
    return figure


def draw_stability(table: pd.DataFrame) -> Figure:
    """The stability index of the probability and of each feature."""
    figure, axes = panels(1, 1, 0.9 + 0.24 * len(table))
    axis, position = axes[0, 0], np.arange(len(table))[::-1]
    height = 0.8 / len(table.columns)
    for number, split in enumerate(table.columns):
        style = {"color": STYLES[split]["color"], "hatch": "//" if number else "", "edgecolor": "white"}
        axis.barh(position + 0.4 - height * (number + 0.5), table[split], height, label=words(split), **style)
    for limit in (0.1, 0.25):
        axis.axvline(limit, color="0.3", linewidth=1, linestyle=":")
        axis.annotate(f"{limit:g}", (limit, -0.8), (2, 0), textcoords="offset points", color="0.3", fontsize=7)
    axis.set_yticks(position, table.index)
    axis.set(xlabel="population stability index against train", ylim=(-1, len(table) - 0.4))
    axis.legend(loc="center right")
    return figure


def draw_importances(table: pd.DataFrame) -> Figure:
    """The ROC AUC that is lost without the order of each field's values."""
    figure, axes = panels(1, 1, 0.8 + 0.2 * len(table))
    axis, position = axes[0, 0], np.arange(len(table))[::-1]
    axis.barh(position, table["mean"], color=BLUE, xerr=table["spread"], error_kw={"elinewidth": 1, "ecolor": "0.3"})
    axis.set_yticks(position, table["field"])
    axis.set(xlabel="ROC AUC lost when the field's values are shuffled (test)", ylim=(-0.6, len(table) - 0.4))
    return figure


def draw_dependence(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """The mean probability against a field, features computed from it again; words by name."""
    figure, axes = panels(2, 3, 5, sharey=True)
    for axis, (name, curve) in zip(axes.flat, curves.items(), strict=False):
        if curve["x"].dtype == object:
            draw_categories(axis, curve)
        else:
            axis.plot(curve["x"], curve["y"], "o-", color=BLUE, markersize=3)
            if len(curve) and float(curve["x"].max()) > WIDE_RANGE:
                axis.set(xscale="symlog")
        axis.set_title(words(name), fontsize=9)
    for axis in axes.flat[len(curves) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set(ylabel="mean probability", ylim=(0, None))
    return figure


def draw_vintages(table: pd.DataFrame) -> Figure:
    """By year of the date: rows, the share of rows with an outcome, and the positive share among these."""
    figure, axes = panels(2, 1, 4, sharex=True)
    axes[0, 0].bar(table["year"], table["rows"], color=GREY)
    axes[0, 0].set(ylabel=CONTRACT.problem.rows)
    shares = (
        ("labelled", "share with an outcome", BLUE, "o-"),
        ("positive", f"{EVENT_RATE} among these", ORANGE, "s--"),
    )
    for name, label, color, style in shares:
        known = table[table[name].notna()]
        value, low, high = (known[column].astype(float) for column in (name, f"{name}_low", f"{name}_high"))
        axes[1, 0].plot(known["year"], value, style, color=color, markersize=3, label=label)
        axes[1, 0].fill_between(known["year"].astype(float), low, high, color=color, alpha=0.2, linewidth=0)
    axes[1, 0].set(xlabel=f"year of {CONTRACT.date}", ylim=(0, None))
    axes[1, 0].legend()
    return figure


def draw_categories(axis: Axes, curve: pd.DataFrame) -> None:
    """Bars for categories; of many, those at both ends, separated by a dotted line."""
    many = len(curve) > 2 * SHOWN_ENDS
    ends = pd.concat([curve.head(SHOWN_ENDS), curve.tail(SHOWN_ENDS)]) if many else curve
    axis.bar(range(len(ends)), ends["y"], color=BLUE)
    crowded = len(ends) > 4  # noqa: PLR2004 (labels would overlap)
    labels = [word if len(word) <= LABEL else f"{word[: LABEL - 1]}…" for word in ends["x"]]
    axis.set_xticks(range(len(ends)), labels, rotation=90 if crowded else 0, fontsize=8)
    if many:
        axis.axvline(SHOWN_ENDS - 0.5, color="black", linestyle=":", linewidth=1)
