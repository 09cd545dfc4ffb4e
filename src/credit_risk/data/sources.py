"""The data's sources: paths, globs and URLs, opened through fsspec."""

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from credit_risk.core.errors import ProjectError
from credit_risk.core.files import sha256
from credit_risk.core.paths import relative, root

SUFFIXES = (".csv", ".csv.gz", ".parquet")
# Names of content tags in remote stores, the most reliable first; HTTP servers and S3 differ.
_TAGS = ("ETag", "Content-MD5", "Digest", "Last-Modified", "LastModified")


@dataclass(frozen=True, slots=True)
class Source:
    """One file: its name in manifests and messages, its file system, and its path or URL there."""

    name: str
    filesystem: Any
    path: str

    @property
    def local(self) -> bool:
        """Whether it is on this machine's disk."""
        return isinstance(self.filesystem, LocalFileSystem)

    def tag(self) -> str | None:
        """The store's tag of the content's version (an ETag or a date); None for local files, or if there is none.

        Raises:
            ProjectError: the store does not answer, or the file no longer exists.
        """
        if self.local:
            return None
        try:
            info = self.filesystem.info(self.path)
        except Exception as error:  # each file system has its own exceptions
            raise ProjectError(f"source {self.name} can't be reached: {reason(error)}") from error
        return next((str(info[key]) for key in _TAGS if info.get(key)), None)


def expand(patterns: list[str]) -> list[Source]:
    """The files that paths, globs and URLs match, sorted within each pattern, each once.

    Raises:
        ProjectError: a pattern matches nothing, a file's type is not supported, or a store does not answer.
    """
    found: dict[str, Source] = {}
    for pattern in patterns:
        for source in _matches(pattern):
            if not source.name.endswith(SUFFIXES):
                raise ProjectError(f"source {source.name} is not one of {', '.join(SUFFIXES)}; move it elsewhere")
            found.setdefault(source.name, source)
    return list(found.values())


def changed(source: Source, known: dict[str, Any]) -> bool:
    """Whether a source may differ from its entry in the manifest; without a tag, it counts as changed."""
    if source.local:
        return bool(sha256(Path(source.path)) != known["sha256"])
    tag = source.tag()
    return tag is None or tag != known.get("tag")


def reason(error: BaseException) -> str:
    """An error's text on one line, or the name of its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def _matches(pattern: str) -> list[Source]:
    url = pattern if "://" in pattern else str(Path(glob.escape(str(root())), pattern))
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        if any(character in path for character in "*?["):
            paths = sorted(p for p in filesystem.glob(path) if not Path(p).name.startswith("."))
        else:
            paths = [path] if filesystem.exists(path) else []
    except Exception as error:  # each file system has its own exceptions
        raise ProjectError(f"source {public(pattern)} can't be reached: {reason(error)}") from error
    if not paths:
        raise ProjectError(f"source {public(pattern)} matches no file; check data.sources in params.yaml")
    return [Source(_name(filesystem, p), filesystem, p) for p in paths]


def _name(filesystem: Any, path: str) -> str:
    if isinstance(filesystem, LocalFileSystem):
        return relative(Path(path))
    return public(filesystem.unstrip_protocol(path))


def public(url: str) -> str:
    """A URL without user, password and query, which may be secret."""
    parts = urlsplit(url)
    if not parts.scheme:
        return url
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
