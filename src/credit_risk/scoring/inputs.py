"""The files to score: found, cut into pieces that can be scored in any order, and read in batches.

The same file always gives the same pieces and batches, so that an interrupted job can tell what is left to do.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from credit_risk.core.errors import ProjectError
from credit_risk.data.sources import SUFFIXES, TAGS, public, reason

BATCH_ROWS = 65_536  # of Parquet
BLOCK_BYTES = 8 << 20  # of text, which is a batch of CSV
PIECE_ROWS = 1_000_000  # of Parquet, at least: what one task of a cluster scores


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to score.

    Attributes:
        url: its path or URL.
        name: path below the input, for messages and row ids.
        size: bytes.
        changed: the store's tag, or the time of the last change: another one means other content.
    """

    url: str
    name: str
    size: int
    changed: str

    @property
    def parquet(self) -> bool:
        """Whether it is Parquet; otherwise it is CSV."""
        return self.name.lower().endswith(".parquet")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file that is scored on its own: row groups of Parquet, or a whole CSV file.

    Attributes:
        file: the file.
        label: unique within a job; part of the names of what is written.
        groups: row groups, the last one excluded; None for CSV.
        first_row: number of its first row in the file.
        rows: count; None for CSV.
        size: bytes of the file, as a measure of work.
    """

    file: InputFile
    label: str
    groups: tuple[int, int] | None
    first_row: int
    rows: int | None
    size: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows: their label, the number of the first one in the file, and how much of the piece is read."""

    label: str
    first_row: int
    rows: pa.RecordBatch
    size: float


def find(address: str) -> list[InputFile]:
    """The files at a path or URL: one file, or all of a folder whose names do not begin with `_` or `.`.

    Raises:
        ProjectError: there are none, or the store does not answer.
    """
    url = address if "://" in address else str(Path(address).resolve())
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        found = filesystem.find(path, detail=True)
        if path in found:
            found[path] = filesystem.info(path)  # over HTTP, `find` tells nothing about a file
    except Exception as error:  # each file system has its own exceptions
        raise ProjectError(f"{public(address)} can't be read: {reason(error)}") from error
    files = []
    for each, info in sorted(found.items()):
        name = Path(each).name if each == path else Path(each).relative_to(path).as_posix()
        hidden = each != path and any(part.startswith(("_", ".")) for part in Path(name).parts)
        if name.lower().endswith(SUFFIXES) and not hidden:
            tag = next((str(info[key]) for key in (*TAGS, "mtime") if info.get(key)), "")
            files.append(InputFile(filesystem.unstrip_protocol(each), name, int(info["size"] or 0), tag))
    if not files:
        raise ProjectError(f"{public(address)} has no file that ends with {', '.join(SUFFIXES)}")
    return files


def as_json(files: list[InputFile]) -> list[dict[str, Any]]:
    """The files as they are recorded with a job."""
    return [asdict(file) for file in files]


def pieces(number: int, file: InputFile) -> list[Piece]:
    """The pieces of the file with this number.

    Raises:
        ProjectError: it can't be read.
    """
    if not file.parquet:
        return [Piece(file, f"{number:05}-00000", None, 0, None, file.size)]
    with opened(file) as handle, pq.ParquetFile(handle) as content:
        groups = [content.metadata.row_group(group).num_rows for group in range(content.num_row_groups)]
    found: list[Piece] = []
    start = row = 0
    for end in range(1, len(groups) + 1):
        rows = sum(groups[start:end])
        if rows >= PIECE_ROWS or (end == len(groups) and rows):
            share = file.size * rows / max(1, sum(groups))
            found.append(Piece(file, f"{number:05}-{start:05}", (start, end), row, rows, share))
            start, row = end, row + rows
    return found


def columns(file: InputFile) -> pa.Schema:
    """Names and types of a file's columns; CSV is text.

    Raises:
        ProjectError: it can't be read.
    """
    with opened(file) as handle:
        if file.parquet:
            return pq.read_schema(handle)
        return pa.schema([(name, pa.string()) for name in csv_reader(file, handle).schema.names])  # decodes the names


def batches(piece: Piece) -> Iterator[Batch]:
    """The batches of a piece, in their order.

    Raises:
        ProjectError: the file can't be read, or is damaged.
    """
    with opened(piece.file) as handle:
        if piece.groups:
            rows = pq.ParquetFile(handle).iter_batches(BATCH_ROWS, row_groups=range(*piece.groups))
        else:
            rows = csv_reader(piece.file, handle)
        row, read = piece.first_row, 0.0
        for number, batch in enumerate(rows):
            done = piece.size * (row - piece.first_row + len(batch)) / piece.rows if piece.rows else handle.tell()
            yield Batch(f"{piece.label}-{number:05}", row, batch, done - read)
            row, read = row + len(batch), done


def batch_count(piece: Piece) -> int | None:
    """How many batches a piece has; None for CSV, which has to be read to know."""
    return None if piece.rows is None else -(-piece.rows // BATCH_ROWS)


def csv_reader(file: InputFile, handle: Any) -> Any:
    """A stream of batches with text columns; a missing value is an empty text."""
    text = gzip.GzipFile(fileobj=handle) if file.name.lower().endswith(".gz") else handle
    return pyarrow.csv.open_csv(
        text,
        pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
        pyarrow.csv.ParseOptions(newlines_in_values=True),
        pyarrow.csv.ConvertOptions(default_column_type=pa.string(), strings_can_be_null=False),
    )


@contextmanager
def opened(file: InputFile) -> Iterator[Any]:
    """The file's bytes; what its store and Arrow raise becomes a ProjectError."""
    try:
        with fsspec.open(file.url, "rb") as handle:
            yield handle
    except ProjectError:
        raise
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ProjectError(f"{file.name} can't be read, or is no table: {reason(error)}") from error
