"""Compares the predictions of the last days with what the version was trained on, and alarms.

Reads the shipped log and the outcomes of MONITORING_STORE, and the reference of the version from the registry. Writes
result.json, metrics.prom (Prometheus) and page.html into 6.production/monitoring. Exit code: 0 no alarm, 3 an
alarm, 1 an error. Thresholds are in section `monitor` of params.yaml.

With --shadow it compares a version with the champion instead, on all rows that it has scored in its shadow, and writes
shadow.json and shadow.html. Exit code 3: it is not yet what `gates.shadow` demands.

Usage: uv run main.py monitor [--to DAY] [--days N] [--version N]
       uv run main.py monitor --shadow [--version N]
"""

from credit_risk.core.entry_point import run

import argparse
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from credit_risk.core import params
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import write_json
from credit_risk.core.paths import relative, root
from credit_risk.data.store import Store
from credit_risk.formats.onnx_scorer import OnnxScorer
from credit_risk.monitoring import shadow
from credit_risk.monitoring.comparison import by_group, compare
from credit_risk.monitoring.outcomes import known_outcomes
from credit_risk.monitoring.page import write_page, write_page_of_shadow
from credit_risk.monitoring.params import MonitorParams
from credit_risk.monitoring.reference import FILE_NAME, Reference
from credit_risk.monitoring.result import JSON, sentence, write_result
from credit_risk.monitoring.window import Window, read_predictions
from credit_risk.project.settings import settings
from credit_risk.registry.client import CHAMPION, ONNX_PATH, Registry
from credit_risk.registry.gate_params import GateParams
from credit_risk.registry.gate_results import version_to_gate

EXIT_ALARM = 3
WRITTEN = ("6.production", "monitoring")


def main() -> None:
    """Parses the command line, compares and writes."""
    section = params.load("monitor", MonitorParams)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--to", type=date.fromisoformat, default=datetime.now(UTC).date(), help="last day (default: today)"
    )
    parser.add_argument(
        "--days", type=int, default=section.window_days, help="length of the window (default: %(default)s)"
    )
    parser.add_argument("--version", help="number of the version (default: the champion, with --shadow the challenger)")
    parser.add_argument("--shadow", action="store_true", help="compare the version with the champion")
    arguments = parser.parse_args()
    store = Store(settings().monitoring_store)
    if arguments.shadow:
        sys.exit(compare_shadow(store, arguments.version))
    number, reference = registered(arguments.version)
    first = arguments.to - timedelta(days=arguments.days - 1)
    everything = Window.of(read_predictions(store, first, arguments.to), known_outcomes(store))
    window = everything.select((everything.rows["version"] == number).to_numpy())
    if not len(window.rows):
        raise ProjectError(f"there is no prediction of version {number} from {first} to {arguments.to} in {store.name}")
    earlier = read_predictions(store, first - timedelta(days=arguments.days), first - timedelta(days=1))
    checks = compare(reference, window, section, (len(everything.rows), len(earlier)) if len(earlier) else None)
    months = window.rows["time"].dt.strftime("%Y-%m")
    result: dict[str, Any] = {
        "version": number,
        "from": first.isoformat(),
        "to": arguments.to.isoformat(),
        "rows": len(window.rows),
        "outcomes": int(np.isfinite(window.labels).sum()),
        "alarms": [sentence(check) for check in checks if check.alarm],
        "checks": [asdict(check) for check in checks],
        "periods": by_group(reference, window, months),
        "versions": by_group(reference, everything, everything.rows["version"]),
    }
    folder = root().joinpath(*WRITTEN)
    write_result(result, folder)
    write_page(result, reference, window, folder)
    if everything.early:
        print(f"{everything.early:,} outcomes are dated before their row was scored, and not used")
    for alarm in result["alarms"]:
        print(f"alarm: {alarm}")
    print(f"{len(window.rows):,} rows of version {number}, {len(result['alarms'])} alarms: {relative(folder / JSON)}")
    if result["alarms"]:
        sys.exit(EXIT_ALARM)


def compare_shadow(store: Store, version: str | None) -> int:
    """Compares a version, the challenger if none is given, with the champion; returns the exit code.

    Raises:
        ProjectError: there is no such version or no champion, or the log has no rows of both.
    """
    registry = Registry()
    champion, found = registry.version_of(CHAMPION), version_to_gate(registry, version)
    if champion is None or champion.number == found.number:
        raise ProjectError(f"version {found.number} has no other champion to compare with")
    section, train = params.load("gates", GateParams), params.raw("train")
    threshold = OnnxScorer(registry.download(found.number, ONNX_PATH).read_bytes(), None).metadata.threshold
    rows = shadow.ShadowRows.read(store, champion.number, found.number, threshold)
    costs = train["cost_false_negative"], train["cost_false_positive"]
    result = shadow.compare(rows, costs, section.bootstrap_resamples, section.seed)
    checks = shadow.checks(result, section.shadow) if section.shadow else ()
    result["checks"] = [asdict(check) for check in checks]
    folder = root().joinpath(*WRITTEN)
    write_json(folder / "shadow.json", result)
    write_page_of_shadow(result, rows, folder)
    missing = [f"{check.name} {check.measured}, required {check.required}" for check in checks if not check.passed]
    for each in missing:
        print(f"not yet: {each}")
    print(f"{result['rows']:,} rows on {result['days']} days: {relative(folder / 'shadow.json')}")
    print(f"{result['changed_decisions']:.1%} of the decisions would change with version {found.number}")
    return EXIT_ALARM if missing else 0


def registered(version: str | None) -> tuple[str, Reference]:
    """The number of a version, the champion's if none is given, and its reference.

    Raises:
        ProjectError: there is no such version, or it has no reference.
    """
    registry = Registry()
    found = registry.version_or_champion(version)
    with tempfile.TemporaryDirectory() as folder:
        path = registry.download_file(found, FILE_NAME, Path(folder))
        if path is None:
            raise ProjectError(f"version {found.number} was registered without a reference; run `uv run main.py` again")
        return found.number, Reference.read(path)


if __name__ == "__main__":
    run("monitor", main)
