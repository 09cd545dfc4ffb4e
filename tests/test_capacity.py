"""The capacity plan: small cases calculated independently, and the committed page."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from clouds import resources
from projects import REPOSITORY, Project, script

plan = SimpleNamespace(**script(Project(REPOSITORY), "7.deploy/capacity.py"))
DEPLOY = REPOSITORY / "7.deploy"
CATALOG = yaml.safe_load((DEPLOY / "prices.yaml").read_text())
PRICES = CATALOG["prices"]


@pytest.mark.parametrize(("load", "servers"), [(0, 2), (100, 2), (100.1, 3), (1000, 20)])
def test_servers_for_a_load(load: float, servers: int) -> None:
    assert plan.servers_for(load, 50) == servers


def test_load_balancer_units() -> None:
    # 10,000 requests/s: 100 new connections/s (4 units), 3,000 active (1 unit), 766 bytes a request (27.6 GB/h).
    assert plan.balancer_units(10_000) == pytest.approx(766 * 10_000 * 3600 / 1e9)


def test_each_price_counts_and_names_its_source() -> None:
    total = sum(plan.monthly_cost(100, 2, PRICES).values())
    for name, entry in PRICES.items():
        assert ("source" in entry) != ("assumed" in entry), name
        dearer = PRICES | {name: entry | {"price": entry["price"] + 1}}
        assert sum(plan.monthly_cost(100, 2, dearer).values()) > total, name


def test_cost_of_a_month() -> None:
    prices = {"server_hour": 0.1, "firewall_million": 0.5}
    cost = plan.monthly_cost(1000, 3, {name: PRICES[name] | {"price": price} for name, price in prices.items()})
    # 1,000 requests per second are 2,628 million in 730 hours.
    assert cost == {"servers": pytest.approx(3 * 0.1 * 730), "firewall": pytest.approx(2628 * 0.5)}


def test_cost_of_a_set_without_requests() -> None:
    prices = {"server_hour": PRICES["server_hour"] | {"price": 0.1}, "nat_hour": PRICES["nat_hour"] | {"price": 0.05}}
    small = {"servers": 1, "changes": {"server_hour": {"price": 0.02}, "nat_hour": {"fixed": 1460}}}
    cost = plan.idle_cost({"prices": prices, "sets": {"small": small}}, "small")
    assert cost == {"servers": pytest.approx(0.02 * 730), "network and others": pytest.approx(0.05 * 1460)}


def test_runbook_states_the_calculated_costs_and_parameters() -> None:
    runbook = " ".join((REPOSITORY / "7.deploy" / "runbook.md").read_text().split())
    stated = re.findall(r"about \[?(\d+) USD instead of (\d+)", runbook)
    totals = [round(sum(plan.idle_cost(CATALOG, name).values())) for name in ("small", "usual")]
    assert [tuple(map(int, found)) for found in stated] == [tuple(totals)]
    for name, chosen in CATALOG["sets"].items():
        assert set(chosen["changes"]) <= set(PRICES)
        assert [given for given in chosen["parameters"] if given not in runbook] == [], name


def test_fixed_amounts_are_those_of_the_templates() -> None:
    """Prices without a load: alarms by metric, rules, secrets (one is of API keys), keys, load balancers."""
    alarms = [alarm for _, alarm in resources("AWS::CloudWatch::Alarm")]
    (firewall,) = resources("AWS::WAFv2::WebACL")
    amounts = {
        "alarm_month": sum(sum("MetricStat" in each for each in alarm.get("Metrics", [])) or 1 for alarm in alarms),
        "firewall_rule_month": len(firewall[1]["Rules"]),
        "secret_month": len([*resources("AWS::SecretsManager::Secret")]) + 1,
        "key_month": len([*resources("AWS::KMS::Key")]),
        "balancer_hour": len([*resources("AWS::ElasticLoadBalancingV2::LoadBalancer")]) * 730,
    }
    assert {name: PRICES[name]["fixed"] for name in amounts} == amounts


def test_no_price_is_written_by_hand() -> None:
    """In runbook and templates; the capacity plan has them, and the runbook its totals."""
    totals = {str(round(sum(plan.idle_cost(CATALOG, name).values()))) for name in CATALOG["sets"]}
    for path in (*(DEPLOY / "aws").glob("*.yaml"), *DEPLOY.glob("*.md")):
        if path.name != "capacity.md":
            assert {*re.findall(r"([\d.,]+) USD", path.read_text())} <= totals, path.name


def test_benchmark_result_is_read() -> None:
    head = "| server | 1 connection | 16 connections |\n| --- | ---: | ---: |\n"
    assert plan.requests_per_core(f"{head}| other | 1 | 2 |\n| this API | 10 | 1,234 |\n") == 1234


def test_committed_page_is_current(tmp_path: Path) -> None:
    output = tmp_path / "capacity.md"
    subprocess.run([sys.executable, REPOSITORY / "7.deploy" / "capacity.py", "--output", output], check=True)
    committed = (REPOSITORY / "7.deploy" / "capacity.md").read_text()
    assert output.read_text() == committed, "run `uv run 7.deploy/capacity.py`"
