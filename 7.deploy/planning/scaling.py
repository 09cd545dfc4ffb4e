"""Target tracking on a load that changes: a simulation, and its plot."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from credit_risk.core.errors import ProjectError

STEP = 10  # seconds of the simulation
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"  # Okabe & Ito


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
            ProjectError: says what.
        """
        if not 0 < self.target <= self.ceiling:
            raise ProjectError(f"the target of {self.target:g} must be above 0 and at most {self.ceiling:g}")
        if not 1 <= self.minimum <= self.maximum:
            raise ProjectError(f"{self.minimum} to {self.maximum} servers make no sense; 1 ≤ minimum ≤ maximum")


def servers_for(load: float, policy: Policy) -> int:
    """Servers that scaling aims at for a load in requests a second, whatever the maximum is."""
    return max(policy.minimum, math.ceil(load / policy.target - 1e-9))


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
        ProjectError: there is no load, or a value is no rate.
    """
    if not len(offered) or not np.isfinite(offered).all() or (offered < 0).any():
        raise ProjectError("the offered load must be requests a second, none below zero")
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
