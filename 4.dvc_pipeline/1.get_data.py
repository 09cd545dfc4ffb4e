"""Stage 1: copies the sources, unchanged and as text, into one Parquet file.

Reads:  the sources named by `data.sources`: paths, globs or URLs of CSV, CSV.gz or Parquet files
Writes: 1.data/1.raw/rows.parquet   every row of every source, every column as text
        1.data/1.raw/manifest.json   sha256, rows and bytes of each source, and the tag (ETag or date) of a remote one
Params: data
"""

from credit_risk.core.entry_point import run

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic import Field

from credit_risk.core import params
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing, sha256, write_json
from credit_risk.core.paths import data
from credit_risk.data.sources import Source, expand, reason

BLOCK_BYTES = 8 << 20  # of text parsed at a time
ROW_GROUP = 100_000


class DataParams(params.Params):
    """Section `data` of params.yaml."""

    sources: list[str] = Field(min_length=1)


def main() -> None:
    """Runs the stage."""
    sources = expand(params.load("data", DataParams).sources)
    manifest: list[dict[str, Any]] = []
    with replacing(data("1.raw", "rows.parquet")) as temporary, tempfile.TemporaryDirectory() as folder:
        writer: pq.ParquetWriter | None = None
        try:
            for source in sources:
                path, tag = local_copy(source, Path(folder))
                rows = 0
                for table in tables(source, path):
                    writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
                    check_columns(source, table.schema.names, sources[0], writer.schema.names)
                    writer.write_table(table.select(writer.schema.names), row_group_size=ROW_GROUP)
                    rows += table.num_rows
                entry = {"source": source.name, "rows": rows, "bytes": path.stat().st_size, "sha256": sha256(path)}
                manifest.append(entry | ({"tag": tag} if tag else {}))
        finally:
            if writer:
                writer.close()
        if not any(entry["rows"] for entry in manifest):
            raise ProjectError("the sources hold no rows; check data.sources in params.yaml")
    write_json(data("1.raw", "manifest.json"), manifest)
    print(f"{sum(entry['rows'] for entry in manifest):,} rows from {len(manifest)} sources")


def local_copy(source: Source, folder: Path) -> tuple[Path, str | None]:
    """A local path with the source's bytes, and its tag; a remote one is downloaded into `folder`."""
    if source.local:
        return Path(source.path), None
    tag = source.tag()
    path = folder / Path(source.name).name
    try:
        source.filesystem.get_file(source.path, str(path))
    except Exception as error:  # each file system has its own exceptions
        raise ProjectError(f"source {source.name} can't be read: {reason(error)}") from error
    return path, tag


def tables(source: Source, path: Path) -> Iterator[pa.Table]:
    """The file's rows as tables of text columns; an empty text stays empty, nothing is parsed or trimmed."""
    try:
        if path.name.endswith(".parquet"):
            with pq.ParquetFile(path) as file:
                yield as_text(file.schema_arrow.empty_table())
                for batch in file.iter_batches(ROW_GROUP):
                    yield as_text(pa.Table.from_batches([batch]))
        else:
            with fsspec.open(str(path), "rb", compression="infer") as text:
                reader = pyarrow.csv.open_csv(
                    text,
                    pyarrow.csv.ReadOptions(block_size=BLOCK_BYTES),
                    pyarrow.csv.ParseOptions(newlines_in_values=True),
                    pyarrow.csv.ConvertOptions(default_column_type=pa.string(), strings_can_be_null=False),
                )
                yield reader.schema.empty_table()  # so that a file with only a header is checked too
                for batch in reader:
                    yield pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, OSError, EOFError) as error:
        raise ProjectError(f"source {source.name} is damaged or not a table: {reason(error)}") from error


def as_text(table: pa.Table) -> pa.Table:
    """Every column cast to text; a missing value becomes empty text, as in a CSV."""
    columns = [column.cast(pa.string()).fill_null("") for column in table.columns]
    return pa.table(columns, names=table.schema.names)


def check_columns(source: Source, names: list[str], first: Source, expected: list[str]) -> None:
    """Every source must have the columns of the first; their order may differ."""
    if len(set(names)) < len(names):
        raise ProjectError(f"source {source.name} has a column twice: {', '.join(names)}")
    missing, new = sorted(set(expected) - set(names)), sorted(set(names) - set(expected))
    if missing or new:
        problems = [f"lacks column {name}" for name in missing] + [f"has the new column {name}" for name in new]
        raise ProjectError(
            f"source {source.name} {' and '.join(problems)}, compared with {first.name}; "
            "fix the file, or update all sources and contract.py"
        )


if __name__ == "__main__":
    run("stage 1", main)
