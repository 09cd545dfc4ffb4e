"""Summarizes a retraining as Markdown: gate results of the challenger, changed metrics, parameters, data and slices.

Reads:  metrics and parameters of a commit and of the working tree; gate results from the registry
Writes: the summary to standard output; with --output, `version=` and `passed=` for later steps of a workflow

Usage: uv run 7.deploy/retrain_summary.py [--output FILE] [--since HEAD]
"""

from credit_risk.core.entry_point import run

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root
from credit_risk.registry import lineage
from credit_risk.registry.client import CHALLENGER, CHAMPION, Registry, Version
from credit_risk.registry.gate_results import read_gate_result
from credit_risk.retraining.changes import data_changes, slice_changes


def main() -> None:
    """Prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--since", default="HEAD", help="commit to compare with (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="append version and passed to this file")
    arguments = parser.parse_args()
    registry = Registry()
    version = registry.version_of(CHALLENGER)
    if version is None:
        raise ProjectError("there is no challenger; run `uv run main.py` first")
    results = [gate_result(version, gate) for gate in ("loading", "performance")]
    passed = all(result["passed"] for result in results)
    champion = registry.version_of(CHAMPION)
    recalibrated = champion and lineage.recalibrated_from(champion) == version.number
    new = CHAMPION not in version.aliases and not recalibrated
    title = ("passed the gates" if passed else "was rejected by the gates") if new else "is already the champion"
    against = f"version {results[-1]['against']}" if results[-1]["against"] else "no champion"
    print(f"# Version {version.number} {title}\n\nIt was compared with {against}.\n")
    for result in results:
        print(as_table(result))
    for name in ("metrics", "params"):
        print(f"## Changed {name} since {arguments.since}\n\n{difference(name, arguments.since) or 'None.'}\n")
    if results[-1]["against"]:
        print(changes_since(registry, results[-1]["against"], version))
    if arguments.output:
        with arguments.output.open("a", encoding="utf-8") as file:
            file.write(f"version={version.number}\npassed={str(new and passed).lower()}\n")


def changes_since(registry: Registry, number: str, version: Version) -> str:
    """Changed sources and slices, compared with a version."""
    old = registry.version(number)
    parts = {"data": data_changes(old, version), "slices": slice_changes(registry, old, version)}
    sections = [f"## Changed {name} since version {number}\n\n{text or 'None.'}\n" for name, text in parts.items()]
    return "\n".join(sections)


def gate_result(version: Version, gate: str) -> dict[str, Any]:
    """The result of a gate on a version.

    Raises:
        ProjectError: the gate has not run on it.
    """
    result = read_gate_result(version, gate)
    if result is None:
        raise ProjectError(f"the {gate} gate has not run on version {version.number}; run `uv run main.py` first")
    return result


def as_table(result: dict[str, Any]) -> str:
    """The checks of a gate as a Markdown table."""
    rows = [
        f"| {check['name']} | {check['measured']} | {check['required']} | {'yes' if check['passed'] else '**no**'} |"
        for check in result["checks"]
    ]
    header = f"## The {result['gate']} gate\n\n| check | measured | required | passed |\n|---|---|---|---|"
    return "\n".join([header, *rows, ""])


def difference(name: str, since: str) -> str:
    """The output of `dvc metrics diff` or `dvc params diff` as a Markdown table; empty without a difference.

    Raises:
        ProjectError: DVC has failed.
    """
    command = [sys.executable, "-m", "dvc", name, "diff", "--md", since]
    done = subprocess.run(command, cwd=root(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProjectError(f"dvc {name} diff: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    rows = done.stdout.strip().splitlines()
    return "\n".join(rows) if len(rows) > 2 else ""  # noqa: PLR2004 (header and separator)


if __name__ == "__main__":
    run("retrain summary", main)
