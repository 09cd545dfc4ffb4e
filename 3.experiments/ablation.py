"""Example: what each choice is worth. The served model without the lender, unconstrained, and with what else was tried.

Each name is encoded as `model.py` does it: by the outcomes of its loans in train. City, franchise and ZIP code are not
served: see docs/honest_figures.md. Size and age of the lender are numbers from train. Belongs to the example data:
delete it with them.

Usage: uv run 3.experiments/ablation.py      after uv run main.py
Reads:  1.data/4.split/rows/*.parquet, 1.data/1.raw/rows.parquet
Writes: 3.experiments/ablation.json
"""

from credit_risk.core.entry_point import run

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from threadpoolctl import threadpool_limits

from credit_risk.contract import CONTRACT
from credit_risk.core import params
from credit_risk.core.arrays import Floats, Scores
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import write_json
from credit_risk.core.names import name_code
from credit_risk.core.paths import data, relative, root
from credit_risk.core.schema import DATE, OUTCOME, ROW_ID
from credit_risk.data.splits import read_split, split_path
from credit_risk.evaluation.parallel import in_parallel
from credit_risk.features import FEATURES
from credit_risk.model import TrainParams, build_pipeline, positive_probability

FOLDS = 5
LENDER = "lender"


@dataclass(frozen=True, slots=True)
class Trial:
    """Columns that are added to the features without the lender: names, and numbers; directions; fields left out."""

    names: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    directions: Mapping[str, int] = field(default_factory=lambda: FEATURES.directions)
    without: frozenset[str] = frozenset()


TRIALS = {
    "served": Trial(("Bank",)),
    "without the lender": Trial(),
    "unconstrained": Trial(("Bank",), directions={}),
    "guaranteed share falling, too": Trial(("Bank",), directions=FEATURES.directions | {"guaranteed_share": -1}),
    **{
        f"without {', '.join(fields)}": Trial(("Bank",), without=frozenset(fields))
        for fields in (["state"], ["bank_state"], ["urban_rural"], ["state", "bank_state", "urban_rural"])
    },
    "lender and its size": Trial(("Bank",), ("size",)),
    "lender and its age": Trial(("Bank",), ("age",)),
    "lender and ZIP code (3 digits)": Trial(("Bank", "Zip")),
    "lender and city": Trial(("Bank", "City")),
    "lender and franchise": Trial(("Bank", "FranchiseCode")),
    "lender, city and franchise": Trial(("Bank", "City", "FranchiseCode")),
}


def main() -> None:
    """Cross-validates each trial on train, and measures it on the holdouts."""
    if not split_path("train").exists():
        raise ProjectError(f"{relative(split_path('train'))} is missing; run the pipeline first: `uv run main.py`")
    splits = {split: columns_of(split) for split in CONTRACT.splits}
    for split in splits.values():
        add_size_and_age(split, splits["train"])
    measurements = in_parallel([partial(measured, trial, splits) for trial in TRIALS.values()])
    figures = dict(zip(TRIALS, measurements, strict=True))
    for each in figures.values():
        difference = np.subtract(each["fold_aucs"], figures["served"]["fold_aucs"])
        each["difference"] = round(float(difference.mean()), 6)
        each["difference_error"] = round(float(difference.std(ddof=1) / FOLDS**0.5), 6)
    write_json(root() / "3.experiments" / "ablation.json", figures)
    table = Table("model", "AUC, cross-validated", "difference to the served", *CONTRACT.holdouts)
    for name, each in figures.items():
        folds = f"{each['cross_validated_auc']:.4f} ± {each['standard_error']:.4f}"
        difference = f"{each['difference']:+.4f} ± {each['difference_error']:.4f}"
        table.add_row(name, folds, difference, *(f"{each[f'{split}_auc']:.4f}" for split in CONTRACT.holdouts))
    Console().print(table)


def columns_of(split: str) -> pd.DataFrame:
    """The features of a split without the lender, its outcome and date, and codes of the names in the raw rows."""
    features, labels = read_split(split)
    names = [name for name in FEATURES.names if name != LENDER]
    frame = pd.DataFrame({name: FEATURES.column(features, name) for name in names})
    keys = pq.read_table(split_path(split), columns=[ROW_ID, DATE]).to_pandas()
    raw = pq.read_table(
        data("1.raw", "rows.parquet"), columns=["LoanNr_ChkDgt", "Bank", "Zip", "City", "FranchiseCode"]
    ).to_pandas()
    rows = raw.drop_duplicates("LoanNr_ChkDgt", keep="last").set_index("LoanNr_ChkDgt").loc[keys[ROW_ID]]
    rows["Zip"] = rows["Zip"].str.zfill(5).str[:3]
    codes = {name: column.map({text: name_code(text) for text in column.unique()}) for name, column in rows.items()}
    frame = frame.assign(**{str(name): column.to_numpy(np.float32) for name, column in codes.items()})
    return frame.assign(**{OUTCOME: labels, DATE: pd.to_datetime(keys[DATE]).to_numpy()})


def add_size_and_age(split: pd.DataFrame, train: pd.DataFrame) -> None:
    """Adds the number of the lender's loans in train, and the years since the first of them; 0 for a new lender."""
    lenders = train.groupby("Bank")[DATE]
    split["size"] = split["Bank"].map(lenders.size()).fillna(0).to_numpy(np.float32)
    years = (split[DATE] - split["Bank"].map(lenders.min())).dt.days / 365.25
    split["age"] = years.fillna(0).clip(lower=0).to_numpy(np.float32)


def measured(trial: Trial, splits: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """ROC AUC of a trial: on each fold of train, their mean and its standard error, and on the holdouts."""
    seed = params.load("train", TrainParams).seed
    train = splits["train"]
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(train, train[OUTCOME])
    aucs = [auc(trial, train.iloc[fitted], train.iloc[scored]) for fitted, scored in folds]
    found = {"cross_validated_auc": np.mean(aucs), "standard_error": np.std(aucs, ddof=1) / FOLDS**0.5}
    found |= {f"{split}_auc": auc(trial, train, splits[split]) for split in CONTRACT.holdouts}
    rounded = {name: round(float(value), 6) for name, value in found.items()}
    return rounded | {"fold_aucs": [round(each, 6) for each in aucs]}


def auc(trial: Trial, fitted: pd.DataFrame, scored: pd.DataFrame) -> float:
    """ROC AUC on some rows of the model that is fitted on others."""
    train = params.load("train", TrainParams)
    used = [each.name for each in FEATURES if not FEATURES.fields_of(each) & {LENDER, *trial.without}]
    names = [*used, *trial.names, *trial.numbers]
    pipeline = build_pipeline(train, names, FEATURES.categorical, len(fitted), trial.names, trial.directions)
    with threadpool_limits(1):
        pipeline.fit(as_array(fitted, names), fitted[OUTCOME])
        predicted: Scores = positive_probability(pipeline, as_array(scored, names))
    return float(roc_auc_score(scored[OUTCOME], predicted))


def as_array(rows: pd.DataFrame, names: list[str]) -> Floats:
    """Columns as an array, float32."""
    return rows[names].to_numpy(np.float32)


if __name__ == "__main__":
    run("ablation", main)
