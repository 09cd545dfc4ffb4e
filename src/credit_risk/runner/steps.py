"""Runs stages by DVC and gates as scripts; their output goes to the log, and a line for each to the terminal."""

from credit_risk.core.entry_point import describe

import fcntl
import logging
import os
import runpy
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psutil
import yaml
from rich.markup import escape

from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root
from credit_risk.core.streams import last_line
from credit_risk.runner.preparation import prepare_registry
from credit_risk.runner.terminal import console

# DVC and MLflow take seconds to import, so they are imported where they are used.
if TYPE_CHECKING:
    from dvc.repo import Repo

PIPELINE = "4.dvc_pipeline/dvc.yaml"
TRAINING, REGISTRATION = "train_model", "register_model"  # stages; the latter runs in this process
LOG = "4.dvc_pipeline/last_run.log"  # all output of stages and gates
MERGED = (PIPELINE, "4.dvc_pipeline/dvc.lock", "4.dvc_pipeline/params.yaml")
INTERRUPTED = 130  # exit code after Ctrl-C
END_SECONDS = 5  # for children to end after SIGTERM


@contextmanager
def run_log() -> Iterator[IO[str]]:
    """The log of a run, empty. It is locked: in one checkout, one run at a time writes log, data and registry.

    Raises:
        ProjectError: another run has it.
    """
    with (root() / LOG).open("a", encoding="utf-8") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ProjectError(
                f"another `uv run main.py` is running in this folder and writes {LOG}; run again when it has ended"
            ) from error
        log.truncate(0)
        yield log


def stage_names() -> list[str]:
    """The names of the pipeline's stages, in order.

    Raises:
        ProjectError: a merge has left conflict markers in a file that DVC reads.
    """
    for name in MERGED:
        path = root() / name
        if path.exists() and "\n<<<<<<< " in f"\n{path.read_text(encoding='utf-8', errors='replace')}":
            raise ProjectError(
                f"{name} has conflict markers of a merge; take one side (git checkout --ours {name}, or --theirs), "
                "then run again"
            )
    return list(yaml.safe_load((root() / PIPELINE).read_text(encoding="utf-8"))["stages"])


def open_repository() -> "Repo":
    """The DVC repository; without git, as in an unpacked archive, DVC runs too."""
    from dvc.repo import Repo
    from dvc.scm import SCMError

    logging.getLogger("dvc").setLevel(logging.ERROR)  # so that a stage's last line is its own
    try:
        repo = Repo(str(root()))
    except SCMError:
        repo = Repo(str(root()), config={"core": {"no_scm": True}})
    repo.scm_context.quiet = True
    return repo


class Steps:
    """Runs stages and gates, whose output goes to the log; prints a line for each that has run.

    Importing MLflow and opening the registry takes seconds. Registration and the performance gate run in this process,
    which does it while the first stages run. The loading gate must load the model in a fresh process: it is started
    when there is a new model, and waits for its turn.
    """

    def __init__(self, log: IO[str]) -> None:
        """Takes the log."""
        self.finished: list[str] = []
        self.preparation = threading.Thread(target=prepare_registry, daemon=True)
        self._log = log
        self._loading_gate: subprocess.Popen[str] | None = None

    def run_stage(self, repo: "Repo", name: str, *, force: bool) -> None:
        """Runs a stage of the pipeline if its inputs have changed.

        Raises:
            ProjectError: the stage or DVC has failed.
        """
        from dvc.exceptions import DvcException

        self._begin()
        try:
            with console.status(name):
                ran = self._register(repo) if name == REGISTRATION else reproduce(repo, name, force=force)
        except DvcException as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise self._failure(f"stage {name}: {reason}") from error
        if ran:
            self._finish(name)
        if ran and name == TRAINING:
            self._start_loading_gate()

    def run_script(self, path: str, *arguments: str) -> bool:
        """Runs a script; returns False if it is a gate that rejects the version.

        Raises:
            ProjectError: the script has failed.
        """
        name = Path(path).stem.rpartition(".")[2]
        self._begin()
        with console.status(name):
            passed = self._run(path, *arguments)
        self._finish(name)
        return passed

    def close(self) -> None:
        """Ends the loading gate if it still waits."""
        if self._loading_gate:
            with self._loading_gate as gate:
                gate.terminate()

    def _register(self, repo: "Repo") -> bool:
        """Does what DVC does for the stage, without a process; returns False if nothing has changed."""
        from credit_risk.registry.gating import REGISTER

        if not reproduce(repo, REGISTRATION, dry=True):
            return False
        self._run(REGISTER)
        undisturbed(lambda: repo.commit(f"{PIPELINE}:{REGISTRATION}", force=True))
        return True

    def _run(self, path: str, *arguments: str) -> bool:
        from credit_risk.registry.gate_results import EXIT_REJECTED
        from credit_risk.registry.gating import LOADING, REGISTER

        self.preparation.join()
        if path == REGISTER:
            self._start_loading_gate()
        if path == LOADING:
            gate, self._loading_gate = self._start_loading_gate(), None
            code = proceed(gate)
        else:
            code = execute(path, *arguments)
        if code not in {0, EXIT_REJECTED}:
            raise self._failure(f"{path} failed")
        return code == 0

    def _start_loading_gate(self) -> "subprocess.Popen[str]":
        """Starts it, if it does not wait already."""
        from credit_risk.registry.gating import LOADING

        if self._loading_gate is None:
            command = [sys.executable, LOADING, "--wait"]
            self._loading_gate = subprocess.Popen(command, cwd=root(), stdin=subprocess.PIPE, text=True)
        return self._loading_gate

    def _begin(self) -> None:
        self._start, self._offset = time.monotonic(), os.fstat(self._log.fileno()).st_size

    def _finish(self, name: str) -> None:
        self.finished.append(name)
        seconds = time.monotonic() - self._start
        console.print(f"  {name:<18} {seconds:5.1f} s  {escape(self._last_line())}", soft_wrap=True)

    def _failure(self, otherwise: str) -> ProjectError:
        return ProjectError(f"{self._last_line() or otherwise} (all output: {LOG})")

    def _last_line(self) -> str:
        """The last line that the current step has printed."""
        sys.stdout.flush()
        output = (root() / LOG).read_bytes()[self._offset :].decode(errors="replace")
        return last_line(output, "")


def reproduce(repo: "Repo", name: str, *, force: bool = False, dry: bool = False) -> bool:
    """Runs a stage by DVC, or only looks; returns False if nothing that it depends on has changed."""
    target = f"{PIPELINE}:{name}"
    return bool(undisturbed(lambda: repo.reproduce(target, single_item=True, force=force, dry=dry)))


def undisturbed(work: Callable[[], Any]) -> Any:
    """What DVC returns; after Ctrl-C, it finishes what it writes.

    In the main thread, DVC would ignore Ctrl-C while a stage runs, and be interrupted while it writes.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            end_children()
            raise


def proceed(process: "subprocess.Popen[str]") -> int:
    """Lets a script that waits begin; returns its exit code."""
    with process:
        try:
            process.communicate("begin\n")
        except BaseException:
            process.kill()
            raise
    return process.returncode


def execute(path: str, *arguments: str) -> int:
    """Runs a script in this process; returns its exit code."""
    sys.argv = [path, *arguments]
    try:
        runpy.run_path(str(root() / path), run_name="__main__")
    except SystemExit as ending:
        if ending.code == INTERRUPTED:
            raise KeyboardInterrupt from None
        return int(ending.code or 0)
    except Exception as error:  # noqa: BLE001 (as in a process of its own)
        sentence = describe(error)
        print(f"error: {sentence}" if sentence else traceback.format_exc(), file=sys.stderr)
        return 1
    return 0


def end_children() -> None:
    """Ends all processes that this one has started."""
    children = psutil.Process().children(recursive=True)
    for child in children:
        child.terminate()
    _, alive = psutil.wait_procs(children, END_SECONDS)
    for child in alive:
        child.kill()
