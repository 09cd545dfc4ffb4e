"""`register_and_gate` runs only what is still to be done; stand-ins for the scripts act on a real registry."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from projects import Project

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import write_json
from credit_risk.registry import gate_results, lineage
from credit_risk.registry.client import CHALLENGER, CHAMPION, LINEAGE, LINEAGE_KEY, MODEL, Registry
from credit_risk.registry.gate_results import Check, GateResult, gate_key, publish
from credit_risk.registry.gating import LOADING, PERFORMANCE, REGISTER, register_and_gate
from credit_risk.registry.promotion import promote, record_rejection, rollback

PROMOTED = [REGISTER, LOADING, PERFORMANCE]


class Scripts:
    """Registers, gates and promotes as the real scripts do, without a model."""

    def __init__(self, registry: Registry, project: Project) -> None:
        self.registry = registry
        self.project = project
        self.started: list[str] = []
        self.options: tuple[str, ...] = ()
        self.rejecting = ""

    def train(self, key: str, problem: object = CONTRACT.identity) -> None:
        """Another model on disk."""
        self.problem = problem
        write_json(self.project.path("1.data", "7.registered", "model.json"), {LINEAGE_KEY: key})
        self.started.clear()

    def run(self, path: str, *options: str) -> bool:
        self.started.append(path)
        if path == REGISTER:
            self.register()
            return True
        version = self.registry.version_of(CHALLENGER)
        champion = self.registry.version_of(CHAMPION)
        assert version is not None
        number = champion.number if champion else None
        gate = Path(path).stem
        passed = gate != self.rejecting
        publish(
            self.registry,
            GateResult(gate, version.number, number, gate_key(number), (Check("check", passed, "0.1", "≥ 0.2"),)),
        )
        self.options = options
        if not passed:
            record_rejection(self.registry, version.number, number, f"{gate}: check")
        elif path == PERFORMANCE and "--no-promote" not in options:
            promote(self.registry, version.number, number, "good")
        return passed

    def register(self) -> None:
        key = json.loads(self.project.path("1.data", "7.registered", "model.json").read_text())[LINEAGE_KEY]
        known = [version.number for version in self.registry.versions() if version.tags[LINEAGE_KEY] == key]
        if not known:
            tags = {LINEAGE_KEY: key, LINEAGE: json.dumps({"problem": self.problem})}
            known = [str(self.registry.client.create_model_version(MODEL, "nowhere", tags=tags).version)]
        self.registry.set_alias(CHALLENGER, known[0])


@pytest.fixture
def scripts(tmp_path: Path, empty_registry: Path, inside: Callable[[Project], None]) -> Scripts:
    project = Project(tmp_path)
    project.path("3.experiments").mkdir()
    project.path("3.experiments", "mlflow.db").write_bytes(empty_registry.read_bytes())
    project.path("4.dvc_pipeline").mkdir()
    project.params_file.write_text("gates: {min_auc: 0.7}\n")
    inside(project)
    registry = Registry()
    registry.client.create_registered_model(MODEL)
    made = Scripts(registry, project)
    made.train("first")
    return made


def test_a_new_model_is_registered_gated_and_promoted_once(scripts: Scripts) -> None:
    outcome = register_and_gate(scripts.registry, scripts.run)
    assert scripts.started == PROMOTED
    assert outcome.passed
    assert outcome.champion is not None
    assert outcome.champion.number == outcome.challenger.number == "1"
    scripts.started.clear()
    again = register_and_gate(scripts.registry, scripts.run)
    assert (scripts.started, again.passed) == ([], True)
    assert "already the champion" in again.result


def test_without_promotion_a_first_model_passes_and_there_is_no_champion(scripts: Scripts) -> None:
    outcome = register_and_gate(scripts.registry, scripts.run, promote=False)
    assert scripts.options == ("--no-promote",)
    assert outcome.passed
    assert outcome.champion is None


@pytest.mark.parametrize("gate", ["loading", "performance"])
def test_a_rejection_is_reported_and_remembered_until_the_gates_change(scripts: Scripts, gate: str) -> None:
    scripts.rejecting = gate
    outcome = register_and_gate(scripts.registry, scripts.run)
    assert scripts.started == (PROMOTED if gate == "performance" else PROMOTED[:2])
    assert not outcome.passed
    assert outcome.champion is None
    assert f"{gate} gate: check (0.1, required ≥ 0.2)" in outcome.result
    scripts.started.clear()
    assert not register_and_gate(scripts.registry, scripts.run).passed
    assert scripts.started == []
    scripts.project.params_file.write_text("gates: {min_auc: 0.1}\n")
    scripts.rejecting = ""
    assert register_and_gate(scripts.registry, scripts.run).passed
    assert scripts.started == [LOADING, PERFORMANCE]


def test_a_result_depends_on_code_held_out_rows_and_baseline(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Path(shutil.copytree(lineage.PACKAGE, scripts.project.path("package")))
    monkeypatch.setattr(lineage, "PACKAGE", package)
    paths = [package / "evaluation" / "metrics.py", scripts.project.path("5.testing", "performance.py")]
    paths += [scripts.project.path("1.data", "4.split", "rows", f"{name}.parquet") for name in CONTRACT.holdouts]
    paths.append(scripts.project.path("1.data", "6.reports", "metrics.json"))
    keys = [gate_key("1"), gate_key("2"), gate_key(None)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("# changed")
        keys.append(gate_key("1"))
    assert len(set(keys)) == len(keys)


def test_a_rolled_back_model_is_not_gated_again_and_an_older_one_comes_back(scripts: Scripts) -> None:
    register_and_gate(scripts.registry, scripts.run)
    scripts.train("second")
    assert register_and_gate(scripts.registry, scripts.run).passed
    assert rollback(scripts.registry, "complaints") == ("2", "1")
    scripts.started.clear()
    outcome = register_and_gate(scripts.registry, scripts.run)
    assert (scripts.started, outcome.passed) == ([], False)
    assert "complaints" in outcome.result
    scripts.train("first")  # DVC has restored the files
    outcome = register_and_gate(scripts.registry, scripts.run)
    assert scripts.started == [REGISTER]
    assert outcome.challenger.number == "1"
    assert "already the champion" in outcome.result


def test_a_promotion_that_a_crash_interrupted_is_finished_first(
    scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_and_gate(scripts.registry, scripts.run)
    scripts.train("second")
    set_alias = scripts.registry.set_alias

    def crash(alias: str, number: str) -> None:
        if alias == CHAMPION:
            raise KeyboardInterrupt
        set_alias(alias, number)

    with monkeypatch.context() as patch:
        patch.setattr(scripts.registry, "set_alias", crash)
        with pytest.raises(KeyboardInterrupt):
            register_and_gate(scripts.registry, scripts.run)
    scripts.started.clear()
    outcome = register_and_gate(scripts.registry, scripts.run)
    assert (scripts.started, outcome.result) == ([], "is already the champion")
    assert outcome.champion is not None
    assert outcome.champion.number == "2"


def test_another_registry_gets_the_model(scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    register_and_gate(scripts.registry, scripts.run)
    database = scripts.project.path("other", "mlflow.db")
    database.parent.mkdir()
    database.write_bytes(scripts.project.path("3.experiments", "mlflow.db").read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    scripts.registry = Registry()
    scripts.registry.client.delete_registered_model(MODEL)
    scripts.registry.client.create_registered_model(MODEL)
    scripts.started.clear()
    assert register_and_gate(scripts.registry, scripts.run).passed
    assert scripts.started == PROMOTED


def test_a_champion_of_another_problem_is_no_champion(scripts: Scripts) -> None:
    scripts.train("other", {"target": ["another"], "fields": []})
    register_and_gate(scripts.registry, scripts.run)
    scripts.train("first")
    scripts.rejecting = "performance"
    outcome = register_and_gate(scripts.registry, scripts.run)
    assert outcome.champion is None
    champion = scripts.registry.version_of(CHAMPION)
    assert champion is not None
    assert champion.number == "1"


def test_a_challenger_that_is_lost_is_an_error(scripts: Scripts) -> None:
    with pytest.raises(ProjectError, match="has lost the challenger"):
        register_and_gate(scripts.registry, lambda *_: True)


def test_the_table_of_a_result_has_each_check() -> None:
    checks = [{"name": "auc", "measured": "0.6", "required": "≥ 0.7", "passed": False}]
    table = gate_results.as_table({"gate": "performance", "version": "2", "against": "1", "checks": checks})
    assert [next(iter(column.cells)) for column in table.columns][:3] == ["auc", "0.6", "≥ 0.7"]
