"""The API over real HTTP, as a process of its own."""

import json
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import joblib
import numpy as np
import pytest
from projects import Project, wait_until

from credit_risk.contract import FIELDS
from credit_risk.holdout import as_records, read_holdout
from credit_risk.model import default_probability

EXAMPLE: dict[str, Any] = {field.name: field.example for field in FIELDS}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def serving(project: Project, *command: str, **environment: str) -> Iterator[httpx.Client]:
    """Runs a server of the project on a free port and gives a client of it, once it answers."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        port = free_port()
        server = subprocess.Popen(
            [*project.command(*command), "--port", str(port)],
            cwd=project.root,
            env=project.environment | {"MODEL_CACHE": f"{folder}/cache"} | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
                wait_until_alive(server, client)
                client.headers["x-log"] = log.name
                yield client
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(10) in {0, -signal.SIGTERM}


def wait_until_alive(server: "subprocess.Popen[bytes]", client: httpx.Client) -> None:
    def alive() -> bool:
        assert server.poll() is None, "the server has ended"
        with suppress(httpx.TransportError):
            return client.get("/livez").is_success
        return False

    wait_until(alive, "the server to answer")


UVICORN = ("-m", "uvicorn", "--app-dir", "6.production", "app:app", "--log-level", "warning")


@pytest.fixture(scope="module")
def client(finished: Project) -> Iterator[httpx.Client]:
    """A client of `main.py serve`."""
    with serving(finished, "main.py", "serve") as client:
        yield client


def test_example_gets_a_prediction(client: httpx.Client) -> None:
    answer = client.post("/predict", json=EXAMPLE)
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"probability_of_default", "decision", "threshold", "model_version"}
    assert 0 < body["probability_of_default"] < 1
    assert body["model_version"] == "1"
    assert body["decision"] == ("refuse" if body["probability_of_default"] >= body["threshold"] else "approve")


def test_held_out_loans_get_the_pipelines_probabilities(
    client: httpx.Client, finished: Project, inside: Callable[[Project], None]
) -> None:
    inside(finished)
    pipeline = joblib.load(finished.path("1.data", "5.model", "model.joblib"))
    for side in ("test", "out_of_time"):
        holdout = read_holdout(side)
        expected = default_probability(pipeline, holdout.features)
        answers = [client.post("/predict", json=row).json() for row in as_records(holdout.applications)]
        served = np.array([answer["probability_of_default"] for answer in answers])
        assert len(served) > 500
        assert np.abs(served - expected).max() <= 1e-6
        decisions = {answer["decision"] for answer in answers}
        assert decisions == {"approve", "refuse"}


def test_missing_is_the_same_as_null(client: httpx.Client) -> None:
    required = {field.name: field.example for field in FIELDS if field.required}
    nulls = required | {field.name: None for field in FIELDS if not field.required}
    assert client.post("/predict", json=required).json() == client.post("/predict", json=nulls).json()


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        (EXAMPLE | {"employees": "5"}, "employees", "must be a whole number from 0 to 9,999"),
        (EXAMPLE | {"employees": -1}, "employees", "must be a whole number from 0 to 9,999"),
        (EXAMPLE | {"state": "ZZ"}, "state", "must be one of AL, AK, AZ, … or null"),
        (EXAMPLE | {"Term": 60}, "Term", "is unknown at approval: it was overwritten with the loan's real life"),
        (EXAMPLE | {"colour": "red"}, "colour", "is not in the contract"),
        (EXAMPLE | {"sba_guaranteed": 1e6}, "sba_guaranteed", "must not be above gross_approved"),
        ([EXAMPLE], "", "the body must be a JSON object with one application"),
        ("text", "", "the body must be a JSON object with one application"),
        (None, "", "the body must be a JSON object with one application"),
    ],
    ids=range(9),
)
def test_bad_input_is_422_and_names_field_and_reason(client: httpx.Client, body: Any, field: str, reason: str) -> None:
    answer = client.post("/predict", json=body)
    assert answer.status_code == 422
    (problem,) = answer.json()["detail"]
    assert problem["field"] == field
    assert problem["reason"].startswith(reason)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        json.dumps(EXAMPLE).replace("137300.0", "NaN").encode(),
        json.dumps(EXAMPLE).replace("137300.0", "Infinity").encode(),
        json.dumps(EXAMPLE).replace("137300.0", "1e999").encode(),
        json.dumps(EXAMPLE).replace("137300.0", "1" + "0" * 400).encode(),
        b"[" * 100_000,
    ],
    ids=range(8),
)
def test_strange_bodies_are_4xx(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500
    assert answer.json()["detail"]


def test_every_broken_field_is_named_at_once(client: httpx.Client) -> None:
    answer = client.post("/predict", json={"employees": -1, "term": 5})
    named = {problem["field"] for problem in answer.json()["detail"]}
    assert named == {"gross_approved", "sba_guaranteed", "employees", "franchise", "term"}


def test_model_tells_version_lineage_and_gates(client: httpx.Client, finished: Project) -> None:
    about = client.get("/model").json()
    registered = json.loads(finished.path("1.data", "7.registered", "model.json").read_text())
    assert about["version"] == "1"
    assert about["lineage_key"] == registered["lineage_key"]
    assert about["onnx_sha256"] == registered["onnx_sha256"]
    assert set(about["gate"]) >= {"auc", "calibration", "leak"}
    assert about["promoted"].endswith("Z")


def test_health(client: httpx.Client) -> None:
    assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
    assert client.get("/readyz").json() == {"detail": "serving version 1"}


def test_openapi_has_the_contract_and_a_realistic_example(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    schema = document["components"]["schemas"]["LoanApplication"]
    assert list(schema["properties"]) == [field.name for field in FIELDS]
    assert client.post("/predict", json=schema["example"]).status_code == 200
    assert set(document["paths"]["/predict"]["post"]["responses"]) == {"200", "422", "503"}


def test_example_file_is_the_contracts() -> None:
    example = Path(__file__).parents[1] / "6.production" / "example.json"
    assert json.loads(example.read_text()) == EXAMPLE


def test_without_a_model_it_lives_and_is_not_ready(finished: Project, tmp_path: Path) -> None:
    with serving(finished, *UVICORN, MODEL_CACHE=str(tmp_path / "empty")) as client:
        assert client.get("/livez").status_code == 200
        for answer in (client.get("/readyz"), client.get("/model"), client.post("/predict", json=EXAMPLE)):
            assert answer.status_code == 503
            assert "no model has been fetched yet" in answer.json()["detail"]


def fetch(project: Project, cache: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return project.run("6.production/fetch_champion.py", check=False, MODEL_CACHE=str(cache), **environment)


def test_damaged_cache_is_not_served(finished: Project, tmp_path: Path) -> None:
    assert fetch(finished, tmp_path).returncode == 0
    model = tmp_path / "1" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    with serving(finished, *UVICORN, MODEL_CACHE=str(tmp_path)) as client:
        assert client.get("/readyz").status_code == 503
        assert "damaged" in client.get("/readyz").json()["detail"] or "loaded" in client.get("/readyz").json()["detail"]


def test_edited_champion_is_refused_and_the_last_good_one_stays(project: Project, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert fetch(project, cache).returncode == 0
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    for model in project.path("3.experiments", "artifacts").rglob("model.onnx"):
        model.write_bytes(model.read_bytes().replace(b"threshold", b"thresh0ld"))
    refused = fetch(project, cache)
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == before


def test_registry_down_serves_the_last_good_model_and_says_so(finished: Project, tmp_path: Path) -> None:
    assert fetch(finished, tmp_path).returncode == 0
    down = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with serving(finished, "main.py", "serve", MODEL_CACHE=str(tmp_path), **down) as client:
        assert client.post("/predict", json=EXAMPLE).status_code == 200
        assert "serving version 1 from the cache" in Path(client.headers["x-log"]).read_text()


def test_serve_without_a_champion_says_what_to_do(fresh: Project) -> None:
    result = fresh.run("main.py", "serve", check=False)
    assert result.returncode == 1
    assert "has no champion yet; run `uv run main.py` first" in result.stderr


def test_several_workers(finished: Project) -> None:
    with serving(finished, "main.py", "serve", "--workers", "2") as client:
        assert client.post("/predict", json=EXAMPLE).status_code == 200


def test_api_process_imports_no_training_library_and_never_unpickles(finished: Project, tmp_path: Path) -> None:
    code = """
import sys
sys.path.insert(0, "6.production")
import pickle
pickle.load = pickle.loads = pickle.Unpickler = None
from starlette.testclient import TestClient
import app
with TestClient(app.app) as client:
    assert client.get("/readyz").status_code == 200
    import json
    assert client.post("/predict", json=json.load(open("6.production/example.json"))).status_code == 200
heavy = {"pandas", "sklearn", "mlflow", "pandera", "pyarrow", "scipy", "joblib", "skops", "onnx"} & set(sys.modules)
assert not heavy, heavy
"""
    assert fetch(finished, tmp_path).returncode == 0
    finished.run("-c", code, MODEL_CACHE=str(tmp_path))
