"""The documents name what exists, and their figures come from committed results."""

import itertools
import re
import tomllib
from functools import reduce
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from fastapi import FastAPI
from fastapi.routing import APIRoute
from projects import REPOSITORY, Project, run_script, script

from credit_risk.contract import CONTRACT
from credit_risk.data import parsing
from credit_risk.project.settings import Settings

README = (REPOSITORY / "readme.md").read_text(encoding="utf-8")
FOLDERS = sorted(path.name for path in REPOSITORY.glob("[1-9].*") if path.is_dir())
DOCUMENTS = sorted(
    path
    for path in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("[1-9].*/*.md"), *REPOSITORY.glob("docs/**/*.md")]
    if path.name != "CHANGELOG.md"
)
PAGES = [REPOSITORY / "readme.md", REPOSITORY / "docs" / "make_it_yours.md"]
RESULTS = "benchmarks/results/"
WRITTEN = re.compile(r"1\.data/(\d\.\w+|later)/|5\.testing/reports|3\.experiments/(mlflow|optuna)\.db")


def read(*parts: str) -> str:
    return REPOSITORY.joinpath(*parts).read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_is_in_the_readme_and_has_its_own(folder: str) -> None:
    assert f"({folder}/readme.md)" in README
    own = read(folder, "readme.md")
    assert own.startswith(f"# {folder}")
    assert len(own.splitlines()) < 30


def test_readme_is_short() -> None:
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_links_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8")):
        assert re.match(r"https?://|mailto:", target) or (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_commands_name_files_that_exist(document: Path) -> None:
    for command in re.findall(r"uv run (?:--group \S+ |--\S+ )*([\w./]+\.py)", document.read_text(encoding="utf-8")):
        assert (REPOSITORY / command).is_file(), command


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_groups_exist(document: Path) -> None:
    groups = tomllib.loads(read("pyproject.toml"))["dependency-groups"]
    named = re.findall(r"uv (?:run|sync) --group (\S+)", document.read_text(encoding="utf-8"))
    assert [name for name in named if name not in groups] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_parameters_exist(document: Path) -> None:
    params = yaml.safe_load(read("4.dvc_pipeline", "params.yaml"))
    months = {f"split.{name}_months" for name in ("out_of_time", "calibration", "performance")}
    optional = months | {"split.observed_until", "gates.min_out_of_time_auc", "data.sources"}
    for name in re.findall(rf"`((?:{'|'.join(params)})(?:\.\w+)+)[:`]", document.read_text(encoding="utf-8")):
        if name not in optional and not name.endswith((".py", ".yaml", ".ipynb")):
            assert reduce(lambda section, key: section[key], name.split("."), params) != "", name


@pytest.mark.parametrize("document", PAGES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_paths_exist(document: Path) -> None:
    """`src/…/` is the package; what a run writes need not exist."""
    package = f"src/{CONTRACT.problem.package}/"
    spans = re.findall(
        r"`([\w.…]+(?:/[\w.…]+)+/?|\w[\w.]*\.(?:py|yaml|toml|md))`", document.read_text(encoding="utf-8")
    )
    assert spans
    for span in spans:
        if not WRITTEN.match(span):
            path = span.replace("src/…/", package)
            places = (".", "4.dvc_pipeline", package, document.parent.relative_to(REPOSITORY))
            assert any((REPOSITORY / place / path).exists() for place in places), span


def test_examples_of_the_recipe_work_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract, the parsing and the features of another problem, as the page shows them."""
    blocks = re.findall(r"```python\n(.*?)```", read("docs", "make_it_yours.md"), re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)  # noqa: S102 (our own page)
        monkeypatch.setattr(parsing, "CONTRACT", names["CONTRACT"])  # parsing is checked against it
    contract, features = names["CONTRACT"], names["FEATURES"]
    assert features.from_row(contract.example).shape == (1, len(features))
    assert names["amount"](pd.Series(["$1,200.50"]))[0] == 1200.5


def test_each_command_of_main_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script(Project(REPOSITORY), "main.py", "--help") == 0
    commands = re.findall(r"^ {4}(\w[\w-]*) {2,}", capsys.readouterr().out, re.MULTILINE)
    assert len(commands) > 3
    texts = "\n".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    for command in commands:
        assert f"uv run main.py {command}" in texts


def test_each_stage_and_section_of_the_parameters_is_documented() -> None:
    text = read("4.dvc_pipeline", "readme.md")
    for name, stage in yaml.safe_load(read("4.dvc_pipeline", "dvc.yaml"))["stages"].items():
        assert f"`{name}`" in text
        assert f"`{stage['cmd'].removeprefix('python ')}`" in text
    for section in yaml.safe_load(read("4.dvc_pipeline", "params.yaml")):
        assert f"`{section}`" in text


def test_each_parameter_has_a_comment() -> None:
    """The parameters of a learner are scikit-learn's own, documented there."""
    lines = read("4.dvc_pipeline", "params.yaml").splitlines()
    for before, line in itertools.pairwise(lines):
        if match := re.match(r"  (\w+):(.+)", line):
            assert "#" in match[2] or before.lstrip().startswith("#"), line


def test_each_setting_and_endpoint_is_documented() -> None:
    text = read("6.production", "readme.md")
    for setting in Settings.model_fields:
        assert f"`{setting.upper()}`" in text
    (api,) = {value for value in script(Project(REPOSITORY), "6.production/app.py").values() if type(value) is FastAPI}
    endpoints = [
        f"{method} {route.path}"
        for route in api.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    ]
    assert len(endpoints) > 5
    for endpoint in endpoints:
        assert f"`{endpoint}`" in text


def test_each_file_of_deploy_is_documented() -> None:
    text = read("7.deploy", "readme.md")
    generated = {".svg", ".j2", ".md"}  # named by what makes them, or by the page itself
    files = [path.name for path in (REPOSITORY / "7.deploy").iterdir() if path.is_file()]
    files = [name for name in files if not name.startswith(".") and Path(name).suffix not in generated]
    assert len(files) > 5
    assert [name for name in files if name not in text] == []


def test_figures_beside_a_link_to_results_are_those_results() -> None:
    """Each figure with a thousands separator or a decimal point, in a paragraph of the readme that links to results."""
    checked = 0
    for paragraph in README.split("\n\n"):
        pages = re.findall(rf"\(({RESULTS}[\w.]+\.md)\)", paragraph)
        measured = " ".join(read(page) for page in pages)
        for figure in re.findall(r"\d+(?:[,.]\d+)+", re.sub(r"\]\(\S+\)", "", paragraph)) if pages else ():
            assert re.search(rf"(?<![\d,.]){re.escape(figure)}(?![\d,.]*\d)", measured), figure
            checked += 1
    assert checked >= 3
