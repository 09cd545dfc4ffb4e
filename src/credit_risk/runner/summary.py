"""The summary at the end of a run: metrics, what became of the model, and the next commands."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from credit_risk.contract import CONTRACT
from credit_risk.core.files import read_json
from credit_risk.core.paths import data, root
from credit_risk.runner.steps import LOG
from credit_risk.runner.terminal import console

if TYPE_CHECKING:
    from credit_risk.registry.gating import Outcome

DECISIONS = "decisions.md"  # written by `main.py adopt`
NEXT_COMMANDS = """next:
  uv run main.py serve                  serve the champion on http://127.0.0.1:8000 (a page; docs at /docs), then
  curl -s localhost:8000/predict -H 'content-type: application/json' -d @6.production/example.json
  uv run main.py history                promotions, rejections and rollbacks
  uv run mlflow ui --backend-store-uri sqlite:///3.experiments/mlflow.db     runs and versions in a browser"""


def print_summary(outcome: "Outcome", *, promote: bool, seconds: float) -> int:
    """Prints the summary; returns the exit code.

    It is 0 when there is a champion to serve, or the model has passed and was not to be promoted.
    """
    console.print(metrics_table(read_json(data("6.reports", "metrics.json"))))
    console.print(f"version {outcome.challenger.number} (challenger) {escape(outcome.result)}", soft_wrap=True)
    if (root() / DECISIONS).exists():
        console.print(f"{DECISIONS} lists what a person must decide; delete it when that is done")
    if outcome.champion is None:
        console.print(f"[bold red]there is no champion to serve[/]; results of the gates: {LOG}", soft_wrap=True)
        return 0 if outcome.passed and not promote else 1
    console.print(
        f"version {outcome.champion.number} is the champion; took {seconds:.0f} s\n{NEXT_COMMANDS}", soft_wrap=True
    )
    return 0


def metrics_table(metrics: dict[str, Any]) -> Table:
    """The metrics of stage 6 on each holdout."""
    problem = CONTRACT.problem
    rows: dict[str, Callable[[Any], str]] = {
        "ROC AUC": lambda m: f"{m['roc_auc']:.3f}" + interval(m, "roc_auc"),
        "AUC of logistic regression": lambda m: f"{m['logistic_baseline']['roc_auc']:.3f}",
        "calibration error": lambda m: f"{m['ece']:.3f}",
        f"{problem.event} rate": lambda m: f"{m['positive_rate']:.3f}",
        "accuracy at the threshold": lambda m: f"{m['accuracy']:.3f}" + interval(m, "accuracy"),
        "accuracy of the majority class": lambda m: f"{m['majority_accuracy']:.3f}",
        f"cost of a {problem.row}, model's decisions": lambda m: f"{m['cost']:.3f}" + interval(m, "cost"),
        f"cost, all {problem.accepted} / all {problem.declined}": lambda m: (
            f"{m['cost_accept_all']:.3f} / {m['cost_decline_all']:.3f}"
        ),
        "cost at the best threshold": lambda m: f"{m['best_cost']:.3f} (at {m['best_threshold']:.3f})",
    }
    table = Table()
    for name in (f"held-out {problem.rows}", *CONTRACT.holdouts):
        table.add_column(name.replace("_", " "), overflow="fold")  # a narrow terminal must not cut figures
    for name, show in rows.items():
        table.add_row(name, *(show(metrics[holdout]) for holdout in CONTRACT.holdouts))
    return table


def interval(metrics: dict[str, Any], name: str) -> str:
    """The 95 % interval of a metric in brackets; empty where there are too few rows for one."""
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
