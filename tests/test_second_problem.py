"""Another data set in four files: the whole project runs on it, and nothing speaks of the first one.

The second problem has no date, no row id, no words and no missing values; its rows are few.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
from projects import Project, Renamed, commit_all, copy_project
from servers import SERVE, Server, running, wait_until_ready

from credit_risk.contract import CONTRACT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test waits for the fixtures

NAME, PACKAGE, MODEL = "tumour-check", "tumour_check", "TumourCheckModel"
OURS = ("PROJECT_ROOT", "TESTS_SHARED")  # what the first problem's tests share is not for those of the second
# Words of the first problem, and of a time axis that the second one does not have.
FOREIGN = re.compile(
    r"\b(sba|loans?|credit|lenders?|borrowers?|naics|charged.off|approved?|out.of.time|vintage)\b", re.IGNORECASE
)


def lay_over(project: Project) -> Renamed:
    """Renames a copy and puts the second problem's four files and its data in."""
    renamed = Renamed(project.root)
    renamed.run("main.py", "rename", NAME, PYTHONPATH=str(project.root / "src"))
    lock = project.path("uv.lock")  # not tracked: uv makes it again from pyproject
    lock.write_text(lock.read_text().replace(f'name = "{CONTRACT.problem.name}"', f'name = "{NAME}"'))
    files = renamed.path("tests", "second_problem")
    for name in ("contract.py", "features.py"):
        shutil.copy(files / name, renamed.path("src", PACKAGE, name))
    for name in ("2.prep_clean_data.py", "params.yaml"):
        shutil.copy(files / name, renamed.path("4.dvc_pipeline", name))
    for folder in (renamed.path("1.data", "source"), renamed.path("1.data", "later"), renamed.path("tests", "example")):
        shutil.rmtree(folder)
    renamed.path("1.data", "source").mkdir()
    shutil.copy(files / "tumours.csv", renamed.path("1.data", "source"))
    shutil.rmtree(renamed.path(".git"))
    commit_all(renamed.root)
    return renamed


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Renamed:
    """The second problem, on which main.py has run."""
    renamed = lay_over(copy_project(tmp_path_factory.mktemp("second") / "project"))
    result = renamed.run("main.py")
    renamed.path("output.txt").write_text(result.stdout)
    return renamed


@pytest.fixture(scope="module")
def server(project: Renamed) -> Iterator[Server]:
    with running(project, *SERVE) as server:
        wait_until_ready(server)
        yield server


def example(project: Renamed, package: str = PACKAGE) -> dict[str, Any]:
    code = f"import json; from {package}.contract import CONTRACT; print(json.dumps(CONTRACT.example))"
    row: dict[str, Any] = json.loads(project.run("-c", code).stdout)
    return row


def foreign_words(text: str) -> set[str]:
    return {match.lower() for match in FOREIGN.findall(text)}


def test_the_main_job_trains_gates_and_promotes(project: Renamed) -> None:
    assert "version 1 is the champion" in project.path("output.txt").read_text()
    metrics = json.loads(project.path("1.data", "6.reports", "metrics.json").read_text())
    assert metrics["test"]["roc_auc"] > 0.97
    assert "out_of_time" not in metrics
    rows = pd.read_parquet(project.path("1.data", "2.clean", "rows.parquet"))
    assert len(rows) == 569
    assert "date" not in rows
    assert rows["row_id"].is_unique


def test_a_second_run_finds_nothing_to_do(project: Renamed) -> None:
    assert "nothing has changed" in project.run("main.py").stdout.lower()


def test_no_output_speaks_of_the_first_problem(project: Renamed) -> None:
    reports = project.path("1.data", "6.reports")
    outputs = [project.path("output.txt"), project.path("6.production", "example.json")]
    outputs += [project.path("4.dvc_pipeline", "last_run.log")]
    outputs += [path for path in reports.rglob("*") if path.suffix in {".html", ".md", ".json", ".csv"}]
    outputs += list(project.path("5.testing", "reports").iterdir())
    assert len(outputs) > 5
    found = {str(path.relative_to(project.root)): foreign_words(path.read_text()) for path in outputs}
    assert {name: words for name, words in found.items() if words} == {}
    assert not [path for path in project.path("1.data").rglob("*") if foreign_words(path.name)]


def test_the_registry_speaks_of_this_problem_alone(project: Renamed) -> None:
    code = (
        "import json; from mlflow import MlflowClient\n"
        f"client = MlflowClient('sqlite:///{project.path('3.experiments', 'mlflow.db')}')\n"
        f"version = client.get_model_version('{MODEL}', '1'); run = client.get_run(version.run_id)\n"
        f"model = client.get_registered_model('{MODEL}')\n"
        "print(json.dumps([version.tags, run.data.tags, run.data.params, run.data.metrics, model.description]))"
    )
    recorded = project.run("-c", code).stdout.replace(str(project.root), "")
    assert foreign_words(recorded) == set()


def test_the_api_answers(project: Renamed, server: Server) -> None:
    row = example(project)
    answer = server.client.post("/predict", json=row).json()
    assert answer["decision"] == ("refer" if answer["probability"] >= answer["threshold"] else "clear")
    assert server.client.post("/predict", params={"explain": "true"}, json=row).json()["explanation"]
    batch = server.client.post("/predict/batch", json=[row, {}]).json()["results"]
    assert batch[0] == {"probability": answer["probability"], "decision": answer["decision"]}
    assert batch[1]["errors"]
    lines = server.client.post(
        "/predict/batch",
        content=json.dumps(row) + "\n",
        headers={"content-type": "application/x-ndjson"},
    ).text
    assert json.loads(lines)["probability"] == answer["probability"]
    assert json.loads(project.path("6.production", "example.json").read_text()) == row


@pytest.mark.parametrize(
    "path", ["/", "/contract", "/openapi.json", "/examples", "/model", "/metrics", "/readyz", "/status", "/docs"]
)
def test_nothing_the_api_says_is_of_the_first_problem(server: Server, path: str) -> None:
    answer = server.client.get(path)
    assert answer.status_code == 200
    assert foreign_words(answer.text) == set()


def test_the_page_speaks_of_this_problem_alone(project: Renamed) -> None:
    for path in project.path("6.production", "page").iterdir():
        if path.suffix in {".js", ".html", ".css"}:
            assert foreign_words(path.read_text()) == set(), path.name


def test_experiments_run(project: Renamed) -> None:
    project.run("3.experiments/1.compare_models.py")
    project.run("3.experiments/2.tune.py", "--trials", "2")
    result = project.run("3.experiments/3.select_best.py")
    assert foreign_words(result.stdout) == set()


@pytest.mark.timeout(1500)
def test_the_generic_tests_are_green(project: Renamed) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "tests", "--ignore", "tests/test_docs.py"],
        cwd=project.root,
        env={name: value for name, value in project.environment.items() if name not in OURS},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:]
