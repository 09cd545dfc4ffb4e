"""Registers and gates the current model: decides which of registration and gates still have to run."""

from collections.abc import Callable
from dataclasses import dataclass

from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json
from credit_risk.core.paths import data
from credit_risk.registry import lineage
from credit_risk.registry.client import CHALLENGER, CHAMPION, LINEAGE_KEY, Registry, Version
from credit_risk.registry.gate_results import last_rejection
from credit_risk.registry.promotion import finish_interrupted_move

REGISTER = "4.dvc_pipeline/7.register_model.py"
LOADING, PERFORMANCE = "5.testing/loading.py", "5.testing/performance.py"

RunScript = Callable[..., bool]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the challenger, and the champion afterwards (None if there is none that this code can use)."""

    challenger: Version
    passed: bool
    result: str
    champion: Version | None


def register_and_gate(registry: Registry, run_script: RunScript, *, promote: bool = True) -> Outcome:
    """Makes the current model the registry's challenger and gates it; skips what has been done already.

    Args:
        registry: where to register.
        run_script: runs a script, given its path and arguments; returns False if it is a gate that rejects the version.
        promote: whether a version that passes becomes the champion.

    Raises:
        ProjectError: a script has failed.
    """
    finish_interrupted_move(registry)
    key = read_json(data("7.registered", "model.json"))[LINEAGE_KEY]
    challenger = registry.version_of(CHALLENGER)
    if challenger is None or challenger.tags.get(LINEAGE_KEY) != key:
        # DVC does not track the registry: this may be another one, or DVC has restored an older model from its cache.
        run_script(REGISTER)
        challenger = registry.version_of(CHALLENGER)
    if challenger is None:
        raise ProjectError(f"{registry.display_name} has lost the challenger that was just registered; run again")
    return gate(registry, challenger, run_script, promote=promote)


def gate(registry: Registry, challenger: Version, run_script: RunScript, *, promote: bool = True) -> Outcome:
    """Gates the challenger unless that has been done; arguments as above."""
    passed, result = _gate(registry, challenger, run_script, promote)
    champion = registry.version_of(CHAMPION)
    usable = champion if champion and lineage.reject_reason(champion) is None else None
    return Outcome(challenger, passed, result, usable)


def _gate(registry: Registry, challenger: Version, run_script: RunScript, promote: bool) -> tuple[bool, str]:
    """Whether the challenger may serve, and a phrase for the summary."""
    champion = registry.version_of(CHAMPION)
    number = champion.number if champion else None
    if number == challenger.number:
        return True, "is already the champion"
    if champion and lineage.recalibrated_from(champion) == challenger.number:
        return True, f"is already the champion, recalibrated as version {champion.number}"
    if rejection := last_rejection(challenger, number, final=True):
        return False, f"was rejected before: {rejection}"
    options = [] if promote else ["--no-promote"]
    if run_script(LOADING) and run_script(PERFORMANCE, *options):
        return True, "passed all gates and " + ("was promoted" if promote else "can be promoted")
    return False, f"was rejected: {last_rejection(registry.version(challenger.number), number)}"
