"""Moving the champion: promotion, rollback and their history, kept as tags on the versions.

MLflow's aliases have no compare-and-swap: whoever writes last wins, and is not told of the other. So promotions are
kept apart: on one machine by a file lock, between machines by whatever runs them (a concurrency group in CI lets one
job at a time promote). Should two meet all the same, it shows: the alias is read before the move, and a champion other
than the one that was compared stops it; it is read again afterwards, and a lost race is an error that stays in the
history.
"""

import getpass
import hashlib
import json
import os
import socket
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from credit_risk.core.errors import ProjectError
from credit_risk.registry.client import CHAMPION, PREVIOUS_CHAMPION, Registry, Version

LOCK_SECONDS = 60
_EVENT = "event."  # prefix of a tag: event.<time in UTC>

Kind = Literal["promoted", "refused", "rolled back", "lost"]


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """What happened to a version: `other` is the champion before a promotion or refusal, else after it."""

    time: str
    kind: Kind
    version: str
    other: str | None
    why: str
    actor: str = "unknown"


def promote(registry: Registry, version: str, instead_of: str | None, why: str) -> None:
    """Makes a version the champion, and the champion the previous one.

    Args:
        registry: where.
        version: the new champion.
        instead_of: the champion it was compared with, None if there was none.
        why: for the history.

    Raises:
        ProjectError: another version has become champion meanwhile, or took the alias during the move.
    """
    with _locked(registry):
        champion = _number(registry.version_of(CHAMPION))
        if champion == version:
            return
        if champion != instead_of:
            raise ProjectError(
                f"champion is now version {champion}, not {instead_of} that {version} was gated against; "
                "run the gates again"
            )
        if champion:
            registry.set_alias(PREVIOUS_CHAMPION, champion)
        _move(registry, version)
        record(registry, "promoted", version, champion, why)


def rollback(registry: Registry, why: str) -> tuple[str, str]:
    """Makes the previous champion the champion again; returns the versions it moved from and to.

    Raises:
        ProjectError: there is no champion or no previous one, or another promotion took the alias.
    """
    with _locked(registry):
        champion, previous = (_number(registry.version_of(alias)) for alias in (CHAMPION, PREVIOUS_CHAMPION))
        if champion is None or previous is None or champion == previous:
            raise ProjectError("there is no previous champion to go back to; see `uv run main.py history`")
        _move(registry, previous)
        registry.delete_alias(PREVIOUS_CHAMPION)
        record(registry, "rolled back", champion, previous, why)
    return champion, previous


def record(registry: Registry, kind: Kind, version: str, other: str | None, why: str) -> None:
    """Writes an event on a version."""
    time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    registry.tag(version, _EVENT + time, json.dumps({"kind": kind, "other": other, "why": why, "actor": actor()}))


def actor() -> str:
    """Who does it, for the history: the person who started the CI job, else user and machine."""
    if person := os.environ.get("GITHUB_ACTOR"):
        return f"{person} (CI)"
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def history(registry: Registry) -> list[Event]:
    """All promotions, refusals and rollbacks, oldest first."""
    return sorted(event for version in registry.versions() for event in events(version))


def events(version: Version) -> list[Event]:
    """What happened to one version, oldest first."""
    return sorted(
        Event(time=key.removeprefix(_EVENT), version=version.number, **json.loads(value))
        for key, value in version.tags.items()
        if key.startswith(_EVENT)
    )


def rolled_back(version: Version) -> Event | None:
    """The rollback that ended a version's time as champion, unless it has been promoted again since."""
    moves = [event for event in events(version) if event.kind in {"promoted", "rolled back"}]
    return moves[-1] if moves and moves[-1].kind == "rolled back" else None


def _move(registry: Registry, version: str) -> None:
    registry.set_alias(CHAMPION, version)
    now = _number(registry.version_of(CHAMPION))
    if now != version:
        lost = f"the alias went to version {now} while it was moved to {version}"
        record(registry, "lost", version, now, lost)
        raise ProjectError(f"{lost}; see who else promotes, with `uv run main.py history`")


def _number(version: Version | None) -> str | None:
    return version.number if version else None


def _locked(registry: Registry) -> FileLock:
    name = hashlib.sha256(registry.uri.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"credit-risk-promotion-{name}.lock"
    lock = FileLock(path, timeout=LOCK_SECONDS, mode=0o666)
    try:
        lock.acquire()
    except Timeout as error:
        raise ProjectError(f"another promotion has held {path} for {LOCK_SECONDS} s; try again later") from error
    return lock
