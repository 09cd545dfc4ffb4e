"""What the report says of a model beyond its figures: worked out from the loans of each side and their scores.

`tables.py` has the formulas, `report.py` the pictures; this module asks the questions of this model and these loans.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.calibration import CalibratedClassifierCV
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from credit_risk.data.splits import read_holdout
from credit_risk.evaluation.bootstrap import Interval
from credit_risk.evaluation.costs import mean_costs
from credit_risk.evaluation.metrics import Labels, Probabilities, expected_calibration_error
from credit_risk.features import CATEGORICAL, FEATURE_NAMES, FEATURES, from_columns
from credit_risk.model import Floats, TrainParams, default_probability
from credit_risk.report import scorecard, tables
from credit_risk.report.scorecard import FLAGS, words_of
from credit_risk.report.shap_values import attribution, uncalibrated
from credit_risk.serving.explanations import log_odds

SIDES = ("test", "out_of_time")  # held out


@dataclass(frozen=True, slots=True)
class Side:
    """Loans with their scores: features (n, len(FEATURES)), and labels, scores and days of approval, each (n,)."""

    features: Floats
    labels: Labels
    scores: Probabilities
    days: npt.NDArray[Any]
    intervals: dict[str, Interval] = field(default_factory=dict)  # of the figures, where they are reported


@dataclass(frozen=True, slots=True)
class Sizes:
    """How finely findings look.

    Attributes:
        bins: of equal width, for the calibration error.
        min_slice_rows: that a slice needs to be shown by itself.
        importance_rows: held-out loans on which importances, dependences and promises are measured.
        attribution_rows: of these, how many SHAP values are worked out for.
    """

    bins: int
    min_slice_rows: int
    importance_rows: int
    attribution_rows: int


def findings(
    fitted: Pipeline, sides: dict[str, Side], train: TrainParams, threshold: float, sizes: Sizes
) -> dict[str, Any]:
    """What the report shows beyond metrics.json, by the names that its template uses.

    Args:
        fitted: the model, as stage 5 leaves it.
        sides: `train`, with out-of-fold scores, and SIDES.
        train: the parameters that it was trained with.
        threshold: loans with this score or more are refused.
        sizes: how finely it is looked at.
    """
    test, late, model = sides["test"], sides["out_of_time"], quick(fitted)
    rows = np.random.default_rng(train.seed).permutation(len(test.labels))[: sizes.importance_rows]
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
        "deciles": {name: tables.deciles(sides[name].labels, sides[name].scores) for name in SIDES},
        "calibration": {
            name: {
                "as the classifier says": tenths(sides[name].labels, before[name]),
                "through a sigmoid": tenths(sides[name].labels, platt[name]),
            }
            for name in SIDES
        },
        "calibration_errors": {
            name: {
                "without": expected_calibration_error(sides[name].labels, before[name], sizes.bins),
                "with": expected_calibration_error(sides[name].labels, platt[name], sizes.bins),
            }
            for name in SIDES
        },
        "vintage": recalibrated_by_vintage(late, sizes.bins),
        "costs": (curves := costs(sides, train)),
        "cheapest": {name: cheapest(curves[name]) for name in SIDES},
        "chosen_costs": {name: cost_at(threshold, sides[name], train) for name in SIDES},
        "approve_all": {name: float(side.labels.mean()) * train.cost_false_approval for name, side in sides.items()},
        "stability": stability(sides),
        "slices": {
            name: tables.slices(
                sides[name].labels, sides[name].scores, dimensions(sides[name].features), sizes.min_slice_rows, 20
            )
            for name in SIDES
        },
        "importances": importances,
        "attribution": attribution(fitted, sample[: sizes.attribution_rows]),
        "dependence": dependence(model, sample, importances["feature"].head(6).to_list()),
        "promises": promises(model, rows),
    }


def quick(model: Pipeline) -> Pipeline:
    """The same model with its selection as a list of columns.

    SelectFromModel works out its forest's importances anew whenever it is asked for columns, which takes longer than to
    score thousands of loans.
    """
    kept = np.flatnonzero(model["select"].get_support())
    columns = FunctionTransformer(np.take, kw_args={"indices": kept, "axis": 1})
    return Pipeline([("encode", model["encode"]), ("select", columns), ("classify", model["classify"])])


def about(side: Side) -> dict[str, Any]:
    """Loans, default rate and dates of a side."""
    first, last = (str(np.datetime64(day, "D")) for day in (side.days.min(), side.days.max()))
    return {"rows": len(side.labels), "default_rate": float(side.labels.mean()), "from": first, "to": last}


def sigmoid(model: Any, sides: dict[str, Side]) -> tuple[dict[str, Probabilities], dict[str, Probabilities]]:
    """Probabilities of the held-out loans as the classifier gives them, and through a sigmoid that was fitted on train.

    The one that `train.calibration` names is what serves; the other is there to compare. The sigmoid is fitted on
    out-of-fold scores (Platt 1999, "Probabilistic outputs for support vector machines").
    """
    served = {name: sides[name].scores for name in SIDES}
    if isinstance(model["classify"], CalibratedClassifierCV):
        plain = Pipeline([*model.steps[:-1], ("classify", uncalibrated(model))])
        return {name: default_probability(plain, sides[name].features) for name in SIDES}, served
    platt = LogisticRegression(C=np.inf).fit(log_odds(sides["train"].scores)[:, None], sides["train"].labels)
    return served, {name: default_probability(platt, log_odds(scores)[:, None]) for name, scores in served.items()}


def recalibrated_by_vintage(late: Side, bins: int) -> dict[str, float]:
    """What recalibration does out of time: a sigmoid fitted on the older half's outcomes, tried on the newer half."""
    middle = np.quantile(late.days.astype("datetime64[D]").astype(np.int64), 0.5)
    old = late.days.astype("datetime64[D]").astype(np.int64) <= middle
    newer, scores = late.labels[~old], late.scores[~old]
    platt = LogisticRegression(C=np.inf).fit(log_odds(late.scores[old])[:, None], late.labels[old])
    mended = default_probability(platt, log_odds(scores)[:, None])
    return {
        "before": expected_calibration_error(newer, scores, bins),
        "after": expected_calibration_error(newer, mended, bins),
        "default_rate": float(newer.mean()),
        "mean_score": float(scores.mean()),
        "mended_score": float(mended.mean()),
    }


def tenths(labels: Labels, scores: Probabilities) -> pd.DataFrame:
    """Mean score and default rate of tenths of the loans, by score."""
    table = tables.deciles(labels, scores)
    return table[["mean_score", "default_rate"]].rename(columns={"mean_score": "score"})


def cost_at(threshold: float, side: Side, train: TrainParams) -> float:
    """Mean cost of a loan of a side at one threshold."""
    costs = (train.cost_false_approval, train.cost_false_refusal)
    return float(mean_costs(side.labels, side.scores, np.array([threshold]), *costs)[0])


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
                "cost": mean_costs(
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
            side: tables.stability(train.features[:, index], sides[side].features[:, index], categorical=categorical)
            for side in SIDES
        }
        rows.append({"name": name, **moved})
    table = pd.DataFrame(rows).sort_values("out_of_time", ascending=False, kind="stable")
    score = {side: tables.stability(train.scores, sides[side].scores, categorical=False) for side in SIDES}
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
        curve = tables.partial_dependence(
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
        {"change": change, **tables.promise(before, default_probability(model, from_columns(changed)))}
        for change, changed in changes.items()
    ]
