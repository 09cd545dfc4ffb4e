"""The API under load: new versions, signals, overload and many requests, with every answer checked."""

import asyncio
import json
import signal
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import pytest
from projects import Project, run_script, wait_until
from rows import valid_rows
from servers import EXAMPLE, LONE, SERVE, Server, registry_of, running, sync, wait_for_version

from credit_risk.registry.client import CHAMPION
from credit_risk.serving import model_cache

pytestmark = pytest.mark.integration

ROWS = [EXAMPLE, *valid_rows(2, seed=5)]
CLIENTS = 16
PATIENT = {"MAX_QUEUE_SECONDS": "10"}  # tests share the machine: a worker may have to wait for its turn


class Load:
    """Clients that send one request after the other until they are stopped; records all answers and failures."""

    def __init__(self, server: Server, **options: Any) -> None:
        self.answers: list[tuple[int, httpx.Response]] = []  # which row, and its answer
        self.failures: list[Exception] = []  # requests that were sent and not answered
        self.unsent = 0  # no connection could be made, so no request was lost
        self._base = f"http://127.0.0.1:{server.port}"
        self._options = options
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._client = httpx.AsyncClient(base_url=self._base, timeout=10, **self._options)
        self._tasks = [asyncio.create_task(self._send(number)) for number in range(CLIENTS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        await asyncio.gather(*self._tasks)
        await self._client.aclose()

    def stop(self) -> None:
        self._stop.set()

    async def _send(self, number: int) -> None:
        row = number % len(ROWS)
        while not self._stop.is_set():
            try:
                self.answers.append((row, await self._client.post("/predict", json=ROWS[row])))
            except httpx.ConnectError:
                self.unsent += 1
                await asyncio.sleep(0.01)
            except httpx.TransportError as error:
                self.failures.append(error)

    async def until(self, answers: int) -> None:
        while len(self.answers) < answers:  # noqa: ASYNC110 (every answer would have to set an event)
            await asyncio.sleep(0.01)


async def _promote_back_and_forth(server: Server, project: Project) -> Load:
    registry = registry_of(project)
    async with Load(server) as load:
        for turn in range(6):
            version = "12"[turn % 2]
            await asyncio.to_thread(registry.set_alias, CHAMPION, version)
            await asyncio.to_thread(wait_for_version, server.client, version)
            await load.until(len(load.answers) + 200)
    return load


@pytest.mark.slow
def test_each_answer_comes_from_the_version_that_it_names(
    project: Project, tmp_path: Path, inside: Callable[[Project], None]
) -> None:
    inside(project)
    project.set_params({"train.hist_gradient_boosting.max_iter": 30})
    for stage in ("5.train_model", "7.register_model"):  # the gates are not the point here
        assert run_script(project, f"4.dvc_pipeline/{stage}.py") == 0
    registry = registry_of(project)
    expected: dict[str, list[dict[str, Any]]] = {}
    for version in ("1", "2"):
        registry.set_alias(CHAMPION, version)
        sync(project, tmp_path / version)
        with running(project, *LONE, MODEL_CACHE=str(tmp_path / version)) as server:
            expected[version] = [server.client.post("/predict", json=row).json() for row in ROWS]
    assert all(one != other for one, other in zip(*expected.values(), strict=True))
    with running(project, *SERVE, "--workers", "2", MODEL_CACHE=str(tmp_path / "2"), **PATIENT) as server:
        load = asyncio.run(_promote_back_and_forth(server, project))
    assert not load.failures
    named: Counter[str] = Counter()
    for row, answer in load.answers:
        assert answer.status_code == 200
        body = answer.json()
        named[body["model_version"]] += 1
        assert body == expected[body["model_version"]][row]
    assert set(named) == {"1", "2"}


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_under_load_loses_nothing(finished: Project, cache: Path, workers: str) -> None:
    async def stop_in_the_middle(server: Server) -> Load:
        async with Load(server) as load:
            await load.until(500)
            server.process.send_signal(signal.SIGTERM)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as probe:
                with suppress(httpx.TransportError):  # as a load balancer checks it, until it is not ready
                    while (await probe.get("/readyz", headers={"connection": "close"})).is_success:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
            load.stop()
        return load

    environment = {"MODEL_CACHE": str(cache), "DRAIN_SECONDS": "1"} | PATIENT
    with running(finished, *SERVE, "--workers", workers, **environment) as server:
        load = asyncio.run(stop_in_the_middle(server))
        assert server.process.wait(20) in {0, -signal.SIGTERM}
    assert not load.failures
    assert {answer.status_code for _, answer in load.answers} == {200}
    assert len(load.answers) >= 500


@pytest.mark.slow
def test_sigkill_of_a_worker_loses_at_most_what_it_had_in_flight_and_it_comes_back(
    finished: Project, cache: Path
) -> None:
    async def kill_in_the_middle(server: Server) -> Load:
        async with Load(server) as load:
            await load.until(300)
            victim = workers(server)[0]
            victim.kill()
            await load.until(600)
            await asyncio.to_thread(wait_for_replacement, server, victim)
            await load.until(len(load.answers) + 300)
        return load

    with running(finished, *SERVE, "--workers", "2", MODEL_CACHE=str(cache), **PATIENT) as server:
        wait_until(lambda: len(workers(server)) == 2, "two workers")
        load = asyncio.run(kill_in_the_middle(server))
        assert len(load.failures) <= CLIENTS
        assert {answer.status_code for _, answer in load.answers} == {200}
        wait_until(lambda: "http_requests_in_flight 0.0" in server.client.get("/metrics").text, "nothing in flight")


def test_metrics_and_log_keep_what_a_killed_worker_has_answered(finished: Project, cache: Path, tmp_path: Path) -> None:
    def count(server: Server) -> float:
        lines = server.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("prediction_probability_count"))

    def logged() -> int:
        return sum(path.read_text().count("\n") for path in tmp_path.glob("log/*/*.jsonl"))

    environment = {"MODEL_CACHE": str(cache), "PREDICTION_LOG": str(tmp_path / "log")} | PATIENT
    with running(finished, *SERVE, "--workers", "2", **environment) as server:
        wait_until(lambda: len(workers(server)) == 2, "two workers")
        for _ in range(40):  # new connections, so that both workers get some
            assert server.client.post("/predict", json=EXAMPLE, headers={"connection": "close"}).is_success
        wait_until(lambda: count(server) == 40 == logged(), "all predictions to be counted and logged")
        victim = workers(server)[0]
        victim.kill()
        wait_for_replacement(server, victim)
        assert count(server) == 40 == logged()
        assert server.client.post("/predict", json=EXAMPLE, headers={"connection": "close"}).is_success
        wait_until(lambda: count(server) == 41 == logged(), "one more prediction to be counted and logged")


def workers(server: Server) -> list[psutil.Process]:
    return list(filter(is_worker, psutil.Process(server.process.pid).children()))


def is_worker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):  # it has ended, or is a zombie
        return "spawn_main" in " ".join(process.cmdline())
    return False


def wait_for_replacement(server: Server, victim: psutil.Process) -> None:
    wait_until(lambda: len(found := workers(server)) == 2 and victim not in found, "the worker to come back", 30)


def test_beyond_the_limit_requests_are_shed_and_health_is_not(finished: Project, cache: Path) -> None:
    with running(finished, *LONE, MODEL_CACHE=str(cache), MAX_IN_FLIGHT="3") as server:
        body = json.dumps(EXAMPLE).encode()
        head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        slow = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(3)]
        for connection in slow:
            connection.sendall(head % len(body))
        wait_until(lambda: "in_flight 3.0" in server.client.get("/metrics").text, "three requests in flight")
        shed = server.client.post("/predict", json=EXAMPLE)
        assert shed.status_code == 503
        assert shed.headers["retry-after"] == "1"
        assert "more requests than it can answer" in shed.json()["detail"]
        assert server.client.get("/readyz").status_code == 200
        for connection in slow:  # requests that were accepted are answered
            connection.sendall(body)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
            connection.close()
        assert server.client.post("/predict", json=EXAMPLE).status_code == 200


@pytest.mark.slow
def test_when_the_queue_is_too_long_requests_are_shed(finished: Project, cache: Path) -> None:
    async def send_many(server: Server) -> Load:
        async with Load(server, limits=httpx.Limits(max_connections=CLIENTS)) as load:
            await load.until(2000)
        return load

    with running(finished, *LONE, MODEL_CACHE=str(cache), MAX_QUEUE_SECONDS="0.000001") as server:
        load = asyncio.run(send_many(server))
    statuses = Counter(answer.status_code for _, answer in load.answers)
    assert set(statuses) <= {200, 503}
    assert statuses[503] > 0
    assert all(answer.headers["retry-after"] == "1" for _, answer in load.answers if answer.status_code == 503)


@pytest.mark.slow
def test_memory_is_flat_over_many_requests_with_log_and_shadow_model(
    finished: Project, cache: Path, tmp_path: Path
) -> None:
    body = json.dumps(EXAMPLE).encode()
    head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    at_once = 50  # requests sent before their answers are read

    def send(connection: socket.socket, requests: int) -> None:
        for _ in range(requests // at_once):
            connection.sendall((head % len(body) + body) * at_once)
            received = b""
            while received.count(b"HTTP/1.1 200 ") < at_once or not received.endswith(b"}"):
                part = connection.recv(1 << 20)
                assert part
                received += part

    served = model_cache.load(cache)
    (model,) = cache.rglob(model_cache.ONNX)
    files = {name: model.with_name(name) for name in (model_cache.ONNX, model_cache.REFERENCE_ROWS)}
    model_cache.install(cache / ".shadow", files, served.info | {"version": "2"})
    environment = {"MODEL_CACHE": str(cache), "PREDICTION_LOG": str(tmp_path / "log"), "SHADOW_ALIAS": "challenger"}
    with running(finished, *LONE, **environment, **PATIENT) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
            send(connection, 20_000)
            before = server.process.memory_info().rss
            send(connection, 200_000)
            after = server.process.memory_info().rss
        print(f"after 20,000 requests {before / 1e6:.1f} MB, after 200,000 more {after / 1e6:.1f} MB")
        assert after - before < 3e6
