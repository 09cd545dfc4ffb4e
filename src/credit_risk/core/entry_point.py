"""How every script of the rooms runs: one sentence for an expected error, and no life after its parent's death."""

import os
import sys
import threading
import time
from collections.abc import Callable

import psutil

from credit_risk.core.errors import ProjectError

PIPELINE_PID = "PIPELINE_PID"  # process id that main.py hands down: when it is gone, its stages stop too
_POLL_SECONDS = 0.2


def run(name: str, main: Callable[[], None]) -> None:
    """Runs `main`; an expected error becomes `name: sentence` on standard error and exit code 1.

    Args:
        name: what people call the script, as `stage 2`.
        main: the script's work.
    """
    stop_with_parent()
    try:
        main()
    except ProjectError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)


def stop_with_parent() -> None:
    """Ends this process soon after its parent, or the run it belongs to (PIPELINE_PID), has died.

    Without it, killing DVC or main.py would leave a stage behind that goes on writing. Nothing is cleaned up on the
    way out, as with a kill: files are renamed into place when they are complete.
    """
    watched = _ancestors()

    def watch() -> None:
        while all(map(_alive, watched)):
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="stop-with-parent", daemon=True).start()


def _ancestors() -> list[psutil.Process]:
    """The processes without which this one has no purpose; ends it if one of them is gone already."""
    pids = {os.getppid(), int(os.environ.get(PIPELINE_PID, os.getppid()))}
    pids.discard(0)  # the first process of a container has no parent
    try:
        found = [psutil.Process(pid) for pid in pids]
        if "DVC_STAGE" in os.environ:
            # DVC runs `sh -c 'python script.py'`. Some shells become the script; others stay, and outlive a killed DVC.
            shells = [process for process in found if process.cmdline()[-2:-1] == ["-c"]]
            found += [parent for shell in shells if (parent := shell.parent())]
    except psutil.NoSuchProcess:
        os._exit(1)
    return found


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return False
