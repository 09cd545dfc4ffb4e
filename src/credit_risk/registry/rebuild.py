"""Rebuilds a registered version from its commit, data and parameters, in its environment, and compares the results.

The raw data come by their hash from DVC's cache or remote, so the sources may have changed since.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from credit_risk.core.environment import environment_sha256
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json, sha256
from credit_risk.core.paths import root
from credit_risk.core.streams import last_line
from credit_risk.formats.onnx_scorer import OnnxScorer
from credit_risk.formats.reference_rows import TOLERANCE, max_score_difference
from credit_risk.registry import lineage
from credit_risk.registry.client import METRICS_PATH, ONNX_SHA256, REFERENCE_ROWS_PATH, Registry, Version

_RAW, _REGISTER = "get_data", "register_model"  # stages that are not run


def rebuild(registry: Registry, version: Version, log: IO[str]) -> list[str]:
    """Rebuilds a version in a temporary worktree and compares it with the registered one.

    Args:
        registry: where the version is registered; nothing is written to it.
        version: the version to rebuild.
        log: open text file for the output of the stages.

    Returns:
        One sentence for each difference.

    Raises:
        ProjectError: this code can't use the version, its commit or data are not available, or a stage fails.
    """
    if unusable := lineage.reject_reason(version):
        raise ProjectError(unusable)
    recorded = lineage.of(version)
    if not recorded["git_commit"]:
        raise ProjectError(f"version {version.number} has no commit in its lineage, so it can't be rebuilt")
    if base := lineage.recalibrated_from(version):
        raise ProjectError(
            f"version {version.number} is version {base}, recalibrated on outcomes that no commit has; rebuild {base}"
        )
    with worktree(recorded["git_commit"]) as tree:
        fetch_raw_data(tree, recorded["dvc_lock"].get(_RAW, {}))
        set_params(tree / "4.dvc_pipeline" / "params.yaml", recorded["params"])
        run_stages(tree, log, find_python(tree, recorded["environment_sha256"]))
        differences = list(compare(registry, version, recorded, tree))
    if differences and recorded["git_dirty"]:
        differences.append("files had uncommitted changes when the version was registered, which may be the cause")
    return differences


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A temporary checkout of a commit, which shares the DVC cache.

    Raises:
        ProjectError: this clone does not have the commit.
    """
    with tempfile.TemporaryDirectory(prefix="rebuild-") as folder:
        tree = Path(folder) / "tree"
        added = _run(["git", "worktree", "add", "--detach", str(tree), commit], root())
        if added.returncode:
            raise ProjectError(f"this clone does not have commit {commit[:12]}; fetch it: git fetch --all")
        try:
            yield tree
        finally:
            _run(["git", "worktree", "remove", "--force", str(tree)], root())


def fetch_raw_data(tree: Path, files: dict[str, str]) -> None:
    """Copies the outputs of stage 1 into the worktree, by their MD5: from DVC's cache, else from the remote.

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
            raise ProjectError(f"the raw data are not in DVC's cache, and the remote fails: {error}") from error
        for path, md5 in files.items():
            if not cache.exists(md5):
                raise ProjectError(f"{path} ({md5}) is neither in DVC's cache nor in the remote; push it: dvc push")
            target = tree / "4.dvc_pipeline" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(cache.oid_to_path(md5), target)


def set_params(path: Path, recorded: dict[str, Any]) -> None:
    """Writes the recorded parameters, which may not have been committed."""
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(params | recorded, sort_keys=False), encoding="utf-8")


def find_python(tree: Path, environment: str) -> Path:
    """This interpreter if its packages are the recorded ones, else that of an environment made for the worktree.

    Raises:
        ProjectError: the environment can't be made.
    """
    if (root() / "uv.lock").exists():  # not in git; uv updates it if the dependencies differ
        shutil.copy(root() / "uv.lock", tree / "uv.lock")
    if environment_sha256() == environment:
        return Path(sys.executable)
    synced = _run([os.environ.get("UV") or "uv", "sync", "--quiet"], tree)
    if synced.returncode:
        raise ProjectError(f"the environment of that commit can't be made: {last_line(synced.stdout)}")
    return tree / ".venv" / "bin" / "python"


def run_stages(tree: Path, log: IO[str], python: Path) -> None:
    """Runs the stages between raw data and registration, with the code of the worktree.

    Raises:
        ProjectError: a stage has failed.
    """
    folder = tree / "4.dvc_pipeline"
    stages = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for name, stage in stages.items():
        if name in {_RAW, _REGISTER}:
            continue
        script = stage["cmd"].removeprefix("python ")
        finished = _run([str(python), script], folder, PROJECT_ROOT=str(tree), PYTHONPATH=str(tree / "src"))
        log.write(finished.stdout)
        if finished.returncode:
            raise ProjectError(f"{script} failed at that commit: {last_line(finished.stdout)}")


def compare(registry: Registry, version: Version, recorded: dict[str, Any], tree: Path) -> Iterator[str]:
    """Yields the differences between the registered version and the one rebuilt in the worktree."""
    rebuilt = tree / "1.data"
    if read_json(rebuilt / "5.model" / "training.json")["environment_sha256"] != recorded["environment_sha256"]:
        yield "environment: rebuilt with other packages than the registered version"
    digest, registered = sha256(rebuilt / "5.model" / "model.onnx"), version.tags.get(ONNX_SHA256, "")
    if digest != registered:
        yield f"ONNX digest: {digest[:12]}, registered {registered[:12]}"
    scorer = OnnxScorer.load(rebuilt / "5.model" / "model.onnx")
    difference = max_score_difference(registry.download(version.number, REFERENCE_ROWS_PATH), scorer.score_rows)
    if not difference <= TOLERANCE:
        yield f"scores of the reference rows: by up to {difference:.1e}"
    metrics = registry.read_json(version, METRICS_PATH) or {}
    yield from diff_values(metrics, read_json(rebuilt / "6.reports" / "metrics.json"), "metric ")


def diff_values(registered: Any, rebuilt: Any, name: str) -> Iterator[str]:
    """Yields the values that differ between two nested dictionaries."""
    if isinstance(registered, dict) and isinstance(rebuilt, dict):
        for key in sorted(registered.keys() | rebuilt.keys()):
            yield from diff_values(registered.get(key), rebuilt.get(key), f"{name}{key}.")
    elif registered != rebuilt:
        yield f"{name.rstrip('.')}: {rebuilt}, registered {registered}"


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
