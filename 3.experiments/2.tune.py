"""Searches for better parameters of one learner with Optuna, on the folds that 1.compare_models.py uses.

Each trial is a run within one run of the search's MLflow experiment. A trial that is worse than the median after two
folds or more is pruned. Trials are drawn in batches, fitted in several processes, and reported in order: the search
depends on the seed and the size of a batch, not on the order in which fits end. A search that was killed resumes from
its own storage and finds what it would have found. The holdouts are not opened.

Usage: uv run --group experiments 3.experiments/2.tune.py [--model random_forest] [--trials 50] [--folds time]
Reads:  1.data/4.split/rows/train.parquet, section train of params.yaml
Writes: 3.experiments/optuna.db
"""

from credit_risk.core.entry_point import run

import argparse

from rich.console import Console

from credit_risk.core import params
from credit_risk.model import TrainParams
from credit_risk.registry.client import Registry
from credit_risk.search.backends import add_arguments, process_pool, progress_bar
from credit_risk.search.candidates import LEARNERS
from credit_risk.search.folds import read_train_rows
from credit_risk.search.study import Batch, best_so_far, drop_interrupted, measured_trials, open_study, study_name
from credit_risk.search.tracking import PRUNED, SearchLog


def main() -> None:
    """Runs as many trials as are still to do."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    train = params.load("train", TrainParams)
    parser.add_argument("--model", choices=LEARNERS, default=train.model, help="learner (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=50, help="in all, those of earlier runs included")
    parser.add_argument("--batch", type=int, default=4, help="trials drawn together (default: %(default)s)")
    add_arguments(parser)
    options = parser.parse_args()
    registry, rows = Registry(), read_train_rows(options.folds, train.seed)
    log = SearchLog(registry, rows)
    study = open_study(study_name(options.model, options.batch, train, rows, registry.address))
    parent = log.parent(f"tune {options.model}", study.study_name)
    drop_interrupted(study, log)
    evaluate = process_pool(rows, options.processes)
    with progress_bar() as progress:
        done = len(measured_trials(study))
        task = progress.add_task(best_so_far(study), total=options.trials, completed=done)
        while (done := len(measured_trials(study))) < options.trials:
            batch = Batch(study, log, parent)
            batch.draw(min(options.batch, options.trials - done), options.model, train)
            batch.measure(evaluate, len(rows.folds), lambda trials: progress.update(task, completed=trials))
            batch.finish()
            progress.update(task, completed=len(measured_trials(study)), description=best_so_far(study))
    log.end(parent)
    trials = measured_trials(study)
    pruned = sum(trial.state.name.lower() == PRUNED for trial in trials)
    Console().print(f"{options.model}: {len(trials)} trials, {pruned} of them pruned; {best_so_far(study)}")


if __name__ == "__main__":
    run("tune", main)
