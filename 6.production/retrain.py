"""Takes in new data and makes a challenger, as a policy says; gates and promotes it; says what has changed.

--data copies files into 1.data/source, after each was read as a whole. The policy is `retrain.policy` of params.yaml:
  never        nothing
  scheduled    runs the pipeline: what has changed is trained, gated and, if it passes, promoted
  on_drift     the same, if the last result of `main.py monitor` about the champion has an alarm
  recalibrate  fits a sigmoid on the newest outcomes to the champion's probabilities and gates that as a version
Interrupted or killed, it leaves nothing half-written: run it again. Exit code: 0, also for a rejected version; 1 an
error. The summary of what has changed is 5.testing/reports/retraining.md.

Usage: uv run main.py retrain [--data FILE ...] [--policy POLICY] [--refresh] [--no-promote]
"""

from credit_risk.core.entry_point import run

import argparse
from pathlib import Path
from typing import get_args

from credit_risk.core import params
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing
from credit_risk.core.paths import relative, root
from credit_risk.data.store import Store
from credit_risk.project.settings import settings
from credit_risk.registry.client import CHAMPION, Registry, Version
from credit_risk.registry.gating import Outcome, gate
from credit_risk.registry.promotion import finish_interrupted_move
from credit_risk.retraining.changes import changes
from credit_risk.retraining.ingest import add_files
from credit_risk.retraining.newest import newest_rows
from credit_risk.retraining.params import Policy, RetrainParams
from credit_risk.retraining.policy import reason_to_wait
from credit_risk.retraining.recalibrate import register_recalibrated
from credit_risk.runner.run import run_pipeline, run_stages, started

SUMMARY = ("5.testing", "reports", "retraining.md")
DATA_STAGES_END = "split_data"


def main() -> None:
    """Parses the command line and retrains."""
    parser = argparse.ArgumentParser(
        prog="main.py retrain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="FILE", help="files to add to the sources")
    parser.add_argument("--policy", choices=get_args(Policy), help="instead of retrain.policy of params.yaml")
    parser.add_argument("--refresh", action="store_true", help="first check whether remote sources have changed")
    parser.add_argument("--no-promote", action="store_true", help="gate the version without promoting it")
    arguments = parser.parse_args()
    section = params.load("retrain", RetrainParams)
    policy: Policy = arguments.policy or section.policy
    registry = Registry()
    champion = registry.version_of(CHAMPION)
    if waiting := reason_to_wait(policy, champion):
        print(waiting + ("; the files were not added" if arguments.data else ""))
        return
    for name in add_files(arguments.data):
        print(f"added {name}")
    if policy == "recalibrate":
        outcome = recalibrate(registry, section, refresh=arguments.refresh, promote=not arguments.no_promote)
    else:
        outcome = run_pipeline(refresh=arguments.refresh, promote=not arguments.no_promote)
    write_summary(registry, champion, outcome)


def recalibrate(registry: Registry, section: RetrainParams, *, refresh: bool, promote: bool) -> Outcome:
    """Registers and gates the champion, recalibrated on the newest outcomes.

    Raises:
        ProjectError: there is no champion, or too few outcomes.
    """
    with started() as steps:
        finish_interrupted_move(registry)
        champion = registry.version_of(CHAMPION)
        if champion is None:
            raise ProjectError("there is no champion to recalibrate; run `uv run main.py` first")
        run_stages(steps, refresh=refresh, last=DATA_STAGES_END)
        store = Store(settings().monitoring_store)
        min_rows = params.raw("split")["min_rows"]
        rows = newest_rows(registry, champion, store, section.recalibration_rows, min_rows)
        challenger = register_recalibrated(registry, champion, rows)
        return gate(registry, challenger, steps.run_script, promote=promote)


def write_summary(registry: Registry, before: Version | None, outcome: Outcome) -> None:
    """Writes and prints what has changed since the champion from before."""
    title = f"# Version {outcome.challenger.number} {outcome.result}"
    text = f"{title}\n"
    if before and before.number != outcome.challenger.number:
        text += f"\nCompared with version {before.number}, the champion before.\n\n"
        text += changes(registry, before, outcome.challenger)
    path = root().joinpath(*SUMMARY)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)
    print(f"summary: {relative(path)}")


if __name__ == "__main__":
    run("retrain", main)
