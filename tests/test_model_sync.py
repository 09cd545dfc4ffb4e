"""The keeper and the workers that follow it, with real registries, over real HTTP."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from projects import Project, descendants, wait_for_script, wait_until
from servers import EXAMPLE, LONE, SERVE, Server, fetch, free_port, look, running, wait_for_version, wait_until_ready

from credit_risk.core.settings import Settings
from credit_risk.registry.client import CHAMPION, MODEL, ONNX_SHA256, Registry
from credit_risk.serving import model_cache

pytestmark = pytest.mark.integration

DOWN = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


def registry_of(project: Project) -> Registry:
    return Registry(Settings(mlflow_tracking_uri=f"sqlite:///{project.path('3.experiments', 'mlflow.db')}"))


def second_version(project: Project) -> Registry:
    """Registers the champion's files once more, as version 2 with the alias `challenger`."""
    registry = registry_of(project)
    first = registry.client.get_model_version(MODEL, "1")
    tags = {**first.tags, "lineage_key": "another"}
    registry.create_version(first.source, first.run_id, first.source.removeprefix("models:/"), tags)
    return registry


def onnx_of(project: Project) -> Path:
    (path,) = project.path("3.experiments", "artifacts").rglob("model.onnx")
    return path


def files_of(cache: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}


def test_a_promotion_reaches_all_workers_without_a_restart(project: Project) -> None:
    registry = second_version(project)
    with running(project, *SERVE, "--workers", "2") as server:
        wait_until_ready(server)
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
        assert 'credit_risk_model_info{version="2"} 2.0' in metrics
        assert 'credit_risk_model_info{version="1"} 0.0' in metrics
        assert 'credit_risk_model_loads_total{result="loaded"} 4.0' in metrics


@pytest.mark.parametrize("damage", ["edited", "truncated", "missing", "other digest", "other scores"])
def test_a_bad_champion_is_refused_and_the_last_good_one_stays(project: Project, damage: str) -> None:
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
        wait_until(lambda: "from the cache:" in server.client.get("/readyz").text, "the refusal in /readyz")
        assert server.client.get("/readyz").json()["detail"].startswith("serving version 1 from the cache: ")
        assert server.client.post("/predict", json=EXAMPLE).json()["model_version"] == "1"
        assert 'credit_risk_champion_checks_total{result="failed"}' in server.client.get("/metrics").text
        registry.set_alias(CHAMPION, "1")  # going back is followed at once
        wait_until(lambda: server.client.get("/readyz").json() == {"detail": "serving version 1"}, "the way back", 20)


def test_a_refused_champion_leaves_the_cache_as_it_was(project: Project, cache: Path) -> None:
    before = files_of(cache)
    registry = second_version(project)
    onnx = onnx_of(project)
    onnx.write_bytes(onnx.read_bytes()[:-1])
    registry.set_alias(CHAMPION, "2")
    refused = fetch(project, cache)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("keeper: version 2 is refused: ")
    assert files_of(cache) == before


def test_damaged_cache_is_not_served_and_is_repaired(finished: Project, cache: Path) -> None:
    (model,) = cache.rglob("model.onnx")
    content = model.read_bytes()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with running(finished, *LONE, MODEL_CACHE=str(cache)) as server:
        answer = server.client.get("/readyz")
        assert answer.status_code == 503
        assert "damaged" in answer.json()["detail"] or "can't be loaded" in answer.json()["detail"]
        assert look(finished, cache) == "version 1 is in the cache (installed)"
        wait_until_ready(server)
    assert model.read_bytes() == content


@pytest.mark.parametrize("name", ["about.json", "reference_rows.json"])
@pytest.mark.parametrize("content", ["", "{}", "[]", '{"applications": []}'])
def test_damaged_facts_stop_no_worker_and_are_repaired(finished: Project, cache: Path, name: str, content: str) -> None:
    (path,) = cache.rglob(name)
    whole = path.read_text()
    path.write_text(content)
    with running(finished, *LONE, MODEL_CACHE=str(cache)) as server:
        assert server.client.get("/readyz").status_code == 503
        assert look(finished, cache) == "version 1 is in the cache (installed)"
        wait_until_ready(server)
    assert json.loads(path.read_text()) == json.loads(whole)


@pytest.mark.parametrize("pointer", ["", "{}", '{"folder": "../.."}', '{"folder": "gone"}', "[]"])
def test_a_damaged_pointer_is_not_followed(finished: Project, cache: Path, pointer: str) -> None:
    (cache / "champion.json").write_text(pointer)
    with running(finished, *LONE, MODEL_CACHE=str(cache)) as server:
        assert server.client.get("/readyz").status_code == 503
        assert server.client.get("/livez").status_code == 200


def test_with_the_registry_down_the_last_good_model_is_served_and_readyz_says_so(
    finished: Project, cache: Path
) -> None:
    with running(finished, *SERVE, MODEL_CACHE=str(cache), **DOWN) as server:
        assert server.client.post("/predict", json=EXAMPLE).status_code == 200
        wait_until(lambda: "is down" in server.client.get("/readyz").text, "the keeper's word")
        detail = server.client.get("/readyz").json()["detail"]
        assert detail.startswith("serving version 1 from the cache: the MLflow server at http://127.0.0.1:9")


def test_main_serves_the_last_good_model_with_the_registry_down(finished: Project, cache: Path) -> None:
    with running(finished, "main.py", "serve", MODEL_CACHE=str(cache), **DOWN) as server:
        assert server.client.post("/predict", json=EXAMPLE).status_code == 200
        assert "serving version 1 from the cache" in server.log.read_text()


def test_without_a_keeper_readyz_says_so(finished: Project, cache: Path) -> None:
    with running(finished, *LONE, MODEL_CACHE=str(cache)) as server:
        assert server.client.get("/readyz").json()["detail"].endswith("no keeper has reported yet")
        model_cache.report(cache, "")
        assert server.client.get("/readyz").json()["detail"] == "serving version 1"
        (cache / "keeper.json").write_text('{"problem": "", "time": 0}')
        assert "the keeper has been silent for" in server.client.get("/readyz").json()["detail"]


def test_a_killed_keeper_is_started_again(finished: Project) -> None:
    with running(finished, *SERVE) as server:
        keeper = wait_for_script(server.process.pid, "model_sync.py")
        keeper.kill()
        again = wait_until(lambda: another(server, keeper), "another keeper", 30)
        wait_until_ready(server)
    wait_until(lambda: not again.is_running(), "the keeper to end with its server", 10)


def another(server: Server, keeper: psutil.Process) -> psutil.Process | None:
    found = wait_for_script(server.process.pid, "model_sync.py")
    return found if found.pid != keeper.pid else None


def test_a_keeper_does_not_outlive_a_killed_server(finished: Project) -> None:
    command = finished.command(*SERVE, "--port", str(free_port()))
    server = psutil.Popen(command, cwd=finished.root, env=finished.environment)
    keeper = wait_for_script(server.pid, "model_sync.py")
    server.kill()
    server.wait()
    wait_until(lambda: not keeper.is_running(), "the keeper to end", 20)


def test_the_cache_keeps_the_newest_versions(cache: Path, tmp_path: Path) -> None:
    served = model_cache.load(cache)
    (model,) = cache.rglob("model.onnx")
    files = {model_cache.ONNX: tmp_path / "m", model_cache.REFERENCE_ROWS: tmp_path / "g"}
    shutil.copy(model, files[model_cache.ONNX])
    shutil.copy(model.with_name("reference_rows.json"), files[model_cache.REFERENCE_ROWS])
    for version in range(2, 7):
        model_cache.install(cache, files, served.about | {"version": str(version)})
        assert model_cache.load(cache).version == str(version)
    assert sorted(path.name.split("-")[0] for path in cache.iterdir() if path.is_dir()) == ["4", "5", "6"]


@pytest.fixture(autouse=True)
def _own_uri(inside: Callable[[Project], None], finished: Project) -> None:
    inside(finished)
