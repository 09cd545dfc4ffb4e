"""SIGKILL of main.py, DVC or the stage, at the worst moments: nothing orphaned, nothing lost, the next run recovers."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from dvc.repo import Repo
from filelock import FileLock
from projects import Project, copy_finished, descendants, wait_for_script, wait_until

from credit_risk.registry import CHALLENGER, CHAMPION, Registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# For each moment: the parameter whose change makes the stage run, and the script that runs at that moment.
OTHER_MODEL = ("max_iter: 60", "max_iter: 50")
MOMENTS = {
    "stage 2": (("max_rejected_share: 0.01", "max_rejected_share: 0.02"), "2.prep_clean_data.py"),
    "stage 5": (OTHER_MODEL, "5.train_model.py"),
    "registration": (OTHER_MODEL, "7.register_model.py"),
    "between registration and gates": (OTHER_MODEL, "5.testing/loading.py"),
}
TRAINED = ("registration", "between registration and gates")


@pytest.fixture(scope="session")
def trained(shared: Path, finished: Project) -> Project:
    """A project with another model, up to registration; for the moments after training."""
    folder = shared / "trained"
    with FileLock(shared / "trained.lock"):
        if not (folder / "done").exists():
            project = copy_finished(finished, folder)
            project.set_param(*OTHER_MODEL)
            project.run("-m", "dvc", "repro", "4.dvc_pipeline/dvc.yaml:evaluate_model")
            (folder / "done").touch()
    return Project(folder)


def is_dvc(process: psutil.Process) -> bool:
    try:
        return "dvc" in process.cmdline()
    except psutil.Error:
        return False


def victim(who: str, main: psutil.Process, script: psutil.Process) -> psutil.Process | None:
    """The process to kill; None where there is none (the gates do not run under DVC)."""
    if who == "main.py":
        return main
    if who == "DVC":
        return next(filter(is_dvc, descendants(main.pid)), None)
    return script


@pytest.mark.parametrize(
    ("moment", "who"),
    [
        (moment, who)
        for moment in MOMENTS
        for who in ("main.py", "DVC", "script")
        if (moment, who) != ("between registration and gates", "DVC")  # it has ended by then
    ],
)
def test_kill(
    moment: str, who: str, request: pytest.FixtureRequest, tmp_path: Path, inside: Callable[[Project], None]
) -> None:
    start = request.getfixturevalue("trained" if moment in TRAINED else "finished")
    project = copy_finished(start, tmp_path / "project")
    inside(project)
    registry = Registry()
    change, script_name = MOMENTS[moment]
    if moment not in TRAINED:
        project.set_param(*change)
    process = subprocess.Popen(
        project.command("main.py"),
        cwd=project.root,
        env=project.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    script = wait_for_script(process.pid, script_name)
    if moment == "registration":
        wait_for_new_run(registry)
    everyone = [psutil.Process(process.pid), *descendants(process.pid)]
    target = victim(who, everyone[0], script)
    assert target is not None
    target.send_signal(signal.SIGKILL)
    assert process.wait(60) != 0

    _, orphans = psutil.wait_procs(everyone, timeout=20)
    assert not orphans
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
    experiment = registry.experiment_id()
    assert not registry.client.search_runs([experiment], "attributes.status = 'RUNNING'")
    with Repo(str(project.root)) as repo:
        assert repo.status() == {}  # nothing is left for a further run


def wait_for_new_run(registry: Registry) -> None:
    """Until registration has begun its run."""
    experiment = registry.experiment_id()
    wait_until(
        lambda: registry.client.search_runs([experiment], "attributes.status = 'RUNNING'"),
        "registration to begin a run",
    )
