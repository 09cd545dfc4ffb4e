"""Computes the capacity plan: servers, load balancer units, registry traffic and cost for three loads, and scaling.

Reads:  benchmarks/results/serving.md and registry.md (what one core and a registry do); of 7.deploy: aws/*.yaml (what
        scaling aims at), prices.yaml, capacity.md.j2
Writes: 7.deploy/capacity.md, 7.deploy/capacity.svg

Usage: uv run 7.deploy/capacity.py [--into 7.deploy]
"""

import argparse
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import yaml
from matplotlib.axes import Axes

from credit_risk import pages
from credit_risk.errors import CreditRiskError
from credit_risk.files import replacing
from credit_risk.paths import root
from credit_risk.script import run
from credit_risk.settings import Settings

LOADS = (100, 10_000, 1_000_000)  # requests a second, all month long
CONNECTIONS = 16  # the column of the measurement: enough to fill the core, few enough for a steady 99th percentile
MONTH_HOURS, MONTH_SECONDS = 730, 730 * 3600
STEP = 10  # seconds of the simulation
# Measured on one request with a key (curl's size_request; size_header + size_download), without TLS.
REQUEST_BYTES, ANSWER_BYTES = 490, 276
# Estimates: how clients hold connections, a line of the balancer's log (gzip), and what registry and images keep.
REQUESTS_PER_CONNECTION, CONNECTION_SECONDS, LOG_BYTES, KEPT_GB = 100, 30, 100, 10
JITTER = 0.2  # of keeper.py: each pause is KEEPER_SECONDS times 0.8 to 1.2
MODEL_MB, MODEL_FILES = 0.29, 2  # ONNX form and golden rows, of the committed parameters
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe & Ito
Prices = dict[str, float]


@dataclass(frozen=True)
class Core:
    """What one worker on one core was measured to do: requests a second, and its 99th percentile in milliseconds."""

    requests: float
    p99_ms: float


@dataclass(frozen=True)
class Policy:
    """Target tracking as AWS does it; requests a second and server, and seconds.

    AWS documents that it acts fast upwards and slowly downwards, not by how much: the alarms that it makes for a group
    have 3 and 15 periods of 60 seconds, and the lower one goes off below 70 % of the target.
    """

    target: float
    ceiling: float
    minimum: int
    maximum: int
    boot: float = 240  # estimate: machine, packages, agent, image and model, until the balancer sends requests
    period: float = 60
    out_periods: int = 3
    in_periods: int = 15
    in_share: float = 0.7

    def __post_init__(self) -> None:
        """Refuses what can't be.

        Raises:
            CreditRiskError: says what.
        """
        if not 0 < self.target <= self.ceiling:
            raise CreditRiskError(f"the target of {self.target:g} must be above 0 and at most {self.ceiling:g}")
        if not 1 <= self.minimum <= self.maximum:
            raise CreditRiskError(f"{self.minimum} to {self.maximum} servers make no sense; 1 ≤ minimum ≤ maximum")


def main() -> None:
    """Writes the plan and its plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=root() / "7.deploy", help="folder (default: 7.deploy)")
    into = parser.parse_args().into
    results = root() / "benchmarks" / "results"
    core = measured_core((results / "serving.md").read_text(encoding="utf-8"))
    answers = measured_registry((results / "registry.md").read_text(encoding="utf-8"))
    catalog = yaml.safe_load((root() / "7.deploy" / "prices.yaml").read_text(encoding="utf-8"))
    servers, balancer = template("servers"), template("balancer")
    policy = Policy(
        target=servers["RequestsPerServer"] / 60,
        ceiling=core.requests,
        minimum=servers["MinServers"],
        maximum=servers["MaxServers"],
    )
    runs = scaling_runs(policy)
    facts = {
        "core": core,
        "policy": policy,
        "catalog": catalog,
        "servers": servers,
        "balancer": balancer,
        "settings": {name: field.default for name, field in Settings.model_fields.items()},
        "number": number,
        "connections": CONNECTIONS,
        "requests_per_connection": REQUESTS_PER_CONNECTION,
        "connection_seconds": CONNECTION_SECONDS,
        "loads": LOADS,
        "registry_polls": answers,
        "model_mb": MODEL_MB,
        "sizes": size_table(policy, catalog),
        "costs": cost_table(policy, catalog),
        "breaks": break_table(policy, catalog, answers),
        "keepers": keeper_table(answers),
        "runs": run_table(runs),
        "day_hours": instance_hours(runs["the day"]),
        "fixed_hours": 24 * int(runs["the day"]["servers"].max()),
    }
    pages.write(root() / "7.deploy" / "capacity.md.j2", into / "capacity.md", facts)
    with replacing(into / "capacity.svg") as temporary:
        draw(runs["the day"], runs["the spike"], policy, temporary)
    print(f"wrote {into / 'capacity.md'}")


# What is read


def measured_core(text: str) -> Core:
    """Takes this API's row at CONNECTIONS out of the tables of serving.md.

    Raises:
        CreditRiskError: a table or the row is not there.
    """
    found = []
    for title in ("Requests a second", "Latency: median / 99th percentile, ms"):
        section = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in (section or [""])[0].splitlines()]
        head = next((row for row in rows if f"{CONNECTIONS} connections" in row), [])
        own = next((row for row in rows if row[0] == "this API"), [])
        if not head or len(own) != len(head):
            raise CreditRiskError(f"serving.md has no row 'this API' with {CONNECTIONS} connections below '{title}'")
        found.append(own[head.index(f"{CONNECTIONS} connections")])
    requests, latency = found
    return Core(float(requests.replace(",", "")), float(latency.split("/")[1].replace(",", "")))


class _Template(yaml.SafeLoader):
    """CloudFormation's YAML; its functions (!Sub …) are of no interest here."""


_Template.add_multi_constructor("!", lambda *_: None)


def measured_registry(text: str) -> float:
    """How often a registry says who is champion, a second, by registry.md.

    Raises:
        CreditRiskError: it does not say.
    """
    found = re.search(r"who is champion (\d+) times a second", text)
    if not found:
        raise CreditRiskError("registry.md does not say how often it tells the champion; run benchmarks/registry.py")
    return float(found[1])


def template(name: str) -> dict[str, Any]:
    """The defaults of a template's parameters."""
    path = root() / "7.deploy" / "aws" / f"{name}.yaml"
    parameters = yaml.load(path.read_text(encoding="utf-8"), _Template)["Parameters"]  # noqa: S506 (a safe loader)
    return {key: value["Default"] for key, value in parameters.items() if "Default" in value}


# What is computed


def servers_for(load: float, policy: Policy) -> int:
    """Servers that scaling aims at for a load in requests a second, whatever the maximum is."""
    return max(policy.minimum, math.ceil(load / policy.target - 1e-9))


def lcus(per_unit: dict[str, float], new: float, active: float, gb_hour: float, evaluations: float) -> dict[str, float]:
    """Load balancer units by dimension; the largest is paid.

    Args:
        per_unit: what one unit holds, `lcu` of prices.yaml.
        new: connections opened a second.
        active: connections open at a time.
        gb_hour: requests and answers, in GB an hour.
        evaluations: rules evaluated a second beyond the free ones, summed over requests.

    Source: https://aws.amazon.com/elasticloadbalancing/pricing/
    """
    return {
        "new connections": new / per_unit["new_connections_second"],
        "active connections": active / per_unit["active_connections"],
        "bytes": gb_hour / per_unit["gb_hour"],
        "rules": evaluations / per_unit["rule_evaluations_second"],
    }


def lcus_for(load: float, per_unit: dict[str, float], rules: int = 1) -> dict[str, float]:
    """The units of a load in requests a second, with the estimates above; the balancer has one rule."""
    new = load / REQUESTS_PER_CONNECTION
    gb_hour = load * (REQUEST_BYTES + ANSWER_BYTES) * 3600 / 1e9
    return lcus(per_unit, new, new * CONNECTION_SECONDS, gb_hour, load * max(0, rules - per_unit["free_rules"]))


def monthly_cost(load: float, servers: int, units: float, prices: Prices) -> Prices:
    """What a month at a constant load costs, by item.

    Args:
        load: requests a second.
        servers: of the API, all month.
        units: load balancer units, all month.
        prices: by name, as in prices.yaml.
    """
    month = load * MONTH_SECONDS  # requests
    registry = prices["balancer_hour"] + prices["database_hour"]
    registry += prices["fargate_cpu_hour"] + 3 * prices["fargate_gb_hour"]
    server = prices["server_hour"] * MONTH_HOURS + 20 * prices["disk_gb_month"] + prices["monitoring_month"]
    return {
        "servers": servers * server,
        "balancer": (prices["balancer_hour"] + units * prices["lcu_hour"]) * MONTH_HOURS,
        "firewall": prices["firewall_month"]
        + 2 * prices["firewall_rule_month"]
        + month / 1e6 * prices["firewall_million"],
        "answers to the internet": month * ANSWER_BYTES / 1e9 * prices["out_gb"],
        "access logs, once a year of them is kept": 12 * month * LOG_BYTES / 1e9 * prices["s3_gb_month"],
        "registry": registry * MONTH_HOURS + 20 * prices["database_gb_month"] + KEPT_GB * prices["s3_gb_month"],
        # One NAT gateway; its address and the balancer's two; six secrets, a key, three alarms and two for each policy.
        "network and small things": (prices["nat_hour"] + 3 * prices["address_hour"]) * MONTH_HOURS
        + 6 * prices["secret_month"]
        + prices["key_month"]
        + 7 * prices["alarm_month"]
        + prices["zone_month"]
        + KEPT_GB * prices["image_gb_month"],
    }


def peak_polls(keepers: int, seconds: float, jitter: float, minutes: int = 10) -> int:
    """Most polls in any second of the last of so many minutes, when all keepers have started at once."""
    draws = int(minutes * 60 / seconds / (1 - jitter)) + 1
    pauses = seconds * np.random.default_rng(7).uniform(1 - jitter, 1 + jitter, (keepers, draws))
    times = pauses.cumsum(axis=1).ravel()
    last = times[(times >= (minutes - 1) * 60) & (times < minutes * 60)]
    return int(np.bincount(last.astype(int)).max(initial=0))


def simulate(offered: np.ndarray, policy: Policy) -> pd.DataFrame:
    """Follows a load in steps of STEP seconds; begins with the servers that its first step wants.

    Requests beyond the ceiling of the ready servers are shed (503) and lost: nobody asks again. The metric is there at
    the end of its minute, which CloudWatch does not promise.

    Args:
        offered: requests a second, a value a step.
        policy: how servers come and go.

    Returns:
        A row a step: `seconds`; requests a second `offered`, `served`, `shed`; `servers` (paid), `ready` of them.

    Raises:
        CreditRiskError: there is no load, or a value is no rate.
    """
    if not len(offered) or not np.isfinite(offered).all() or (offered < 0).any():
        raise CreditRiskError("the offered load must be requests a second, none below zero")
    steps = round(policy.period / STEP)
    ready_at = [0.0] * min(policy.maximum, servers_for(float(offered[0]), policy))
    above = below = 0
    rows = []
    for step, rate in enumerate(offered.tolist()):
        now = step * STEP
        ready = sum(moment <= now for moment in ready_at)
        served = min(rate, ready * policy.ceiling)
        rows.append((now, rate, served, rate - served, len(ready_at), ready))
        if (step + 1) % steps:
            continue
        mean = float(offered[step + 1 - steps : step + 1].mean())
        above = above + 1 if mean / ready > policy.target else 0
        below = below + 1 if mean / ready < policy.in_share * policy.target else 0
        wanted = min(policy.maximum, servers_for(mean, policy))
        if above >= policy.out_periods and wanted > len(ready_at):
            ready_at += [now + STEP + policy.boot] * (wanted - len(ready_at))
        elif below >= policy.in_periods and ready == len(ready_at) > wanted:
            del ready_at[wanted:]
            below = 0
    return pd.DataFrame(rows, columns=["seconds", "offered", "served", "shed", "servers", "ready"])


def shed_share(run: pd.DataFrame) -> float:
    """Requests shed, of those offered."""
    return float(run["shed"].sum() / run["offered"].sum())


def instance_hours(run: pd.DataFrame) -> float:
    """Hours of servers that are paid, from launch to end."""
    return float(run["servers"].sum() * STEP / 3600)


def day_curve() -> np.ndarray:
    """A day's load: quiet at night, two humps, 10,000 requests a second on average."""
    hours = np.arange(0, 24, STEP / 3600)
    shape = 0.2 + np.exp(-(((hours - 11) / 2.2) ** 2)) + 0.9 * np.exp(-(((hours - 16.5) / 2.5) ** 2))
    return np.asarray(10_000 * shape / shape.mean())


def spike_curve() -> np.ndarray:
    """Two hours at 10,000 requests a second, of which half an hour is at ten times that."""
    offered = np.full(2 * 3600 // STEP, 10_000.0)
    offered[30 * 60 // STEP : 60 * 60 // STEP] *= 10
    return offered


def scaling_runs(policy: Policy) -> dict[str, pd.DataFrame]:
    """The day, the spike, and the spike against each measure."""
    wanted = servers_for(float(spike_curve().max()), policy)
    measures = {
        "the spike": policy,
        f"… with at most {wanted} servers": replace(policy, maximum=wanted),
        "… with servers that are ready in 60 s": replace(policy, boot=60),
        f"… with at least {policy.maximum // 2} servers": replace(policy, minimum=policy.maximum // 2),
        f"… with at least {policy.maximum} servers": replace(policy, minimum=policy.maximum),
    }
    return {"the day": simulate(day_curve(), policy)} | {
        name: simulate(spike_curve(), measure) for name, measure in measures.items()
    }


# What is told


def draw(day: pd.DataFrame, spike: pd.DataFrame, policy: Policy, path: Path) -> None:
    """Load against what the ready servers bear, and the servers below it."""
    mpl.use("Agg")
    look: dict[Any, Any] = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "svg.hashsalt": "capacity",  # the same picture, the same bytes
    }
    with mpl.rc_context(look):
        figure, grid = plt.subplots(2, 2, figsize=(9, 5), layout="constrained", height_ratios=(2, 1), sharex="col")
        columns: tuple[tuple[pd.DataFrame, float, str], ...] = (
            (day, 3600, "A day: hours"),
            (spike, 60, "Ten times the load, for half an hour: minutes"),
        )
        for (upper, lower), (run, unit, name) in zip(np.transpose(grid), columns, strict=True):
            draw_run(upper, lower, run, unit, policy.ceiling)
            lower.set_xlabel(name)
        grid[0, 0].set_ylabel("thousand requests a second")
        grid[1, 0].set_ylabel("servers")
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        grid[1, 1].legend()
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)


def draw_run(upper: Axes, lower: Axes, run: pd.DataFrame, unit: float, ceiling: float) -> None:
    """One column of the plot, about 360 points wide; `unit` is the seconds of its time axis."""
    run = run.iloc[:: max(1, len(run) // 360)]
    time = run["seconds"] / unit
    upper.plot(
        time,
        run["ready"] * ceiling / 1e3,
        color=GREEN,
        linestyle="--",
        drawstyle="steps-post",
        label="what ready servers bear",
    )
    upper.plot(time, run["offered"] / 1e3, color=BLUE, drawstyle="steps-post", label="offered")
    served, offered = run["served"] / 1e3, run["offered"] / 1e3
    upper.fill_between(time, served, offered, color=ORANGE, alpha=0.6, step="post", label="shed")
    upper.set_ylim(bottom=0)
    lower.step(time, run["servers"], where="post", color=ORANGE, linestyle=":", label="paid")
    lower.step(time, run["ready"], where="post", color=GREEN, label="ready")
    lower.set_ylim(0, run["servers"].max() + 1)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    names = list(head)
    lines = [names, ["---", *["---:"] * (len(names) - 1)], *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """With thousands' commas; three digits below a hundred."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"  # noqa: PLR2004


def size_table(policy: Policy, catalog: dict[str, Any]) -> str:
    """What each load needs."""
    rows: dict[str, list[str]] = {}
    for load in LOADS:
        servers = servers_for(load, policy)
        units = lcus_for(load, catalog["lcu"])
        largest = max(units, key=lambda name: units[name])
        cells = {
            "servers": number(servers),
            "a server's share of its ceiling": f"{load / servers / policy.ceiling:.0%}",
            "the same when a zone is lost": f"{load / (servers // 2) / policy.ceiling:.0%}",
            "balancer units (LCU)": f"{number(units[largest])} ({largest})",
            "polls of the registry a second": number(servers / Settings.model_fields["keeper_seconds"].default),
            "MB of a new champion to all servers": number(servers * MODEL_MB),
        }
        for name, cell in cells.items():
            rows.setdefault(name, []).append(cell)
    return table(("requests a second", *map(number, LOADS)), ([name, *cells] for name, cells in rows.items()))


def cost_table(policy: Policy, catalog: dict[str, Any]) -> str:
    """What each load costs a month."""
    prices = {name: float(entry["price"]) for name, entry in catalog["prices"].items()}
    costs = []
    for load in LOADS:
        units = max(lcus_for(load, catalog["lcu"]).values())
        costs.append(monthly_cost(load, servers_for(load, policy), units, prices))
    rows = [[name, *(f"{cost[name]:,.0f}" for cost in costs)] for name in costs[0]]
    rows.append(["**together**", *(f"**{sum(cost.values()):,.0f}**" for cost in costs)])
    return table(("USD a month at … requests a second", *map(number, LOADS)), rows)


def break_table(policy: Policy, catalog: dict[str, Any], answers: float) -> str:
    """How much of each limit each load takes."""
    limits = {name: float(entry["limit"]) for name, entry in catalog["limits"].items()}
    keeper = float(Settings.model_fields["keeper_seconds"].default)
    rows: dict[str, list[str]] = {}
    for load in LOADS:
        servers = servers_for(load, policy)
        shares = {
            "`MaxServers` of servers.yaml": servers / policy.maximum,
            "registry: polls that the measured one answers": servers / keeper / answers,
            "firewall: requests a second": load / limits["firewall_requests_second"],
            "balancer: units that can be reserved": max(lcus_for(load, catalog["lcu"]).values())
            / limits["reserved_lcus_per_balancer"],
            "balancer: targets": servers / limits["targets_per_balancer"],
            "S3: downloads of a new champion a second, all at once": servers
            * MODEL_FILES
            / keeper
            / limits["s3_gets_second"],
        }
        for name, share in shares.items():
            rows.setdefault(name, []).append(f"**{share:.0%}**" if share > 1 else f"{share:.1%}")
    return table(("share of a limit at … requests a second", *map(number, LOADS)), ([n, *c] for n, c in rows.items()))


def keeper_table(answers: float, keepers: int = 1000) -> str:
    """A thousand keepers that ask one registry, by the pause between two questions."""
    rows = []
    for seconds in (float(Settings.model_fields["keeper_seconds"].default), 10, 30, 60):
        polls = keepers / seconds
        peaks = (peak_polls(keepers, seconds, jitter) for jitter in (0, JITTER))
        rows.append([number(seconds), number(polls), f"{polls / answers:.0%}", *map(number, peaks)])
    head = ("`KEEPER_SECONDS`", "polls a second", "of the measured registry", "worst second, no jitter", "with jitter")
    return table(head, rows)


def run_table(runs: dict[str, pd.DataFrame]) -> str:
    """What each simulation showed."""
    rows = [
        [name, f"{shed_share(run):.1%}", f"{run['ready'].max()}", f"{instance_hours(run):.1f}"]
        for name, run in runs.items()
    ]
    return table(("", "shed of all requests", "most servers", "instance-hours"), rows)


if __name__ == "__main__":
    run("capacity", main)
