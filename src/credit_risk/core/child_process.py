"""Running scripts as children that don't outlive this process, line by line."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

from credit_risk.core.entry_point import prepare_children
from credit_risk.core.paths import root

_GRACE_SECONDS = 5


def lines(command: list[str], log: IO[str]) -> Iterator[str]:
    """Runs a command from the repository root and gives what it prints, line by line; returns when it has ended.

    Standard error comes with standard output, and everything is also written to `log`. When the reader stops early (an
    error, Ctrl-C), the command and all that it started are ended. If this process is killed, its scripts notice and
    stop by themselves (`entry_point.stop_with_pipeline`).

    Args:
        command: program and arguments.
        log: open text file.

    Raises:
        subprocess.CalledProcessError: it has failed; after all its lines.
    """
    prepare_children()
    child = subprocess.Popen(
        command,
        cwd=root(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        start_new_session=True,  # a process group of its own, so that all of it can be ended at once
    )
    try:
        for line in child.stdout or ():
            log.write(line)
            log.flush()
            yield line.rstrip("\n")
        if child.wait():
            raise subprocess.CalledProcessError(child.returncode, command)
    finally:
        _end(child)


def _end(child: "subprocess.Popen[str]") -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, how)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_SECONDS)
            return
