"""Keeps the figures of the last run for the documents: a readme quotes these and not what a local run happens to give.

Usage: uv run benchmarks/figures.py      after uv run main.py
Reads:  1.data/6.reports/metrics.json
Writes: benchmarks/results/figures.json
"""

from credit_risk.core.entry_point import run
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json, write_json
from credit_risk.core.paths import data, relative, root


def main() -> None:
    """Copies the metrics."""
    metrics = data("6.reports", "metrics.json")
    if not metrics.exists():
        raise ProjectError(f"{relative(metrics)} is missing; run the pipeline first: `uv run main.py`")
    write_json(root() / "benchmarks" / "results" / "figures.json", read_json(metrics))


if __name__ == "__main__":
    run("figures", main)
