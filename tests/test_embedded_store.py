"""The embedded registry works wherever the checkout is, and after it was moved or copied."""

import shlex
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from projects import Project, run_script
from sqlalchemy.engine import make_url

from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import sqlite_url
from credit_risk.registry import embedded_store
from credit_risk.registry.client import CHALLENGER, Registry
from credit_risk.registry.preflight import preflight_checks

Enter = Callable[[Project], None]


@pytest.fixture
def original(tmp_path: Path, empty_registry: Path, inside: Enter) -> Project:
    """A project whose registry has one run with a file."""
    project = Project(tmp_path / "original")
    project.path("3.experiments").mkdir(parents=True)
    shutil.copy(empty_registry, project.path("3.experiments", "mlflow.db"))
    inside(project)
    log_run("first")
    return project


def log_run(text: str) -> str:
    """Logs a file in a new run; returns the run's id."""
    registry = Registry()
    with mlflow.start_run(experiment_id=registry.experiment_id()) as run:
        mlflow.log_text(text, "file.txt")
    return str(run.info.run_id)


def logged(project: Project) -> set[str]:
    return {path.read_text() for path in project.path("3.experiments", "artifacts").rglob("file.txt")}


def read_all() -> set[str]:
    """The files of all runs, as the registry finds them."""
    registry = Registry()
    runs = registry.client.search_runs([registry.experiment_id()])
    return {mlflow.artifacts.load_text(f"{run.info.artifact_uri}/file.txt") for run in runs}


def test_a_moved_project_finds_its_artifacts(original: Project, inside: Enter) -> None:
    moved = Project(original.root.rename(original.root.with_name("moved")))
    inside(moved)
    assert read_all() == {"first"}
    log_run("second")
    assert logged(moved) == read_all() == {"first", "second"}
    assert not original.root.exists()


def test_a_copy_never_writes_into_the_original(original: Project, inside: Enter) -> None:
    copy = Project(Path(shutil.copytree(original.root, original.root.with_name("copy"))))
    inside(copy)
    log_run("second")
    assert logged(copy) == read_all() == {"first", "second"}
    assert logged(original) == {"first"}
    inside(original)
    assert read_all() == {"first"}


def test_a_database_without_its_artifacts_is_an_error(original: Project, inside: Enter) -> None:
    copy = Project(original.root.with_name("copy"))
    copy.path("3.experiments").mkdir(parents=True)
    shutil.copy(original.path("3.experiments", "mlflow.db"), copy.path("3.experiments", "mlflow.db"))
    inside(copy)
    with pytest.raises(ProjectError, match=r"has its artifacts in file:.*/original/.*copy that folder to .*/copy/"):
        Registry()


def test_doctor_names_a_correction(original: Project, inside: Enter) -> None:
    copy = Project(Path(shutil.copytree(original.root, original.root.with_name("copy"))))
    inside(copy)
    found = {check.name: check.found for check in preflight_checks(Registry())}
    assert str(original.root) in found["database"]
    found = {check.name: check.found for check in preflight_checks(Registry())}
    assert str(original.root) not in found["database"]
    assert str(copy.root) in found["database"]


NAMES = ["a b", "c [1]", "d#1", "e 100%", "f%20g", "h's (2) & ü", "what?"]


@pytest.mark.parametrize("name", NAMES)
def test_the_url_of_a_database_in_any_folder(name: str) -> None:
    path = Path("/work", name, "optuna.db")
    assert make_url(sqlite_url(path)).database == str(path)
    assert embedded_store.database_path(sqlite_url(path)) == path


@pytest.mark.parametrize("name", NAMES)
def test_any_folder_name(tmp_path: Path, empty_registry: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(tmp_path / name)
    project.path("3.experiments").mkdir(parents=True)
    shutil.copy(empty_registry, project.path("3.experiments", "mlflow.db"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PROJECT_ROOT", str(project.root))
    log_run("first")
    assert logged(project) == read_all() == {"first"}
    files = [path for path in tmp_path.rglob("*") if path.is_file() and "mlflow.db" not in path.name]
    assert all(path.is_relative_to(project.path("3.experiments", "artifacts")) for path in files)


def test_the_database_of_an_older_mlflow_is_upgraded_by_the_command_that_is_named(
    original: Project, inside: Enter
) -> None:
    database = with_schema("bd07f7e963c5", original, inside)
    with pytest.raises(ProjectError, match="was made by an older MLflow; copy and upgrade it: ") as raised:
        Registry().versions()
    copy, _, upgrade = str(raised.value).partition("upgrade it: ")[2].partition(" && uv run ")
    assert shlex.split(copy) == ["cp", str(database), f"{database}.copy"]
    assert shlex.split(upgrade) == ["mlflow", "db", "upgrade", f"sqlite:///{database}"]


def test_the_database_of_a_newer_mlflow_needs_that_one(original: Project, inside: Enter) -> None:
    with_schema("0123456789ab", original, inside)
    with pytest.raises(ProjectError, match=rf"was made by a newer MLflow than {mlflow.__version__}"):
        Registry().versions()


def with_schema(revision: str, original: Project, inside: Enter) -> Path:
    """Enters a copy, which MLflow has not opened yet, whose database has another revision; returns its path."""
    copy = Project(Path(shutil.copytree(original.root, original.root.with_name("a copy"))))
    database = copy.path("3.experiments", "mlflow.db")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("update alembic_version set version_num = ?", (revision,))
    inside(copy)
    return database


@pytest.mark.integration
def test_a_copied_project_registers_into_itself(finished: Project, tmp_path: Path, inside: Enter) -> None:
    copy = Project(Path(shutil.copytree(finished.root, tmp_path / "copy", symlinks=True)))
    inside(copy)
    copy.set_params({"train.logistic_regression.C": 0.5})  # another lineage
    before = sorted(finished.path("3.experiments", "artifacts").rglob("*"))
    assert run_script(copy, "4.dvc_pipeline/7.register_model.py") == 0
    challenger = Registry().version_of(CHALLENGER)
    assert challenger is not None
    assert challenger.number == "2"
    assert Registry().download("1").is_relative_to(copy.root)
    assert Registry().download("2").is_relative_to(copy.root)
    assert sorted(finished.path("3.experiments", "artifacts").rglob("*")) == before
