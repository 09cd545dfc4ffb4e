"""Results of the scenarios."""

import os
import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """Result of a scenario; latencies in milliseconds, during and before it."""

    scenario: str
    requests: int
    failed: int
    given: int  # requests that a bad release got
    p50_ms: float
    p99_ms: float
    p50_before_ms: float
    p99_before_ms: float
    seconds: float
    problem: str


def quantiles(microseconds: list[int]) -> tuple[float, float]:
    """Median and 99th percentile in milliseconds; NaN without data."""
    if len(microseconds) < 2:  # noqa: PLR2004 (needed by statistics.quantiles)
        return float("nan"), float("nan")
    cuts = statistics.quantiles(microseconds, n=100)
    return round(cuts[49] / 1e3, 2), round(cuts[98] / 1e3, 2)


def table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    head = [
        "| scenario | requests | to a bad release | failed | ms during | ms before | seconds | result |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = [
        f"| {one.scenario} | {one.requests:,} | {one.given or ''} | {one.failed} | "
        f"{one.p50_ms:.1f} / {one.p99_ms:.1f} | {one.p50_before_ms:.1f} / {one.p99_before_ms:.1f} | "
        f"{one.seconds:.0f} | {one.problem or 'ok'} |"
        for one in results
    ]
    return "\n".join([*head, *rows])


def report(results: list[Result], rate: int) -> str:
    """The Markdown page with the results."""
    return f"""# Releases and failures under load

`uv run 7.deploy/rehearse.py all` on {os.cpu_count()} cores, shared by servers, HAProxy and client; {rate} requests per
second. Latencies are median / 99th percentile, during the scenario and before it. `bad-canary` is a release whose
requests fail after the smoke test: it gets 5 % of the traffic until the alarm rings, and only these requests may fail.
`no-drain` is the control: servers are killed without draining or retries, and requests must fail.

{table(results)}
"""
