"""Ships the API's prediction log: finished files of JSON lines become Parquet, by day, in a folder or object store.

A file `<host>-<pid>-<random>.jsonl` always becomes `predictions/day=<day>/<host>-<pid>-<random>.parquet` with the same
content, and is deleted when all its days are written. So a killed run is repeated without loss, and two that run at
once write the same files: each row is shipped exactly once. The day is that of the row's own time in UTC; the clock of
the machine that ships does not matter.
"""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import ROW_ID, Number
from credit_risk.data.store import Store
from credit_risk.serving.log_writer import OPEN, READY

PREDICTIONS, DAMAGED = "predictions", "_damaged"  # folders of the store
KEYS = ("request_id", ROW_ID, "version", "probability", "decision")
GROUP = 1_000  # lines that are read at a time
AT_ONCE = 10  # files of an object store: each request waits for the network, and S3's client has ten connections
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, pa.ArrowException)
SCHEMA = pa.schema(
    [
        ("time", pa.timestamp("ms", "UTC")),
        ("request_id", pa.string()),
        (ROW_ID, pa.string()),
        ("version", pa.string()),
        ("probability", pa.float64()),
        ("decision", pa.string()),
        *((field.name, pa.float64() if isinstance(field, Number) else pa.string()) for field in CONTRACT.fields),
        ("shadow_version", pa.string()),
        ("shadow_probability", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Shipped:
    """What was shipped: files and rows; last lines that a killed process left unfinished; other unreadable lines."""

    files: int = 0
    rows: int = 0
    unfinished: int = 0
    damaged: int = 0

    def __add__(self, other: "Shipped") -> "Shipped":
        """Of both together."""
        return Shipped(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))


def shipped_days(store: Store) -> list[str]:
    """The days that have shipped predictions, as 2024-12-31, ascending."""
    return sorted(folder.removeprefix("day=") for folder in store.names(PREDICTIONS))


def read_shipped(store: Store, day: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The shipped predictions of a day, file by file: all columns of SCHEMA, or some.

    A field that the contract did not have when they were shipped is missing in all rows.
    """
    folder = f"{PREDICTIONS}/day={day}"
    names = sorted(store.names(folder))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(lambda name: store.read_table(f"{folder}/{name}", columns, SCHEMA), names)


def ship(log: Path, store: Store) -> Shipped:
    """Ships all finished files of a log, and those of processes of this host that have died.

    Lines that can't be read are counted; whole ones are kept in `_damaged` of the store.

    Raises:
        ProjectError: the store does not answer or is full; what is not shipped stays in the log.
    """
    close_abandoned(log)
    total = Shipped()
    for path in sorted((log / READY).glob("*.jsonl")):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # another run has shipped it
            continue
        total += _ship_file(path.stem, content, store)
        path.unlink(missing_ok=True)
    return total


def ship_uploaded(log: Store, store: Store) -> Shipped:
    """Ships the finished files that servers have uploaded, from an object store; see `ship`.

    Raises:
        ProjectError: a store does not answer; what is not shipped stays in the log.
    """
    names = sorted(name for name in log.names(READY) if name.endswith(".jsonl"))
    total = Shipped()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for shipped in pool.map(partial(_ship_uploaded_file, log, store), names):
            total += shipped
    return total


def _ship_uploaded_file(log: Store, store: Store, name: str) -> Shipped:
    try:
        content = log.read(f"{READY}/{name}")
    except ProjectError as error:
        if isinstance(error.__cause__, FileNotFoundError):  # another run has shipped it
            return Shipped()
        raise
    shipped = _ship_file(Path(name).stem, content, store)
    log.remove(f"{READY}/{name}")
    return shipped


def close_abandoned(log: Path) -> None:
    """Moves open files of dead processes of this host to the finished ones."""
    for path in (log / OPEN).glob("*.jsonl"):
        if _abandoned(path):
            (log / READY).mkdir(exist_ok=True)
            try:
                path.rename(log / READY / path.name)
            except FileNotFoundError:  # another run was quicker
                continue


def _abandoned(path: Path) -> bool:
    host, _, pid = path.stem.rpartition("-")[0].rpartition("-")
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        # A process that is younger than the file's last line has only taken over the number of the one that wrote it.
        return psutil.Process(int(pid)).create_time() > path.stat().st_mtime + 1
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OSError):
        return False


def _ship_file(stem: str, content: bytes, store: Store) -> Shipped:
    *lines, last = content.split(b"\n")
    rows, damaged = _read_lines([*lines, last] if read_line(last) else lines)  # complete but for the line's end
    if damaged:
        store.write(f"{DAMAGED}/{stem}.jsonl", b"\n".join(damaged) + b"\n")
    day_of_row = pc.strftime(rows["time"], "%Y-%m-%d")
    for day in day_of_row.unique().sort().to_pylist():
        store.write_table(f"{PREDICTIONS}/day={day}/{stem}.parquet", rows.filter(pc.equal(day_of_row, day)))
    return Shipped(1, rows.num_rows, int(bool(last) and read_line(last) is None), len(damaged))


def _read_lines(lines: list[bytes]) -> tuple[pa.Table, list[bytes]]:
    """The rows of the lines that can be read, and the lines that can't."""
    tables, damaged = [SCHEMA.empty_table()], []
    for start in range(0, len(lines), GROUP):
        group = lines[start : start + GROUP]
        try:
            tables.append(pa.Table.from_pylist([_parse(line) for line in group], SCHEMA))
        except _UNREADABLE:  # one by one, to find out which
            rows = [read_line(line) for line in group]
            tables.append(pa.Table.from_pylist([row for row in rows if row], SCHEMA))
            damaged += [line for line, row in zip(group, rows, strict=True) if not row]
    return pa.concat_tables(tables), damaged


def read_line(line: bytes) -> dict[str, Any] | None:
    """A row of SCHEMA; None if the line is not one of the log."""
    try:
        row = _parse(line)
        pa.Table.from_pylist([row], SCHEMA)
    except _UNREADABLE:
        return None
    return row


def _parse(line: bytes) -> dict[str, Any]:
    entry = json.loads(line)
    fields, shadow = entry["fields"], entry.get("shadow") or {}
    row = {key: entry[key] for key in KEYS}
    row["time"] = datetime.fromisoformat(entry["time"]).astimezone(UTC)
    row |= {name: fields.get(name) for name in CONTRACT.field_names}
    return row | {"shadow_version": shadow.get("version"), "shadow_probability": shadow.get("probability")}
