"""Example: what the leak in the SBA loans is worth. The same model with and without `Term`, on the same split.

`Term` was rewritten when a loan failed, so it gives the outcome away. Public notebooks on these loans report the
figure with it; this project reports the one without. Also cross-validates the honest model on train alone, which shows
how much of the figure on test is due to that one sample, and measures it on the loans of the 7(a) programme, which the
SBA guarantees only in part. Belongs to the example data: delete it with them.

Usage: uv run 3.experiments/term_leak.py      after uv run main.py
Reads:  1.data/4.split/rows/*.parquet, 1.data/1.raw/rows.parquet
Writes: 3.experiments/term_leak.json
"""

from credit_risk.core.entry_point import run

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from threadpoolctl import threadpool_limits

from credit_risk.contract import CONTRACT
from credit_risk.core import params
from credit_risk.core.arrays import Floats, Labels, Scores
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import write_json
from credit_risk.core.paths import data, relative, root
from credit_risk.core.schema import ROW_ID
from credit_risk.data.splits import read_split, split_path
from credit_risk.evaluation.leakage import single_feature_aucs
from credit_risk.features import FEATURES
from credit_risk.model import TrainParams, build_pipeline, positive_probability

Splits = dict[str, tuple[Floats, Labels]]
FOLDS = 5
HALF = 0.5  # the threshold at which notebooks report accuracy


def main() -> None:
    """Trains both and shows them side by side."""
    if not split_path("train").exists():
        raise ProjectError(f"{relative(split_path('train'))} is missing; run the pipeline first: `uv run main.py`")
    train = params.load("train", TrainParams)
    honest: Splits = {split: read_split(split) for split in CONTRACT.splits}
    terms = read_terms()
    leaky: Splits = {split: (np.column_stack([rows, terms[split]]), labels) for split, (rows, labels) in honest.items()}
    without_term = probabilities(train, FEATURES.names, honest)
    models = {
        "without_term": metrics(without_term, honest),
        "with_term": metrics(probabilities(train, (*FEATURES.names, "term"), leaky), leaky),
    }
    alone = single_feature_aucs(terms["train"][:, None], honest["train"][1], ["term"], train.seed)["term"]
    folds = fold_aucs(train, *honest["train"])
    mean, error = float(folds.mean()), float(folds.std(ddof=1) / len(folds) ** 0.5)
    in_part = {
        f"{split}_auc": round(auc_guaranteed_in_part(*honest[split], without_term[split]), 6)
        for split in CONTRACT.holdouts
    }
    report = models | {
        "term_alone_auc": round(alone, 6),
        "without_term_cross_validated_on_train": {
            "mean": round(mean, 6),
            "standard_error": round(error, 6),
            "folds": len(folds),
        },
        "without_term_guaranteed_in_part": in_part,
    }
    write_json(root() / "3.experiments" / "term_leak.json", report)
    table = Table("model", "ROC AUC in time", "ROC AUC out of time", "accuracy in time")
    for name, figures in models.items():
        table.add_row(name.replace("_", " "), *(f"{value:.3f}" for value in figures.values()))
    Console().print(table, f"Term alone, out of fold: ROC AUC {alone:.3f}")
    Console().print(f"Without Term, {len(folds)} folds of train: ROC AUC {mean:.3f}, standard error {error:.3f}")


def fold_aucs(train: TrainParams, features: Floats, labels: Labels) -> npt.NDArray[np.float64]:
    """ROC AUC of the project's model on each fold of train, fitted on the others, shape (FOLDS,)."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=train.seed)
    with threadpool_limits(1):
        pipeline = build_pipeline(train, rows=len(labels) - len(labels) // FOLDS - 1)
        aucs: npt.NDArray[np.float64] = cross_val_score(pipeline, features, labels, cv=folds, scoring="roc_auc")
    return aucs


def read_terms() -> dict[str, Floats]:
    """The column Term of each split's loans, in the split's order, float32."""
    raw = pq.read_table(data("1.raw", "rows.parquet"), columns=["LoanNr_ChkDgt", "Term"]).to_pandas()
    by_number = raw.drop_duplicates("LoanNr_ChkDgt", keep="last").set_index("LoanNr_ChkDgt")["Term"]
    ids = {split: pq.read_table(split_path(split), columns=[ROW_ID])[ROW_ID].to_pandas() for split in CONTRACT.splits}
    return {split: by_number.loc[rows].to_numpy().astype(np.float32) for split, rows in ids.items()}


def probabilities(train: TrainParams, names: tuple[str, ...], splits: Splits) -> dict[str, Scores]:
    """Probabilities of both holdouts from the project's model on these features."""
    features, labels = splits["train"]
    with threadpool_limits(1):
        model = build_pipeline(train, names, FEATURES.categorical, len(labels)).fit(features, labels)
    return {split: positive_probability(model, splits[split][0]) for split in CONTRACT.holdouts}


def metrics(predicted: dict[str, Scores], splits: Splits) -> dict[str, float]:
    """ROC AUC on both holdouts and accuracy on test."""
    figures = {f"{split}_auc": float(roc_auc_score(splits[split][1], scores)) for split, scores in predicted.items()}
    accuracy = float(accuracy_score(splits["test"][1], predicted["test"] >= HALF))
    return {name: round(value, 6) for name, value in (figures | {"test_accuracy": accuracy}).items()}


def auc_guaranteed_in_part(features: Floats, labels: Labels, predicted: Scores) -> float:
    """ROC AUC on the loans that the SBA guarantees only in part."""
    in_part = FEATURES.column(features, "guaranteed_share") < 1
    return float(roc_auc_score(labels[in_part], predicted[in_part]))


if __name__ == "__main__":
    run("term leak", main)
