"""A stage does not outlive the DVC that runs it, whichever shell DVC puts in between."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from projects import wait_for_script, wait_until

SCRIPT = """
import time
from pathlib import Path
from credit_risk.core.entry_point import run

pytestmark = pytest.mark.integration

def main() -> None:
    Path("begun").touch()
    time.sleep(60)

run("stage", main)
"""
STAGES = "stages:\n  long:\n    cmd: python stage.py\n"


@pytest.mark.parametrize("shell", ["sh", "bash"])  # dash stays as the stage's parent, bash becomes the stage
def test_a_stage_ends_when_dvc_is_killed(shell: str, tmp_path: Path) -> None:
    """`dvc repro` by hand, without main.py."""
    (tmp_path / "stage.py").write_text(SCRIPT)
    (tmp_path / "dvc.yaml").write_text(STAGES)
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--quiet", "--no-scm"], cwd=tmp_path, check=True)
    environment = os.environ | {"SHELL": str(shutil.which(shell))}
    process = subprocess.Popen([*dvc, "repro"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_until((tmp_path / "begun").exists, "the stage to begin")
        stage = wait_for_script(process.pid, "stage.py")
    finally:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs([stage], timeout=10)
    for process in left:
        process.kill()
    assert not left
