"""Small copies of the project that tests may run, break and change, each with a registry of its own."""

import gzip
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
import yaml
from filelock import FileLock
from ruamel.yaml import YAML

T = TypeVar("T")
REPOSITORY = Path(__file__).resolve().parents[1]
ROWS = 4_000  # of a copy's data: the committed source is thinned to about so many

# Short training, and gates that a sound model passes in spite of the small sample; also what tests assume, so that they
# do not depend on the values in params.yaml.
SMALL_PARAMS: Mapping[str, object] = {
    "train.model": "hist_gradient_boosting",
    "train.threshold_folds": 3,
    "train.selection.trees": 10,
    "train.hist_gradient_boosting.max_iter": 60,
    "evaluate.bootstrap_resamples": 100,
    "gates.bootstrap_resamples": 100,
    "gates.mode": "champion",
    "gates.min_auc": 0.55,
    "gates.min_out_of_time_auc": 0.55,
    "gates.max_calibration_error": 0.06,
    "gates.min_brier_skill": 0.005,
    "gates.min_auc_over_logistic": -0.03,
    "gates.min_accuracy": None,
    "gates.cost_in_time": "warn",
    "gates.margin": 0.05,
}


@dataclass(frozen=True)
class Project:
    """A copy of the project."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """For processes; without coverage, which costs them half their time again, see run_measured."""
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "COVERAGE_"))}
        return keep | {"PROJECT_ROOT": str(self.root), "COLUMNS": "160"}

    def path(self, *parts: str) -> Path:
        return self.root.joinpath(*parts)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, *arguments]

    def run(self, *arguments: str, check: bool = True, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Runs Python in the project, as `uv run` does; fails with its output unless told otherwise."""
        result = subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or result.returncode == 0, result.stdout + result.stderr
        return result

    def run_measured(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Runs Python, measured for coverage."""
        return self.run(*arguments, check=check, **coverage())

    @property
    def params_file(self) -> Path:
        return self.path("4.dvc_pipeline", "params.yaml")

    @property
    def params(self) -> dict[str, Any]:
        """All sections of params.yaml."""
        sections: dict[str, Any] = yaml.safe_load(self.params_file.read_text(encoding="utf-8"))
        return sections

    def has_param(self, key: str) -> bool:
        """Whether params.yaml has this dotted key: a problem without a date has no gate out of time."""
        value: Any = self.params
        for part in key.split("."):
            if part not in value:
                return False
            value = value[part]
        return True

    def set_params(self, changes: Mapping[str, object]) -> None:
        """Sets parameters by their dotted keys, as `{"train.seed": 1}`; a section that is missing fails."""
        round_trip = YAML()  # keeps comments and order
        round_trip.width = 10_000
        round_trip.representer.add_representer(
            type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
        )
        round_trip.indent(mapping=2, sequence=4, offset=2)
        sections = round_trip.load(self.params_file.read_text(encoding="utf-8"))
        for key, value in changes.items():
            *parents, name = key.split(".")
            section = sections
            for parent in parents:
                section = section[parent]
            section[name] = value
        with self.params_file.open("w", encoding="utf-8") as file:
            round_trip.dump(sections, file)


@dataclass(frozen=True)
class Renamed(Project):
    """A copy with a package of its own."""

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"PYTHONPATH": str(self.root / "src")}


def coverage() -> dict[str, str]:
    """What a process needs in its environment to be measured, where pytest runs with `--cov`."""
    return {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}


def copy_repository(target: Path) -> Project:
    """The files that git has or would have, as a git repository; the original may be one or an unpacked archive."""
    with tempfile.TemporaryDirectory() as empty:
        git = ["git", f"--git-dir={empty}", f"--work-tree={REPOSITORY}"]
        subprocess.run(["git", "init", "-q", "--bare", empty], check=True)
        listed = [*git, "ls-files", "-z", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, check=True).stdout.decode().split("\0")
    for name in [*filter(None, names), "uv.lock"]:
        if (REPOSITORY / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, target / name)
    commit_all(target)
    return Project(target)


def copy_project(target: Path) -> Project:
    """A copy of the repository with fewer rows and quicker parameters, on which nothing has run."""
    project = copy_repository(target)
    for later in sorted(project.path("1.data", "later").glob("*.csv.gz")):
        thin(later, later, every=3)
    for source in project.path("1.data", "source").glob("*.csv.gz"):
        thin(source, source, every=max(1, row_count(source) // ROWS))
    project.path("4.dvc_pipeline", "dvc.lock").unlink(missing_ok=True)
    project.set_params({key: value for key, value in SMALL_PARAMS.items() if project.has_param(key)})
    commit_all(target)
    return project


def thin(source: Path, target: Path, every: int) -> None:
    """Keeps the header and every n-th row."""
    with gzip.open(source, "rt", encoding="utf-8", newline="") as file:
        header, *rows = file.read().splitlines(keepends=True)
    with gzip.GzipFile(target, "wb", mtime=0) as file:
        file.write("".join([header, *rows[::every]]).encode())


def row_count(source: Path) -> int:
    """Rows of a gzipped CSV file, without its header."""
    with gzip.open(source, "rb") as file:
        return sum(1 for _ in file) - 1


def once(path: Path, make: Callable[[Path], object]) -> Path:
    """A file or folder that the first of several test processes makes, while the others wait for it."""
    done = path.with_name(f"{path.name}.done")
    with FileLock(f"{path}.lock"):
        if not done.exists():
            shutil.rmtree(path, ignore_errors=True)  # of a run that failed
            make(path)
            done.touch()
    return path


def commit_all(folder: Path) -> None:
    """Makes the folder a git repository with everything committed."""
    identity = ["-c", "user.name=test", "-c", "user.email=test"]
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    subprocess.run(["git", "add", "-A"], cwd=folder, check=True)
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "Start"], cwd=folder, check=True)


def copy_finished(finished: Project, target: Path) -> Project:
    """Copies a finished project; its registry notices that it has moved."""
    return Project(Path(shutil.copytree(finished.root, target, symlinks=True)))


def script(project: Project, path: str) -> dict[str, Any]:
    """The names that a script of the rooms defines, without running it."""
    return runpy.run_path(str(project.path(path)))


def run_script(project: Project, path: str, *arguments: str) -> int:
    """Runs a script in this process; returns its exit code."""
    saved, sys.argv = sys.argv, [path, *arguments]
    try:
        runpy.run_path(str(project.path(path)), run_name="__main__")
    except SystemExit as exit_:
        return int(exit_.code or 0)
    finally:
        sys.argv = saved
    return 0


def lone_stage(folder: Path, stage: str, inputs: str, params: str = "") -> Project:
    """A folder that holds a stage's script, its parameters and an empty folder for its inputs below 1.data."""
    project = Project(folder)
    project.path("4.dvc_pipeline").mkdir(parents=True)
    project.path("1.data", inputs).mkdir(parents=True)
    project.path("4.dvc_pipeline", "params.yaml").write_text(params)
    project.path(stage).symlink_to(REPOSITORY / stage)
    return project


def wait_until(found: Callable[[], T | None], what: str, seconds: float = 240) -> T:
    """Asks again and again until something is found; fails after so many seconds, saying what was awaited."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := found():
            return result
        time.sleep(0.02)
    raise AssertionError(f"waited {seconds} s for {what}")


def descendants(pid: int) -> list[psutil.Process]:
    """All processes below a process."""
    return psutil.Process(pid).children(recursive=True)


def wait_for_script(pid: int, name: str) -> psutil.Process:
    """The process that runs a script, below a process, as soon as it does; not DVC, and not the shell in between."""

    def running() -> psutil.Process | None:
        for process in descendants(pid):
            with suppress(psutil.Error):
                command = process.cmdline()
                if name in " ".join(command) and not {"dvc", "-c"} & set(command):
                    return process
        return None

    return wait_until(running, name)
