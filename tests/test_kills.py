"""SIGKILL of main.py or of the running script: no orphans, no loss, and the next run recovers."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from dvc.repo import Repo
from projects import Project, copy_finished, descendants, once, wait_for_script, wait_until

from credit_risk.registry.client import CHALLENGER, CHAMPION, Registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# For each moment: the parameter whose change makes the stage run, and the script that runs, or waits, at that moment.
OTHER_MODEL: dict[str, object] = {"train.hist_gradient_boosting.max_iter": 50}
MOMENTS: dict[str, tuple[dict[str, object], str]] = {
    "stage 2": ({"clean.max_rejected_share": 0.02}, "2.prep_clean_data.py"),
    "stage 5": (OTHER_MODEL, "5.train_model.py"),
    "registration": (OTHER_MODEL, "5.testing/loading.py"),
    "between registration and gates": (OTHER_MODEL, "5.testing/loading.py"),
}
TRAINED = ("registration", "between registration and gates")


@pytest.fixture(scope="session")
def trained(shared: Path, finished: Project) -> Project:
    """A project with another model, up to registration; for the moments after training."""

    def make(folder: Path) -> None:
        project = copy_finished(finished, folder)
        project.set_params(OTHER_MODEL)
        project.run("-m", "dvc", "repro", "4.dvc_pipeline/dvc.yaml:evaluate_model")

    return Project(once(shared / "trained", make))


@pytest.mark.parametrize("moment", MOMENTS)
def test_kills(moment: str, request: pytest.FixtureRequest, tmp_path: Path, inside: Callable[[Project], None]) -> None:
    """Each run but the first resumes after a kill; the last one finishes."""
    start = request.getfixturevalue("trained" if moment in TRAINED else "finished")
    project = copy_finished(start, tmp_path / "project")
    inside(project)
    registry = Registry()
    change, _ = MOMENTS[moment]
    if moment not in TRAINED:
        project.set_params(change)
    for who in ("main.py", "script")[: 1 if moment == "registration" else 2]:  # main.py registers
        run_and_kill(project, moment, who, registry)
        champion = registry.version_of(CHAMPION)
        assert champion is not None
        assert champion.number == "1"

    output = project.run("main.py").stdout
    assert "is the champion" in output
    challenger, champion = registry.version_of(CHALLENGER), registry.version_of(CHAMPION)
    assert challenger is not None
    assert champion is not None
    assert challenger.number == champion.number == "2"
    assert len(registry.versions()) == 2
    assert not open_runs(registry)
    with Repo(str(project.root)) as repo:
        assert repo.status() == {}  # nothing is left for a further run


def run_and_kill(project: Project, moment: str, who: str, registry: Registry) -> None:
    """Starts main.py and kills one of its processes at the moment; all others must end by themselves."""
    before = logged_runs(project)
    output = project.root.with_name("output")
    with output.open("w") as file:
        process = subprocess.Popen(
            project.command("main.py"), cwd=project.root, env=project.environment, stdout=file, stderr=file
        )

    def begun() -> bool:
        assert process.poll() is None, f"ended too early, without {who} killed: {output.read_text()}"
        return bool(logged_runs(project) - before)

    _, script_name = MOMENTS[moment]
    script = wait_for_script(process.pid, script_name)
    if moment == "registration":
        wait_until(begun, "registration to log to a run")
    elif moment in TRAINED:
        wait_until(lambda: len(registry.versions()) > 1, "the version")
    everyone = [psutil.Process(process.pid), *descendants(process.pid)]
    (everyone[0] if who == "main.py" else script).send_signal(signal.SIGKILL)
    assert process.wait(60) != 0
    _, orphans = psutil.wait_procs(everyone, timeout=20)
    assert not orphans, who
    if moment == "registration":
        assert len(registry.versions()) == 1, f"{who} was killed too late"


def logged_runs(project: Project) -> set[Path]:
    """Runs whose first file is written: they have begun, and the model is still to come."""
    return set(project.path("3.experiments", "artifacts").glob("*/artifacts/lineage.json"))


def open_runs(registry: Registry) -> set[str]:
    """Runs that have begun and not ended."""
    found = registry.client.search_runs([registry.experiment_id()], "attributes.status = 'RUNNING'")
    return {run.info.run_id for run in found}
