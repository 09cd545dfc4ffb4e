"""The pictures of the report on what stage 6 has measured, as SVG, so that the page needs no other file.

Colours are told apart by the colour-blind (Okabe & Ito), and lines also by their dashes, so that a print in black and
white will do.
"""

import io
import warnings
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import shap
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from credit_risk.core.templates import words
from credit_risk.report.shap_values import Attribution

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.6"
LOW_TO_HIGH = LinearSegmentedColormap.from_list("low to high", [BLUE, "#BBBBBB", ORANGE])
SHOWN_ENDS = 7  # categories with the lowest and with the highest mean scores that are drawn of many
MOST_ATTRIBUTED = 12  # features in the picture of SHAP values: the rest hardly moves the score
STYLES: dict[str, dict[str, Any]] = {
    "train": {"color": GREEN, "linestyle": ":"},
    "test": {"color": BLUE, "linestyle": "-"},
    "out_of_time": {"color": ORANGE, "linestyle": "--"},
}
LOOK: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "credit-risk",  # the same picture is the same bytes
    "font.family": "sans-serif",
}


def pictures(facts: Mapping[str, Any]) -> dict[str, Markup]:
    """All pictures of the report, by name, as SVG to be put into the page."""
    mpl.use("Agg")
    with mpl.rc_context(LOOK):
        drawn = {
            "deciles": svg(draw_deciles(facts["deciles"])),
            "calibration": svg(draw_calibration(facts["calibration"])),
            "costs": svg(draw_costs(facts["costs"], facts["threshold"])),
            "stability": svg(draw_bars(facts["stability"].set_index("name")[["test", "out_of_time"]])),
            "importances": svg(draw_importances(facts["importances"])),
            "dependence": svg(draw_dependence(facts["dependence"])),
        }
        if facts["attribution"] is not None:
            drawn["attribution"] = svg(draw_attribution(facts["attribution"]))
        return drawn


def svg(drawn: Figure) -> Markup:
    """A figure as an SVG element that fits the page's width."""
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(drawn)
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])  # noqa: S704 (our own drawing)


def draw_deciles(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """The default rate of each tenth of the loans beside the mean score."""
    drawn, all_axes = plt.subplots(1, len(tables), figsize=(8, 3), layout="constrained")
    for axes, (side, table) in zip(all_axes, tables.items(), strict=True):
        axes.bar(table["tenth"], table["default_rate"], color=STYLES[side]["color"], label="default rate")
        axes.plot(table["tenth"], table["mean_score"], "k_", markersize=14, markeredgewidth=2, label="mean score")
        axes.set(title=words(side), xlabel="tenth of the loans, riskiest first", xticks=range(1, 11))
        axes.legend()
    all_axes[0].set(ylabel="share")
    return drawn


def draw_calibration(curves: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """Default rate against mean score, without and with a sigmoid."""
    drawn, all_axes = plt.subplots(1, len(curves), figsize=(8, 3.6), layout="constrained")
    styles = (("o-", BLUE), ("s--", ORANGE), ("^:", GREEN))
    for axes, (side, lines) in zip(all_axes, curves.items(), strict=True):
        top = max(float(curve[["score", "default_rate"]].to_numpy().max()) for curve in lines.values())
        axes.plot([0, top], [0, top], color=GREY, linewidth=1, label="perfect")
        for (name, curve), (style, color) in zip(lines.items(), styles, strict=False):
            axes.plot(curve["score"], curve["default_rate"], style, color=color, markersize=4, label=name)
        axes.set(title=words(side), xlabel="mean score of a tenth of the loans", ylabel="its default rate")
        axes.legend()
    return drawn


def draw_costs(curves: Mapping[str, pd.DataFrame], threshold: float) -> Figure:
    """The mean cost of a loan at each threshold."""
    drawn, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    for side, curve in curves.items():
        label = "train, out of fold" if side == "train" else words(side)
        axes.plot(curve["threshold"], curve["cost"], label=label, **STYLES[side])
    axes.axvline(threshold, color="black", linewidth=1)
    axes.annotate(f"chosen: {threshold:.3f}", (threshold, 0.02), (4, 0), textcoords="offset points")
    last = max(float(curve["threshold"].iloc[-1]) for curve in curves.values())
    axes.set(
        xlabel="loans with this score or more are refused", ylabel="mean cost a loan", xlim=(0, last), ylim=(0, None)
    )
    axes.legend()
    return drawn


def draw_bars(table: pd.DataFrame) -> Figure:
    """The stability index of the score and of each feature."""
    drawn, axes = plt.subplots(figsize=(8, 0.9 + 0.24 * len(table)), layout="constrained")
    position = np.arange(len(table))[::-1]
    for shift, side, hatch in ((0.2, "test", ""), (-0.2, "out_of_time", "//")):
        color = STYLES[side]["color"]
        axes.barh(position + shift, table[side], 0.4, color=color, hatch=hatch, edgecolor="white", label=words(side))
    for limit in (0.1, 0.25):
        axes.axvline(limit, color="0.3", linewidth=1, linestyle=":")
        axes.annotate(f"{limit:g}", (limit, -0.8), (2, 0), textcoords="offset points", color="0.3", fontsize=7)
    axes.set_yticks(position, table.index)
    axes.set(xlabel="population stability index against train", ylim=(-1, len(table) - 0.4))
    axes.legend(loc="center right")
    return drawn


def draw_importances(table: pd.DataFrame) -> Figure:
    """What the AUC loses without each feature's order."""
    drawn, axes = plt.subplots(figsize=(8, 0.8 + 0.2 * len(table)), layout="constrained")
    position = np.arange(len(table))[::-1]
    axes.barh(position, table["mean"], color=BLUE, xerr=table["spread"], error_kw={"elinewidth": 1, "ecolor": "0.3"})
    axes.set_yticks(position, table["feature"])
    axes.set(xlabel="ROC AUC lost when the feature's values are shuffled (test)", ylim=(-0.6, len(table) - 0.4))
    return drawn


def draw_attribution(found: Attribution) -> Figure:
    """What each feature adds to each loan's score: a dot a loan."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # categories have no low and high
        shap.summary_plot(
            found.added,
            found.columns,
            feature_names=found.names,
            max_display=MOST_ATTRIBUTED,
            cmap=LOW_TO_HIGH,
            plot_size=(8, 4.8),
            show=False,
            rng=np.random.default_rng(0),  # dots of equal value are spread at random
        )
    drawn = plt.gcf()
    axes, bar = drawn.axes
    for dots in axes.collections:
        dots.set_rasterized(True)  # thousands of dots: as a picture they take a tenth of the space
    axes.set_xlabel(f"added to the {found.unit}", fontsize=9)
    axes.tick_params(labelsize=9)
    bar.set_ylabel("value of the feature", fontsize=9)
    bar.tick_params(labelsize=9)
    drawn.tight_layout()
    return drawn


def draw_dependence(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """The mean score against a feature, all else as it is; categories by name."""
    drawn, all_axes = plt.subplots(2, 3, figsize=(8, 5), layout="constrained", sharey=True)
    for axes, (name, curve) in zip(all_axes.flat, curves.items(), strict=False):
        if curve["x"].dtype == object:
            many = len(curve) > 2 * SHOWN_ENDS
            ends = pd.concat([curve.head(SHOWN_ENDS), curve.tail(SHOWN_ENDS)]) if many else curve
            axes.bar(range(len(ends)), ends["y"], color=BLUE)
            axes.set_xticks(range(len(ends)), ends["x"], rotation=90 if len(ends) > 4 else 0, fontsize=8)  # noqa: PLR2004
            if many:
                axes.axvline(SHOWN_ENDS - 0.5, color="black", linestyle=":", linewidth=1)  # those between are left out
        else:
            axes.plot(curve["x"], curve["y"], "o-", color=BLUE, markersize=3)
            if float(curve["x"].max()) > 10_000:  # noqa: PLR2004 (money reaches far)
                axes.set(xscale="symlog")
        axes.set_title(words(name), fontsize=9)
    for axes in all_axes.flat[len(curves) :]:
        axes.set_visible(False)
    for axes in all_axes[:, 0]:
        axes.set(ylabel="mean score", ylim=(0, None))
    return drawn
