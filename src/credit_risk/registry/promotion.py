"""Moves the champion: promotion, rollback and their history, which is stored in tags of the versions.

MLflow's aliases have no compare-and-swap: the last writer wins. On one machine a file lock serialises promotions;
between machines the job runner has to (in CI, a concurrency group). As a safeguard the alias is read before the move,
and a champion other than the compared one stops the promotion; it is read again after the move, and a conflict is an
error that is recorded in the history.

A move changes several aliases and tags. It is written down before the first change, in a tag of the model, and deleted
after the last, so that a move that a crash has interrupted is finished by the next command that moves or gates.
"""

import getpass
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root
from credit_risk.registry import lineage
from credit_risk.registry.client import CHAMPION, PREVIOUS_CHAMPION, Registry, Version
from credit_risk.registry.embedded_store import database_path

LOCK_SECONDS = 60
_EVENT = "event."  # prefix of a tag: event.<time in UTC>
_MOVE = "move"  # tag of the model while a move is being made

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


@dataclass(frozen=True, slots=True)
class _Move:
    """A move of the champion: the event to record, and the numbers of the champion before and of the previous one."""

    event: Event
    before: str | None
    previous: str | None


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
        _finish(registry)
        champion = _number(registry.version_of(CHAMPION))
        if champion == version:
            return
        if champion != compared_with:
            raise ProjectError(
                f"the champion is now version {champion}, and version {version} was gated against {compared_with}; "
                "run the gates again"
            )
        event = Event(_now(), "promoted", version, version, reason, actor())
        _begin(registry, _Move(event, champion, champion or _number(registry.version_of(PREVIOUS_CHAMPION))))
        _finish(registry)


def rollback(registry: Registry, reason: str) -> tuple[str, str]:
    """Makes the previous champion the champion again; returns the old and the new champion's numbers.

    Raises:
        ProjectError: there is no previous champion, this code can't use it, or another process moved the alias.
    """
    with _promotion_lock(registry):
        finished = _finish(registry)
        if finished and finished.champion and finished.kind == "rolled back":
            return finished.version, finished.champion
        champion, target = (registry.version_of(alias) for alias in (CHAMPION, PREVIOUS_CHAMPION))
        if champion is None or target is None or champion.number == target.number:
            raise ProjectError("there is no previous champion to roll back to; see `uv run main.py history`")
        if unusable := lineage.reject_reason(target):
            raise ProjectError(f"can't roll back: {unusable}")
        event = Event(_now(), "rolled back", champion.number, target.number, reason, actor())
        _begin(registry, _Move(event, champion.number, None))
        _finish(registry)
    return champion.number, target.number


def finish_interrupted_move(registry: Registry) -> None:
    """Finishes a promotion or rollback that a crash has interrupted.

    Raises:
        ProjectError: another process has moved the champion since.
    """
    if registry.model_tag(_MOVE):
        with _promotion_lock(registry):
            _finish(registry)


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


def _begin(registry: Registry, move: _Move) -> None:
    registry.set_model_tag(_MOVE, json.dumps(asdict(move)))


def _finish(registry: Registry) -> Event | None:
    """Makes the move that has begun, if there is one; each step can be repeated. Returns what is recorded of it."""
    text = registry.model_tag(_MOVE)
    if not text:
        return None
    content = json.loads(text)
    event, before, previous = Event(**content["event"]), content["before"], content["previous"]
    champion = _number(registry.version_of(CHAMPION))
    if champion in {before, event.champion}:
        if previous:
            registry.set_alias(PREVIOUS_CHAMPION, previous)
        elif registry.version_of(PREVIOUS_CHAMPION):
            registry.delete_alias(PREVIOUS_CHAMPION)
        registry.set_alias(CHAMPION, str(event.champion))
        champion = _number(registry.version_of(CHAMPION))
    if champion != event.champion:
        text = f"another process moved the alias to version {champion} while it was moved to {event.champion}"
        event = Event(event.time, "conflict", event.version, champion, text, event.actor)
    _record(registry, event)
    registry.delete_model_tag(_MOVE)
    if event.kind == "conflict":
        raise ProjectError(f"{event.reason}; see `uv run main.py history`")
    return event


def _record(registry: Registry, event: Event) -> None:
    content = {name: getattr(event, name) for name in ("kind", "champion", "reason", "actor")}
    registry.tag(event.version, _EVENT + event.time, json.dumps(content))


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _number(version: Version | None) -> str | None:
    return version.number if version else None


@contextmanager
def _promotion_lock(registry: Registry) -> Iterator[None]:
    path = _lock_path(registry)
    lock = FileLock(path, timeout=LOCK_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise ProjectError(f"another promotion has held {path} for {LOCK_SECONDS} s; try again later") from error
    try:
        yield
    finally:
        lock.release()


def _lock_path(registry: Registry) -> Path:
    """One file for each registry, however its address is written, in a folder that is this user's alone."""
    if registry.embedded:
        database = database_path(registry.uri).resolve()
        return database.with_name(f"{database.name}.lock")
    name = hashlib.sha256(registry.address.rstrip("/").lower().encode()).hexdigest()[:16]
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / CONTRACT.problem.name
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # a user without a home, as in some containers
        folder = root() / "3.experiments"
    return folder / f"promotion-{name}.lock"
