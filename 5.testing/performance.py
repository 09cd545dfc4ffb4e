"""Gate 2: is the registered model good enough to serve, and no worse than the champion?

Measures the registered version on the held-out rows as it is served, by its ONNX model. With `gates.mode: threshold` it
must reach the thresholds; with `champion` (the default) it must also be no worse than the champion on the same rows. A
version that passes becomes the champion: the alias moves only here. Exit code: 0 passed, 3 rejected, 1 error. The
result, the metrics of both versions and the decisions that would change are written to 5.testing/reports and logged
with the version's run.

Usage: uv run 5.testing/performance.py [--version N]              gates it and promotes it if it passes
       uv run 5.testing/performance.py [--version N] --no-promote gates it and does not promote it
       uv run 5.testing/performance.py [--version N] --against M  compares two versions and promotes neither
"""

from credit_risk.core.entry_point import run

import argparse
import sys

from credit_risk.contract import CONTRACT
from credit_risk.core import params, templates
from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root
from credit_risk.data.splits import read_holdout
from credit_risk.data.store import Store
from credit_risk.gates.checks import PerformanceChecks
from credit_risk.gates.evaluated import EvaluatedVersion
from credit_risk.gates.page import page_context
from credit_risk.project.settings import settings
from credit_risk.registry import lineage
from credit_risk.registry.client import CHAMPION, Registry, Version
from credit_risk.registry.error_messages import error_text
from credit_risk.registry.gate_params import GateParams, ShadowDemands
from credit_risk.registry.gate_results import (
    EXIT_REJECTED,
    Check,
    GateResult,
    gate_key,
    publish,
    version_to_gate,
)
from credit_risk.registry.looks import count_looks
from credit_risk.registry.promotion import promote, record_rejection


def main() -> None:
    """Runs the gate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", metavar="N", help="version to gate (default: the challenger)")
    parser.add_argument("--against", metavar="M", help="compare with this version and promote neither")
    parser.add_argument("--no-promote", action="store_true", help="gate the version and do not promote it")
    arguments = parser.parse_args()
    section = params.load("gates", GateParams)
    registry = Registry()
    version = version_to_gate(registry, arguments.version)
    champion = registry.version_of(CHAMPION)
    number = champion.number if champion else None
    other = version_to_compare(registry, version, champion, arguments.against, section.mode)
    holdouts = {name: read_holdout(name) for name in CONTRACT.holdouts}
    evaluated = [EvaluatedVersion(registry, each, holdouts) for each in (version, other) if each]
    gate = "comparison" if arguments.against else "performance"
    checks = PerformanceChecks(section, *evaluated, looks=count_looks(registry, version)).checks()
    usable = champion and number != version.number and lineage.reject_reason(champion) is None
    if section.shadow and number and usable and not arguments.against:
        checks += shadow_checks(section.shadow, evaluated[0], number, section)
    result = GateResult(gate, version.number, other.number if other else None, gate_key(number), checks)
    page = root() / "5.testing" / "reports" / f"{gate}.html"
    templates.write(root() / "5.testing" / "comparison.html.j2", page, page_context(result, evaluated, section))
    registry.log_file(version, page)
    publish(registry, result)
    if not result.passed:
        if not arguments.against:
            record_rejection(registry, version.number, number, f"performance: {', '.join(result.failures)}")
        print(result.summary)
        sys.exit(EXIT_REJECTED)
    if arguments.against:
        print(result.summary)
    elif arguments.no_promote:
        command = f"uv run 5.testing/performance.py --version {version.number}"
        print(f"{result.summary}; to promote version {version.number}: {command}")
    else:
        aucs = [f"{name.replace('_', ' ')} {evaluated[0].metrics(name)['roc_auc']:.3f}" for name in holdouts]
        promote(registry, version.number, number, f"ROC AUC {', '.join(aucs)}")
        print(f"{result.summary}; version {version.number} is the champion")


def version_to_compare(
    registry: Registry, version: Version, champion: Version | None, against: str | None, mode: str
) -> Version | None:
    """The version to compare with: `against`, else the champion; None in threshold mode or without a usable champion.

    Raises:
        ProjectError: `against` can't be used by this code.
    """
    other = registry.version(against) if against else champion
    if other is None or other.number == version.number or (mode == "threshold" and not against):
        return None
    if reason := lineage.reject_reason(other):
        if against:
            raise ProjectError(reason)
        print(f"{reason}; only the thresholds are checked")
        return None
    return other


def shadow_checks(
    demands: ShadowDemands, evaluated: EvaluatedVersion, champion: str, section: GateParams
) -> tuple[Check, ...]:
    """What `gates.shadow` demands of the rows that the version has scored in the shadow of the champion."""
    try:
        from credit_risk.monitoring import shadow  # here: the folder can be deleted

        train, store = params.raw("train"), Store(settings().monitoring_store)
        threshold = evaluated.scorer.metadata.threshold
        rows = shadow.ShadowRows.read(store, champion, evaluated.version.number, threshold)
        costs = train["cost_false_negative"], train["cost_false_positive"]
        return shadow.checks(shadow.compare(rows, costs, section.bootstrap_resamples, section.seed), demands)
    except Exception as error:  # noqa: BLE001 (whatever it is, the log does not show what is demanded)
        return (Check("shadow_log", False, error_text(error), "rows that both versions have scored"),)


if __name__ == "__main__":
    run("performance gate", main)
