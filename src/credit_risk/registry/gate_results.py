"""Results of the readiness gates: named checks, printed, and stored on the version.

A check that can't be made counts as failed.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from credit_risk.contract import CONTRACT
from credit_risk.core import params
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import sha256, write_json
from credit_risk.core.paths import data, root
from credit_risk.registry import lineage
from credit_risk.registry.client import CHALLENGER, Registry, Version
from credit_risk.registry.error_messages import error_text
from credit_risk.registry.promotion import rolled_back

EXIT_REJECTED = 3  # the gate worked and rejects the version; 1 is an error
SHADOW = "shadow_"  # prefix of the checks of what the log shows, which more rows may change
_TAG = "gate."  # prefix of the tags that hold the results: gate.loading, gate.performance

Measured = tuple[bool, str]  # whether the requirement is met, and what was measured


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was measured, what is required, and whether it has passed."""

    name: str
    passed: bool
    measured: str
    required: str


@dataclass(frozen=True, slots=True)
class GateResult:
    """The checks of one gate on one version; `against` is the version it was compared with, if any."""

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

    @property
    def summary(self) -> str:
        """One line: how many checks have passed, and which have failed."""
        passed = f"{len(self.checks) - len(self.failures)} of {len(self.checks)} checks passed"
        return f"{passed}; failed: {', '.join(self.failures)}" if self.failures else passed


def check(name: str, required: str, measure: Callable[[], Measured]) -> Check:
    """Makes one check; an exception fails it, and its text is what was measured."""
    try:
        passed, measured = measure()
    except Exception as error:  # noqa: BLE001 (a damaged model may raise anything)
        passed, measured = False, error_text(error)
    return Check(name, bool(passed), measured, required)


def gate_key(champion: str | None) -> str:
    """Hash of all that a gate's result depends on besides the version.

    Parameters, the code of gates and package, the held-out rows, the baseline of stage 6, and the champion's number.
    """
    held_out = [data("4.split", "rows", f"{name}.parquet") for name in CONTRACT.holdouts]
    files = [*sorted((root() / "5.testing").glob("*.py")), *sorted(lineage.PACKAGE.rglob("*.py"))]
    files += [path for path in (*held_out, data("6.reports", "metrics.json")) if path.exists()]
    content = json.dumps([params.raw("gates"), [sha256(path) for path in files], champion], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def publish(registry: Registry, result: GateResult) -> None:
    """Prints a result as a table, and writes it to 5.testing/reports and on the version."""
    content = asdict(result) | {"passed": result.passed}
    write_json(root() / "5.testing" / "reports" / f"{result.gate}.json", content)
    registry.tag(result.version, _TAG + result.gate, json.dumps(content))
    Console().print(as_table(content))


def as_table(result: dict[str, Any]) -> Table:
    """A stored gate result as a table for the terminal."""
    against = f" against version {result['against']}" if result["against"] else ""
    table = Table(title=f"{result['gate']} gate, version {result['version']}{against}", title_justify="left")
    for column in ("check", "measured", "required", "passed"):
        table.add_column(column, overflow="fold")
    for one in result["checks"]:
        passed = "yes" if one["passed"] else "[bold red]no[/]"
        table.add_row(one["name"], escape(one["measured"]), escape(one["required"]), passed)
    return table


def read_gate_result(version: Version, gate: str) -> dict[str, Any] | None:
    """The last result of a gate on a version, as `publish` stored it."""
    text = version.tags.get(_TAG + gate)
    return json.loads(text) if text else None


def last_rejection(version: Version, champion: str | None, *, final: bool = False) -> str | None:
    """Why a version was rejected by the current gates against this champion, or rolled back; None if it wasn't.

    Args:
        version: as it is now.
        champion: its number.
        final: leave out what more rows in the prediction log may change.
    """
    if event := rolled_back(version):
        return f"rolled back on {event.time[:10]} ({event.reason})"
    for gate in ("performance", "loading"):
        result = read_gate_result(version, gate)
        if result and not result["passed"] and result["key"] == gate_key(champion):
            failed = [one for one in result["checks"] if not one["passed"]]
            if final and failed and all(one["name"].startswith(SHADOW) for one in failed):
                continue
            reasons = [f"{one['name']} ({one['measured']}, required {one['required']})" for one in failed]
            return f"{gate} gate: {'; '.join(reasons)}"
    return None


def version_to_gate(registry: Registry, number: str | None) -> Version:
    """The version with this number, or the challenger.

    Raises:
        ProjectError: there is none.
    """
    if number:
        return registry.version(number)
    version = registry.version_of(CHALLENGER)
    if version is None:
        raise ProjectError("there is no challenger; run the pipeline first: `uv run main.py`")
    return version
