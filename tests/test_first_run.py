"""The first run in awkward places: a folder with special characters, no git, no activated environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from projects import Project

pytestmark = pytest.mark.integration


def test_the_main_job_runs_without_git_and_without_an_activated_environment(tmp_path: Path, start: Path) -> None:
    folder = tmp_path / "work [old] #1 50% ü"
    shutil.copytree(start, folder, symlinks=True, ignore=shutil.ignore_patterns(".git"))
    project = Project(folder)
    environment = {"PROJECT_ROOT": str(folder), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LANG": "C"}
    if uv := os.environ.get("UV") or shutil.which("uv"):
        environment["UV"] = uv
    result = subprocess.run(
        [sys.executable, "main.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "version 1 is the champion" in result.stdout
    assert project.path("1.data", "7.registered", "model.json").exists()
