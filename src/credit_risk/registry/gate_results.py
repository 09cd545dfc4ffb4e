"""What the readiness gates share: named checks, and the verdict on a version.

Fail closed: a check that can't be made counts as failed.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from credit_risk.core import params
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import sha256, write_json
from credit_risk.core.paths import root
from credit_risk.registry.client import CHALLENGER, Registry, Version
from credit_risk.registry.promotion import rolled_back

EXIT_REJECTED = 3  # the gates worked, and the model may not serve; 1 is an error
VERDICT = "gate."  # prefix of the tags that hold the verdicts: gate.loading, gate.performance


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was measured, what is required, and whether it is."""

    name: str
    passed: bool
    measured: str
    required: str


@dataclass(frozen=True, slots=True)
class GateResult:
    """All checks of one gate on one version, compared with version `against`."""

    gate: str
    version: str
    against: str | None
    key: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check has passed; a gate without checks has not."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    @property
    def failures(self) -> list[str]:
        """Names of the failed checks."""
        return [check.name for check in self.checks if not check.passed]


Measured = tuple[bool, str]  # whether it is as required, and what was measured


def check(name: str, required: str, measure: Callable[[], Measured]) -> Check:
    """Makes one check; an error in it is a failure that says what went wrong."""
    try:
        passed, measured = measure()
    except Exception as error:  # noqa: BLE001 (fail closed, whatever a damaged model raises)
        passed, measured = False, " ".join(str(error).split())[:300] or type(error).__name__
    return Check(name, bool(passed), measured, required)


def gate_key(against: str | None) -> str:
    """Names what a verdict depends on beside the version: the gates' parameters, their code, and the champion."""
    section = params.read(params.path()).get("gates")
    scripts = [sha256(path) for path in sorted((root() / "5.testing").glob("*.py"))]
    return hashlib.sha256(json.dumps([section, scripts, against], sort_keys=True).encode()).hexdigest()


def publish(registry: Registry, verdict: GateResult) -> None:
    """Prints the verdict as a table, and writes it to 5.testing/reports and on the version."""
    content = asdict(verdict) | {"passed": verdict.passed}
    write_json(root() / "5.testing" / "reports" / f"{verdict.gate}.json", content)
    registry.tag(verdict.version, VERDICT + verdict.gate, json.dumps(content))
    table = Table(title=f"{verdict.gate} gate, version {verdict.version}", title_justify="left")
    for column in ("check", "measured", "required", ""):
        table.add_column(column, overflow="fold")
    for done in verdict.checks:
        table.add_row(
            done.name, escape(done.measured), escape(done.required), "passed" if done.passed else "[bold red]FAILED[/]"
        )
    Console().print(table)
    passed = sum(done.passed for done in verdict.checks)
    print(f"{passed} of {len(verdict.checks)} checks passed")


def read_gate_result(version: Version, gate: str) -> dict[str, Any] | None:
    """The last verdict of a gate on a version, as `publish` wrote it."""
    text = version.tags.get(VERDICT + gate)
    return json.loads(text) if text else None


def last_rejection(version: Version, champion: str | None) -> str | None:
    """Why the gates as they are now have refused a version against this champion already; None if they have not."""
    if event := rolled_back(version):
        return f"rolled back on {event.time[:10]} ({event.why})"
    for gate in ("performance", "loading"):
        verdict = read_gate_result(version, gate)
        if verdict and not verdict["passed"] and verdict["key"] == gate_key(champion):
            failed = [
                f"{c['name']} ({c['measured']}, required {c['required']})" for c in verdict["checks"] if not c["passed"]
            ]
            return f"{gate} gate: {'; '.join(failed)}"
    return None


def version_to_gate(registry: Registry, number: str | None) -> Version:
    """The version asked for, or the challenger.

    Raises:
        ProjectError: there is none.
    """
    if number:
        return registry.version(number)
    version = registry.version_of(CHALLENGER)
    if version is None:
        raise ProjectError("there is no challenger; run the pipeline first: `uv run main.py`")
    return version
