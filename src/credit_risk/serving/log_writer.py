"""Writes the prediction log: one JSON line for each scored row, in files that `uv run main.py log ship` takes over.

A thread of its own does it, so that no request waits for a disk. A worker appends to `open/<host>-<pid>-<random>.jsonl`
and moves the file to `ready/` when it is a minute old or large, and when the worker ends. Lines reach the operating
system when they are written: a killed process loses only those of the last second. A disk that is full or
fails costs lines, which are counted, and nothing else; there is never half a line.
"""

import os
import queue
import secrets
import socket
import threading
from contextlib import suppress
from pathlib import Path
from time import gmtime, monotonic, strftime
from typing import Any, NamedTuple

from pydantic_core import to_json

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import ROW_ID
from credit_risk.project.settings import Settings
from credit_risk.serving.structured_log import log

OPEN, READY = "open", "ready"  # folders of the log: of files that are written, and of finished ones
FILE_SECONDS, FILE_BYTES = 60, 64_000_000
CLOSE_SECONDS = 3  # that the end of a worker waits for the disk
PARTS = 7  # of a line
_PROBABILITY, BODY, _SHADOW = 3, 5, 6  # their places; the probability is a number until the line is written


class Batch(NamedTuple):
    """Rows to write, PARTS parts each; without or with the shadow model's version and scores."""

    parts: list[Any]
    size: int  # in bytes, about
    shadow_version: str | None = None
    shadow_scores: list[float] | None = None

    @property
    def rows(self) -> int:
        """Count."""
        return len(self.parts) // PARTS

    def lines(self) -> bytes:
        """The lines of the log. What needs no request to wait is done here, for all rows at once."""
        parts = self.parts
        parts[_PROBABILITY::PARTS] = _each(parts[_PROBABILITY::PARTS])
        if self.shadow_version and self.shadow_scores:
            start = b',"shadow":{"version":%s,"probability":' % to_json(self.shadow_version)
            parts[_SHADOW::PARTS] = [b"%b%b}}\n" % (start, score) for score in _each(self.shadow_scores)]
        bodies = parts[BODY::PARTS]
        together = b"".join(bodies)
        if b"\n" in together or b"\r" in together:  # between tokens: a text can't contain them
            parts[BODY::PARTS] = [body.replace(b"\n", b" ").replace(b"\r", b" ") for body in bodies]
        return b"".join(parts)


def _each(numbers: list[float]) -> list[bytes]:
    """Each number as JSON."""
    return to_json(numbers)[1:-1].split(b",")


class LineFormat:
    """Makes the parts of a line in less than a microsecond: a body is logged as it was sent where it can be."""

    def __init__(self, fields: tuple[str, ...]) -> None:
        """Shows these fields of the contract."""
        self._fields = fields
        self._redacted = len(fields) < len(CONTRACT.fields)
        self._millisecond, self._start = 0, b""
        self._version, self._without_id = "", b""

    def parts(  # noqa: PLR0913, PLR0917 (on the path of each request)
        self,
        time: float,
        request_id: bytes,
        row: dict[str, Any],
        probability: float,
        decision: str,
        version: str,
        body: bytes | None,
    ) -> tuple[Any, ...]:
        """The PARTS parts of a row's line, without a shadow score.

        Args:
            time: seconds since 1970.
            request_id: of the request that had the row.
            row: fields and row id.
            probability: the prediction.
            decision: accept or decline, in the contract's words.
            version: of the model.
            body: the row as it was sent, if it was sent alone.
        """
        millisecond = int(time * 1000)
        if millisecond != self._millisecond:
            second, rest = divmod(millisecond, 1000)
            stamp = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
            self._millisecond, self._start = millisecond, f'{{"time":"{stamp}.{rest:03}Z","request_id":"'.encode()
        if version != self._version:
            self._version, self._without_id = version, _key(None, version)
        row_id = row[ROW_ID]
        key = self._without_id if row_id is None else _key(row_id, version)
        if body is None or row_id is not None or self._redacted:
            body = to_json({name: row[name] for name in self._fields})
        return self._start, request_id, key, probability, _DECISIONS[decision], body, _NO_SHADOW


def _key(row_id: str | None, version: str) -> bytes:
    return b'","row_id":%b,"version":"%b","probability":' % (to_json(row_id), version.encode())


def logged_fields(settings: Settings) -> tuple[str, ...]:
    """Names of the fields that the log shows.

    Raises:
        ProjectError: one that is left out is no field.
    """
    unknown = [name for name in settings.prediction_log_exclude if name not in CONTRACT.field_names]
    if unknown:
        raise ProjectError(f"PREDICTION_LOG_EXCLUDE names '{unknown[0]}', which is not a field of the contract")
    return tuple(name for name in CONTRACT.field_names if name not in settings.prediction_log_exclude)


class LogWriter:
    """A thread that writes what it is given."""

    def __init__(self, folder: Path) -> None:
        """Starts the thread; the folder is made when there is something to write."""
        self._folder = folder
        self._queue: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._name, self._file, self._opened, self._size = "", -1, 0.0, 0
        self._problem = ""
        # Written by the thread only, and read by others; they only grow.
        self.finished_bytes = self.written = self.lost = 0
        self._thread = threading.Thread(target=self._run, name="prediction log", daemon=True)
        self._thread.start()

    def put(self, batch: Batch) -> None:
        """Has rows written; does not wait."""
        self._queue.put(batch)

    def close(self) -> None:
        """Writes what there is and finishes the file; waits CLOSE_SECONDS at most."""
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        ended = False
        while not ended:
            batch: Batch | None = None
            with suppress(queue.Empty):
                batch = self._queue.get(timeout=1)
                ended = batch is None
            try:
                if batch:
                    self._write(batch.lines())
                    self.written += batch.rows
                if self._file >= 0 and (ended or self._is_full()):
                    self._finish()
                self._problem = ""
            except Exception as error:  # noqa: BLE001 (whatever it is, later lines may be written)
                self.lost += batch.rows if batch else 0
                if str(error) != self._problem:
                    log.warning("prediction log can't be written", reason=str(error))
                self._problem = str(error)
            if batch:
                self.finished_bytes += batch.size

    def _is_full(self) -> bool:
        return self._size >= FILE_BYTES or monotonic() - self._opened >= FILE_SECONDS

    def _write(self, lines: bytes) -> None:
        if self._file < 0 or os.fstat(self._file).st_nlink == 0:  # 0: somebody has deleted it
            self._start()
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            os.ftruncate(self._file, self._size)
            raise
        self._size += len(lines)

    def _start(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(6)}.jsonl"
        (self._folder / OPEN).mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
        self._file = os.open(self._folder / OPEN / self._name, flags, 0o600)  # rows may be personal data
        self._opened, self._size = monotonic(), 0

    def _finish(self) -> None:
        os.close(self._file)
        self._file = -1
        if not self._size:
            (self._folder / OPEN / self._name).unlink(missing_ok=True)
            return
        (self._folder / READY).mkdir(exist_ok=True)
        (self._folder / OPEN / self._name).rename(self._folder / READY / self._name)


_NO_SHADOW = b',"shadow":null}\n'
_DECISIONS = {
    word: b',"decision":%s,"fields":' % to_json(word) for word in (CONTRACT.problem.accept, CONTRACT.problem.decline)
}
