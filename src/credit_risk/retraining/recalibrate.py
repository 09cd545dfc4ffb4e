"""Registers the champion with a sigmoid that is fitted on the newest outcomes, as a version of its own.

The model is shared: nothing is trained. The older half of the newest rows fits the two numbers and the decision
threshold, the newer half measures what they change, and the gates look at that.
"""

import json
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from sklearn.pipeline import Pipeline

from credit_risk.contract import CONTRACT
from credit_risk.core import params
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import write_json
from credit_risk.data.splits import as_frame
from credit_risk.evaluation.costs import cheapest_threshold, mean_costs
from credit_risk.evaluation.recalibration import effect
from credit_risk.features import FEATURES
from credit_risk.formats import reference_rows, skops_model
from credit_risk.formats.onnx_export import export_onnx
from credit_risk.formats.onnx_scorer import OnnxMetadata, OnnxScorer
from credit_risk.formats.recalibration import Sigmoid, recalibrated, without_recalibration
from credit_risk.model import positive_probability
from credit_risk.monitoring import reference
from credit_risk.registry import lineage, training_rows
from credit_risk.registry.client import ONNX_PATH, ONNX_SHA256, REFERENCE_ROWS_PATH, Registry, Version
from credit_risk.registry.registration import log_model, register_once
from credit_risk.retraining.newest import Rows

DIGITS = 6  # of what is recorded: the last ones differ between processors


def register_recalibrated(registry: Registry, champion: Version, rows: Rows) -> Version:
    """Registers the champion recalibrated on rows as the challenger; the same rows give the same version.

    Raises:
        ProjectError: this code can't use the champion, computes other features than it takes, or the outcomes
            contradict its ranking.
    """
    if unusable := lineage.reject_reason(champion):
        raise ProjectError(unusable)
    folder = registry.download(champion.number)
    champion_metadata = OnnxScorer.load(folder / ONNX_PATH).metadata
    if champion_metadata.features != FEATURES.names:
        raise ProjectError(
            f"version {champion.number} takes other features than this code computes, so it can't be recalibrated; "
            "train a new one: `uv run main.py`"
        )
    served = skops_model.load(folder)
    recorded = lineage.of(champion)
    train = recorded["params"]["train"]
    costs = (train["cost_false_negative"], train["cost_false_positive"])
    older, newer = rows.halves()
    model = without_recalibration(served)
    sigmoid = Sigmoid.fit(positive_probability(model[1:], older.features), older.labels)
    pipeline = recalibrated(model, sigmoid)
    threshold, _ = cheapest_threshold(older.labels, positive_probability(pipeline[1:], older.features), *costs)
    before, after = (positive_probability(one[1:], newer.features) for one in (served, pipeline))
    thresholds = champion_metadata.threshold, threshold
    measured = effect(newer.labels, before, after, params.raw("gates")["calibration_bins"]) | {
        "cost_before": float(mean_costs(newer.labels, before, thresholds[0], *costs)),
        "cost_after": float(mean_costs(newer.labels, after, thresholds[1], *costs)),
    }
    fitted = asdict(sigmoid) | {
        "of": lineage.recalibrated_from(champion) or champion.number,
        "source": rows.source,
        **_extent(older),
    }
    recorded |= {lineage.MEASURED: _extent(newer) | {name: round(value, DIGITS) for name, value in measured.items()}}
    with tempfile.TemporaryDirectory() as name:
        onnx = Path(name) / "model.onnx"
        onnx.write_bytes(export_onnx(Pipeline(pipeline.steps[1:]), OnnxMetadata(FEATURES.names, threshold)))
        model_lineage = lineage.without_provenance(recorded) | {
            ONNX_SHA256: OnnxScorer.load(onnx).digest,
            lineage.RECALIBRATION: fitted,
        }
        provenance = {key: value for key, value in recorded.items() if key not in model_lineage}
        log = partial(_log, registry, champion, pipeline, folder / REFERENCE_ROWS_PATH, onnx)
        monitored = _reference(rows, positive_probability(pipeline[1:], rows.features), threshold, costs)
        return register_once(registry, model_lineage, lambda: provenance, partial(log, monitored))[0]


def _log(  # noqa: PLR0913, PLR0917 (all that a version has)
    registry: Registry,
    champion: Version,
    pipeline: Pipeline,
    rows_file: Path,
    onnx: Path,
    monitored: reference.Reference,
    record: dict[str, Any],
) -> Any:
    """Logs the model, and what monitoring and gates need; returns the logged model."""
    mlflow.log_params(record[lineage.RECALIBRATION])
    mlflow.log_dict(record, "lineage.json")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = json.loads(rows_file.read_text(encoding="utf-8"))["rows"]
        file = folder / reference_rows.FILE_NAME
        reference_rows.write_reference_rows(file, rows, positive_probability(pipeline, as_frame(rows)))
        model = log_model(pipeline, onnx, file)
        if seen := registry.download_file(champion, training_rows.FILE_NAME, folder):
            mlflow.log_artifact(str(seen))
        write_json(folder / reference.FILE_NAME, asdict(monitored))
        mlflow.log_artifact(str(folder / reference.FILE_NAME))
    numbers = {key: value for key, value in record[lineage.MEASURED].items() if isinstance(value, (int, float))}
    mlflow.log_metrics(numbers, model_id=model.model_id)
    return model


def _reference(rows: Rows, probabilities: Any, threshold: float, costs: tuple[float, float]) -> reference.Reference:
    """What monitoring compares with: the rows that the version was recalibrated for."""
    missing = {name: float(rows.fields[name].isna().mean()) for name in CONTRACT.field_names}
    return reference.make_reference(
        rows.features, np.asarray(probabilities), rows.labels, missing, threshold, costs, reference.RECALIBRATED
    )


def _extent(rows: Rows) -> dict[str, Any]:
    return {"rows": len(rows.labels), "from": str(rows.days.min()), "to": str(rows.days.max())}
