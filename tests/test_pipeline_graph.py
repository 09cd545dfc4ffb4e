"""dvc.yaml lists exactly what each stage uses."""

import ast
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from projects import REPOSITORY, Project, run_script

from credit_risk.registry import lineage

PACKAGE = lineage.__name__.split(".")[0]
SRC = REPOSITORY / "src"
PIPELINE = REPOSITORY / "4.dvc_pipeline"
STAGES: dict[str, dict[str, Any]] = yaml.safe_load((PIPELINE / "dvc.yaml").read_text())["stages"]
STAGE_IDS = list(STAGES)


def script_of(stage: dict[str, Any]) -> Path:
    return PIPELINE / str(stage["cmd"]).removeprefix("python ")


def imported(path: Path) -> set[str]:
    """Files of the package that a file imports, as `package/folder/module.py`, with each folder's `__init__.py`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] != PACKAGE:
                continue
            found |= {f"{'/'.join(parts[:depth])}/__init__.py" for depth in range(1, len(parts))}
            found.add("/".join(parts) + ".py")
    return {name for name in found if (SRC / name).is_file()}


def all_imported(path: Path) -> set[str]:
    """… and what those import in turn, with the templates beside them."""
    seen: set[str] = set()
    waiting = imported(path)
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= imported(REPOSITORY / "src" / name) - seen
    return seen | {str(page.relative_to(SRC)) for name in seen for page in (SRC / name).parent.glob("*.j2")}


def outputs(stage: dict[str, Any]) -> set[str]:
    entries = [*stage.get("outs", []), *stage.get("metrics", [])]
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


@pytest.mark.parametrize("name", STAGE_IDS)
def test_deps_have_just_the_modules_that_the_script_imports(name: str) -> None:
    listed = {dep.removeprefix("../src/") for dep in STAGES[name]["deps"] if dep.startswith("../src/")}
    assert listed == as_deps(all_imported(script_of(STAGES[name])))


def as_deps(modules: set[str]) -> set[str]:
    """Modules as dvc.yaml lists them: those of core as one folder."""
    core = f"{PACKAGE}/core"
    return {core if module.startswith(f"{core}/") else module for module in modules}


def test_core_holds_only_what_stages_use() -> None:
    used = set().union(*(all_imported(script_of(stage)) for stage in STAGES.values()))
    assert {path.relative_to(SRC).as_posix() for path in (SRC / PACKAGE / "core").glob("*.py")} <= used


@pytest.fixture
def alone(
    finished: Project, empty_registry: Path, tmp_path: Path, inside: Callable[[Project], None]
) -> Callable[[str], Project]:
    """A folder that holds nothing but what a stage lists: its data and its sections of params.yaml."""

    def make(name: str) -> Project:
        project = Project(tmp_path)
        stage = STAGES[name]
        for dep in stage["deps"]:
            source, target = finished.path("4.dvc_pipeline", dep), project.path("4.dvc_pipeline", dep)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        sections = yaml.safe_load(finished.path("4.dvc_pipeline", "params.yaml").read_text())
        listed = {section: sections[section] for section in stage.get("params", [])}
        project.path("4.dvc_pipeline", "params.yaml").write_text(yaml.safe_dump(listed))
        for file in ("pyproject.toml", "uv.lock"):  # the environment, which DVC does not see
            shutil.copy(finished.path(file), project.path(file))
        project.path("3.experiments").mkdir()
        shutil.copy(empty_registry, project.path("3.experiments", "mlflow.db"))
        inside(project)
        return project

    return make


def data_files(project: Project) -> set[Path]:
    return {path for path in project.path("1.data").rglob("*") if path.is_file()}


@pytest.mark.integration
@pytest.mark.parametrize("name", STAGE_IDS)
def test_a_stage_runs_on_just_what_it_lists_and_writes_just_its_outs(
    name: str, alone: Callable[[str], Project]
) -> None:
    project = alone(name)
    before = data_files(project)
    assert run_script(project, f"4.dvc_pipeline/{script_of(STAGES[name]).name}") == 0
    outs = [project.path("4.dvc_pipeline", out).resolve() for out in outputs(STAGES[name])]
    assert all(out.exists() for out in outs)
    assert all(any(out in (path, *path.parents) for out in outs) for path in data_files(project) - before)


def unneeded(dep: str) -> bool:
    """Reports are logged as they are: a run without plots registers none."""
    reports = ("6.reports/plots", "6.reports/report.html", "6.reports/model_card.md")
    return not dep.startswith("../1.data") or dep.endswith(reports)


@pytest.mark.integration
@pytest.mark.parametrize(("name", "dep"), [(n, d) for n in STAGE_IDS for d in STAGES[n]["deps"] if not unneeded(d)])
def test_a_stage_needs_each_input_that_it_lists(name: str, dep: str, alone: Callable[[str], Project]) -> None:
    project = alone(name)
    target = project.path("4.dvc_pipeline", dep)
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    shutil.copy(REPOSITORY / "4.dvc_pipeline" / "params.yaml", project.path("4.dvc_pipeline", "params.yaml"))
    with pytest.raises((AssertionError, OSError)):
        assert run_script(project, f"4.dvc_pipeline/{script_of(STAGES[name]).name}") == 0


@pytest.mark.parametrize("name", STAGE_IDS)
def test_params_have_just_the_sections_that_the_script_loads(name: str) -> None:
    script = script_of(STAGES[name])
    text = "\n".join(path.read_text() for path in (script, *(SRC / module for module in all_imported(script))))
    loaded = set(re.findall(r'params\.load\(\s*"(\w+)"', text))
    if sections := re.search(r"^SECTIONS = \((.*)\)", text, re.MULTILINE):
        loaded |= set(re.findall(r'"(\w+)"', sections[1]))
    assert set(STAGES[name].get("params", [])) == loaded


@pytest.mark.parametrize("name", STAGE_IDS)
def test_stage_n_writes_to_folder_n_and_depends_on_its_script(name: str) -> None:
    number = script_of(STAGES[name]).name[0]
    assert STAGE_IDS.index(name) + 1 == int(number)
    assert all(re.match(rf"\.\./1\.data/{number}\.", out) for out in outputs(STAGES[name]))
    assert script_of(STAGES[name]).name in STAGES[name]["deps"]
    assert script_of(STAGES[name]).is_file()


def test_each_section_of_params_belongs_to_a_script() -> None:
    sections = set(yaml.safe_load((PIPELINE / "params.yaml").read_text()))
    used = {section for stage in STAGES.values() for section in stage.get("params", [])}
    scripts = REPOSITORY.glob("[5-9].*/*.py")  # those beyond the pipeline name their section in the code
    used |= {name for path in scripts for name in re.findall(r'params\.load\("(\w+)"', path.read_text())}
    assert sections == used


def test_the_packed_code_is_what_the_registered_pipeline_imports() -> None:
    module = f"{PACKAGE}/formats/skops_model.py"
    needed = all_imported(SRC / module) | {module, f"{PACKAGE}/formats/__init__.py"}
    assert {f"{PACKAGE}/{name}" for name in lineage.MODEL_CODE} == needed


@pytest.mark.parametrize("name", STAGE_IDS)
def test_the_docstring_names_what_is_read_and_written(name: str) -> None:
    docstring = ast.get_docstring(ast.parse(script_of(STAGES[name]).read_text())) or ""
    assert all(word in docstring for word in ("Reads:", "Writes:", "Params:"))
    for out in outputs(STAGES[name]):
        folder, file = Path(out).parts[-2:]
        assert folder in docstring
        assert file in docstring


def test_plots_are_curves_that_stage_6_writes(finished: Project) -> None:
    for plot in yaml.safe_load((PIPELINE / "dvc.yaml").read_text()).get("plots", []):
        ((path, axes),) = plot.items()
        curves = list(finished.path("4.dvc_pipeline", path).glob("*.csv"))
        assert curves
        for curve in curves:
            assert {axes["x"], axes["y"]} <= set(curve.read_text().splitlines()[0].split(","))
