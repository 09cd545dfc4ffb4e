"""An Optuna study that can be killed and resumed: trials are drawn, measured and reported in batches, in order."""

import hashlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from credit_risk.core.files import sha256
from credit_risk.core.paths import root, sqlite_url
from credit_risk.model import TrainParams
from credit_risk.search.backends import Evaluate
from credit_risk.search.folds import FoldResult, TrainRows, mean
from credit_risk.search.spaces import SPACES
from credit_risk.search.tracking import COMPLETE, PRUNED, SearchLog

RANDOM_TRIALS = 10  # drawn at random before the sampler has results to learn from
FOLDS_BEFORE_PRUNING = 2  # one fold says little
RUN = "mlflow_run"  # attribute of a trial

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.simplefilter("ignore", ExperimentalWarning)


def study_name(model: str, batch: int, train: TrainParams, rows: TrainRows, registry: str) -> str:
    """Name of the study; it differs for other rows, folds, parameters, registries and versions of the search spaces."""
    made_of = {
        "data": rows.data_sha256,
        "folds": rows.kind,
        "batch": batch,
        "train": train.model_dump(),
        "registry": registry,
        "code": [sha256(path) for path in sorted(Path(__file__).parent.glob("*.py"))],
    }
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
    return f"{model} {rows.kind} {digest[:12]}"


def open_study(name: str) -> optuna.Study:
    """The study of this name, new or as it was interrupted."""
    return optuna.create_study(
        storage=sqlite_url(root() / "3.experiments" / "optuna.db"),
        study_name=name,
        load_if_exists=True,
        direction="maximize",
        sampler=new_sampler(0),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=FOLDS_BEFORE_PRUNING - 1),
    )


def new_sampler(seed: int) -> optuna.samplers.BaseSampler:
    """A sampler without history: with a new one for each batch, a resumed search draws what it would have drawn.

    It treats the other trials of a batch as bad ones, so that they differ. Source of the method: Bergstra et al.
    (2011), "Algorithms for hyper-parameter optimization".
    """
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=RANDOM_TRIALS, multivariate=True, group=True, constant_liar=True
    )


def measured_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that were measured, on all folds or until they were pruned."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def drop_interrupted(study: optuna.Study, log: SearchLog) -> None:
    """Marks trials that a kill left open as failed; the next batch draws them again."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        if run_id := trial.user_attrs.get(RUN):
            log.end(run_id, killed=True)
        study.tell(trial.number, state=TrialState.FAIL)


def best_so_far(study: optuna.Study) -> str:
    """The best trial as text; empty before the first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return ""
    trial = max(complete, key=lambda trial: trial.value or 0.0)
    return f"best so far {trial.value:.4f}, trial {trial.number}"


class Batch:
    """Trials that are drawn, measured and reported together."""

    def __init__(self, study: optuna.Study, log: SearchLog, parent: str) -> None:
        """Starts empty; `parent` is the run of the search."""
        self._study = study
        self._log = log
        self._parent = parent
        self._trials: list[_Trial] = []

    def draw(self, count: int, model: str, train: TrainParams) -> None:
        """Draws candidates and opens their runs."""
        self._study.sampler = new_sampler(train.seed + len(measured_trials(self._study)))
        for _ in range(count):
            trial = self._study.ask()
            candidate = SPACES[model](trial, train)
            run_id = self._log.start(self._parent, f"trial {trial.number}", candidate)
            trial.set_user_attr(RUN, run_id)
            self._trials.append(_Trial(trial, candidate, run_id))

    def measure(self, evaluate: Evaluate, folds: int, report: Callable[[float], Any]) -> None:
        """Measures the candidates fold by fold; those that are worse than earlier trials are pruned.

        Args:
            evaluate: runs the jobs.
            folds: how many there are.
            report: gets the number of trials that are done, in fractions.
        """
        before = len(measured_trials(self._study))
        # The folds before the first pruning in one round: with fewer rounds, processes wait less for the slowest fit.
        rounds = [range(FOLDS_BEFORE_PRUNING), *([fold] for fold in range(FOLDS_BEFORE_PRUNING, folds))]
        for measured in rounds:
            jobs = [(each, fold) for each in self._trials if not each.pruned for fold in measured]
            found = evaluate([(each.candidate, fold) for each, fold in jobs])
            for (each, fold), result in zip(jobs, found, strict=True):
                each.results.append(result)
                each.trial.report(mean(each.results), fold)
                report(before + sum(len(other.results) for other in self._trials) / folds)
            if measured[-1] < folds - 1:
                for each in self._trials:
                    each.pruned = each.pruned or each.trial.should_prune()

    def finish(self) -> None:
        """Ends all runs, then all trials, so that an interrupted batch is drawn again as a whole."""
        for each in self._trials:
            self._log.finish(each.run_id, each.results, PRUNED if each.pruned else COMPLETE)
        for each in self._trials:
            state = TrialState.PRUNED if each.pruned else TrialState.COMPLETE
            self._study.tell(each.trial, None if each.pruned else mean(each.results), state)


class _Trial:
    """A trial of a batch, its candidate and what was measured of it."""

    def __init__(self, trial: optuna.Trial, candidate: TrainParams, run_id: str) -> None:
        self.trial, self.candidate, self.run_id = trial, candidate, run_id
        self.results: list[FoldResult] = []
        self.pruned = False
