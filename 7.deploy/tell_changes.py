"""Tells, as Markdown, what a retraining has changed: parameters, metrics, and what the gates say of the new version.

Reads:  dvc.lock and the metrics of the last commit and of now; 5.testing/reports/*.json, the verdicts of the gates
Writes: the text on standard output; with --output, `version=` and `passed=` for the steps that follow

Usage: uv run 7.deploy/tell_changes.py [--output FILE] [--since HEAD]
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from credit_risk.errors import CreditRiskError
from credit_risk.files import read_json
from credit_risk.paths import root
from credit_risk.script import run

GATES = ("loading", "performance")


def main() -> None:
    """Prints the text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--since", default="HEAD", help="commit to compare with (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="file of the workflow for version and passed")
    arguments = parser.parse_args()
    verdicts = [verdict(gate) for gate in GATES]
    latest = verdicts[-1]
    passed = all(one["passed"] and one["version"] == latest["version"] for one in verdicts)
    print(f"# Version {latest['version']} {'passed' if passed else 'was refused by'} the gates\n")
    against = f"version {latest['against']}" if latest["against"] else "no champion"
    print(f"Compared with {against}. Data, code and parameters are in its lineage.\n")
    for one in verdicts:
        print(as_table(one))
    for title, what in (("Metrics", "metrics"), ("Parameters", "params")):
        print(f"## {title} since {arguments.since}\n\n{difference(what, arguments.since) or 'The same.'}\n")
    if arguments.output:
        with arguments.output.open("a", encoding="utf-8") as file:
            file.write(f"version={latest['version']}\npassed={str(passed).lower()}\n")


def verdict(gate: str) -> Any:
    """What a gate has found last.

    Raises:
        CreditRiskError: it has not run here.
    """
    path = root() / "5.testing" / "reports" / f"{gate}.json"
    if not path.exists():
        raise CreditRiskError(f"the {gate} gate has not run here; run `uv run main.py` first")
    return read_json(path)


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
        CreditRiskError: DVC can't tell; with its sentence.
    """
    command = [sys.executable, "-m", "dvc", what, "diff", "--md", since]
    done = subprocess.run(command, cwd=root(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise CreditRiskError(f"dvc {what} diff: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    rows = done.stdout.strip().splitlines()
    return "\n".join(rows) if len(rows) > 2 else ""  # noqa: PLR2004 (a head and a line below it)


if __name__ == "__main__":
    run("tell_changes", main)
