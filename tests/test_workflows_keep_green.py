"""What the readme invites people to do leaves the tests green: they depend neither on parameters nor on local runs.

The tests run as in a fresh clone: `uv run pytest`, with the packages of the default groups alone.
"""

import shutil
import subprocess
from pathlib import Path

import pytest
from projects import REPOSITORY, Project, commit_all, copy_finished, copy_repository

from credit_risk.contract import CONTRACT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

OUTPUTS = ["1.data/[1-9].*", "4.dvc_pipeline/dvc.lock", "3.experiments/*", "5.testing/reports"]  # what a run writes
ADDED_FEATURE = f"""
from {CONTRACT.problem.package}.core.feature_set import Feature, FeatureSet

FEATURES = FeatureSet(CONTRACT, (*FEATURES, Feature("added", "unit", "a test", "{{field}} * 2")))
"""


def change_everything(project: Project) -> None:
    """New data, stricter gates, tuned parameters and a feature more."""
    for later in project.path("1.data", "later").glob("*.csv.gz"):
        shutil.copy(later, project.path("1.data", "source"))
    project.set_params({"gates.min_auc": 0.7, "gates.margin": 0.001, "gates.mode": "threshold"})
    project.set_params({"train.model": "random_forest", "train.random_forest.n_estimators": 40})
    project.set_params({"train.calibration": "sigmoid", "split.test_share": 0.25, "evaluate.calibration_bins": 8})
    features = project.path("src", CONTRACT.problem.package, "features.py")
    number = next(number.name for number in CONTRACT.numbers)
    features.write_text(features.read_text(encoding="utf-8") + ADDED_FEATURE.format(field=number), encoding="utf-8")


def run_spine(project: Project) -> None:
    """Runs stages and gates with the project's own package; the gates may reject the model."""
    source = str(project.path("src"))
    result = project.run(str(REPOSITORY / "tests" / "spine.py"), check=False, PYTHONPATH=source)
    assert result.returncode in (0, 3), result.stdout + result.stderr


def copy_outputs(source: Project, target: Project) -> None:
    """Puts what a run on few rows wrote where a run on all rows would have written it."""
    for pattern in OUTPUTS:
        for path in source.root.glob(pattern):
            other = target.path(*path.relative_to(source.root).parts)
            if path.is_dir():
                shutil.copytree(path, other, dirs_exist_ok=True)
            else:
                shutil.copy(path, other)


def test_tests_stay_green_after_changes_and_retraining(finished: Project, tmp_path: Path) -> None:
    ran = copy_finished(finished, tmp_path / "ran")
    full = copy_repository(tmp_path / "full")
    for project in (full, ran):
        change_everything(project)
    run_spine(ran)
    copy_outputs(ran, full)
    commit_all(full.root)  # as the pull request of the retraining workflow, once merged
    without = ("PROJECT_ROOT", "TESTS_SHARED", "VIRTUAL_ENV")
    environment = {name: value for name, value in full.environment.items() if name not in without}
    environment = {name: value for name, value in environment.items() if not name.startswith(("PYTEST_", "COV"))}
    result = subprocess.run(
        ["uv", "run", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=full.root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
