"""Weight of evidence, information value and a points scorecard, by OptBinning: how bankers have always read loans.

A reading aid for the report and for `2.notebooks/fe.ipynb`, and no candidate: skops can't save a scorecard without
pickle, and ONNX can't hold its binning. Weight of evidence is ln(share of the paid / share of the charged off): above
zero a group is safer than the average. Source: Siddiqi (2017), "Intelligent credit scoring"; the cuts are those of
Navas-Palencia (2020), "Optimal binning: mathematical programming formulation".
"""

import re
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from optbinning import BinningProcess, Scorecard
from sklearn.linear_model import LogisticRegression

from credit_risk.contract import FIELDS, Choice
from credit_risk.evaluation.metrics import Labels, Probabilities
from credit_risk.features import CATEGORICAL, FEATURE_NAMES, FEATURES, MISSING, SECTORS, UNSEEN
from credit_risk.model import Floats

MOST_BINS = 6  # of a feature: more can't be read
SMALLEST_BIN = 0.01  # share of the loans; rarer categories are put together
LEAST_VALUE = 0.02  # information value below which a feature says nothing (Siddiqi 2017)
MOST_ROWS = 100_000  # cuts are as good on fewer loans, and their cost must not grow with the data
# Odds of being paid of 50 to 1 are 600 points, and 20 points more double them: the scale most textbooks use.
SCALE = {"scorecard_points": 600, "odds": 50, "pdo": 20}
CHOICES = {field.name: field.choices for field in FIELDS if isinstance(field, Choice)} | {"sector": SECTORS}
FLAGS = tuple(feature.name for feature in FEATURES if feature.unit.startswith("1 or 0"))
INTERVAL = re.compile(r"\[?\(?(?P<low>[-\w.]+), (?P<high>[-\w.]+)\)")  # how OptBinning writes a cut

# It says at every fit what pandas 4 will refuse.
warnings.filterwarnings("ignore", module=r"optbinning\.")


def words_of(name: str, codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The words behind the codes of a category or flag."""
    if name in FLAGS:
        return np.where(codes == 1, "yes", "no").astype(object)
    words = {float(code): str(word) for code, word in enumerate(CHOICES[name])} | {MISSING: "unknown", UNSEEN: "unseen"}
    return np.array([words[float(code)] for code in codes], dtype=object)


def readable(features: Floats) -> pd.DataFrame:
    """Features, shape (n, len(FEATURES)), as a frame: categories and flags by their words, numbers as they are."""

    def column(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return words_of(name, values) if name in CATEGORICAL or name in FLAGS else values.astype(np.float64)

    return pd.DataFrame({name: column(name, features[:, index]) for index, name in enumerate(FEATURE_NAMES)})


def binning(names: list[str]) -> BinningProcess:
    """How features are cut into groups; not yet fitted."""
    codes = [name for name in names if name in CATEGORICAL or name in FLAGS]
    rare = {name: {"cat_cutoff": SMALLEST_BIN} for name in codes}
    return BinningProcess(
        names, max_n_bins=MOST_BINS, min_bin_size=SMALLEST_BIN, categorical_variables=codes, binning_fit_params=rare
    )


def sample(features: Floats, labels: Labels, seed: int) -> tuple[pd.DataFrame, Labels]:
    """At most MOST_ROWS of the loans, readable."""
    rows = np.random.default_rng(seed).permutation(len(labels))[:MOST_ROWS]
    return readable(features[rows]), labels[rows]


def bin_features(features: Floats, labels: Labels, seed: int) -> BinningProcess:
    """All features cut into groups on these loans: train's."""
    return binning(list(FEATURE_NAMES)).fit(*sample(features, labels, seed))


def evidence_table(process: BinningProcess, name: str) -> pd.DataFrame:
    """The groups of a feature by number: bin, loans, default_rate, woe and iv; those without loans are left out."""
    return _readable_table(process.get_binned_variable(name).binning_table.build(add_totals=False))


def information_values(process: BinningProcess) -> dict[str, float]:
    """Information value by feature, the highest first."""
    summary = process.summary()
    values = zip(summary["name"], summary["iv"].astype(float), strict=True)
    return dict(sorted(values, key=lambda pair: -pair[1]))


def fit_scorecard(process: BinningProcess, features: Floats, labels: Labels, seed: int) -> Scorecard:
    """A points scorecard of the features that say something, by logistic regression on their weights of evidence.

    A feature whose weight comes out with the wrong sign would give points to its riskier groups, as others say the same
    already; it is left out, as scorecard builders do.
    """
    names = [name for name, value in information_values(process).items() if value >= LEAST_VALUE]
    frame, outcomes = sample(features, labels, seed)
    evidence = process.transform(frame, metric="woe", metric_missing="empirical")
    while True:
        weights = LogisticRegression(C=np.inf).fit(evidence[names], outcomes).coef_[0]
        kept = [name for name, weight in zip(names, weights, strict=True) if weight < 0]
        if kept == names:
            break
        names = kept
    card = Scorecard(
        binning(names),
        LogisticRegression(C=np.inf),
        scaling_method="pdo_odds",
        scaling_method_params=SCALE,
        intercept_based=True,  # the worst group of a feature gets nothing, the others their lead over it
        rounding=True,
    )
    return card.fit(frame, outcomes, metric_missing="empirical")


def points(card: Scorecard, features: Floats) -> Probabilities:
    """The points of each loan, shape (n,): more is safer."""
    total: Probabilities = np.asarray(card.score(readable(features)), np.float64)
    return total


def points_table(card: Scorecard) -> pd.DataFrame:
    """The scorecard as it is read: feature, bin, loans, default_rate, woe and points."""
    table = card.table(style="detailed")
    shown = _readable_table(table)
    shown.insert(0, "feature", table.loc[table["Count"].to_numpy() > 0, "Variable"].to_numpy())
    shown["points"] = table.loc[table["Count"].to_numpy() > 0, "Points"].astype(int).to_numpy()
    return shown


def _readable_table(table: pd.DataFrame) -> pd.DataFrame:
    table = table[table["Count"].to_numpy() > 0]
    return pd.DataFrame(
        {
            "bin": [_bin(text) for text in table["Bin"]],
            "loans": table["Count"].astype(int).to_numpy(),
            "default_rate": table["Event rate"].astype(float).to_numpy(),
            "woe": table["WoE"].astype(float).to_numpy(),
            "iv": table["IV"].astype(float).to_numpy(),
        },
        index=table.index,
    )


def _bin(written: Any) -> str:
    """A group as people write it: OptBinning has `[2.50, 5.50)` for numbers and an array for words."""
    if not isinstance(written, str):
        return ", ".join(map(str, written))
    if written == "Missing":
        return "unknown"
    found = INTERVAL.fullmatch(written)
    if found is None:
        return written
    low, high = (_number(found[side]) for side in ("low", "high"))
    if low == "-inf":
        return "all" if high == "inf" else f"below {high}"
    return f"{low} or more" if high == "inf" else f"{low} to {high}"


def _number(text: str) -> str:
    return text if text.endswith("inf") else f"{float(text):,.2f}".rstrip("0").rstrip(".")
