"""A stranger's file, from `main.py adopt` to an answered request, in one copy of the project."""

import re
import subprocess
from pathlib import Path

import pytest
from adopt_rows import raw_rows
from projects import Renamed, copy_project
from servers import SERVE, running, wait_until_ready
from test_second_problem import example, foreign_words

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PACKAGE = "customer_churn"
OUTCOME = ("--target", "churned", "--positive", "yes")
ARGUMENTS = (*OUTCOME, "--id", "Customer", "--date", "Signed", "--name", "Customer churn")
WRITTEN = (f"src/{PACKAGE}/contract.py", f"src/{PACKAGE}/features.py", "4.dvc_pipeline/2.prep_clean_data.py")


def git(project: Renamed, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=project.root, capture_output=True, text=True, check=True).stdout


def refusal(project: Renamed, file: Path) -> str:
    result = project.run("main.py", "adopt", str(file), *ARGUMENTS, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_file_becomes_a_served_model(tmp_path: Path) -> None:
    project = Renamed(copy_project(tmp_path / "project").root)
    file = tmp_path / "customers [2024].csv"
    raw_rows().to_csv(file, index=False)

    # What can't be undone or read changes nothing.
    damaged = tmp_path / "damaged.parquet"
    damaged.write_text("no Parquet")
    assert f"{damaged} is damaged or not a table" in refusal(project, damaged)
    notes = project.path("notes.txt")
    notes.write_text("mine")
    assert "uncommitted changes" in refusal(project, file)
    notes.unlink()
    assert git(project, "status", "--porcelain") == ""

    output = project.run("main.py", "adopt", str(file), *ARGUMENTS).stdout
    assert "Cancelled" in output
    for command in (("ruff", "check"), ("ruff", "format", "--check"), ("mypy",)):
        project.run("-m", *command, *WRITTEN)
    paths = git(project, "ls-files", "-co", "--exclude-standard", "-z").split("\0")
    assert [path for path in paths if of_loans(project, path)] == []

    result = project.run("main.py")
    assert "version 1 is the champion" in result.stdout
    assert "decisions.md lists" in result.stdout
    assert foreign_words(result.stdout) <= {"out of time", "out_of_time"}
    with running(project, *SERVE) as server:
        wait_until_ready(server)
        answer = server.client.post("/predict", json=example(project, PACKAGE)).json()
        assert 0 < answer["probability"] < 1
    project.path("decisions.md").unlink()
    again = project.run("main.py").stdout
    assert "nothing has changed" in again
    assert "decisions.md" not in again
    documents = ["tests/test_docs.py", "tests/test_repository.py", "tests/test_notebooks.py"]
    project.run("-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *documents, PROJECT_ROOT="")

    undo = re.search(r"undo: (git checkout .*)", output)
    assert undo
    subprocess.run(undo[1], shell=True, cwd=project.root, check=True)  # noqa: S602 (our own command)
    assert git(project, "status", "--porcelain") == ""
    assert list(project.path("src").iterdir()) == [project.path("src", "credit_risk")]


def of_loans(project: Renamed, path: str) -> bool:
    """Whether a file of the adopted project speaks of the first problem."""
    if path.startswith(("example/", "tests/", "CHANGELOG.md", f"src/{PACKAGE}/adopt/")):
        return False
    file = project.path(path)
    written = file.suffix in {".py", ".md", ".yaml", ".toml", ".json", ".ipynb"}
    return written and file.exists() and "SBA" in file.read_text()
