"""3.experiments: learners meet on the same folds of train alone; a search can stop, go on and be spread out."""

import ctypes
import json
import os
import re
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from mlflow import MlflowClient
from projects import REPOSITORY, Project, copy_finished, once, script, wait_until
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from credit_risk.core.errors import ProjectError
from credit_risk.features import FEATURE_NAMES
from credit_risk.formats.onnx_export import export_onnx
from credit_risk.formats.onnx_scorer import OnnxMetadata, Scorer
from credit_risk.model import TrainParams, build_pipeline, default_probability, fit, read_split
from credit_risk.search import candidates
from credit_risk.search.candidates import EXPERIMENT, Candidate, FoldResult, Loans, make_folds

COMPARE, TUNE, SELECT = (f"3.experiments/{name}.py" for name in ("1.compare_models", "2.tune", "3.select_best"))
HELD_OUT = ("1.raw/loans", "2.clean/loans", "3.features/features", "4.split/test", "4.split/out_of_time")
QUICK = ("--processes", "1")
SEARCH = (TUNE, "--model", "logistic_regression", "--batch", "3", *QUICK)


def section(project: Project) -> TrainParams:
    content = yaml.safe_load(project.path("4.dvc_pipeline", "params.yaml").read_text())["train"]
    return TrainParams.model_validate(content)


def train_loans(project: Project) -> tuple[Any, Any]:
    return read_split(project.path("1.data", "4.split", "rows", "train.parquet"))


def runs(project: Project, query: str = "") -> list[Any]:
    client = MlflowClient(f"sqlite:///{project.path('3.experiments', 'mlflow.db')}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id], query, max_results=1000)) if experiment else []


def trials(project: Project) -> list[tuple[Any, ...]]:
    """What the search has found: of each measured trial its parameters, value and what each fold said."""
    storage = f"sqlite:///{project.path('3.experiments', 'optuna.db')}"
    (name,) = optuna.get_all_study_names(storage)
    measured = [
        trial for trial in optuna.load_study(study_name=name, storage=storage).trials if trial.state.is_finished()
    ]
    return [
        (trial.params, trial.state.name, trial.value, trial.intermediate_values)
        for trial in measured
        if trial.state.name != "FAIL"
    ]


def measured_count(project: Project) -> int:
    """How many trials the storage holds by now; asked while a search writes it."""
    database = project.path("3.experiments", "optuna.db")
    if not database.exists():
        return 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
        try:
            return int(
                connection.execute("select count(*) from trials where state in ('COMPLETE', 'PRUNED')").fetchone()[0]
            )
        except sqlite3.OperationalError:  # its tables are being made
            return 0


@pytest.fixture(scope="module")
def compared(shared: Path, finished: Project) -> Project:
    """A finished project whose learners have been compared."""
    return Project(once(shared / "compared", lambda folder: copy_finished(finished, folder).run(COMPARE, *QUICK)))


@pytest.fixture(scope="module")
def searched(shared: Path, finished: Project) -> Project:
    """A finished project in which a search of twelve trials has run without interruption."""
    search = (*SEARCH, "--trials", "12")
    return Project(once(shared / "searched", lambda folder: copy_finished(finished, folder).run(*search)))


def test_random_folds_score_each_loan_once_with_equal_default_rates() -> None:
    labels = (np.arange(1_000) % 10 == 0).astype(np.int8)
    folds = make_folds("random", labels, np.arange(1_000), seed=1)
    assert sorted(np.concatenate([scored for _, scored in folds]).tolist()) == list(range(1_000))
    for fitted, scored in folds:
        assert not set(fitted) & set(scored)
        assert labels[scored].mean() == pytest.approx(0.1)
    again = make_folds("random", labels, np.arange(1_000), seed=1)
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(folds, again, strict=True))


def test_time_folds_are_fitted_on_older_loans() -> None:
    rng = np.random.default_rng(0)
    dates = rng.permutation(1_000)
    labels = rng.integers(0, 2, 1_000).astype(np.int8)
    folds = make_folds("time", labels, dates, seed=1)
    assert len(folds) == 5
    for fitted, scored in folds:
        assert dates[fitted].max() < dates[scored].min()
    assert len(folds[-1][0]) + len(folds[-1][1]) == 1_000


def test_folds_without_both_outcomes_are_refused() -> None:
    labels = np.array([0] * 90 + [1] * 10, np.int8)
    with pytest.raises(ProjectError, match="has not both outcomes"):
        make_folds("time", labels, np.arange(100), seed=1)


@pytest.mark.parametrize("model", ["random_forest", "hist_gradient_boosting"])
def test_constrained_and_weighted_models_keep_their_promise_and_are_served(finished: Project, model: str) -> None:
    train = section(finished)
    parameters = {**getattr(train, model), "monotonic_cst": {"employees": -1}, "class_weight": "balanced"}
    parameters |= {"n_estimators": 30} if model == "random_forest" else {}
    selection = train.selection.model_copy(update={"min_importance": 0.0})
    train = train.model_copy(
        update={"model": model, model: parameters, "selection": selection, "calibration": "sigmoid"}
    )
    features, labels = train_loans(finished)
    pipeline = fit(train, features, labels)
    scores = default_probability(pipeline, features)
    assert scores.mean() == pytest.approx(labels.mean(), abs=0.02)  # calibration undoes what the weights shift
    scorer = Scorer(export_onnx(pipeline, OnnxMetadata(FEATURE_NAMES, 0.2)))
    assert np.abs(scorer.score(features) - scores).max() <= 1e-6
    more = features.copy()
    more[:, FEATURE_NAMES.index("employees")] += 10
    assert (default_probability(pipeline, more) <= scores + 1e-12).all()
    free = fit(train.model_copy(update={model: {**parameters, "monotonic_cst": {}}}), features, labels)
    assert (default_probability(free, more) > default_probability(free, features) + 1e-12).any()


def test_constraints_that_could_bind_the_wrong_column_are_refused(finished: Project) -> None:
    train = section(finished)
    assert train.selection.min_importance > 0

    def constrained(signs: dict[str, int]) -> TrainParams:
        boosting = {**train.hist_gradient_boosting, "monotonic_cst": signs}
        return train.model_copy(update={"hist_gradient_boosting": boosting})

    with pytest.raises(ProjectError, match="so none may be dropped"):
        build_pipeline(constrained({"employees": -1}))
    with pytest.raises(ProjectError, match=r"train.hist_gradient_boosting.monotonic_cst: staff is no feature"):
        build_pipeline(constrained({"staff": -1}))


def test_learners_are_compared_on_the_same_folds(compared: Project) -> None:
    train = section(compared)
    nested = {run.data.tags["mlflow.runName"]: run for run in runs(compared, "tags.state = 'complete'")}
    assert set(nested) == {"logistic_regression", "random_forest", "hist_gradient_boosting", "lightgbm"}
    features, labels = train_loans(compared)
    folds = StratifiedKFold(5, shuffle=True, random_state=train.seed)
    client = MlflowClient(f"sqlite:///{compared.path('3.experiments', 'mlflow.db')}")
    for model in ("logistic_regression", "hist_gradient_boosting"):
        expected = []
        for fitted, scored in folds.split(features, labels):
            pipeline = build_pipeline(train.model_copy(update={"model": model}), rows=len(fitted))
            pipeline.fit(features[fitted], labels[fitted])
            expected.append(roc_auc_score(labels[scored], default_probability(pipeline, features[scored])))
        logged = client.get_metric_history(nested[model].info.run_id, "roc_auc")
        by_fold = [metric.value for metric in sorted(logged, key=lambda metric: metric.step)]
        assert by_fold == pytest.approx(expected)
        assert nested[model].data.metrics["roc_auc_mean"] == pytest.approx(np.mean(by_fold))


def test_the_selection_is_fitted_once_a_fold_and_keeps_what_it_would_keep(finished: Project) -> None:
    train = section(finished)
    features, labels = train_loans(finished)
    folds = make_folds("random", labels, np.arange(len(labels)), seed=5)
    loans = Loans(features, labels, folds, "of this test", "random")
    before = set(candidates._forests)
    for importance, iterations in ((0.0, 5), (0.1, 5), (0.5, 10)):
        selection = train.selection.model_copy(update={"min_importance": importance})
        boosting = {**train.hist_gradient_boosting, "max_iter": iterations}
        candidate = Candidate(train.model_copy(update={"selection": selection, "hist_gradient_boosting": boosting}))
        found = candidates.score_fold(loans, candidate, 2)
        fitted, scored = folds[2]
        whole = candidate.pipeline(len(fitted)).fit(features[fitted], labels[fitted])
        assert found.roc_auc == roc_auc_score(labels[scored], default_probability(whole, features[scored]))
    assert len(set(candidates._forests) - before) == 1
    candidates.score_fold(loans, candidate, 3)
    assert len(set(candidates._forests) - before) == 2


def test_each_run_is_nested_and_says_what_it_was(compared: Project) -> None:
    (parent,) = runs(compared, "attributes.run_name = 'compare models'")
    assert parent.info.status == "FINISHED"
    nested = runs(compared, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert len(nested) == 4
    for run in nested:
        assert run.info.status == "FINISHED"
        assert {"model", "seed", "calibration", "selection.min_importance"} < set(run.data.params)
        assert {"roc_auc", "pr_auc", "roc_auc_mean", "roc_auc_standard_error", "seconds"} < set(run.data.metrics)
        assert run.data.metrics["seconds_total"] > run.data.metrics["seconds"] > 0
        (used,) = run.inputs.dataset_inputs
        assert used.dataset.name == "train"
        assert run.data.tags["data_sha256"].startswith(used.dataset.digest)
    by_name = {run.data.tags["mlflow.runName"]: run.data.params for run in nested}
    assert by_name["hist_gradient_boosting"]["max_iter"] == by_name["lightgbm"]["n_estimators"] == "60"


def test_comparing_by_time_is_another_comparison(project: Project) -> None:
    project.run(COMPARE, "--folds", "time", *QUICK)
    assert {run.data.tags["folds"] for run in runs(project)} == {"time"}


@contextmanager
def opened_files(folders: set[Path]) -> Iterator[set[str]]:
    """Names of the files in folders that any process opens meanwhile, whichever library does it: the kernel tells."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    in_open = 0x20
    for folder in folders:
        assert libc.inotify_add_watch(descriptor, os.fsencode(folder), in_open) >= 0
    names: set[str] = set()
    try:
        yield names
        while True:
            try:
                events = os.read(descriptor, 1 << 20)
            except BlockingIOError:
                break
            while events:
                _, _, _, length = struct.unpack_from("iIII", events)
                names.add(events[16 : 16 + length].rstrip(b"\0").decode())
                events = events[16 + length :]
    finally:
        os.close(descriptor)


@pytest.mark.skipif(sys.platform != "linux", reason="watching opened files needs inotify")
def test_no_file_that_holds_held_out_loans_is_ever_opened(project: Project) -> None:
    folders = {project.path("1.data", name).parent for name in HELD_OUT}
    test_side = project.path("1.data", "4.split", "rows", "test.parquet")
    with opened_files({test_side.parent}) as all_sides:  # the watch sees what Arrow opens
        read_split(test_side)
    assert all_sides == {"test.parquet"}
    with opened_files(folders) as opened:
        project.run(COMPARE, *QUICK)
        project.run(*SEARCH, "--trials", "3")
        project.run(SELECT, *QUICK)
    assert {name for name in opened if name} == {"train.parquet"}


def test_a_search_logs_each_trial_as_a_nested_run(searched: Project) -> None:
    (parent,) = runs(searched, "attributes.run_name = 'tune logistic_regression'")
    nested = runs(searched, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    found = trials(searched)
    assert len(nested) == len(found) == 12
    states = sorted(run.data.tags["state"] for run in nested)
    assert states == sorted(state.lower() for _, state, _, _ in found)
    assert "pruned" in states
    assert {run.info.status for run in [parent, *nested]} == {"FINISHED"}
    best = max(value for _, _, value, _ in found if value is not None)
    complete = [run for run in nested if run.data.tags["state"] == "complete"]
    assert max(run.data.metrics["roc_auc_mean"] for run in complete) == pytest.approx(best)
    assert {run.data.params["calibration"] for run in nested if "class_weight" in run.data.params} == {"sigmoid"}


def test_a_search_that_is_done_does_nothing_and_says_its_best(searched: Project) -> None:
    before = trials(searched)
    output = searched.run(*SEARCH, "--trials", "12").stdout
    best = max(value for _, _, value, _ in before if value is not None)
    assert f"best so far {best:.4f}" in output
    assert trials(searched) == before


@pytest.mark.slow
def test_a_killed_search_goes_on_and_finds_what_it_would_have_found(project: Project, searched: Project) -> None:
    process = subprocess.Popen(
        project.command(*SEARCH, "--trials", "12"), cwd=project.root, env=project.environment, stdout=subprocess.DEVNULL
    )
    wait_until(lambda: measured_count(project) >= 3, "the first batch")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 3 <= measured_count(project) < 12
    project.run(*SEARCH, "--trials", "12")
    assert trials(project) == trials(searched)
    assert len(runs(project, "attributes.run_name = 'tune logistic_regression'")) == 1
    assert not runs(project, "attributes.status = 'RUNNING'")


class Cluster:
    """A Dask scheduler and worker processes on loopback."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._stack = stack
        self._folder = folder
        file = folder / "scheduler.json"
        self._start(
            "dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--no-show",
            "--scheduler-file",
            str(file),
        )
        wait_until(lambda: file.exists() and file.read_text().endswith("}"), "the scheduler")
        self.address = str(json.loads(file.read_text())["address"])
        self.workers: list[subprocess.Popen[bytes]] = []

    def add_worker(self) -> None:
        arguments = ("--host", "127.0.0.1", "--no-nanny", "--nthreads", "1", "--no-dashboard")
        self.workers.append(
            self._start("dask_worker", self.address, *arguments, "--local-directory", str(self._folder))
        )

    def _start(self, module: str, *arguments: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.{module}", *arguments],
            cwd=self._folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    with ExitStack() as stack:
        made = Cluster(folder, stack)
        made.add_worker()
        made.add_worker()
        yield made


def test_a_cluster_finds_what_one_machine_finds(project: Project, searched: Project, cluster: Cluster) -> None:
    project.run(*SEARCH, "--trials", "12", "--scheduler", cluster.address)
    assert trials(project) == trials(searched)


def test_a_search_outlives_a_worker(project: Project, searched: Project, cluster: Cluster) -> None:
    command = project.command(*SEARCH, "--trials", "12", "--scheduler", cluster.address)
    with subprocess.Popen(command, cwd=project.root, env=project.environment, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: measured_count(project) >= 3, "the first batch")
        cluster.workers[0].kill()  # it may hold the loans, results, or a fold half-done
        assert measured_count(project) < 12
        assert process.wait(120) == 0
    assert cluster.workers[1].poll() is None
    assert trials(project) == trials(searched)


def test_a_cluster_that_does_not_answer_is_one_sentence(compared: Project) -> None:
    result = compared.run(COMPARE, "--scheduler", "tcp://127.0.0.1:9", check=False)
    assert result.returncode == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:9; start one with `dask scheduler`" in result.stderr
    assert "Traceback" not in result.stderr


def test_without_loans_the_search_says_what_to_do(fresh: Project) -> None:
    result = fresh.run(TUNE, check=False)
    assert result.returncode == 1
    assert (
        result.stderr
        == "tune: 1.data/4.split/rows/train.parquet is missing; run the pipeline first: `uv run main.py`\n"
    )


def comments(text: str) -> list[str]:
    return re.findall(r"#.*", text)


def test_selecting_writes_a_really_better_candidate_and_keeps_the_comments(project: Project) -> None:
    params = project.path("4.dvc_pipeline", "params.yaml")
    params.write_text(
        params.read_text()
        .replace("max_iter: 60", "max_iter: 1")
        .replace("l2_regularization: 1.0", "l2_regularization: 500.0")
    )
    project.run(COMPARE, *QUICK)
    (now,) = runs(project, "attributes.run_name = 'hist_gradient_boosting'")
    complete = {
        run.data.tags["mlflow.runName"]: run.data.metrics["roc_auc_mean"]
        for run in runs(project, "tags.state = 'complete'")
    }
    winner = max((name for name in complete if name != "lightgbm"), key=lambda name: complete[name])
    assert winner != "hist_gradient_boosting"
    before = params.read_text()
    shown = project.run(SELECT, "--dry-run", *QUICK).stdout
    assert params.read_text() == before
    assert f"+  model: {winner}" in shown
    assert "nothing is written" in shown
    project.run(SELECT, *QUICK)
    after = params.read_text()
    assert section(project).model == winner
    (source,) = runs(project, f"attributes.run_name = '{winner}'")
    assert f"MLflow run {source.info.run_id}" in after
    assert (
        "selected"
        in MlflowClient(f"sqlite:///{project.path('3.experiments', 'mlflow.db')}").get_run(source.info.run_id).data.tags
    )
    assert "selected" not in now.data.tags
    assert set(comments(before)) <= set(comments(after))
    assert yaml.safe_load(before) | {"train": None} == yaml.safe_load(after) | {"train": None}
    assert project.run("4.dvc_pipeline/5.train_model.py").stdout.startswith(winner)
    assert "has the best candidate already" in project.run(SELECT, *QUICK).stdout


def test_selecting_passes_over_what_can_not_be_served(compared: Project, tmp_path: Path) -> None:
    """LightGBM leads in the log; it has no converter, so the next one is taken."""
    project = copy_finished(compared, tmp_path / "project")
    client = MlflowClient(f"sqlite:///{project.path('3.experiments', 'mlflow.db')}")
    (lightgbm,) = runs(project, "attributes.run_name = 'lightgbm'")
    client.log_metric(lightgbm.info.run_id, "roc_auc_mean", 0.99)
    output = project.run(SELECT, "--dry-run", *QUICK).stdout
    assert re.search(r"passed over.*lightgbm.*does not compile to ONNX", output)
    assert "+  model: lightgbm" not in output
    assert output.count("MLflow run") >= 2


def test_selecting_keeps_what_stands_when_nothing_is_clearly_better(finished: Project) -> None:
    names = script(finished, SELECT)
    loans = Loans(
        np.zeros((110, 1), np.float32), np.zeros(110, np.int8), [(np.arange(100), np.arange(10))] * 4, "", "random"
    )
    ours = [FoldResult(auc, 0.0, 0.0) for auc in (0.70, 0.71, 0.72, 0.73)]
    better = [FoldResult(auc, 0.0, 0.0) for auc in (0.71, 0.71, 0.73, 0.73)]
    gain, error = names["difference"](better, ours, loans)
    assert gain == pytest.approx(0.005)
    # By hand: differences 1, 0, 1, 0 hundredths have a standard deviation of 0.005774; √(1/4 + 1/10) of it.
    assert error == pytest.approx(0.005774 * 0.35**0.5, rel=1e-3)


def test_the_search_can_reach_the_default_and_its_candidates_survive_the_log(finished: Project) -> None:
    names = script(finished, TUNE)
    train = section(finished)
    for model, space in names["SPACES"].items():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        seen = []
        for _ in range(40):
            candidate = space(study.ask(), train)
            assert candidate.model == model
            assert Candidate.from_json(candidate.to_json()) == candidate
            candidate.pipeline(1_000)  # constraints fit the selection
            seen.append(candidate.parameters)
        assert any("class_weight" in drawn for drawn in seen)
        assert any("class_weight" not in drawn for drawn in seen)
        assert any("monotonic_cst" in drawn for drawn in seen) == (model != "logistic_regression")


def test_writing_the_present_parameters_changes_the_note_alone(finished: Project) -> None:
    text = (REPOSITORY / "4.dvc_pipeline" / "params.yaml").read_text()
    train = TrainParams.model_validate(yaml.safe_load(text)["train"])
    after = script(finished, SELECT)["updated"](text, train, "note")
    changed = [line for line in after.splitlines() if line not in text.splitlines()]
    assert changed == [f"  {train.model}: # note"]
    assert len(after.splitlines()) == len(text.splitlines())


def test_no_stage_depends_on_the_search() -> None:
    assert "search.py" not in (REPOSITORY / "4.dvc_pipeline" / "dvc.yaml").read_text()
