"""Stage 1: copies the sources, unchanged and as text, into one Parquet file.

Reads:  the sources named by `data.sources`: paths, globs or URLs of CSV, CSV.gz or Parquet files
Writes: 1.data/1.raw/rows.parquet    every row of every source in their order, every column as text
        1.data/1.raw/manifest.json   sha256, rows and bytes of each source, and the tag (ETag or date) of a remote one
Params: data
"""

from credit_risk.core.entry_point import run

import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import Field

from credit_risk.core import params
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing, sha256, write_json
from credit_risk.core.paths import data
from credit_risk.data.sources import Source, expand, reason
from credit_risk.data.tables import ROW_GROUP, check_columns, read_tables


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
                for table in read_tables(source, path):
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


if __name__ == "__main__":
    run("stage 1", main)
