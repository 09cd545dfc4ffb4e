"""Registration, promotion, rollback and their history, on a real registry."""

import errno
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import mlflow
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
    Version,
)
from credit_risk.registry.promotion import (
    events,
    finish_interrupted_move,
    history,
    promote,
    record_rejection,
    rollback,
    rolled_back,
)

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


class Stopped(BaseException):
    """As a kill: no code catches it."""


@pytest.mark.parametrize("move", ["promote", "rollback"])
def test_a_move_that_is_interrupted_at_any_write_is_finished_later(
    move: str, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def move_champion() -> None:
        promote(registry, "3", "2", "better") if move == "promote" else rollback(registry, "complaints")

    writes = ("set_alias", "delete_alias", "tag", "set_model_tag", "delete_model_tag")
    steps = 0
    while True:
        for alias, number in {CHAMPION: "2", PREVIOUS_CHAMPION: "1"}.items():
            registry.set_alias(alias, number)
        events_before = len(history(registry))
        done: list[str] = []
        with monkeypatch.context() as patch:
            for name in writes:
                patch.setattr(registry, name, stopping(getattr(registry, name), done, after=steps))
            try:
                move_champion()
                break
            except Stopped:
                steps += 1
        later = Registry()
        if not done:  # nothing was written
            finish_interrupted_move(later)
            assert numbers(later, CHAMPION, PREVIOUS_CHAMPION) == ["2", "1"]
            assert len(history(later)) == events_before
            continue
        if move == "rollback":
            assert rollback(later, "once more") == ("2", "1")  # the one that was interrupted, not another one
        else:
            finish_interrupted_move(later)
        finished = {"promote": ["3", "2"], "rollback": ["1", None]}[move]
        assert numbers(later, CHAMPION, PREVIOUS_CHAMPION) == finished
        finish_interrupted_move(later)  # nothing is left
        recorded = history(later)[events_before:]
        assert [(event.kind, event.champion) for event in recorded] == [
            ("promoted", "3") if move == "promote" else ("rolled back", "1")
        ]
    assert steps >= 4  # the intent, two aliases, the event, the end of the intent


def stopping(write: Callable[..., None], done: list[str], after: int) -> Callable[..., None]:
    def stopped(*arguments: str) -> None:
        if len(done) == after:
            raise Stopped
        write(*arguments)
        done.append(arguments[0])

    return stopped


def test_an_interrupted_move_is_not_finished_over_another_one(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(registry, "1", None, "first")
    with monkeypatch.context() as patch:
        patch.setattr(registry, "set_alias", stopping(registry.set_alias, [], after=0))
        with pytest.raises(Stopped):
            promote(registry, "2", "1", "better")
    registry.set_alias(CHAMPION, "3")  # another machine
    with pytest.raises(ProjectError, match="another process moved the alias to version 3 while it was moved to 2"):
        finish_interrupted_move(registry)
    assert numbers(registry, CHAMPION) == ["3"]
    assert history(registry)[-1].kind == "conflict"
    finish_interrupted_move(registry)


def test_other_variables_of_mlflow_send_nothing_elsewhere(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.db"
    elsewhere = {
        "MLFLOW_REGISTRY_URI": f"sqlite:///{other}",
        "MLFLOW_EXPERIMENT_NAME": "another",
        "MLFLOW_RUN_ID": "0" * 32,
    }
    for name, value in elsewhere.items():
        monkeypatch.setenv(name, value)
    registry = Registry()
    registry.set_alias(CHAMPION, "2")
    with mlflow.start_run(experiment_id=registry.experiment_id()) as run:
        pass
    assert run.info.run_id != elsewhere["MLFLOW_RUN_ID"]
    assert run.info.experiment_id == registry.experiment_id()
    for name in elsewhere:
        monkeypatch.delenv(name, raising=False)
    assert numbers(Registry(), CHAMPION) == ["2"]
    assert not other.exists()


def test_one_lock_for_each_registry_in_a_folder_of_this_user(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def lock(uri: str) -> Path:
        monkeypatch.setattr(registry, "uri", uri)
        monkeypatch.setattr(registry, "embedded", uri.startswith("sqlite"))
        return promotion._lock_path(registry)

    same = {lock(uri) for uri in ("http://h:5000", "http://h:5000/", "http://u:p@h:5000", "http://H:5000")}
    assert len(same) == 1
    assert {path.parent.parent for path in same} == {tmp_path / "cache"}
    assert len({*same, *map(lock, ("http://h:5001", "https://h:5000", "http://h:5000/ml"))}) == 4
    (tmp_path / "a b").mkdir()
    assert (
        lock(f"sqlite:///{tmp_path}/a b/m.db") == lock(f"sqlite:///{tmp_path}/a%20b/m.db") == tmp_path / "a b/m.db.lock"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert lock("http://h:5000").parent == tmp_path / "3.experiments"


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


@pytest.mark.parametrize("number", ["abc", "1.0", "-1", "", " ", "٣", "9" * 30])
def test_what_is_no_number_of_a_version(number: str, registry: Registry) -> None:
    with pytest.raises(ProjectError, match=r"^'.*' is not the number of a version; see `uv run main.py history`$"):
        registry.version(number)


def test_only_what_the_registry_raised_is_blamed_on_it(registry: Registry, tmp_path: Path) -> None:
    run = registry.client.create_run(registry.experiment_id())
    version = Version("1", {}, (), run.info.run_id)
    with pytest.raises(FileNotFoundError):
        registry.log_file(version, tmp_path / "ours")  # MLflow reads it, and it is not the store's
    for error in (PermissionError(errno.EACCES, "denied", "ours.py"), OSError(errno.ENOSPC, "full"), KeyError("ours")):
        with pytest.raises(type(error)), registry.plain_errors():
            raise error
    with pytest.raises(ProjectError, match="does not answer in time"), registry.plain_errors():
        raise TimeoutError
    artifacts = tmp_path / "3.experiments" / "artifacts"
    shutil.rmtree(artifacts, ignore_errors=True)
    artifacts.write_text("a file where the store needs a folder")
    (tmp_path / "ours").write_text("content")
    with pytest.raises(ProjectError, match=r"the registry at sqlite:.* fails"):
        registry.log_file(version, tmp_path / "ours")


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

    run = registry.version("2").run_id
    registry.client.update_run(run, status="RUNNING")  # as killed after the version was created
    assert run_script(project, REGISTER) == 0
    assert registry.client.get_run(run).info.status == "FINISHED"
    assert len(registry.versions()) == 2


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
    for name in ("model.joblib", "model.onnx"):
        project.path("1.data", "5.model", name).unlink()
        assert run_script(project, REGISTER) == 1
        expected = f"stage 7: 1.data/5.model/{name} is missing; run the pipeline first: `uv run main.py`\n"
        assert capsys.readouterr().err == expected


def test_a_changed_contract_is_registered_again(
    project: Project, inside: Callable[[Project], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(project)
    package = Path(shutil.copytree(lineage.PACKAGE, project.path("package")))
    before = lineage.lineage_key(lineage.read_lineage())
    monkeypatch.setattr(lineage, "PACKAGE", package)
    assert lineage.lineage_key(lineage.read_lineage()) == before
    for name in ("contract.py", "features.py", "model.py", "registry/signature.py", "formats/skops_model.py"):
        text = (package / name).read_text()
        (package / name).write_text(f"{text}# changed")
        assert lineage.lineage_key(lineage.read_lineage()) != before, name
        (package / name).write_text(text)
    (package / "serving" / "middleware.py").write_text("# changed")
    assert lineage.lineage_key(lineage.read_lineage()) == before


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
