"""Prometheus metrics, correct with several workers.

With PROMETHEUS_MULTIPROC_DIR set (serve.py sets it), every process writes its values to files in that folder, and each
worker answers /metrics with the sum over all processes, those that have ended included.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from credit_risk.serving import metrics_files
from credit_risk.serving.metrics_files import DIRECTORY

metrics_files.prepare()


class BufferedHistogram:
    """A histogram whose values are appended to a list and counted together when `flush` is called.

    Appending costs 0.05 µs, `prometheus_client.Histogram.observe` 2.5 µs. The counts are kept in one Counter for each
    part of a histogram; `_Histograms` merges them when metrics are rendered.
    """

    def __init__(self, name: str, documentation: str, bounds: tuple[float, ...], labels: tuple[str, ...] = ()) -> None:
        self._bounds = [*bounds, math.inf]
        self._buckets = Counter(f"{name}_bucket", documentation, [*labels, "le"])
        self._sum, self._count = (Counter(f"{name}_{part}", documentation, labels) for part in ("sum", "count"))
        self._observed: dict[tuple[str, ...], tuple[list[float], list[Counter]]] = {}  # values and counters, by labels

    def values(self, *labels: str) -> list[float]:
        """The list to which observed values are appended."""
        if labels not in self._observed:
            bounds = ["+Inf" if math.isinf(bound) else str(float(bound)) for bound in self._bounds]
            buckets = [self._buckets.labels(*labels, bound) for bound in bounds]
            totals = [counter.labels(*labels) if labels else counter for counter in (self._sum, self._count)]
            self._observed[labels] = [], [*buckets, *totals]
        return self._observed[labels][0]

    @property
    def counters(self) -> tuple[Counter, ...]:
        """The counters of its parts."""
        return self._buckets, self._sum, self._count

    def flush(self) -> None:
        """Counts the values observed since the last call."""
        for observed, counters in self._observed.values():
            if observed:
                values = np.sort(observed)
                observed.clear()
                buckets = np.searchsorted(values, self._bounds, side="right").tolist()  # cumulative
                for counter, amount in zip(counters, [*buckets, values.sum().item(), len(values)], strict=True):
                    counter.inc(amount)


class _Histograms(Collector):
    """Shows the counters of `BufferedHistogram`s as histograms, and all other metrics as they are."""

    def __init__(self, source: Collector) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        histograms: dict[str, Metric] = {}
        for metric in self._source.collect():
            name, _, part = metric.name.rpartition("_")
            if metric.type != "counter" or part not in {"bucket", "sum", "count"}:
                yield metric
                continue
            histogram = histograms.setdefault(name, Metric(name, metric.documentation, "histogram"))
            totals = (sample for sample in metric.samples if sample.name == f"{metric.name}_total")
            histogram.samples += [sample._replace(name=metric.name) for sample in totals]
        yield from histograms.values()


REQUEST_SECONDS = BufferedHistogram(
    "http_request_duration_seconds",
    "Time from a request's arrival at the worker to its response",
    (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
    ("endpoint", "status"),
)
PROBABILITIES = BufferedHistogram(
    "prediction_probability",
    "Predicted probabilities; a shift means that the requests or the model have changed",
    (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1),
)
IN_FLIGHT = Gauge("http_requests_in_flight", "Requests that are being answered", multiprocess_mode="livesum")
MODEL_SERVED = Gauge("model_served", "1: the worker serves this version", ["version"], multiprocess_mode="liveall")
MODEL_EXPECTED = Gauge(
    "model_expected",
    "1: the worker should serve this version, the cache's active one",
    ["version"],
    multiprocess_mode="liveall",
)
SHADOW_SERVED = Gauge(
    "shadow_served", "1: the worker scores this version in the shadow", ["version"], multiprocess_mode="liveall"
)
SHADOW_EXPECTED = Gauge(
    "shadow_expected", "1: the worker should score this version in the shadow", ["version"], multiprocess_mode="liveall"
)
SHADOW_ROWS = Counter("shadow_rows", "Rows for the shadow model: scored, or slow, failed or absent", ["result"])
SHADOW_DECISIONS = Counter("shadow_decisions", "Decisions of the champion and the shadow model", ["champion", "shadow"])
SHADOW_PROBABILITIES = BufferedHistogram(
    "shadow_probability",
    "Probabilities that the shadow model predicts",
    (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1),
)
LOG_LINES = Counter(
    "prediction_log_lines", "Rows for the prediction log: written, lost (disk) or dropped (queue)", ["result"]
)
MODEL_LOADS = Counter("model_loads", "Loads of a model by a worker, by result", ["result"])
REGISTRY_CHECKS = Counter("registry_checks", "Checks of the registry by model sync, by result", ["result"])
_METRICS: tuple[Counter | Gauge, ...] = (
    *(IN_FLIGHT, MODEL_SERVED, MODEL_EXPECTED, MODEL_LOADS, REGISTRY_CHECKS),
    *(SHADOW_SERVED, SHADOW_EXPECTED, SHADOW_ROWS, SHADOW_DECISIONS, LOG_LINES),
    *SHADOW_PROBABILITIES.counters,
    *REQUEST_SECONDS.counters,
    *PROBABILITIES.counters,
)


def flush() -> None:
    """Counts the values that this process has observed. Called often, so that /metrics is up to date."""
    metrics_files.restore(_METRICS)
    REQUEST_SECONDS.flush()
    PROBABILITIES.flush()
    SHADOW_PROBABILITIES.flush()


def render() -> bytes:
    """All metrics in Prometheus's text format."""
    flush()
    registry = CollectorRegistry()
    registry.register(_Histograms(_source()))
    return generate_latest(registry)


def model_versions() -> list[dict[str, str]]:
    """For each worker its process id, the version that it serves and the one that it should; empty if none."""
    workers: dict[str, dict[str, str]] = {}
    for metric in _source().collect():
        if metric.name in {"model_served", "model_expected"}:
            for sample in metric.samples:
                pid = sample.labels.get("pid", str(os.getpid())).rpartition(".")[2]
                worker = workers.setdefault(pid, {"pid": pid, "served": "", "expected": ""})
                if sample.value:
                    worker[metric.name.removeprefix("model_")] = sample.labels["version"]
    return list(workers.values())


def _source() -> Collector:
    folder = os.environ.get(DIRECTORY)
    if not folder:
        return REGISTRY
    _drop_dead_gauges(Path(folder))
    return MultiProcessCollector(CollectorRegistry(), folder)  # type: ignore[no-untyped-call]


def _drop_dead_gauges(folder: Path) -> None:
    """Removes the gauges of workers that were killed: their requests are no longer in flight."""
    for path in folder.glob("gauge_live*.db"):
        pid = int(re.findall(r"\d+", path.stem)[-1])
        if not psutil.pid_exists(pid):
            path.unlink(missing_ok=True)
