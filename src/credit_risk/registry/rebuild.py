"""Making a registered version anew: from its commit, its data and its parameters, in its environment.

The raw data come by their hash from DVC's cache or remote, so a source that has changed or gone since does no harm.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml
from mlflow.artifacts import download_artifacts

from credit_risk.core.environment import environment_sha256
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json, sha256
from credit_risk.core.paths import root
from credit_risk.features import from_application
from credit_risk.formats.onnx_scorer import Scorer
from credit_risk.formats.reference_rows import TOLERANCE, max_score_difference
from credit_risk.registry.client import ONNX_SHA256, REFERENCE_ROWS_PATH, Registry, Version

_RAW, _REGISTER = "get_data", "register_model"  # the stages that are not run again


def rebuild(registry: Registry, version: Version, log: IO[str]) -> list[str]:
    """Makes a version anew in a temporary worktree and compares it with the registered one.

    Args:
        registry: where it is registered; nothing is written there.
        version: which one.
        log: open text file for what the stages print.

    Returns:
        What differs, a sentence each.

    Raises:
        ProjectError: commit or data are not to be had, or a stage fails.
    """
    lineage = json.loads(version.tags.get("lineage", "{}"))
    if not lineage.get("git_commit"):
        raise ProjectError(f"version {version.number} has no commit in its lineage; it can't be made anew")
    with worktree(lineage["git_commit"]) as tree:
        fetch_raw(tree, lineage["dvc_lock"].get(_RAW, {}))
        set_params(tree / "4.dvc_pipeline" / "params.yaml", lineage["params"])
        run_stages(tree, log, python_of(tree, lineage["environment_sha256"]))
        differences = list(compare(registry, version, lineage, tree))
    if differences and lineage["git_dirty"]:
        differences.append("when it was registered, files differed from the commit: that may be why")
    return differences


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A commit as a temporary checkout, which shares the DVC cache.

    Raises:
        ProjectError: this clone does not have it.
    """
    with tempfile.TemporaryDirectory(prefix="reproduce-") as folder:
        tree = Path(folder) / "tree"
        added = _run(["git", "worktree", "add", "--detach", str(tree), commit], root())
        if added.returncode:
            raise ProjectError(f"this clone does not have commit {commit[:12]}; fetch it: git fetch --all")
        try:
            yield tree
        finally:
            _run(["git", "worktree", "remove", "--force", str(tree)], root())


def fetch_raw(tree: Path, files: dict[str, str]) -> None:
    """Puts stage 1's outputs where they belong, by their MD5: from the cache, else from the remote.

    Raises:
        ProjectError: neither has them.
    """
    from dvc.repo import Repo
    from dvc_data.hashfile.hash_info import HashInfo

    with Repo(str(root())) as repo:
        cache = repo.cache.local
        missing = [HashInfo("md5", md5) for md5 in files.values() if not cache.exists(md5)]
        try:
            if missing:
                repo.cloud.pull(missing)
        except Exception as error:  # DVC's remotes raise many kinds
            raise ProjectError(f"the raw data are not in the cache, and the remote fails: {error}") from error
        for path, md5 in files.items():
            if not cache.exists(md5):
                raise ProjectError(f"{path} ({md5}) is neither in the cache nor in the remote; push it: dvc push")
            target = tree / "4.dvc_pipeline" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(cache.oid_to_path(md5), target)


def set_params(path: Path, recorded: dict[str, Any]) -> None:
    """Sets the recorded parameters, in case they had not been committed yet."""
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(params | recorded, sort_keys=False), encoding="utf-8")


def python_of(tree: Path, environment: str) -> Path:
    """The interpreter of this project where it has the recorded packages, else one of an environment made for it.

    Raises:
        ProjectError: the environment can't be made.
    """
    shutil.copy(root() / "uv.lock", tree / "uv.lock")  # ignored by git; uv makes another if the dependencies differ
    if environment_sha256() == environment:
        return Path(sys.executable)
    synced = _run([os.environ.get("UV") or "uv", "sync", "--quiet"], tree)
    if synced.returncode:
        raise ProjectError(f"the environment of that commit can't be made: {_last_line(synced.stdout)}")
    return tree / ".venv" / "bin" / "python"


def run_stages(tree: Path, log: IO[str], python: Path) -> None:
    """Runs the stages between raw data and registration, with the code of the worktree.

    Raises:
        ProjectError: one has failed.
    """
    folder = tree / "4.dvc_pipeline"
    stages = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for name, stage in stages.items():
        if name not in {_RAW, _REGISTER}:
            script = stage["cmd"].removeprefix("python ")
            done = _run([str(python), script], folder, PROJECT_ROOT=str(tree), PYTHONPATH=str(tree / "src"))
            log.write(done.stdout)
            if done.returncode:
                raise ProjectError(f"{script} failed at that commit: {_last_line(done.stdout)}")


def compare(registry: Registry, version: Version, lineage: dict[str, Any], tree: Path) -> Iterator[str]:
    """What differs between the registered version and the one in the worktree."""
    made = tree / "1.data"
    environment = read_json(made / "5.model" / "training.json")["environment_sha256"]
    if environment != lineage["environment_sha256"]:
        yield "the environment: other packages than those it was made with"
    digest, registered = sha256(made / "5.model" / "model.onnx"), version.tags.get(ONNX_SHA256, "")
    if digest != registered:
        yield f"the ONNX digest: {digest[:12]}, registered {registered[:12]}"
    scorer = Scorer((made / "5.model" / "model.onnx").read_bytes(), expected_features=None)
    largest = max_score_difference(
        registry.download(version.number, REFERENCE_ROWS_PATH),
        lambda rows: np.concatenate([scorer.score(from_application(row)) for row in rows]),
    )
    if not largest <= TOLERANCE:
        yield f"the scores of the reference rows: by up to {largest:.1e}"
    with registry.plain_errors():
        metrics = read_json(Path(download_artifacts(run_id=version.run_id, artifact_path="reports/metrics.json")))
    yield from diff_values(metrics, read_json(made / "6.reports" / "metrics.json"), "metric ")


def diff_values(registered: Any, made: Any, name: str) -> Iterator[str]:
    """Names the values that differ in two nested dictionaries."""
    if isinstance(registered, dict) and isinstance(made, dict):
        for key in sorted(registered.keys() | made.keys()):
            yield from diff_values(registered.get(key), made.get(key), f"{name}{key}.")
    elif registered != made:
        yield f"{name.rstrip('.')}: {made}, registered {registered}"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no output"])[-1]


def _run(command: list[str], folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    return subprocess.run(
        command,
        cwd=folder,
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
