"""The report: tables in Markdown, and a plot."""

import os
import platform
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from serving_parts.environments import MB, installed_mb, version
from serving_parts.peers import THIS, WORKER, Peer

CONNECTIONS = (1, 16, 64)
ROWS = 200  # held-out rows that are sent in turn
BATCH_ROWS, BATCH_CONNECTIONS = 1000, (1, 4)
BUSY = 0.9  # share of its core above which the load generator itself may be the limit


@dataclass(frozen=True, slots=True)
class Load:
    """Result of the load generator: latencies in milliseconds; busy is the share of its core that it used."""

    connections: int
    per_second: float
    p50: float
    p99: float
    failed: int
    busy: float


@dataclass(slots=True)
class Measured:
    """What was measured of a server; one value per round."""

    difference: float = float("nan")  # largest, to the registered scikit-learn model's probabilities
    ready: list[float] = field(default_factory=list)  # seconds
    memory: list[float] = field(default_factory=list)  # MB, after the load, all its processes
    sync_memory: list[float] = field(default_factory=list)  # MB of these used by this API's model sync
    loads: list[Load] = field(default_factory=list)
    batches: list[Load] = field(default_factory=list)  # of BATCH_ROWS a request

    def at(self, connections: int, what: str) -> float:
        """Median over the rounds of one figure at a number of connections."""
        return _at(self.loads, connections, what)

    def rows_per_second(self, connections: int) -> float:
        """Median over the rounds of the rows in batches that are answered per second."""
        return BATCH_ROWS * _at(self.batches, connections, "per_second")


def _at(loads: list[Load], connections: int, what: str) -> float:
    return float(median(getattr(load, what) for load in loads if load.connections == connections))


def machine() -> str:
    """Processor, cores and memory."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, {psutil.virtual_memory().total / MB / 1000:.0f} GB of memory"


def wrk_version() -> str:
    """The load generator's version."""
    output = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout
    return " ".join(output.split()[:2]) or "wrk"


REPORT = """\
# Serving the same model in different ways

Made by `uv run benchmarks/serving.py` on {date}, on {machine}; load average before the start {busy}; version {version}
of the model, {rows} held-out rows sent in turn; {wrk}; {minutes} minutes.

One worker each, on a core of its own; the load generator on another. {rounds} of {seconds} s a measurement; medians.
Slow servers are measured for longer, until each connection has had several answers. Closed loop: a connection sends its
next request when it has its answer; wrk corrects the percentiles for coordinated omission. The load generator used
{busiest} of its core at most{limit}.

![Requests a second and 99th percentiles](serving.png)

## Requests a second

{throughput}

## Requests this API answers for each one of the others

{ratios}

## Latency: median / 99th percentile, ms

{latency}

## What it takes

{costs}

Ready: from the start of the process to its first prediction. Memory: of all its processes after the load, shared pages
counted once. Packages: without compiled bytecode. Failed: requests rejected or lost in all rounds. Difference: largest,
to the probabilities of the registered scikit-learn model.

This API is a worker ({worker_memory} MB; ready in {worker_ready} s by itself) and model sync ({sync_memory} MB), which
starts at the same moment on the same core; requests are measured after its first sync. From an empty cache, with
download and checks, it was ready in {empty} s.

## Beyond single requests

- `/predict/batch`, {batch_rows} rows a request: {batches}.
- Scoring without HTTP, from a validated row to its probability: {one} µs a row;
  {sixteen} µs a row when sixteen are scored in one call. Validating the bytes of one takes {validate} µs.

## How each is set up

The peers serve the registered scikit-learn model, as their documentation shows it; all have one OpenMP thread, because
they have one core, and no access log. Their code is in `benchmarks/serving_peers`, their commands in
`benchmarks/serving_parts/peers.py`.

{setup}
"""


def report(measured: dict[str, Measured], peers: list[Peer], **context: Any) -> str:
    """The report in Markdown."""
    this, found = measured[THIS], [(peer, measured[peer.name]) for peer in peers]
    connections = [named(count) for count in CONNECTIONS]

    def figures(of: Callable[[Measured, int], str], leave_out: str = "") -> str:
        rows = [[p.name, *(of(m, count) for count in CONNECTIONS)] for p, m in found if p.name != leave_out]
        return table(["server", *connections], rows)

    costs = [
        [
            peer.name,
            version(peer),
            f"{median(it.ready):.1f}",
            f"{median(it.memory):.0f}",
            f"{installed_mb(peer.environment):.0f}",
            f"{sum(load.failed for load in it.loads):,}",
            f"{it.difference:.0e}" if peer.probability else "",
        ]
        for peer, it in found
    ]
    busiest = max(load.busy for _, it in found for load in it.loads)
    return REPORT.format(
        **context,
        rows=ROWS,
        busiest=f"{busiest:.0%}",
        limit=": it may have been the limit" if busiest > BUSY else "",
        throughput=figures(lambda it, count: f"{it.at(count, 'per_second'):,.0f}"),
        ratios=figures(lambda it, count: ratio(this.at(count, "per_second") / it.at(count, "per_second")), THIS),
        latency=figures(lambda it, count: f"{it.at(count, 'p50'):,.2f} / {it.at(count, 'p99'):,.2f}"),
        costs=table(["server", "version", "ready, s", "memory, MB", "packages, MB", "failed", "difference"], costs),
        worker_ready=f"{median(measured[WORKER.name].ready):.1f}",
        worker_memory=f"{median(this.memory) - median(this.sync_memory):.0f}",
        sync_memory=f"{median(this.sync_memory):.0f}",
        batch_rows=f"{BATCH_ROWS:,}",
        batches=", ".join(
            f"{this.rows_per_second(count):,.0f} rows a second at {named(count)}" for count in BATCH_CONNECTIONS
        ),
        setup="\n".join(f"- **{peer.name}**: {peer.setup}" for peer in peers),
    )


def named(connections: int) -> str:
    """A number of connections, with its noun."""
    return f"{connections} connection" + "s" * (connections > 1)


def ratio(value: float) -> str:
    """About three digits."""
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"  # noqa: PLR2004


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are figures."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(measured: dict[str, Measured], peers: list[Peer], path: Path) -> None:
    """Plots requests a second and 99th percentiles on logarithmic axes; colours and marks distinguish connections."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    ordered = sorted(peers, key=lambda peer: measured[peer.name].at(16, "per_second"))
    figure, panels = plt.subplots(1, 2, figsize=(11, 0.5 * len(ordered) + 1.6), sharey=True, layout="constrained")
    for panel, what, label in zip(
        panels, ("per_second", "p99"), ("requests a second", "99th percentile, ms"), strict=True
    ):
        # Okabe and Ito's colours
        for connections, colour, mark in zip(CONNECTIONS, ("#0072B2", "#E69F00", "#009E73"), "os^", strict=True):
            values = [measured[peer.name].at(connections, what) for peer in ordered]
            panel.scatter(values, range(len(ordered)), c=colour, marker=mark, s=45, label=named(connections), zorder=3)
        panel.set(xscale="log", xlabel=label)
        panel.set_yticks(range(len(ordered)), [peer.name for peer in ordered])
        panel.grid(color="#dddddd")
    panels[0].legend(loc="lower right")
    figure.savefig(path, dpi=90, format="png")
    plt.close(figure)
