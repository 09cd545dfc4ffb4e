"""What people see: `console` prints to the terminal also while the output of steps is redirected to the log."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from rich.console import Console
from rich.markup import escape

from credit_risk.core.streams import SafeStream

console, error_console = (
    Console(file=SafeStream(os.dup(descriptor), stream.encoding), highlight=False)
    for descriptor, stream in ((1, sys.stdout), (2, sys.stderr))
)


def print_error(sentence: str) -> None:
    """Prints an expected error to standard error."""
    error_console.print(f"[bold red]error:[/] {escape(sentence)}", soft_wrap=True)


@contextmanager
def redirected_output(log: IO[str]) -> Iterator[None]:
    """Sends the output of this process and of its children to a file, except what the consoles print."""
    saved = [(descriptor, os.dup(descriptor)) for descriptor in (1, 2)]
    for descriptor, _ in saved:
        os.dup2(log.fileno(), descriptor)
    try:
        yield
    finally:
        sys.stdout.flush()
        for descriptor, copy in saved:
            os.dup2(copy, descriptor)
            os.close(copy)
