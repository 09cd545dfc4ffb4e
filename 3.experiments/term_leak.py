"""What a leak is worth: the same model with and without `Term`, on the same split.

`Term` was rewritten when a loan failed, so it tells the outcome. Public notebooks on these loans report the
figure with it; this project reports the one without. Prints both, and writes them for the readme. Also cross-validates
the honest model on train alone, which tells how much of the figure in time is the luck of one held-out sample.

Usage: uv run 3.experiments/term_leak.py      after uv run main.py
Reads:  1.data/4.split/*.parquet, 1.data/1.raw/rows.parquet
Writes: 3.experiments/term_leak.json
"""

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from threadpoolctl import threadpool_limits

from credit_risk.contract import LOAN_NUMBER
from credit_risk.core import params
from credit_risk.core.entry_point import run
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import write_json
from credit_risk.core.paths import data, relative, root
from credit_risk.evaluation.leakage import single_feature_aucs
from credit_risk.features import CATEGORICAL, FEATURE_NAMES
from credit_risk.model import Floats, Labels, TrainParams, build_pipeline, default_probability, read_split

FOLDS = 5
SIDES = ("train", "test", "out_of_time")
HALF = 0.5  # the threshold at which notebooks report accuracy


def main() -> None:
    """Trains both and shows them side by side."""
    if not data("4.split", "rows", "train.parquet").exists():
        raise ProjectError(f"{relative(data('4.split'))} is empty; run the pipeline first: `uv run main.py`")
    train = params.load("train", TrainParams)
    honest = {side: read_split(data("4.split", "rows", f"{side}.parquet")) for side in SIDES}
    terms = read_terms()
    leaky = {side: (np.column_stack([honest[side][0], terms[side]]), honest[side][1]) for side in SIDES}
    models = {
        "without_term": scores(train, FEATURE_NAMES, honest),
        "with_term": scores(train, (*FEATURE_NAMES, "term"), leaky),
    }
    alone = single_feature_aucs(terms["train"][:, None], honest["train"][1], ["term"], train.seed)["term"]
    folds = fold_aucs(train, *honest["train"])
    mean, error = float(folds.mean()), float(folds.std(ddof=1) / len(folds) ** 0.5)
    validated = {"mean": round(mean, 6), "standard_error": round(error, 6), "folds": len(folds)}
    report = models | {"term_alone_auc": round(alone, 6), "without_term_cross_validated_on_train": validated}
    write_json(root() / "3.experiments" / "term_leak.json", report)
    table = Table("model", "ROC AUC in time", "ROC AUC out of time", "accuracy in time")
    for name, figures in models.items():
        table.add_row(name.replace("_", " "), *(f"{value:.3f}" for value in figures.values()))
    Console().print(table, f"Term alone, out of fold: ROC AUC {alone:.3f}")
    Console().print(f"Without Term, {len(folds)} folds of train: ROC AUC {mean:.3f}, standard error {error:.3f}")


def fold_aucs(train: TrainParams, features: Floats, labels: Labels) -> npt.NDArray[np.float64]:
    """ROC AUC of the project's model on each fold of train, fitted on the others, shape (FOLDS,)."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=train.seed)
    with threadpool_limits(train.threads):
        pipeline = build_pipeline(train, rows=len(labels) - len(labels) // FOLDS - 1)
        aucs: npt.NDArray[np.float64] = cross_val_score(pipeline, features, labels, cv=folds, scoring="roc_auc")
    return aucs


def read_terms() -> dict[str, Floats]:
    """The column Term of each side's loans, in the side's order, float32."""
    raw = pq.read_table(data("1.raw", "rows.parquet"), columns=["LoanNr_ChkDgt", "Term"]).to_pandas()
    by_number = raw.drop_duplicates("LoanNr_ChkDgt", keep="last").set_index("LoanNr_ChkDgt")["Term"]
    numbers = {side: pq.read_table(data("4.split", "rows", f"{side}.parquet"), columns=[LOAN_NUMBER]) for side in SIDES}
    return {
        side: by_number.loc[table[LOAN_NUMBER].to_pandas()].to_numpy().astype(np.float32)
        for side, table in numbers.items()
    }


def scores(train: TrainParams, names: tuple[str, ...], sides: dict[str, tuple[Floats, Labels]]) -> dict[str, float]:
    """ROC AUC on both held-out sides and accuracy in time, of the project's model on these features."""
    features, labels = sides["train"]
    with threadpool_limits(train.threads):
        model = build_pipeline(train, names, CATEGORICAL, len(labels)).fit(features, labels)
    predicted = {side: default_probability(model, sides[side][0]) for side in ("test", "out_of_time")}
    figures = {f"{side}_auc": float(roc_auc_score(sides[side][1], scored)) for side, scored in predicted.items()}
    accuracy = float(accuracy_score(sides["test"][1], predicted["test"] >= HALF))
    return {name: round(value, 6) for name, value in (figures | {"test_accuracy": accuracy}).items()}


if __name__ == "__main__":
    run("term leak", main)
