"""Standard output and standard error that never stop a program, whatever a terminal lacks; what programs printed."""

import io
import os
import sys


class SafeStream(io.TextIOWrapper):
    """Text output to a descriptor. Characters that its encoding lacks become `?`.

    When the terminal or pipe behind it is closed, further output is discarded: a run must not end between two steps
    because nobody reads what it prints.
    """

    def __init__(self, descriptor: int, encoding: str | None = None) -> None:
        """Opens the stream; the descriptor stays open when it is closed."""
        raw = os.fdopen(descriptor, "wb", closefd=False)
        super().__init__(raw, encoding=encoding or "utf-8", errors="replace", line_buffering=True)

    def write(self, text: str) -> int:
        """Writes text, or discards it."""
        try:
            return super().write(text)
        except OSError:
            self._discard()
            return len(text)

    def flush(self) -> None:
        """Writes what is buffered, or discards it."""
        try:
            super().flush()
        except OSError:
            self._discard()

    def _discard(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)


def open_closed_descriptors() -> None:
    """Connects standard streams that the caller has closed (`>&-`) to the null device.

    Otherwise the next file that is opened would get their number, and what is printed would go into it.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", closefd=False))


def make_safe() -> None:
    """Makes this process's standard output and standard error safe, unless something else has replaced them."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            stream.flush()
            setattr(sys, name, SafeStream(stream.fileno(), stream.encoding))


def last_line(output: str, otherwise: str = "no output") -> str:
    """The last line that a program has printed, which says why it failed; `otherwise` if it printed nothing."""
    return (output.strip().splitlines() or [otherwise])[-1].strip()
