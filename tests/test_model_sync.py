"""Model sync and the workers that follow its cache, with real registries, over real HTTP."""

import json
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from projects import Project, descendants, run_script, wait_for_script, wait_until
from servers import (
    EXAMPLE,
    LONE,
    SERVE,
    Server,
    fetch,
    registry_of,
    running,
    sync,
    wait_for_version,
    wait_until_ready,
)

from credit_risk.core.errors import ProjectError
from credit_risk.project.host import free_port
from credit_risk.registry.client import CHALLENGER, CHAMPION, MODEL, ONNX_SHA256, Registry
from credit_risk.serving import active_model, model_cache, prometheus

pytestmark = pytest.mark.integration

DOWN = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


def second_version(project: Project, **tags: str) -> Any:
    """Registers the champion's files once more, as version 2, with other tags; returns the registry."""
    registry = registry_of(project)
    first = registry.client.get_model_version(MODEL, "1")
    tags = {**first.tags, "lineage_key": "another", **tags}
    registry.create_version(first.source, first.run_id, first.source.removeprefix("models:/"), tags)
    return registry


def onnx_of(project: Project) -> Path:
    (path,) = project.path("3.experiments", "artifacts").rglob("model.onnx")
    return path


def detail(server: Server) -> str:
    """What the server says about itself."""
    return str(server.client.get("/status").json()["detail"])


def files_of(cache: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def test_a_promotion_reaches_all_workers_without_a_restart(project: Project, tmp_path: Path) -> None:
    registry = second_version(project)
    registry.set_alias(CHALLENGER, "2")
    recording = {"PREDICTION_LOG": str(tmp_path / "log"), "SHADOW_ALIAS": CHALLENGER}
    with running(project, *SERVE, "--workers", "2", **recording) as server:
        wait_until_ready(server)
        shadows = re.compile(r'^shadow_served{.*version="2"} 1.0$', re.MULTILINE)
        wait_until(lambda: len(shadows.findall(server.client.get("/metrics").text)) == 2, "the challenger in both")
        answer = server.client.post("/predict", json=EXAMPLE | {"row_id": "mine"}, headers={"x-request-id": "one"})
        server.client.post("/predict/batch", json=[EXAMPLE, 5, EXAMPLE], headers={"x-request-id": "several"})
        before = {process.pid for process in descendants(server.process.pid)}
        registry.set_alias(CHAMPION, "2")
        wait_for_version(server.client, "2", seconds=20)

        def versions() -> set[str]:
            answers = [server.client.post("/predict", json=EXAMPLE, headers={"connection": "close"}) for _ in range(20)]
            assert all(answer.is_success for answer in answers)
            return {answer.json()["model_version"] for answer in answers}

        wait_until(lambda: versions() == {"2"}, "both workers to serve version 2", 20)
        assert {process.pid for process in descendants(server.process.pid)} == before
        metrics = server.client.get("/metrics").text
        status = server.client.get("/status").json()
        assert {(worker["served"], worker["expected"]) for worker in status["workers"]} == {("2", "2")}
        assert len(status["workers"]) == 2
        for kind in ("served", "expected"):
            values = re.findall(rf'^model_{kind}{{.*version="(.)"}} 1.0$', metrics, re.MULTILINE)
            assert values == ["2", "2"]
        assert 'model_loads_total{result="loaded"} 6.0' in metrics  # the challenger too
    assert not [*tmp_path.glob("log/open/*")]
    logged = [json.loads(line) for path in tmp_path.glob("log/ready/*") for line in path.read_text().splitlines()]
    (first,) = [line for line in logged if line["request_id"] == "one"]
    assert [line["row_id"] for line in logged if line["request_id"] == "several"] == [None, None]
    assert len(logged) >= 23
    for name in ("probability", "decision"):
        assert first[name] == answer.json()[name]
    assert (first["row_id"], first["version"], first["fields"]) == ("mine", "1", EXAMPLE)
    assert first["shadow"] == {"version": "2", "probability": first["probability"]}
    assert {line["version"] for line in logged} == {"1", "2"}
    assert [line for line in logged if line["version"] == "2" and line["shadow"]] == []  # it was promoted


@pytest.mark.fault("the champion's files are damaged", "it is rejected; the last good one serves")
@pytest.mark.parametrize("damage", ["edited", "truncated", "missing", "other digest", "other scores"])
def test_a_bad_champion_is_rejected_and_the_last_good_one_stays(project: Project, damage: str) -> None:
    with running(project, *SERVE) as server:
        wait_until_ready(server)
        registry = second_version(project)
        onnx = onnx_of(project)
        reference_rows = onnx.with_name("reference_rows.json")
        match damage:
            case "edited":
                onnx.write_bytes(onnx.read_bytes().replace(b"threshold", b"thresh0ld"))
            case "truncated":
                onnx.write_bytes(onnx.read_bytes()[:-100])
            case "missing":
                onnx.unlink()
            case "other digest":
                registry.tag("2", ONNX_SHA256, "0" * 64)
            case "other scores":
                content = json.loads(reference_rows.read_text())
                content["scores"][0] += 1e-5
                reference_rows.write_text(json.dumps(content))
        registry.set_alias(CHAMPION, "2")
        wait_until(lambda: "from the cache:" in server.client.get("/status").text, "the rejection in /status")
        assert server.client.get("/status").json()["detail"].startswith("serving version 1 from the cache: ")
        assert server.client.post("/predict", json=EXAMPLE).json()["model_version"] == "1"
        assert 'registry_checks_total{result="failed"}' in server.client.get("/metrics").text
        registry.set_alias(CHAMPION, "1")
        wait_until(lambda: detail(server) == "serving version 1", "recovery", 20)


def test_a_rejected_champion_leaves_the_cache_unchanged(project: Project, cache: Path) -> None:
    before = files_of(cache)
    registry = second_version(project)
    onnx = onnx_of(project)
    onnx.write_bytes(onnx.read_bytes()[:-1])
    registry.set_alias(CHAMPION, "2")
    rejected = fetch(project, cache)
    assert rejected.returncode == 1
    assert rejected.stderr.count("\n") == 1
    assert rejected.stderr.startswith("model sync: version 2 is rejected: ")
    assert files_of(cache) == before


def test_a_champion_of_another_problem_is_not_installed(project: Project, cache: Path) -> None:
    before = files_of(cache)
    lineage = json.loads(registry_of(project).version("1").tags["lineage"])
    lineage["problem"] = {"target": ["another"], "fields": ["of", "another", "problem"]}
    second_version(project, lineage=json.dumps(lineage)).set_alias(CHAMPION, "2")
    rejected = fetch(project, cache)
    assert rejected.returncode == 1
    assert rejected.stderr.count("\n") == 1
    assert "another problem" in rejected.stderr
    assert files_of(cache) == before


@pytest.mark.fault("the cache is damaged", "it is repaired from the registry")
def test_a_damaged_cache_is_not_served_and_is_repaired(finished: Project, cache: Path) -> None:
    (model,) = cache.rglob("model.onnx")
    content = model.read_bytes()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with running(finished, *LONE, MODEL_CACHE=str(cache)) as server:
        assert server.client.get("/readyz").status_code == 503
        assert "damaged" in detail(server) or "can't be loaded" in detail(server)
        assert sync(finished, cache) == "version 1 is in the cache (installed)"
        wait_until_ready(server)
    assert model.read_bytes() == content


@pytest.mark.parametrize("name", ["model_info.json", "reference_rows.json"])
@pytest.mark.parametrize("content", ["", "{}", "[]", '{"rows": []}'])
def test_damaged_json_stops_no_worker_and_is_repaired(finished: Project, cache: Path, name: str, content: str) -> None:
    (path,) = cache.rglob(name)
    undamaged = path.read_text()
    path.write_text(content)
    with running(finished, *LONE, MODEL_CACHE=str(cache)) as server:
        assert server.client.get("/readyz").status_code == 503
        assert sync(finished, cache) == "version 1 is in the cache (installed)"
        wait_until_ready(server)
    assert json.loads(path.read_text()) == json.loads(undamaged)


@pytest.mark.parametrize("pointer", ["", "{}", '{"folder": "../.."}', '{"folder": "gone"}', "[]"])
def test_a_damaged_pointer_stops_no_worker(finished: Project, cache: Path, pointer: str) -> None:
    (cache / "active.json").write_text(pointer)
    with running(finished, *LONE, MODEL_CACHE=str(cache)) as server:
        assert server.client.get("/readyz").status_code == 503
        assert server.client.get("/livez").status_code == 200


@pytest.mark.fault("the registry is down", "the last good model serves; `/readyz` says so")
def test_with_the_registry_down_the_last_good_model_is_served_and_status_says_so(
    finished: Project, cache: Path
) -> None:
    with running(finished, *SERVE, MODEL_CACHE=str(cache), **DOWN) as server:
        assert server.client.post("/predict", json=EXAMPLE).status_code == 200
        wait_until(lambda: "is down" in detail(server), "the problem in /status")
        assert "127.0.0.1" not in server.client.get("/readyz").text
        assert detail(server).startswith("serving version 1 from the cache: the MLflow server at http://127.0.0.1:9")


def test_main_serves_the_last_good_model_at_once_with_a_registry_that_hangs(finished: Project, cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with running(finished, "main.py", "serve", MODEL_CACHE=str(cache), MLFLOW_TRACKING_URI=uri) as server:
            assert server.client.post("/predict", json=EXAMPLE).status_code == 200
            assert "serving version 1 from the cache until model sync finds" in server.log.read_text()


def test_without_model_sync_status_says_so(finished: Project, cache: Path) -> None:
    with running(finished, *LONE, MODEL_CACHE=str(cache)) as server:
        assert detail(server).endswith("model sync has not reported yet")
        model_cache.write_sync_status(cache, "")
        assert detail(server) == "serving version 1"
        (cache / "sync.json").write_text('{"problem": "", "time": 0}')
        assert "model sync has not reported for" in detail(server)


@pytest.mark.fault("the process of model sync is killed", "it is started again")
def test_a_killed_model_sync_is_started_again(finished: Project) -> None:
    with running(finished, *SERVE) as server:
        first = wait_for_script(server.process.pid, "model_sync.py")
        first.kill()
        second = wait_until(lambda: another(server, first), "another model sync", 30)
        wait_until_ready(server)
    wait_until(lambda: not second.is_running(), "model sync to end with its server", 10)


def another(server: Server, process: psutil.Process) -> psutil.Process | None:
    found = wait_for_script(server.process.pid, "model_sync.py")
    return found if found.pid != process.pid else None


def test_model_sync_does_not_outlive_a_killed_server(finished: Project) -> None:
    command = finished.command(*SERVE, "--port", str(free_port()))
    server = psutil.Popen(command, cwd=finished.root, env=finished.environment)
    process = wait_for_script(server.pid, "model_sync.py")
    server.kill()
    server.wait()
    wait_until(lambda: not process.is_running(), "model sync to end", 20)


def test_the_cache_keeps_two_versions_and_everything_that_is_not_its_own(cache: Path, tmp_path: Path) -> None:
    foreign = [cache / name for name in ("photos", "1", "12-thesis", ".ssh", "mail-0123456789ab", "3-0123456789ab.bak")]
    for folder in foreign:
        (folder / "2024").mkdir(parents=True)
        (folder / "2024" / "file").write_text("mine")
    (cache / "7-0123456789ab").write_text("a file, not a folder")
    served = model_cache.load(cache)
    (model,) = cache.rglob("model.onnx")
    files = {model_cache.ONNX: tmp_path / "m", model_cache.REFERENCE_ROWS: tmp_path / "g"}
    shutil.copy(model, files[model_cache.ONNX])
    shutil.copy(model.with_name("reference_rows.json"), files[model_cache.REFERENCE_ROWS])
    for version in range(2, 7):
        model_cache.install(cache, files, served.info | {"version": str(version)})
        assert model_cache.load(cache).version == str(version)
    assert [path.parent.parent.name for path in sorted(cache.rglob("2024/file"))] == sorted(it.name for it in foreign)
    assert (cache / "7-0123456789ab").is_file()
    assert sorted(path.parent.name.split("-")[0] for path in cache.rglob("model.onnx")) == ["5", "6"]


def test_a_rollback_uses_the_kept_version_and_does_not_download_it(
    project: Project, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = second_version(project)
    registry.set_alias(CHAMPION, "2")
    assert sync(project, cache) == "version 2 is in the cache (installed)"
    registry.set_alias(CHAMPION, "1")
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "download", None)
        assert sync(project, cache) == "version 1 is in the cache (installed)"
    assert model_cache.load(cache).version == "1"
    (kept,) = cache.glob("2-*/model.onnx")
    kept.write_bytes(kept.read_bytes()[:-1])  # damaged: downloaded again
    registry.set_alias(CHAMPION, "2")
    assert sync(project, cache) == "version 2 is in the cache (installed)"
    assert model_cache.load(cache).version == "2"


@pytest.mark.parametrize("content", ["photos/", "thesis.txt", "7-0123456789ab/mine/", "", "file"])
def test_a_folder_with_other_things_is_no_cache(content: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    if content == "file":
        folder.write_text("a file")
    else:
        (folder / ".hidden").mkdir(parents=True)
        (folder / "lost+found").mkdir()
        (folder / content).mkdir(parents=True, exist_ok=True)
    if content:
        with pytest.raises(ProjectError, match=r"^MODEL_CACHE .*folder"):
            model_cache.check_folder(folder)
    else:
        model_cache.check_folder(folder)
    model_cache.check_folder(tmp_path / "missing")


def test_a_folder_with_other_things_stops_server_and_sync_before_they_write(finished: Project, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for command in (("6.production/model_sync.py", "--once"), SERVE, ("main.py", "serve")):
        done = finished.run(*command, check=False, MODEL_CACHE=str(tmp_path))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "holds other things (photos); name an empty or a new folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_problem_of_the_disk_is_one_sentence(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_CACHE", "/sys/cache")  # where nobody can make a folder
    assert run_script(project, "6.production/model_sync.py", "--once") == 1
    error = capsys.readouterr().err
    assert error.startswith("model sync: /sys/cache")
    assert error.count("\n") == 1


def test_a_load_that_failed_for_a_moment_is_tried_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active_model, "RETRY_SECONDS", 0)
    worker = active_model.ActiveModel(cache)
    worker.refresh()
    second = model_cache.load(cache).info | {"version": "2"}
    (model,) = cache.rglob("model.onnx")
    files = {name: model.with_name(name) for name in (model_cache.ONNX, model_cache.REFERENCE_ROWS)}
    model_cache.install(cache, files, second)
    (model,) = cache.glob("2-*/model.onnx")
    moved = model.rename(model.with_suffix(".moved"))
    worker.refresh()
    assert worker.get().version == "1"
    assert worker.status().startswith("serving version 1, not version 2: ")
    assert [(it["served"], it["expected"]) for it in prometheus.model_versions()] == [("1", "2")]
    moved.rename(model)
    worker.refresh()  # the pointer has not moved
    assert worker.status() == "serving version 2"
    assert [(it["served"], it["expected"]) for it in prometheus.model_versions()] == [("2", "2")]


@pytest.fixture(autouse=True)
def _environment(inside: Callable[[Project], None], finished: Project) -> None:
    inside(finished)
