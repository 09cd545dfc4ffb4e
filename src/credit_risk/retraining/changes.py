"""What has changed between two versions: data, parameters, metrics, slices; as Markdown."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from credit_risk.contract import CONTRACT
from credit_risk.core import params
from credit_risk.core.errors import ProjectError
from credit_risk.data.splits import read_split
from credit_risk.features import FEATURES
from credit_risk.formats.onnx_scorer import OnnxScorer
from credit_risk.registry import lineage
from credit_risk.registry.client import METRICS_PATH, ONNX_PATH, Registry, Version
from credit_risk.registry.rebuild import diff_values

SHOWN = 10  # slices, those whose AUC has changed most
METRICS = ("rows", "positive_rate", "roc_auc", "ece", "brier", "cost")


def changes(registry: Registry, old: Version, new: Version) -> str:
    """All sections."""
    parts = {"data": data_changes(old, new), "parameters": parameter_changes(old, new)}
    if lineage.RECALIBRATION in lineage.of(new):
        parts["probabilities"] = recalibration_lines(new)
    parts |= {"metrics": metric_changes(registry, old, new), "slices": slice_changes(registry, old, new)}
    return "\n".join(f"## Changed {name}\n\n{text or 'None.'}\n" for name, text in parts.items())


def data_changes(old: Version, new: Version) -> str:
    """Sources that were added, have gone or have other content."""
    before, after = (lineage.of(version).get("data", {}) for version in (old, new))
    lines = [f"- new: {name}" for name in after if name not in before]
    lines += [f"- gone: {name}" for name in before if name not in after]
    lines += [f"- other content: {name}" for name in after if before.get(name, after[name]) != after[name]]
    return "\n".join(lines)


def parameter_changes(old: Version, new: Version) -> str:
    """Parameters with other values."""
    before, after = (lineage.of(version).get("params", {}) for version in (old, new))
    return "\n".join(f"- {line.replace(', registered ', ', before ')}" for line in diff_values(before, after, ""))


def recalibration_lines(version: Version) -> str:
    """A version's recalibration, and what it does on newer rows."""
    recorded = lineage.of(version)
    found, measured = recorded[lineage.RECALIBRATION], recorded.get(lineage.MEASURED)
    line = f"- log-odds times {found['slope']:.3f}, {found['intercept']:+.3f}, fitted on {found['rows']:,} rows"
    if measured is None:
        return line
    shown = [
        f"{title} {measured[f'{name}_before']:.3f} → {measured[f'{name}_after']:.3f}"
        for name, title in (("ece", "calibration error"), ("brier", "Brier score"), ("cost", "mean cost"))
    ]
    newer = f"- on {measured['rows']:,} newer rows ({measured['from']} to {measured['to']}): {', '.join(shown)}"
    return f"{line} ({found['source']}, {found['from']} to {found['to']})\n{newer}"


def metric_changes(registry: Registry, old: Version, new: Version) -> str:
    """The metrics of each version's own holdouts, which move with the data; empty if they are the same."""
    before, after = (_metrics(registry, version) for version in (old, new))
    rows = [
        f"| {holdout.replace('_', ' ')} | {name} | {_number(before, holdout, name)} | {_number(after, holdout, name)} |"
        for holdout in CONTRACT.holdouts
        for name in METRICS
        if after and _number(before, holdout, name) != _number(after, holdout, name)
    ]
    head = f"| holdout | metric | version {old.number} | version {new.number} |\n|---|---|---|---|\n"
    return head + "\n".join(rows) if rows else ""


def slice_changes(registry: Registry, old: Version, new: Version) -> str:
    """Slices of today's holdouts with the largest change of the AUC; empty if none has changed."""
    try:
        scorers = [_scorer(registry, version) for version in (old, new)]
    except ProjectError as error:
        return f"Not comparable: {error}."
    found = sorted(_slices(*scorers), key=lambda row: -abs(row[3] - row[2]))[:SHOWN]
    if not found:
        return ""
    lines = [f"| {name} | {rows:,} | {before:.3f} | {after:.3f} |" for name, rows, before, after in found]
    head = f"| slice, ROC AUC | rows | version {old.number} | version {new.number} |\n|---|---|---|---|\n"
    return head + "\n".join(lines)


def _slices(old: OnnxScorer, new: OnnxScorer) -> Iterator[tuple[str, int, float, float]]:
    """Name, rows and both AUCs of each slice that has changed."""
    least = params.raw("evaluate")["min_slice_rows"]
    for holdout in CONTRACT.holdouts:
        features, labels = read_split(holdout)
        scores = old.score_many(features), new.score_many(features)
        for each in FEATURES.slices:
            groups = FEATURES.groups(features, each)
            for group in np.unique(groups.astype(str)):
                inside = groups.astype(str) == group
                if inside.sum() < least or np.ptp(labels[inside]) == 0:
                    continue
                before, after = (float(roc_auc_score(labels[inside], one[inside])) for one in scores)
                if f"{before:.3f}" != f"{after:.3f}":
                    name = f"{holdout}: {each.name} {group}".replace("_", " ")
                    yield name, int(inside.sum()), before, after


def _scorer(registry: Registry, version: Version) -> OnnxScorer:
    with tempfile.TemporaryDirectory() as folder:
        return OnnxScorer.load(registry.download(version.number, ONNX_PATH, Path(folder)))


def _metrics(registry: Registry, version: Version) -> dict[str, Any]:
    return registry.read_json(version, METRICS_PATH) or {}


def _number(metrics: dict[str, Any], holdout: str, name: str) -> str:
    value = metrics.get(holdout, {}).get(name)
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
