"""3.experiments: learners are compared on the same folds of train alone; a search can be killed and resumed."""

import ctypes
import os
import re
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from mlflow import MlflowClient
from projects import REPOSITORY, Project, copy_finished, once, wait_until
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from credit_risk.core.errors import ProjectError
from credit_risk.data.splits import read_split
from credit_risk.features import FEATURES
from credit_risk.formats.onnx_export import export_onnx
from credit_risk.formats.onnx_scorer import OnnxMetadata, OnnxScorer
from credit_risk.model import TrainParams, build_pipeline, fit, positive_probability
from credit_risk.search import folds
from credit_risk.search.candidates import LEARNERS, candidate_pipeline, learner_parameters
from credit_risk.search.folds import FOLD_KINDS, FoldResult, TrainRows, difference, make_folds
from credit_risk.search.params_file import updated
from credit_risk.search.spaces import SPACES
from credit_risk.search.tracking import EXPERIMENT

COMPARE, TUNE, SELECT = (f"3.experiments/{name}.py" for name in ("1.compare_models", "2.tune", "3.select_best"))
FOLDERS = ("1.raw", "2.clean", "3.features", "4.split/rows")  # whose files hold rows of the holdouts, or of all splits
QUICK = ("--processes", "1")
SEARCH = (TUNE, "--model", "logistic_regression", "--batch", "3", *QUICK)


def train_section(project: Project, **changes: Any) -> TrainParams:
    return TrainParams.model_validate(project.params["train"] | changes)


@pytest.fixture
def train_rows(finished: Project, inside: Callable[[Project], None]) -> tuple[Any, Any]:
    """Features and labels of train."""
    inside(finished)
    return read_split("train")


def runs(project: Project, query: str = "") -> list[Any]:
    client = MlflowClient(f"sqlite:///{project.path('3.experiments', 'mlflow.db')}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id], query, max_results=1000)) if experiment else []


def trials(project: Project) -> list[tuple[Any, ...]]:
    """Parameters, state, value and values of the folds of each measured trial."""
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
    """How many measured trials the storage holds while a search writes it."""
    database = project.path("3.experiments", "optuna.db")
    if not database.exists():
        return 0
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
        try:
            return int(
                connection.execute("select count(*) from trials where state in ('COMPLETE', 'PRUNED')").fetchone()[0]
            )
        except sqlite3.OperationalError:  # its tables are being created
            return 0


@pytest.fixture(scope="module")
def compared(shared: Path, finished: Project) -> Project:
    """A finished project whose learners have been compared."""
    return Project(
        once(shared / "compared", lambda folder: copy_finished(finished, folder).run_measured(COMPARE, *QUICK))
    )


@pytest.fixture(scope="module")
def searched(shared: Path, finished: Project) -> Project:
    """A finished project in which a search of twelve trials has run without interruption."""
    search = (*SEARCH, "--trials", "12")
    return Project(once(shared / "searched", lambda folder: copy_finished(finished, folder).run_measured(*search)))


def test_random_folds_score_each_row_once_with_equal_positive_rates() -> None:
    labels = (np.arange(1_000) % 10 == 0).astype(np.int8)
    found = make_folds("random", labels, None, seed=1)
    assert sorted(np.concatenate([scored for _, scored in found]).tolist()) == list(range(1_000))
    for fitted, scored in found:
        assert not set(fitted) & set(scored)
        assert labels[scored].mean() == pytest.approx(0.1)
    again = make_folds("random", labels, None, seed=1)
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(found, again, strict=True))


def test_time_folds_are_fitted_on_older_rows() -> None:
    rng = np.random.default_rng(0)
    dates = rng.permutation(1_000)
    labels = rng.integers(0, 2, 1_000).astype(np.int8)
    found = make_folds("time", labels, dates, seed=1)
    assert len(found) == 5
    for fitted, scored in found:
        assert dates[fitted].max() < dates[scored].min()
    assert len(found[-1][0]) + len(found[-1][1]) == 1_000


def test_folds_without_both_outcomes_are_rejected() -> None:
    with pytest.raises(ProjectError, match="does not have both outcomes"):
        make_folds("time", np.array([0] * 90 + [1] * 10, np.int8), np.arange(100), seed=1)
    with pytest.raises(ProjectError, match="fewer than 5 rows of one outcome"):
        make_folds("random", np.array([0] * 97 + [1] * 3, np.int8), None, seed=1)


@pytest.mark.parametrize("model", ["random_forest", "hist_gradient_boosting"])
def test_weighted_models_are_calibrated_and_served(finished: Project, train_rows: tuple[Any, Any], model: str) -> None:
    features, labels = train_rows
    few = {"n_estimators": 30} if model == "random_forest" else {"max_iter": 30}
    parameters = project_parameters(finished, model) | few | {"class_weight": "balanced"}
    pipeline = fit(train_section(finished, calibration="sigmoid", model=model, **{model: parameters}), features, labels)
    probabilities = positive_probability(pipeline, features)
    assert probabilities.mean() == pytest.approx(labels.mean(), abs=0.02)  # calibration undoes the shift of the weights
    scorer = OnnxScorer(export_onnx(pipeline, OnnxMetadata(FEATURES.names, 0.2)))
    assert np.abs(scorer.score(features) - probabilities).max() <= 1e-6


def project_parameters(project: Project, model: str) -> dict[str, Any]:
    return dict(project.params["train"][model])


@pytest.mark.parametrize("calibration", ["none", "sigmoid"])
@pytest.mark.parametrize("model", ["random_forest", "hist_gradient_boosting"])
def test_trees_keep_the_declared_directions_of_the_columns_that_selection_leaves(
    finished: Project, model: str, calibration: str
) -> None:
    """`nothing` is dropped, so that the others move; `down` is declared to fall, and in the data it rises."""
    names, random = ["code", "nothing", "up", "down"], np.random.default_rng(0)
    features = random.normal(size=(3_000, 4)).astype(np.float32)
    features[:, 0], features[:, 1] = random.integers(0, 3, 3_000), 1
    labels = (features[:, 2] + 0.5 * features[:, 3] + random.normal(size=3_000) > 0).astype(np.int8)
    few = {"random_forest": {"n_estimators": 20, "min_samples_leaf": 5}, "hist_gradient_boosting": {"max_iter": 30}}
    selection = {"trees": 10, "rows": 3_000, "min_importance": 0.01}

    def moved(monotonic: bool, name: str) -> Any:
        train = train_section(
            finished, model=model, calibration=calibration, selection=selection, monotonic=monotonic, **few
        )
        pipeline = clone(build_pipeline(train, names, ["code"], None, (), {"up": 1, "down": -1}))
        pipeline.fit(features, labels)
        assert pipeline["select"].get_support().tolist() == [True, False, True, True]
        more = features.copy()
        more[:, names.index(name)] += 0.7
        return positive_probability(pipeline, more) - positive_probability(pipeline, features)

    assert (moved(True, "up") >= -1e-12).all()
    assert (moved(True, "down") <= 1e-12).all()
    assert (moved(False, "down") > 1e-12).any()


def test_constraints_by_position_are_rejected(finished: Project) -> None:
    boosting = project_parameters(finished, "hist_gradient_boosting") | {"monotonic_cst": [1]}
    with pytest.raises(ProjectError, match=r"hist_gradient_boosting.monotonic_cst .* set train.monotonic"):
        build_pipeline(train_section(finished, hist_gradient_boosting=boosting))


def test_the_selection_is_fitted_once_a_fold_and_keeps_what_it_would_keep(
    finished: Project, train_rows: tuple[Any, Any]
) -> None:
    features, labels = train_rows
    made = make_folds("random", labels, None, seed=5)
    rows = TrainRows(features, labels, made, "of this test", "random")
    before = set(folds._forests)
    for importance, iterations in ((0.0, 5), (0.1, 5), (0.5, 10)):
        selection = finished.params["train"]["selection"] | {"min_importance": importance}
        boosting = project_parameters(finished, "hist_gradient_boosting") | {"max_iter": iterations}
        candidate = train_section(finished, selection=selection, hist_gradient_boosting=boosting)
        found = folds.score_fold(rows, candidate, 2)
        fitted, scored = made[2]
        whole = candidate_pipeline(candidate, len(fitted)).fit(features[fitted], labels[fitted])
        assert found.roc_auc == roc_auc_score(labels[scored], positive_probability(whole, features[scored]))
    assert len(set(folds._forests) - before) == 1
    folds.score_fold(rows, candidate, 3)
    assert len(set(folds._forests) - before) == 2


def test_the_difference_of_two_candidates_has_its_corrected_error() -> None:
    rows = TrainRows(
        np.zeros((110, 1), np.float32), np.zeros(110, np.int8), [(np.arange(100), np.arange(10))] * 4, "", "random"
    )
    current = [FoldResult(auc, 0.0, 0.0) for auc in (0.70, 0.71, 0.72, 0.73)]
    better = [FoldResult(auc, 0.0, 0.0) for auc in (0.71, 0.71, 0.73, 0.73)]
    gain, error = difference(better, current, rows)
    assert gain == pytest.approx(0.005)
    # By hand: differences of 0.01, 0, 0.01, 0 have a standard deviation of 0.005774; √(1/4 + 1/10) of it.
    assert error == pytest.approx(0.005774 * 0.35**0.5, rel=1e-3)


def test_each_space_draws_candidates_that_can_be_built_and_logged(finished: Project) -> None:
    train = train_section(finished)
    assert set(SPACES) == set(LEARNERS)
    for model, space in SPACES.items():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        candidates, drawn = [], []
        for _ in range(40):
            candidate = space(study.ask(), train)
            assert candidate.model == model
            assert TrainParams.model_validate_json(candidate.model_dump_json()) == candidate
            candidate_pipeline(candidate, 1_000)
            candidates.append(candidate)
            drawn.append(learner_parameters(candidate))
        assert {"class_weight" in each for each in drawn} == {True, False}
        constrained = bool(FEATURES.directions) and model != "logistic_regression"
        assert {each.monotonic for each in candidates} == ({True, False} if constrained else {False})


def test_writing_the_current_parameters_changes_the_note_alone() -> None:
    text = (REPOSITORY / "4.dvc_pipeline" / "params.yaml").read_text()
    train = TrainParams.model_validate(yaml.safe_load(text)["train"])
    after = updated(text, train, "note")
    assert yaml.safe_load(after) == yaml.safe_load(text)
    changed = [line for line in after.splitlines() if line not in text.splitlines()]
    assert changed == [f"  {train.model}: # note"]
    assert len(after.splitlines()) == len(text.splitlines())


@pytest.mark.integration
def test_learners_are_compared_on_the_same_folds(compared: Project, inside: Callable[[Project], None]) -> None:
    inside(compared)
    nested = {run.data.tags["mlflow.runName"]: run for run in runs(compared, "tags.state = 'complete'")}
    assert set(nested) == set(LEARNERS)
    features, labels = read_split("train")
    splitter = StratifiedKFold(5, shuffle=True, random_state=train_section(compared).seed)
    client = MlflowClient(f"sqlite:///{compared.path('3.experiments', 'mlflow.db')}")
    for model in ("logistic_regression", "hist_gradient_boosting"):
        expected = []
        for fitted, scored in splitter.split(features, labels):
            pipeline = build_pipeline(train_section(compared, model=model), rows=len(fitted))
            pipeline.fit(features[fitted], labels[fitted])
            expected.append(roc_auc_score(labels[scored], positive_probability(pipeline, features[scored])))
        logged = client.get_metric_history(nested[model].info.run_id, "roc_auc")
        by_fold = [metric.value for metric in sorted(logged, key=lambda metric: metric.step)]
        assert by_fold == pytest.approx(expected)
        assert nested[model].data.metrics["roc_auc_mean"] == pytest.approx(np.mean(by_fold))


@pytest.mark.integration
def test_each_run_is_nested_and_has_parameters_metrics_and_data(compared: Project) -> None:
    (parent,) = runs(compared, "attributes.run_name = 'compare models'")
    assert parent.info.status == "FINISHED"
    nested = runs(compared, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    assert len(nested) == len(LEARNERS)
    for run in nested:
        assert run.info.status == "FINISHED"
        assert {"model", "seed", "calibration", "selection.min_importance"} < set(run.data.params)
        assert {"roc_auc", "pr_auc", "roc_auc_mean", "roc_auc_standard_error", "seconds"} < set(run.data.metrics)
        (used,) = run.inputs.dataset_inputs
        assert used.dataset.name == "train"
        assert run.data.tags["data_sha256"].startswith(used.dataset.digest)


@pytest.mark.integration
def test_each_kind_of_folds_is_a_comparison_of_its_own(project: Project) -> None:
    kind = FOLD_KINDS[-1]  # by time, where the contract has a date
    project.run(COMPARE, "--folds", kind, *QUICK)
    assert {run.data.tags["folds"] for run in runs(project)} == {kind}


@contextmanager
def opened_files(folders: set[Path]) -> Iterator[set[str]]:
    """Names of the files in folders that any process opens meanwhile, whichever library does it (inotify)."""
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


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="watching opened files needs inotify")
def test_no_file_with_rows_of_the_holdouts_is_opened(project: Project, inside: Callable[[Project], None]) -> None:
    inside(project)
    folders = {project.path("1.data", name) for name in FOLDERS}
    with opened_files(folders) as control:  # the watch sees what Arrow opens
        read_split("test")
    assert control == {"test.parquet"}
    with opened_files(folders) as opened:
        project.run(COMPARE, *QUICK)
        project.run(*SEARCH, "--trials", "3")
        project.run(SELECT, *QUICK)
    assert {name for name in opened if name} == {"train.parquet"}


@pytest.mark.integration
def test_a_search_logs_each_trial_as_a_nested_run(searched: Project) -> None:
    (parent,) = runs(searched, "attributes.run_name = 'tune logistic_regression'")
    nested = runs(searched, f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    found = trials(searched)
    assert len(nested) == len(found) == 12
    assert sorted(run.data.tags["state"] for run in nested) == sorted(state.lower() for _, state, _, _ in found)
    assert {run.info.status for run in [parent, *nested]} == {"FINISHED"}
    best = max(value for _, _, value, _ in found if value is not None)
    complete = [run for run in nested if run.data.tags["state"] == "complete"]
    assert max(run.data.metrics["roc_auc_mean"] for run in complete) == pytest.approx(best)
    assert {run.data.params["calibration"] for run in nested if "class_weight" in run.data.params} == {"sigmoid"}


@pytest.mark.integration
def test_a_finished_search_runs_no_trial_and_shows_its_best(searched: Project) -> None:
    before = trials(searched)
    output = searched.run(*SEARCH, "--trials", "12").stdout
    best = max(value for _, _, value, _ in before if value is not None)
    assert f"best so far {best:.4f}" in output
    assert trials(searched) == before


@pytest.mark.slow
def test_a_killed_search_resumes_and_finds_what_it_would_have_found(project: Project, searched: Project) -> None:
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


@pytest.mark.integration
def test_without_data_the_search_says_what_to_do(fresh: Project) -> None:
    result = fresh.run(TUNE, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith("tune: 1.data/4.split/rows/train.parquet is missing; run the pipeline first")


def comments(text: str) -> list[str]:
    return re.findall(r"#.*", text)


@pytest.mark.integration
@pytest.mark.timeout(600)  # seconds; six scripts run one after the other
def test_selecting_writes_a_clearly_better_candidate_and_keeps_the_comments(project: Project) -> None:
    boosting = "train.hist_gradient_boosting"
    project.set_params(
        {"train.model": "hist_gradient_boosting", f"{boosting}.max_iter": 1, f"{boosting}.l2_regularization": 500.0}
    )
    project.run(COMPARE, *QUICK)
    (current,) = runs(project, "attributes.run_name = 'hist_gradient_boosting'")
    auc = {
        run.data.tags["mlflow.runName"]: run.data.metrics["roc_auc_mean"]
        for run in runs(project, "tags.state = 'complete'")
    }
    winner = max(auc, key=lambda name: auc[name])
    assert winner != "hist_gradient_boosting"
    before = project.params_file.read_text()
    shown = project.run(SELECT, "--dry-run", *QUICK).stdout
    assert project.params_file.read_text() == before
    assert f"+  model: {winner}" in shown
    assert "nothing is written" in shown
    project.run(SELECT, *QUICK)
    after = project.params_file.read_text()
    assert project.params["train"]["model"] == winner
    (source,) = runs(project, f"attributes.run_name = '{winner}'")
    assert f"MLflow run {source.info.run_id}" in after
    assert "selected" in source.data.tags
    assert "selected" not in current.data.tags
    assert set(comments(before)) <= set(comments(after))
    assert yaml.safe_load(before) | {"train": None} == yaml.safe_load(after) | {"train": None}
    assert project.run("4.dvc_pipeline/5.train_model.py").stdout.startswith(winner)
    assert "has the best candidate already" in project.run(SELECT, *QUICK).stdout
