"""SIGKILL of main.py or of the running script: no orphans, no loss, and the next run recovers."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from dvc.repo import Repo
from projects import Project, descendants, wait_for_script, wait_until

from credit_risk.registry.client import CHALLENGER, CHAMPION, Registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CHANGES: dict[str, object] = {"clean.max_rejected_share": 0.02, "train.hist_gradient_boosting.max_iter": 50}
STAGE_2, STAGE_5 = "stage 2", "stage 5"
REGISTRATION, BEFORE_GATES = "registration", "between registration and gates"
# The script that runs, or waits, at each moment.
SCRIPTS = {
    STAGE_2: "2.prep_clean_data.py",
    STAGE_5: "5.train_model.py",
    REGISTRATION: "5.testing/loading.py",
    BEFORE_GATES: "5.testing/loading.py",
}
# Moments in their order, and which process is killed; main.py itself registers.
KILLS = (
    *((moment, who) for moment in (STAGE_2, STAGE_5) for who in ("main.py", "script")),
    (REGISTRATION, "main.py"),
    *((BEFORE_GATES, who) for who in ("main.py", "script")),
)


def test_kills(project: Project, inside: Callable[[Project], None]) -> None:
    """Each run but the first resumes after a kill, and comes a little further; the last one finishes."""
    inside(project)
    registry = Registry()
    project.set_params(CHANGES)
    for moment, who in KILLS:
        run_and_kill(project, moment, who, registry)
        champion = registry.version_of(CHAMPION)
        assert champion is not None
        assert champion.number == "1", (moment, who)

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

    script = wait_for_script(process.pid, SCRIPTS[moment])
    if moment == REGISTRATION:
        wait_until(begun, "registration to log to a run")
    elif moment == BEFORE_GATES:
        wait_until(lambda: len(registry.versions()) > 1, "the version")
    everyone = [psutil.Process(process.pid), *descendants(process.pid)]
    (everyone[0] if who == "main.py" else script).send_signal(signal.SIGKILL)
    assert process.wait(60) != 0
    _, orphans = psutil.wait_procs(everyone, timeout=20)
    assert not orphans, (moment, who)
    if moment == REGISTRATION:
        assert len(registry.versions()) == 1, f"{who} was killed too late"


def logged_runs(project: Project) -> set[Path]:
    """Runs whose first file is written: they have begun, and the model is still to come."""
    return set(project.path("3.experiments", "artifacts").glob("*/artifacts/lineage.json"))


def open_runs(registry: Registry) -> set[str]:
    """Runs that have begun and not ended."""
    found = registry.client.search_runs([registry.experiment_id()], "attributes.status = 'RUNNING'")
    return {run.info.run_id for run in found}
