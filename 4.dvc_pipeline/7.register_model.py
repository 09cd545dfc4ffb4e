"""Stage 7: registers the model as the challenger.

Reads:  1.data/5.model/*, 1.data/6.reports/*, 1.data/1.raw/manifest.json; 1.data/2.clean/rows.parquet and
        1.data/4.split/rows/test.parquet for the reference rows; train.parquet for the ids of the training rows and,
        with 1.data/5.model/out_of_fold.parquet, for the reference of monitoring
Writes: 1.data/7.registered/model.json: lineage key and digest of the ONNX model, the same for the same model;
        in the registry at MLFLOW_TRACKING_URI: one run with everything, and one version, with the alias `challenger`
Params: data, clean, split, train (part of the lineage), evaluate (shapes the reports)

A lineage is registered once (registry/lineage.py says what is part of it). If a version has this lineage already, it
gets the alias, so running the stage again, also after a kill, makes no second version.
"""

from credit_risk.core.entry_point import run

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import joblib
import mlflow
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.meta_dataset import MetaDataset

from credit_risk.contract import CONTRACT
from credit_risk.core.files import read_json, write_json
from credit_risk.core.paths import data
from credit_risk.data.splits import as_records, read_dates, read_holdout, read_row_ids
from credit_risk.formats.reference_rows import FILE_NAME, write_reference_rows
from credit_risk.formats.skops_model import registered_pipeline
from credit_risk.model import positive_probability
from credit_risk.monitoring.reference import write_training_reference
from credit_risk.registry import lineage, registration, training_rows
from credit_risk.registry.client import LINEAGE_KEY, ONNX_SHA256, Registry
from credit_risk.registry.preflight import preflight

REFERENCE_ROW_COUNT = 50
SECTIONS = ("data", "clean", "split", "train", "evaluate")


def main() -> None:
    """Runs the stage."""
    registry = Registry()
    preflight(registry)
    version, new = registration.register_once(registry, lineage.read_lineage(), lineage.provenance, log_everything)
    write_json(data("7.registered", "model.json"), {name: version.tags[name] for name in (LINEAGE_KEY, ONNX_SHA256)})
    print(f"registered version {version.number}" if new else f"version {version.number} has this lineage already")


def log_everything(record: dict[str, Any]) -> Any:
    """Logs parameters, metrics, dataset, reports and the model in both formats; returns the logged model."""
    mlflow.log_params(flatten(record["params"]))
    digest = hashlib.sha256(json.dumps(record["data"], sort_keys=True).encode()).hexdigest()
    source: Any = HTTPDatasetSource(", ".join(record["data"]))  # type: ignore[no-untyped-call]
    mlflow.log_input(MetaDataset(source, CONTRACT.problem.rows, digest[:32]), "training")  # type: ignore[abstract]
    mlflow.log_dict(record, "lineage.json")
    dates = read_dates("train")
    last_date = None if dates is None else str(dates.max())
    mlflow.log_dict(training_rows.summarize(read_row_ids("train"), last_date), training_rows.FILE_NAME)
    mlflow.log_artifacts(str(data("6.reports")), "reports")
    with tempfile.TemporaryDirectory() as folder:
        model = log_model(Path(folder))
        mlflow.log_artifact(str(write_training_reference(Path(folder))))
    # After the model and with its id: metrics that a run already has are looked up one by one when a model is logged.
    metrics = flatten(read_json(data("6.reports", "metrics.json")))
    numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float))}
    mlflow.log_metrics(numbers, model_id=model.model_id)
    return model


def log_model(folder: Path) -> Any:
    """Logs the scikit-learn pipeline, with the ONNX model and the reference rows as extra files."""
    pipeline = registered_pipeline(joblib.load(data("5.model", "model.joblib")))  # from stage 5: safe to unpickle
    rows = read_holdout("test").rows.head(REFERENCE_ROW_COUNT)
    write_reference_rows(folder / FILE_NAME, as_records(rows), positive_probability(pipeline, rows))
    return registration.log_model(pipeline, data("5.model", "model.onnx"), folder / FILE_NAME)


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    result: dict[str, Any] = {}
    for name, value in nested.items():
        result |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return result


if __name__ == "__main__":
    run("stage 7", main)
