"""Computes the capacity plan: servers, load balancer units, registry traffic and cost for three loads, and scaling.

Reads:  benchmarks/results/serving.md and registry.md (what one core and a registry do); of 7.deploy: aws/*.yaml (what
        scaling aims at), prices.yaml, capacity.md.j2
Writes: 7.deploy/capacity.md, 7.deploy/capacity.svg

Usage: uv run 7.deploy/capacity.py [--into 7.deploy]
"""

import argparse
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from planning.costs import CONNECTION_SECONDS, REQUESTS_PER_CONNECTION, lcus_for, monthly_cost
from planning.scaling import (
    Policy,
    draw,
    instance_hours,
    peak_polls,
    scaling_runs,
    servers_for,
    shed_share,
)

from credit_risk.core.entry_point import run
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing
from credit_risk.core.paths import root
from credit_risk.core.settings import Settings
from credit_risk.report import templates

LOADS = (100, 10_000, 1_000_000)  # requests a second, all month long
CONNECTIONS = 16  # the column of the measurement: enough to fill the core, few enough for a steady 99th percentile
JITTER = 0.2  # of model_sync.py: each pause is MODEL_SYNC_SECONDS times 0.8 to 1.2
MODEL_MB, MODEL_FILES = 0.29, 2  # ONNX form and reference rows, of the committed parameters


@dataclass(frozen=True)
class Core:
    """What one worker on one core was measured to do: requests a second, and its 99th percentile in milliseconds."""

    requests: float
    p99_ms: float


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
    templates.write(root() / "7.deploy" / "capacity.md.j2", into / "capacity.md", facts)
    with replacing(into / "capacity.svg") as temporary:
        draw(runs["the day"], runs["the spike"], policy, temporary)
    print(f"wrote {into / 'capacity.md'}")


# What is read


def measured_core(text: str) -> Core:
    """Takes this API's row at CONNECTIONS out of the tables of serving.md.

    Raises:
        ProjectError: a table or the row is not there.
    """
    found = []
    for title in ("Requests a second", "Latency: median / 99th percentile, ms"):
        section = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in (section or [""])[0].splitlines()]
        head = next((row for row in rows if f"{CONNECTIONS} connections" in row), [])
        own = next((row for row in rows if row[0] == "this API"), [])
        if not head or len(own) != len(head):
            raise ProjectError(f"serving.md has no row 'this API' with {CONNECTIONS} connections below '{title}'")
        found.append(own[head.index(f"{CONNECTIONS} connections")])
    requests, latency = found
    return Core(float(requests.replace(",", "")), float(latency.split("/")[1].replace(",", "")))


class _Template(yaml.SafeLoader):
    """CloudFormation's YAML; its functions (!Sub …) are of no interest here."""


_Template.add_multi_constructor("!", lambda *_: None)


def measured_registry(text: str) -> float:
    """How often a registry says who is champion, a second, by registry.md.

    Raises:
        ProjectError: it does not say.
    """
    found = re.search(r"who is champion (\d+) times a second", text)
    if not found:
        raise ProjectError("registry.md does not say how often it tells the champion; run benchmarks/registry.py")
    return float(found[1])


def template(name: str) -> dict[str, Any]:
    """The defaults of a template's parameters."""
    path = root() / "7.deploy" / "aws" / f"{name}.yaml"
    parameters = yaml.load(path.read_text(encoding="utf-8"), _Template)["Parameters"]  # noqa: S506 (a safe loader)
    return {key: value["Default"] for key, value in parameters.items() if "Default" in value}


# What is told


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
            "polls of the registry a second": number(servers / Settings.model_fields["model_sync_seconds"].default),
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
    keeper = float(Settings.model_fields["model_sync_seconds"].default)
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
    for seconds in (float(Settings.model_fields["model_sync_seconds"].default), 10, 30, 60):
        polls = keepers / seconds
        peaks = (peak_polls(keepers, seconds, jitter) for jitter in (0, JITTER))
        rows.append([number(seconds), number(polls), f"{polls / answers:.0%}", *map(number, peaks)])
    head = (
        "`MODEL_SYNC_SECONDS`",
        "polls a second",
        "of the measured registry",
        "worst second, no jitter",
        "with jitter",
    )
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
