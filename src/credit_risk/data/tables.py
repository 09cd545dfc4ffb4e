"""Reads a source file as tables of text, and says what is wrong with a file that is none."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from credit_risk.core.errors import ProjectError
from credit_risk.data.columns import nameless, respelt
from credit_risk.data.sources import Source, reason

BLOCK_BYTES = 8 << 20  # of text parsed at a time; no row can be longer
HEAD_BYTES = 64 << 10  # looked at before parsing
ROW_GROUP = 100_000
UTF8 = "save it as UTF-8 (in Excel: CSV UTF-8; in a shell: iconv -f {encoding} -t UTF-8 OLD > NEW)"
UTF16 = UTF8.format(encoding="UTF-16")
BEGINNINGS = {  # of files that are no CSV in UTF-8
    b"\x1f\x8b": "is compressed by gzip: name it .csv.gz",
    b"PK\x03\x04": "is a ZIP or Excel file, not a CSV: export the table as CSV",
    b"PAR1": "is a Parquet file: name it .parquet",
    b"\xff\xfe": f"is encoded as UTF-16: {UTF16}",
    b"\xfe\xff": f"is encoded as UTF-16: {UTF16}",
}
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def read_tables(source: Source, path: Path) -> Iterator[pa.Table]:
    """The file's rows as tables of text columns; an empty text stays empty, nothing is parsed or trimmed.

    Args:
        source: for messages.
        path: where its bytes are.

    Raises:
        ProjectError: the file is damaged or not a table, or a column has no text.
    """
    read = _parquet_tables if path.name.lower().endswith(".parquet") else _csv_tables
    rows = 0
    try:
        for table in read(source, path):
            yield table
            rows += table.num_rows
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ProjectError(f"source {source.name} {_problem(error, rows)}") from error


def check_columns(source: Source, names: list[str], first: Source, expected: list[str]) -> None:
    """Every source must have the columns of the first; their order may differ.

    Raises:
        ProjectError: names the columns that are not as expected.
    """
    if problem := nameless(names):
        raise ProjectError(f"source {source.name} {problem}")
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise ProjectError(f"source {source.name} has a column twice: {doubled}")
    spelt = respelt(names, expected)
    problems = [f"has column {other} instead of {name}" for name, other in spelt.items()]
    problems += [f"lacks column {name}" for name in sorted(set(expected) - set(names) - spelt.keys())]
    problems += [f"has the new column {name}" for name in sorted(set(names) - set(expected) - set(spelt.values()))]
    if problems:
        raise ProjectError(
            f"source {source.name} {' and '.join(problems)}, compared with {first.name}; "
            "fix the file, or update all sources and contract.py"
        )


def _parquet_tables(source: Source, path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        yield _as_text(source, file.schema_arrow.empty_table())
        for batch in file.iter_batches(ROW_GROUP):
            yield _as_text(source, pa.Table.from_batches([batch]))


def _csv_tables(source: Source, path: Path) -> Iterator[pa.Table]:
    with _open(path) as file:
        _check_head(source, file.read(HEAD_BYTES))
    with _open(path) as file:
        reader = pyarrow.csv.open_csv(
            file,
            pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
            pyarrow.csv.ParseOptions(newlines_in_values=True),
            pyarrow.csv.ConvertOptions(default_column_type=pa.string(), strings_can_be_null=False),
        )
        schema = pa.schema([(name, pa.string()) for name in reader.schema.names])  # decodes the names
        yield schema.empty_table()  # so that a file with only a header is checked too
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _check_head(source: Source, head: bytes) -> None:
    """What the CSV parser would misunderstand."""
    for beginning, problem in BEGINNINGS.items():
        if head.startswith(beginning):
            raise ProjectError(f"source {source.name} {problem}")
    if b"\0" in head:
        raise ProjectError(f"source {source.name} has NUL characters, as UTF-16 has: {UTF16}")
    text = head.decode("utf-8", errors="ignore").removeprefix("\ufeff")
    columns = {separator: len(_header(text, separator)) for separator in (",", *SEPARATORS)}
    for separator, name in SEPARATORS.items():
        if columns[","] <= 1 < columns[separator]:
            convert = f"csv.writer(sys.stdout).writerows(csv.reader(sys.stdin, delimiter={separator!r}))"
            raise ProjectError(
                f"source {source.name} is separated by {name}: save it with commas "
                f'(in a shell: python3 -c "import csv, sys; {convert}" < OLD > NEW)'
            )


def _header(text: str, separator: str) -> list[str]:
    """Names of the columns, if they were separated so."""
    try:
        return next(csv.reader(io.StringIO(text), delimiter=separator, strict=True), [])
    except csv.Error:  # no header with this separator
        return []


def _as_text(source: Source, table: pa.Table) -> pa.Table:
    """Every column cast to text; a missing value becomes empty text, as in a CSV."""
    texts = [_text(source, name, column) for name, column in zip(table.schema.names, table.columns, strict=True)]
    return pa.table(texts, names=table.schema.names)


def _text(source: Source, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    try:
        if pa.types.is_dictionary(kind):
            return _text(source, name, column.cast(kind.value_type))
        if pa.types.is_floating(kind):
            column = pc.if_else(pc.is_nan(column), None, column)
        return column.cast(pa.string()).fill_null("")
    except pa.ArrowException as error:
        raise ProjectError(
            f"source {source.name}: column '{name}' of type {kind} can't be written as text; convert or remove it"
        ) from error


def _problem(error: Exception, rows: int) -> str:
    """What is wrong with a file that the parser does not take; `rows` have been read."""
    text = reason(error)
    if "straddling" in text:
        return (
            f"has a row of more than {BLOCK_BYTES >> 20} MiB after row {rows:,}; is a quotation mark not closed there?"
        )
    if "invalid UTF8" in text or isinstance(error, UnicodeDecodeError):
        advice = UTF8.format(encoding="CP1252")
        return f"is damaged or not a table: it is not encoded as UTF-8 after row {rows:,}; {advice}"
    return f"is damaged or not a table: {text}"
