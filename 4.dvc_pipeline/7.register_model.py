"""Stage 7: registers the model, as the challenger.

Reads:  1.data/5.model/*, 1.data/6.reports/*, 1.data/1.raw/manifest.json; 1.data/2.clean/rows.parquet and
        1.data/4.split/rows/test.parquet for the reference rows
Writes: 1.data/7.registered/model.json   lineage key and digest of the serving form: the same for the same model
        in the registry at MLFLOW_TRACKING_URI: one run with everything, and one version, alias `challenger`
Params: all that shaped the model: data, clean, split, train, evaluate

The lineage key is made of the data, the parameters, the environment and the serving form's bytes. If a version with
this key is there already, it only gets the alias: registering twice, or after a kill half-way, makes no second version.
Git commit and dvc.lock are recorded, not part of the key.
"""

import hashlib
import json
import shutil
import subprocess
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
import yaml
from mlflow.data.http_dataset_source import HTTPDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import RunStatus

from credit_risk.contract import FIELDS
from credit_risk.core import params
from credit_risk.core.entry_point import run
from credit_risk.core.files import read_json, sha256, write_json
from credit_risk.core.paths import data, root
from credit_risk.data.splits import as_records, read_holdout
from credit_risk.formats.reference_rows import FILE_NAME, write_reference_rows
from credit_risk.formats.skops_model import CODE, TRUSTED, registered_form
from credit_risk.model import default_probability
from credit_risk.registry.client import CHALLENGER, LINEAGE_KEY, ONNX_SHA256, Registry
from credit_risk.registry.preflight import preflight
from credit_risk.registry.signature import contract_signature

REFERENCE_ROW_COUNT = 50
SECTIONS = ("data", "clean", "split", "train", "evaluate")
REQUIREMENTS = ("numpy", "pandas", "scikit-learn", "skops")  # to load and run the registry's form


def main() -> None:
    """Runs the stage."""
    registry = Registry()
    preflight(registry)
    lineage = read_lineage()
    key, onnx_sha256 = lineage_key(lineage), lineage["onnx_sha256"]
    version = registry.with_lineage(key)
    if version is None:
        end_interrupted_runs(registry, key)
        with logged_run(registry, key) as run_id:
            model = log_everything(lineage)
            tags = {LINEAGE_KEY: key, ONNX_SHA256: onnx_sha256, "lineage": json.dumps(lineage | record())}
            version = registry.create_version(model.model_uri, run_id, model.model_id, tags)
        print(f"registered version {version.number}")
    else:
        print(f"version {version.number} has this lineage already")
    registry.set_alias(CHALLENGER, version.number)
    write_json(data("7.registered", "model.json"), {LINEAGE_KEY: key, ONNX_SHA256: onnx_sha256})


def read_lineage() -> dict[str, Any]:
    """What the model was made from: equal lineages make equal models."""
    sections = params.read(params.path())
    return {
        "data": {entry["source"]: entry["sha256"] for entry in read_json(data("1.raw", "manifest.json"))},
        "params": {name: sections[name] for name in SECTIONS if name != "evaluate"},
        "environment_sha256": read_json(data("5.model", "training.json"))["environment_sha256"],
        "onnx_sha256": sha256(data("5.model", "model.onnx")),
    }


def lineage_key(lineage: dict[str, Any]) -> str:
    """SHA-256 of the lineage as canonical JSON."""
    return hashlib.sha256(json.dumps(lineage, sort_keys=True).encode()).hexdigest()


def record() -> dict[str, Any]:
    """Where it was made: git commit, whether files differed from it, and the hashes of dvc.lock."""
    lock = root() / "4.dvc_pipeline" / "dvc.lock"
    stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"] if lock.exists() else {}
    return {
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": bool(git("status", "--porcelain")),
        "dvc_lock": {
            name: {entry["path"]: entry["md5"] for entry in stage.get("outs", [])} for name, stage in stages.items()
        },
    }


def git(*arguments: str) -> str:
    """What git prints; nothing where there is no repository."""
    result = subprocess.run(["git", *arguments], cwd=root(), capture_output=True, text=True, check=False)
    return result.stdout.strip()


def end_interrupted_runs(registry: Registry, key: str) -> None:
    """Runs of this lineage that a kill left open are marked as killed."""
    with registry.plain_errors():
        query = f"tags.{LINEAGE_KEY} = '{key}' and attributes.status = 'RUNNING'"
        for interrupted in registry.client.search_runs([registry.experiment_id()], query):
            registry.client.set_terminated(interrupted.info.run_id, RunStatus.to_string(RunStatus.KILLED))


@contextmanager
def logged_run(registry: Registry, key: str) -> Iterator[str]:
    """An MLflow run; gives its id."""
    experiment_id = registry.experiment_id()
    with registry.plain_errors(), mlflow.start_run(experiment_id=experiment_id, tags={LINEAGE_KEY: key}) as active:
        yield active.info.run_id


def log_everything(lineage: dict[str, Any]) -> Any:
    """Logs params, metrics, dataset, reports and both forms of the model; returns the logged model."""
    mlflow.log_params(flat(lineage["params"]))
    digest = hashlib.sha256(json.dumps(lineage["data"], sort_keys=True).encode()).hexdigest()
    source: Any = HTTPDatasetSource(", ".join(lineage["data"]))  # type: ignore[no-untyped-call]
    mlflow.log_input(MetaDataset(source, "loans", digest[:32]), "training")  # type: ignore[abstract]
    mlflow.log_dict(lineage | record(), "lineage.json")
    mlflow.log_artifacts(str(data("6.reports")), "reports")
    with tempfile.TemporaryDirectory() as folder:
        model = log_model(Path(folder))
    # After the model, and for it: metrics that a run has already are asked for one by one when a model is logged.
    figures = flat(read_json(data("6.reports", "metrics.json")))
    numbers = {name: value for name, value in figures.items() if isinstance(value, (int, float))}
    mlflow.log_metrics(numbers, model_id=model.model_id)
    return model


def log_model(folder: Path) -> Any:
    """Logs the registry's form, with the serving form and the reference rows as extra files."""
    pipeline = registered_form(joblib.load(data("5.model", "model.joblib")))  # made here by stage 5: safe to unpickle
    reference_rows = read_holdout("test").applications.head(REFERENCE_ROW_COUNT)
    write_reference_rows(folder / FILE_NAME, as_records(reference_rows), default_probability(pipeline, reference_rows))
    return mlflow.sklearn.log_model(
        pipeline,
        name="model",
        serialization_format="skops",
        skops_trusted_types=TRUSTED,
        pyfunc_predict_fn="predict_proba",
        signature=contract_signature(),
        input_example=pd.DataFrame([{field.name: field.example for field in FIELDS}]),
        code_paths=[model_code(folder)],
        pip_requirements=[f"{name}=={installed(name)}" for name in REQUIREMENTS],
        extra_files=[str(data("5.model", "model.onnx")), str(folder / FILE_NAME)],
    )


def model_code(folder: Path) -> str:
    """Copies the modules that the registered pipeline needs into a package below `folder`, and returns its path."""
    package = folder / "credit_risk"
    for name in CODE:
        target = package / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root() / "src" / "credit_risk" / name, target)
    return str(package)


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted names."""
    result: dict[str, Any] = {}
    for name, value in nested.items():
        result |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return result


if __name__ == "__main__":
    run("stage 7", main)
