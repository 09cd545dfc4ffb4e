"""The result of a monitoring run: as JSON, and as Prometheus metrics for the textfile collector of node_exporter."""

from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from credit_risk.core.files import write_json
from credit_risk.monitoring.comparison import Check

JSON, PROMETHEUS = "result.json", "metrics.prom"


def write_result(result: dict[str, Any], folder: Path) -> None:
    """Writes result.json and metrics.prom; numbers that are not finite become null."""
    write_json(folder / JSON, _finite(result))
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"monitor_{name}", text, labels, registry=registry)

    gauge("rows", "Predictions in the window", "version").labels(result["version"]).set(result["rows"])
    gauge("run_timestamp_seconds", "Time of this run").set_to_current_time()
    value = gauge("value", "What a check has found", "kind", "name")
    expected = gauge("expected", "The same in the reference", "kind", "name")
    alarm = gauge("alarm", "1 if a check alarms", "kind", "name")
    for check in result["checks"]:
        labels = (check["kind"], check["name"])
        value.labels(*labels).set(check["value"])
        expected.labels(*labels).set(check["expected"])
        alarm.labels(*labels).set(check["alarm"])
    write_to_textfile(str(folder / PROMETHEUS), registry)  # under a temporary name, renamed


def sentence(check: Check) -> str:
    """An alarm in words."""
    what = f"{check.kind.replace('_', ' ')} {check.name}".strip()
    return f"{what}: {check.value:.4g}, expected {check.expected:.4g} (limit {check.limit:.4g})"


def _finite(value: Any) -> Any:
    """Lists, dictionaries and numbers as JSON has them."""
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and value - value != 0 else value
