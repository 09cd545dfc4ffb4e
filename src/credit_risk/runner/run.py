"""Runs the pipeline and gates its model, or a part of that."""

from credit_risk.core.entry_point import prepare_children

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from credit_risk.core.paths import root
from credit_risk.runner.preparation import sources_changed, write_example
from credit_risk.runner.steps import Steps, open_repository, run_log, stage_names
from credit_risk.runner.terminal import console, redirected_output

# MLflow takes seconds to import, so it is imported where it is used.
if TYPE_CHECKING:
    from credit_risk.registry.gating import Outcome


def run_pipeline(*, refresh: bool, promote: bool) -> "Outcome":
    """Runs the stages whose inputs have changed, registers their model and gates it.

    Args:
        refresh: whether remote sources are checked first.
        promote: whether a version that passes becomes the champion.

    Raises:
        ProjectError: a stage or gate has failed.
    """
    with started() as steps:
        run_stages(steps, refresh=refresh)
        from credit_risk.registry.client import Registry
        from credit_risk.registry.gating import register_and_gate

        outcome = register_and_gate(Registry(), steps.run_script, promote=promote)
    if not steps.finished:
        console.print("nothing has changed since the last run")
    return outcome


@contextmanager
def started() -> Iterator[Steps]:
    """A run, whose output goes to the log; at most one at a time in a folder."""
    prepare_children()
    os.chdir(root())  # the names of DVC's stages are relative to the current folder
    stage_names()  # conflict markers are reported before anything is written
    with run_log() as log, redirected_output(log):
        write_example()
        with closing(Steps(log)) as steps:
            yield steps


def run_stages(steps: Steps, *, refresh: bool, last: str | None = None) -> None:
    """Runs the stages whose inputs have changed, up to the last one or the one of this name."""
    forced = refresh and sources_changed()
    with open_repository() as repo:
        steps.preparation.start()  # now: it would slow down the import of DVC
        for number, stage in enumerate(stage_names()):
            steps.run_stage(repo, stage, force=forced and number == 0)
            if stage == last:
                break
