"""Notebooks run from a clean state, keep outputs in order, and say nothing of the machine they ran on."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from projects import REPOSITORY, Project

from credit_risk.contract import CONTRACT

NOTEBOOKS = sorted((REPOSITORY / "2.notebooks").glob("*.ipynb"))
GENERIC = REPOSITORY / "src" / CONTRACT.problem.package / "adopt" / "notebooks"  # for any contract, without outputs
MOST_BYTES = 1_000_000
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:tmp|home|root|work|Users|usr|opt|mnt|var)\b|[A-Z]:\\\\")


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def outputs(path: Path) -> list[dict[str, Any]]:
    return [output for cell in cells(path, "code") for output in cell["outputs"]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_in_order_and_small(path: Path) -> None:
    assert path.stat().st_size < MOST_BYTES
    counts = [cell["execution_count"] for cell in cells(path, "code")]
    assert counts in (list(range(1, len(counts) + 1)), [None] * len(counts))  # run once, from top to bottom, or never
    assert not [
        output for output in outputs(path) if output["output_type"] == "error" or output.get("name") == "stderr"
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nothing_tells_of_the_machine(path: Path) -> None:
    texts = [json.dumps({**output, "data": without_pictures(output)}) for output in outputs(path)]
    texts += ["".join(cell["source"]) for kind in ("code", "markdown") for cell in cells(path, kind)]
    assert not [match[0] for text in texts for match in MACHINE_PATH.finditer(text)]


def without_pictures(output: dict[str, Any]) -> dict[str, Any]:
    return {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}


def test_machine_paths_would_be_found() -> None:
    assert MACHINE_PATH.search("in /home/someone/file.py")
    assert MACHINE_PATH.search("/opt/kernel/1.py:10: Warning")
    assert not MACHINE_PATH.search("1.data/later/readme.md and 24/7")


@pytest.mark.notebooks
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_a_clean_state(path: Path, project: Project) -> None:
    """On a small project, in a kernel of its own; figures in texts are those of all rows."""
    run_notebooks(project, f"2.notebooks/{path.name}", 1)


@pytest.mark.notebooks
def test_the_notebooks_for_any_contract_run(project: Project) -> None:
    notebooks = sorted(GENERIC.glob("*.ipynb"))
    assert [path.stem for path in notebooks] == ["clean", "features", "look"]
    run_notebooks(project, GENERIC.relative_to(REPOSITORY).as_posix(), len(notebooks))


def run_notebooks(project: Project, path: str, count: int) -> None:
    result = project.run(
        "-m", "pytest", "-p", "nbmake", "--nbmake", path, "-n", "0", "-q", "--nbmake-timeout=300", check=False
    )
    assert result.returncode == 0, result.stdout
    assert f"{count} passed" in result.stdout


@pytest.mark.notebooks
def test_a_notebook_with_an_error_fails(project: Project) -> None:
    path = project.path("2.notebooks", "error.ipynb")
    content = json.loads((GENERIC / "look.ipynb").read_text())
    content["cells"] = [cell for cell in content["cells"] if cell["cell_type"] == "code"][:1]
    content["cells"][0]["source"] = ["1 / 0"]
    path.write_text(json.dumps(content))
    result = project.run(
        "-m", "pytest", "-p", "nbmake", "--nbmake", "2.notebooks/error.ipynb", "-n", "0", "-q", check=False
    )
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stdout
