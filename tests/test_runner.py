"""What `main.py` does around the steps: one run at a time, files that a merge has damaged, terminals of any kind."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from projects import Project
from rich.console import Console

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.streams import SafeStream
from credit_risk.runner.preparation import sources_changed
from credit_risk.runner.steps import LOG, execute, run_log, stage_names
from credit_risk.runner.summary import metrics_table


@pytest.fixture
def empty(tmp_path: Path, inside: Callable[[Project], None]) -> Project:
    """A project that has nothing but the pipeline's folder."""
    project = Project(tmp_path)
    project.path("4.dvc_pipeline").mkdir()
    inside(project)
    return project


def test_a_second_run_in_one_folder_says_so_and_leaves_the_log_of_the_first(empty: Project) -> None:
    with run_log() as log:
        log.write("first\n")
        log.flush()
        with pytest.raises(ProjectError, match=r"another `uv run main\.py` is running in this folder"), run_log():
            pass
        assert empty.path(LOG).read_text() == "first\n"
    with run_log() as log:
        log.write("second\n")
    assert empty.path(LOG).read_text() == "second\n"


@pytest.mark.parametrize("name", ["dvc.lock", "dvc.yaml", "params.yaml"])
def test_conflict_markers_name_file_and_remedy(empty: Project, name: str) -> None:
    empty.path("4.dvc_pipeline", "dvc.yaml").write_text("stages: {one: {}, two: {}}\n")
    assert stage_names() == ["one", "two"]
    path = empty.path("4.dvc_pipeline", name)
    path.write_text("stages:\n<<<<<<< HEAD\n  one: {}\n=======\n  two: {}\n>>>>>>> theirs\n")
    with pytest.raises(ProjectError, match=rf"4\.dvc_pipeline/{name} has conflict markers .*git checkout --ours 4\."):
        stage_names()


@pytest.mark.parametrize("params", ["dat: {sources: []}\n", "data: text\n", "data: [1]\n", "data: {\n", ""])
def test_refresh_with_damaged_params_is_one_sentence(empty: Project, params: str) -> None:
    empty.path("1.data", "1.raw").mkdir(parents=True)
    empty.path("1.data", "1.raw", "manifest.json").write_text("[]")
    empty.params_file.write_text(params)
    with pytest.raises(ProjectError, match=r"4\.dvc_pipeline/params\.yaml"):
        sources_changed()


def test_a_package_that_a_script_lacks_is_named_with_its_group(
    empty: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [])
    monkeypatch.chdir(empty.root)
    empty.path("pyproject.toml").write_text('[dependency-groups]\ncluster = ["distributed"]\n')
    empty.path("score.py").write_text("raise ModuleNotFoundError(name='distributed')\n")
    assert execute("score.py") == 1
    assert capsys.readouterr().err == "error: distributed is not installed; use `uv run --group cluster score.py`\n"


@pytest.mark.parametrize("width", [20, 40, 160])
def test_a_narrow_terminal_cuts_no_figure(width: int) -> None:
    figures = {"roc_auc": 0.7451, "ece": 0.01, "positive_rate": 0.1, "accuracy": 0.827, "majority_accuracy": 0.896}
    figures |= {"cost": 0.4, "cost_accept_all": 0.5, "cost_decline_all": 0.9, "best_cost": 0.4, "best_threshold": 0.17}
    metrics = {name: figures | {"logistic_baseline": {"roc_auc": 0.686}} for name in CONTRACT.holdouts}
    file = io.StringIO()
    Console(file=file, width=width).print(metrics_table(metrics))
    assert "…" not in file.getvalue()
    assert width < 160 or "0.745" in file.getvalue()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_table_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    with (tmp_path / "output").open("wb") as file:
        Console(file=SafeStream(file.fileno(), encoding), width=80).print("“paid” ┃")
    assert ("“paid” ┃" if encoding == "utf-8" else "?paid? ?") in (tmp_path / "output").read_text(encoding)
