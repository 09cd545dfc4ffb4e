"""Stage 6: measures the model on loans it has not seen, and looks for leaks.

Reads:  1.data/5.model/*, 1.data/4.split/*.parquet, 1.data/2.clean/loans.parquet
Writes: 1.data/6.reports/metrics.json    figures on test and out-of-time, a logistic baseline's beside them, leak check
        1.data/6.reports/report.html     all the evidence for people who decide, in one file without links
        1.data/6.reports/model_card.md   the same in one page
        1.data/6.reports/plots/*.png     ROC, precision-recall, calibration, gains, scores by outcome
        1.data/6.reports/plots/*.csv     the same curves, for `dvc plots`
Params: evaluate, train (for the baseline)

Accuracy is shown beside the majority class's, because it misleads here: always saying "paid" is right for nine loans in
ten of the test, without knowing anything.
"""

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from pydantic import Field
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from threadpoolctl import threadpool_limits

from credit_risk import evidence, pages, params, scorecard
from credit_risk.attribution import attribution, uncalibrated
from credit_risk.contract import APPROVAL_DATE, DEFAULT
from credit_risk.errors import CreditRiskError
from credit_risk.features import CATEGORICAL, FEATURE_NAMES, FEATURES, from_columns
from credit_risk.files import read_json, replacing, write_json
from credit_risk.holdout import read_holdout
from credit_risk.leak import single_feature_aucs
from credit_risk.metrics import Interval, Labels, Scores, expected_calibration_error, measure
from credit_risk.model import Floats, TrainParams, default_probability, fit, logistic_baseline, read_side
from credit_risk.paths import data, root
from credit_risk.report import pictures
from credit_risk.scorecard import FLAGS, words_of
from credit_risk.script import run

SIDES = ("test", "out_of_time")
COLORS = {"test": "#0072B2", "out_of_time": "#D55E00"}  # Okabe & Ito: told apart by the colour-blind
CURVE_POINTS = 200


class EvaluateParams(params.Params):
    """Section `evaluate` of params.yaml."""

    bootstrap_resamples: int = Field(ge=100)
    calibration_bins: int = Field(ge=2)
    leak_auc: float = Field(gt=0.5, le=1)
    slice_loans: int = Field(ge=10)
    importance_rows: int = Field(ge=100)
    attribution_rows: int = Field(ge=100)


@dataclass(frozen=True, slots=True)
class Side:
    """Loans with their scores: features (n, len(FEATURES)), and labels, scores and days of approval, each (n,)."""

    features: Floats
    labels: Labels
    scores: Scores
    days: npt.NDArray[Any]
    intervals: dict[str, Interval] = field(default_factory=dict)  # of the figures, where they are reported


def main() -> None:
    """Runs the stage."""
    section = params.load("evaluate", EvaluateParams)
    train = params.load("train", TrainParams)
    features, labels = read_side(data("4.split", "train.parquet"))
    alone = single_feature_aucs(features, labels, FEATURE_NAMES, train.seed)
    check_leak(alone, section.leak_auc)
    baseline = fit(logistic_baseline(train), features, labels)
    model = joblib.load(data("5.model", "model.joblib"))  # made by stage 5 on this machine, not from a registry
    training = read_json(data("5.model", "training.json"))
    threshold = training["threshold"]

    report: dict[str, Any] = {"leak": {"highest_single_feature_auc": rounded(next(iter(alone.values())))}}
    report["leak"]["feature"] = next(iter(alone))
    scored: dict[str, tuple[Labels, Scores]] = {}
    sides = {"train": Side(features, labels, out_of_fold(labels), approval_days("train"))}
    for side in SIDES:
        features, labels = read_side(data("4.split", f"{side}.parquet"))
        scores = default_probability(model, features)
        figures = measure(labels, scores, threshold, section.calibration_bins)
        intervals = evidence.intervals(
            labels, scores, section.calibration_bins, section.bootstrap_resamples, train.seed
        )
        low, high = intervals["roc_auc"]
        against = measure(labels, default_probability(baseline, features), threshold, section.calibration_bins)
        report[side] = {name: rounded(value) for name, value in figures.items()}
        report[side] |= {"roc_auc_low": rounded(low), "roc_auc_high": rounded(high)}
        report[side]["logistic_baseline"] = {name: rounded(against[name]) for name in ("roc_auc", "brier", "ece")}
        scored[side] = labels, scores
        sides[side] = Side(features, labels, scores, approval_days(side), intervals)
    plots = data("6.reports", "plots")
    shutil.rmtree(plots, ignore_errors=True)  # run by hand, it must not mix with older plots
    draw(scored, plots, section.calibration_bins)
    facts = {"metrics": report, "train": train, "training": training, "threshold": threshold}
    with threadpool_limits(1):  # hundreds of short predictions: threads would mostly wait for each other
        facts |= evidence_on(model, sides, section, train, threshold)
        facts |= classic_scorecard(sides, train.seed)
    facts |= {"pictures": pictures(facts)}
    for name in ("report.html", "model_card.md"):
        pages.write(root() / "4.dvc_pipeline" / f"{name}.j2", data("6.reports", name), facts)
    write_json(data("6.reports", "metrics.json"), report)
    print(f"ROC AUC {report['test']['roc_auc']:.3f} in time, {report['out_of_time']['roc_auc']:.3f} out of time")


def quick(model: Pipeline) -> Pipeline:
    """The same model with its selection as a list of columns.

    SelectFromModel works out its forest's importances anew whenever it is asked for columns, which takes longer than to
    score thousands of loans.
    """
    kept = np.flatnonzero(model["select"].get_support())
    columns = FunctionTransformer(np.take, kw_args={"indices": kept, "axis": 1})
    return Pipeline([("encode", model["encode"]), ("select", columns), ("classify", model["classify"])])


def out_of_fold(labels: Labels) -> Scores:
    """Stage 5's scores of the train loans, each by a model that has not seen it, in the order of train."""
    table = pq.read_table(data("5.model", "out_of_fold.parquet"))
    if not np.array_equal(table[DEFAULT].to_numpy(), labels):
        raise CreditRiskError("1.data/5.model/out_of_fold.parquet is not of the present train loans; run stage 5 again")
    scores: Scores = table["score"].to_numpy()
    return scores


def approval_days(side: str) -> npt.NDArray[Any]:
    """Day of approval of each loan of a side."""
    days: npt.NDArray[Any] = pq.read_table(data("4.split", f"{side}.parquet"), columns=[APPROVAL_DATE])[
        APPROVAL_DATE
    ].to_numpy()
    return days


def evidence_on(
    fitted: Pipeline, sides: dict[str, Side], section: EvaluateParams, train: TrainParams, threshold: float
) -> dict[str, Any]:
    """What the report shows beyond metrics.json."""
    test, late, model = sides["test"], sides["out_of_time"], quick(fitted)
    rows = np.random.default_rng(train.seed).permutation(len(test.labels))[: section.importance_rows]
    sample = test.features[rows]
    shuffled = permutation_importance(
        model, sample, test.labels[rows], scoring="roc_auc", n_repeats=5, random_state=train.seed
    )
    importances = pd.DataFrame(
        {"feature": FEATURE_NAMES, "mean": shuffled.importances_mean, "spread": shuffled.importances_std}
    ).sort_values("mean", ascending=False, kind="stable", ignore_index=True)
    before, platt = sigmoid(model, sides)
    return {
        "features": FEATURES,
        "loans": {name: about(side) for name, side in sides.items()},
        "intervals": {name: sides[name].intervals for name in SIDES},
        "deciles": {name: evidence.deciles(sides[name].labels, sides[name].scores) for name in SIDES},
        "calibration": {
            name: {
                "as the classifier says": tenths(sides[name].labels, before[name]),
                "through a sigmoid": tenths(sides[name].labels, platt[name]),
            }
            for name in SIDES
        },
        "calibration_errors": {
            name: {
                "without": expected_calibration_error(sides[name].labels, before[name], section.calibration_bins),
                "with": expected_calibration_error(sides[name].labels, platt[name], section.calibration_bins),
            }
            for name in SIDES
        },
        "vintage": recalibrated_by_vintage(late, section.calibration_bins),
        "costs": (curves := costs(sides, train)),
        "cheapest": {name: cheapest(curves[name]) for name in SIDES},
        "chosen_costs": {name: cost_at(threshold, sides[name], train) for name in SIDES},
        "approve_all": {name: float(side.labels.mean()) * train.cost_false_approval for name, side in sides.items()},
        "stability": stability(sides),
        "slices": {
            name: evidence.slices(
                sides[name].labels, sides[name].scores, dimensions(sides[name].features), section.slice_loans, 20
            )
            for name in SIDES
        },
        "importances": importances,
        "attribution": attribution(fitted, sample[: section.attribution_rows]),
        "dependence": dependence(model, sample, importances["feature"].head(6).to_list()),
        "promises": promises(model, rows),
    }


def about(side: Side) -> dict[str, Any]:
    """Loans, default rate and dates of a side."""
    first, last = (str(np.datetime64(day, "D")) for day in (side.days.min(), side.days.max()))
    return {"rows": len(side.labels), "default_rate": float(side.labels.mean()), "from": first, "to": last}


def log_odds(scores: Scores) -> Scores:
    """Of probabilities, as a column."""
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    odds: Scores = np.log(clipped / (1 - clipped))[:, None]
    return odds


def sigmoid(model: Any, sides: dict[str, Side]) -> tuple[dict[str, Scores], dict[str, Scores]]:
    """Scores of the held-out loans as the classifier gives them, and through a sigmoid that was fitted on train.

    The one that `train.calibration` names is what serves; the other is there to compare. The sigmoid is fitted on
    out-of-fold scores (Platt 1999, "Probabilistic outputs for support vector machines").
    """
    served = {name: sides[name].scores for name in SIDES}
    if isinstance(model["classify"], CalibratedClassifierCV):
        plain = Pipeline([*model.steps[:-1], ("classify", uncalibrated(model))])
        return {name: default_probability(plain, sides[name].features) for name in SIDES}, served
    platt = LogisticRegression(C=np.inf).fit(log_odds(sides["train"].scores), sides["train"].labels)
    return served, {name: default_probability(platt, log_odds(scores)) for name, scores in served.items()}


def recalibrated_by_vintage(late: Side, bins: int) -> dict[str, float]:
    """What recalibration does out of time: a sigmoid fitted on the older half's outcomes, tried on the newer half."""
    middle = np.quantile(late.days.astype("datetime64[D]").astype(np.int64), 0.5)
    old = late.days.astype("datetime64[D]").astype(np.int64) <= middle
    newer, scores = late.labels[~old], late.scores[~old]
    platt = LogisticRegression(C=np.inf).fit(log_odds(late.scores[old]), late.labels[old])
    mended = default_probability(platt, log_odds(scores))
    return {
        "before": expected_calibration_error(newer, scores, bins),
        "after": expected_calibration_error(newer, mended, bins),
        "default_rate": float(newer.mean()),
        "mean_score": float(scores.mean()),
        "mended_score": float(mended.mean()),
    }


def tenths(labels: Labels, scores: Scores) -> pd.DataFrame:
    """Mean score and default rate of tenths of the loans, by score."""
    table = evidence.deciles(labels, scores)
    return table[["mean_score", "default_rate"]].rename(columns={"mean_score": "score"})


def cost_at(threshold: float, side: Side, train: TrainParams) -> float:
    """Mean cost of a loan of a side at one threshold."""
    costs = (train.cost_false_approval, train.cost_false_refusal)
    return float(evidence.mean_costs(side.labels, side.scores, np.array([threshold]), *costs)[0])


def cheapest(curve: pd.DataFrame) -> dict[str, float]:
    """The threshold of a cost curve that would have cost least, and its cost; of those within 1 %, the mildest."""
    thresholds, costs = curve["threshold"].to_numpy(), curve["cost"].to_numpy()
    mildest = np.flatnonzero(costs <= 1.01 * costs.min())[-1]
    return {"threshold": float(thresholds[mildest]), "cost": float(costs[mildest])}


def costs(sides: dict[str, Side], train: TrainParams) -> dict[str, pd.DataFrame]:
    """Mean cost of a loan at each threshold, of each side."""
    thresholds = np.linspace(0, 0.6, 121)
    return {
        name: pd.DataFrame(
            {
                "threshold": thresholds,
                "cost": evidence.mean_costs(
                    side.labels, side.scores, thresholds, train.cost_false_approval, train.cost_false_refusal
                ),
            }
        )
        for name, side in sides.items()
    }


def classic_scorecard(sides: dict[str, Side], seed: int) -> dict[str, Any]:
    """A points scorecard fitted on train, to be read beside the model: its table, and its AUC on the holdouts."""
    train = sides["train"]
    groups = scorecard.bin_features(train.features, train.labels, seed)
    card = scorecard.fit_scorecard(groups, train.features, train.labels, seed)
    reached = {
        name: float(roc_auc_score(sides[name].labels, -scorecard.points(card, sides[name].features))) for name in SIDES
    }
    return {
        "information": scorecard.information_values(groups),
        "scorecard": {"table": scorecard.points_table(card), "start": int(card.intercept_), "roc_auc": reached},
    }


def stability(sides: dict[str, Side]) -> pd.DataFrame:
    """Stability index of the score and of each feature, test and out-of-time against train, most moved first."""
    train = sides["train"]
    rows = []
    for index, name in enumerate(FEATURE_NAMES):
        categorical = name in CATEGORICAL
        moved = {
            side: evidence.stability(train.features[:, index], sides[side].features[:, index], categorical=categorical)
            for side in SIDES
        }
        rows.append({"name": name, **moved})
    table = pd.DataFrame(rows).sort_values("out_of_time", ascending=False, kind="stable")
    score = {side: evidence.stability(train.scores, sides[side].scores, categorical=False) for side in SIDES}
    return pd.concat([pd.DataFrame([{"name": "score", **score}]), table], ignore_index=True)


def dimensions(features: Floats) -> dict[str, npt.NDArray[Any]]:
    """The groups that are looked at one by one."""
    columns = {name: features[:, FEATURE_NAMES.index(name)] for name in FEATURE_NAMES}
    bounds = np.array([50_000, 150_000, 350_000])
    sizes = np.array(["A: up to 50,000 USD", "B: up to 150,000 USD", "C: up to 350,000 USD", "D: more"], dtype=object)
    groups: dict[str, npt.NDArray[Any]] = {
        name: words_of(name, columns[name]) for name in ("sector", "state", "new_business")
    }
    whole = np.where(columns["guaranteed_share"] < 1, "in part", "whole").astype(object)
    return groups | {"guaranteed": whole, "loan size": sizes[np.searchsorted(bounds, columns["gross_approved"])]}


def dependence(model: Any, sample: Floats, names: list[str]) -> dict[str, pd.DataFrame]:
    """How the mean score depends on each of the most important features."""
    curves = {}
    for name in names:
        curve = evidence.partial_dependence(
            lambda rows: default_probability(model, rows),
            sample,
            FEATURE_NAMES.index(name),
            categorical=name in CATEGORICAL,
        )
        if name in CATEGORICAL or name in FLAGS:
            curve["x"] = words_of(name, curve["x"].to_numpy())
            curve = curve.astype({"x": object}).sort_values("y")
        curves[name] = curve
    return curves


def promises(model: Any, rows: npt.NDArray[Any]) -> list[dict[str, Any]]:
    """Whether a change for the better lowers the risk, other things of the application equal."""
    applications: Any = read_holdout("test").applications.iloc[rows]
    before = default_probability(model, from_columns(applications))
    gross = applications["gross_approved"]
    more = (applications["sba_guaranteed"] + 0.1 * gross).clip(upper=gross)
    changes = {
        "the SBA guarantees a tenth of the amount more": applications.assign(sba_guaranteed=more),
        "five employees more": applications.assign(employees=(applications["employees"] + 5).clip(upper=9_999)),
        "an existing business, not a new one": applications.assign(new_business="no"),
    }
    return [
        {"change": change, **evidence.promise(before, default_probability(model, from_columns(changed)))}
        for change, changed in changes.items()
    ]


def check_leak(alone: dict[str, float], most: float) -> None:
    """No single feature may reach an out-of-fold AUC of `most`.

    Raises:
        CreditRiskError: names the features that do.
    """
    leaking = [f"{name} ({auc:.2f})" for name, auc in alone.items() if auc >= most]
    if leaking:
        raise CreditRiskError(
            f"{', '.join(leaking)} alone reaches a ROC AUC of evaluate.leak_auc ({most:.2f}) or more, so it probably "
            "tells the outcome; check when its value is known, and take it out of src/credit_risk/features.py"
        )


def rounded(value: float) -> float:
    """Six digits: more than can be told apart, fewer than differ between processors."""
    return round(value, 6)


def draw(scored: dict[str, tuple[Labels, Scores]], folder: Path, bins: int) -> None:
    """Draws each curve of both sides as a PNG, and writes its points as a CSV."""
    mpl.use("Agg")
    curves = {
        "roc": (roc, "share of paid loans refused", "share of defaults caught"),
        "precision_recall": (precision_recall, "share of defaults caught", "share of refused loans that default"),
        "calibration": (calibration, "mean score", "default rate"),
        "gains": (gains, "share of loans, riskiest first", "share of defaults caught"),
    }
    for name, (curve, x_label, y_label) in curves.items():
        points = {side: curve(labels, scores, bins) for side, (labels, scores) in scored.items()}
        figure, axes = plt.subplots(figsize=(5, 4), layout="constrained")
        for side, frame in points.items():
            marker = "o" if name == "calibration" else None
            axes.plot(frame["x"], frame["y"], color=COLORS[side], marker=marker, label=side.replace("_", " "))
        if name != "precision_recall":
            label = "calibrated" if name == "calibration" else "chance"
            axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", linewidth=1, label=label)
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, 1), ylim=(0, 1))
        axes.legend(frameon=False)
        save(figure, folder / f"{name}.png")
        for side, frame in points.items():
            save_points(frame, folder / f"{name}_{side}.csv")
    draw_scores(scored, folder)


def draw_scores(scored: dict[str, tuple[Labels, Scores]], folder: Path) -> None:
    """Draws the distribution of the scores of paid and of defaulted loans, for each side."""
    figure, all_axes = plt.subplots(1, len(scored), figsize=(8, 3.5), layout="constrained", sharey=True)
    edges = np.linspace(0, 1, 51)
    for axes, (side, (labels, scores)) in zip(all_axes, scored.items(), strict=True):
        for label, outcome, color in ((0, "paid in full", "#56B4E9"), (1, "charged off", "#E69F00")):
            density, _ = np.histogram(scores[labels == label], edges, density=True)
            axes.stairs(density, edges, fill=True, alpha=0.6, color=color, label=outcome)
            points = pd.DataFrame({"x": edges[:-1], "y": density})
            save_points(points, folder / f"scores_{side}_{outcome.replace(' ', '_')}.csv")
        axes.set(title=side.replace("_", " "), xlabel="score", xlim=(0, 1))
    all_axes[0].set(ylabel="density")
    all_axes[0].legend(frameon=False)
    save(figure, folder / "scores.png")


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG without the drawing library's version, so that equal pictures are equal bytes."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)


def save_points(points: pd.DataFrame, path: Path) -> None:
    """Writes a curve's points, x and y."""
    with replacing(path) as temporary:
        points.round(6).to_csv(temporary, index=False)


def roc(labels: Labels, scores: Scores, _: int) -> pd.DataFrame:
    """x: share of paid loans refused; y: share of defaults caught."""
    x, y, _ = roc_curve(labels, scores)
    return thinned(x, y)


def precision_recall(labels: Labels, scores: Scores, _: int) -> pd.DataFrame:
    """x: share of defaults caught; y: share of refused loans that default."""
    y, x, _ = precision_recall_curve(labels, scores)
    return thinned(x[::-1], y[::-1])


def calibration(labels: Labels, scores: Scores, bins: int) -> pd.DataFrame:
    """x: mean score of a bin of equal width; y: its default rate."""
    y, x = calibration_curve(labels, scores, n_bins=bins)
    return pd.DataFrame({"x": x, "y": y})


def gains(labels: Labels, scores: Scores, _: int) -> pd.DataFrame:
    """x: share of loans, riskiest first; y: share of all defaults among them."""
    caught = np.cumsum(labels[np.argsort(-scores, kind="stable")])
    x = np.arange(len(labels) + 1) / len(labels)
    return thinned(x, np.concatenate([[0.0], caught / caught[-1]]))


def thinned(x: Any, y: Any) -> pd.DataFrame:
    """At most CURVE_POINTS points of a curve, evenly chosen, with both ends."""
    index = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).astype(int))
    return pd.DataFrame({"x": x[index], "y": y[index]})


if __name__ == "__main__":
    run("stage 6", main)
