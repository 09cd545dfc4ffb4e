"""Example: the SBA loans replayed from 2000 to 2008, half-year by half-year, as if the model had been live.

At the start of each half-year a policy may fit the model again, on what was known on that day. The model then scores
the loans of that half-year, and their final outcomes say how well. Belongs to the example data: delete it with them.

What was known on a day: the loans approved at least WINDOW_MONTHS before it, with the label 1 if they had been charged
off by then, else 0. Younger loans are left out, because only their early failures are known. Assumed: a charge-off is
known on its day; loans without a final outcome in the data, which a bank would have seen too, are not in the replay.

Policies: `never` keeps the model of 2000; `scheduled` fits it every half-year; `on drift` fits it when monitoring gave
an alarm about the half-year before (distributions of features and probability; outcomes come too late); `recalibrate`
keeps the model of 2000 and every half-year fits a sigmoid to its log-odds, on the newest RECALIBRATION_MONTHS of what
was known. All decline from the threshold on that is cheapest for calibrated probabilities.

Usage: uv run benchmarks/replay.py
Reads:  1.data/source, 1.data/later, 4.dvc_pipeline
Writes: benchmarks/results/replay.md, replay.png
"""

from credit_risk.core.entry_point import run

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from joblib import Parallel, delayed
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from credit_risk.core import params
from credit_risk.core.arrays import Floats, Labels, Scores, log_odds
from credit_risk.core.files import replacing
from credit_risk.core.paths import root
from credit_risk.core.schema import DATE, OUTCOME, ROW_ID
from credit_risk.evaluation.costs import mean_costs
from credit_risk.evaluation.metrics import expected_calibration_error
from credit_risk.features import FEATURES
from credit_risk.model import TrainParams, build_pipeline, fit, positive_probability
from credit_risk.monitoring.comparison import corrected, drift
from credit_risk.monitoring.params import MonitorParams
from credit_risk.monitoring.reference import Reference, make_reference
from credit_risk.monitoring.window import Window

HALF_YEARS = pd.date_range("2000-01-01", "2008-01-01", freq="6MS")
WINDOW_MONTHS = 36
OTHER_WINDOWS = (12, 60)  # months, to compare with
RECALIBRATION_MONTHS = 12
FOLDS = 3  # of the out-of-fold probabilities in the reference
BINS = 10
STAGES = ("1.get_data.py", "2.prep_clean_data.py", "3.FE.py")
COLOURS = {"never": "#0072B2", "scheduled": "#009E73", "on drift": "#D55E00", "recalibrate": "#CC79A7"}
PANELS = {"auc": "ROC AUC", "calibration_error": "expected calibration error", "cost": "cost per loan"}


@dataclass(frozen=True)
class Loans:
    """Loans with a final outcome: features (n, len(FEATURES)), labels (n,), days of approval and of charge-off (n,)."""

    features: Floats
    labels: Labels
    approved: npt.NDArray[np.datetime64]
    charged_off: npt.NDArray[np.datetime64]  # NaT: paid in full

    def between(self, start: pd.Timestamp, end: pd.Timestamp) -> "Loans":
        """The loans that were approved from one day until before another."""
        chosen = (self.approved >= np.datetime64(start)) & (self.approved < np.datetime64(end))
        return Loans(self.features[chosen], self.labels[chosen], self.approved[chosen], self.charged_off[chosen])

    def known_on(self, day: pd.Timestamp, window: int = WINDOW_MONTHS) -> "Loans":
        """The loans that were `window` months old on a day, with the labels of that day."""
        old = self.between(pd.Timestamp.min, months_before(day, window))
        labels = (old.charged_off < np.datetime64(day)).astype(np.int8)
        return Loans(old.features, labels, old.approved, old.charged_off)


@dataclass(frozen=True)
class Fitted:
    """A model, and the reference that monitoring compares with."""

    model: Pipeline
    reference: Reference


def main() -> None:
    """Replays all policies; writes the table and the picture."""
    train = params.load("train", TrainParams)
    loans = read_loans()
    models = Parallel(2)(delayed(fit_with_reference)(train, loans.known_on(day)) for day in HALF_YEARS)
    by_day = dict(zip(HALF_YEARS, models, strict=True))
    tables = {policy: replay(policy, loans, by_day, train) for policy in COLOURS}
    results = root() / "benchmarks" / "results"
    with replacing(results / "replay.png") as temporary:
        draw(tables).savefig(temporary, format="png", dpi=100)
    text = report(tables, compare_windows(loans, train, tables["scheduled"]))
    with replacing(results / "replay.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)


def months_before(day: pd.Timestamp, months: int) -> pd.Timestamp:
    """The day so many months earlier."""
    return day - pd.DateOffset(months=months)


def read_loans() -> Loans:
    """Runs the first stages on all half-years in a temporary folder; returns the loans that have an outcome."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(root() / "4.dvc_pipeline", folder / "4.dvc_pipeline")
        shutil.copytree(root() / "1.data" / "source", folder / "1.data" / "source")
        for later in (root() / "1.data" / "later").glob("*.csv.gz"):
            shutil.copy(later, folder / "1.data" / "source")
        for stage in STAGES:
            environment = os.environ | {"PROJECT_ROOT": name}
            subprocess.run([sys.executable, stage], cwd=folder / "4.dvc_pipeline", env=environment, check=True)
        rows = pd.read_parquet(folder / "1.data" / "3.features" / "features.parquet").dropna(subset=OUTCOME)
        raw = pd.read_parquet(folder / "1.data" / "1.raw" / "rows.parquet", columns=["LoanNr_ChkDgt", "ChgOffDate"])
    days = pd.to_datetime(raw["ChgOffDate"].str.strip(), format="%d-%b-%y", errors="coerce")
    days.index = pd.Index(raw["LoanNr_ChkDgt"].str.strip())
    charged_off = rows[ROW_ID].map(days[~days.index.duplicated(keep="last")]).where(rows[OUTCOME] == 1)
    return Loans(
        rows[list(FEATURES.names)].to_numpy(np.float32),
        rows[OUTCOME].to_numpy(np.int8),
        pd.to_datetime(rows[DATE]).to_numpy(),
        charged_off.to_numpy(),
    )


def fit_with_reference(train: TrainParams, known: Loans) -> Fitted:
    """The model of the loans that were known, and its reference for monitoring."""
    model = fit(train, known.features, known.labels)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=train.seed)
    with threadpool_limits(1):
        out_of_fold = cross_val_predict(
            build_pipeline(train), known.features, known.labels, cv=folds, method="predict_proba"
        )[:, 1]
    costs = (train.cost_false_negative, train.cost_false_positive)
    return Fitted(model, make_reference(known.features, out_of_fold, known.labels, {}, threshold(train), costs))


def threshold(train: TrainParams) -> float:
    """The cheapest threshold for calibrated probabilities (Elkan, 2001)."""
    return train.cost_false_positive / (train.cost_false_positive + train.cost_false_negative)


def replay(policy: str, loans: Loans, models: dict[pd.Timestamp, Fitted], train: TrainParams) -> pd.DataFrame:
    """Figures of each half-year under a policy; index: its first day."""
    section = params.load("monitor", MonitorParams)
    current, alarm, rows = models[HALF_YEARS[0]], False, []
    for day in HALF_YEARS:
        fitted = policy == "scheduled" or (policy == "on drift" and alarm)
        current = models[day] if fitted else current
        window = loans.between(day, day + pd.DateOffset(months=6))
        probabilities = positive_probability(current.model, window.features)
        alarm = alarms(current.reference, window, probabilities, section)
        if policy == "recalibrate":
            newest = loans.known_on(day).between(months_before(day, WINDOW_MONTHS + RECALIBRATION_MONTHS), day)
            probabilities = recalibrate(current.model, newest, probabilities)
        rows.append({"fitted": fitted, "alarm": alarm} | measure(window.labels, probabilities, train))
    return pd.DataFrame(rows, index=HALF_YEARS)


def alarms(reference: Reference, window: Loans, probabilities: Scores, section: MonitorParams) -> bool:
    """Whether monitoring raises an alarm about a distribution of the window."""
    unused = np.zeros(len(probabilities))
    seen = Window(pd.DataFrame(), window.features, probabilities, unused.astype(bool), unused)
    return any(check.alarm for check in corrected(list(drift(reference, seen, section)), section.alpha))


def recalibrate(model: Pipeline, newest: Loans, probabilities: Scores) -> Scores:
    """The probabilities after a sigmoid of their log-odds that was fitted on the newest known loans."""
    known = log_odds(positive_probability(model, newest.features))[:, None]
    sigmoid = LogisticRegression(C=np.inf).fit(known, newest.labels)
    return positive_probability(sigmoid, log_odds(probabilities)[:, None])


def measure(labels: Labels, probabilities: Scores, train: TrainParams) -> dict[str, float]:
    """The figures of some loans; the trivial policies decline everybody or nobody."""
    costs = (train.cost_false_negative, train.cost_false_positive)
    cost, declining_all, approving_all = mean_costs(labels, probabilities, [threshold(train), 0, 1.1], *costs)
    return {
        "loans": len(labels),
        "charged_off": float(labels.mean()),
        "auc": float(roc_auc_score(labels, probabilities)),
        "calibration_error": expected_calibration_error(labels, probabilities, BINS),
        "cost": float(cost),
        "declining_all": float(declining_all),
        "approving_all": float(approving_all),
    }


def compare_windows(loans: Loans, train: TrainParams, scheduled: pd.DataFrame) -> pd.DataFrame:
    """Means over all half-years of the policy `scheduled` with other windows, and with final outcomes known at once."""

    def figures(known: Loans, day: pd.Timestamp) -> dict[str, float]:
        window = loans.between(day, day + pd.DateOffset(months=6))
        model = fit(train, known.features, known.labels)
        return measure(window.labels, positive_probability(model, window.features), train)

    def mean(known: Sequence[Loans]) -> pd.Series:
        found = Parallel(2)(delayed(figures)(part, day) for part, day in zip(known, HALF_YEARS, strict=True))
        return pd.DataFrame(found).mean()

    means = {f"{months} months": mean([loans.known_on(day, months) for day in HALF_YEARS]) for months in OTHER_WINDOWS}
    means[f"{WINDOW_MONTHS} months"] = scheduled.drop(columns=["fitted", "alarm"]).mean()
    means["none, and final outcomes known on the day of approval (impossible)"] = mean(
        [loans.between(pd.Timestamp.min, day) for day in HALF_YEARS]
    )
    return pd.DataFrame(means).T[list(PANELS)]


def draw(tables: dict[str, pd.DataFrame]) -> Figure:
    """One panel a figure; the alarms are about the policy that never fits again."""
    figure, axes = plt.subplots(len(PANELS), sharex=True, figsize=(8, 8), layout="constrained")
    for axis, (column, title) in zip(axes, PANELS.items(), strict=True):
        for policy, table in tables.items():
            axis.plot(table.index, table[column], color=COLOURS[policy], marker=".", label=policy)
        axis.set_title(title, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    never = tables["never"]
    for column, style in (("declining_all", "--"), ("approving_all", ":")):
        axes[-1].plot(never.index, never[column], color="0.4", linestyle=style, label=column.replace("_", " "))
    for day in never.index[never["alarm"]]:
        axes[0].axvline(day, color="0.85", linewidth=6, zorder=0)
    axes[0].annotate("grey: drift alarms against 2000", (0.02, 0.05), xycoords="axes fraction", fontsize=8, color="0.4")
    axes[-1].legend(ncols=3, frameon=False, fontsize=8)
    return figure


def report(tables: dict[str, pd.DataFrame], windows: pd.DataFrame) -> str:
    """The results as Markdown."""
    titles = " | ".join(PANELS.values())
    policies = [f"| policy | times fitted | {titles} |", "| --- | ---: | ---: | ---: | ---: |"]
    for policy, table in tables.items():
        figures = " | ".join(f"{table[column].mean():.3f}" for column in PANELS)
        policies.append(f"| {policy} | {1 + int(table['fitted'][1:].sum())} | {figures} |")
    never = tables["never"]
    policies += [
        f"| {name.replace('_', ' ')} | | | | {never[name].mean():.3f} |" for name in ("declining_all", "approving_all")
    ]
    by_half_year = ["| from | loans | charged off | alarms | " + " | ".join(f"cost, {name}" for name in COLOURS) + " |"]
    by_half_year.append("| --- | ---: | ---: | --- |" + " ---: |" * len(COLOURS))
    for number, (day, row) in enumerate(never.iterrows()):
        costs = " | ".join(f"{table['cost'].iloc[number]:.3f}" for table in tables.values())
        alarm = "yes" if row["alarm"] else "no"
        by_half_year.append(f"| {day:%Y-%m} | {row['loans']:,.0f} | {row['charged_off']:.3f} | {alarm} | {costs} |")
    delays = [f"| window | {titles} |", "| --- | ---: | ---: | ---: |"]
    delays += [f"| {name} | " + " | ".join(f"{value:.3f}" for value in row) + " |" for name, row in windows.iterrows()]
    return "\n".join(
        [
            "# The loans from 2000 to 2008, as if live",
            "",
            f"Made by `uv run benchmarks/replay.py`, which says what it assumes. Means: {len(HALF_YEARS)} half-years.",
            "",
            "![Figures of each half-year](replay.png)",
            "",
            *policies,
            "",
            "## By half-year",
            "",
            "Alarms are those about the distributions of features and probability, against the model of 2000.",
            "",
            *by_half_year,
            "",
            "## What late labels cost",
            "",
            "The policy `scheduled` with other windows. A loan counts as paid until it is charged off.",
            "",
            *delays,
            "",
        ]
    )


if __name__ == "__main__":
    run("replay", main)
