"""The capacity plan: small cases calculated independently, and the committed page."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from projects import REPOSITORY, Project, script

plan = SimpleNamespace(**script(Project(REPOSITORY), "7.deploy/capacity.py"))
PRICES = yaml.safe_load((REPOSITORY / "7.deploy" / "prices.yaml").read_text())["prices"]


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


def test_benchmark_result_is_read() -> None:
    head = "| server | 1 connection | 16 connections |\n| --- | ---: | ---: |\n"
    assert plan.requests_per_core(f"{head}| other | 1 | 2 |\n| this API | 10 | 1,234 |\n") == 1234


def test_committed_page_is_current(tmp_path: Path) -> None:
    output = tmp_path / "capacity.md"
    subprocess.run([sys.executable, REPOSITORY / "7.deploy" / "capacity.py", "--output", output], check=True)
    committed = (REPOSITORY / "7.deploy" / "capacity.md").read_text()
    assert output.read_text() == committed, "run `uv run 7.deploy/capacity.py`"
