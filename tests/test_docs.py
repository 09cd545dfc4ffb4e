"""The docs name what there is."""

import json
import re
from pathlib import Path

import pytest
import yaml
from projects import REPOSITORY

from credit_risk.core.settings import Settings

README = (REPOSITORY / "readme.md").read_text()
ROOMS = sorted(path.name for path in REPOSITORY.glob("[1-7].*") if path.is_dir())


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_is_in_the_readme_and_has_its_own(room: str) -> None:
    assert f"({room}/readme.md)" in README
    own = (REPOSITORY / room / "readme.md").read_text()
    assert own.startswith(f"# {room}")
    assert len(own.splitlines()) < 30


def test_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) < 200
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (REPOSITORY / target).exists(), target


def test_each_stage_and_section_is_in_its_rooms_readme() -> None:
    text = (REPOSITORY / "4.dvc_pipeline" / "readme.md").read_text()
    stages = yaml.safe_load((REPOSITORY / "4.dvc_pipeline" / "dvc.yaml").read_text())["stages"]
    for name, stage in stages.items():
        assert f"`{name}`" in text
        assert f"`{stage['cmd'].removeprefix('python ')}`" in text
    for section in yaml.safe_load((REPOSITORY / "4.dvc_pipeline" / "params.yaml").read_text()):
        assert f"`{section}`" in text


def test_each_setting_and_endpoint_is_in_the_readme_of_production() -> None:
    text = (REPOSITORY / "6.production" / "readme.md").read_text()
    for setting in Settings.model_fields:
        assert f"`{setting.upper()}`" in text
    for method, path in re.findall(
        r'@api\.(get|post)\(\s*"([^"]+)"', (REPOSITORY / "6.production" / "app.py").read_text()
    ):
        assert f"`{method.upper()} {path}`" in text


def test_figures_in_the_readme_are_the_committed_ones() -> None:
    metrics = json.loads((REPOSITORY / "1.data" / "6.reports" / "metrics.json").read_text())
    leak = json.loads((REPOSITORY / "3.experiments" / "term_leak.json").read_text())
    for name, mark in (("without_term", "**"), ("with_term", "")):
        row = " | ".join(f"{mark}{leak[name][key]:.3f}{mark}" for key in ("test_auc", "out_of_time_auc"))
        assert f"| {row} | {leak[name]['test_accuracy']:.3f} |" in README
    baselines = [metrics[side]["logistic_baseline"]["roc_auc"] for side in ("test", "out_of_time")]
    assert f"| {baselines[0]:.3f} | {baselines[1]:.3f} |" in README
    for side in ("test", "out_of_time"):
        assert f"{metrics[side]['roc_auc_low']:.3f} to {metrics[side]['roc_auc_high']:.3f}" in README
    assert f"{metrics['test']['majority_accuracy']:.3f}" in README
    assert f"the model scores {leak['without_term_cross_validated_on_train']['mean']:.3f}" in README
    assert metrics["test"]["roc_auc"] >= 0.73 > metrics["test"]["logistic_baseline"]["roc_auc"]
    assert metrics["out_of_time"]["roc_auc"] >= 0.65 > metrics["out_of_time"]["logistic_baseline"]["roc_auc"]


def test_commands_in_the_docs_name_files_that_exist() -> None:
    texts = [README, *(path.read_text() for path in REPOSITORY.glob("[1-7].*/readme.md"))]
    for command in re.findall(r"uv run ([\w./]+\.py)", "\n".join(texts)):
        assert (REPOSITORY / command).is_file(), command


def test_no_file_names_a_package_index_or_holds_a_stray_path() -> None:
    lock = Path(REPOSITORY / "requirements.lock").read_text()
    assert "://" not in lock
    assert "--hash=sha256:" in lock
    assert "uv.lock" in (REPOSITORY / ".gitignore").read_text().splitlines()


def test_serving_figures_in_the_readme_are_the_measured_ones() -> None:
    measured = (REPOSITORY / "benchmarks" / "results" / "serving.md").read_text()
    section = README.split("## How fast it serves")[1].split("##")[0]
    figures = re.findall(r"\d[\d,.]*\d", section.split("|---|")[-1])
    assert len(figures) > 10
    for figure in figures:
        assert f" {figure} " in measured, figure


def test_the_readme_of_deploy_names_each_of_its_files() -> None:
    text = (REPOSITORY / "7.deploy" / "readme.md").read_text()
    made = {".svg", ".j2", ".md"}  # named by what makes them, or by the page itself
    files = [path.name for path in (REPOSITORY / "7.deploy").iterdir() if path.is_file() and path.suffix not in made]
    assert len(files) > 10
    assert [name for name in files if not name.startswith(".") and name not in text] == []
