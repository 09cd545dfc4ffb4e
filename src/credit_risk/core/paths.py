"""Paths of the project. All of them resolve against the repository root."""

import os
import re
from pathlib import Path
from urllib.parse import quote

from credit_risk.core.errors import ProjectError


def root() -> Path:
    """The repository root: PROJECT_ROOT if set, else the checkout this package is installed from.

    Raises:
        ProjectError: PROJECT_ROOT is not a folder.
    """
    override = os.environ.get("PROJECT_ROOT")
    if override and not Path(override).is_dir():
        raise ProjectError("environment: PROJECT_ROOT must be the project's folder; correct it, or unset it")
    return Path(override).resolve() if override else Path(__file__).resolve().parents[3]


def data(*parts: str) -> Path:
    """A path below `1.data`."""
    return root().joinpath("1.data", *parts)


def relative(path: str | Path) -> str:
    """A path relative to the repository root, with forward slashes, as messages show it."""
    return Path(os.path.relpath(path, root())).as_posix()


def sqlite_url(path: Path) -> str:
    """The database URL of a SQLite file: SQLAlchemy decodes %xx in it, and ends the path at a question mark."""
    return "sqlite:///" + re.sub(r"%(?=[0-9A-Fa-f]{2})|\?", lambda found: quote(found[0]), str(path))
