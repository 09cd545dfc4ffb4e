"""The capacity plan: its rules by hand, its simulation, and that the committed page is what it computes."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from projects import REPOSITORY, Project, script

SCRIPT = "7.deploy/capacity.py"
SERVING = """| this API | 4,087 | 10,000 | 16,176 |
| this API | 0.5 | 0.4 | 0.3 |
| this API | 0.23 / 0.94 | 1.13 / 2.20 | 3.82 / 7.26 |"""
PRICES: Any = {
    "hours_a_month": 100,
    "server": {"vcpus": 2, "hour": 1.0, "disk_month": 5.0},
    "balancer": {"hour": 0.5, "unit_hour": 0.1},
    "firewall": {"month": 7.0, "million_requests": 2.0},
    "registry": {"server_month": 1.0, "database_month": 2.0},
    "network": {"nat_month": 30.0, "nat_gateways": 2},
}


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return script(Project(REPOSITORY), SCRIPT)


def test_the_committed_page_is_what_the_measured_figures_give(tmp_path: Path) -> None:
    Project(REPOSITORY).run(SCRIPT, "--output", str(tmp_path))
    for name in ("capacity.md", "capacity.svg"):
        assert (tmp_path / name).read_bytes() == (REPOSITORY / "7.deploy" / name).read_bytes()


def test_figures_come_from_the_benchmarks(names: dict[str, Any]) -> None:
    found = names["read_measured"](SERVING, "The server says who is champion 120 times a second, asked by 8")
    assert (found.core_rps, found.p99_ms, found.registry_lookups) == (10_000, 2.2, 120)
    assert names["server_rps"](found, PRICES) == pytest.approx(12_000)  # two, of which each is 0.6 of a core


@pytest.mark.parametrize(
    ("serving", "registry", "missing"), [("", "champion 1 times a second", "serving"), (SERVING, "", "registry")]
)
def test_a_missing_figure_is_told_with_the_benchmark_that_makes_it(
    names: dict[str, Any], serving: str, registry: str, missing: str
) -> None:
    with pytest.raises(Exception, match=f"{missing}.md lacks its figures; run benchmarks/{missing}.py"):
        names["read_measured"](serving, registry)


@pytest.mark.parametrize(("rps", "servers"), [(1, 2), (1_000, 2), (1_001, 3), (10_000, 20)])
def test_servers_are_half_idle_and_never_alone(names: dict[str, Any], rps: float, servers: int) -> None:
    assert names["servers_for"](rps, 1_000) == servers


def test_the_largest_dimension_counts(names: dict[str, Any]) -> None:
    # 1,200 bytes a request: 4.32 GB an hour; ten new connections a second are 0.4 units, 600 open ones 0.2.
    assert names["balancer_units"](1_000) == pytest.approx(4.32)


def test_costs_add_up(names: dict[str, Any]) -> None:
    plan = names["plan"](1_000, 1_000, PRICES, 2)
    assert plan.servers == 2
    assert plan.polls == 1
    assert plan.costs == pytest.approx(
        {
            "servers": 2 * (100 + 5),
            "balancer": 100 * (0.5 + 4.32 * 0.1),
            "firewall": 7 + 360 * 2,
            "registry": 3,
            "network": 60,
        }
    )


def test_a_constant_load_changes_nothing(names: dict[str, Any]) -> None:
    course = names["simulate"](np.full(6 * 60, 2_000.0), 1_000)
    assert set(course.servers) == {4}
    assert course.shed_share == 0
    assert course.server_hours == pytest.approx(4)


def test_a_step_is_shed_until_new_servers_are_ready_and_then_served(names: dict[str, Any]) -> None:
    per_minute = 60 // names["STEP_SECONDS"]
    load = np.concatenate([np.full(5 * per_minute, 1_000.0), np.full(30 * per_minute, 8_000.0)])
    course = names["simulate"](load, 1_000)
    assert set(course.servers[: 5 * per_minute]) == {2}
    seen_and_started = names["HIGH_MINUTES"] * per_minute + names["BOOT_SECONDS"] // names["STEP_SECONDS"]
    full = 5 * per_minute + seen_and_started
    assert set(course.shed[5 * per_minute : full - 1]) == {6_000}
    assert set(course.shed[full:]) == {0}
    assert course.servers[-1] == 16


def test_scaling_in_waits_and_stops_at_one_server_a_zone(names: dict[str, Any]) -> None:
    per_minute = 60 // names["STEP_SECONDS"]
    load = np.concatenate([np.full(per_minute, 5_000.0), np.full(40 * per_minute, 10.0)])
    course = names["simulate"](load, 1_000)
    waited = int(np.argmax(course.servers < 10)) / per_minute
    assert names["LOW_MINUTES"] <= waited <= names["LOW_MINUTES"] + 2
    assert course.servers[-1] == names["MIN_SERVERS"]


def test_no_more_servers_than_allowed(names: dict[str, Any]) -> None:
    course = names["simulate"](np.concatenate([np.full(60, 100.0), np.full(600, 1e6)]), 1_000, most=7)
    assert course.servers.max() == 7
    assert math.isclose(course.shed[-1], 1e6 - 7_000)
