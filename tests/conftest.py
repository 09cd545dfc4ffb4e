"""Fixtures: projects in the states that tests start from."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from projects import Project, copy_finished, copy_project


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables, for copying: making them takes five seconds."""
    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    code = f"from mlflow import MlflowClient; MlflowClient('sqlite:///{path}').search_experiments()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, empty_registry: Path) -> Project:
    """A project on which `main.py` has run once. Tests read it; those that change something take a copy."""
    project = copy_project(tmp_path_factory.mktemp("finished") / "project")
    shutil.copy(empty_registry, project.path("3.experiments", "mlflow.db"))
    result = project.run("main.py")
    project.path("output.txt").write_text(result.stdout)
    return project


@pytest.fixture
def fresh(tmp_path: Path, empty_registry: Path) -> Project:
    """A project on which nothing has run, with an empty registry."""
    project = copy_project(tmp_path / "project")
    shutil.copy(empty_registry, project.path("3.experiments", "mlflow.db"))
    return project


@pytest.fixture
def project(tmp_path: Path, finished: Project) -> Project:
    """A copy of the finished project, with a registry of its own."""
    return copy_finished(finished, tmp_path / "project")


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Callable[[Project], None]:
    """Lets this process work inside a project, as a script that runs there does."""

    def enter(project: Project) -> None:
        for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("CREDIT_RISK_ROOT", str(project.root))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.path('3.experiments', 'mlflow.db')}")

    return enter
