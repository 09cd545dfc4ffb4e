"""Writes the capacity plan: servers, cost per month and limits for three loads.

Reads:  benchmarks/results/serving.md, 7.deploy/prices.yaml, 7.deploy/aws/servers.yaml
Writes: 7.deploy/capacity.md

Usage: uv run 7.deploy/capacity.py [--output FILE]
"""

import argparse
import math
import re
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).resolve().parent
BENCHMARK = DEPLOY.parent / "benchmarks" / "results" / "serving.md"
LOADS = (100, 10_000, 1_000_000)  # requests per second, constant for a month
MONTH_SECONDS = 730 * 3600
TRANSFER_BYTES = 490 + 276  # request and response, measured with an API key and without TLS
REQUESTS_PER_CONNECTION, CONNECTION_SECONDS = 100, 30  # assumed

PAGE = """# Capacity plan

Written by `uv run 7.deploy/capacity.py`. **Measured:** one worker on one core answers {core:,.0f} requests per second
([serving.md](../benchmarks/results/serving.md), 16 connections). **Estimated:** everything else; run
`benchmarks/serving.py` on a {instance} before you rely on it.

Auto Scaling aims at {target:,.0f} requests per second and server (`RequestsPerServer`), {share:.0%} of the measured
core: one zone can carry the load of both. Two servers are the minimum.

{costs}

Before the first request, for the runbook's two sets (the usual one has a second NAT gateway; the table above has one):

{sets}

List prices of {date} in {region}: **check them first**; [prices.yaml](prices.yaml) has the sources. Not included:
taxes, support, discounts, API logs, traffic between zones, jobs on CodeBuild. No source was found for, and assumed are:
{assumed}.

{limits}

A client address may send `RequestsPerClient` requests in five minutes; more get 429. With many servers, raise
`ModelSyncSeconds`: they poll the registry less often and follow a promotion later.
"""


def main() -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEPLOY / "capacity.md", help="default: 7.deploy/capacity.md")
    output = parser.parse_args().output
    catalog = yaml.safe_load((DEPLOY / "prices.yaml").read_text(encoding="utf-8"))
    quotas = {name: entry["limit"] for name, entry in catalog["limits"].items()}
    core = requests_per_core(BENCHMARK.read_text(encoding="utf-8"))
    target = float(parameter_default("RequestsPerServer")) / 60
    bills = [monthly_cost(load, servers_for(load, target), catalog["prices"]) for load in LOADS]
    rows = [("number of servers", *(f"{servers_for(load, target):,}" for load in LOADS))]
    rows += [(f"{item}, USD per month", *(f"{bill[item]:,.0f}" for bill in bills)) for item in bills[0]]
    rows += [("**total**, USD per month", *(f"**{sum(bill.values()):,.0f}**" for bill in bills))]
    limits = {
        "`MaxServers` of servers.yaml": float(parameter_default("MaxServers")) * target,
        "firewall requests per second": quotas["firewall_requests_second"],
        "targets per load balancer": quotas["targets_per_balancer"] * target,
    }
    values = {"core": core, "target": target, "share": target / core, "instance": parameter_default("InstanceType")}
    values |= {"date": catalog["date"], "region": catalog["region"]}
    values["costs"] = table(("requests per second", *(f"{load:,}" for load in LOADS)), rows)
    idle = {name: idle_cost(catalog, name) for name in catalog["sets"]}
    sets = [(f"{item}, USD per month", *(f"{bill[item]:,.0f}" for bill in idle.values())) for item in bills[0]]
    sets.append(("**total**, USD per month", *(f"**{sum(bill.values()):,.0f}**" for bill in idle.values())))
    values["sets"] = table(("set", *idle), sets)
    values["limits"] = table(("limit", "reached at"), [(name, f"{limit:,.0f}") for name, limit in limits.items()])
    assumed = [f"`{name}`" for name, price in catalog["prices"].items() if "assumed" in price]
    for name, chosen in catalog["sets"].items():
        assumed += [f"`{key}` of {name}" for key, change in chosen["changes"].items() if "assumed" in change]
    values["assumed"] = ", ".join(assumed)
    output.write_text(PAGE.format(**values), encoding="utf-8")


def requests_per_core(text: str) -> float:
    """Requests per second of this API with 16 connections, from the first table of serving.md."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    column = next(row.index("16 connections") for row in rows if "16 connections" in row)
    return float(next(row[column] for row in rows if row[0] == "this API").replace(",", ""))


def parameter_default(name: str) -> str:
    """The default of a parameter of servers.yaml."""
    text = (DEPLOY / "aws" / "servers.yaml").read_text(encoding="utf-8")
    return str(re.findall(rf"^  {name}:.*?Default: ([\w.]+)", text, re.MULTILINE | re.DOTALL)[0])


def servers_for(load: float, target: float) -> int:
    """Servers for a load when each takes `target` requests per second; at least two, one in each zone."""
    return max(2, math.ceil(load / target))


def balancer_units(load: float) -> float:
    """Load balancer capacity units: the largest of 25 new or 3,000 open connections and 1 GB per hour.

    Source: https://aws.amazon.com/elasticloadbalancing/pricing/
    """
    connections = load / REQUESTS_PER_CONNECTION
    return max(connections / 25, connections * CONNECTION_SECONDS / 3000, load * TRANSFER_BYTES * 3600 / 1e9)


def monthly_cost(load: float, servers: int, prices: dict[str, Any]) -> dict[str, float]:
    """USD per month by item; `load` in requests per second, `prices` as in prices.yaml."""
    used = {
        "fixed": 1,
        "per_server": servers,
        "per_lcu": balancer_units(load),
        "per_million": load * MONTH_SECONDS / 1e6,
    }
    cost: dict[str, float] = {}
    for entry in prices.values():
        units = sum(amount * entry.get(name, 0) for name, amount in used.items())
        cost[entry["item"]] = cost.get(entry["item"], 0) + units * entry["price"]
    return cost


def idle_cost(catalog: dict[str, Any], name: str) -> dict[str, float]:
    """USD per month by item of a set of prices.yaml that gets no requests."""
    chosen = catalog["sets"][name]
    prices = {key: entry | chosen["changes"].get(key, {}) for key, entry in catalog["prices"].items()}
    return monthly_cost(0, chosen["servers"], prices)


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; all columns but the first are right-aligned."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ("---", *["---:"] * (len(header) - 1)), *rows))


if __name__ == "__main__":
    main()
