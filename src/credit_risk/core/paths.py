"""Paths of the project. All of them resolve against the repository root."""

import os
from pathlib import Path


def root() -> Path:
    """The repository root: PROJECT_ROOT if set, else the checkout this package is installed from."""
    override = os.environ.get("PROJECT_ROOT")
    return Path(override).resolve() if override else Path(__file__).resolve().parents[3]


def data(*parts: str) -> Path:
    """A path below `1.data`."""
    return root().joinpath("1.data", *parts)


def relative(path: str | Path) -> str:
    """A path relative to the repository root, with forward slashes, as messages show it."""
    return Path(os.path.relpath(path, root())).as_posix()
