"""How every script of the rooms runs: one sentence for an expected error, and no life after its parent's death."""

import os
import sys
import threading
import time
from collections.abc import Callable

import psutil

from credit_risk.errors import CreditRiskError

WATCH = "CREDIT_RISK_WATCH"  # process id that main.py hands down: when it is gone, its stages stop too
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
    except CreditRiskError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)


def stop_with_parent() -> None:
    """Ends this process soon after its parent, or the run it belongs to (WATCH), has died.

    Without it, killing DVC or main.py would leave a stage behind that goes on writing. Nothing is cleaned up on the
    way out, as with a kill: files are renamed into place when they are complete.
    """
    parents = {os.getppid(), int(os.environ.get(WATCH, os.getppid()))}
    parents.discard(0)  # the first process of a container has no parent
    watched = [psutil.Process(pid) for pid in parents if psutil.pid_exists(pid)]
    if len(watched) < len(parents):
        os._exit(1)

    def watch() -> None:
        while all(map(_alive, watched)):
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="stop-with-parent", daemon=True).start()


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it ended between the two questions
        return False
