"""Example: what it does to the figures that outcomes come late. Belongs to the example data: delete it with them.

The extract of the data is of August 2014, and hardly a loan in it has no outcome, so these are final. An earlier
extract is simulated: a charge-off is known from its day on (`ChgOffDate`). The day of payment is not in the data:
assumed is the end of the term, or the extract, whichever is first; loans that were repaid early had an outcome sooner.

Usage: uv run benchmarks/late_labels.py      after `uv run main.py`
Reads:  1.data/1.raw, 1.data/3.features
Writes: benchmarks/results/late_labels.md, late_labels.json, late_labels.png
"""

from credit_risk.core.entry_point import run

import json
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from credit_risk.core import params
from credit_risk.core.arrays import Floats, Labels, Scores
from credit_risk.core.files import replacing, write_json
from credit_risk.core.paths import data, root
from credit_risk.core.schema import DATE, OUTCOME, ROW_ID
from credit_risk.evaluation.costs import mean_costs
from credit_risk.evaluation.metrics import expected_calibration_error
from credit_risk.features import FEATURES
from credit_risk.formats.recalibration import Sigmoid
from credit_risk.model import TrainParams, fit, positive_probability

EXTRACT = np.datetime64("2014-08-31")
FIRST = np.datetime64("1990-01-01")
MATURE = (np.datetime64("1995-01-01"), np.datetime64("2003-01-01"))  # approved then: observed for 11 years or more
AGES = (12, 24, 36, 48, 60, 84, 120)  # months
EXTRACTS = tuple(np.datetime64(f"{year}-01-01") for year in (1997, 1999, 2001, 2003, 2005, 2007))
WINDOW = 60  # months
TRAINED, RECALIBRATED = np.datetime64("2005-01-01"), np.datetime64("2006-01-01")
MEASURED_UNTIL = np.datetime64("2007-01-01")
BINS = 10


@dataclass(frozen=True)
class Loans:
    """Features (n, len(FEATURES)), final labels (n,), and the days of approval and of the outcome (n,)."""

    features: Floats
    labels: Labels
    approved: npt.NDArray[np.datetime64]
    known: npt.NDArray[np.datetime64]

    def select(self, chosen: npt.NDArray[np.bool_]) -> "Loans":
        """Some of the loans."""
        return Loans(self.features[chosen], self.labels[chosen], self.approved[chosen], self.known[chosen])

    def between(self, start: np.datetime64, end: np.datetime64) -> "Loans":
        """Approved from one day until before another."""
        return self.select((self.approved >= start) & (self.approved < end))

    def old_enough(self, day: np.datetime64) -> "Loans":
        """Approved at least WINDOW months before a day."""
        return self.select(months_after(self.approved, WINDOW) <= day)

    def with_outcome(self, day: np.datetime64) -> "Loans":
        """Those whose outcome was known on a day."""
        return self.select(self.known <= day)

    def as_known(self, day: np.datetime64) -> "Loans":
        """All, with the labels of a day: a loan counts as paid until it is charged off."""
        return Loans(self.features, self.labels * (self.known <= day), self.approved, self.known)


def main() -> None:
    """Measures and writes."""
    loans = read_loans()
    curve = maturation(loans.between(*MATURE))
    results = root() / "benchmarks" / "results"
    with replacing(results / "late_labels.png") as temporary:
        draw(curve).savefig(temporary, format="png", dpi=100)
    train = params.load("train", TrainParams)
    tables = [curve, simulated_extracts(loans), models(loans, train), recalibrations(loans, train)]
    text = report(*tables)
    write_json(
        results / "late_labels.json", [json.loads(table.reset_index().to_json(orient="records")) for table in tables]
    )
    with replacing(results / "late_labels.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


def read_loans() -> Loans:
    """The loans with an outcome, approved from FIRST on."""
    rows = pd.read_parquet(data("3.features", "features.parquet")).dropna(subset=OUTCOME)
    columns = ["LoanNr_ChkDgt", "ChgOffDate", "Term"]
    raw = pd.read_parquet(data("1.raw", "rows.parquet"), columns=columns)
    raw = raw.set_index(raw["LoanNr_ChkDgt"].str.strip()).loc[rows[ROW_ID]]
    approved = pd.to_datetime(rows[DATE]).to_numpy("datetime64[D]")
    labels = rows[OUTCOME].to_numpy(np.int8)
    charged_off = pd.to_datetime(raw["ChgOffDate"].str.strip(), format="%d-%b-%y", errors="coerce")
    paid = months_after(approved, pd.to_numeric(raw["Term"]).to_numpy(np.int64))
    days = np.where(labels == 1, charged_off.to_numpy("datetime64[D]"), paid)
    known = np.where(np.isnat(days), EXTRACT, np.minimum(days, EXTRACT))
    features = rows[list(FEATURES.names)].to_numpy(np.float32)
    return Loans(features, labels, approved, known).between(FIRST, EXTRACT)


def months_after(days: Any, months: Any) -> Any:
    """The same day or days so many months later; the days of a month are counted on from its first."""
    in_month = days - days.astype("datetime64[M]").astype("datetime64[D]")
    return (days.astype("datetime64[M]") + months).astype("datetime64[D]") + in_month


def maturation(loans: Loans) -> pd.DataFrame:
    """By age in months: which share of each outcome, and of all loans, is known, and the default rate among these."""
    rows = []
    for age in AGES:
        known = loans.known <= months_after(loans.approved, age)
        bad = loans.labels == 1
        rows.append(
            {
                "age": age,
                "charged off, known": known[bad].mean(),
                "paid, known": known[~bad].mean(),
                "with an outcome": known.mean(),
                "default rate of these": loans.labels[known].mean(),
                "default rate if the others count as paid": (known & bad).mean(),
                "final default rate": loans.labels.mean(),
            }
        )
    return pd.DataFrame(rows).set_index("age")


def simulated_extracts(loans: Loans) -> pd.DataFrame:
    """The default rate that an earlier extract would have shown, against the final one of the same loans."""
    rows = []
    for day in EXTRACTS:
        before = loans.between(FIRST, day)
        old = before.old_enough(day)
        known, usable = before.with_outcome(day), old.with_outcome(day)
        rows.append(
            {
                "extract": str(day),
                "loans": len(before.labels),
                "with an outcome": len(known.labels) / len(before.labels),
                "their default rate": known.labels.mean(),
                "final, all": before.labels.mean(),
                f"{WINDOW} months old, with an outcome": len(usable.labels) / len(old.labels),
                "their default rate ": usable.labels.mean(),
                "the same, the others as paid": old.as_known(day).labels.mean(),
                "final, all of these": old.labels.mean(),
            }
        )
    return pd.DataFrame(rows).set_index("extract")


def models(loans: Loans, train: TrainParams) -> pd.DataFrame:
    """Models of what was known at the start of 2005, measured on the final outcomes of 2005 and 2006."""
    before = loans.between(FIRST, TRAINED)
    trained_on = {
        "every loan with an outcome on that day": before.with_outcome(TRAINED),
        f"those of them that were {WINDOW} months old": before.old_enough(TRAINED).with_outcome(TRAINED),
        f"all that were {WINDOW} months old, not charged off as paid": before.old_enough(TRAINED).as_known(TRAINED),
        "every loan, with final outcomes (impossible)": before,
    }
    newest = loans.between(TRAINED, MEASURED_UNTIL)
    rows = []
    for name, known in trained_on.items():
        probabilities = positive_probability(fit(train, known.features, known.labels), newest.features)
        entry = {"trained on": name, "loans": len(known.labels), "their default rate": known.labels.mean()}
        rows.append(entry | measure(newest, probabilities, train))
    return pd.DataFrame(rows).set_index("trained on")


def recalibrations(loans: Loans, train: TrainParams) -> pd.DataFrame:
    """A model of loans until 2004, recalibrated on those of 2005, measured on those of 2006."""
    before = loans.between(FIRST, TRAINED)
    model = fit(train, before.features, before.labels)
    newest, measured = loans.between(TRAINED, RECALIBRATED), loans.between(RECALIBRATED, MEASURED_UNTIL)
    old = before.old_enough(RECALIBRATED)
    old = old.between(months_after(RECALIBRATED, -WINDOW - 12), RECALIBRATED).as_known(RECALIBRATED)
    probabilities = positive_probability(model, measured.features)
    rows = [{"calibration": "none"} | measure(measured, probabilities, train)]
    for name, known in (
        ("on 2005, final outcomes (impossible)", newest),
        (f"on the loans that had been {WINDOW} months old for a year at most, as known on the day", old),
    ):
        sigmoid = Sigmoid.fit(positive_probability(model, known.features), known.labels)
        rows.append({"calibration": name} | measure(measured, sigmoid.apply(probabilities), train))
    return pd.DataFrame(rows).set_index("calibration")


def measure(loans: Loans, probabilities: Scores, train: TrainParams) -> dict[str, float]:
    """Figures of the final outcomes; decisions at the cheapest threshold for calibrated probabilities (Elkan, 2001)."""
    costs = (train.cost_false_negative, train.cost_false_positive)
    threshold = train.cost_false_positive / sum(costs)
    return {
        "ROC AUC": float(roc_auc_score(loans.labels, probabilities)),
        "mean probability": float(probabilities.mean()),
        "default rate": float(loans.labels.mean()),
        "calibration error": expected_calibration_error(loans.labels, probabilities, BINS),
        "cost of a loan": float(mean_costs(loans.labels, probabilities, threshold, *costs)),
    }


def draw(curve: pd.DataFrame) -> Figure:
    """How the outcomes mature, and the default rate that the known ones show."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for name, style in (("charged off, known", "s--"), ("paid, known", "o-"), ("with an outcome", "^:")):
        left.plot(curve.index, curve[name], style, markersize=4, label=name)
    left.set(xlabel="months after the approval", ylabel="share", ylim=(0, 1))
    for name, style in (
        ("default rate of these", "s--"),
        ("default rate if the others count as paid", "o-"),
        ("final default rate", "k-"),
    ):
        right.plot(curve.index, curve[name], style, markersize=4, label=name.replace("these", "those known"))
    right.set(xlabel="months after the approval", ylim=(-0.08, None))
    for axis, place in ((left, "upper left"), (right, "lower right")):
        axis.legend(frameon=False, fontsize=8, loc=place)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def report(curve: pd.DataFrame, extracts: pd.DataFrame, fitted: pd.DataFrame, recalibrated: pd.DataFrame) -> str:
    """The results as Markdown."""
    first, last = (str(day)[:4] for day in (MATURE[0], MATURE[1] - 1))
    return "\n".join(
        [
            "# What it does to the figures that outcomes come late",
            "",
            "Made by `uv run benchmarks/late_labels.py`, which says what it assumes.",
            "",
            f"## How the outcomes of the loans of {first} to {last} mature",
            "",
            "![Shares known by age](late_labels.png)",
            "",
            markdown(curve),
            "",
            "## What an earlier extract would have shown",
            "",
            f"All loans approved from {str(FIRST)[:4]} until the extract; then those at least {WINDOW} months old.",
            "",
            markdown(extracts),
            "",
            "## What a model of the start of 2005 says about the loans of 2005 and 2006",
            "",
            markdown(fitted),
            "",
            "## What recalibration at the start of 2006 does to the loans of 2006",
            "",
            "The model is of the final outcomes until 2004.",
            "",
            markdown(recalibrated),
            "",
        ]
    )


def markdown(table: pd.DataFrame) -> str:
    """A table; counts whole, shares with three digits."""
    lines = [f"| {table.index.name} | " + " | ".join(name.strip() for name in table.columns) + " |"]
    lines.append("| --- |" + " ---: |" * len(table.columns))
    for name, row in table.iterrows():
        cells = [f"{value:,.0f}" if column == "loans" else f"{value:.3f}" for column, value in row.items()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    run("late labels", main)
