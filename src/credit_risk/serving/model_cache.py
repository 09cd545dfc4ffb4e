"""The cache from which the API serves: one folder a version, and a pointer to the one that is served.

`6.production/model_sync.py` writes it, the API only reads it, so the API needs neither MLflow nor a registry to start.
A version's folder appears whole or not at all and never changes (its name holds the model's digest), and the pointer
moves only to a version that has been checked.
"""

import shutil
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json, sha256, write_json
from credit_risk.formats.onnx_scorer import Scorer

ONNX, REFERENCE_ROWS, ABOUT = "model.onnx", "reference_rows.json", "about.json"
_POINTER, _KEEPER = "champion.json", "keeper.json"
_KEPT = 3  # versions: the served one, and two to go back to


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A loaded model: its version, its scorer, what GET /model says of it, and its reference rows."""

    version: str
    scorer: Scorer
    about: dict[str, Any]
    reference_rows: dict[str, Any]
    loaded_since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def pointer_stamp(cache: Path) -> tuple[int, int] | None:
    """Changes whenever the pointer is written; None while there is none. Costs one look at the file system."""
    try:
        status = (cache / _POINTER).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def load(cache: Path) -> CachedModel:
    """Loads the version that the pointer names.

    Raises:
        ProjectError: there is none yet, or its files are damaged.
    """
    folder, about, reference_rows = _read(cache)
    scorer = Scorer.load(folder / ONNX)
    if scorer.digest != about["onnx_sha256"]:
        raise ProjectError(
            f"the cached model of version {about['version']} is damaged; delete {cache.name} and fetch again"
        )
    return CachedModel(about["version"], scorer, about, reference_rows)


def is_current(cache: Path, version: str, digest: str) -> bool:
    """Whether the pointer names just this version, and its files are undamaged."""
    try:
        folder, about, _ = _read(cache)
        return bool(about["version"] == version) and sha256(folder / ONNX) == digest
    except (ProjectError, OSError):
        return False


def _read(cache: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The folder that the pointer names, and its JSON files, with what others rely on in them."""
    try:
        folder = cache / read_json(cache / _POINTER)["folder"]
        about, reference_rows = read_json(folder / ABOUT), read_json(folder / REFERENCE_ROWS)
        usable = (
            about["version"] and about["onnx_sha256"] and reference_rows["applications"][0] and reference_rows["scores"]
        )
    except FileNotFoundError as error:
        raise ProjectError("no model has been fetched yet") from error
    except (OSError, ValueError, LookupError, TypeError):
        usable = False
    if not usable:
        raise ProjectError(f"the model cache is damaged; delete {cache.name} and fetch again")
    return folder, about, reference_rows


def install(cache: Path, files: dict[str, Path], about: dict[str, Any]) -> None:
    """Copies a checked version into the cache, points to it, and removes all but the newest versions.

    Args:
        cache: the cache's folder.
        files: the version's files by their name in the cache.
        about: has `version` and `onnx_sha256`, and what else GET /model is to say.
    """
    folder = cache / f"{about['version']}-{about['onnx_sha256'][:12]}"
    temporary = cache / f".{folder.name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for name, path in files.items():
        shutil.copy(path, temporary / name)
    write_json(temporary / ABOUT, about)
    shutil.rmtree(folder, ignore_errors=True)  # damaged, or it would not be installed again
    temporary.rename(folder)
    write_json(cache / _POINTER, {"folder": folder.name})
    folders = sorted((path for path in cache.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for old in folders[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def report(cache: Path, problem: str) -> None:
    """Leaves word of the keeper's last look at the registry: what was wrong, or nothing."""
    cache.mkdir(parents=True, exist_ok=True)
    write_json(cache / _KEEPER, {"problem": problem, "time": time.time()})


def sync_problem(cache: Path, patience: float) -> str:
    """What keeps the keeper from following the champion, or nothing.

    Args:
        cache: the cache's folder.
        patience: seconds of silence after which the keeper counts as gone.
    """
    try:
        said = read_json(cache / _KEEPER)
        problem, silent = str(said["problem"]), time.time() - float(said["time"])
    except (OSError, ValueError, KeyError, TypeError):
        return "no keeper has reported yet"
    return problem or (f"the keeper has been silent for {silent:.0f} s" if silent > patience else "")
