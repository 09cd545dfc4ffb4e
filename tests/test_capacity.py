"""The capacity plan: small cases that can be checked by hand, and that the committed plan is what the script makes."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from planning import costs, scaling
from projects import REPOSITORY, Project, script

from credit_risk.core.errors import ProjectError

plan = SimpleNamespace(**script(Project(REPOSITORY), "7.deploy/capacity.py"))
CATALOG = yaml.safe_load((REPOSITORY / "7.deploy" / "prices.yaml").read_text())
MINUTE = 60 // scaling.STEP  # steps


def policy(**changes: Any) -> Any:
    """A server is aimed at 50 requests a second and bears 100; a new one is ready after two minutes."""
    return scaling.Policy(**{"target": 50, "ceiling": 100, "minimum": 1, "maximum": 10, "boot": 120} | changes)


def steps(*parts: tuple[float, float]) -> np.ndarray:
    """A load from pairs of minutes and requests a second."""
    return np.concatenate([np.full(round(minutes * MINUTE), rate) for minutes, rate in parts])


def simulate(offered: np.ndarray, **changes: Any) -> pd.DataFrame:
    run: pd.DataFrame = scaling.simulate(offered, policy(**changes))
    return run


@pytest.mark.parametrize(("load", "servers"), [(0, 1), (50, 1), (50.1, 2), (100, 2), (1000, 20)])
def test_servers_for_a_load_with_headroom(load: float, servers: int) -> None:
    assert scaling.servers_for(load, policy()) == servers


def test_a_minimum_stays_whatever_the_load_is() -> None:
    assert scaling.servers_for(10, policy(minimum=3)) == 3


@pytest.mark.parametrize(
    ("dimension", "used"),
    [("new connections", {"new": 50}), ("active connections", {"active": 6000}), ("bytes", {"gb_hour": 2})],
)
def test_units_by_each_dimension(dimension: str, used: dict[str, float]) -> None:
    units = costs.lcus(CATALOG["lcu"], **{"new": 0, "active": 0, "gb_hour": 0, "evaluations": 0} | used)
    assert units.pop(dimension) == 2
    assert set(units.values()) == {0}


def test_rules_are_free_up_to_ten() -> None:
    assert costs.lcus_for(1000, CATALOG["lcu"], rules=10)["rules"] == 0
    assert costs.lcus_for(1000, CATALOG["lcu"], rules=13)["rules"] == 3


def test_the_units_of_a_load_follow_from_its_bytes_and_connections() -> None:
    units = costs.lcus_for(10_000, CATALOG["lcu"])  # 100 connections a second, of 30 s each; 766 bytes a request
    assert units["new connections"] == pytest.approx(4)
    assert units["active connections"] == pytest.approx(1)
    assert units["bytes"] == pytest.approx(766 * 10_000 * 3600 / 1e9)


def test_each_price_counts_and_says_where_it_is_from() -> None:
    prices = {name: entry["price"] for name, entry in CATALOG["prices"].items()}
    before = sum(costs.monthly_cost(100, 2, 1, prices).values())
    for name, entry in CATALOG["prices"].items():
        assert ("source" in entry) != ("assumed" in entry), name
        assert sum(costs.monthly_cost(100, 2, 1, prices | {name: entry["price"] + 1}).values()) > before, name


def test_the_cost_of_a_month_by_hand() -> None:
    free = dict.fromkeys(CATALOG["prices"], 0.0)
    cost = costs.monthly_cost(1_000, 3, 10, free | {"server_hour": 0.1, "lcu_hour": 0.01, "firewall_million": 0.5})
    assert cost["servers"] == pytest.approx(3 * 0.1 * 730)
    assert cost["balancer"] == pytest.approx(10 * 0.01 * 730)
    assert cost["firewall"] == pytest.approx(2628 * 0.5)  # 1,000 a second are 2,628 million in 730 hours
    assert sum(cost.values()) == pytest.approx(219 + 73 + 1314)


def test_jitter_spreads_the_polls_that_began_at_once() -> None:
    assert scaling.peak_polls(100, 30, 0) == 100
    assert 100 / 30 <= scaling.peak_polls(100, 30, 0.2) <= 30


def test_a_constant_load_changes_nothing() -> None:
    run = simulate(steps((60, 95)))
    assert set(run["servers"]) == {2}
    assert run["shed"].sum() == 0
    assert scaling.instance_hours(run) == pytest.approx(2)


def test_a_step_is_shed_until_new_servers_are_ready() -> None:
    run = simulate(steps((10, 50), (20, 400)))
    # Three minutes until the alarm, two until they are ready; meanwhile one server bears 100 of 400.
    shedding = run[run["shed"] > 0]
    assert shedding["seconds"].min() == 600
    assert shedding["seconds"].max() == 600 + 180 + 120 - scaling.STEP
    assert set(shedding["shed"]) == {300}
    assert run["servers"].iloc[-1] == run["ready"].iloc[-1] == 8
    assert scaling.shed_share(run) == pytest.approx(300 * 300 / (600 * 50 + 1200 * 400))


def test_servers_are_paid_from_their_launch_on() -> None:
    run = simulate(steps((10, 50), (20, 400)))
    assert scaling.instance_hours(run) == pytest.approx((13 * 1 + 17 * 8) / 60)
    assert run["ready"].sum() * scaling.STEP / 3600 == pytest.approx((15 * 1 + 15 * 8) / 60)


def test_two_minutes_above_the_target_start_no_server() -> None:
    assert set(simulate(steps((10, 50), (2, 400), (10, 50)))["servers"]) == {1}


def test_servers_go_after_a_quarter_of_an_hour_below() -> None:
    run = simulate(steps((10, 400), (20, 50)))
    assert set(run["servers"][run["seconds"] < 25 * 60]) == {8}
    assert set(run["servers"][run["seconds"] >= 25 * 60]) == {1}


def test_slightly_below_the_target_no_server_goes() -> None:
    assert set(simulate(steps((10, 400), (60, 0.75 * 400)))["servers"]) == {8}


def test_minimum_and_maximum_hold() -> None:
    run = simulate(steps((10, 100), (30, 900), (60, 0)), minimum=2, maximum=5)
    assert (run["servers"].min(), run["servers"].max()) == (2, 5)
    assert run[run["seconds"] == 39 * 60]["shed"].item() == 900 - 5 * 100


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=60), st.integers(1, 3), st.integers(0, 20))
def test_requests_are_conserved(rates: list[float], minimum: int, more: int) -> None:
    offered = np.repeat(rates, MINUTE)
    run = simulate(offered, minimum=minimum, maximum=minimum + more)
    assert (run["served"] + run["shed"]).to_numpy() == pytest.approx(offered)
    assert (run["served"] <= run["ready"] * 100).all()
    assert (run["shed"] >= 0).all()
    assert run["servers"].between(minimum, minimum + more).all()


@pytest.mark.parametrize("offered", [[], [-1.0], [float("nan")]])
def test_a_load_that_is_none_is_refused(offered: list[float]) -> None:
    with pytest.raises(ProjectError, match="none below zero"):
        scaling.simulate(np.array(offered), policy())


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"target": 0}, "target"), ({"target": 101}, "target"), ({"minimum": 0}, "minimum"), ({"minimum": 11}, "minimum")],
)
def test_a_policy_that_can_not_be_is_refused(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(ProjectError, match=what):
        policy(**changes)


def test_the_measured_core_is_read_from_the_benchmark() -> None:
    head = "| server | 1 connection | 16 connections |\n| --- | ---: | ---: |\n"
    requests = f"## Requests a second\n\n{head}| other | 1 | 2 |\n| this API | 10 | 1,234 |\n"
    latency = f"\n## Latency: median / 99th percentile, ms\n\n{head}| this API | 0.1 / 0.2 | 1.13 / 2.20 |\n"
    assert plan.measured_core(requests + latency) == plan.Core(1234, 2.2)
    with pytest.raises(ProjectError, match="no row 'this API' with 16 connections below 'Latency"):
        plan.measured_core(requests)
    with pytest.raises(ProjectError, match="below 'Requests"):
        plan.measured_core(
            latency.replace("16 connections", "8 connections") + requests.replace("this API", "that API")
        )


def test_the_measured_registry_is_read_from_the_benchmark() -> None:
    assert plan.measured_registry("The server says who is champion 120 times a second, asked by 8") == 120
    with pytest.raises(ProjectError, match=r"run benchmarks/registry\.py"):
        plan.measured_registry("| preflight | 0.09 | 0.09 |")


def test_the_committed_plan_is_what_the_script_makes(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "7.deploy" / "capacity.py"), "--into", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    committed = (REPOSITORY / "7.deploy" / "capacity.md").read_text()
    assert (tmp_path / "capacity.md").read_text() == committed
    drawn = (tmp_path / "capacity.svg").read_bytes()
    assert b"<svg" in drawn
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "capacity.svg").read_bytes() == drawn
