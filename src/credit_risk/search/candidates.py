"""Searching for a better model: candidates, folds, processes to fit them in, and their runs in MLflow.

For the scripts of 3.experiments alone; no stage imports it. Everything is measured on folds of train: the held-out
loans are for stage 6 and the gates, and a search that saw them would make their figures worthless.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import joblib
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from distributed import Client, KilledWorker
from lightgbm import LGBMClassifier
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus, RunTag
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sklearn.base import clone
from sklearn.feature_selection import SelectFromModel
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, TimeSeriesSplit
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from credit_risk.contract import APPROVAL_DATE
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import sha256
from credit_risk.core.paths import data, relative
from credit_risk.model import (
    Floats,
    Labels,
    TrainParams,
    build_pipeline,
    default_probability,
    encoded_columns,
    monotonic_signs,
    named_parameters,
    read_split,
)
from credit_risk.registry.client import Registry

EXPERIMENT = "credit-risk-search"
FOLDS = 5
FoldKind = Literal["random", "time"]
Fold = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]
# What is logged of each candidate, and found again by select_best.
DATA_SHA256, FOLD_KIND, CANDIDATE, STATE, COMPLETE, PRUNED = (
    "data_sha256",
    "folds",
    "candidate",
    "state",
    "complete",
    "pruned",
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is compared: a section `train` of params.yaml, or the same with LightGBM, which no stage knows."""

    train: TrainParams
    lightgbm: dict[str, Any] | None = None

    @property
    def model(self) -> str:
        """The learner's name."""
        return self.train.model if self.lightgbm is None else "lightgbm"

    @property
    def parameters(self) -> dict[str, Any]:
        """The learner's own parameters."""
        return dict(getattr(self.train, self.train.model) if self.lightgbm is None else self.lightgbm)

    def pipeline(self, rows: int) -> Pipeline:
        """The unfitted pipeline, to be fitted on so many rows.

        Without calibration: a sigmoid moves no loan past another, so it would cost five more fits and change no figure
        that candidates are ranked by.
        """
        train = self.train.model_copy(update={"threads": 1, "calibration": "none"})
        pipeline = build_pipeline(train, rows=rows)
        if self.lightgbm is None:
            return pipeline
        parameters = dict(self.lightgbm)
        if signs := parameters.pop("monotonic_cst", None):
            parameters["monotone_constraints"] = monotonic_signs(train, signs, encoded_columns())
        learner = LGBMClassifier(
            **parameters, random_state=train.seed, n_jobs=1, deterministic=True, force_row_wise=True, verbose=-1
        )
        return pipeline.set_params(classify=learner)

    def to_json(self) -> str:
        """As text for a tag."""
        return json.dumps({"train": self.train.model_dump(), "lightgbm": self.lightgbm}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """From the text of a tag.

        Raises:
            ValueError: it was written by code that knew other parameters.
        """
        content = json.loads(text)
        return cls(TrainParams.model_validate(content["train"]), content["lightgbm"])


@dataclass(frozen=True, slots=True)
class Loans:
    """Train: features (n, len(FEATURES)) in float32, labels (n,), and folds as row numbers to fit on and to score."""

    features: Floats
    labels: Labels
    folds: list[Fold]
    data_sha256: str
    kind: FoldKind


@dataclass(frozen=True, slots=True)
class FoldResult:
    """A candidate on one fold: figures on the loans it was not fitted on, and how long it took."""

    roc_auc: float
    pr_auc: float
    seconds: float


Job = tuple[Candidate, int]  # a candidate and the number of a fold
Evaluate = Callable[[Sequence[Job]], Iterator[FoldResult]]  # results in the order of the jobs


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what all scripts of the search take."""
    parser.add_argument(
        "--folds",
        choices=["random", "time"],
        default="random",
        help="random: each fold a fifth of train; time: fitted on older loans, scored on newer (default: %(default)s)",
    )
    parser.add_argument("--scheduler", metavar="tcp://HOST:PORT", help="fit on this Dask cluster instead of here")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count(), help="processes to fit in here (default: %(default)s)"
    )


def read_loans(kind: FoldKind, seed: int, count: int = FOLDS) -> Loans:
    """Train with its folds; no other loans.

    Raises:
        ProjectError: the pipeline has not run, or a fold lacks an outcome.
    """
    path = data("4.split", "rows", "train.parquet")
    if not path.exists():
        raise ProjectError(f"{relative(path)} is missing; run the pipeline first: `uv run main.py`")
    features, labels = read_split(path)
    dates = pq.read_table(path, columns=[APPROVAL_DATE])[APPROVAL_DATE].to_numpy()
    return Loans(features, labels, make_folds(kind, labels, dates, seed, count), sha256(path), kind)


def make_folds(kind: FoldKind, labels: Labels, dates: npt.NDArray[Any], seed: int, count: int = FOLDS) -> list[Fold]:
    """Folds of train.

    Args:
        kind: `random`: `count` parts with equal default rates, each scored by a model of the others. `time`: loans in
            the order of approval in `count` + 1 parts, each but the first scored by a model of all older ones.
        labels: shape (n,).
        dates: of approval, shape (n,).
        seed: of the random folds.
        count: of folds.

    Raises:
        ProjectError: a part has not both outcomes.
    """
    if kind == "random":
        folds = list(StratifiedKFold(count, shuffle=True, random_state=seed).split(dates, labels))
    else:
        order = np.argsort(dates, kind="stable")
        folds = [(order[fitted], order[scored]) for fitted, scored in TimeSeriesSplit(count).split(order)]
    if any(np.ptp(labels[rows]) == 0 for fold in folds for rows in fold):
        raise ProjectError(f"a {kind} fold of train has not both outcomes; there are too few loans to compare models")
    return folds


_forests: dict[str, Any] = {}  # the selection's, fitted in this process, by all that they depend on


def selected(pipeline: Pipeline, encoded: Floats, loans: Loans, fold: int) -> npt.NDArray[np.intp]:
    """The columns that a pipeline's selection keeps in a fold.

    Its forest depends on nothing that is searched for, so a process fits it once a fold and not once a candidate, which
    would take almost half of the time.
    """
    selector, rows = pipeline["select"], loans.folds[fold][0]
    key = joblib.hash((loans.data_sha256, rows, pipeline["encode"], selector.estimator))
    if key not in _forests:
        _forests[key] = clone(selector.estimator).fit(encoded, loans.labels[rows])
    fitted = SelectFromModel(_forests[key], threshold=selector.threshold, prefit=True)
    return np.flatnonzero(fitted.get_support())


def score_fold(loans: Loans, candidate: Candidate, fold: int) -> FoldResult:
    """Fits a candidate on a fold's older or other loans and scores the fold."""
    start = time.monotonic()
    fitted, scored = loans.folds[fold]
    # For good: a thread that set it back would change the sums of one beside it in the same process.
    threadpool_limits(1)
    with named_parameters(candidate.train):
        pipeline = candidate.pipeline(len(fitted))
        encoder = clone(pipeline["encode"])
        encoded = encoder.fit_transform(loans.features[fitted])
        columns = selected(pipeline, encoded, loans, fold)
        classifier = pipeline["classify"].fit(encoded[:, columns], loans.labels[fitted])
    scores = default_probability(classifier, encoder.transform(loans.features[scored])[:, columns])
    labels = loans.labels[scored]
    return FoldResult(
        float(roc_auc_score(labels, scores)),
        float(average_precision_score(labels, scores)),
        time.monotonic() - start,
    )


@contextmanager
def workers(loans: Loans, scheduler: str | None, processes: int) -> Iterator[Evaluate]:
    """Processes that fit candidates: here, or on a Dask cluster. Both give the same figures.

    Raises:
        ProjectError: no scheduler answers, it has no workers, or a fold ends its workers again and again.
    """
    if scheduler is None:
        yield lambda jobs: joblib.Parallel(processes, return_as="generator")(
            joblib.delayed(score_fold)(loans, *job) for job in jobs
        )
        return
    try:
        client: Any = Client(scheduler, timeout="10s", set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ProjectError(f"no Dask scheduler answers at {scheduler}; start one with `dask scheduler`") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=30)
        except TimeoutError as error:
            raise ProjectError(f"{scheduler} has no workers; start some with `dask worker {scheduler}`") from error
        # The result of a task, not scattered: when the worker that holds it dies, the scheduler makes it again.
        remote = client.submit(_same, loans, pure=False)

        def evaluate(jobs: Sequence[Job]) -> Iterator[FoldResult]:
            futures = [client.submit(score_fold, remote, *job, pure=False) for job in jobs]
            try:
                for future in futures:
                    yield future.result()
            except KilledWorker as error:
                raise ProjectError(f"a fold ended several workers of {scheduler}: is their memory enough?") from error

        yield evaluate


def _same(loans: Loans) -> Loans:
    return loans


def mean(results: Sequence[FoldResult]) -> float:
    """Mean ROC AUC of the folds."""
    return float(np.mean([result.roc_auc for result in results]))


def standard_error(results: Sequence[FoldResult]) -> float:
    """Standard error of the mean ROC AUC, as if the folds were independent; 0 of a single one."""
    aucs = [result.roc_auc for result in results]
    return float(np.std(aucs, ddof=1) / len(aucs) ** 0.5) if len(aucs) > 1 else 0.0


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar with what is done, for how long, and a description: the best so far."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns) as progress:
        yield progress


class RunLog:
    """The search's runs in MLflow: one for the search, and within it one a candidate."""

    def __init__(self, registry: Registry, loans: Loans) -> None:
        """Connects; makes the experiment on first use."""
        self._registry = registry
        self._loans = loans
        self._experiment = registry.experiment_id(EXPERIMENT)

    def parent(self, name: str, study: str) -> str:
        """The run of a search, by the name of its study: the open one if it was interrupted, else a new one."""
        with self._registry.plain_errors():
            client = self._registry.client
            found = client.search_runs([self._experiment], f"tags.study = '{study}'")
            if found:
                client.update_run(found[0].info.run_id, status=RunStatus.to_string(RunStatus.RUNNING))
                return str(found[0].info.run_id)
            tags = self._tags() | {"study": study}
            return str(client.create_run(self._experiment, tags=tags, run_name=name).info.run_id)

    def start(self, parent: str, name: str, candidate: Candidate) -> str:
        """Opens the run of a candidate, with its parameters and dataset."""
        tags = self._tags() | {"mlflow.parentRunId": parent, CANDIDATE: candidate.to_json()}
        train = candidate.train
        settings = {
            "model": candidate.model,
            "calibration": train.calibration,
            "seed": train.seed,
            "selection.min_importance": train.selection.min_importance,
            **candidate.parameters,
        }
        with self._registry.plain_errors():
            client = self._registry.client
            run_id = str(client.create_run(self._experiment, tags=tags, run_name=name).info.run_id)
            client.log_batch(run_id, params=[Param(key, str(value)) for key, value in settings.items()])
            dataset = Dataset(
                "train", self._loans.data_sha256[:32], "local", relative(data("4.split", "rows", "train.parquet"))
            )
            client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        return run_id

    def finish(self, run_id: str, results: Sequence[FoldResult], state: str = COMPLETE) -> None:
        """Logs a candidate's folds (a step each), their mean and standard error, and the seconds, and ends its run."""
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, step)
            for step, result in enumerate(results)
            for name, value in (("roc_auc", result.roc_auc), ("pr_auc", result.pr_auc), ("seconds", result.seconds))
        ]
        metrics += [
            Metric("roc_auc_mean", mean(results), now, 0),
            Metric("roc_auc_standard_error", standard_error(results), now, 0),
            Metric("seconds_total", sum(result.seconds for result in results), now, 0),
        ]
        with self._registry.plain_errors():
            self._registry.client.log_batch(run_id, metrics=metrics, tags=[RunTag(STATE, state)])
        self.end(run_id)

    def end(self, run_id: str, *, killed: bool = False) -> None:
        """Ends a run; `killed` when an interruption ended it."""
        status = RunStatus.to_string(RunStatus.KILLED if killed else RunStatus.FINISHED)
        with self._registry.plain_errors():
            self._registry.client.set_terminated(run_id, status)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Writes tags on a run."""
        with self._registry.plain_errors():
            for key, value in tags.items():
                self._registry.client.set_tag(run_id, key, value)

    def complete(self) -> list[Any]:
        """Runs of candidates that were measured on all of these folds of these loans, the best first."""
        query = (
            f"tags.{DATA_SHA256} = '{self._loans.data_sha256}' and tags.{FOLD_KIND} = '{self._loans.kind}' "
            f"and tags.{STATE} = '{COMPLETE}'"
        )
        with self._registry.plain_errors():
            found: list[Any] = []
            token: str | None = None
            while token is None or token:
                page = self._registry.client.search_runs(
                    [self._experiment], query, order_by=["metrics.roc_auc_mean DESC"], page_token=token
                )
                found += page
                token = page.token or ""
            return found

    def _tags(self) -> dict[str, str]:
        return {DATA_SHA256: self._loans.data_sha256, FOLD_KIND: self._loans.kind}
