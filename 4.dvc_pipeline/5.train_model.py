"""Stage 5: fits the model and chooses the decision threshold, on train alone.

Reads:  1.data/4.split/rows              train.parquet; for `train.calibration: newest` also calibration.parquet
Writes: 1.data/5.model/model.joblib      the fitted pipeline, from features to probabilities
        1.data/5.model/model.onnx        the same model for serving, with threshold and feature names inside
        1.data/5.model/out_of_fold.parquet  outcome and out-of-fold probability of each row of train
        1.data/5.model/training.json     threshold, kept and dropped features, hash of the environment, recalibration
Params: train

The threshold is the cheapest one on out-of-fold predictions: each row is scored by a model that was fitted on the other
folds. With `train.calibration: newest`, a sigmoid moves the probabilities to the level of newer rows, and the threshold
is the cheapest one on these. The same input gives the same bytes, by which DVC and the registry recognise a model.
"""

from credit_risk.core.entry_point import run

from dataclasses import asdict
from functools import partial
from typing import Any

import joblib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from credit_risk.core import params
from credit_risk.core.arrays import Floats, Labels, Scores
from credit_risk.core.environment import environment_sha256
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing, write_json
from credit_risk.core.paths import data
from credit_risk.core.schema import OUTCOME
from credit_risk.data.splits import read_split, split_path
from credit_risk.evaluation.costs import cheapest_threshold
from credit_risk.evaluation.parallel import in_parallel
from credit_risk.features import FEATURES
from credit_risk.formats.onnx_export import export_onnx
from credit_risk.formats.onnx_scorer import OnnxMetadata
from credit_risk.formats.recalibration import Sigmoid, recalibrated
from credit_risk.model import TrainParams, encoded_columns, encoded_features, fit, positive_probability

DIGITS = 9  # of out-of-fold probabilities: the last bits differ between processors


def main() -> None:
    """Runs the stage."""
    train = params.load("train", TrainParams)
    features, labels = read_split("train")
    pipeline, probabilities = fit_with_out_of_fold(train, features, labels)
    costs = (train.cost_false_negative, train.cost_false_positive)
    threshold, cost = cheapest_threshold(labels, probabilities, *costs)
    recalibration: dict[str, Any] = {}
    if train.calibration == "newest":
        newest, outcomes = read_newest()
        sigmoid = Sigmoid.fit(positive_probability(pipeline, newest), outcomes)
        recalibration = {"recalibration": asdict(sigmoid) | {"rows": len(outcomes), "threshold_before": threshold}}
        pipeline, probabilities = recalibrated(pipeline, sigmoid), sigmoid.apply(probabilities).round(DIGITS)
        # On train, the sigmoid would move the threshold with the probabilities, and change no decision.
        threshold, cost = cheapest_threshold(outcomes, positive_probability(pipeline, newest), *costs)
    onnx = export_onnx(pipeline, OnnxMetadata(FEATURES.names, threshold))
    with replacing(data("5.model", "model.joblib")) as temporary:
        joblib.dump(pipeline, temporary)
    with replacing(data("5.model", "model.onnx")) as temporary:
        temporary.write_bytes(onnx)
    with replacing(data("5.model", "out_of_fold.parquet")) as temporary:
        pq.write_table(pa.table({OUTCOME: labels, "probability": probabilities}), temporary, compression="zstd")
    selected = selected_features(pipeline)
    training = {
        "model": train.model,
        "threshold": threshold,
        "out_of_fold_cost": cost,
        "environment_sha256": environment_sha256(),
        "features": selected,
    } | recalibration
    write_json(data("5.model", "training.json"), training)
    print(f"{train.model}: {len(selected['kept'])} features kept, threshold {threshold:.3f}")


def read_newest() -> tuple[Floats, Labels]:
    """Features and labels of the rows that `train.calibration: newest` is fitted on.

    Raises:
        ProjectError: stage 4 has set none apart.
    """
    if not split_path("calibration").exists():
        raise ProjectError(
            "train.calibration: newest needs rows to fit it on, which are not used to measure; set "
            "split.calibration_months in params.yaml"
        )
    return read_split("calibration")


def fit_with_out_of_fold(train: TrainParams, features: Floats, labels: Labels) -> tuple[Pipeline, Scores]:
    """The pipeline fitted on all rows, and the out-of-fold probability of each row, shape (n,).

    The fits are independent and run in parallel, each on one thread.

    Raises:
        ProjectError: an outcome has fewer rows than there are folds.
    """
    if (fewest := int(np.bincount(labels, minlength=2).min())) < train.threshold_folds:
        raise ProjectError(
            f"train has {fewest} rows of one outcome, fewer than train.threshold_folds ({train.threshold_folds})"
        )
    folds = list(StratifiedKFold(train.threshold_folds, shuffle=True, random_state=train.seed).split(features, labels))
    fitted_on = [*(rows for rows, _ in folds), np.arange(len(labels))]
    with threadpool_limits(1):
        *fold_models, pipeline = in_parallel([partial(fit_rows, train, features, labels, rows) for rows in fitted_on])
        probabilities = np.empty(len(labels))
        for model, (_, held_out) in zip(fold_models, folds, strict=True):
            probabilities[held_out] = positive_probability(model, features[held_out])
    return pipeline, probabilities.round(DIGITS)


def fit_rows(train: TrainParams, features: Floats, labels: Labels, rows: Any) -> Pipeline:
    """The pipeline fitted on some of the rows."""
    return fit(train, features[rows], labels[rows])


def selected_features(pipeline: Pipeline) -> dict[str, list[dict[str, Any]]]:
    """Kept and dropped features, each with its importance in the forest that selects them, highest first.

    A feature that is encoded as several columns is kept if one of them is, and has the sum of their importances.
    """
    selector = pipeline["select"]
    importances: dict[str, float] = dict.fromkeys(encoded_columns(), 0.0)
    kept: set[str] = set()
    columns = zip(
        encoded_features(pipeline), selector.estimator_.feature_importances_, selector.get_support(), strict=True
    )
    for feature, importance, is_kept in columns:
        importances[feature] += float(importance)
        kept |= {feature} if is_kept else set()
    ranked = sorted(importances, key=lambda feature: -importances[feature])

    def entries(wanted: bool) -> list[dict[str, Any]]:
        return [
            {"feature": feature, "importance": round(importances[feature], 6)}
            for feature in ranked
            if (feature in kept) == wanted
        ]

    return {"kept": entries(True), "dropped": entries(False)}


if __name__ == "__main__":
    run("stage 5", main)
