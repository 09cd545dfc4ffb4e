"""Where the rooms are. Every path of the project resolves against the repository root."""

import os
from pathlib import Path


def root() -> Path:
    """The repository root: PROJECT_ROOT if set, else the checkout this package is installed from."""
    override = os.environ.get("PROJECT_ROOT")
    return Path(override).resolve() if override else Path(__file__).resolve().parents[3]


def data(*parts: str) -> Path:
    """A path below `1.data`."""
    return root().joinpath("1.data", *parts)


def relative(path: Path) -> str:
    """The path as people write it: from the repository root, with forward slashes."""
    return Path(os.path.relpath(path, root())).as_posix()
