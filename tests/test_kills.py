"""SIGKILL of main.py, DVC or the stage, at the worst moments: nothing orphaned, nothing lost, the next run recovers."""

import signal
import subprocess
from collections.abc import Callable

import psutil
import pytest
from projects import Project, descendants, wait_for_script, wait_until

from credit_risk.registry import CHALLENGER, CHAMPION, Registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# For each moment: the parameter whose change makes the stage run, and the script that runs at that moment.
MOMENTS = {
    "stage 2": ("max_rejected_share: 0.01", "max_rejected_share: 0.02", "2.prep_clean_data.py"),
    "stage 5": ("max_iter: 60", "max_iter: 50", "5.train_model.py"),
    "registration": ("max_iter: 60", "max_iter: 50", "7.register_model.py"),
    "between registration and gates": ("max_iter: 60", "max_iter: 50", "5.testing/loading.py"),
}


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
def test_kill(moment: str, who: str, project: Project, inside: Callable[[Project], None]) -> None:
    inside(project)
    registry = Registry()
    old, new, script_name = MOMENTS[moment]
    project.set_param(old, new)
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
    again = project.run("main.py").stdout
    assert "nothing has changed since the last run" in again


def wait_for_new_run(registry: Registry) -> None:
    """Until registration has begun its run."""
    experiment = registry.experiment_id()
    wait_until(
        lambda: registry.client.search_runs([experiment], "attributes.status = 'RUNNING'"),
        "registration to begin a run",
    )
