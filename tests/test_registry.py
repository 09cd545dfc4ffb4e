"""Registration, promotion, rollback and their history, on a real registry."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from projects import Project, run_script

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.project.settings import Settings
from credit_risk.registry import lineage, promotion
from credit_risk.registry.client import (
    CHALLENGER,
    CHAMPION,
    LINEAGE,
    LINEAGE_KEY,
    MODEL,
    ONNX_SHA256,
    PREVIOUS_CHAMPION,
    Registry,
)
from credit_risk.registry.promotion import events, history, promote, record_rejection, rollback, rolled_back

REGISTER = "4.dvc_pipeline/7.register_model.py"


@pytest.fixture
def registry(tmp_path: Path, empty_registry: Path, inside: Callable[[Project], None]) -> Registry:
    """A registry with three versions without artifacts."""
    project = Project(tmp_path)
    project.path("3.experiments").mkdir()
    project.path("3.experiments", "mlflow.db").write_bytes(empty_registry.read_bytes())
    inside(project)
    registry = Registry()
    registry.client.create_registered_model(MODEL)
    tags = {LINEAGE: json.dumps({"problem": CONTRACT.identity})}
    for _ in range(3):
        registry.client.create_model_version(MODEL, "nowhere", tags=tags)
    return registry


def numbers(registry: Registry, *aliases: str) -> list[str | None]:
    found = [registry.version_of(alias) for alias in aliases]
    return [version.number if version else None for version in found]


def test_promotion_moves_both_aliases_and_is_recorded(registry: Registry) -> None:
    promote(registry, "1", None, "first")
    promote(registry, "2", "1", "better")
    assert numbers(registry, CHAMPION, PREVIOUS_CHAMPION) == ["2", "1"]
    recorded = [(event.kind, event.version, event.champion, event.reason) for event in history(registry)]
    assert recorded == [("promoted", "1", "1", "first"), ("promoted", "2", "2", "better")]


def test_promoting_the_champion_changes_nothing(registry: Registry) -> None:
    promote(registry, "1", None, "first")
    promote(registry, "1", "1", "again")
    assert numbers(registry, CHAMPION, PREVIOUS_CHAMPION) == ["1", None]
    assert len(history(registry)) == 1


def test_promotion_stops_when_the_champion_has_changed_since_the_comparison(registry: Registry) -> None:
    promote(registry, "1", None, "first")
    promote(registry, "2", "1", "meanwhile")
    with pytest.raises(ProjectError, match="the champion is now version 2, and version 3 was gated against 1"):
        promote(registry, "3", "1", "late")
    assert numbers(registry, CHAMPION) == ["2"]


def test_rollback_works_once_and_is_recorded(registry: Registry) -> None:
    promote(registry, "1", None, "first")
    promote(registry, "2", "1", "better")
    assert rollback(registry, "complaints") == ("2", "1")
    assert numbers(registry, CHAMPION, PREVIOUS_CHAMPION) == ["1", None]
    last = history(registry)[-1]
    assert (last.kind, last.version, last.champion, last.reason) == ("rolled back", "2", "1", "complaints")
    assert last.time.endswith("Z")
    assert "@" in last.actor
    assert rolled_back(registry.version("2")) == last
    assert rolled_back(registry.version("1")) is None
    with pytest.raises(ProjectError, match="no previous champion"):
        rollback(registry, "again")


@pytest.mark.parametrize("content", [{}, {"problem": {"target": ["another"], "fields": []}}])
def test_rollback_to_a_version_that_this_code_cant_use(registry: Registry, content: object) -> None:
    promote(registry, "1", None, "first")
    promote(registry, "2", "1", "better")
    registry.tag("1", LINEAGE, json.dumps(content))
    with pytest.raises(ProjectError, match="can't roll back: version 1 "):
        rollback(registry, "complaints")
    assert numbers(registry, CHAMPION, PREVIOUS_CHAMPION) == ["2", "1"]


def test_rollback_without_a_champion(registry: Registry) -> None:
    with pytest.raises(ProjectError, match="no previous champion"):
        rollback(registry, "")


def test_a_version_promoted_again_after_its_rollback_counts_as_promoted(registry: Registry) -> None:
    promote(registry, "1", None, "")
    promote(registry, "2", "1", "")
    rollback(registry, "")
    record_rejection(registry, "2", "1", "rolled back")
    assert rolled_back(registry.version("2"))
    promote(registry, "2", "1", "again")
    assert rolled_back(registry.version("2")) is None


def test_two_promotions_at_once_are_serialised(registry: Registry) -> None:
    promote(registry, "1", None, "first")
    outcomes: list[str] = []

    def contend(number: str) -> None:
        try:
            promote(Registry(), number, "1", "race")
            outcomes.append(number)
        except ProjectError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=contend, args=(number,)) for number in ("2", "3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if outcome in {"2", "3"}]
    assert len(winners) == 1
    assert numbers(registry, CHAMPION, PREVIOUS_CHAMPION) == [winners[0], "1"]
    assert any("run the gates again" in outcome for outcome in outcomes)


def test_a_concurrent_move_is_reported_and_recorded(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    set_alias = registry.set_alias

    def interfere(alias: str, number: str) -> None:
        set_alias(alias, number)
        if alias == CHAMPION:
            set_alias(alias, "3")  # another machine, which does not see this lock

    monkeypatch.setattr(registry, "set_alias", interfere)
    with pytest.raises(ProjectError, match="another process moved the alias to version 3 while it was moved to 1"):
        promote(registry, "1", None, "")
    last = history(registry)[-1]
    assert (last.kind, last.version, last.champion) == ("conflict", "1", "3")
    assert rolled_back(registry.version("1")) is None


def test_the_actor_is_who_started_the_ci_job(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTOR", "ada")
    promote(registry, "1", None, "first")
    assert history(registry)[-1].actor == "ada (CI)"


def test_the_promotion_lock_is_free_after_a_promotion(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "LOCK_SECONDS", 1)
    with pytest.raises(ProjectError, match="gated against"):
        promote(registry, "1", "2", "stale")
    promote(registry, "1", None, "first")
    promote(registry, "2", "1", "better")
    with promotion._promotion_lock(registry), pytest.raises(ProjectError, match="another promotion has held"):
        promote(Registry(), "3", "2", "meanwhile")


def test_unknown_version(registry: Registry) -> None:
    with pytest.raises(ProjectError, match=f"{MODEL} has no version 99"):
        registry.version("99")
    assert events(registry.version("1")) == []


def test_version_has_both_formats_and_its_lineage(finished: Project, inside: Callable[[Project], None]) -> None:
    inside(finished)
    registry = Registry()
    champion = registry.version_of(CHAMPION)
    assert champion is not None
    run = registry.client.get_run(champion.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test.roc_auc"] > 0.5
    assert run.data.params["train.model"] == finished.params["train"]["model"]
    assert run.inputs is not None
    assert run.inputs.dataset_inputs[0].dataset.name == CONTRACT.problem.rows
    logged = {Path(file.path).name for file in registry.client.list_artifacts(run.info.run_id, "reports")}
    assert logged == {path.name for path in finished.path("1.data", "6.reports").iterdir() if path.name[0] != "."}
    recorded = lineage.of(champion)
    assert set(recorded) == {
        *("problem", "code", "data", "params", "environment_sha256", "onnx_sha256"),
        *("git_commit", "git_dirty", "dvc_lock"),
    }
    assert recorded["problem"] == CONTRACT.identity
    assert {"contract.py", "features.py", "model.py"} <= set(recorded["code"])
    assert set(recorded["dvc_lock"]) >= {"get_data", "train_model", "evaluate_model"}
    assert len(recorded["git_commit"]) == 40
    assert lineage.reject_reason(champion) is None
    registered = json.loads(finished.path("1.data", "7.registered", "model.json").read_text())
    assert registered == {
        LINEAGE_KEY: champion.tags[LINEAGE_KEY],
        ONNX_SHA256: champion.tags[ONNX_SHA256],
    }
    folder = registry.download(champion.number)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"model.skops", "extra_files/model.onnx", "extra_files/reference_rows.json", "MLmodel"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".joblib", "uv.lock"))]


def test_same_lineage_makes_no_second_version_and_gets_the_alias(
    project: Project, inside: Callable[[Project], None], capsys: pytest.CaptureFixture[str]
) -> None:
    inside(project)
    registry = Registry()
    before = registry.versions()
    registry.delete_alias(CHALLENGER)
    assert run_script(project, REGISTER) == 0
    assert "version 1 has this lineage already" in capsys.readouterr().out
    assert [version.number for version in registry.versions()] == [version.number for version in before] == ["1"]
    assert numbers(registry, CHALLENGER) == ["1"]


def test_a_run_that_a_kill_left_open_is_ended_and_done_again(
    project: Project, inside: Callable[[Project], None]
) -> None:
    inside(project)
    project.set_params({"train.logistic_regression.C": 0.5})  # another lineage
    registry = Registry()
    key = lineage.lineage_key(lineage.read_lineage())
    open_run = registry.client.create_run(registry.experiment_id(), tags={LINEAGE_KEY: key})
    assert run_script(project, REGISTER) == 0
    assert registry.client.get_run(open_run.info.run_id).info.status == "KILLED"
    assert numbers(registry, CHALLENGER, CHAMPION) == ["2", "1"]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://127.0.0.1:9", "the MLflow server at http://127.0.0.1:9 is down; start it, or correct"),
        ("sqlite:////proc/nowhere/mlflow.db", "the registry at sqlite:////proc/nowhere/mlflow.db can't be opened"),
        ("nonsense://host", "the MLflow server at nonsense://host fails; check MLFLOW_TRACKING_URI"),
    ],
)
def test_registry_that_does_not_answer_is_one_sentence(  # noqa: PLR0913, PLR0917 (fixtures)
    project: Project,
    inside: Callable[[Project], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    uri: str,
    message: str,
) -> None:
    inside(project)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    before = project.path("1.data", "7.registered", "model.json").read_bytes()
    assert run_script(project, REGISTER) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("stage 7: ")
    assert error.count("\n") == 1
    assert project.path("1.data", "7.registered", "model.json").read_bytes() == before


def test_artifact_store_that_cant_be_written_is_one_sentence(
    project: Project, inside: Callable[[Project], None], capsys: pytest.CaptureFixture[str]
) -> None:
    inside(project)
    Registry()  # corrects the addresses, which are still those of the original
    shutil.rmtree(project.path("3.experiments", "artifacts"))
    project.path("3.experiments", "artifacts").write_text("a file where a folder should be")
    assert run_script(project, REGISTER) == 1
    error = capsys.readouterr().err
    assert "stage 7: the artifact store file:///" in error
    assert "Not a directory" in error


def test_errors_of_the_projects_own_code_are_not_blamed_on_the_registry(
    project: Project, inside: Callable[[Project], None], capsys: pytest.CaptureFixture[str]
) -> None:
    inside(project)
    project.set_params({"train.logistic_regression.C": 0.5})  # another lineage
    project.path("1.data", "5.model", "model.joblib").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.joblib"):
        run_script(project, REGISTER)
    with pytest.raises(KeyError), Registry().plain_errors():
        raise KeyError("ours")
    assert "registry" not in capsys.readouterr().err


def test_a_changed_contract_is_registered_again(
    project: Project, inside: Callable[[Project], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(project)
    package = Path(shutil.copytree(lineage.PACKAGE, project.path("package")))
    before = lineage.lineage_key(lineage.read_lineage())
    monkeypatch.setattr(lineage, "PACKAGE", package)
    assert lineage.lineage_key(lineage.read_lineage()) == before
    (package / "contract.py").write_text("# another contract")
    assert lineage.lineage_key(lineage.read_lineage()) != before


def test_password_in_the_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9/ml")
    assert Registry().address == "http://127.0.0.1:9/ml"


@pytest.mark.parametrize(
    "secret",
    [
        *("changeme", "Password123", "Secret1!", "minioadmin", "minio123", "change_me!", "your-secret-access-key"),
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",  # of AWS's documentation
    ],
)
@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_URI"])
def test_production_rejects_placeholder_secrets(name: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def value(secret: str) -> str:
        return f"http://me:{quote(secret, safe='')}@host:5000" if name == "MLFLOW_TRACKING_URI" else secret

    monkeypatch.setenv(name, value(secret))
    assert name == "MLFLOW_TRACKING_URI" or secret not in repr(Settings())
    monkeypatch.setenv("APP_ENV", "production")
    with pytest.raises(ProjectError, match=f"{name} holds a placeholder") as raised:
        Settings()
    assert secret not in str(raised.value)
    monkeypatch.setenv(name, value("xq7EXaMPLe-no-4GmVqDk2"))
    assert Settings().app_env == "production"
