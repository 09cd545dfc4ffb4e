"""The API over real HTTP, as a process of its own."""

import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import joblib
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from projects import Project, wait_until
from servers import EXAMPLE, KEY, KEYS, LONE, SERVE, Server, running, wait_until_ready

from credit_risk.contract import FIELDS, Choice
from credit_risk.data.splits import as_frame, as_records, read_holdout
from credit_risk.formats import skops_model
from credit_risk.model import default_probability
from credit_risk.registry.client import Registry

JSON, NDJSON = {"content-type": "application/json"}, {"content-type": "application/x-ndjson"}
LIMITS = {"MAX_BODY_BYTES": "4096", "MAX_BATCH_BYTES": "2000000", "MAX_BATCH_ROWS": "2500", "MAX_STREAM_ROWS": "3000"}


@pytest.fixture(scope="module")
def server(finished: Project, fetched: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in production, with a key."""
    cache = tmp_path_factory.mktemp("server") / "cache"
    shutil.copytree(fetched, cache)
    environment = LIMITS | {"APP_ENV": "production", "API_KEYS_SHA256": f"{'0' * 64},{KEYS}", "MODEL_CACHE": str(cache)}
    environment |= {"REQUEST_TIMEOUT_SECONDS": "1"}
    with running(finished, *SERVE, **environment) as server:
        server.client.headers["x-api-key"] = KEY
        wait_until(lambda: server.client.get("/readyz").json() == {"detail": "serving version 1"}, "the keeper")
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> httpx.Client:
    """A client that has the key."""
    return server.client


def test_example_gets_a_prediction(client: httpx.Client) -> None:
    answer = client.post("/predict", json=EXAMPLE)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"schema_version", "probability_of_default", "decision", "threshold", "model_version"}
    assert 0 < body["probability_of_default"] < 1
    assert (body["schema_version"], body["model_version"]) == (1, "1")
    assert body["decision"] == ("refuse" if body["probability_of_default"] >= body["threshold"] else "approve")


def test_held_out_loans_get_the_pipelines_probabilities_one_by_one_and_in_batches(
    client: httpx.Client, finished: Project, inside: Callable[[Project], None]
) -> None:
    inside(finished)
    pipeline = joblib.load(finished.path("1.data", "5.model", "model.joblib"))
    for side in ("test", "out_of_time"):
        holdout = read_holdout(side)
        expected = default_probability(pipeline, holdout.features)
        rows = as_records(holdout.applications)
        singles = [client.post("/predict", json=row).json() for row in rows[:300]]
        batch = client.post("/predict/batch", json=rows).json()
        stream = client.post("/predict/batch", content="\n".join(map(json.dumps, rows)), headers=NDJSON)
        lines = [json.loads(line) for line in stream.text.splitlines()]
        assert len(batch["results"]) == len(lines) == len(rows) > 500
        for answers in (singles, batch["results"], lines):
            served = np.array([answer["probability_of_default"] for answer in answers])
            assert np.abs(served - expected[: len(served)]).max() <= 1e-6
        assert {answer["decision"] for answer in lines} == {"approve", "refuse"}
        assert [line["decision"] for line in lines] == [result["decision"] for result in batch["results"]]


def applications() -> st.SearchStrategy[dict[str, Any]]:
    """Any valid application."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in FIELDS:
        value: st.SearchStrategy[Any]
        if isinstance(field, Choice):
            value = st.sampled_from(field.choices)
        elif field.whole:
            value = st.integers(int(field.minimum), int(field.maximum)).map(float)
        else:
            value = st.floats(field.minimum, field.maximum)
        fields[field.name] = value if field.required else st.none() | value
    return st.fixed_dictionaries(fields).filter(lambda row: row["sba_guaranteed"] <= row["gross_approved"])


@pytest.fixture(scope="module")
def registered(finished: Project) -> Any:
    """The registered scikit-learn form."""
    uri = f"sqlite:///{finished.path('3.experiments', 'mlflow.db')}"
    from credit_risk.core.settings import Settings

    return skops_model.load(Registry(Settings(mlflow_tracking_uri=uri)).download("1"))


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(applications(), min_size=1, max_size=20))
def test_any_valid_application_gets_one_probability_by_every_way(
    client: httpx.Client, registered: Any, rows: list[dict[str, Any]]
) -> None:
    expected = default_probability(registered, as_frame(rows))
    singles = [client.post("/predict", json=row).json()["probability_of_default"] for row in rows]
    batch = [result["probability_of_default"] for result in client.post("/predict/batch", json=rows).json()["results"]]
    assert np.abs(np.array(singles) - expected).max() <= 1e-6
    assert np.abs(np.array(batch) - expected).max() <= 1e-6


def test_missing_is_the_same_as_null(client: httpx.Client) -> None:
    required = {field.name: field.example for field in FIELDS if field.required}
    nulls = required | {field.name: None for field in FIELDS if not field.required}
    assert client.post("/predict", json=required).json() == client.post("/predict", json=nulls).json()


@pytest.mark.parametrize(
    ("body", "field", "value_type", "rule"),
    [
        (EXAMPLE | {"employees": "5"}, "employees", "string", "must be a whole number from 0 to 9,999"),
        (EXAMPLE | {"employees": True}, "employees", "boolean", "must be a whole number from 0 to 9,999"),
        (EXAMPLE | {"employees": None}, "employees", "null", "must be a whole number from 0 to 9,999"),
        (EXAMPLE | {"employees": -1}, "employees", "number", "must be a whole number from 0 to 9,999"),
        (EXAMPLE | {"state": "ZZ"}, "state", "string", "must be one of AL, AK, AZ, … or null"),
        (EXAMPLE | {"state": ["AL"]}, "state", "array", "must be one of AL, AK, AZ, … or null"),
        (EXAMPLE | {"Term": 60}, "Term", "number", "is unknown at approval: it was rewritten when a loan failed"),
        (EXAMPLE | {"colour": {}}, "colour", "object", "is not in the contract"),
        (EXAMPLE | {"sba_guaranteed": 1e6}, "sba_guaranteed", "number", "must not be above gross_approved"),
        ({k: v for k, v in EXAMPLE.items() if k != "employees"}, "employees", "missing", "is missing; it must be a"),
        ([EXAMPLE], "", "array", "must be a JSON object with one application"),
        ("text", "", "string", "must be a JSON object with one application"),
        (None, "", "null", "must be a JSON object with one application"),
    ],
    ids=range(13),
)
def test_broken_contract_is_422_and_names_field_type_and_rule(
    client: httpx.Client, body: Any, field: str, value_type: str, rule: str
) -> None:
    answer = client.post("/predict", content=json.dumps(body), headers=JSON)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert (document["type"], document["status"]) == ("about:blank", 422)
    assert document["request_id"] == answer.headers["x-request-id"]
    (error,) = document["errors"]
    assert (error["field"], error["value_type"]) == (field, value_type)
    assert error["rule"].startswith(rule)
    assert rule in document["detail"]


def test_every_broken_field_is_named_at_once(client: httpx.Client) -> None:
    document = client.post("/predict", json={"employees": -1, "term": 5}).json()
    named = {error["field"] for error in document["errors"]}
    assert named == {"gross_approved", "sba_guaranteed", "employees", "franchise", "term"}


TEXT = json.dumps(EXAMPLE)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "is not JSON"),
        (b"{", 400, "is not JSON"),
        (b"\xff\xfe" + TEXT.encode("utf-16-le"), 400, "is not JSON"),
        (TEXT.encode("utf-16"), 400, "is not JSON"),
        (b"\xef\xbb\xbf" + TEXT.encode(), 400, "is not JSON"),
        (TEXT.replace('"AR"', '"\xe4"').encode("latin-1"), 400, "is not JSON"),
        (TEXT.replace('"AR"', '"\\ud800"').encode(), 400, "is not JSON"),
        (TEXT.replace("137300.0", "NaN").encode(), 422, "gross_approved"),
        (TEXT.replace("137300.0", "-Infinity").encode(), 422, "gross_approved"),
        (TEXT.replace("137300.0", "1e999").encode(), 422, "gross_approved"),
        (TEXT.replace("137300.0", "1" + "0" * 400).encode(), 422, "gross_approved"),
        (TEXT.replace('"state"', '"state": "AL", "state"').encode(), 400, "twice"),
        (TEXT.replace('"state"', '"state": "AL", "st\\u0061te"').encode(), 400, "twice"),
        (b"[" * 4_000, 400, "is not JSON"),
        (b'{"a":' * 600 + b"1" + b"}" * 600, 400, "is not JSON"),
        (TEXT.encode() + b" " * 5_000, 413, "4,096 bytes"),
    ],
    ids=range(16),
)
def test_strange_bodies_are_refused_and_say_why(client: httpx.Client, body: bytes, status: int, says: str) -> None:
    answer = client.post("/predict", content=body, headers=JSON)
    assert answer.status_code == status
    assert says in answer.json()["detail"]


@pytest.mark.parametrize("kind", ["text/csv", "application/x-www-form-urlencoded", "application/json; charset=utf-16"])
def test_other_media_types_are_415(client: httpx.Client, kind: str) -> None:
    assert client.post("/predict", content=TEXT, headers={"content-type": kind}).status_code == 415
    assert client.post("/predict/batch", content=f"[{TEXT}]", headers={"content-type": kind}).status_code == 415


def test_media_type_may_name_its_charset(client: httpx.Client) -> None:
    kind = {"content-type": "Application/JSON; charset=UTF-8"}
    assert client.post("/predict", content=TEXT, headers=kind).status_code == 200


def test_a_body_without_a_length_is_limited_too(client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    assert client.post("/predict", content=chunks(), headers=JSON).status_code == 413


def test_a_body_that_does_not_come_is_408(server: Server) -> None:
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-type: application/json\r\n"
    for path in ("/predict", "/predict/batch"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(f"{head}content-length: 100\r\n\r\n{{".replace("/predict", path).encode())
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_bad_rows_of_a_batch_do_not_sink_the_rest(client: httpx.Client) -> None:
    rows = [EXAMPLE, EXAMPLE | {"state": "ZZ"}, 5, None, EXAMPLE | {"sba_guaranteed": 1e6}, EXAMPLE]
    alone = client.post("/predict", json=EXAMPLE).json()
    answer = client.post("/predict/batch", json=rows)
    assert answer.status_code == 200
    body = answer.json()
    assert (body["model_version"], body["threshold"], body["schema_version"]) == ("1", alone["threshold"], 1)
    for good in (body["results"][0], body["results"][5]):
        assert good == {name: alone[name] for name in ("probability_of_default", "decision")}
    wrong = [[error["field"] for error in result["errors"]] for result in body["results"][1:5]]
    assert wrong == [["state"], [""], [""], ["sba_guaranteed"]]


def test_bad_lines_of_a_stream_do_not_sink_the_rest(client: httpx.Client) -> None:
    content = f'{TEXT}\r\n\n{{oops\n{TEXT[:-1]}, "state": "AL"}}\n[]\n{TEXT}'
    answer = client.post("/predict/batch", content=content, headers=NDJSON)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert lines[0] == lines[4] == client.post("/predict", json=EXAMPLE).json()
    rules = [line["errors"][0]["rule"] for line in lines[1:4]]
    assert rules[0].startswith("is not JSON")
    assert rules[1:] == ["names a field twice", "must be a JSON object with one application"]


@pytest.mark.parametrize("body", [b"", b"{}", b"5", b"[", TEXT.encode(), f'[{TEXT[:-1]}, "state": 1}}]'.encode()])
def test_a_batch_that_is_no_list_is_400(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/predict/batch", content=body, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith("the body")


def test_an_empty_batch_has_no_results(client: httpx.Client) -> None:
    assert client.post("/predict/batch", json=[]).json()["results"] == []
    assert client.post("/predict/batch", content=b"\n", headers=NDJSON).text == ""


def test_large_batches_are_413(client: httpx.Client) -> None:
    too_many = client.post("/predict/batch", json=[{}] * 2_501)
    assert (too_many.status_code, "2,500" in too_many.json()["detail"]) == (413, True)
    assert client.post("/predict/batch", json=[5] * 2_501).status_code == 413
    assert client.post("/predict/batch", content=b" " * 2_000_001, headers=JSON).status_code == 413


def test_a_million_wrong_rows_or_fields_take_no_memory(server: Server) -> None:
    before = server.process.memory_info().rss
    rows = b"[" + b"1," * 900_000 + b"1]"
    fields = b"[{" + b",".join(b'"f%d":1' % number for number in range(30_000)) + b"}]"
    assert server.client.post("/predict/batch", content=rows, headers=JSON).status_code == 413
    (result,) = server.client.post("/predict/batch", content=fields, headers=JSON).json()["results"]
    assert result["errors"][0]["rule"] == "must not have more than 52 fields"
    assert server.process.memory_info().rss - before < 50e6


def test_a_stream_beyond_the_limit_ends_with_the_reason(client: httpx.Client) -> None:
    answer = client.post("/predict/batch", content=f"{TEXT}\n" * 4_000, headers=NDJSON)
    last = json.loads(answer.text.splitlines()[-1])
    assert last["errors"][0]["rule"] == "a stream must not have more than 3,000 applications"
    long_line = client.post("/predict/batch", content=b" " * 5_000, headers=NDJSON)
    assert "4,096 bytes" in json.loads(long_line.text)["errors"][0]["rule"]


def test_a_stream_is_answered_while_it_is_being_sent(server: Server) -> None:
    line = f"{TEXT}\n".encode()
    head = (
        f"POST /predict/batch HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-type: application/x-ndjson\r\n"
        "transfer-encoding: chunked\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head.encode() + b"%x\r\n%s\r\n" % (len(line), line))
        received = b""
        while b"probability_of_default" not in received:  # though the request has not ended
            received += connection.recv(4096)
        connection.sendall(b"0\r\n\r\n")


def test_an_explanation_adds_up_and_names_what_raised_the_risk(client: httpx.Client) -> None:
    for example in client.get("/examples").json():
        row = example["application"]
        plain = client.post("/predict", json=row).json()
        assert client.post("/predict?explain=false", json=row).json() == plain
        answer = client.post("/predict", params={"explain": "true"}, json=row).json()
        explanation = answer.pop("explanation")
        assert answer == plain
        total = explanation["reference_log_odds"] + sum(it["log_odds"] for it in explanation["contributions"])
        assert 1 / (1 + np.exp(-total)) == pytest.approx(plain["probability_of_default"], abs=1e-5)
        raising = [it["fields"] for it in explanation["contributions"] if it["log_odds"] > 0]
        assert explanation["reasons"] == [name for fields in raising[:4] for name in fields]
    assert client.post("/predict?explain=perhaps", json=EXAMPLE).status_code == 422
    assert client.post("/predict?explain=true", json={}).json()["errors"]
    assert client.post("/predict?explain=true", content=b"[" * 9_000, headers=JSON).status_code == 413


def test_model_tells_version_lineage_and_gates(client: httpx.Client, finished: Project) -> None:
    about = client.get("/model").json()
    registered = json.loads(finished.path("1.data", "7.registered", "model.json").read_text())
    assert about["version"] == "1"
    assert about["lineage_key"] == registered["lineage_key"]
    assert about["onnx_sha256"] == registered["onnx_sha256"]
    assert set(about["gate"]) >= {"auc", "calibration", "leak"}
    assert about["promoted"].endswith("Z")
    assert about["loaded_since"].startswith("20")


def test_contract_and_examples_are_what_a_form_needs(client: httpx.Client) -> None:
    contract = client.get("/contract").json()
    assert [field["name"] for field in contract["fields"]] == [field.name for field in FIELDS]
    assert contract["key_required"] is True
    examples = client.get("/examples").json()
    scores = [
        client.post("/predict", json=example["application"]).json()["probability_of_default"] for example in examples
    ]
    assert len(scores) == 3
    assert scores == sorted(scores)


def test_health(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"detail": "alive"}
    assert client.get("/readyz").json() == {"detail": "serving version 1"}


PROTECTED = [("POST", "/predict"), ("POST", "/predict/batch"), ("GET", "/model"), ("GET", "/examples")]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize("key", [None, "", "wrong", KEYS, KEY[:-1]])
def test_without_a_key_nothing_is_told(server: Server, method: str, path: str, key: str | None) -> None:
    headers = {} if key is None else {"x-api-key": key}
    answer = httpx.request(method, f"http://127.0.0.1:{server.port}{path}", json=EXAMPLE, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["detail"] == "X-API-Key is missing or unknown"
    assert "www-authenticate" in answer.headers


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/contract", "/docs", "/openapi.json"])
def test_these_need_no_key(server: Server, path: str) -> None:
    assert httpx.get(f"http://127.0.0.1:{server.port}{path}").status_code == 200


def test_unknown_paths_and_methods_are_problems_too(client: httpx.Client) -> None:
    for answer, status in ((client.get("/nowhere"), 404), (client.get("/predict"), 405)):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert client.get("/predict").headers["allow"] == "POST"


def test_request_id_comes_back_and_stands_in_the_log_without_secrets(server: Server) -> None:
    mine = {"x-request-id": "trace-me.1"}
    answer = server.client.post("/predict", json=EXAMPLE | {"state": "hidden"}, headers=mine)
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "trace-me.1"
    made_up = server.client.get("/livez", headers={"x-request-id": "no good: {}" * 9}).headers["x-request-id"]
    assert made_up.isascii()
    assert " " not in made_up
    line = wait_until(
        lambda: next((line for line in server.lines() if line.get("request_id") == "trace-me.1"), None), "the log"
    )
    assert (line["status"], line["path"], line["level"]) == (422, "/predict", "info")
    assert line["detail"].startswith("state must be one of")
    log = server.log.read_text()
    assert KEY not in log
    assert "hidden" not in log


def test_no_server_banner_and_no_cors(client: httpx.Client) -> None:
    headers = client.post("/predict", json=EXAMPLE, headers={"origin": "https://example.com"}).headers
    assert "server" not in headers
    assert not [name for name in headers if name.startswith("access-control")]


def test_openapi_has_the_contract_and_a_realistic_example(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    schema = document["components"]["schemas"]["LoanApplication"]
    assert list(schema["properties"]) == [field.name for field in FIELDS]
    assert client.post("/predict", json=schema["example"]).status_code == 200
    responses = document["paths"]["/predict"]["post"]["responses"]
    assert set(responses) == {"200", "400", "401", "408", "413", "415", "422", "503"}
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])


def test_metrics_count_what_was_asked(client: httpx.Client) -> None:
    def count(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    good, bad = (f'http_request_duration_seconds_count{{endpoint="/predict",status="{code}"}}' for code in (200, 422))
    before = count(good), count(bad), count("credit_risk_probability_of_default_count")
    for _ in range(3):
        client.post("/predict", json=EXAMPLE)
    client.post("/predict", json={})
    client.post("/predict/batch", json=[EXAMPLE, {}])
    assert count(good) - before[0] == 3
    assert count(bad) - before[1] == 1
    assert count("credit_risk_probability_of_default_count") - before[2] == 4
    assert count('credit_risk_model_info{version="1"}') == 1
    assert count('credit_risk_champion_checks_total{result="unchanged"}') >= 1
    for number in range(50):
        client.get(f"/nowhere/{number}")
    assert "/nowhere" not in client.get("/metrics").text


def test_example_file_is_the_contracts() -> None:
    example = Path(__file__).parents[1] / "6.production" / "example.json"
    assert json.loads(example.read_text()) == EXAMPLE


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"APP_ENV": "production"}, "needs API_KEYS_SHA256"),
        ({"APP_ENV": "production", "API_KEYS_SHA256": ","}, "needs API_KEYS_SHA256"),
        ({"API_KEYS_SHA256": "my key in clear"}, "API_KEYS_SHA256 must be SHA-256 digests"),
        (
            {
                "APP_ENV": "production",
                "API_KEYS_SHA256": "057ba03d6c44104863dc7361fe4578965d1887360f90a0895882e58a6248fc86",
            },
            "holds a placeholder",
        ),
        ({"MAX_IN_FLIGHT": "0"}, "MAX_IN_FLIGHT Input should be greater than 0"),
    ],
    ids=range(5),
)
def test_unsafe_settings_do_not_start(finished: Project, environment: dict[str, str], says: str) -> None:
    result = finished.run("6.production/serve.py", check=False, **environment)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("serve: ")
    assert says in result.stderr
    assert "in clear" not in result.stderr


def test_a_new_key_works(finished: Project, tmp_path: Path) -> None:
    words = finished.run("6.production/new_api_key.py").stdout.split()
    key, digest = words[4], words[9]
    with running(finished, *LONE, MODEL_CACHE=str(tmp_path), API_KEYS_SHA256=digest) as server:
        assert server.client.get("/model").status_code == 401
        assert server.client.get("/model", headers={"x-api-key": key}).status_code == 503  # no model


def test_cors_is_open_to_whom_it_is_opened(finished: Project) -> None:
    with running(finished, *LONE, CORS_ORIGINS="https://bank.example") as server:
        for origin, allowed in (("https://bank.example", True), ("https://other.example", False)):
            headers = server.client.get("/livez", headers={"origin": origin}).headers
            assert ("access-control-allow-origin" in headers) is allowed


def test_all_requests_are_logged_on_demand(finished: Project) -> None:
    with running(finished, *LONE, LOG_REQUESTS="all") as server:
        server.client.get("/contract")
        wait_until(lambda: {"/livez", "/contract"} <= {line.get("path") for line in server.lines()}, "the log")


def test_without_a_model_it_lives_and_is_not_ready(fresh: Project) -> None:
    with running(fresh, *SERVE) as server:
        assert server.client.get("/livez").status_code == 200
        for answer in (
            server.client.get("/readyz"),
            server.client.get("/model"),
            server.client.post("/predict", json=EXAMPLE),
            server.client.post("/predict/batch", json=[EXAMPLE]),
        ):
            assert answer.status_code == 503
            assert answer.json()["detail"] == "no model has been fetched yet"
            assert answer.headers["retry-after"]


def test_serve_without_a_champion_says_what_to_do(fresh: Project) -> None:
    result = fresh.run("main.py", "serve", check=False)
    assert result.returncode == 1
    assert "has no champion yet; run `uv run main.py` first" in result.stderr


def test_main_serves_with_several_workers(finished: Project) -> None:
    with running(finished, "main.py", "serve", "--workers", "2") as server:
        wait_until_ready(server)
        assert server.client.post("/predict", json=EXAMPLE).status_code == 200


def test_api_process_imports_no_training_library_and_never_unpickles(finished: Project, cache: Path) -> None:
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
    example = json.load(open("6.production/example.json"))
    assert client.post("/predict", json=example).status_code == 200
    assert client.post("/predict/batch", json=[example]).status_code == 200
heavy = {"pandas", "sklearn", "mlflow", "pandera", "pyarrow", "scipy", "joblib", "skops", "onnx"} & set(sys.modules)
assert not heavy, heavy
"""
    finished.run("-c", code, MODEL_CACHE=str(cache))
