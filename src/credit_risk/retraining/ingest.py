"""Adds files to the sources: each is checked as a whole before it is copied under its final name."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from credit_risk.core import params
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing, sha256
from credit_risk.core.paths import data, relative
from credit_risk.data.sources import SUFFIXES, Source, expand
from credit_risk.data.tables import check_columns, read_tables


def add_files(files: Sequence[Path]) -> list[str]:
    """Copies files into 1.data/source; returns the names of those that were not there yet.

    All are checked before the first is copied; a run that was killed in between is repeated.

    Raises:
        ProjectError: a file is missing, is no table or has other columns than the sources, its name is taken by another
            file, or stage 1 would not read it there.
    """
    for file in files:
        if not file.is_file():
            raise ProjectError(f"{file} is no file; give a local path, or add a URL to data.sources in params.yaml")
        if not file.name.lower().endswith(SUFFIXES):
            raise ProjectError(f"{file} is not one of {', '.join(SUFFIXES)}")
    names = [file.name for file in files]
    if doubled := next((name for name in names if names.count(name) > 1), None):
        raise ProjectError(f"two files are named {doubled}; rename one")
    new = [file for file in files if not _is_there(file)]
    for file in new:
        _check_table(file)
    for file in new:
        with replacing(_target(file)) as temporary:
            shutil.copyfile(file, temporary)
    sources = {source.name for source in _sources()}
    for file in files:
        if (name := relative(_target(file))) not in sources:
            raise ProjectError(f"{name} is not read; add 1.data/source/* to data.sources in params.yaml, and run again")
    return [relative(_target(file)) for file in new]


def _target(file: Path) -> Path:
    return data("source", file.name)


def _is_there(file: Path) -> bool:
    """Whether the file has been copied already.

    Raises:
        ProjectError: another file has its name.
    """
    target = _target(file)
    if not target.exists():
        return False
    if sha256(target) != sha256(file):
        raise ProjectError(f"{relative(target)} is another file of that name; rename {file}")
    return True


def _check_table(file: Path) -> None:
    """The whole file can be read, and has the columns of the first source."""
    first = next((source for source in _sources() if source.local), None)
    given = Source(str(file), LocalFileSystem(), str(file))
    names: list[str] = []
    for table in read_tables(given, file):
        names = table.schema.names
    if first:
        check_columns(given, names, first, next(read_tables(first, Path(first.path))).schema.names)


def _sources() -> list[Source]:
    patterns: Any = params.raw("data").get("sources", [])
    return expand(patterns)
