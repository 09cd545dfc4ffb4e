"""The summary of a retraining that waits for an approval."""

from collections.abc import Callable
from pathlib import Path

import pytest
from projects import Project, commit_all, run_script

pytestmark = pytest.mark.integration

SUMMARY = "7.deploy/retrain_summary.py"


@pytest.fixture
def summarize(
    project: Project, inside: Callable[[Project], None], capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs the script in the finished project; gives what it prints."""
    inside(project)

    def run(*arguments: str) -> str:
        capsys.readouterr()
        assert run_script(project, SUMMARY, *arguments) == 0
        return capsys.readouterr().out

    return run


def test_summary_before_and_after_the_promotion(
    project: Project, summarize: Callable[..., str], tmp_path: Path
) -> None:
    output = tmp_path / "output"
    assert "# Version 1 is already the champion" in summarize("--output", str(output))
    assert output.read_text() == "version=1\npassed=false\n"
    commit_all(project.root)

    project.set_params({"train.hist_gradient_boosting.max_iter": 61})
    project.run("main.py", "retrain", "--no-promote")
    output.unlink()
    summary = summarize("--output", str(output))
    assert output.read_text() == "version=2\npassed=true\n"
    assert "# Version 2 passed the gates\n\nIt was compared with version 1." in summary
    metrics, params = summary.split("## Changed metrics")[1].split("## Changed params")
    assert "roc_auc" in metrics
    assert "max_iter" in params
    assert "61" in params
    assert "## Changed slices since version 1" in summary

    assert run_script(project, "5.testing/performance.py", "--version", "2") == 0
    assert "# Version 2 is already the champion" in summarize()


def test_without_a_challenger_it_is_an_error(fresh: Project) -> None:
    done = fresh.run(SUMMARY, check=False)
    assert done.returncode == 1
    assert done.stderr == "retrain summary: there is no challenger; run `uv run main.py` first\n"
