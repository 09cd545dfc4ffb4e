"""The summary of a retraining that waits for an approval."""

from pathlib import Path

import pytest
from projects import Project, commit_all

pytestmark = pytest.mark.integration

SUMMARY = "7.deploy/retrain_summary.py"


def test_summary_before_and_after_the_promotion(project: Project, tmp_path: Path) -> None:
    output = tmp_path / "output"
    assert "# Version 1 is already the champion" in project.run(SUMMARY, "--output", str(output)).stdout
    assert output.read_text() == "version=1\npassed=false\n"
    commit_all(project.root)

    project.set_params({"train.hist_gradient_boosting.max_iter": 61})
    project.run("main.py", "retrain", "--no-promote")
    output.unlink()
    summary = project.run(SUMMARY, "--output", str(output)).stdout
    assert output.read_text() == "version=2\npassed=true\n"
    assert "# Version 2 passed the gates\n\nIt was compared with version 1." in summary
    metrics, params = summary.split("## Changed metrics")[1].split("## Changed params")
    assert "roc_auc" in metrics
    assert "max_iter" in params
    assert "61" in params
    assert "## Changed slices since version 1" in summary

    project.run("5.testing/performance.py", "--version", "2")
    assert "# Version 2 is already the champion" in project.run(SUMMARY).stdout


def test_without_a_challenger_it_is_an_error(fresh: Project) -> None:
    done = fresh.run(SUMMARY, check=False)
    assert done.returncode == 1
    assert done.stderr == "retrain summary: there is no challenger; run `uv run main.py` first\n"
