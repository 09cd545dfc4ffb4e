"""The runs of a search in MLflow: one for the search, and within it one for each candidate."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus, RunTag

from credit_risk.contract import CONTRACT
from credit_risk.core.paths import relative
from credit_risk.data.splits import split_path
from credit_risk.model import TrainParams
from credit_risk.registry.client import Registry
from credit_risk.search.candidates import learner_parameters
from credit_risk.search.folds import FoldResult, TrainRows, mean, standard_error

EXPERIMENT = f"{CONTRACT.problem.experiment}-search"
# Tags of a candidate's run, by which `complete` finds it again.
DATA_SHA256, FOLD_KIND, CANDIDATE, STATE = "data_sha256", "folds", "candidate", "state"
COMPLETE, PRUNED = "complete", "pruned"  # values of STATE


class SearchLog:
    """Writes and finds the runs of searches on one set of rows."""

    def __init__(self, registry: Registry, rows: TrainRows) -> None:
        """Connects; creates the experiment on first use."""
        self._registry = registry
        self._rows = rows
        self._experiment = registry.experiment_id(EXPERIMENT)

    def parent(self, name: str, study: str) -> str:
        """The run of a search, by the name of its study: the existing one of an interrupted search, or a new one."""
        with self._registry.plain_errors():
            client = self._registry.client
            found = client.search_runs([self._experiment], f"tags.study = '{study}'")
            if found:
                client.update_run(found[0].info.run_id, status=RunStatus.to_string(RunStatus.RUNNING))
                return str(found[0].info.run_id)
            tags = self._tags() | {"study": study}
            return str(client.create_run(self._experiment, tags=tags, run_name=name).info.run_id)

    def start(self, parent: str, name: str, candidate: TrainParams) -> str:
        """Opens the run of a candidate, with its parameters and dataset."""
        tags = self._tags() | {"mlflow.parentRunId": parent, CANDIDATE: candidate.model_dump_json()}
        settings = {
            "model": candidate.model,
            "calibration": candidate.calibration,
            "seed": candidate.seed,
            "selection.min_importance": candidate.selection.min_importance,
            **learner_parameters(candidate),
        }
        with self._registry.plain_errors():
            client = self._registry.client
            run_id = str(client.create_run(self._experiment, tags=tags, run_name=name).info.run_id)
            client.log_batch(run_id, params=[Param(key, str(value)) for key, value in settings.items()])
            dataset = Dataset("train", self._rows.data_sha256[:32], "local", relative(split_path("train")))
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
        """Ends a run; `killed` marks one that was interrupted."""
        status = RunStatus.to_string(RunStatus.KILLED if killed else RunStatus.FINISHED)
        with self._registry.plain_errors():
            self._registry.client.set_terminated(run_id, status)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Writes tags on a run."""
        with self._registry.plain_errors():
            for key, value in tags.items():
                self._registry.client.set_tag(run_id, key, value)

    def complete(self) -> list[Any]:
        """Runs of candidates that were measured on all folds of these rows, the best first."""
        query = (
            f"tags.{DATA_SHA256} = '{self._rows.data_sha256}' and tags.{FOLD_KIND} = '{self._rows.kind}' "
            f"and tags.{STATE} = '{COMPLETE}'"
        )
        found: list[Any] = []
        token: str | None = None
        with self._registry.plain_errors():
            while token is None or token:
                page = self._registry.client.search_runs(
                    [self._experiment], query, order_by=["metrics.roc_auc_mean DESC"], page_token=token
                )
                found += page
                token = page.token or ""
        return found

    def _tags(self) -> dict[str, str]:
        return {DATA_SHA256: self._rows.data_sha256, FOLD_KIND: self._rows.kind}
