"""A folder on local disk or in an object store, through fsspec; each file appears complete or not at all."""

import json
import secrets
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from credit_risk.core.errors import ProjectError
from credit_risk.data.sources import public, reason

_TEMPORARY = ".store-"


class Store:
    """The folder, by path or URL.

    Every method raises ProjectError, with one sentence, when the store fails.
    """

    def __init__(self, address: str) -> None:
        """Takes the address; nothing is created before the first file."""
        self.address = address if "://" in address else str(Path(address).resolve())
        self.name = public(address)
        self._filesystem, self._folder = self._attempt(fsspec.core.url_to_fs, self.address)
        self._local = isinstance(self._filesystem, LocalFileSystem)

    def names(self, folder: str = "") -> set[str]:
        """Names of the files directly in it, or in a folder of it."""
        path = f"{self._folder}/{folder}".rstrip("/")
        self._filesystem.invalidate_cache()
        if not self._attempt(self._filesystem.exists, path):
            return set()
        found = self._attempt(self._filesystem.ls, path, detail=False)
        return {name for each in found if not (name := Path(each).name).startswith(_TEMPORARY)}

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        content: bytes = self._attempt(self._filesystem.cat_file, f"{self._folder}/{name}")
        return content

    def remove(self, name: str) -> None:
        """Deletes a file; it may be gone already."""
        try:
            self._filesystem.rm_file(f"{self._folder}/{name}")
        except FileNotFoundError:
            pass
        except Exception as error:  # each file system has its own exceptions
            raise self._failure(error) from error

    def write(self, name: str, content: bytes) -> None:
        """Writes a file under a temporary name and renames it; object stores show only complete objects anyway."""
        path = f"{self._folder}/{name}"
        if not self._local:
            self._attempt(self._filesystem.pipe_file, path, content)
            return
        temporary = Path(path).with_name(f"{_TEMPORARY}{secrets.token_hex(8)}")
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(content)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise self._failure(error) from error

    def write_table(self, name: str, table: pa.Table) -> None:
        """Writes a Parquet file."""
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        self.write(name, buffer.getvalue().to_pybytes())

    def read_table(self, name: str, columns: list[str] | None = None, schema: pa.Schema | None = None) -> pa.Table:
        """The rows of a Parquet file: all columns or some, those of a schema if one is given (null if it has none)."""
        return self._attempt(pq.read_table, pa.BufferReader(self.read(name)), columns=columns, schema=schema)

    def write_json(self, name: str, content: Any) -> None:
        """Writes a JSON file."""
        self.write(name, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())

    def rows(self, name: str) -> int:
        """The number of rows of a Parquet file."""
        with self._attempt(self._filesystem.open, f"{self._folder}/{name}", "rb") as file:
            return int(self._attempt(pq.read_metadata, file).num_rows)

    def remove_temporary(self) -> None:
        """Removes what a killed job has left half-written."""
        if self._local:
            for path in Path(self._folder).rglob(f"{_TEMPORARY}*"):
                path.unlink(missing_ok=True)

    def _attempt(self, function: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Exception as error:  # each file system has its own exceptions
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> ProjectError:
        return ProjectError(f"{self.name} can't be read or written: {reason(error)}; run the same command again")
