"""Tells, as Markdown, what a retraining has changed: parameters, metrics, and what the gates say of the new version.

Reads:  parameters and metrics of the last commit and of now; from the registry, the gates' verdicts on the challenger
Writes: the text on standard output; with --output, `version=` and `passed=` for the steps that follow

Usage: uv run 7.deploy/retrain_summary.py [--output FILE] [--since HEAD]
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from credit_risk.core.entry_point import run
from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root
from credit_risk.registry.client import CHALLENGER, CHAMPION, Registry, Version
from credit_risk.registry.gate_results import read_gate_result

GATES = ("loading", "performance")


def main() -> None:
    """Prints the text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--since", default="HEAD", help="commit to compare with (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file of the workflow for version and passed")
    arguments = parser.parse_args()
    registry = Registry()
    version = registry.version_of(CHALLENGER)
    if version is None:
        raise ProjectError("there is no challenger; run `uv run main.py` first")
    verdicts = [verdict(version, gate) for gate in GATES]
    passed = all(one["passed"] for one in verdicts)
    new = CHAMPION not in version.aliases
    title = ("passed the gates" if passed else "was refused by the gates") if new else "is the champion already"
    against = f"version {verdicts[-1]['against']}" if verdicts[-1]["against"] else "no champion"
    print(f"# Version {version.number} {title}\n\nIt was compared with {against}.\n")
    for one in verdicts:
        print(as_table(one))
    for title, what in (("Metrics", "metrics"), ("Parameters", "params")):
        print(f"## {title} since {arguments.since}\n\n{difference(what, arguments.since) or 'The same.'}\n")
    if arguments.output:
        with arguments.output.open("a", encoding="utf-8") as file:
            file.write(f"version={version.number}\npassed={str(new and passed).lower()}\n")


def verdict(version: Version, gate: str) -> Any:
    """What a gate has found on a version.

    Raises:
        ProjectError: it has not seen it.
    """
    found = read_gate_result(version, gate)
    if found is None:
        raise ProjectError(f"the {gate} gate has not seen version {version.number}; run `uv run main.py` first")
    return found


def as_table(found: Any) -> str:
    """The checks of a gate."""
    rows = [
        f"| {one['name']} | {one['measured']} | {one['required']} | {'yes' if one['passed'] else '**no**'} |"
        for one in found["checks"]
    ]
    head = f"## The {found['gate']} gate\n\n| check | measured | required | passed |\n|---|---|---|---|"
    return "\n".join([head, *rows, ""])


def difference(what: str, since: str) -> str:
    """What DVC says has changed, as a table; empty if nothing has.

    Raises:
        ProjectError: DVC can't tell; with its sentence.
    """
    command = [sys.executable, "-m", "dvc", what, "diff", "--md", since]
    done = subprocess.run(command, cwd=root(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProjectError(f"dvc {what} diff: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    rows = done.stdout.strip().splitlines()
    return "\n".join(rows) if len(rows) > 2 else ""  # noqa: PLR2004 (a head and a line below it)


if __name__ == "__main__":
    run("tell_changes", main)
