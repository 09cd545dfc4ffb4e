"""Moves the champion: promotion, rollback and their history, which is stored in tags of the versions.

MLflow's aliases have no compare-and-swap: the last writer wins. On one machine a file lock serialises promotions;
between machines the job runner has to (in CI, a concurrency group). As a safeguard the alias is read before the move,
and a champion other than the compared one stops the promotion; it is read again after the move, and a conflict is an
error that is recorded in the history.
"""

import getpass
import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.registry import lineage
from credit_risk.registry.client import CHAMPION, PREVIOUS_CHAMPION, Registry, Version

LOCK_SECONDS = 60
_EVENT = "event."  # prefix of a tag: event.<time in UTC>

Kind = Literal["promoted", "rejected", "rolled back", "conflict"]


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """What happened to a version; `champion` is the number of the champion after the event, None without one."""

    time: str
    kind: Kind
    version: str
    champion: str | None
    reason: str
    actor: str


def promote(registry: Registry, version: str, compared_with: str | None, reason: str) -> None:
    """Makes a version the champion, and the champion the previous champion.

    Args:
        registry: where the versions are registered.
        version: number of the new champion.
        compared_with: number of the champion when the version was gated, None if there was none.
        reason: for the history.

    Raises:
        ProjectError: the champion has changed since, or another process moved the alias at the same time.
    """
    with _promotion_lock(registry):
        champion = _number(registry.version_of(CHAMPION))
        if champion == version:
            return
        if champion != compared_with:
            raise ProjectError(
                f"the champion is now version {champion}, and version {version} was gated against {compared_with}; "
                "run the gates again"
            )
        if champion:
            registry.set_alias(PREVIOUS_CHAMPION, champion)
        _move(registry, version, Event(_now(), "promoted", version, version, reason, actor()))


def rollback(registry: Registry, reason: str) -> tuple[str, str]:
    """Makes the previous champion the champion again; returns the old and the new champion's numbers.

    Raises:
        ProjectError: there is no previous champion, this code can't use it, or another process moved the alias.
    """
    with _promotion_lock(registry):
        champion, target = (registry.version_of(alias) for alias in (CHAMPION, PREVIOUS_CHAMPION))
        if champion is None or target is None or champion.number == target.number:
            raise ProjectError("there is no previous champion to roll back to; see `uv run main.py history`")
        if unusable := lineage.reject_reason(target):
            raise ProjectError(f"can't roll back: {unusable}")
        event = Event(_now(), "rolled back", champion.number, target.number, reason, actor())
        _move(registry, target.number, event)
        registry.delete_alias(PREVIOUS_CHAMPION)
    return champion.number, target.number


def record_rejection(registry: Registry, version: str, champion: str | None, reason: str) -> None:
    """Records in the history that a gate has rejected a version."""
    _record(registry, Event(_now(), "rejected", version, champion, reason, actor()))


def actor() -> str:
    """The person who started the CI job, else user and machine."""
    if person := os.environ.get("GITHUB_ACTOR"):
        return f"{person} (CI)"
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def history(registry: Registry) -> list[Event]:
    """All promotions, rejections and rollbacks, oldest first."""
    return sorted(event for version in registry.versions() for event in events(version))


def events(version: Version) -> list[Event]:
    """The events of one version, oldest first; those of an older layout are left out, as are its versions."""
    found = {key.removeprefix(_EVENT): json.loads(text) for key, text in version.tags.items() if key.startswith(_EVENT)}
    return sorted(
        Event(time=time, version=version.number, **content) for time, content in found.items() if "reason" in content
    )


def rolled_back(version: Version) -> Event | None:
    """The rollback that replaced a version as champion, unless the version has been promoted again since."""
    moves = [event for event in events(version) if event.kind in {"promoted", "rolled back"}]
    return moves[-1] if moves and moves[-1].kind == "rolled back" else None


def _move(registry: Registry, version: str, event: Event) -> None:
    _record(registry, event)  # first: an interrupted move can be repeated, an unrecorded one is lost
    registry.set_alias(CHAMPION, version)
    champion = _number(registry.version_of(CHAMPION))
    if champion != version:
        conflict = f"another process moved the alias to version {champion} while it was moved to {version}"
        _record(registry, Event(_now(), "conflict", version, champion, conflict, event.actor))
        raise ProjectError(f"{conflict}; see `uv run main.py history`")


def _record(registry: Registry, event: Event) -> None:
    content = {name: getattr(event, name) for name in ("kind", "champion", "reason", "actor")}
    registry.tag(event.version, _EVENT + event.time, json.dumps(content))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _number(version: Version | None) -> str | None:
    return version.number if version else None


@contextmanager
def _promotion_lock(registry: Registry) -> Iterator[None]:
    name = hashlib.sha256(registry.uri.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"{CONTRACT.problem.name}-promotion-{name}.lock"
    lock = FileLock(path, timeout=LOCK_SECONDS, mode=0o666)  # shared by the users of this machine
    try:
        lock.acquire()
    except Timeout as error:
        raise ProjectError(f"another promotion has held {path} for {LOCK_SECONDS} s; try again later") from error
    try:
        yield
    finally:
        lock.release()
