"""Stage 5: fits the model and chooses the decision threshold, on train alone.

Reads:  1.data/4.split/rows/train.parquet
Writes: 1.data/5.model/model.joblib      the fitted pipeline, from features to probabilities
        1.data/5.model/model.onnx        the same, compiled for serving, with threshold and feature names inside
        1.data/5.model/out_of_fold.parquet  outcome and score of each training loan, by a model that has not seen it
        1.data/5.model/training.json     threshold, kept and dropped features, and the hash of the environment
Params: train

The threshold is the cheapest one on out-of-fold predictions: predictions for loans that the predicting model has not
seen. Same input, same bytes: DVC and the registry recognise a model by them.
"""

from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from credit_risk.contract import DEFAULT
from credit_risk.core import params
from credit_risk.core.entry_point import run
from credit_risk.core.environment import environment_sha256
from credit_risk.core.files import replacing, write_json
from credit_risk.core.paths import data
from credit_risk.evaluation.costs import cheapest_threshold
from credit_risk.features import FEATURE_NAMES
from credit_risk.formats.onnx_export import export_onnx
from credit_risk.formats.onnx_scorer import OnnxMetadata
from credit_risk.model import Floats, Labels, TrainParams, build_pipeline, fit, named_parameters, read_split


def main() -> None:
    """Runs the stage."""
    train = params.load("train", TrainParams)
    features, labels = read_split(data("4.split", "rows", "train.parquet"))
    scores = out_of_fold(train, features, labels)
    threshold, cost = cheapest_threshold(labels, scores, train.cost_false_approval, train.cost_false_refusal)
    pipeline = fit(train, features, labels)
    facts = OnnxMetadata(FEATURE_NAMES, threshold)
    onnx = export_onnx(pipeline, facts)
    with replacing(data("5.model", "model.joblib")) as temporary:
        joblib.dump(pipeline, temporary)
    with replacing(data("5.model", "model.onnx")) as temporary:
        temporary.write_bytes(onnx)
    with replacing(data("5.model", "out_of_fold.parquet")) as temporary:
        pq.write_table(pa.table({DEFAULT: labels, "score": scores}), temporary, compression="zstd")
    selected = selection(pipeline)
    about = {
        "model": train.model,
        "threshold": threshold,
        "out_of_fold_cost": cost,
        "environment_sha256": environment_sha256(),
        "features": selected,
    }
    write_json(data("5.model", "training.json"), about)
    print(f"{train.model}: {len(selected['kept'])} features kept, threshold {threshold:.3f}")


def out_of_fold(train: TrainParams, features: Floats, labels: Labels) -> npt.NDArray[np.float64]:
    """Probability of default of each training loan by a model that was fitted on the other folds, shape (n,)."""
    folds = StratifiedKFold(train.threshold_folds, shuffle=True, random_state=train.seed)
    fold_rows = len(labels) - len(labels) // train.threshold_folds - 1
    with threadpool_limits(train.threads), named_parameters(train):
        pipeline = build_pipeline(train, rows=fold_rows)
        scores: npt.NDArray[np.float64] = cross_val_predict(
            pipeline, features, labels, cv=folds, method="predict_proba"
        )[:, 1]
    return scores


def selection(pipeline: Pipeline) -> dict[str, list[dict[str, Any]]]:
    """Kept and dropped columns, each with its importance in the selecting forest, highest first."""
    names = pipeline["encode"].get_feature_names_out(FEATURE_NAMES)
    selector = pipeline["select"]
    importances, kept = selector.estimator_.feature_importances_, selector.get_support()
    ranked = np.argsort(-importances, kind="stable")

    def entries(wanted: bool) -> list[dict[str, Any]]:
        return [
            {"feature": names[i].partition("__")[2], "importance": round(float(importances[i]), 6)}
            for i in ranked
            if kept[i] == wanted
        ]

    return {"kept": entries(True), "dropped": entries(False)}


if __name__ == "__main__":
    run("stage 5", main)
