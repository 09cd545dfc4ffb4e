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
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import joblib
import mlflow
import mlflow.sklearn
import pandas as pd
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import RunStatus

from credit_risk.contract import CONTRACT
from credit_risk.core.files import read_json, write_json
from credit_risk.core.paths import data
from credit_risk.data.splits import as_records, read_dates, read_holdout, read_row_ids
from credit_risk.formats.reference_rows import FILE_NAME, write_reference_rows
from credit_risk.formats.skops_model import TRUSTED, registered_pipeline
from credit_risk.model import positive_probability
from credit_risk.monitoring.reference import write_training_reference
from credit_risk.registry import lineage, training_rows
from credit_risk.registry.client import CHALLENGER, LINEAGE, LINEAGE_KEY, ONNX_SHA256, Registry
from credit_risk.registry.preflight import preflight
from credit_risk.registry.signature import contract_signature

REFERENCE_ROW_COUNT = 50
SECTIONS = ("data", "clean", "split", "train", "evaluate")
REQUIREMENTS = ("numpy", "pandas", "scikit-learn", "skops")  # to load and run the registered pipeline


def main() -> None:
    """Runs the stage."""
    registry = Registry()
    preflight(registry)
    model_lineage = lineage.read_lineage()
    key = lineage.lineage_key(model_lineage)
    tags = {LINEAGE_KEY: key, ONNX_SHA256: model_lineage["onnx_sha256"]}
    version = lineage.find(registry, key)
    if version is None:
        end_interrupted_runs(registry, key)
        record = model_lineage | lineage.provenance()
        with logged_run(registry, key) as run_id:
            model = log_everything(record)
            version = registry.create_version(
                model.model_uri, run_id, model.model_id, tags | {LINEAGE: json.dumps(record)}
            )
        summary = f"registered version {version.number}"
    else:
        summary = f"version {version.number} has this lineage already"
    registry.set_alias(CHALLENGER, version.number)
    write_json(data("7.registered", "model.json"), tags)
    print(summary)


def end_interrupted_runs(registry: Registry, key: str) -> None:
    """Marks runs of this lineage that a kill has left open as killed."""
    with registry.plain_errors():
        query = f"tags.{LINEAGE_KEY} = '{key}' and attributes.status = 'RUNNING'"
        for interrupted in registry.client.search_runs([registry.experiment_id()], query):
            registry.client.set_terminated(interrupted.info.run_id, RunStatus.to_string(RunStatus.KILLED))


@contextmanager
def logged_run(registry: Registry, key: str) -> Iterator[str]:
    """An MLflow run; gives its id."""
    experiment_id = registry.experiment_id()
    with registry.transfer(), mlflow.start_run(experiment_id=experiment_id, tags={LINEAGE_KEY: key}) as active:
        yield active.info.run_id


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
    return mlflow.sklearn.log_model(
        pipeline,
        name="model",
        serialization_format="skops",
        skops_trusted_types=TRUSTED,
        pyfunc_predict_fn="predict_proba",
        signature=contract_signature(),
        input_example=pd.DataFrame([CONTRACT.example]),
        code_paths=[pack_code(folder)],
        pip_requirements=[f"{name}=={installed(name)}" for name in REQUIREMENTS],
        extra_files=[str(data("5.model", "model.onnx")), str(folder / FILE_NAME)],
    )


def pack_code(folder: Path) -> str:
    """Copies the modules that the registered pipeline needs into a package below `folder`; returns its path."""
    package = folder / lineage.PACKAGE.name
    for name in lineage.MODEL_CODE:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lineage.PACKAGE / name, package / name)
    return str(package)


def flatten(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    result: dict[str, Any] = {}
    for name, value in nested.items():
        result |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return result


if __name__ == "__main__":
    run("stage 7", main)
