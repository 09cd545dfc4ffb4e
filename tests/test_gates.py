"""The gates stop bad models: each by the check that names what is wrong with it, and the champion stays."""

import hashlib
import io
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import joblib
import mlflow.sklearn
import numpy as np
import onnx
import pandas as pd
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from projects import Project, run_script
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline

from credit_risk.contract import CONTRACT
from credit_risk.core.files import write_json
from credit_risk.core.schema import OUTCOME
from credit_risk.data.splits import read_row_ids, read_split, split_path
from credit_risk.features import FEATURES
from credit_risk.formats import skops_model
from credit_risk.formats.onnx_export import export_onnx
from credit_risk.formats.onnx_scorer import OnnxMetadata
from credit_risk.formats.skops_model import registered_pipeline
from credit_risk.gates.page import changed_decisions
from credit_risk.model import TrainParams, build_pipeline, fit
from credit_risk.registry import gate_results, lineage, looks, training_rows
from credit_risk.registry.client import CHALLENGER, CHAMPION, LINEAGE, ONNX_PATH, ONNX_SHA256, Registry, Version
from credit_risk.registry.promotion import history, promote, rollback
from credit_risk.registry.signature import contract_signature

LOADING, PERFORMANCE = "5.testing/loading.py", "5.testing/performance.py"
REGISTER = "4.dvc_pipeline/7.register_model.py"
integration = pytest.mark.integration


@pytest.fixture
def gated(project: Project, inside: Callable[[Project], None]) -> Iterator[Project]:
    """A project with a champion, version 1; afterwards it must still be the champion."""
    inside(project)
    yield project
    champion = Registry().version_of(CHAMPION)
    assert champion is not None
    assert champion.number == "1"


def train_params(project: Project, **changes: Any) -> TrainParams:
    return TrainParams.model_validate(project.params["train"] | changes)


def register(project: Project, pipeline: Pipeline, threshold: float = 0.2) -> Version:
    """Registers a pipeline as stage 7 does; it is the challenger then."""
    folder = project.path("1.data", "5.model")
    joblib.dump(pipeline, folder / "model.joblib")
    (folder / "model.onnx").write_bytes(export_onnx(pipeline, OnnxMetadata(FEATURES.names, threshold)))
    assert run_script(project, REGISTER) == 0
    challenger = Registry().version_of(CHALLENGER)
    assert challenger is not None
    assert challenger.number != "1"
    return challenger


def failures(project: Project, gate: str) -> set[str]:
    """Runs a gate on the challenger and returns the names of the failed checks; the exit code must fit."""
    name = Path(gate).stem
    code = run_script(project, gate)
    result = json.loads(project.path("5.testing", "reports", f"{name}.json").read_text())
    failed = {check["name"] for check in result["checks"] if not check["passed"]}
    assert code == (gate_results.EXIT_REJECTED if failed else 0)
    assert result["passed"] == (not failed)
    challenger = Registry().version_of(CHALLENGER)
    assert challenger is not None
    assert gate_results.read_gate_result(challenger, name) == result
    if failed:
        rejections = [event for event in history(Registry()) if event.version == challenger.number]
        assert rejections[-1].kind == "rejected"
        assert all(check in rejections[-1].reason for check in failed)
    return failed


def test_a_sound_model_is_promoted(finished: Project, inside: Callable[[Project], None]) -> None:
    inside(finished)
    champion = Registry().version_of(CHAMPION)
    assert champion is not None
    for name in ("loading", "performance"):
        result = gate_results.read_gate_result(champion, name)
        assert result is not None
        assert result["passed"]
        out_of_time = "out_of_time_auc" in {check["name"] for check in result["checks"]}
        assert out_of_time == (CONTRACT.has_date and name == "performance")
    assert [(event.kind, event.version) for event in history(Registry())] == [("promoted", "1")]


def require_half_of_the_champion(project: Project) -> None:
    """Sets the thresholds between no skill and the champion's: how high they are depends on the data."""
    metrics = json.loads(project.path("1.data", "6.reports", "metrics.json").read_text())["test"]
    changes = {"gates.min_auc": (0.5 + metrics["roc_auc"]) / 2, "gates.min_brier_skill": metrics["brier_skill"] / 2}
    project.set_params(changes)


def test_constant_model(gated: Project) -> None:
    require_half_of_the_champion(gated)
    train = train_params(gated)
    train.hist_gradient_boosting.update(min_samples_leaf=10**6)  # no tree splits
    register(gated, fit(train, *read_split("train")))
    assert failures(gated, LOADING) == set()
    assert failures(gated, PERFORMANCE) >= {"auc", "skill_over_majority", "skill_over_logistic"}


def test_shuffled_labels(gated: Project) -> None:
    require_half_of_the_champion(gated)
    features, labels = read_split("train")
    rng, rate = np.random.default_rng(0), labels.mean()
    # Shuffled so that each outcome has the same share of positives: if the features predict the outcome well, a plain
    # shuffle of few rows leaves much skill by chance.
    for group in (labels == 0, labels == 1):
        labels[group] = rng.permutation(np.arange(group.sum()) < rate * group.sum())
    register(gated, fit(train_params(gated), features, labels))
    assert failures(gated, LOADING) == set()
    assert failures(gated, PERFORMANCE) >= {"auc", "skill_over_majority", "champion_in_time"}


def test_versions_that_were_trained_on_rows_that_are_held_out_today(gated: Project, tmp_path: Path) -> None:
    gated.set_params({"split.min_rows": 7})  # the split is the same
    version = register(gated, fit(train_params(gated, seed=7), *read_split("train")))
    assert failures(gated, LOADING) == set()
    file = tmp_path / training_rows.FILE_NAME
    registry = Registry()
    recorded = registry.download_file(version, training_rows.FILE_NAME, tmp_path)
    assert recorded is not None
    seen = json.loads(recorded.read_text())
    assert seen["rows"] == len(read_row_ids("train"))
    write_json(file, training_rows.summarize([*read_row_ids("train"), *read_row_ids("test")[:400]], "2005-12-31"))
    registry.log_file(registry.version("1"), file)
    assert failures(gated, PERFORMANCE) == {"champion_unseen_rows"}
    registry.log_file(version, file)
    assert failures(gated, PERFORMANCE) == {"unseen_rows", "champion_unseen_rows"}


def test_the_share_of_rows_that_a_version_has_seen() -> None:
    few = training_rows.summarize(["a", "b", "c"], None)
    assert (few["rows"], few["last_date"], len(few["row_id_hashes"])) == (3, None, 3)
    assert training_rows.seen_share(few, ["d", "e"]) == 0
    assert training_rows.seen_share(few, ["a", "e", "c", "d"]) == 0.5
    assert training_rows.seen_share(few, []) == 0
    many = training_rows.summarize([str(number) for number in range(4 * training_rows.SAMPLE)], None)
    assert len(many["row_id_hashes"]) == training_rows.SAMPLE
    half = [str(number) for number in range(3 * training_rows.SAMPLE, 5 * training_rows.SAMPLE)]
    assert training_rows.seen_share(many, half) == pytest.approx(0.5, abs=0.05)
    assert training_rows.seen_share(many, [f"other {number}" for number in range(1000)]) == 0


def test_badly_calibrated_model(gated: Project) -> None:
    features, labels = read_split("train")
    pipeline = fit(train_params(gated, calibration="sigmoid"), features, labels)
    (calibrator,) = pipeline["classify"].calibrated_classifiers_[0].calibrators
    # Ranks as before, but its scores are not rates: all are near the rarer outcome.
    calibrator.a_ /= 10
    calibrator.b_ = -3 if labels.mean() < 0.5 else 3
    register(gated, pipeline)
    assert failures(gated, LOADING) == set()
    failed = failures(gated, PERFORMANCE)
    assert failed >= {"calibration", "skill_over_majority"}
    assert not failed & {"auc", "out_of_time_auc", "champion_in_time"}


def test_feature_that_leaks_the_outcome(gated: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A column derived from the outcome was added to the features, bypassing the contract."""
    gated.set_params({"gates.leak_auc": 0.99})  # sound features of some data reach almost as much
    rng = np.random.default_rng(0)
    for split in CONTRACT.splits:
        rows = pd.read_parquet(split_path(split))
        rows["leak"] = (rows[OUTCOME] + rng.normal(0, 0.1, len(rows))).astype("float32")
        rows.to_parquet(split_path(split))
    leaking = pd.concat(
        [pd.read_parquet(split_path(split)).assign(split=split) for split in CONTRACT.splits], ignore_index=True
    )
    names = (*FEATURES.names, "leak")
    features, labels = read_split("train", names)
    pipeline = build_pipeline(train_params(gated), names, FEATURES.categorical, len(labels)).fit(features, labels)

    class Leaking(type(FEATURES)):  # type: ignore[misc]
        def from_columns(self, columns: Any) -> Any:
            return np.column_stack([super().from_columns(columns), np.asarray(columns["leak"], np.float32)])

    signature = ModelSignature(
        Schema([*contract_signature().inputs, ColSpec(DataType.double, "leak")]), contract_signature().outputs
    )
    example = pd.DataFrame([CONTRACT.example | {"leak": float(leaking["leak"].iloc[0])}])
    content = export_onnx(pipeline, OnnxMetadata(names, 0.2))
    with monkeypatch.context() as patch:
        patch.setattr(FEATURES, "__class__", Leaking)
        register_directly(gated, registered_pipeline(pipeline), content, signature, example)
    assert "signature" in failures(gated, LOADING)
    assert failures(gated, PERFORMANCE) >= {"leak", "loading"}

    # The same as a feature that the code knows.
    name = next(name for name in FEATURES.names if name not in FEATURES.categorical + FEATURES.open_names)
    for split in CONTRACT.splits:
        rows = pd.read_parquet(split_path(split))
        rows.assign(**{name: rows["leak"]}).drop(columns="leak").to_parquet(split_path(split))
    register(gated, fit(train_params(gated), *read_split("train")))
    assert "leak" in failures(gated, PERFORMANCE)
    checks = json.loads(gated.path("5.testing", "reports", "performance.json").read_text())["checks"]
    assert [check["measured"] for check in checks if check["name"] == "leak"] == [f"1.000 ({name})"]


@integration
def test_model_worse_than_logistic_regression(gated: Project) -> None:
    gated.set_params({"gates.min_auc": 0.5, "gates.min_auc_over_logistic": 0.01})
    features, labels = read_split("train")
    register(gated, fit(train_params(gated), features[:150], labels[:150]))
    assert failures(gated, LOADING) == set()
    assert "skill_over_logistic" in failures(gated, PERFORMANCE)


@integration
def test_model_worse_than_the_champion(gated: Project) -> None:
    gated.set_params({"gates.min_auc": 0.5, "gates.margin": 0.0})
    features, labels = read_split("train")
    register(gated, fit(train_params(gated), features[:150], labels[:150]))
    assert failures(gated, LOADING) == set()
    assert "champion_in_time" in failures(gated, PERFORMANCE)


@integration
def test_accuracy_can_be_required(gated: Project) -> None:
    gated.set_params({"gates.min_accuracy": 0.999})
    register(gated, fit(train_params(gated), *read_split("train")), threshold=0.21)
    assert failures(gated, LOADING) == set()
    assert failures(gated, PERFORMANCE) == {"accuracy"}


def register_directly(
    project: Project, pipeline: Any, content: bytes, signature: ModelSignature, example: Any, **how: Any
) -> Version:
    """Registers without stage 7."""
    registry = Registry()
    model = project.path("model.onnx")
    model.write_bytes(content)
    reference_rows = next(project.path("3.experiments", "artifacts").rglob("reference_rows.json"))
    form = {"serialization_format": "skops", "skops_trusted_types": skops_model.TRUSTED} | how
    with mlflow.start_run(experiment_id=registry.experiment_id()) as run:
        logged = mlflow.sklearn.log_model(
            pipeline,
            name="model",
            signature=signature,
            input_example=example,
            pyfunc_predict_fn="predict_proba",
            pip_requirements=[],
            extra_files=[str(model), str(reference_rows)],
            **form,
        )
    digest = hashlib.sha256(content).hexdigest()
    tags = {ONNX_SHA256: digest, LINEAGE: registry.version("1").tags[LINEAGE]}
    version = registry.create_version(logged.model_uri, run.info.run_id, logged.model_id, tags)
    registry.set_alias(CHALLENGER, version.number)
    return version


def sound(project: Project) -> tuple[Any, bytes, ModelSignature, Any]:
    """The parts of a model without faults: pipeline, ONNX bytes, signature and example."""
    pipeline = joblib.load(project.path("1.data", "5.model", "model.joblib"))
    content = project.path("1.data", "5.model", "model.onnx").read_bytes()
    return registered_pipeline(pipeline), content, contract_signature(), pd.DataFrame([CONTRACT.example])


@integration
def test_a_version_registered_without_stage_7_can_be_promoted_once_the_log_shows_what_is_demanded(
    project: Project,
    inside: Callable[[Project], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    inside(project)
    version = register_directly(project, *sound(project))
    assert failures(project, LOADING) == set()
    if find_spec(f"{CONTRACT.problem.package}.monitoring"):  # it can be deleted
        monkeypatch.setenv("MONITORING_STORE", str(project.path("store")))
        project.set_params({"gates.shadow": {"days": 2, "rows": 2}})
        assert failures(project, PERFORMANCE) == {"shadow_log"}
        rejected = Registry().version(version.number)
        rejection = gate_results.last_rejection(rejected, "1") or ""
        assert f"no row of version 1 with {version.number} in its shadow, nor of any other" in rejection
        assert gate_results.last_rejection(rejected, "1", final=True) is None  # it is gated again
        log_predictions(project, "2026-11-27", "9")
        assert failures(project, PERFORMANCE) == {"shadow_log"}
        rejection = gate_results.last_rejection(Registry().version(version.number), "1") or ""
        assert "but of 1 with 9 in its shadow" in rejection
        log_predictions(project, "2026-11-28", version.number)
        assert failures(project, PERFORMANCE) == {"shadow_days"}
        assert run_script(project, "6.production/monitor.py", "--shadow") == gate_results.EXIT_REJECTED
        assert "not yet: shadow_days 1, required ≥ 2" in capsys.readouterr().out
        log_predictions(project, "2026-11-29", version.number)
        assert run_script(project, "6.production/monitor.py", "--shadow") == 0
        written = project.path("6.production", "monitoring")
        assert json.loads((written / "shadow.json").read_text())["rows"] == 4
        assert "All that the gate demands is met" in (written / "shadow.html").read_text()
    assert failures(project, PERFORMANCE) == set()
    champion = Registry().version_of(CHAMPION)
    assert champion is not None
    assert champion.number == version.number  # as good as the champion is good enough


def log_predictions(project: Project, day: str, shadow: str) -> None:
    """Two shipped rows of the champion, each with the score of a version in its shadow."""
    rows: dict[str, Any] = {
        "time": pd.Timestamp(day, tz="UTC"),
        "row_id": [f"{day} 1", f"{day} 2"],
        "version": "1",
        "probability": [0.1, 0.9],
        "decision": [CONTRACT.problem.accept, CONTRACT.problem.decline],
        "shadow_version": shadow,
        "shadow_probability": [0.2, 0.9],
    }
    folder = project.path("store", "predictions", f"day={day}")
    folder.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(folder / "host-1-a.parquet")


@integration
@pytest.mark.parametrize("fault", ["older layout", "another problem"])
def test_a_version_that_this_code_cant_use_is_rejected(gated: Project, fault: str) -> None:
    version = register_directly(gated, *sound(gated))
    registry = Registry()
    content = json.loads(version.tags[LINEAGE])
    if fault == "older layout":
        del content["problem"]
    else:
        content["problem"]["target"] = ["another", ["1"], ["0"]]
    registry.tag(version.number, LINEAGE, json.dumps(content))
    assert failures(gated, LOADING) == {"lineage"}
    assert failures(gated, PERFORMANCE) == {"lineage", "loading"}


@integration
def test_a_champion_of_another_problem_counts_as_none(project: Project, inside: Callable[[Project], None]) -> None:
    inside(project)
    version = register_directly(project, *sound(project))
    registry = Registry()
    content = json.loads(version.tags[LINEAGE])
    content["problem"]["fields"] = ["another"]
    registry.tag("1", LINEAGE, json.dumps(content))
    assert failures(project, LOADING) == set()
    assert failures(project, PERFORMANCE) == set()
    result = json.loads(project.path("5.testing", "reports", "performance.json").read_text())
    assert result["against"] is None
    assert not [check for check in result["checks"] if check["name"].startswith("champion")]
    champion = registry.version_of(CHAMPION)
    assert champion is not None
    assert champion.number == version.number


@integration
def test_wrong_signature(gated: Project) -> None:
    pipeline, content, signature, example = sound(gated)
    signature = ModelSignature(Schema(list(signature.inputs)[:-1]), signature.outputs)
    register_directly(gated, pipeline, content, signature, example)
    assert failures(gated, LOADING) == {"signature"}
    assert failures(gated, PERFORMANCE) == {"loading"}


@integration
def test_pickle_instead_of_skops(gated: Project) -> None:
    register_directly(gated, *sound(gated), serialization_format="cloudpickle", skops_trusted_types=None)
    assert failures(gated, LOADING) >= {"format", "loads"}
    assert failures(gated, PERFORMANCE) == {"loading"}


@integration
def test_pickle_under_the_name_of_skops_is_not_unpickled(gated: Project, tmp_path: Path) -> None:
    version = register_directly(gated, *sound(gated))
    target = tmp_path / "unpickled"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (target,)

    (Registry().download(version.number) / "model.skops").write_bytes(pickle.dumps(Bomb()))
    assert failures(gated, LOADING) >= {"loads"}
    assert not target.exists()


@integration
def test_types_that_the_project_does_not_trust_are_not_loaded(gated: Project) -> None:
    pipeline, *rest = sound(gated)
    strange = Pipeline([*pipeline.steps[:-1], ("classify", Strange())])
    register_directly(gated, strange, *rest, skops_trusted_types=[*skops_model.TRUSTED, f"{__name__}.Strange"])
    assert failures(gated, LOADING) >= {"loads", "valid_scores", "agreement"}


class Strange(HistGradientBoostingClassifier):  # type: ignore[misc]
    """A class in an artifact's own list of trusted types, and not in the project's."""


@integration
def test_truncated_artifact(gated: Project) -> None:
    version = register_directly(gated, *sound(gated))
    path = Registry().download(version.number) / "model.skops"
    path.write_bytes(path.read_bytes()[:-1000])
    assert failures(gated, LOADING) >= {"loads"}


@integration
def test_missing_artifact_is_an_error_and_no_promotion(
    gated: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register_directly(gated, *sound(gated))
    shutil.rmtree(Registry().download(version.number))
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run_script(gated, LOADING, "--wait") == 0  # main.py has ended before it was the gate's turn
    monkeypatch.setattr("sys.stdin", io.StringIO("begin\n"))
    assert run_script(gated, LOADING, "--wait") == 1
    assert run_script(gated, PERFORMANCE) == 1
    assert capsys.readouterr().err.count("\n") == 2


@integration
def test_edited_onnx(gated: Project) -> None:
    version = register_directly(gated, *sound(gated))
    path = Registry().download(version.number) / ONNX_PATH
    model = onnx.load(path)
    (threshold,) = [entry for entry in model.metadata_props if entry.key == "threshold"]
    threshold.value = "0.99"
    path.write_bytes(model.SerializeToString())
    assert failures(gated, LOADING) == {"digest"}


@integration
def test_onnx_of_another_model(gated: Project) -> None:
    pipeline, content, *rest = sound(gated)
    features, labels = read_split("train")
    other = export_onnx(fit(train_params(gated), features[::2], labels[::2]), OnnxMetadata(FEATURES.names, 0.2))
    assert other != content
    register_directly(gated, pipeline, other, *rest)
    assert failures(gated, LOADING) >= {"agreement", "reference_rows"}


@integration
def test_a_split_that_moved_by_the_last_bit_is_seen_at_the_edges(gated: Project) -> None:
    pipeline, content, *rest = sound(gated)
    model = onnx.load_from_string(content)
    (trees,) = [node for node in model.graph.node if node.op_type.startswith("TreeEnsemble")]
    attributes = {attribute.name: attribute for attribute in trees.attribute}
    values, nodes = attributes["nodes_values"].floats, attributes["nodes_nodeids"].ints
    seen = {float(value) for name in CONTRACT.holdouts for value in np.unique(read_split(name)[0])}
    # The first split of a tree, which every row meets; best one at which no held-out row lies.
    split = min((k for k, node in enumerate(nodes) if node == 0), key=lambda k: values[k] in seen)
    values[split] = float(np.nextafter(np.float32(values[split]), np.float32(-np.inf)))
    register_directly(gated, pipeline, bytes(model.SerializeToString()), *rest)
    assert "edges" in failures(gated, LOADING)


@integration
def test_a_version_that_the_loading_gate_has_not_passed_fails_at_performance(gated: Project) -> None:
    register_directly(gated, *sound(gated))
    assert failures(gated, PERFORMANCE) == {"loading"}


@integration
def test_versions_from_different_splits_are_not_compared(gated: Project) -> None:
    gated.set_params({"split.test_share": 0.35})
    register(gated, fit(train_params(gated), *read_split("train")), threshold=0.3)
    assert failures(gated, LOADING) == set()
    assert failures(gated, PERFORMANCE) == {"same_split"}


@integration
def test_threshold_mode_does_not_compare_with_the_champion(project: Project, inside: Callable[[Project], None]) -> None:
    inside(project)
    project.set_params({"split.test_share": 0.35, "gates.mode": "threshold"})
    version = register(project, fit(train_params(project), *read_split("train")), threshold=0.3)
    assert failures(project, LOADING) == set()
    assert failures(project, PERFORMANCE) == set()
    champion = Registry().version_of(CHAMPION)
    assert champion is not None
    assert champion.number == version.number


@integration
def test_comparison_promotes_neither(gated: Project) -> None:
    version = register_directly(gated, *sound(gated))
    assert failures(gated, LOADING) == set()
    assert run_script(gated, PERFORMANCE, "--version", version.number, "--against", "1") == 0
    report = json.loads(gated.path("5.testing", "reports", "comparison.json").read_text())
    assert (report["version"], report["against"], report["passed"]) == (version.number, "1", True)
    assert "champion_in_time" in {check["name"] for check in report["checks"]}
    page = gated.path("5.testing", "reports", "comparison.html").read_text()
    metrics = json.loads(gated.path("1.data", "6.reports", "metrics.json").read_text())
    for holdout in CONTRACT.holdouts:
        title = holdout.replace("_", " ")
        assert f"<th>{title}, version {version.number}</th><th>{title}, version 1</th>" in page
        auc = f"<td>{metrics[holdout]['roc_auc']:.3f}</td>"
        assert auc * 2 in page  # the same model as the champion, measured as stage 6 has measured it
    logged = Registry().download_file(version, "comparison.html", gated.path("fetched"))
    assert logged is not None
    assert logged.read_text() == page


def test_changed_decisions() -> None:
    labels = np.array([0, 1, 1, 0, 1, 0], np.int8)
    new, old = np.array([0, 0, 1, 1, 1, 0], bool), np.array([0, 0, 1, 0, 0, 1], bool)
    groups = changed_decisions(labels, new, old)
    assert [(group["rows"], group["positive_rate"]) for group in groups] == [(2, 0.5), (1, 1.0), (2, 0.5), (1, 0.0)]
    assert sum(group["share"] for group in groups) == pytest.approx(1)


@integration
def test_the_page_of_a_model_that_cant_be_measured_has_the_error(gated: Project) -> None:
    version = register_directly(gated, *sound(gated))
    (Registry().download(version.number) / ONNX_PATH).write_bytes(b"damaged")
    assert run_script(gated, PERFORMANCE, "--version", version.number) == gate_results.EXIT_REJECTED
    page = gated.path("5.testing", "reports", "performance.html").read_text()
    assert "the ONNX model can&#39;t be loaded" in page
    assert "<h2>Decisions" not in page


@integration
def test_rolled_back_version_is_not_promoted_again_automatically(gated: Project) -> None:
    version = register_directly(gated, *sound(gated))
    registry = Registry()
    promote(registry, version.number, "1", "good")
    rollback(registry, "complaints")
    assert failures(gated, LOADING) == set()
    assert failures(gated, PERFORMANCE) == {"not_rolled_back"}
    rejection = gate_results.last_rejection(registry.version(version.number), "1")
    assert rejection is not None
    assert "complaints" in rejection


@integration
def test_rejection_is_remembered_until_parameters_champion_or_code_change(
    gated: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated.set_params({"gates.min_accuracy": 0.999})
    version = register_directly(gated, *sound(gated))
    assert failures(gated, LOADING) == set()
    assert failures(gated, PERFORMANCE) == {"accuracy"}
    version = Registry().version(version.number)
    assert "accuracy" in (gate_results.last_rejection(version, "1") or "")
    assert gate_results.last_rejection(version, "7") is None  # another champion
    package = Path(shutil.copytree(lineage.PACKAGE, gated.path("package")))
    with monkeypatch.context() as patch:
        patch.setattr(lineage, "PACKAGE", package)
        assert gate_results.last_rejection(version, "1") is not None
        (package / "evaluation" / "metrics.py").write_text("# other code")
        assert gate_results.last_rejection(version, "1") is None
    gated.set_params({"gates.min_accuracy": 0.998})
    assert gate_results.last_rejection(version, "1") is None


@integration
def test_without_a_challenger(
    fresh: Project, inside: Callable[[Project], None], capsys: pytest.CaptureFixture[str]
) -> None:
    inside(fresh)
    for gate in (LOADING, PERFORMANCE):
        assert run_script(fresh, gate) == 1
        assert "there is no challenger" in capsys.readouterr().err


@integration
def test_without_the_held_out_rows(gated: Project, capsys: pytest.CaptureFixture[str]) -> None:
    register_directly(gated, *sound(gated))
    split_path("test").unlink()
    assert run_script(gated, LOADING) == 1
    assert "test.parquet is missing; run the pipeline first" in capsys.readouterr().err


def test_a_check_that_cant_be_made_has_failed() -> None:
    def broken() -> gate_results.Measured:
        raise ValueError("no\nsuch thing")

    assert gate_results.check("name", "something", broken) == gate_results.Check(
        "name", False, "no such thing", "something"
    )
    assert not gate_results.GateResult("gate", "1", None, "", ()).passed


@integration
def test_decisions_that_cost_more_than_a_trivial_policy_stop_or_warn(gated: Project) -> None:
    gated.set_params({"gates.cost_in_time": "stop"})
    train = gated.params["train"]
    rate = read_split("test")[1].mean()
    accepting_all_is_cheaper = rate * train["cost_false_negative"] < (1 - rate) * train["cost_false_positive"]
    threshold = 1e-9 if accepting_all_is_cheaper else 1.0  # treats all alike, in the more expensive way
    register(gated, fit(train_params(gated, seed=7), *read_split("train")), threshold)
    assert failures(gated, LOADING) == set()
    assert failures(gated, PERFORMANCE) == {"cost_in_time"}
    gated.set_params({"gates.cost_in_time": "warn"})
    assert run_script(gated, PERFORMANCE, "--no-promote") == 0
    checks = json.loads(gated.path("5.testing", "reports", "performance.json").read_text())["checks"]
    (measured,) = [check["measured"] for check in checks if check["name"] == "cost_in_time"]
    assert measured.startswith("warning: ")
    (measured,) = [check["measured"] for check in checks if check["name"] == "champion_in_time"]
    assert "adjusted for 2 looks at this holdout" in measured  # two versions, however often each was measured


def test_an_interval_is_widened_by_the_looks() -> None:
    assert looks.adjusted(0.01, (-0.01, 0.02), 1) == pytest.approx((-0.01, 0.02))
    low, high = looks.adjusted(0.01, (0.01 - 1.96, 0.01 + 1.96), 5)
    assert (high - 0.01, 0.01 - low) == pytest.approx((2.5758, 2.5758), abs=1e-3)  # the 99 % interval of a normal
