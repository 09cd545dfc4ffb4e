"""The project under another name: nothing of the old one stays, and lint and types are green.

That the generic tests are green too is seen by test_second_problem.py, which renames its copy.
"""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from projects import Project, copy_project

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.project.rename import check_clean, check_name
from credit_risk.registry.lineage import provenance

NAME = "late-parcels"  # longer than most: lines grow
PROSE = {"CHANGELOG.md"}  # what was released keeps its name


@pytest.fixture
def copy(tmp_path: Path) -> Project:
    return copy_project(tmp_path / "project")


def run(project: Project, *command: str) -> "subprocess.CompletedProcess[str]":
    """Runs a command in a copy with the copy's own package."""
    environment = project.environment | {"PYTHONPATH": f"{project.root}/src"}
    return subprocess.run(command, cwd=project.root, env=environment, capture_output=True, text=True, check=False)


def rename(project: Project, name: str) -> "subprocess.CompletedProcess[str]":
    return run(project, sys.executable, "main.py", "rename", name)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_renamed_project_is_green_and_keeps_no_trace_of_the_old_name(copy: Project) -> None:
    done = rename(copy, NAME)
    assert done.returncode == 0, done.stdout + done.stderr
    assert copy.path("src", "late_parcels", "contract.py").is_file()
    old = CONTRACT.problem
    words = "|".join(map(re.escape, (old.name, old.package, old.model_name, old.package.upper())))
    traces = run(copy, "git", "grep", "--untracked", "-IlE", words).stdout.split()
    assert set(traces) <= PROSE

    python = [sys.executable, "-m"]
    scripts = [str(path) for folder in ("3", "4", "5", "6", "7") for path in copy.root.glob(f"{folder}.*/*.py")]
    for command in (
        [*python, "ruff", "check", "."],
        [*python, "mypy", "main.py", "src/late_parcels", *scripts],
        [*python, "pytest", "-q", "-n", "0", "tests/test_architecture.py", "tests/test_pipeline_graph.py"],
    ):
        result = run(copy, *command)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Late Parcels", "must be lower-case words"),
        ("class", "a word or a module of Python itself"),
        ("aws-parcels", "a prefix that AWS reserves"),
        ("x" * 40, "AWS takes at most"),
        ("pandas", "the name of an installed package"),
        (CONTRACT.problem.name, "is called"),
    ],
)
def test_names_that_cant_be_used_change_nothing(copy: Project, name: str, message: str) -> None:
    result = rename(copy, name)
    assert result.returncode == 1
    assert message in result.stderr
    assert run(copy, "git", "status", "--porcelain").stdout == ""


def test_a_name_that_is_also_the_packages_is_not_replaced_by_two() -> None:
    churn = replace(CONTRACT.problem, name="churn")
    check_name(churn, "parcels")
    with pytest.raises(ProjectError, match="'churn' is also the package's name"):
        check_name(churn, NAME)


def test_a_machine_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance()["git_commit"] == ""
    with pytest.raises(ProjectError, match="git is not installed"):
        check_clean()


@pytest.mark.integration
def test_uncommitted_changes_are_not_mixed_with_the_renaming(copy: Project) -> None:
    copy.path("notes.txt").write_text("mine")
    result = rename(copy, NAME)
    assert result.returncode == 1
    assert "there are uncommitted changes" in result.stderr
    assert copy.path("src", CONTRACT.problem.package).is_dir()
