"""Serving on the stack: outages and damage while a new champion is synced, and while another API starts."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from projects import Project, copy_finished, descendants, run_script, wait_until
from servers import EXAMPLE, SERVE, Server, running
from stacks import Stack, onnx_object, put

from credit_risk.registry.client import CHAMPION, MODEL, Registry

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
REGISTER, LOADING, PERFORMANCE = (
    "4.dvc_pipeline/7.register_model.py",
    "5.testing/loading.py",
    "5.testing/performance.py",
)
MODEL_SYNC, MAIN = "6.production/model_sync.py", "if __name__"

# Inserted into model_sync.py: while the file `gate` exists, it waits after it has seen a new champion.
GATE = """
def gated(*arguments, download=Registry.download):
    gate = Settings().model_cache.with_name("gate")
    if gate.exists():
        gate.with_name("reached").touch()
    while gate.exists():
        time.sleep(0.02)
    return download(*arguments)


Registry.download = gated
"""
# What /status says when a server was stopped, and when any is frozen.
FAILS = "fails; check MLFLOW_TRACKING_URI"
STOPPED = {"postgres": FAILS, "s3": FAILS, "mlflow": "is down"}
FROZEN = "does not answer in time"


@dataclass
class Serving:
    """A project whose champion is on the stack, and an API that serves it."""

    project: Project
    server: Server
    registry: Registry
    cache: Path
    environment: dict[str, str]

    @property
    def version(self) -> str:
        champion = self.registry.version_of(CHAMPION)
        assert champion is not None
        return champion.number

    def new_champion(self) -> str:
        """Makes the first version's files the next version and the champion."""
        first = self.registry.client.get_model_version(MODEL, "1")
        assert first.source
        assert first.run_id
        model = first.source.removeprefix("models:/")
        new = self.registry.create_version(first.source, first.run_id, model, first.tags)
        self.registry.set_alias(CHAMPION, new.number)
        return new.number


def detail(server: Server) -> str:
    """The detail of /status; the API is ready during every outage."""
    assert server.client.get("/readyz").is_success
    answer = server.client.get("/status")
    return str(answer.json()["detail"])


def reports(server: Server, sentence: str) -> bool:
    return sentence in detail(server)


def served(server: Server) -> str:
    return str(server.client.post("/predict", json=EXAMPLE).raise_for_status().json()["model_version"])


def wait_for(server: Server, version: str) -> None:
    wait_until(lambda: detail(server) == f"serving version {version}", f"version {version}")
    assert served(server) == version


@pytest.fixture(scope="module")
def serving(stack: Stack, finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One API for all outages, which it must survive."""
    folder = tmp_path_factory.mktemp("serving")
    project = copy_finished(finished, folder / "project")
    model_sync = project.path(MODEL_SYNC)
    model_sync.write_text(model_sync.read_text().replace(MAIN, GATE + MAIN))
    stack.forget_model()
    environment = stack.environment("service") | {"MODEL_CACHE": str(folder / "cache")}
    environment |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**stack.environment(), "PROJECT_ROOT": str(project.root)}.items():
            patch.setenv(name, value)
        assert [run_script(project, path) for path in (REGISTER, LOADING, PERFORMANCE)] == [0, 0, 0]
        with running(project, *SERVE, **environment) as server:
            wait_until(lambda: server.client.get("/readyz").is_success, "the first champion")
            yield Serving(project, server, Registry(), folder / "cache", environment)
            assert not [secret for secret in stack.secrets if secret in server.log.read_text()]


@pytest.mark.parametrize("how", ["stop", "freeze"])
@pytest.mark.parametrize("name", ["postgres", "s3", "mlflow"])
def test_outage_while_a_new_champion_is_synced_and_an_api_starts(
    name: str, how: str, serving: Serving, stack: Stack, tmp_path: Path
) -> None:
    old, server = serving.version, serving.server
    wait_for(server, old)
    processes = {process.pid for process in descendants(server.process.pid)}
    shutil.copytree(serving.cache, tmp_path / "cache")
    gate, reached = (serving.cache.with_name(word) for word in ("gate", "reached"))
    reached.unlink(missing_ok=True)
    gate.touch()
    new = serving.new_champion()
    wait_until(reached.exists, "model sync to see the new champion")
    sentence = STOPPED[name] if how == "stop" else FROZEN
    with ExitStack() as started:
        stack.break_(name, how)
        try:
            gate.unlink()
            environment = serving.environment | {"MODEL_CACHE": str(tmp_path / "cache")}
            other = started.enter_context(running(serving.project, "main.py", "serve", **environment))
            for api in (server, other):
                wait_until(partial(reports, api, sentence), f"{sentence} in /status")
                address = serving.environment["MLFLOW_TRACKING_URI"]
                assert detail(api).startswith(f"serving version {old} from the cache: the MLflow server at {address} ")
                assert served(api) == old
            assert f"serving version {old} from the cache" in other.log.read_text()
        finally:
            stack.repair(name, how)
        for api in (server, other):
            wait_for(api, new)
    assert {process.pid for process in descendants(server.process.pid)} == processes


@pytest.mark.parametrize("damage", ["altered", "truncated"])
def test_a_damaged_artifact_is_not_served_and_the_old_champion_stays(damage: str, serving: Serving) -> None:
    old, server = serving.version, serving.server
    wait_for(server, old)
    key, good = onnx_object(serving.registry, old)
    put(key, good.replace(b"threshold", b"Threshold", 1) if damage == "altered" else good[: len(good) // 2])
    try:
        new = serving.new_champion()
        rejection = f"serving version {old} from the cache: version {new} is rejected: its ONNX model is not the one"
        wait_until(lambda: detail(server).startswith(rejection), "the rejection")
        assert served(server) == old
    finally:
        put(key, good)
    wait_for(server, serving.new_champion())
