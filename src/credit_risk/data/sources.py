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
SHOWN_CHARACTERS = 300  # of an error's text, which may quote a whole row
# Names of content tags in remote stores, the most reliable first; HTTP servers and S3 differ.
TAGS = ("ETag", "Content-MD5", "Digest", "Last-Modified", "LastModified")


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
        return next((str(info[key]) for key in TAGS if info.get(key)), None)


def expand(patterns: list[str]) -> list[Source]:
    """The files that paths, globs and URLs match, each once, in the order in which they are read.

    The order is that of the patterns, and by name within a glob. A file that a pattern names without a glob has the
    place of that pattern: `[1.data/source/*, 1.data/source/corrections.csv]` puts the corrections last.

    Raises:
        ProjectError: a pattern matches nothing, a file's type is not supported, or a store does not answer.
    """
    matches = [_matches(pattern) for pattern in patterns]
    named = {sources[0].name for pattern, sources in zip(patterns, matches, strict=True) if not _is_glob(pattern)}
    found: dict[str, Source] = {}
    for pattern, sources in zip(patterns, matches, strict=True):
        for source in sources:
            if not source.name.lower().endswith(SUFFIXES):
                raise ProjectError(f"source {source.name} is not one of {', '.join(SUFFIXES)}; move it elsewhere")
            if source.name not in named or not _is_glob(pattern):
                found.setdefault(source.name, source)
    return list(found.values())


def changed(source: Source, known: dict[str, Any]) -> bool:
    """Whether a source may differ from its entry in the manifest; without a tag, it counts as changed."""
    if source.local:
        return bool(sha256(Path(source.path)) != known["sha256"])
    tag = source.tag()
    return tag is None or tag != known.get("tag")


def reason(error: BaseException) -> str:
    """The beginning of an error's text on one line, or the name of its type if it has none."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _matches(pattern: str) -> list[Source]:
    url = pattern if "://" in pattern else str(Path(glob.escape(str(root())), pattern))
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        if _is_glob(path):
            paths = sorted(p for p in filesystem.glob(path) if not _is_hidden(Path(p).name))
        else:
            paths = [path] if filesystem.exists(path) else []
    except Exception as error:  # each file system has its own exceptions
        raise ProjectError(f"source {public(pattern)} can't be reached: {reason(error)}") from error
    if not paths:
        raise ProjectError(f"source {public(pattern)} matches no file; check data.sources in params.yaml")
    return [Source(_name(filesystem, p), filesystem, p) for p in paths]


def _is_glob(pattern: str) -> bool:
    return any(character in pattern for character in "*?[")


def _is_hidden(name: str) -> bool:
    """Whether a glob leaves a file out: also DVC's own, which `dvc import-url` and `dvc add` write next to the data."""
    return name.startswith(".") or name.endswith(".dvc")


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
