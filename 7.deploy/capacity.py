"""How many servers a load needs, what breaks first, what it costs, and how scaling follows a day and a spike.

Reads:  benchmarks/results/serving.md, requests a second and 99th percentile of one worker on one core
        benchmarks/results/registry.md, how often the registry says who is champion
        7.deploy/prices.yaml
Writes: 7.deploy/capacity.md and capacity.svg; the same inputs give the same bytes

Usage: uv run 7.deploy/capacity.py [--output FOLDER]
"""

import argparse
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import yaml

from credit_risk import pages
from credit_risk.errors import CreditRiskError
from credit_risk.paths import root
from credit_risk.script import run
from credit_risk.settings import Settings

LOADS = (100, 10_000, 1_000_000)  # requests a second
# Assumptions; the measured and the priced come from files.
VCPU_SHARE = 0.6  # of a core: two virtual CPUs are the two threads of one
UTILISATION = 0.5  # of what a server bears: one of two zones may fail
REQUEST_BYTES = 1200  # question and answer with their headers
REQUESTS_PER_CONNECTION = 100
ACTIVE_SECONDS = 60  # that a connection stays open
MIN_SERVERS = 2  # one a zone
# An Application Load Balancer's unit, its page "pricing": the largest of these counts.
UNIT_NEW_CONNECTIONS, UNIT_ACTIVE_CONNECTIONS, UNIT_GB_AN_HOUR = 25, 3000, 1
# Target tracking, Auto Scaling's user guide: alarms on minutes; scale-in waits longer than scale-out.
HIGH_MINUTES, LOW_MINUTES, LOW_SHARE = 3, 15, 0.9
BOOT_SECONDS, STEP_SECONDS = 120, 10  # machine, hooks and model until a new server is ready
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """What the benchmarks have found: requests a second, milliseconds, look-ups a second."""

    core_rps: float
    p99_ms: float
    registry_lookups: float


@dataclass(frozen=True)
class Plan:
    """What a load needs; money in USD a month."""

    rps: float
    servers: int
    balancer_units: float
    polls: float
    costs: dict[str, float]


@dataclass(frozen=True)
class Course:
    """What a simulation showed, by steps of STEP_SECONDS: load, servers in service, and requests shed, a second."""

    load: Floats
    servers: Floats
    shed: Floats

    @property
    def shed_share(self) -> float:
        """Of all requests."""
        return float(self.shed.sum() / self.load.sum())

    @property
    def server_hours(self) -> float:
        """Of servers in service."""
        return float(self.servers.sum() * STEP_SECONDS / 3600)


def main() -> None:
    """Computes and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=root() / "7.deploy", help="folder (default: 7.deploy)")
    folder: Path = parser.parse_args().output
    results = root() / "benchmarks" / "results"
    measured = read_measured((results / "serving.md").read_text(), (results / "registry.md").read_text())
    prices = yaml.safe_load((root() / "7.deploy" / "prices.yaml").read_text())
    bears = server_rps(measured, prices)
    plans = [plan(rps, bears, prices, Settings().keeper_seconds) for rps in LOADS]
    traffic = {"a day": day(LOADS[-1]), "a spike": spike(LOADS[-1])}
    courses = {name: simulate(load, bears) for name, load in traffic.items()}
    template = root() / "7.deploy" / "capacity.md.j2"
    pages.write(template, folder / "capacity.md", facts(measured, bears, plans, courses))
    draw(courses, folder / "capacity.svg")
    print(f"{folder / 'capacity.md'} and capacity.svg are written")


def read_measured(serving: str, registry: str) -> Measured:
    """The figures of this API at 16 connections, and of the registry.

    Raises:
        CreditRiskError: a results file does not hold them; names the benchmark.
    """
    rows = re.findall(r"^\| this API \|(.*)\|$", serving, re.MULTILINE)
    lookups = re.search(r"champion (\d+) times a second", registry)
    if len(rows) < 3 or not lookups:  # noqa: PLR2004 (requests, ratios or latency: the tables of the file)
        name = "registry" if len(rows) >= 3 else "serving"  # noqa: PLR2004 (as above)
        raise CreditRiskError(f"benchmarks/results/{name}.md lacks its figures; run benchmarks/{name}.py")
    latency = next(row for row in rows if "/" in row)
    rps = rows[0].split("|")[1].strip().replace(",", "")
    return Measured(float(rps), float(latency.split("|")[1].split("/")[1]), float(lookups[1]))


def server_rps(measured: Measured, prices: Any) -> float:
    """Requests a second that one server bears, all its CPUs busy."""
    return float(measured.core_rps * VCPU_SHARE * prices["server"]["vcpus"])


def servers_for(rps: float, bears: float) -> int:
    """Servers for a load, so that each is half idle, and one in each zone."""
    return max(MIN_SERVERS, math.ceil(rps / (bears * UTILISATION)))


def balancer_units(rps: float) -> float:
    """Load balancer capacity units: the dimension that needs most of them. Rules are few, so these don't count."""
    new = rps / REQUESTS_PER_CONNECTION
    gigabytes = rps * REQUEST_BYTES * 3600 / 1e9
    return max(new / UNIT_NEW_CONNECTIONS, new * ACTIVE_SECONDS / UNIT_ACTIVE_CONNECTIONS, gigabytes / UNIT_GB_AN_HOUR)


def plan(rps: float, bears: float, prices: Any, keeper_seconds: float) -> Plan:
    """Servers, units, registry traffic and cost of a constant load."""
    servers, units, hours = servers_for(rps, bears), balancer_units(rps), prices["hours_a_month"]
    requests = rps * 3600 * hours
    costs = {
        "servers": servers * (prices["server"]["hour"] * hours + prices["server"]["disk_month"]),
        "balancer": hours * (prices["balancer"]["hour"] + units * prices["balancer"]["unit_hour"]),
        "firewall": prices["firewall"]["month"] + requests / 1e6 * prices["firewall"]["million_requests"],
        "registry": sum(prices["registry"].values()),
        "network": prices["network"]["nat_month"] * prices["network"]["nat_gateways"],
    }
    return Plan(rps, servers, units, servers / keeper_seconds, costs)


def day(peak: float) -> Floats:
    """A day's traffic, requests a second: a fifth of the peak at night, the peak at two in the afternoon."""
    hours = np.arange(0, 24, STEP_SECONDS / 3600)
    return np.asarray(peak * (0.6 + 0.4 * np.cos((hours - 14) / 24 * 2 * np.pi)))


def spike(peak: float) -> Floats:
    """Three hours at a tenth of the peak, with half an hour at the peak from one moment to the next."""
    hours = np.arange(0, 3, STEP_SECONDS / 3600)
    return np.where((hours >= 1) & (hours < 1.5), peak, peak / 10)  # noqa: PLR2004 (from one o'clock to half past)


def simulate(load: Floats, bears: float, most: int = 200) -> Course:
    """Target tracking on requests per server: what is in service, and what is shed, at each step.

    A group follows the mean of each minute. Three minutes above the target: as many servers as the load needs, ready
    after BOOT_SECONDS. Fifteen below nine tenths of it: as few. What a server does not bear it sheds with 503.
    """
    target, per_minute = bears * UTILISATION, 60 // STEP_SECONDS
    serving = servers_for(float(load[0]), bears)
    booting: list[tuple[int, int]] = []  # step from which on they are in service, and how many
    high = low = 0
    servers, shed = np.zeros(len(load)), np.zeros(len(load))
    for step, rps in enumerate(load):
        serving += sum(number for ready, number in booting if ready <= step)
        booting = [(ready, number) for ready, number in booting if ready > step]
        servers[step], shed[step] = serving, max(0.0, rps - serving * bears)
        if (step + 1) % per_minute:
            continue
        mean = float(load[step + 1 - per_minute : step + 1].mean()) / serving
        high = high + 1 if mean > target else 0
        low = low + 1 if mean < target * LOW_SHARE else 0
        needed = min(most, servers_for(mean * serving, bears))
        wanted = serving + sum(number for _, number in booting)
        if high >= HIGH_MINUTES and needed > wanted:
            booting.append((step + BOOT_SECONDS // STEP_SECONDS, needed - wanted))
        elif low >= LOW_MINUTES and needed < serving and not booting:
            serving, low = needed, 0
    return Course(load, servers, shed)


def facts(measured: Measured, bears: float, plans: list[Plan], courses: dict[str, Course]) -> dict[str, Any]:
    """What the page is filled with."""
    keeper_seconds = Settings().keeper_seconds
    rows = [
        {
            "name": name,
            "peak": course.load.max(),
            "shed": course.shed_share,
            "hours": course.server_hours,
            "fixed_hours": len(course.load) * STEP_SECONDS / 3600 * servers_for(float(course.load.max()), bears),
        }
        for name, course in courses.items()
    ]
    return {
        "measured": measured,
        "bears": bears,
        "plans": plans,
        "courses": rows,
        "keeper_seconds": keeper_seconds,
        "most_servers": int(measured.registry_lookups * keeper_seconds),
        "vcpu_share": VCPU_SHARE,
        "request_bytes": REQUEST_BYTES,
        "requests_per_connection": REQUESTS_PER_CONNECTION,
        "high_minutes": HIGH_MINUTES,
        "boot_seconds": BOOT_SECONDS,
    }


def draw(courses: dict[str, Course], path: Path) -> None:
    """Load, what the servers bear, and what is shed, over time."""
    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "capacity"  # the same picture, the same bytes
    figure, axes = plt.subplots(1, len(courses), figsize=(10, 3.6), layout="constrained")
    for axis, (name, course) in zip(axes, courses.items(), strict=True):
        minutes = slice(None, None, 60 // STEP_SECONDS)
        hours = (np.arange(len(course.load)) * STEP_SECONDS / 3600)[minutes]
        load, shed, servers = course.load[minutes], course.shed[minutes], course.servers[minutes]
        axis.plot(hours, load, color="#0072B2", label="requests a second")
        axis.fill_between(hours, load - shed, load, color="#D55E00", label="… of them shed")
        axis.set(title=name, xlabel="hours", ylim=(0, None))
        right = axis.twinx()
        right.step(hours, servers, where="post", color="#555555", linestyle="--")
        right.set(ylabel="servers (dashed)", ylim=(0, servers.max() * 1.1))
    axes[0].legend(loc="lower center")
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    run("capacity", main)
