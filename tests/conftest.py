"""Fixtures: projects in the states that tests start from."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # tests run beside each other, and threads that wait for each other spin
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from containers import TAG, build
from filelock import FileLock
from projects import Project, copy_finished, copy_project
from stacks import Stack, running_stack


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all test processes of this run share; one at a time fills it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def empty_registry(shared: Path) -> Path:
    """An MLflow database with its tables, for copying: making them takes five seconds."""
    path = shared / "mlflow.db"
    with FileLock(f"{path}.lock"):
        if not path.exists():
            code = f"from mlflow import MlflowClient; MlflowClient('sqlite:///{path}.part').search_experiments()"
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            Path(f"{path}.part").rename(path)
    return path


@pytest.fixture(scope="session")
def finished(shared: Path, empty_registry: Path) -> Project:
    """A project on which `main.py` has run once. Tests read it; those that change something take a copy."""
    project = Project(shared / "finished")
    output = project.path("output.txt")
    with FileLock(shared / "finished.lock"):
        if not output.exists():
            copy_project(project.root)
            shutil.copy(empty_registry, project.path("3.experiments", "mlflow.db"))
            output.write_text(project.run("main.py").stdout)
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
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "AWS_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("CREDIT_RISK_ROOT", str(project.root))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.path('3.experiments', 'mlflow.db')}")

    return enter


@pytest.fixture(scope="session")
def image(shared: Path, finished: Project) -> str:
    """The image of the API, with the champion of the finished project baked in."""
    done = shared / "image"
    with FileLock(shared / "image.lock"):
        if not done.exists():
            finished.run("6.production/keeper.py", "--once")
            build(finished.root, TAG, "--build-arg", "MODEL=6.production/cache")
            done.touch()
    return TAG


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """PostgreSQL, S3 and the MLflow server, real ones; each test process has its own."""
    if not shutil.which("postgres") and not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        pytest.skip("PostgreSQL is not installed (Debian's package: postgresql)")
    # Not below pytest's folder, which only its owner can enter.
    with tempfile.TemporaryDirectory(prefix="stack-") as folder, running_stack(Path(folder)) as running:
        yield running
