"""Metrics for Prometheus, correct with several workers.

With PROMETHEUS_MULTIPROC_DIR set (serve.py sets it), every process writes its values to files there and each worker
answers /metrics with the sum of all, a killed worker's counts included.
"""

import os
import re
from pathlib import Path

import numpy as np
import psutil
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


class BufferedHistogram(Histogram):
    """A histogram whose values are noted down at once and counted together: a fiftieth of the cost."""

    def _metric_init(self) -> None:
        super()._metric_init()
        self._noted: list[float] = []
        self.note = self._noted.append
        _BUFFERED.append(self)

    def count(self) -> None:
        """Counts what has been noted."""
        if not self._noted:
            return
        values = np.array(self._noted)
        self._noted.clear()
        places = np.searchsorted(self._upper_bounds, values)  # the first bound that is not below the value
        self._sum.inc(float(values.sum()))
        for bucket, more in zip(self._buckets, np.bincount(places, minlength=len(self._buckets)).tolist(), strict=True):
            if more:
                bucket.inc(more)


_BUFFERED: list[BufferedHistogram] = []


def flush_all() -> None:
    """Counts what the histograms of this process have noted; called often, so that /metrics is hardly behind."""
    for histogram in _BUFFERED:
        histogram.count()


# Its _count is the number of requests. Buckets are in seconds: one prediction takes a fraction of a millisecond.
REQUEST_SECONDS = BufferedHistogram(
    "http_request_duration_seconds",
    "Time from a request's arrival at the worker to its answer; the count is the number of requests",
    ["endpoint", "status"],
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
IN_FLIGHT = Gauge("http_requests_in_flight", "Requests that are being answered", multiprocess_mode="livesum")
SCORES = BufferedHistogram(
    "credit_risk_probability_of_default",
    "Probabilities that were answered; a shift shows that other applicants come or another model answers",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1),
)
MODEL = Gauge(
    "credit_risk_model_info", "Workers that serve a version of the model", ["version"], multiprocess_mode="livesum"
)
MODEL_LOADS = Counter("credit_risk_model_loads", "Times a worker has loaded a model, by result", ["result"])
CHAMPION_CHECKS = Counter("credit_risk_champion_checks", "Times the keeper has asked for the champion", ["result"])


def render() -> bytes:
    """All metrics in Prometheus's text format."""
    flush_all()
    folder = os.environ.get(DIRECTORY)
    if not folder:
        return generate_latest(REGISTRY)
    for path in Path(folder).glob("gauge_live*.db"):
        pid = int(re.findall(r"\d+", path.stem)[-1])
        if not psutil.pid_exists(pid):
            mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]  # what a killed worker had in flight is in flight no more
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
