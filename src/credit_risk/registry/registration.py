"""Registers a model once, and logs it as a version has it: both formats, reference rows, signature, and its code."""

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import mlflow
import mlflow.sklearn
import pandas as pd
from mlflow.entities import RunStatus
from sklearn.pipeline import Pipeline

from credit_risk.contract import CONTRACT
from credit_risk.formats.skops_model import TRUSTED
from credit_risk.registry import lineage
from credit_risk.registry.client import CHALLENGER, LINEAGE, LINEAGE_KEY, ONNX_SHA256, Registry, Version
from credit_risk.registry.signature import contract_signature

REQUIREMENTS = ("numpy", "pandas", "scikit-learn", "skops")  # to load and run the registered pipeline


def register_once(
    registry: Registry,
    model_lineage: dict[str, Any],
    provenance: Callable[[], dict[str, Any]],
    log: Callable[[dict[str, Any]], Any],
) -> tuple[Version, bool]:
    """The version with this lineage, which becomes the challenger, and whether it is new.

    Args:
        registry: where to register.
        model_lineage: decides which version it is.
        provenance: gives what is recorded besides.
        log: logs everything with the active MLflow run, given lineage and provenance; returns the logged model.
    """
    key = lineage.lineage_key(model_lineage)
    version, new = lineage.find(registry, key), False
    _end_interrupted_runs(registry, key, version)
    if version is None:
        record = model_lineage | provenance()
        tags = {LINEAGE_KEY: key, ONNX_SHA256: model_lineage[ONNX_SHA256], LINEAGE: json.dumps(record)}
        experiment_id = registry.experiment_id()
        with registry.transfer(), mlflow.start_run(experiment_id=experiment_id, tags={LINEAGE_KEY: key}) as active:
            model = log(record)
            version, new = registry.create_version(model.model_uri, active.info.run_id, model.model_id, tags), True
    registry.set_alias(CHALLENGER, version.number)
    return version, new


def log_model(pipeline: Pipeline, onnx: Path, reference_rows: Path) -> Any:
    """Logs the registered pipeline, with the ONNX model and the reference rows as extra files.

    Args:
        pipeline: from fields to probabilities.
        onnx: the file of the same model on features.
        reference_rows: their file; the code is packed next to it.
    """
    return mlflow.sklearn.log_model(
        pipeline,
        name="model",
        serialization_format="skops",
        skops_trusted_types=TRUSTED,
        pyfunc_predict_fn="predict_proba",
        signature=contract_signature(),
        input_example=pd.DataFrame([CONTRACT.example]),
        code_paths=[_pack_code(reference_rows.parent)],
        pip_requirements=[f"{name}=={installed(name)}" for name in REQUIREMENTS],
        extra_files=[str(onnx), str(reference_rows)],
    )


def _end_interrupted_runs(registry: Registry, key: str, version: Version | None) -> None:
    """Marks runs of this lineage that a kill has left open as killed, and the version's own as finished."""
    with registry.plain_errors():
        query = f"tags.{LINEAGE_KEY} = '{key}' and attributes.status = 'RUNNING'"
        for interrupted in registry.client.search_runs([registry.experiment_id()], query):
            complete = version is not None and version.run_id == interrupted.info.run_id
            status = RunStatus.FINISHED if complete else RunStatus.KILLED
            registry.client.set_terminated(interrupted.info.run_id, RunStatus.to_string(status))


def _pack_code(folder: Path) -> str:
    """Copies the modules that the registered pipeline needs into a package below `folder`; returns its path."""
    package = folder / lineage.PACKAGE.name
    for name in lineage.MODEL_CODE:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(lineage.PACKAGE / name, package / name)
    return str(package)
