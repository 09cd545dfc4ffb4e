"""Without the folders of the extras, stages and gates run as before."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from projects import REPOSITORY, Project

from credit_risk.contract import CONTRACT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PACKAGE = f"src/{CONTRACT.problem.package}"
REPORT_FILES = ("/report/", "core/templates.py", "6.reports/plots", "6.reports/report.html", "6.reports/model_card.md")


def delete_report(project: Project) -> None:
    """As docs/make_it_yours.md says: the folder, the two lines that use it, and what they write."""
    shutil.rmtree(project.path(PACKAGE, "report"))
    project.path("tests", "test_report.py").unlink()
    project.path(PACKAGE, "monitoring", "page.py").unlink()
    delete_lines(project.path("6.production", "monitor.py"), "write_page")
    delete_lines(project.path("4.dvc_pipeline", "6.evaluate_model.py"), "write_report")
    graph = project.path("4.dvc_pipeline", "dvc.yaml")
    pipeline = yaml.safe_load(graph.read_text(encoding="utf-8"))
    del pipeline["plots"]
    for definition in pipeline["stages"].values():
        for kind in ("deps", "outs"):
            definition[kind] = [entry for entry in definition.get(kind, []) if not of_report(entry)]
    graph.write_text(yaml.safe_dump(pipeline, sort_keys=False), encoding="utf-8")


def of_report(entry: Any) -> bool:
    """Whether a dependency or output of the pipeline belongs to the report."""
    name = entry if isinstance(entry, str) else next(iter(entry))
    return any(part in name for part in REPORT_FILES)


def delete_search(project: Project) -> None:
    """The folder, its scripts and its tests."""
    shutil.rmtree(project.path(PACKAGE, "search"))
    project.path("tests", "test_search.py").unlink()
    for script in project.path("3.experiments").glob("[0-9].*.py"):
        script.unlink()


def delete_scoring(project: Project) -> None:
    """The folder, its script with the line of main.py, its benchmark and its tests."""
    shutil.rmtree(project.path(PACKAGE, "scoring"))
    delete_command(project, "score", "6.production/score.py")
    project.path("benchmarks", "scoring.py").unlink()
    shutil.rmtree(project.path("benchmarks", "scoring_peers"))
    project.path("tests", "test_scoring.py").unlink()
    project.path("tests", "example", "test_loan_scoring.py").unlink()


def delete_monitoring(project: Project) -> None:
    """The folder, its scripts with their lines of main.py, the reference of stage 7, its benchmark and its tests."""
    shutil.rmtree(project.path(PACKAGE, "monitoring"))
    for command, script in (("log", "ship_log"), ("outcomes", "outcomes"), ("monitor", "monitor")):
        delete_command(project, command, f"6.production/{script}.py")
    delete_lines(project.path("4.dvc_pipeline", "7.register_model.py"), "write_training_reference")
    delete_lines(project.path("4.dvc_pipeline", "dvc.yaml"), "/monitoring/")
    project.path("benchmarks", "monitoring.py").unlink()
    for name in ("test_monitoring.py", "test_monitor_workflow.py"):
        project.path("tests", name).unlink()


def delete_retraining(project: Project) -> None:
    """The folder, its script with the line of main.py, and its tests; it uses monitoring."""
    shutil.rmtree(project.path(PACKAGE, "retraining"))
    delete_command(project, "retrain", "6.production/retrain.py")
    project.path("7.deploy", "retrain_summary.py").unlink()
    for name in ("test_retrain.py", "test_retrain_summary.py"):
        project.path("tests", name).unlink()


def delete_adopt(project: Project) -> None:
    """The folder with the line of main.py, its benchmark and its tests."""
    delete_command(project, "adopt", f"{PACKAGE}/adopt/command.py")
    shutil.rmtree(project.path(PACKAGE, "adopt"))
    project.path("benchmarks", "adopt.py").unlink()
    for name in ("test_adopt.py", "test_adopt_run.py", "adopt_rows.py"):
        project.path("tests", name).unlink()


def delete_lines(path: Path, text: str) -> None:
    """The lines of a file that contain a text."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if text not in line), encoding="utf-8")


def delete_command(project: Project, command: str, script: str) -> None:
    """A script, and the line of main.py that names it."""
    project.path(script).unlink()
    main = project.path("main.py")
    lines = main.read_text(encoding="utf-8").splitlines(keepends=True)
    left = [line for line in lines if not line.startswith(f'    "{command}": ("{script}"')]
    assert len(left) == len(lines) - 1
    main.write_text("".join(left), encoding="utf-8")


@pytest.mark.parametrize(
    "deletes",
    [(delete_report,), (delete_search, delete_scoring, delete_monitoring, delete_retraining, delete_adopt)],
    ids=["report", "others"],
)
def test_stages_and_gates_run_without_it(deletes: tuple[Callable[[Project], None], ...], fresh: Project) -> None:
    for delete in deletes:
        delete(fresh)
    fresh.run("main.py", "--help")
    source = str(fresh.path("src"))
    fresh.run(str(REPOSITORY / "tests" / "spine.py"), PYTHONPATH=source)
    assert (fresh.path("1.data", "6.reports", "report.html").exists()) == (delete_report not in deletes)
    assert fresh.path("5.testing", "reports", "performance.json").exists()
    static = ["tests/test_architecture.py", "tests/test_pipeline_graph.py", "-k", "architecture or deps_have"]
    fresh.run("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *static, PYTHONPATH=source)
