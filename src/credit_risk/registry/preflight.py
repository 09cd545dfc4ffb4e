"""Checks that registry, artifact store and data remote can be used: before stage 7, and in `uv run main.py doctor`."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import mlflow
import requests
from botocore.config import Config
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root
from credit_risk.project.settings import settings
from credit_risk.registry import embedded_store
from credit_risk.registry.client import EXPERIMENT, Registry
from credit_risk.registry.error_messages import describe_error

MAX_CLOCK_SKEW = 300  # seconds; S3 rejects requests from 900 on
NO_BUCKET = "s3://_"  # of .dvc/config, until there is a bucket
SET_REMOTE = "`uv run dvc remote modify --local s3 url s3://BUCKET`"
PROBE = "preflight-probe"  # a small object, overwritten each time, and deleted if that is permitted


@dataclass(frozen=True, slots=True)
class PreflightCheck:
    """One check: what was found, or what is wrong and what to do about it."""

    name: str
    found: str = ""
    problem: str = ""


def preflight(registry: Registry) -> None:
    """Checks that the registry and its artifact store can be used.

    Raises:
        ProjectError: the first problem, with the remedy.
    """
    for check in preflight_checks(registry):
        if check.problem:
            raise ProjectError(check.problem)


def preflight_checks(registry: Registry) -> Iterator[PreflightCheck]:
    """Makes the checks in order, up to the first that fails: the later ones depend on it."""
    if registry.embedded:
        steps: dict[str, Callable[[], str]] = {"database": lambda: _check_database(registry)}
    else:
        server = _Server(registry)
        steps = {
            "tracking server": server.check_health,
            "version": server.check_version,
            "credentials": server.check_credentials,
        }
    steps["artifact store"] = lambda: check_artifact_store(registry)
    for name, step in steps.items():
        try:
            yield PreflightCheck(name, found=step())
        except ProjectError as error:
            yield PreflightCheck(name, problem=str(error))
            return


def check_data_remote() -> Iterator[PreflightCheck]:
    """Checks DVC's default remote, if it is on S3 and there are keys or a role for it."""
    from dvc.repo import Repo  # takes half a second

    with Repo(str(root()), config={"core": {"no_scm": True}}) as repo:  # also without git
        config = repo.config
        url = config["remote"].get(config["core"].get("remote", ""), {}).get("url", "")
    if not url.startswith("s3:"):
        return
    if url == NO_BUCKET:
        yield PreflightCheck("data remote", found=f"none is set; to share data: {SET_REMOTE}")
        return
    try:
        keys = boto3.Session().get_credentials()
    except Exception as error:  # noqa: BLE001 (boto3 raises many kinds)
        yield PreflightCheck("data remote", problem=describe_error(error, url, "AWS_ENDPOINT_URL_S3"))
        return
    if keys is None:
        yield PreflightCheck("data remote", found=f"{url} is not used: there are no AWS keys")
        return
    try:
        yield PreflightCheck("data remote", found=check_bucket(url))
    except ProjectError as error:
        yield PreflightCheck("data remote", problem=str(error))


def check_artifact_store(registry: Registry) -> str:
    """Writes a probe to the artifact store, reads it and deletes it."""
    location = registry.client.get_experiment(registry.experiment_id()).artifact_location
    if location.startswith("s3:"):
        return check_bucket(location)
    if location.startswith("mlflow-artifacts:"):
        return _Server(registry).check_artifacts(urlsplit(location).path)
    try:
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder) / PROBE
            probe.write_text(PROBE, encoding="utf-8")
            repository: Any = get_artifact_repository(location)
            repository.log_artifact(str(probe))
            repository.delete_artifacts(PROBE)
    except Exception as error:  # each artifact store raises its own kinds
        raise ProjectError(describe_error(error, f"the artifact store {location}", "MLFLOW_TRACKING_URI")) from error
    return f"{location} is writable"


def check_bucket(url: str) -> str:
    """Writes a probe below `s3://bucket/prefix`, reads it and deletes it; checks region and clock too."""
    parts = urlsplit(url)
    bucket = f"s3://{parts.netloc}"
    place = {"Bucket": parts.netloc, "Key": f"{parts.path.strip('/')}/{PROBE}".lstrip("/")}
    try:
        # As long as for a small request: a probe must not wait as for a large model.
        s3 = boto3.client("s3", config=Config(read_timeout=settings().mlflow_http_request_timeout))
        put = s3.put_object(**place, Body=PROBE.encode())["ResponseMetadata"]["HTTPHeaders"]
        content = s3.get_object(**place)["Body"].read()
        s3.delete_object(**place)
    except Exception as error:  # boto3 and its HTTP library raise many kinds
        raise ProjectError(describe_error(error, bucket, "AWS_ENDPOINT_URL_S3")) from error
    if content != PROBE.encode():
        raise ProjectError(f"{bucket} returns other bytes than were written; check AWS_ENDPOINT_URL_S3")
    actual, configured = put.get("x-amz-bucket-region"), s3.meta.region_name
    if actual and configured not in {actual, "aws-global"}:
        raise ProjectError(f"{bucket} is in region {actual}, not {configured}; correct AWS_DEFAULT_REGION")
    check_clock(put.get("date"), bucket)
    return f"{url} is writable"


def check_clock(date: str | None, server: str) -> None:
    """Compares the `Date` header of a response with this machine's clock.

    Raises:
        ProjectError: they differ so much that signed requests will soon be rejected.
    """
    ahead = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds() if date else 0.0
    if abs(ahead) > MAX_CLOCK_SKEW:
        way = "ahead of" if ahead > 0 else "behind"
        raise ProjectError(f"this machine's clock is {abs(ahead) / 60:.0f} minutes {way} {server}; set it (NTP)")


def _check_database(registry: Registry) -> str:
    registry.experiment_id()
    folder = embedded_store.artifact_folder(registry.uri)
    corrected = f" (corrected, it pointed to {registry.moved_from})" if registry.moved_from else ""
    return f"{registry.address} can be read, its artifacts are in {folder}{corrected}"


class _Server:
    """An MLflow server; requests are not retried, so that a server that is down is reported at once."""

    def __init__(self, registry: Registry) -> None:
        self.display_name = registry.display_name
        self.credentials: Any = get_default_host_creds(registry.uri)  # type: ignore[no-untyped-call]

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        untyped: Any = http_request
        try:
            response: requests.Response = untyped(
                self.credentials, path, method, max_retries=0, raise_on_status=False, **options
            )
        except Exception as error:  # requests, urllib3 and MLflow each raise their own kinds
            raise ProjectError(describe_error(error, self.display_name, "MLFLOW_TRACKING_URI")) from error
        return response

    def require(self, response: requests.Response) -> requests.Response:
        """Raises ProjectError for a rejected request or a failing server; a missing object is neither."""
        if response.status_code != requests.codes.not_found:
            try:
                response.raise_for_status()
            except requests.HTTPError as error:
                error.args = (f"HTTP {response.status_code}: {response.text}",)
                raise ProjectError(describe_error(error, self.display_name, "MLFLOW_TRACKING_URI")) from error
        return response

    def get(self, path: str) -> requests.Response:
        return self.require(self.request("GET", path))

    def check_health(self) -> str:
        health = self.get("/health")
        if health.text.strip() != "OK":
            raise ProjectError(f"{self.display_name} is not an MLflow server; correct MLFLOW_TRACKING_URI")
        check_clock(health.headers.get("date"), self.display_name)
        return f"{self.display_name} answers"

    def check_version(self) -> str:
        server, client = self.get("/version").text.strip(), mlflow.__version__
        if server.split(".")[0] != client.split(".")[0]:
            raise ProjectError(
                f"{self.display_name} has MLflow {server}, and here is {client}; install the same major version"
            )
        return f"server {server}, client {client}"

    def check_credentials(self) -> str:
        self.get(f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={EXPERIMENT}")
        return f"accepted for user {self.credentials.username or '(none)'}"

    def check_artifacts(self, path: str) -> str:
        url = f"/api/2.0/mlflow-artifacts/artifacts{path}/{PROBE}"
        put = self.request("PUT", url, data=PROBE.encode())
        if put.status_code >= requests.codes.internal_server_error:
            raise ProjectError(
                f"{self.display_name} can't store artifacts (HTTP {put.status_code}); see its log, and check its "
                "AWS keys, bucket, region and free space with `uv run main.py doctor` in its environment"
            )
        self.require(put)
        if self.get(url).content != PROBE.encode():
            raise ProjectError(f"{self.display_name} returns other bytes than were stored; check its artifact store")
        self.request("DELETE", url)  # need not succeed: registration never deletes, and a role may forbid it
        return f"{self.display_name} stores artifacts"
