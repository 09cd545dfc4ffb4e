"""A version is rebuilt from its lineage, and what differs is named."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from projects import Project

from credit_risk.core.environment import LOCK, environment_sha256
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import sha256
from credit_risk.registry.client import LINEAGE, Registry
from credit_risk.registry.rebuild import diff_values, find_python


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_rebuild(project: Project, inside: Callable[[Project], None]) -> None:
    same = project.run("main.py", "rebuild", "1")
    assert "rebuilt version 1: metrics, scores and ONNX digest match the registered version" in same.stdout
    worktrees = subprocess.run(["git", "worktree", "list"], cwd=project.root, capture_output=True, check=True)
    assert worktrees.stdout.count(b"\n") == 1

    inside(project)
    registry = Registry()
    lineage = json.loads(registry.version("1").tags[LINEAGE])
    lineage["params"]["train"]["hist_gradient_boosting"]["max_iter"] //= 2
    registry.tag("1", LINEAGE, json.dumps(lineage))
    other = project.run("main.py", "rebuild", "1", check=False)
    assert other.returncode == 1
    assert "differs: ONNX digest: " in other.stdout
    assert "differs: scores of the reference rows: by up to " in other.stdout
    assert "differs: metric test.roc_auc: " in other.stdout


@pytest.mark.integration
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"git_commit": "0" * 40}, "this clone does not have commit 000000000000; fetch it"),
        ({"git_commit": ""}, "has no commit in its lineage"),
        ({"problem": {"target": ["another"], "fields": []}}, "belongs to another problem"),
    ],
)
def test_rebuild_that_is_not_possible(
    project: Project, inside: Callable[[Project], None], change: dict[str, object], message: str
) -> None:
    inside(project)
    registry = Registry()
    lineage = json.loads(registry.version("1").tags[LINEAGE])
    registry.tag("1", LINEAGE, json.dumps(lineage | change))
    result = project.run("main.py", "rebuild", "1", check=False)
    assert result.returncode == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_packages_that_were_installed_without_uv_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROJECT_ROOT", str(tmp_path))
    (tmp_path / LOCK).write_text("numpy==2.0")
    assert find_python(tmp_path / "tree", sha256(tmp_path / LOCK)) == Path(sys.executable)


def test_uv_that_fails_without_a_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PROJECT_ROOT", str(tmp_path))
    monkeypatch.setenv("UV", "false")
    (tmp_path / "uv.lock").touch()
    with pytest.raises(ProjectError, match="the packages can't be listed: no output"):
        environment_sha256()


def test_differences_are_named_by_their_path() -> None:
    found = diff_values({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}}, "metric ")
    assert list(found) == ["metric a.c: 4, registered 2", "metric d: None, registered 3"]
