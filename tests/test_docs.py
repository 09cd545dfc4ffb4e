"""The documents name what exists, and their figures come from committed results."""

import itertools
import re
from pathlib import Path

import pytest
import yaml
from fastapi import FastAPI
from fastapi.routing import APIRoute
from projects import REPOSITORY, Project, run_script, script

from credit_risk.core.settings import Settings

README = (REPOSITORY / "readme.md").read_text(encoding="utf-8")
FOLDERS = sorted(path.name for path in REPOSITORY.glob("[1-9].*") if path.is_dir())
DOCUMENTS = sorted(
    path
    for path in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("[1-9].*/*.md"), *REPOSITORY.glob("docs/**/*.md")]
    if path.name != "CHANGELOG.md"
)
RESULTS = "benchmarks/results/"


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
    for command in re.findall(r"uv run (?:--\S+ )*([\w./]+\.py)", document.read_text(encoding="utf-8")):
        assert (REPOSITORY / command).is_file(), command


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
        f"{method} {route.path}" for route in api.routes if isinstance(route, APIRoute) for method in route.methods
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


def sections(text: str) -> list[str]:
    """The parts of a document between its headings."""
    return re.split(r"^## ", text, flags=re.MULTILINE)[1:]


def test_figures_beside_a_link_to_results_are_those_results() -> None:
    """Each figure in a table of the readme, in a section that links to a page of results, is on that page."""
    checked = 0
    for section in sections(README):
        pages = re.findall(rf"\(({RESULTS}[\w.]+\.md)\)", section)
        measured = " ".join(read(page) for page in pages)
        tables = "\n".join(line for line in section.splitlines() if line.startswith("|"))
        for figure in re.findall(r"\d[\d,.]*\d", tables) if pages else ():
            assert re.search(rf"(?<![\d,.]){re.escape(figure)}(?![\d,.]*\d)", measured), figure
            checked += 1
    assert checked > 10
