"""The gates stop bad models: each by the check that names what is wrong with it, and the champion stays."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import mlflow.sklearn
import numpy as np
import onnx
import pandas as pd
import pytest
import yaml
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from projects import Project, run_script, script
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline

from credit_risk.contract import FIELD_NAMES, LOAN_NUMBER
from credit_risk.features import CATEGORICAL, FEATURE_NAMES, from_columns
from credit_risk.formats import skops_model
from credit_risk.formats.onnx_export import export_onnx
from credit_risk.formats.onnx_scorer import OnnxMetadata
from credit_risk.model import TrainParams, build_pipeline, fit, read_split
from credit_risk.registry import gate_results
from credit_risk.registry.client import CHALLENGER, CHAMPION, ONNX_PATH, ONNX_SHA256, Registry, Version
from credit_risk.registry.promotion import history, promote, rollback
from credit_risk.registry.signature import contract_signature

LOADING, PERFORMANCE = "5.testing/loading.py", "5.testing/performance.py"
REGISTER = "4.dvc_pipeline/7.register_model.py"


@pytest.fixture
def gated(project: Project, inside: Callable[[Project], None]) -> Iterator[Project]:
    """A project with a champion, version 1; afterwards it must still be the champion."""
    inside(project)
    yield project
    champion = Registry().version_of(CHAMPION)
    assert champion is not None
    assert champion.number == "1"


def train_params(project: Project) -> TrainParams:
    sections = yaml.safe_load(project.path("4.dvc_pipeline", "params.yaml").read_text())
    return TrainParams.model_validate(sections["train"])


def train_side(project: Project) -> tuple[Any, Any]:
    return read_split(project.path("1.data", "4.split", "rows", "train.parquet"))


def register(project: Project, pipeline: Pipeline, threshold: float = 0.2) -> Version:
    """Registers a pipeline as stage 7 does; it is the challenger then."""
    folder = project.path("1.data", "5.model")
    joblib.dump(pipeline, folder / "model.joblib")
    (folder / "model.onnx").write_bytes(export_onnx(pipeline, OnnxMetadata(FEATURE_NAMES, threshold)))
    assert run_script(project, REGISTER) == 0
    challenger = Registry().version_of(CHALLENGER)
    assert challenger is not None
    assert challenger.number != "1"
    return challenger


def failures(project: Project, gate: str) -> set[str]:
    """Runs a gate on the challenger and returns the names of the failed checks; the exit code must fit."""
    name = Path(gate).stem
    code = run_script(project, gate)
    verdict = json.loads(project.path("5.testing", "reports", f"{name}.json").read_text())
    failed = {check["name"] for check in verdict["checks"] if not check["passed"]}
    assert code == (gate_results.EXIT_REJECTED if failed else 0)
    assert verdict["passed"] == (not failed)
    challenger = Registry().version_of(CHALLENGER)
    assert challenger is not None
    assert gate_results.read_gate_result(challenger, name) == verdict
    if failed:
        refusals = [event for event in history(Registry()) if event.version == challenger.number]
        assert all(check in refusals[-1].why for check in failed)
    return failed


def test_a_sound_model_is_promoted(finished: Project, inside: Callable[[Project], None]) -> None:
    inside(finished)
    champion = Registry().version_of(CHAMPION)
    assert champion is not None
    for name in ("loading", "performance"):
        verdict = gate_results.read_gate_result(champion, name)
        assert verdict is not None
        assert verdict["passed"]
    assert [(event.kind, event.version) for event in history(Registry())] == [("promoted", "1")]


def test_constant_model(gated: Project) -> None:
    train = train_params(gated)
    train.hist_gradient_boosting.update(min_samples_leaf=10**6)  # no tree splits
    register(gated, fit(train, *train_side(gated)))
    assert failures(gated, LOADING) == set()
    assert failures(gated, PERFORMANCE) >= {"auc", "out_of_time_auc", "skill_over_majority", "skill_over_logistic"}


def test_shuffled_labels(gated: Project) -> None:
    features, labels = train_side(gated)
    np.random.default_rng(0).shuffle(labels)
    register(gated, fit(train_params(gated), features, labels))
    assert failures(gated, LOADING) == set()
    assert failures(gated, PERFORMANCE) >= {"auc", "skill_over_majority", "champion_in_time"}


def test_badly_calibrated_model(gated: Project) -> None:
    train = train_params(gated)
    train.hist_gradient_boosting["class_weight"] = "balanced"  # ranks as well, but its scores are no rates
    register(gated, fit(train, *train_side(gated)))
    assert failures(gated, LOADING) == set()
    failed = failures(gated, PERFORMANCE)
    assert failed >= {"calibration", "skill_over_majority"}
    assert not failed & {"auc", "out_of_time_auc", "champion_in_time"}


def test_model_worse_than_logistic_regression(gated: Project) -> None:
    gated.set_params({"gates.min_auc": 0.5, "gates.min_auc_over_logistic": 0.01})
    features, labels = train_side(gated)
    register(gated, fit(train_params(gated), features[:150], labels[:150]))
    assert failures(gated, LOADING) == set()
    assert "skill_over_logistic" in failures(gated, PERFORMANCE)


def test_model_worse_than_the_champion(gated: Project) -> None:
    gated.set_params({"gates.min_auc": 0.5, "gates.margin": 0.0})
    features, labels = train_side(gated)
    register(gated, fit(train_params(gated), features[:150], labels[:150]))
    assert failures(gated, LOADING) == set()
    assert "champion_in_time" in failures(gated, PERFORMANCE)


def test_accuracy_can_be_asked_for(gated: Project) -> None:
    gated.set_params({"gates.min_accuracy": 0.99})
    register(gated, fit(train_params(gated), *train_side(gated)), threshold=0.21)
    assert failures(gated, LOADING) == set()
    assert failures(gated, PERFORMANCE) == {"accuracy"}


def test_model_with_term(gated: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has built Term into the features past the contract, and trained, registered and gated with it."""
    names = (*FEATURE_NAMES, "term")
    raw = pd.read_parquet(gated.path("1.data", "1.raw", "rows.parquet")).set_index("LoanNr_ChkDgt")
    for side in ("train", "test", "out_of_time"):
        path = gated.path("1.data", "4.split", f"{side}.parquet")
        loans = pd.read_parquet(path)
        loans["term"] = raw["Term"].loc[loans[LOAN_NUMBER]].to_numpy().astype("float32")
        loans.to_parquet(path)
    features, labels = read_split(gated.path("1.data", "4.split", "rows", "train.parquet"), names)
    pipeline = build_pipeline(train_params(gated), names, CATEGORICAL, len(labels)).fit(features, labels)
    clean = pd.read_parquet(gated.path("1.data", "2.clean", "rows.parquet")).set_index(LOAN_NUMBER)
    scores = pipeline.predict_proba(features)[:, 1]
    assert pd.Series(scores).corr(pd.Series(labels.astype(float))) > 0.5  # it has learnt the leak

    def with_term(columns: Any) -> Any:
        return np.column_stack([from_columns(columns), np.asarray(columns["term"], np.float32)])

    monkeypatch.setattr(skops_model, "from_columns", with_term)
    signature = ModelSignature(
        Schema([*contract_signature().inputs, ColSpec(DataType.double, "term")]), contract_signature().outputs
    )
    example = clean[list(FIELD_NAMES)].head(1).assign(term=60.0)
    content = export_onnx(pipeline, OnnxMetadata(names, 0.2))
    register_by_hand(gated, skops_model.registered_form(pipeline), content, signature, example)
    monkeypatch.undo()
    monkeypatch.setenv("PROJECT_ROOT", str(gated.root))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{gated.path('3.experiments', 'mlflow.db')}")
    assert "signature" in failures(gated, LOADING)
    assert failures(gated, PERFORMANCE) >= {"leak", "loading"}


def register_by_hand(
    project: Project, pipeline: Any, content: bytes, signature: ModelSignature, example: Any, **how: Any
) -> Version:
    """Registers past stage 7."""
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
    tags = {ONNX_SHA256: digest, "lineage": registry.version("1").tags["lineage"]}
    version = registry.create_version(logged.model_uri, run.info.run_id, logged.model_id, tags)
    registry.set_alias(CHALLENGER, version.number)
    return version


def sound(project: Project) -> tuple[Any, bytes, ModelSignature, Any]:
    """The parts of a model with which nothing is wrong: pipeline, ONNX bytes, signature and example."""
    pipeline = joblib.load(project.path("1.data", "5.model", "model.joblib"))
    content = project.path("1.data", "5.model", "model.onnx").read_bytes()
    example = pd.read_parquet(project.path("1.data", "2.clean", "rows.parquet"))[list(FIELD_NAMES)].head(1)
    return skops_model.registered_form(pipeline), content, contract_signature(), example


def test_registering_by_hand_is_no_fault_by_itself(project: Project, inside: Callable[[Project], None]) -> None:
    inside(project)
    version = register_by_hand(project, *sound(project))
    assert failures(project, LOADING) == set()
    assert failures(project, PERFORMANCE) == set()
    champion = Registry().version_of(CHAMPION)
    assert champion is not None
    assert champion.number == version.number  # as good as the champion is good enough


def test_wrong_signature(gated: Project) -> None:
    pipeline, content, signature, example = sound(gated)
    signature = ModelSignature(Schema(list(signature.inputs)[:-1]), signature.outputs)
    register_by_hand(gated, pipeline, content, signature, example)
    assert failures(gated, LOADING) == {"signature"}
    assert failures(gated, PERFORMANCE) == {"loading"}


def test_pickle_instead_of_skops(gated: Project) -> None:
    register_by_hand(gated, *sound(gated), serialization_format="cloudpickle", skops_trusted_types=None)
    assert failures(gated, LOADING) >= {"format", "loads"}
    assert failures(gated, PERFORMANCE) >= {"loading", "auc"}


def test_pickle_under_the_name_of_skops_is_not_unpickled(gated: Project, tmp_path: Path) -> None:
    version = register_by_hand(gated, *sound(gated))
    target = tmp_path / "unpickled"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (target,)

    (Registry().download(version.number) / "model.skops").write_bytes(pickle.dumps(Bomb()))
    assert failures(gated, LOADING) >= {"loads"}
    assert not target.exists()


def test_types_that_the_project_does_not_trust_are_not_loaded(gated: Project) -> None:
    pipeline, *rest = sound(gated)
    strange = Pipeline([*pipeline.steps[:-1], ("classify", Strange())])
    register_by_hand(gated, strange, *rest, skops_trusted_types=[*skops_model.TRUSTED, f"{__name__}.Strange"])
    assert failures(gated, LOADING) >= {"loads", "valid_scores", "agreement"}


class Strange(HistGradientBoostingClassifier):  # type: ignore[misc]
    """A class that an artifact's own list of trusted types names, and the project's does not."""


def test_truncated_artifact(gated: Project) -> None:
    version = register_by_hand(gated, *sound(gated))
    path = Registry().download(version.number) / "model.skops"
    path.write_bytes(path.read_bytes()[:-1000])
    assert failures(gated, LOADING) >= {"loads"}


def test_missing_artifact_is_an_error_and_no_promotion(gated: Project, capsys: pytest.CaptureFixture[str]) -> None:
    version = register_by_hand(gated, *sound(gated))
    shutil.rmtree(Registry().download(version.number))
    capsys.readouterr()
    assert run_script(gated, LOADING) == 1
    assert run_script(gated, PERFORMANCE) == 1
    assert capsys.readouterr().err.count("\n") == 2


def edited(content: bytes) -> bytes:
    """The ONNX model with another threshold."""
    model = onnx.load_from_string(content)
    for entry in model.metadata_props:
        if entry.key == "threshold":
            entry.value = "0.99"
    return bytes(model.SerializeToString())


def test_edited_onnx(gated: Project) -> None:
    version = register_by_hand(gated, *sound(gated))
    path = Registry().download(version.number) / ONNX_PATH
    path.write_bytes(edited(path.read_bytes()))
    assert failures(gated, LOADING) == {"digest"}


def test_onnx_of_another_model(gated: Project) -> None:
    pipeline, content, *rest = sound(gated)
    features, labels = train_side(gated)
    other = export_onnx(fit(train_params(gated), features[::2], labels[::2]), OnnxMetadata(FEATURE_NAMES, 0.2))
    assert other != content
    register_by_hand(gated, pipeline, other, *rest)
    assert failures(gated, LOADING) >= {"agreement", "reference_rows"}


def test_a_split_that_moved_by_the_last_bit_is_seen_at_the_edges(gated: Project) -> None:
    pipeline, content, *rest = sound(gated)
    model = onnx.load_from_string(content)
    (trees,) = [node for node in model.graph.node if node.op_type.startswith("TreeEnsemble")]
    attributes = {attribute.name: attribute for attribute in trees.attribute}
    values, nodes = attributes["nodes_values"].floats, attributes["nodes_nodeids"].ints
    held_out = [read_split(gated.path("1.data", "4.split", f"{side}.parquet"))[0] for side in ("test", "out_of_time")]
    seen = {float(value) for features in held_out for value in np.unique(features)}
    # The first split of a tree, which every row meets; best one at which no held-out loan lies.
    split = min((k for k, node in enumerate(nodes) if node == 0), key=lambda k: values[k] in seen)
    values[split] = float(np.nextafter(np.float32(values[split]), np.float32(-np.inf)))
    register_by_hand(gated, pipeline, bytes(model.SerializeToString()), *rest)
    assert "edges" in failures(gated, LOADING)


def test_refused_at_loading_is_refused_at_performance(gated: Project) -> None:
    register_by_hand(gated, *sound(gated))  # not yet gated
    assert failures(gated, PERFORMANCE) == {"loading"}


def test_versions_from_different_splits_are_not_compared(gated: Project) -> None:
    gated.set_params({"split.test_share": 0.3})
    register(gated, fit(train_params(gated), *train_side(gated)), threshold=0.3)
    assert failures(gated, LOADING) == set()
    assert failures(gated, PERFORMANCE) == {"same_split"}


def test_threshold_mode_does_not_look_at_the_champion(project: Project, inside: Callable[[Project], None]) -> None:
    inside(project)
    project.set_params({"split.test_share": 0.3, "gates.mode": "threshold"})
    version = register(project, fit(train_params(project), *train_side(project)), threshold=0.3)
    assert failures(project, LOADING) == set()
    assert failures(project, PERFORMANCE) == set()
    champion = Registry().version_of(CHAMPION)
    assert champion is not None
    assert champion.number == version.number


def test_comparison_promotes_neither(gated: Project) -> None:
    version = register_by_hand(gated, *sound(gated))
    assert failures(gated, LOADING) == set()
    assert run_script(gated, PERFORMANCE, "--version", version.number, "--against", "1") == 0
    report = json.loads(gated.path("5.testing", "reports", "comparison.json").read_text())
    assert (report["version"], report["against"], report["passed"]) == (version.number, "1", True)
    assert [check["name"] for check in report["checks"]][-2:] == ["champion_in_time", "champion_out_of_time"]
    page = gated.path("5.testing", "reports", "comparison.html").read_text()
    assert "All checks passed" in page
    assert "Decisions that change" in page
    metrics = json.loads(gated.path("1.data", "6.reports", "metrics.json").read_text())
    for side in ("test", "out of time"):
        assert f"<th>{side}, version {version.number}</th><th>{side}, version 1</th>" in page
        auc = f"<td>{metrics[side.replace(' ', '_')]['roc_auc']:.3f}</td>"
        assert auc * 2 in page  # the same model as the champion, measured as stage 6 has measured it
    kept = Registry().attached(version, "comparison.html", gated.path("fetched"))
    assert kept is not None
    assert kept.read_text() == page


def test_decisions_that_change_by_hand(finished: Project, inside: Callable[[Project], None]) -> None:
    inside(finished)
    changed = script(finished, PERFORMANCE)["changed_decisions"]
    labels = np.array([0, 1, 1, 0, 1, 0], np.int8)
    new, old = np.array([0, 0, 1, 1, 1, 0], bool), np.array([0, 0, 1, 0, 0, 1], bool)
    rows = changed(labels, [new, old])
    assert [(row["loans"], row["default_rate"]) for row in rows] == [(2, 0.5), (1, 1.0), (2, 0.5), (1, 0.0)]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    alone = changed(labels, [new])
    assert [row["loans"] for row in alone] == [3, 3, 0, 0]


def test_the_page_of_a_model_that_cant_be_measured_says_so(gated: Project) -> None:
    version = register_by_hand(gated, *sound(gated))
    for onnx_file in gated.path("3.experiments", "artifacts").rglob("model.onnx"):
        if onnx_file.stat().st_mtime_ns == max(
            path.stat().st_mtime_ns for path in gated.path("3.experiments", "artifacts").rglob("model.onnx")
        ):
            onnx_file.write_bytes(b"damaged")
    assert run_script(gated, PERFORMANCE, "--version", version.number) == gate_results.EXIT_REJECTED
    page = gated.path("5.testing", "reports", "performance.html").read_text()
    assert "Refused: loading" in page
    assert "The figures can&#39;t be shown" in page or "The figures can't be shown" in page


def test_rolled_back_version_is_not_promoted_again_by_itself(gated: Project) -> None:
    version = register_by_hand(gated, *sound(gated))
    registry = Registry()
    promote(registry, version.number, "1", "good")
    rollback(registry, "complaints")
    assert failures(gated, LOADING) == set()
    assert failures(gated, PERFORMANCE) == {"not_rolled_back"}
    refusal = gate_results.last_rejection(registry.version(version.number), "1")
    assert refusal is not None
    assert "complaints" in refusal


def test_refusal_is_remembered_until_what_it_depends_on_changes(gated: Project) -> None:
    gated.set_params({"gates.min_accuracy": 0.99})
    version = register_by_hand(gated, *sound(gated))
    assert failures(gated, LOADING) == set()
    assert failures(gated, PERFORMANCE) == {"accuracy"}
    version = Registry().version(version.number)
    refusal = gate_results.last_rejection(version, "1")
    assert refusal is not None
    assert refusal.startswith("performance gate: accuracy")
    assert gate_results.last_rejection(version, "7") is None  # another champion
    gated.set_params({"gates.min_accuracy": 0.98})
    assert gate_results.last_rejection(version, "1") is None  # other gates


def test_without_a_challenger(
    fresh: Project, inside: Callable[[Project], None], capsys: pytest.CaptureFixture[str]
) -> None:
    inside(fresh)
    for gate in (LOADING, PERFORMANCE):
        assert run_script(fresh, gate) == 1
        assert "there is no challenger; run the pipeline first" in capsys.readouterr().err


def test_without_the_held_out_loans(gated: Project, capsys: pytest.CaptureFixture[str]) -> None:
    register_by_hand(gated, *sound(gated))
    gated.path("1.data", "4.split", "rows", "test.parquet").unlink()
    assert run_script(gated, LOADING) == 1
    assert "1.data/4.split/rows/test.parquet is missing; run the pipeline first" in capsys.readouterr().err


def test_a_check_that_cant_be_made_has_failed() -> None:
    def broken() -> gate_results.Measured:
        raise ValueError("no\nsuch thing")

    assert gate_results.check("name", "something", broken) == gate_results.Check(
        "name", False, "no such thing", "something"
    )
    assert not gate_results.GateResult("gate", "1", None, "", ()).passed
