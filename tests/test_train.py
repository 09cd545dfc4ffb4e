"""Stages 3, 5 and 6: the same input gives the same bits, scikit-learn and ONNX agree, and leaks stop the run."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import joblib
import numpy as np
import onnx
import pandas as pd
import pytest
from projects import Project, run_script, script
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import OUTCOME, ROW_ID
from credit_risk.data.splits import read_split
from credit_risk.evaluation.leakage import single_feature_aucs
from credit_risk.evaluation.metrics import expected_calibration_error
from credit_risk.features import FEATURES
from credit_risk.formats.onnx_export import _splits, export_onnx, with_float32_splits
from credit_risk.formats.onnx_scorer import OUTPUT_NAME, OnnxMetadata, OnnxScorer
from credit_risk.formats.recalibration import Sigmoid, recalibrated
from credit_risk.model import (
    TrainParams,
    build_pipeline,
    encoded_features,
    fit,
    logistic_baseline,
    positive_probability,
)

TRAIN = "4.dvc_pipeline/5.train_model.py"
EVALUATE = "4.dvc_pipeline/6.evaluate_model.py"


def train_params(project: Project, **changes: Any) -> TrainParams:
    return TrainParams.model_validate(project.params["train"] | changes)


@pytest.fixture
def train_rows(finished: Project, inside: Callable[[Project], None]) -> tuple[Any, Any]:
    """Features and labels of train."""
    inside(finished)
    return read_split("train")


@pytest.fixture
def holdout_rows(finished: Project, inside: Callable[[Project], None]) -> tuple[Any, Any]:
    """Features and labels of test."""
    inside(finished)
    return read_split("test")


def test_features_file_is_what_the_package_computes(finished: Project) -> None:
    clean = pd.read_parquet(finished.path("1.data", "2.clean", "rows.parquet"))
    made = pd.read_parquet(finished.path("1.data", "3.features", "features.parquet"))
    assert made[ROW_ID].tolist() == clean[ROW_ID].tolist()
    assert set(made[list(FEATURES.names)].dtypes.astype(str)) == {"float32"}
    assert np.array_equal(
        made[list(FEATURES.names)].to_numpy(),
        FEATURES.from_columns({name: clean[name] for name in CONTRACT.field_names}),
        equal_nan=True,
    )


@pytest.mark.integration
@pytest.mark.parametrize("model", ["hist_gradient_boosting", "random_forest"])
@pytest.mark.parametrize("calibration", ["none", "sigmoid"])
def test_onnx_splits_where_the_trees_split_to_the_last_bit(
    model: str, calibration: str, finished: Project, train_rows: tuple[Any, Any]
) -> None:
    few = {"hist_gradient_boosting": {"max_iter": 30}, "random_forest": {"n_estimators": 10}}
    features, labels = train_rows
    pipeline = fit(train_params(finished, model=model, calibration=calibration, **few), features, labels)
    content = export_onnx(pipeline, OnnxMetadata(FEATURES.names, 0.2))
    # Every threshold of every tree, put into every feature: whatever a split sees, it sees its own threshold too.
    trees = [node for node in onnx.load_from_string(content).graph.node if node.op_type.startswith("TreeEnsemble")]
    values = np.unique(
        [
            value
            for tree in trees
            for attribute in tree.attribute
            if attribute.name == "nodes_values"
            for value in attribute.floats
        ]
    ).astype(np.float32)
    near = np.concatenate([np.nextafter(values, np.float32(side)) for side in (-np.inf, np.inf)] + [values])
    rows = np.resize(features, (len(near) * 3, features.shape[1]))
    random = np.random.default_rng(1)
    columns = random.integers(0, features.shape[1], len(rows))
    rows[np.arange(len(rows)), columns] = np.resize(near, len(rows))
    difference = np.abs(OnnxScorer(content).score(rows) - positive_probability(pipeline, rows))
    assert difference.max() <= 1e-6


@pytest.mark.parametrize("calibration", ["none", "sigmoid"])
@pytest.mark.parametrize("model", ["random_forest", "hist_gradient_boosting"])
def test_float32_splits_are_never_above_the_trees_own(finished: Project, model: str, calibration: str) -> None:
    # Few values, so that boosting too splits halfway between two of them, which float32 can't hold.
    features = np.random.default_rng(0).normal(size=(2_000, 2)).round(1).astype(np.float32)
    train = train_params(finished, model=model, calibration=calibration)
    train.random_forest["n_estimators"] = 10
    pipeline = build_pipeline(train, ["a", "b"], [], 2_000).fit(features, (features.sum(axis=1) > 0).astype(np.int8))
    pairs = list(zip(_splits(pipeline[-1]), _splits(with_float32_splits(pipeline)[-1]), strict=True))
    before, after = (np.concatenate(side) for side in zip(*pairs, strict=True))
    assert (after <= before).all()
    assert (before.astype(np.float32) > before).any()  # rounding to the nearest would have moved some up
    assert (after == after.astype(np.float32)).all()


@pytest.mark.integration
def test_trained_twice_files_and_scores_are_identical(project: Project, inside: Callable[[Project], None]) -> None:
    inside(project)
    folder = project.path("1.data", "5.model")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {"model.joblib", "model.onnx", "out_of_fold.parquet", "training.json"}
    features, _ = read_split("test")
    scores = positive_probability(joblib.load(folder / "model.joblib"), features)
    shutil.rmtree(folder)
    project.run(TRAIN, PYTHONHASHSEED="7")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert np.array_equal(positive_probability(joblib.load(folder / "model.joblib"), features), scores)


@pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("calibration", ["none", "sigmoid", "newest"])
@pytest.mark.parametrize("model", ["logistic_regression", "random_forest", "hist_gradient_boosting"])
def test_every_model_learns_and_onnx_agrees_with_it(
    finished: Project, train_rows: tuple[Any, Any], holdout_rows: tuple[Any, Any], model: str, calibration: str
) -> None:
    train = train_params(finished, model=model, calibration=calibration)
    train.random_forest["n_estimators"] = 30
    pipeline = fit(train, *train_rows)
    if calibration == "newest":
        pipeline = recalibrated(pipeline, Sigmoid(0.9, 1.4))
    content = export_onnx(pipeline, OnnxMetadata(FEATURES.names, 0.2))
    assert content == export_onnx(pipeline, OnnxMetadata(FEATURES.names, 0.2))
    scorer = OnnxScorer(content)
    features, labels = holdout_rows
    scores = positive_probability(pipeline, features)
    assert np.abs(scorer.score(features) - scores).max() <= 1e-6
    assert roc_auc_score(labels, scores) > 0.55
    one_by_one = np.concatenate([scorer.score(features[[i]]) for i in range(50)])
    batch = scorer.score(features[:50])  # the size of a batch changes no score of trees; others by the last bit at most
    exact = model != "logistic_regression" and calibration != "newest"
    assert np.allclose(one_by_one, batch, rtol=0, atol=0 if exact else 1e-6)
    assert np.allclose(scorer.score_many(features), scorer.score(features), rtol=0, atol=1e-7)


def test_a_model_of_other_classes_is_not_exported() -> None:
    """Its second column would be taken for the positive class."""
    rows = np.zeros((4, len(FEATURES.names)), np.float32)
    model = make_pipeline(LogisticRegression()).fit(rows, [1, 2, 1, 2])
    with pytest.raises(ValueError, match="must be 0 and 1"):
        export_onnx(model, OnnxMetadata(FEATURES.names, 0.2))


def test_a_model_with_another_output_is_rejected(finished: Project) -> None:
    content = finished.path("1.data", "5.model", "model.onnx").read_bytes()
    other = OUTPUT_NAME[::-1]
    with pytest.raises(ProjectError, match=other):
        OnnxScorer(content.replace(OUTPUT_NAME.encode(), other.encode()))


@pytest.mark.integration
def test_onnx_has_the_same_bytes_in_every_process(finished: Project) -> None:
    code = """
import hashlib, yaml
from credit_risk.data.splits import read_split
from credit_risk.features import FEATURES
from credit_risk.model import TrainParams, fit
from credit_risk.formats.onnx_export import export_onnx
from credit_risk.formats.onnx_scorer import OnnxMetadata
features, labels = read_split("test")
for model in ("logistic_regression", "random_forest", "hist_gradient_boosting"):
    section = yaml.safe_load(open("4.dvc_pipeline/params.yaml"))["train"] | {"model": model}
    section["random_forest"]["n_estimators"] = 5
    pipeline = fit(TrainParams.model_validate(section), features, labels)
    print(hashlib.sha256(export_onnx(pipeline, OnnxMetadata(FEATURES.names, 0.2))).hexdigest())
"""
    digests = {finished.run("-c", code, PYTHONHASHSEED=str(seed)).stdout for seed in range(2)}
    (lines,) = digests
    assert len(set(lines.split())) == 3


def test_scorer_has_threshold_and_features(finished: Project) -> None:
    scorer = OnnxScorer.load(finished.path("1.data", "5.model", "model.onnx"))
    training = json.loads(finished.path("1.data", "5.model", "training.json").read_text())
    assert scorer.metadata == OnnxMetadata(FEATURES.names, training["threshold"])


def test_scorer_rejects_what_is_not_its_model(finished: Project) -> None:
    content = finished.path("1.data", "5.model", "model.onnx").read_bytes()
    with pytest.raises(ProjectError, match="can't be loaded"):
        OnnxScorer(content[: len(content) // 2])
    gone = FEATURES.names[0]
    with pytest.raises(ProjectError, match=rf"takes the features {gone}, which this code does not compute;"):
        OnnxScorer(content, columns=FEATURES.names[1:])


def test_a_model_takes_its_features_by_name(finished: Project, holdout_rows: tuple[Any, Any]) -> None:
    """Features that were added to the code since, or moved, change no score."""
    content = finished.path("1.data", "5.model", "model.onnx").read_bytes()
    features, _ = holdout_rows
    more = np.column_stack([np.ones(len(features), np.float32), features[:, ::-1]])
    scorer = OnnxScorer(content, columns=("one_more", *FEATURES.names[::-1]))
    assert np.array_equal(scorer.score(more), OnnxScorer(content).score(features))


def test_isotonic_calibration_is_rejected_in_one_sentence(
    project: Project, inside: Callable[[Project], None], capsys: pytest.CaptureFixture[str]
) -> None:
    inside(project)
    project.set_params({"train.calibration": "isotonic"})
    assert run_script(project, TRAIN) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("stage 5: 4.dvc_pipeline/params.yaml: train.calibration: isotonic")
    assert "sigmoid" in line


def test_isotonic_calibration_still_does_not_agree_with_onnx(finished: Project, train_rows: tuple[Any, Any]) -> None:
    """The reason for rejecting it; when this fails, the library has fixed it, and isotonic can be allowed."""
    features, labels = train_rows
    pipeline = fit(train_params(finished), features, labels)
    classifier = CalibratedClassifierCV(pipeline["classify"], method="isotonic", cv=3, ensemble=False)
    pipeline.set_params(classify=classifier).fit(features, labels)
    scorer = OnnxScorer(export_onnx(pipeline, OnnxMetadata(FEATURES.names, 0.2)))
    assert np.abs(scorer.score(features) - positive_probability(pipeline, features)).max() > 1e-3


def test_calibration_does_not_depend_on_the_order_of_the_rows(finished: Project) -> None:
    """Periods of different risk, one after the other: unshuffled folds would each cover one period."""
    rng = np.random.default_rng(0)
    period = np.repeat(np.arange(5), 800)
    labels = (rng.random(4_000) < np.array([0.05, 0.4, 0.1, 0.6, 0.02])[period]).astype(np.int8)
    features = np.column_stack([period, rng.normal(size=4_000)]).astype(np.float32)
    train = train_params(finished, calibration="sigmoid", selection={"trees": 5, "rows": 1000, "min_importance": 0.0})
    pipeline = build_pipeline(train, ["period", "noise"], [], 4_000).fit(features, labels)
    assert expected_calibration_error(labels, positive_probability(pipeline, features), 10) < 0.06


def test_selection_keeps_and_drops_by_importance(project: Project, inside: Callable[[Project], None]) -> None:
    inside(project)
    project.set_params({"train.selection.min_importance": 1.0})
    assert run_script(project, TRAIN) == 0
    features = json.loads(project.path("1.data", "5.model", "training.json").read_text())["features"]
    kept, dropped = features["kept"], features["dropped"]
    assert kept
    assert dropped
    assert {entry["feature"] for entry in kept + dropped} == set(FEATURES.names)
    assert all(a["importance"] >= b["importance"] for a, b in pairwise(kept))
    limit = 1 / len(FEATURES.names)  # the mean importance: they sum to one
    assert all(entry["importance"] >= limit for entry in kept)
    assert all(entry["importance"] < limit for entry in dropped)


def test_selection_drops_noise(finished: Project) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2_000, 3)).astype(np.float32)
    labels = (features[:, 1] + 0.3 * rng.normal(size=2_000) > 0).astype(np.int8)
    train = train_params(finished, selection={"trees": 10, "rows": 1000, "min_importance": 0.5})
    pipeline = build_pipeline(train, ["a", "b", "c"], [], 2_000).fit(features, labels)
    assert pipeline["select"].get_support().tolist() == [False, True, False]


@pytest.mark.integration
def test_model_sees_train_alone(project: Project, inside: Callable[[Project], None]) -> None:
    inside(project)
    before = project.path("1.data", "5.model", "model.onnx").read_bytes()
    for name in CONTRACT.holdouts:
        project.path("1.data", "4.split", "rows", f"{name}.parquet").unlink()
    assert run_script(project, TRAIN) == 0
    assert project.path("1.data", "5.model", "model.onnx").read_bytes() == before


def test_metrics_have_each_holdout_the_baseline_and_intervals(finished: Project, train_rows: tuple[Any, Any]) -> None:
    report = json.loads(finished.path("1.data", "6.reports", "metrics.json").read_text())
    model = joblib.load(finished.path("1.data", "5.model", "model.joblib"))
    baseline = fit(logistic_baseline(train_params(finished)), *train_rows)
    assert set(report) == {"leak", "cross_validated", *CONTRACT.holdouts}
    out_of_fold = pd.read_parquet(finished.path("1.data", "5.model", "out_of_fold.parquet"))
    expected = roc_auc_score(out_of_fold[OUTCOME], out_of_fold["probability"])
    assert report["cross_validated"]["roc_auc"] == pytest.approx(expected, abs=1e-5)
    assert report["cross_validated"]["roc_auc_low"] < expected < report["cross_validated"]["roc_auc_high"]
    for name in CONTRACT.holdouts:
        features, labels = read_split(name)
        measured = roc_auc_score(labels, positive_probability(model, features))
        assert report[name]["roc_auc"] == pytest.approx(measured, abs=1e-5)
        assert report[name]["roc_auc_low"] <= measured <= report[name]["roc_auc_high"]
        assert report[name]["roc_auc_low"] < report[name]["roc_auc_high"]
        expected = roc_auc_score(labels, positive_probability(baseline, features))
        assert report[name]["logistic_baseline"]["roc_auc"] == pytest.approx(expected, abs=1e-5)
        assert report[name]["rows"] == len(labels)
    aucs = single_feature_aucs(*train_rows, FEATURES.names, train_params(finished).seed, FEATURES.open_names)
    leak = report["leak"]
    assert leak["highest_single_feature_auc"] == pytest.approx(max(aucs.values()), abs=1e-6)
    assert aucs[leak["feature"]] == max(aucs.values())


def test_every_curve_has_its_points(finished: Project) -> None:
    plots = finished.path("1.data", "6.reports", "plots")
    curves = ("roc", "precision_recall", "gains", "calibration")
    expected = {f"{curve}_{name}.csv" for curve in curves for name in CONTRACT.holdouts}
    expected |= {f"scores_{name}_{label}.csv" for name in CONTRACT.holdouts for label in ("positive", "negative")}
    assert {path.name for path in plots.iterdir()} == expected
    for path in plots.iterdir():
        points = pd.read_csv(path)
        assert list(points) == ["x", "y"]
        assert len(points) > 2
    roc = pd.read_csv(plots / "roc_test.csv")
    assert roc.iloc[0].tolist() == [0, 0]
    assert roc.iloc[-1].tolist() == [1, 1]
    assert (roc["y"].diff().dropna() >= 0).all()


def test_a_leaking_feature_stops_the_run(
    project: Project, inside: Callable[[Project], None], capsys: pytest.CaptureFixture[str]
) -> None:
    inside(project)
    project.set_params({"evaluate.leak_auc": 0.99})  # sound features of some data reach almost as much
    train = project.path("1.data", "4.split", "rows", "train.parquet")
    rows = pd.read_parquet(train)
    leaking = FEATURES.names[-1]
    rows[leaking] = rows[OUTCOME].astype("float32") + np.float32(0.1)
    rows.to_parquet(train)
    before = project.path("1.data", "6.reports", "metrics.json").read_bytes()
    assert run_script(project, EVALUATE) == 1
    assert f"stage 6: {leaking} (1.00) alone reaches a ROC AUC of evaluate.leak_auc" in capsys.readouterr().err
    assert project.path("1.data", "6.reports", "metrics.json").read_bytes() == before


@pytest.mark.integration
def test_evaluated_twice_files_are_identical(project: Project, inside: Callable[[Project], None]) -> None:
    inside(project)
    files = [path for path in project.path("1.data", "6.reports").rglob("*") if path.is_file()]
    before = [path.read_bytes() for path in files]
    assert run_script(project, EVALUATE) == 0
    assert [path.read_bytes() for path in files] == before


def test_too_few_rows_of_an_outcome_for_the_folds_are_one_sentence(
    project: Project, inside: Callable[[Project], None], capsys: pytest.CaptureFixture[str]
) -> None:
    inside(project)
    path = project.path("1.data", "4.split", "rows", "train.parquet")
    rows = pd.read_parquet(path)
    pd.concat([rows[rows[OUTCOME] == 0], rows[rows[OUTCOME] == 1].head(1)]).to_parquet(path)
    assert run_script(project, TRAIN) == 1
    assert "stage 5: train has 1 rows of one outcome, fewer than train.threshold_folds" in capsys.readouterr().err


def test_a_fit_does_not_depend_on_the_number_of_threads(finished: Project, train_rows: tuple[Any, Any]) -> None:
    features, labels = train_rows
    for model in ("hist_gradient_boosting", "random_forest"):
        train = train_params(finished, model=model)
        train.random_forest["n_estimators"] = 10
        scores = []
        for threads in (1, 2):
            with threadpool_limits(threads):
                scores.append(positive_probability(fit(train, features, labels), features))
        assert np.array_equal(scores[0], scores[1])


def test_kept_features_are_counted_once_whatever_their_columns(finished: Project, train_rows: tuple[Any, Any]) -> None:
    pipeline = fit(logistic_baseline(train_params(finished)), *train_rows)
    columns = encoded_features(pipeline)
    assert len(columns) == pipeline["encode"].transform(train_rows[0][:1]).shape[1]
    found = script(finished, TRAIN)["selected_features"](pipeline)
    names = [entry["feature"] for entry in found["kept"] + found["dropped"]]
    assert sorted(names) == sorted(FEATURES.names)
    assert sum(entry["importance"] for entry in found["kept"] + found["dropped"]) == pytest.approx(1, abs=1e-4)
    selected = {columns[index] for index in np.flatnonzero(pipeline["select"].get_support())}
    assert {entry["feature"] for entry in found["kept"]} == selected


def test_selection_can_not_drop_every_feature(finished: Project) -> None:
    selection = finished.params["train"]["selection"] | {"min_importance": 1.5}
    with pytest.raises(ValueError, match="min_importance"):
        train_params(finished, selection=selection)
    train = train_params(finished, selection=selection | {"min_importance": 1.0})
    uninformative = np.zeros((100, 2), np.float32)
    pipeline = build_pipeline(train, ["a", "b"], [], 100).fit(uninformative, np.arange(100, dtype=np.int8) % 2)
    assert positive_probability(pipeline, uninformative) == pytest.approx(np.full(100, 0.5))
