"""The model cache, from which the API serves: a folder for each version, and a pointer to the active one.

`6.production/model_sync.py` writes it and the API only reads it, so the API needs neither MLflow nor a registry to
start. A version's folder is renamed into place when it is complete and never changes (its name contains the model's
digest). The pointer moves only to a version that has been checked.
"""

import re
import shutil
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json, sha256, write_json
from credit_risk.formats.onnx_scorer import OnnxScorer

ONNX, REFERENCE_ROWS, MODEL_INFO = "model.onnx", "reference_rows.json", "model_info.json"
_POINTER, _SYNC_STATUS = "active.json", "sync.json"
_DIGEST_LENGTH = 12  # characters of the model's digest in a folder's name
_FOLDER = re.compile(rf"[0-9]+-[0-9a-f]{{{_DIGEST_LENGTH}}}")


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A loaded model: its version, its scorer, the answer of GET /model, and its reference rows."""

    version: str
    scorer: OnnxScorer
    info: dict[str, Any]
    reference_rows: dict[str, Any]
    loaded_since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def pointer_stamp(cache: Path) -> tuple[int, int] | None:
    """A value that changes whenever the pointer is written; None if there is none. Costs one system call."""
    try:
        status = (cache / _POINTER).stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def active_version(cache: Path) -> str:
    """The version that the pointer names; empty if there is none."""
    return (_active_folder(cache) or "").partition("-")[0]


def load(cache: Path) -> CachedModel:
    """Loads the active version.

    Raises:
        ProjectError: there is none yet, or its files can't be read or are damaged.
    """
    folder, info, reference_rows = _read(cache)
    scorer = OnnxScorer.load(folder / ONNX)
    if scorer.digest != info["onnx_sha256"]:
        raise ProjectError(f"the cached model of version {info['version']} is damaged; delete {cache.name}")
    return CachedModel(info["version"], scorer, info, reference_rows)


def is_current(cache: Path, version: str, digest: str) -> bool:
    """Whether this version is the active one and its files are undamaged."""
    try:
        folder, info, _ = _read(cache)
        return bool(info["version"] == version) and sha256(folder / ONNX) == digest
    except (ProjectError, OSError):
        return False


def _read(cache: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The active version's folder and its JSON files, with the keys that are used."""
    try:
        folder = cache / read_json(cache / _POINTER)["folder"]
        info, reference_rows = read_json(folder / MODEL_INFO), read_json(folder / REFERENCE_ROWS)
        if all((info["version"], info["onnx_sha256"], reference_rows["rows"][0], reference_rows["scores"])):
            return folder, info, reference_rows
    except FileNotFoundError as error:
        raise ProjectError("no model has been fetched yet") from error
    except OSError as error:
        raise ProjectError(f"the model cache can't be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError):
        pass
    raise ProjectError(f"the model cache is damaged; delete {cache.name}, and model sync fetches the model again")


def check_folder(cache: Path) -> None:
    """Checks that a folder is a model cache, or empty: old versions are deleted from it.

    Raises:
        ProjectError: it is a file, can't be read, or holds other things.
    """
    if (cache / _POINTER).exists() or not cache.exists():
        return
    try:
        foreign = [path.name for path in cache.iterdir() if not (path.name[0] == "." or _is_own(path))]
    except OSError as error:
        raise ProjectError(f"MODEL_CACHE {cache} can't be used: {error.strerror}; name a folder") from error
    if foreign:
        raise ProjectError(f"MODEL_CACHE {cache} holds other things ({min(foreign)}); name an empty or a new folder")


def _is_own(path: Path) -> bool:
    """Whether a path in the cache was made by it; a version's folder has its information inside."""
    if path.name in {_SYNC_STATUS, "lost+found"}:  # the second is in the root of each volume
        return True
    return bool(_FOLDER.fullmatch(path.name)) and (path / MODEL_INFO).is_file()


def kept_files(cache: Path, version: str, digest: str) -> dict[str, Path]:
    """The files of a version that was active before, by their name; empty if it is not kept undamaged."""
    folder = cache / _folder_name(version, digest)
    files = {name: folder / name for name in (ONNX, REFERENCE_ROWS)}
    try:
        return files if sha256(files[ONNX]) == digest and files[REFERENCE_ROWS].exists() else {}
    except OSError:
        return {}


def install(cache: Path, files: dict[str, Path], info: dict[str, Any]) -> None:
    """Copies a checked version into the cache, makes it the active one, and deletes older versions.

    The version that was active before is kept: a worker may be loading it, and a rollback uses it again.

    Args:
        cache: the cache's folder.
        files: the version's files by their name in the cache.
        info: the answer of GET /model; has `version` and `onnx_sha256`.
    """
    name = _folder_name(info["version"], info["onnx_sha256"])
    folder, temporary = cache / name, cache / f".{name}.part"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for target, path in files.items():
        shutil.copy(path, temporary / target)
    write_json(temporary / MODEL_INFO, info)
    shutil.rmtree(folder, ignore_errors=True)  # it is damaged, or it would not be installed again
    temporary.rename(folder)
    kept = {name, _active_folder(cache)}
    write_json(cache / _POINTER, {"folder": name})
    for path in cache.iterdir():
        if path.name not in kept and path.is_dir() and _FOLDER.fullmatch(path.name) and _is_own(path):
            shutil.rmtree(path, ignore_errors=True)


def _folder_name(version: str, digest: str) -> str:
    return f"{version}-{digest[:_DIGEST_LENGTH]}"


def _active_folder(cache: Path) -> str | None:
    try:
        return str(read_json(cache / _POINTER)["folder"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def write_sync_status(cache: Path, problem: str) -> None:
    """Records the result of model sync's last check of the registry: what was wrong, or an empty string."""
    cache.mkdir(parents=True, exist_ok=True)
    write_json(cache / _SYNC_STATUS, {"problem": problem, "time": time.time()})


def sync_problem(cache: Path, max_age: float) -> str:
    """Why the cache may not be up to date with the registry; empty if it is.

    Args:
        cache: the cache's folder.
        max_age: seconds after which a status counts as too old.
    """
    try:
        status = read_json(cache / _SYNC_STATUS)
        problem, age = str(status["problem"]), time.time() - float(status["time"])
    except (OSError, ValueError, KeyError, TypeError):
        return "model sync has not reported yet"
    return problem or (f"model sync has not reported for {age:.0f} s" if age > max_age else "")
