"""A retraining that waits for an approval, and what it tells those who approve."""

from pathlib import Path

import pytest
from projects import Project, commit_all

pytestmark = pytest.mark.integration

TELL = "7.deploy/retrain_summary.py"


def test_a_model_that_passes_waits_for_its_promotion(project: Project, tmp_path: Path) -> None:
    output = tmp_path / "output"
    assert "# Version 1 is the champion already" in project.run(TELL, "--output", str(output)).stdout
    assert output.read_text() == "version=1\npassed=false\n"
    commit_all(project.root)

    project.set_params({"train.hist_gradient_boosting.max_iter": 61})
    done = project.run("main.py", "--no-promote")
    assert "version 2 (challenger) passed all gates and may be promoted" in done.stdout
    assert "version 1 is the champion" in done.stdout
    output.unlink()
    told = project.run(TELL, "--output", str(output)).stdout
    assert output.read_text() == "version=2\npassed=true\n"
    assert "# Version 2 passed the gates\n\nIt was compared with version 1." in told
    assert "| 60" in told.split("## Parameters")[1]
    assert "roc_auc" in told.split("## Metrics")[1].split("## Parameters")[0]

    assert "version 2 is the champion" in project.run("5.testing/performance.py", "--version", "2").stdout
    assert "# Version 2 is the champion already" in project.run(TELL).stdout


def test_without_a_model_it_says_what_to_do(fresh: Project) -> None:
    done = fresh.run(TELL, check=False)
    assert (done.returncode, done.stderr) == (1, "tell_changes: there is no challenger; run `uv run main.py` first\n")
