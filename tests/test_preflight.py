"""Each way in which registry or artifact store can fail is one sentence with its remedy; each failure is a real one."""

import datetime as dt
import json
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import botocore.auth
import mlflow
import pytest
import requests
from botocore.exceptions import ProfileNotFound
from moto.server import ThreadedMotoServer
from projects import REPOSITORY, Project
from stacks import JUICEFS, Stack, gateway

from credit_risk.core.errors import ProjectError
from credit_risk.project.host import free_port
from credit_risk.project.settings import Settings
from credit_risk.registry.client import Registry, limit_s3
from credit_risk.registry.error_messages import describe_error
from credit_risk.registry.preflight import check_bucket, check_data_remote, preflight, preflight_checks

CHECKSUMS = ("NotImplemented", "MissingContentLength", "AuthorizationHeaderMalformed", "XAmzContentSHA256Mismatch")


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short limits, and no AWS keys but those that a test sets."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def problem(uri: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the preflight says of a registry at this address."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(ProjectError) as raised:
        preflight(Registry())
    return str(raised.value)


@contextmanager
def listening(
    body: str, status: int = 200, *, version: str = "", ahead: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[str]:
    """A stand-in for a server, which gives the same answer to all but `GET /version`.

    Its clock may be ahead by so many seconds.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            said = version if version and self.path == "/version" else body
            self.send_response(status)
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said.encode())

        do_PUT = do_GET  # noqa: N815 (the name that http.server looks for)

        def date_time_string(self, timestamp: float | None = None) -> str:
            now = dt.datetime.now(dt.UTC).timestamp()
            return super().date_time_string((timestamp or now) + ahead)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that no authority has signed, and its key."""
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(path), "-out", f"{path}.crt"]
    names = ["-days", "1", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command + names, check=True, capture_output=True)
    with path.open("a") as both:
        both.write(Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_server_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    sentence = problem(uri, monkeypatch)
    assert sentence.startswith(f"the MLflow server at {uri} is down; start it, or correct MLFLOW_TRACKING_URI (")
    assert "Connection refused" in sentence  # the original message


def test_wrong_host(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no host with this name; correct MLFLOW_TRACKING_URI" in problem("http://no.invalid:5", monkeypatch)


def test_frozen_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        sentence = problem(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
    assert "does not answer in time" in sentence


def test_another_kind_of_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening("<html>") as uri:
        assert "is not an MLflow server; correct MLFLOW_TRACKING_URI" in problem(uri, monkeypatch)


@pytest.mark.parametrize("version", ["2.22.1", "4.0.0"])
def test_incompatible_version(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of MLflow's major versions can't be installed together: a stand-in answers as those would."""
    with listening("OK", version=version) as uri:
        sentence = problem(uri, monkeypatch)
        assert f"{uri} has MLflow {version}, and here is {mlflow.__version__}" in sentence


def test_clock_of_the_server_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening("OK", ahead=3600) as uri:
        assert f"this machine's clock is 60 minutes behind the MLflow server at {uri}" in problem(uri, monkeypatch)
    with listening("OK", ahead=-3600) as uri:
        assert "this machine's clock is 60 minutes ahead of the MLflow server" in problem(uri, monkeypatch)


def test_certificate_that_is_not_trusted(
    tls: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening("OK", tls=tls) as uri:
        expected = "is not trusted; set MLFLOW_TRACKING_SERVER_CERT_PATH"
        assert expected in problem(uri, monkeypatch)
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", f"{certificate}.crt")
        assert "the same major version" in problem(uri, monkeypatch)  # it went on to the next check


def test_https_to_a_server_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening("OK") as uri:
        sentence = problem(uri.replace("http:", "https:"), monkeypatch)
    assert "does not use TLS; write http:// in MLFLOW_TRACKING_URI" in sentence


def test_a_proxy_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    behind_a_dead_proxy(monkeypatch)
    with listening("OK") as uri:
        sentence = problem(uri, monkeypatch)
    assert f"{uri} can't be reached through the proxy; correct HTTP_PROXY and HTTPS_PROXY, or add" in sentence


def behind_a_dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")


def test_what_is_wrong_with_the_data_remote_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder without git, too."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    remote = r\n['remote \"r\"']\n    url = s3://data/x\n")
    monkeypatch.setenv("PROJECT_ROOT", str(tmp_path))
    (check,) = check_data_remote()
    assert check.found == "s3://data/x is not used: there are no AWS keys"
    monkeypatch.setenv("AWS_PROFILE", "nope")
    (check,) = check_data_remote()
    assert check.problem.startswith("s3://data/x: this machine has no such AWS profile; correct AWS_PROFILE")
    assert "nope" in check.problem


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 service with the bucket `models`."""
    with gateway(tmp_path_factory.mktemp("usual")) as address:
        client(address).create_bucket(Bucket="models")
        yield address


def client(address: str, service: str = "s3", key: str = "key", secret: str = "secret-key") -> Any:  # noqa: S107
    return boto3.client(
        service,
        endpoint_url=address,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
    )


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Probes s3://models at an address, with this environment; gives what was found or what is wrong."""

    def probe(address: str, url: str = "s3://models/artifacts", **environment: str) -> str:
        usual = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret-key", "AWS_DEFAULT_REGION": "us-east-1"}
        for name, value in (usual | {"AWS_ENDPOINT_URL_S3": address} | environment).items():
            monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name, raising=False)
        limit_s3(Settings())
        try:
            return check_bucket(url)
        except ProjectError as error:
            return str(error)

    return probe


def test_s3_as_it_should_be(usual: str, s3: Callable[..., str]) -> None:
    assert s3(usual) == "s3://models/artifacts is writable"
    left = boto3.client("s3").list_objects_v2(Bucket="models", Prefix="artifacts/preflight")
    assert left["KeyCount"] == 0


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"AWS_ACCESS_KEY_ID": "other"}, "rejects the AWS keys; correct AWS_ACCESS_KEY_ID and"),
        ({"AWS_SECRET_ACCESS_KEY": "other"}, "rejects the AWS keys; correct AWS_ACCESS_KEY_ID and"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "there are no AWS keys; set AWS_ACCESS_KEY_ID"),
        ({"AWS_DEFAULT_REGION": "eu-central-1"}, "is in region us-east-1, not eu-central-1; correct"),
    ],
)
def test_s3_rejects(environment: dict[str, str], sentence: str, usual: str, s3: Callable[..., str]) -> None:
    said = s3(usual, **environment)
    assert said.startswith("s3://models")
    assert sentence in said


def test_disk_is_full(tmp_path: Path, s3: Callable[..., str]) -> None:
    with gateway(tmp_path) as address:
        client(address).create_bucket(Bucket="models")
        client(address).put_object(Bucket="models", Key="artifacts/first", Body=b"x")
    quota = ["quota", "set", f"sqlite3://{tmp_path}/meta.db", "--path", "/models", "--inodes", "2"]
    subprocess.run([JUICEFS, *quota], check=True, capture_output=True)
    with gateway(tmp_path) as address:
        assert s3(address).startswith("s3://models: a disk is full; free some space (")


def test_bucket_is_read_only(s3: Callable[..., str]) -> None:
    """A user's policy decides that, which moto's server keeps to as AWS does."""
    server = ThreadedMotoServer(port=0)
    server.start()
    try:
        address = "http://{}:{}".format(*server.get_host_and_port())
        client(address).create_bucket(Bucket="models")
        iam = client(address, "iam")
        iam.create_user(UserName="reader")
        statement = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName="reader", PolicyName="read", PolicyDocument=policy)
        keys = iam.create_access_key(UserName="reader")["AccessKey"]
        requests.post(f"{address}/moto-api/reset-auth", data=b"0", timeout=5)  # from now on policies count
        said = s3(address, AWS_ACCESS_KEY_ID=keys["AccessKeyId"], AWS_SECRET_ACCESS_KEY=keys["SecretAccessKey"])
    finally:
        requests.post(f"{address}/moto-api/reset-auth", data=b"inf", timeout=5)
        server.stop()
    assert said.startswith("s3://models denies access to the AWS keys; allow s3:GetObject, s3:PutObject")
    assert "AccessDenied" in said  # the original message


def test_bucket_is_missing(usual: str, s3: Callable[..., str]) -> None:
    said = s3(usual, "s3://nowhere")
    assert said.startswith("s3://nowhere does not exist; create the bucket, or correct its name (")


def test_s3_is_down(s3: Callable[..., str]) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    assert s3(address).startswith("s3://models is down; start it, or correct AWS_ENDPOINT_URL_S3 (")
    assert "there is no host with this name" in s3("http://no.invalid")


def test_s3_behind_a_proxy_that_does_not_answer(s3: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    behind_a_dead_proxy(monkeypatch)
    assert "s3://models can't be reached through the proxy; correct HTTP_PROXY" in s3("http://s3.invalid")


def test_an_aws_profile_that_does_not_exist(s3: Callable[..., str]) -> None:
    with pytest.raises(ProfileNotFound) as raised:
        s3("http://127.0.0.1:9", AWS_PROFILE="nope")
    sentence = describe_error(raised.value, "s3://models", "AWS_ENDPOINT_URL_S3")
    assert sentence.startswith("s3://models: this machine has no such AWS profile; correct AWS_PROFILE")


def test_a_profile_whose_sign_in_has_expired(tmp_path: Path, s3: Callable[..., str]) -> None:
    (tmp_path / "config").write_text(
        "[profile work]\nsso_start_url = https://x.invalid\nsso_region = us-east-1\n"
        "sso_account_id = 123456789012\nsso_role_name = role\n"
    )
    no_keys = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "HOME": str(tmp_path)}
    said = s3("http://127.0.0.1:9", AWS_PROFILE="work", AWS_CONFIG_FILE=str(tmp_path / "config"), **no_keys)
    assert said.startswith("s3://models: the AWS sign-in has expired; sign in again: aws sso login (")


def test_s3_is_frozen(s3: Callable[..., str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        said = s3(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert "does not answer in time" in said
    assert "raise MLFLOW_HTTP_REQUEST_TIMEOUT (MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT for a large model)" in said


def test_transfers_may_take_longer_than_other_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    registry = Registry()
    with registry.transfer():
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "60"
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "1"
    limits = boto3.client("s3", region_name="us-east-1").meta.config
    assert (limits.connect_timeout, limits.read_timeout) == (1, 60)


def test_s3_has_a_certificate_that_is_not_trusted(tls: ssl.SSLContext, s3: Callable[..., str]) -> None:
    with listening("", tls=tls) as address:
        assert "is not trusted; set AWS_CA_BUNDLE" in s3(address)


def test_clock_differs_from_that_of_s3(usual: str, s3: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = botocore.auth.get_current_datetime
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: now() + dt.timedelta(hours=1))
    assert "RequestTimeTooSkewed" in s3(usual)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        *((code, "set AWS_REQUEST_CHECKSUM_CALCULATION=when_required") for code in CHECKSUMS),
        ("IllegalLocationConstraintException", "is in another region; correct AWS_DEFAULT_REGION"),
        ("ExpiredToken", "the AWS keys have expired; renew them"),
        ("RequestExpired", "the AWS keys have expired; renew them"),
    ],
)
def test_what_aws_alone_answers(code: str, sentence: str, s3: Callable[..., str]) -> None:
    """Session tokens and old stores, which no service here has: the answers that are documented, over HTTP."""
    with listening(f"<Error><Code>{code}</Code><Message>No.</Message></Error>", status=403) as address:
        assert sentence in s3(address, AWS_SESSION_TOKEN="token")  # noqa: S106


@pytest.mark.stack
class TestOnTheStack:
    """What only a real MLflow server answers."""

    @pytest.fixture(autouse=True)
    def environment(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in stack.environment().items():
            monkeypatch.setenv(name, value)

    def test_all_is_well(self) -> None:
        names = ["tracking server", "version", "credentials", "artifact store"]
        checks = list(preflight_checks(Registry()))
        assert [check.name for check in checks] == names
        assert not [check.problem for check in checks if check.problem]

    def test_wrong_password(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        uri = stack.environment()["MLFLOW_TRACKING_URI"]
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        sentence = problem(uri, monkeypatch)
        expected = "rejects user or password; correct MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        assert expected in sentence
        monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
        assert expected in problem(uri, monkeypatch)

    def test_host_is_not_allowed(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        port = stack.state["ports"]["mlflow"]
        sentence = problem(f"http://127.1:{port}", monkeypatch)  # another name of 127.0.0.1
        assert "denies this request" in sentence
        assert "Invalid Host header" in sentence  # the original message

    def test_user_who_may_only_read(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in stack.environment("service").items():
            monkeypatch.setenv(name, value)
        sentence = problem(stack.environment()["MLFLOW_TRACKING_URI"], monkeypatch)
        assert "denies this request; use a user with this permission" in sentence

    @pytest.mark.parametrize(
        ("server", "sentence"),
        [
            ("postgres", "fails; check MLFLOW_TRACKING_URI and the server's log"),
            ("s3", "can't store artifacts (HTTP 500); see its log"),
            ("mlflow", "is down; start it"),
        ],
    )
    def test_outage_as_the_doctor_reports_it(self, server: str, sentence: str, stack: Stack) -> None:
        environment = stack.environment() | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "15"}  # the server's own answer is heard
        stack.break_(server, "stop")
        try:
            done = Project(REPOSITORY).run("main.py", "doctor", check=False, **environment)
        finally:
            stack.up()  # starts what is not running
        assert done.returncode == 1
        (said,) = [line for line in done.stdout.splitlines() if environment["MLFLOW_TRACKING_URI"] in line][-1:]
        assert said.startswith("failed")
        assert sentence in said
