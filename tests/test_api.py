"""The API over real HTTP, as a process of its own."""

import gzip
import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import joblib
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from projects import Project, wait_until
from pydantic import TypeAdapter
from rows import rows, valid_rows
from servers import EXAMPLE, KEY, KEYS, LONE, SERVE, Server, registry_of, running, wait_until_ready

from credit_risk.contract import CONTRACT
from credit_risk.core.schema import Name, Number
from credit_risk.data.splits import as_frame, as_records, read_holdout
from credit_risk.formats import skops_model
from credit_risk.model import positive_probability
from credit_risk.project.host import free_port
from credit_risk.serving.predictions import MAX_REASONS, BatchPrediction, ExplainedPrediction, Prediction

PROBLEM = CONTRACT.problem
FIELDS = len(CONTRACT.fields)
REQUIRED = [field.name for field in CONTRACT.fields if field.required]
JSON, NDJSON = {"content-type": "application/json"}, {"content-type": "application/x-ndjson"}
LIMITS = {"MAX_BODY_BYTES": "4096", "MAX_BATCH_BYTES": "2000000", "MAX_BATCH_ROWS": "2500", "MAX_STREAM_ROWS": "1100"}


@pytest.fixture(scope="module")
def server(finished: Project, fetched: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in production, with a key."""
    cache = tmp_path_factory.mktemp("server") / "cache"
    shutil.copytree(fetched, cache)
    environment = LIMITS | {"APP_ENV": "production", "API_KEYS_SHA256": f"{'0' * 64},{KEYS}", "MODEL_CACHE": str(cache)}
    environment |= {"REQUEST_TIMEOUT_SECONDS": "1", "MAX_BATCHES": "2"}
    environment |= {"INTERNAL_PORT": str(free_port())}
    with running(finished, *SERVE, "--root-path", "/scores", **environment) as server:
        server.client.headers["x-api-key"] = KEY
        server.internal = f"http://127.0.0.1:{environment['INTERNAL_PORT']}"
        wait_until(lambda: httpx.get(f"{server.internal}/status").json()["detail"] == "serving version 1", "model sync")
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> httpx.Client:
    """A client that has the key."""
    return server.client


def is_consistent(answer: dict[str, Any], threshold: float) -> bool:
    expected = PROBLEM.decline if answer["probability"] >= threshold else PROBLEM.accept
    return bool(0 <= answer["probability"] <= 1 and answer["decision"] == expected)


def test_example_gets_a_prediction(client: httpx.Client) -> None:
    answer = client.post("/predict", json=EXAMPLE)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert is_consistent(body, body["threshold"])
    assert (body["schema_version"], body["model_version"]) == (1, "1")


@pytest.mark.parametrize(
    ("path", "body", "schema"),
    [
        ("/predict", EXAMPLE, Prediction),
        ("/predict?explain=true", EXAMPLE, ExplainedPrediction),
        ("/predict/batch", [EXAMPLE, {}], BatchPrediction),
    ],
)
def test_responses_are_exactly_what_their_schemas_document(
    client: httpx.Client, path: str, body: Any, schema: Any
) -> None:
    content = client.post(path, json=body).content
    adapter = TypeAdapter(schema)
    assert adapter.dump_json(adapter.validate_json(content)) == content


def test_held_out_rows_get_the_pipelines_probabilities_one_by_one_and_in_batches(
    client: httpx.Client, finished: Project, inside: Callable[[Project], None]
) -> None:
    inside(finished)
    pipeline = joblib.load(finished.path("1.data", "5.model", "model.joblib"))
    for split in CONTRACT.holdouts:
        holdout = read_holdout(split)
        expected = positive_probability(pipeline, holdout.features)[:1000]
        records = as_records(holdout.rows)[:1000]
        singles = [client.post("/predict", json=row).json() for row in records[:100]]
        batch = client.post("/predict/batch", json=records).json()
        stream = client.post("/predict/batch", content="\n".join(map(json.dumps, records)), headers=NDJSON)
        lines = [json.loads(line) for line in stream.text.splitlines()]
        assert len(batch["results"]) == len(lines) == len(records)
        for answers in (singles, batch["results"], lines):
            served = np.array([answer["probability"] for answer in answers])
            assert np.abs(served - expected[: len(served)]).max() <= 1e-6
            assert all(is_consistent(answer, batch["threshold"]) for answer in answers)


@pytest.fixture(scope="module")
def registered(finished: Project) -> Any:
    """The registered scikit-learn pipeline."""
    return skops_model.load(registry_of(finished).download("1"))


@hypothesis_settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(rows(), min_size=1, max_size=10))
def test_any_valid_row_gets_one_probability_by_every_way(
    client: httpx.Client, registered: Any, batch: list[dict[str, Any]]
) -> None:
    expected = positive_probability(registered, as_frame(batch))
    singles = [client.post("/predict", json=row).json()["probability"] for row in batch]
    results = [result["probability"] for result in client.post("/predict/batch", json=batch).json()["results"]]
    assert np.abs(np.array(singles) - expected).max() <= 1e-6
    assert np.abs(np.array(results) - expected).max() <= 1e-6


def test_an_absent_optional_field_is_the_same_as_null(client: httpx.Client) -> None:
    required = {name: EXAMPLE[name] for name in REQUIRED}
    nulls = dict.fromkeys(EXAMPLE) | required
    assert client.post("/predict", json=required).json() == client.post("/predict", json=nulls).json()


def broken_rows() -> Iterator[tuple[Any, str, str, str]]:
    """Bodies with one problem each: the body, and the problem's field, value type and rule."""
    for field in CONTRACT.fields:
        values: list[tuple[Any, str]] = [("", "string"), (True, "boolean"), ([], "array"), ({}, "object")]
        values.append((field.minimum - 1 if isinstance(field, Number) else -1.0, "number"))
        if isinstance(field, Name):
            wrong = ("x" * (field.max_length + 1), "?", "a\x00b", "a\nb", "a\u202eb")
            values += [(text, "string") for text in wrong]
        if field.required:
            values.append((None, "null"))
            without = {name: value for name, value in EXAMPLE.items() if name != field.name}
            yield without, field.name, "missing", f"is missing; it {field.rule}"
        for value, kind in values:
            yield EXAMPLE | {field.name: value}, field.name, kind, field.rule
    for rule in CONTRACT.rules[:1]:
        numbers = {number.name: number for number in CONTRACT.numbers}
        broken = {rule.smaller: numbers[rule.smaller].maximum, rule.larger: numbers[rule.larger].minimum}
        yield EXAMPLE | broken, rule.smaller, "number", rule.rule
    for column in CONTRACT.not_fields:
        yield EXAMPLE | {column: 60}, column, "number", CONTRACT.rejection(column) or ""
    yield EXAMPLE | {"no_such_field": {}}, "no_such_field", "object", "is not in the contract"
    for body, kind in (([EXAMPLE], "array"), ("text", "string"), (None, "null"), (5, "number")):
        yield body, "", kind, f"must be a JSON object with one {PROBLEM.row}"


def test_a_row_that_breaks_the_contract_is_422_and_the_error_names_field_type_and_rule(client: httpx.Client) -> None:
    for body, field, value_type, rule in broken_rows():
        answer = client.post("/predict", content=json.dumps(body), headers=JSON)
        assert answer.status_code == 422, body
        assert answer.headers["content-type"] == "application/problem+json"
        document = answer.json()
        assert (document["type"], document["status"]) == ("about:blank", 422)
        assert document["request_id"] == answer.headers["x-request-id"]
        assert document["errors"] == [{"field": field, "value_type": value_type, "rule": rule}]
        assert rule in document["detail"]


def test_every_invalid_field_is_named_at_once(client: httpx.Client) -> None:
    document = client.post("/predict", json={"no_such_field": 5}).json()
    assert {error["field"] for error in document["errors"]} == {*REQUIRED, "no_such_field"}


FIRST = CONTRACT.field_names[0]
ESCAPED = "".join(f"\\u{ord(letter):04x}" for letter in FIRST)


def text(**values: str) -> str:
    """The example as JSON, with other JSON texts for some values."""
    return "{" + ", ".join(f'"{name}": {values.get(name, json.dumps(value))}' for name, value in EXAMPLE.items()) + "}"


TEXT = text()


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "is not JSON"),
        (b"{", 400, "is not JSON"),
        (b"\xff\xfe" + TEXT.encode("utf-16-le"), 400, "is not JSON"),
        (TEXT.encode("utf-16"), 400, "is not JSON"),
        (b"\xef\xbb\xbf" + TEXT.encode(), 400, "is not JSON"),
        (text(**{FIRST: '"\xe4"'}).encode("latin-1"), 400, "is not JSON"),
        (text(**{FIRST: '"\\ud800"'}).encode(), 400, "is not JSON"),
        *(
            (text(**{number.name: value}).encode(), 422, number.name)
            for number in CONTRACT.numbers[:1]
            for value in ("NaN", "-Infinity", "1e999", "1" + "0" * 400)
        ),
        (f"{TEXT[:-1]}, {TEXT[1:]}".encode(), 400, "twice"),
        (f'{TEXT[:-1]}, "{ESCAPED}": {json.dumps(EXAMPLE[FIRST])}}}'.encode(), 400, "twice"),
        (b"[" * 4_000, 400, "is not JSON"),
        (b'{"a":' * 600 + b"1" + b"}" * 600, 400, "is not JSON"),
        (TEXT.encode() + b" " * 5_000, 413, "4,096 bytes"),
    ],
)
def test_malformed_bodies_are_rejected_with_a_reason(client: httpx.Client, body: bytes, status: int, says: str) -> None:
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


@pytest.mark.parametrize("path", ["/predict", "/predict?explain=true", "/predict/batch"])
def test_a_body_that_does_not_arrive_is_408(server: Server, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(f"{head}content-length: 100\r\n\r\n{{".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_an_invalid_row_of_a_batch_gets_its_errors_and_the_others_their_predictions(client: httpx.Client) -> None:
    alone = client.post("/predict", json=EXAMPLE).json()
    answer = client.post("/predict/batch", json=[EXAMPLE, EXAMPLE | {FIRST: []}, 5, None, EXAMPLE])
    assert answer.status_code == 200
    body = answer.json()
    assert (body["model_version"], body["threshold"], body["schema_version"]) == ("1", alone["threshold"], 1)
    for valid in (body["results"][0], body["results"][4]):
        assert valid == {name: alone[name] for name in ("probability", "decision")}
    wrong = [(result["row"], [error["field"] for error in result["errors"]]) for result in body["results"][1:4]]
    assert wrong == [(2, [FIRST]), (3, [""]), (4, [""])]


def bad_texts() -> dict[str, tuple[bytes, str]]:
    """One row each that no parser takes for several, and what its error says."""
    return {
        "doubled key": (f"{TEXT[:-1]}, {TEXT[1:]}".encode(), "names a field twice"),
        "doubled escaped key": (f'{TEXT[:-1]}, "{ESCAPED}": {json.dumps(EXAMPLE[FIRST])}}}'.encode(), "twice"),
        "lone surrogate": (text(**{FIRST: '"\\ud800"'}).encode(), "is not JSON"),
        "5,000 digits": (text(**{FIRST: "1" * 5_000}).encode(), "is not JSON"),
        "5,000 digits in a doubled key": (f'{{"a": {"1" * 5_000}, "a": 1}}'.encode(), "is not JSON"),
        "not UTF-8": (text(**{FIRST: '"\xe4"'}).encode("latin-1"), "is not JSON"),
        "control character": (text(**{FIRST: '"\t"'}).encode(), "is not JSON"),
        "many fields": (json.dumps({f"f{number}": 1 for number in range(500)}).encode(), "must not have more than"),
    }


@pytest.mark.parametrize("name", bad_texts())
def test_a_row_that_is_no_row_fails_alone_with_its_number(client: httpx.Client, name: str) -> None:
    bad, says = bad_texts()[name]
    alone = client.post("/predict", json=EXAMPLE).json()
    good = TEXT.encode()
    batch = client.post("/predict/batch", content=b"[%s, %s , %s]" % (good, bad, good), headers=JSON).json()["results"]
    answers = [batch]
    if len(bad) < int(LIMITS["MAX_BODY_BYTES"]):  # otherwise the line is too long for a stream
        lines = client.post("/predict/batch", content=b"%s\n%s\n%s" % (good, bad, good), headers=NDJSON).text
        answers.append([json.loads(line) for line in lines.splitlines()])
    for results in answers:
        assert [result.get("probability") for result in results] == [alone["probability"], None, alone["probability"]]
        assert results[1]["row"] == 2
        assert says in results[1]["errors"][0]["rule"]


def test_rows_without_line_ends_are_told_how_to_send_them(client: httpx.Client) -> None:
    answer = client.post("/predict/batch", content=TEXT + TEXT, headers=NDJSON)
    (line,) = answer.text.splitlines()
    assert "--data-binary" in json.loads(line)["errors"][0]["rule"]
    long = client.post("/predict/batch", content=TEXT * 50, headers=NDJSON)
    assert "--data-binary" in json.loads(long.text)["errors"][0]["rule"]


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
def test_compressed_bodies_are_415(client: httpx.Client, path: str, encoding: str) -> None:
    answer = client.post(path, content=gzip.compress(TEXT.encode()), headers=JSON | {"content-encoding": encoding})
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "identity"
    assert "compressed" in answer.json()["detail"]


def test_the_callers_row_id_changes_nothing(client: httpx.Client) -> None:
    plain = client.post("/predict", json=EXAMPLE).json()
    assert client.post("/predict", json=EXAMPLE | {"row_id": "a:1"}).json() == plain
    batch = client.post("/predict/batch", json=[EXAMPLE | {"row_id": "a"}, EXAMPLE, EXAMPLE | {"row_id": ""}]).json()
    assert [result.get("probability") for result in batch["results"]] == [plain["probability"]] * 2 + [None]


def test_an_invalid_line_of_a_stream_gets_its_errors_and_the_others_their_predictions(client: httpx.Client) -> None:
    content = f"{TEXT}\r\n\n{{oops\n{TEXT[:-1]}, {TEXT[1:]}\n[]\n{TEXT}"
    answer = client.post("/predict/batch", content=content, headers=NDJSON)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert lines[0] == lines[4] == client.post("/predict", json=EXAMPLE).json()
    rules = [line["errors"][0]["rule"] for line in lines[1:4]]
    assert rules[0].startswith("is not JSON")
    assert rules[1:] == ["names a field twice", f"must be a JSON object with one {PROBLEM.row}"]


def test_a_row_that_no_parser_reads_fails_a_list_by_its_number_and_alone_in_a_stream(client: httpx.Client) -> None:
    deep = "[" * 1_100 + "]" * 1_100
    for bad, says in (("{oops", f"is not JSON: {PROBLEM.row} 2"), (deep, f"{PROBLEM.row} 2 is nested too deeply")):
        answer = client.post("/predict/batch", content=f"[{TEXT}, {bad}, {TEXT}]", headers=JSON)
        assert answer.status_code == 400
        assert says in answer.json()["detail"]
        lines = client.post("/predict/batch", content=f"{TEXT}\n{bad}\n{TEXT}", headers=NDJSON).text.splitlines()
        assert ["errors" in json.loads(line) for line in lines] == [False, True, False]


@pytest.mark.parametrize("body", [b"", b"{}", b"5", b"[", b"[5 5]", b"[5,]", b"[5]]", b"[" * 9_000, TEXT.encode()])
def test_a_batch_that_is_not_a_list_is_400(client: httpx.Client, body: bytes) -> None:
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


def test_commas_in_texts_and_numbers_of_fields_do_not_count_as_rows(client: httpx.Client) -> None:
    row = EXAMPLE | {"no_such_field": ",[{" * 100}
    rows = [row] * (1_500_000 // len(json.dumps(row))) + [EXAMPLE]  # below the limit of bytes
    answer = client.post("/predict/batch", json=rows)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["results"]) == len(rows)
    assert "probability" in answer.json()["results"][-1]


def test_a_million_invalid_rows_or_fields_take_no_memory(server: Server) -> None:
    before = server.process.memory_info().rss
    invalid_rows = b"[" + b"1," * 900_000 + b"1]"
    fields = b"[{" + b",".join(b'"f%d":1' % number for number in range(26_000)) + b"}]"
    assert server.client.post("/predict/batch", content=invalid_rows, headers=JSON).status_code == 413
    (result,) = server.client.post("/predict/batch", content=fields, headers=JSON).json()["results"]
    assert result["errors"][0]["rule"] == f"must not have more than {4 * FIELDS} fields"
    assert server.process.memory_info().rss - before < 50e6


def test_a_stream_beyond_the_limit_ends_with_the_reason(client: httpx.Client) -> None:
    answer = client.post("/predict/batch", content=f"{TEXT}\n" * 1_200, headers=NDJSON)
    last = json.loads(answer.text.splitlines()[-1])
    assert last["errors"][0]["rule"] == f"a stream must not have more than 1,100 {PROBLEM.rows}"
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
        while b'"probability"' not in received:  # before the request has ended
            received += connection.recv(4096)
        connection.sendall(b"0\r\n\r\n")


def receive_all(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65_536):
        received += part
    return received


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


HEAD = f"POST /predict HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-type: application/json\r\n".encode()
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nx: " + b"x" * 70_000,
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 15_000,
        b"GET /" + b"x" * 70_000,
        b"GET /livez HTTP/1.1\r\nx: " + b"x" * 70_000 + b"\r\n\r\n",
    ],
    ids=["value", "many", "target", "complete"],
)
def test_headers_without_an_end_are_431(server: Server, sent: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(sent)
        answer = receive_all(connection)
        assert b"HTTP/1.1 431 " in answer
        assert b"application/problem+json" in answer
        assert b"65,536 bytes" in answer


@pytest.mark.parametrize("end", [b"1;" + b"x" * 70_000, b"0\r\nx: " + b"x" * 70_000], ids=["extension", "trailer"])
def test_what_follows_a_part_of_a_body_has_a_limit_too(server: Server, end: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(CHUNKED + end)
        assert b"HTTP/1.1 200 " not in receive_all(connection)


@pytest.mark.parametrize("sent", [b"", b"GET", b"GET / HTTP/1.1\r\nhost:"])
def test_connections_that_never_finish_their_headers_are_closed(server: Server, sent: bytes) -> None:
    with connect(server) as connection:
        connection.sendall(sent)
        assert receive_all(connection).startswith(b"HTTP/1.1 408 ")


def test_nor_do_later_requests_of_a_connection_have_more_time(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        connection.sendall(b"\r\nG")
        assert receive_all(connection).count(b"HTTP/1.1 408 ") == 1


def test_what_is_not_http_gets_a_problem_document(server: Server) -> None:
    with connect(server) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        answer = receive_all(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["detail"] == "this is not a valid HTTP request"


def test_a_client_that_does_not_read_its_response_is_disconnected(server: Server) -> None:
    lines = f"{TEXT}\n".encode() * 1_000
    head = HEAD.replace(b"/predict", b"/predict/batch").replace(b"json", b"x-ndjson")
    # One request after the other: more responses than the buffers of the system take.
    requests = (head + b"content-length: %d\r\n\r\n" % len(lines) + lines) * 150
    with connect(server) as connection, pytest.raises(OSError, match=r"reset|pipe|abort"):
        connection.sendall(requests)


def test_streams_leave_the_places_of_single_predictions_and_end_when_they_are_silent(server: Server) -> None:
    head = HEAD.replace(b"/predict", b"/predict/batch").replace(b"json", b"x-ndjson")

    def status() -> int:
        return server.client.post("/predict/batch", content=TEXT, headers=NDJSON).status_code

    with connect(server) as one, connect(server) as two:
        for stream in (one, two):
            stream.sendall(head + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n")
        wait_until(lambda: status() == 503, "both places to be taken")
        assert server.client.post("/predict", json=EXAMPLE).status_code == 200
        wait_until(lambda: status() == 200, "the places to be free")
        for stream in (one, two):
            received = b""
            while b"did not arrive within 1 s" not in received:
                received += stream.recv(4096)


def test_an_explanation_adds_up_and_names_what_raises_the_risk(client: httpx.Client) -> None:
    for example in client.get("/examples").json():
        plain = client.post("/predict", json=example["row"]).json()
        assert client.post("/predict?explain=false", json=example["row"]).json() == plain
        answer = client.post("/predict", params={"explain": "true"}, json=example["row"]).json()
        explanation = answer.pop("explanation")
        assert answer == plain
        total = explanation["reference_log_odds"] + sum(it["log_odds"] for it in explanation["contributions"])
        assert 1 / (1 + np.exp(-total)) == pytest.approx(plain["probability"], abs=1e-5)
        raising = [it["fields"] for it in explanation["contributions"] if it["log_odds"] > 0]
        assert explanation["reasons"] == [name for fields in raising[:MAX_REASONS] for name in fields]
        assert len(explanation["sentences"]) == len(raising[:MAX_REASONS])
    assert client.post("/predict?explain=perhaps", json=EXAMPLE).status_code == 422
    assert client.post("/predict?explain=true", json=5).json()["errors"]
    assert client.post("/predict?explain=true", content=b"[" * 9_000, headers=JSON).status_code == 413


def test_model_has_version_lineage_and_gate_results(client: httpx.Client, finished: Project) -> None:
    info = client.get("/model").json()
    registered = json.loads(finished.path("1.data", "7.registered", "model.json").read_text())
    assert info["version"] == "1"
    assert info["lineage_key"] == registered["lineage_key"]
    assert info["onnx_sha256"] == registered["onnx_sha256"]
    assert set(info["gate"]) >= {"auc", "calibration", "leak"}
    assert info["promoted"].endswith("Z")
    assert info["loaded_since"].startswith("20")


def test_contract_and_examples_have_what_the_page_needs(client: httpx.Client) -> None:
    contract = client.get("/contract").json()
    for served, field in zip(contract["fields"], CONTRACT.fields, strict=True):
        assert (served["name"], served["rule"], served["example"]) == (field.name, field.rule, field.example)
        assert served["kind"] == type(field).__name__.lower()
        assert "column" not in served
    words = ("title", "question", "row", "rows", "event", "accept", "decline", "limits")
    assert [contract["problem"][word] for word in words[:-1]] == [getattr(PROBLEM, word) for word in words[:-1]]
    assert contract["problem"]["limits"] == list(PROBLEM.limits)
    assert contract["key_required"] is True
    examples = client.get("/examples").json()
    scores = [client.post("/predict", json=example["row"]).json()["probability"] for example in examples]
    assert len(scores) == 3
    assert scores == sorted(scores)


def test_health(client: httpx.Client) -> None:
    assert client.get("/livez").json() == {"detail": "alive"}
    assert client.get("/readyz").json() == {"detail": "ready"}


@pytest.mark.parametrize("path", ["/metrics", "/%6detrics", "/status", "/scores/metrics", "/%73tatus"])
def test_metrics_and_status_are_on_the_internal_port_only(server: Server, path: str) -> None:
    assert server.client.get(path).status_code == 404
    status = httpx.get(f"{server.internal}/status").json()
    assert status["ready"]
    assert [(worker["served"], worker["expected"]) for worker in status["workers"]] == [("1", "1")]


GETS = [
    "/",
    "/page/app.js",
    "/docs",
    "/docs/swagger-ui.css",
    "/openapi.json",
    "/contract",
    "/model",
    "/livez",
    "/readyz",
]


@pytest.mark.parametrize("path", GETS)
def test_head_answers_as_get_without_a_body(client: httpx.Client, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    changing = {"date", "x-request-id"}
    assert {it for it in head.headers.items() if it[0] not in changing} == {
        it for it in got.headers.items() if it[0] not in changing
    }
    assert client.head("/predict").status_code == 405


@pytest.mark.parametrize("path", ["/", "/docs", "/page/docs.js", "/model", "/readyz"])
def test_behind_a_path_prefix_a_proxy_may_strip_it_or_not(client: httpx.Client, path: str) -> None:
    assert client.get(f"/scores{path}").content == client.get(path).content


def test_behind_a_path_prefix_links_work(client: httpx.Client) -> None:
    start = client.get("/scores")
    assert (start.status_code, start.headers["location"]) == (307, "/scores/")
    assert client.get("/openapi.json").json()["servers"] == [{"url": "/scores"}]
    assert client.post("/scores/predict", json=EXAMPLE).json() == client.post("/predict", json=EXAMPLE).json()
    for page in ("/scores/", "/scores/docs"):
        links = re.findall(r'(?:href|src)="([^"#]+)"', client.get(page).text)
        assert len(links) >= 4
        for link in links:
            assert client.get(urljoin(page, link)).status_code == 200, link


PROTECTED = [("POST", "/predict"), ("POST", "/predict/batch"), ("GET", "/model"), ("GET", "/examples")]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize("key", [None, "", "wrong", KEYS, KEY[:-1]])
def test_without_a_key_nothing_is_answered(server: Server, method: str, path: str, key: str | None) -> None:
    headers = {} if key is None else {"x-api-key": key}
    answer = httpx.request(method, f"http://127.0.0.1:{server.port}{path}", json=EXAMPLE, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["detail"] == "X-API-Key is missing or unknown"
    assert "www-authenticate" in answer.headers


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/contract", "/docs", "/docs/swagger-ui.css", "/openapi.json"])
def test_these_need_no_key(server: Server, path: str) -> None:
    assert httpx.get(f"http://127.0.0.1:{server.port}{path}").status_code == 200


def test_unknown_paths_and_methods_are_problem_documents_too(client: httpx.Client) -> None:
    for answer, status in ((client.get("/nowhere"), 404), (client.get("/predict"), 405)):
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert client.get("/predict").headers["allow"] == "POST"


def test_the_request_id_is_returned_and_logged_and_the_log_has_no_secrets(server: Server) -> None:
    headers = {"x-request-id": "trace-me.1"}
    answer = server.client.post("/predict", json=EXAMPLE | {FIRST: "hidden"}, headers=headers)
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "trace-me.1"
    made_up = server.client.get("/livez", headers={"x-request-id": "no good: {}" * 9}).headers["x-request-id"]
    assert made_up.isascii()
    assert " " not in made_up
    line = wait_until(
        lambda: next((line for line in server.lines() if line.get("request_id") == "trace-me.1"), None), "the log"
    )
    assert (line["status"], line["path"], line["level"]) == (422, "/predict", "info")
    assert line["detail"] == f"{FIRST} {CONTRACT.fields[0].rule}"
    log = server.log.read_text()
    assert KEY not in log
    assert "hidden" not in log


def test_no_server_banner_and_no_cors(client: httpx.Client) -> None:
    headers = client.post("/predict", json=EXAMPLE, headers={"origin": "https://example.com"}).headers
    assert "server" not in headers
    assert not [name for name in headers if name.startswith("access-control")]


def kinds_of(schema: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The schemas of which a property's value must keep one."""
    kinds: list[dict[str, Any]] = schema["properties"][name].get("anyOf", [schema["properties"][name]])
    return kinds


def test_openapi_has_the_contract_and_a_valid_example(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["info"]["title"] == PROBLEM.title
    schemas = document["components"]["schemas"]
    assert list(schemas["PredictionRequest"]["properties"]) == [*CONTRACT.field_names, "row_id"]
    for name in CONTRACT.open_names:
        (text,) = (kind for kind in kinds_of(schemas["PredictionRequest"], name.name) if kind["type"] == "string")
        assert (text["minLength"], text["maxLength"]) == (1, name.max_length)
        assert "enum" not in text
    assert client.post("/predict", json=schemas["PredictionRequest"]["example"]).status_code == 200
    assert schemas["Prediction"]["properties"]["decision"]["enum"] == [PROBLEM.accept, PROBLEM.decline]
    responses = document["paths"]["/predict"]["post"]["responses"]
    assert set(responses) == {"200", "400", "401", "408", "413", "415", "422", "503"}
    names = {part.split('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert names <= set(schemas)


def test_metrics_count_requests_and_predictions(server: Server) -> None:
    client, address = server.client, f"{server.internal}/metrics"

    def sample(name: str) -> float:
        lines = httpx.get(address).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    seconds = "http_request_duration_seconds"
    names = [f'{seconds}_count{{endpoint="/predict",status="{code}"}}' for code in (200, 422)]
    names += [f"prediction_probability_{part}" for part in ("count", 'bucket{le="+Inf"}', 'bucket{le="0.0', "sum")]
    before = [sample(name) for name in names]
    answers = [client.post("/predict", json=EXAMPLE).json() for _ in range(3)]
    client.post("/predict", content=b"5", headers=JSON)
    client.post("/predict/batch", json=[EXAMPLE, 5])
    differences = [sample(name) - then for name, then in zip(names, before, strict=True)]
    assert differences[:4] == [3, 1, 4, 4]
    low = sum(answers[0]["probability"] <= bound for bound in (0.01, 0.02, 0.05))
    assert differences[4] == 4 * low
    assert differences[5] == pytest.approx(4 * answers[0]["probability"])
    assert [sample(f"model_{kind}{{") for kind in ("served", "expected")] == [1, 1]
    assert sample('registry_checks_total{result="unchanged"}') >= 1
    assert {f"# TYPE {name} histogram" for name in (seconds, "prediction_probability")} <= set(
        httpx.get(address).text.splitlines()
    )
    for number in range(50):
        client.get(f"/nowhere/{number}")
    assert "/nowhere" not in httpx.get(address).text


def test_valid_rows_are_all_predicted(client: httpx.Client) -> None:
    results = client.post("/predict/batch", json=valid_rows(500, seed=1)).json()["results"]
    assert all("probability" in result for result in results)


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"APP_ENV": "production"}, "API_KEYS_SHA256"),
        ({"APP_ENV": "production", "API_KEYS_SHA256": ","}, "API_KEYS_SHA256"),
        ({"API_KEYS_SHA256": "my key in clear"}, "API_KEYS_SHA256"),
        (
            {
                "APP_ENV": "production",
                "API_KEYS_SHA256": "057ba03d6c44104863dc7361fe4578965d1887360f90a0895882e58a6248fc86",
            },
            "placeholder",
        ),
        ({"MAX_IN_FLIGHT": "0"}, "MAX_IN_FLIGHT"),
    ],
    ids=range(5),
)
@pytest.mark.integration
def test_unsafe_settings_do_not_start(finished: Project, environment: dict[str, str], says: str) -> None:
    result = finished.run("6.production/serve.py", check=False, **environment)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("serve: ")
    assert says in result.stderr
    assert "in clear" not in result.stderr


@pytest.mark.integration
def test_a_wrong_setting_ends_uvicorn_with_one_sentence(finished: Project) -> None:
    command = ("-m", "uvicorn", "--app-dir", "6.production", "app:app", "--port", "0")
    result = finished.run(*command, check=False, PREDICTION_LOG_EXCLUDE="agee")
    assert result.returncode == 1
    assert result.stderr == "error: PREDICTION_LOG_EXCLUDE names 'agee', which is not a field of the contract\n"


@pytest.mark.integration
def test_a_new_key_works(finished: Project, tmp_path: Path) -> None:
    words = finished.run("6.production/new_api_key.py").stdout.split()
    key, digest = words[4], words[9]
    with running(finished, *LONE, MODEL_CACHE=str(tmp_path), API_KEYS_SHA256=digest) as server:
        assert server.client.get("/model").status_code == 401
        assert server.client.get("/model", headers={"x-api-key": key}).status_code == 503  # no model


@pytest.mark.integration
def test_cors_is_open_to_configured_origins_only(finished: Project) -> None:
    with running(finished, *LONE, CORS_ORIGINS="https://page.example") as server:
        for origin, allowed in (("https://page.example", True), ("https://other.example", False)):
            headers = server.client.get("/livez", headers={"origin": origin}).headers
            assert ("access-control-allow-origin" in headers) is allowed


@pytest.mark.integration
def test_all_requests_are_logged_on_demand(finished: Project) -> None:
    with running(finished, *LONE, LOG_REQUESTS="all") as server:
        server.client.get("/contract")
        wait_until(lambda: {"/livez", "/contract"} <= {line.get("path") for line in server.lines()}, "the log")


@pytest.mark.integration
def test_without_a_model_it_is_alive_and_not_ready(fresh: Project) -> None:
    with running(fresh, *SERVE) as server:
        assert server.client.get("/livez").status_code == 200
        for answer in (
            server.client.get("/readyz"),
            server.client.get("/model"),
            server.client.post("/predict", json=EXAMPLE),
            server.client.post("/predict/batch", json=[EXAMPLE]),
        ):
            assert answer.status_code == 503
            assert answer.json()["detail"] in {"not ready", "no model has been loaded yet"}
        assert answer.headers["retry-after"]
        assert server.client.get("/status").json()["detail"] == "no model has been fetched yet"


@pytest.mark.integration
def test_serve_without_a_champion_says_what_to_do(fresh: Project) -> None:
    result = fresh.run("main.py", "serve", check=False)
    assert result.returncode == 1
    assert "has no champion yet; run `uv run main.py` first" in result.stderr


@pytest.mark.integration
def test_main_serves_with_several_workers(finished: Project) -> None:
    with running(finished, "main.py", "serve", "--workers", "2") as server:
        wait_until_ready(server)
        assert server.client.post("/predict", json=EXAMPLE).status_code == 200


@pytest.mark.integration
def test_api_process_imports_no_training_library_and_never_unpickles(finished: Project, cache: Path) -> None:
    code = """
import sys
sys.path.insert(0, "6.production")
import pickle
pickle.load = pickle.loads = pickle.Unpickler = None
from starlette.testclient import TestClient
import app
from credit_risk.contract import CONTRACT
with TestClient(app.app) as client:
    assert client.get("/readyz").status_code == 200
    assert client.post("/predict", json=CONTRACT.example).status_code == 200
    assert client.post("/predict/batch", json=[CONTRACT.example]).status_code == 200
heavy = {"pandas", "sklearn", "mlflow", "pandera", "pyarrow", "scipy", "joblib", "skops", "onnx"} & set(sys.modules)
assert not heavy, heavy
"""
    finished.run("-c", code, MODEL_CACHE=str(cache))
