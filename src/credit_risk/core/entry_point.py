"""Entry point of the scripts: prints an expected error as one line and exits when the pipeline run has died.

Importing it installs the exception hook that shows expected errors which occur during later imports: a mistake in the
contract, or a package that is not installed.
"""

import errno
import os
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil

from credit_risk.core import streams
from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import data, relative, root

PIPELINE_PID = "PIPELINE_PID"  # environment variable: process id of the run that this process belongs to
_POLL_SECONDS = 0.2
_FREE_SPACE, _PERMIT, _RAISE_LIMIT = "free some space", "give this user access to it", "raise the limit: ulimit -n"
_MACHINE = {  # problems of the machine, which no code can solve, with their remedy
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EROFS: "make it writable",
    errno.EACCES: _PERMIT,
    errno.EPERM: _PERMIT,
    errno.EMFILE: _RAISE_LIMIT,
    errno.ENFILE: _RAISE_LIMIT,
}


def run(name: str, main: Callable[[], None]) -> None:
    """Runs `main`; an expected error becomes `name: sentence` on standard error and exit code 1.

    Args:
        name: what messages call the script, such as `stage 2`.
        main: the script's work.
    """
    streams.make_safe()
    try:
        stop_with_pipeline()
        main()
    except (ProjectError, OSError) as error:
        sentence = describe(error)
        if sentence is None:
            raise
        print(f"{name}: {sentence}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)


def describe(error: BaseException) -> str | None:
    """An expected error as one sentence: the project's own, the machine's, or a missing package; None for others."""
    if isinstance(error, ProjectError):
        return str(error)
    if isinstance(error, OSError):
        return _machine_problem(error)
    return _missing_package(error)


def _machine_problem(error: OSError) -> str | None:
    """A full disk, a missing permission and the like, and outputs of the pipeline that do not exist yet."""
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    shown = relative(path) if path and path.is_relative_to(root()) else str(path or "")
    if isinstance(error, FileNotFoundError) and path and path.is_relative_to(data()):
        stage = path.relative_to(data()).parts[0]
        return f"{shown} is missing; run the pipeline first: `uv run main.py`" if stage[:1].isdigit() else None
    if error.errno not in _MACHINE:
        return None
    return f"{shown}{': ' if shown else ''}{error.strerror}; {_MACHINE[error.errno]}"


def prepare_children() -> None:
    """Sets the environment of the scripts that this process is about to start."""
    os.environ[PIPELINE_PID] = str(os.getpid())
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    os.environ["PYTHONUNBUFFERED"] = "1"  # so that their output is shown when they print it
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # with it, importing MLflow takes three times as long
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads that spin slow down a busy machine


def stop_with_pipeline() -> None:
    """Ends this process soon after the run that it belongs to has died: main.py (PIPELINE_PID) or DVC.

    Without it, killing main.py or DVC would leave a stage running that goes on writing. A process that belongs to no
    run is not watched. Nothing is cleaned up, as with a kill: files are renamed into place when they are complete.
    """
    watched = _run_processes()

    def watch() -> None:
        while all(map(_alive, watched)):
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    if watched:
        threading.Thread(target=watch, name="stop-with-pipeline", daemon=True).start()


def _run_processes() -> list[psutil.Process]:
    """The processes of the run; ends this process if one of them has ended already."""
    pid = os.environ.get(PIPELINE_PID, "")
    if not pid.isdecimal() and pid:
        raise ProjectError(f"environment: {PIPELINE_PID} must be the process id of a run; unset it")
    try:
        found = [psutil.Process(int(pid))] if pid else []
        if "DVC_STAGE" in os.environ:
            # DVC runs `sh -c 'python script.py'`. Some shells become the script; others stay, and outlive a killed DVC.
            parent = psutil.Process(os.getppid())
            shell = parent.cmdline()[-2:-1] == ["-c"]
            found += [parent, *filter(None, [parent.parent() if shell else None])]
    except (psutil.NoSuchProcess, OverflowError):
        os._exit(1)
    return found


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError):  # too many open files, for example: look again
        return True


def _show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """The exception hook."""
    sentence = describe(error)
    if sentence is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        print(f"error: {sentence}", file=sys.stderr)


def _missing_package(error: BaseException) -> str | None:
    """What to do about a missing package that is in a dependency group of pyproject.toml."""
    pyproject = root() / "pyproject.toml"
    if not isinstance(error, ModuleNotFoundError) or not error.name or not pyproject.exists():
        return None
    module = error.name.partition(".")[0]
    for group, requirements in tomllib.loads(pyproject.read_text(encoding="utf-8"))["dependency-groups"].items():
        if any(isinstance(one, str) and _letters(one).startswith(_letters(module)) for one in requirements):
            return f"{module} is not installed; use `uv run --group {group} {relative(sys.argv[0])}`"
    return None


def _letters(name: str) -> str:
    """A name without punctuation: the distribution `ruamel.yaml` has the module `ruamel`, `cfn-lint` has `cfnlint`."""
    return "".join(filter(str.isalnum, name.lower()))


def _use_the_stages_own_checkout() -> None:
    """Runs a stage again with the package of the checkout that it is in, if another one's is imported.

    `dvc exp run --temp` and `--queue` run the stages in a checkout of their own, in the environment of the first one.
    """
    if "DVC_STAGE" not in os.environ:
        return
    checkout = Path.cwd().parent
    if checkout == root() or not (checkout / "src" / __name__.partition(".")[0]).is_dir():
        return
    environment = os.environ | {"PROJECT_ROOT": str(checkout), "PYTHONPATH": str(checkout / "src")}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


streams.open_closed_descriptors()
sys.excepthook = _show
_use_the_stages_own_checkout()
