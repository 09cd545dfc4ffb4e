"""The lineage of a model version: what it was made from, and whether this code can use it.

Equal lineages make equal models: the key is a hash of the lineage, and a lineage is registered once. Git commit and
dvc.lock are recorded with it and are not part of the key.
"""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from credit_risk.contract import CONTRACT
from credit_risk.core import params
from credit_risk.core.files import read_json, sha256
from credit_risk.core.paths import data, root
from credit_risk.registry.client import LINEAGE, LINEAGE_KEY, Registry, Version

SECTIONS = ("data", "clean", "split", "train")  # of params.yaml: those that shape the model
RECALIBRATION = "recalibration"  # in the lineage of a version whose probabilities are fitted to newer outcomes
MEASURED = "recalibration_measured"  # recorded besides: what it does to newer outcomes
PACKAGE = Path(__file__).parents[1]
MODEL_CODE = (  # of the package: what the registered pipeline needs to be loaded; packed with it
    "__init__.py",
    "contract.py",
    "core/__init__.py",
    "core/arrays.py",
    "core/errors.py",
    "core/feature_set.py",
    "core/formulas.py",
    "core/names.py",
    "core/schema.py",
    "features.py",
    "formats/__init__.py",
    "formats/recalibration.py",
    "formats/skops_model.py",
)
_PROVENANCE = ("git_commit", "git_dirty", "dvc_lock", MEASURED)
_CODE = (*MODEL_CODE, "model.py", "registry/signature.py")  # what a version is made of, or by


def read_lineage() -> dict[str, Any]:
    """The lineage of the model in `1.data/5.model`."""
    training = read_json(data("5.model", "training.json"))
    return {
        "problem": CONTRACT.identity,
        "code": {name: sha256(PACKAGE / name) for name in _CODE},
        "data": {entry["source"]: entry["sha256"] for entry in read_json(data("1.raw", "manifest.json"))},
        "params": {name: params.raw(name) for name in SECTIONS},
        "environment_sha256": training["environment_sha256"],
        "onnx_sha256": sha256(data("5.model", "model.onnx")),
    } | ({RECALIBRATION: training[RECALIBRATION]} if RECALIBRATION in training else {})


def lineage_key(lineage: dict[str, Any]) -> str:
    """SHA-256 of a lineage as canonical JSON."""
    return hashlib.sha256(json.dumps(lineage, sort_keys=True).encode()).hexdigest()


def provenance() -> dict[str, Any]:
    """Where the model was made: git commit, whether files differed from it, and the hashes of dvc.lock."""
    lock = root() / "4.dvc_pipeline" / "dvc.lock"
    stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"] if lock.exists() else {}
    return {
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        "dvc_lock": {
            name: {entry["path"]: entry["md5"] for entry in stage.get("outs", [])} for name, stage in stages.items()
        },
    }


def without_provenance(recorded: dict[str, Any]) -> dict[str, Any]:
    """What decides the key, of all that is recorded on a version."""
    return {name: value for name, value in recorded.items() if name not in _PROVENANCE}


def recalibrated_from(version: Version) -> str | None:
    """The number of the version that this one recalibrates and shares the model with; None for others."""
    number: str | None = of(version).get(RECALIBRATION, {}).get("of")
    return number


def find(registry: Registry, key: str) -> Version | None:
    """The version with this lineage key, or None."""
    return next((version for version in registry.versions() if version.tags.get(LINEAGE_KEY) == key), None)


def of(version: Version) -> dict[str, Any]:
    """The lineage and provenance recorded on a version; empty if there are none."""
    recorded: dict[str, Any] = json.loads(version.tags.get(LINEAGE, "{}"))
    return recorded


def reject_reason(version: Version) -> str | None:
    """Why this code can't use a version, in one sentence; None if it can."""
    if "problem" not in of(version):
        return (
            f"version {version.number} was registered by an older version of this project; "
            "register the model again: `uv run main.py`"
        )
    if not same_problem(version):
        return f"version {version.number} belongs to another problem: it has another target, or none of these fields"
    return None


def same_problem(version: Version) -> bool:
    """Whether a version's model predicts the contract's target from at least one of the contract's fields."""
    theirs, ours = of(version)["problem"], CONTRACT.identity
    return bool(theirs["target"] == ours["target"] and set(theirs["fields"]) & set(ours["fields"]))


def _git(*arguments: str) -> str:
    """What git prints; nothing without a repository, or without git."""
    if not shutil.which("git"):
        return ""
    result = subprocess.run(["git", *arguments], cwd=root(), capture_output=True, text=True, check=False)
    return result.stdout.strip()
