"""The seven stages and the two gates in one process, which pays for imports once.

Usage: PROJECT_ROOT=FOLDER python tests/spine.py
"""

import contextlib
import os
import runpy
import sys
from pathlib import Path

import yaml
from dvc.repo import Repo

PIPELINE = "4.dvc_pipeline/dvc.yaml"
GATES = ("5.testing/loading.py", "5.testing/performance.py")


def main(root: Path) -> None:
    """Runs the spine; leaves dvc.lock and DVC's cache as `dvc repro` leaves them."""
    stages = yaml.safe_load((root / PIPELINE).read_text(encoding="utf-8"))["stages"]
    with contextlib.chdir(root), Repo(str(root)) as repo:
        for name, stage in stages.items():
            run((root / PIPELINE).parent, stage["cmd"].removeprefix("python "))
            repo.commit(f"{PIPELINE}:{name}", force=True)  # the lineage of stage 7 is read from dvc.lock
    for gate in GATES:
        run(root, gate)


def run(folder: Path, script: str) -> None:
    """Runs a script as `python script` does in a folder."""
    sys.argv = [script]
    with contextlib.chdir(folder):
        runpy.run_path(str(Path(script).resolve()), run_name="__main__")


if __name__ == "__main__":
    main(Path(os.environ["PROJECT_ROOT"]).resolve())
