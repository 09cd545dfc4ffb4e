"""The cache from which the API serves: one folder a version, and a pointer to the one that is served.

`6.production/fetch_champion.py` writes it, the API only reads it, so the API needs neither MLflow nor a registry to
start. A version's folder appears whole or not at all, and the pointer moves only to a version that has been checked.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from credit_risk.errors import CreditRiskError
from credit_risk.files import read_json, write_json
from credit_risk.scorer import Scorer

ONNX, GOLDEN, ABOUT = "model.onnx", "golden.json", "about.json"
_POINTER = "champion.json"


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model: its version, its scorer, and what GET /model says of it."""

    version: str
    scorer: Scorer
    about: dict[str, Any]


def load(cache: Path) -> ServedModel:
    """Loads the version that the pointer names.

    Raises:
        CreditRiskError: there is none yet, or its files are damaged.
    """
    try:
        folder = cache / read_json(cache / _POINTER)["version"]
        about = read_json(folder / ABOUT)
    except FileNotFoundError as error:
        raise CreditRiskError("no model has been fetched yet; run `uv run main.py serve`") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CreditRiskError(f"the model cache is damaged; delete {cache.name} and fetch again") from error
    scorer = Scorer.load(folder / ONNX)
    if scorer.digest != about["onnx_sha256"]:
        raise CreditRiskError(
            f"the cached model of version {about['version']} is damaged; delete {cache.name} and fetch again"
        )
    return ServedModel(about["version"], scorer, about)


def install(cache: Path, files: dict[str, Path], about: dict[str, Any]) -> None:
    """Copies a checked version into the cache and points to it; a version that is there already is replaced.

    Args:
        cache: the cache's folder.
        files: the version's files by their name in the cache.
        about: has `version` and `onnx_sha256`, and what else GET /model is to say.
    """
    folder, temporary = cache / about["version"], cache / f".{about['version']}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, path in files.items():
        shutil.copy(path, temporary / name)
    write_json(temporary / ABOUT, about)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    write_json(cache / _POINTER, {"version": about["version"]})
