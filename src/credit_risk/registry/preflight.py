"""Is all there that registration needs? Asked by stage 7 before it begins, and by `uv run main.py doctor`."""

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
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root
from credit_risk.registry.client import EXPERIMENT, Registry
from credit_risk.registry.error_messages import describe_status, explain

MAX_SKEW = 300  # seconds; S3 refuses requests from 900 on
PROBE = "preflight-probe"  # one small object, overwritten each time and deleted if that is allowed


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was found, or what is wrong and what to do about it."""

    name: str
    found: str = ""
    problem: str = ""


def preflight(registry: Registry) -> None:
    """Checks that the registry and its artifact store can be used.

    Raises:
        ProjectError: the first thing that is wrong, with the remedy.
    """
    for check in preflight_checks(registry):
        if check.problem:
            raise ProjectError(check.problem)


def preflight_checks(registry: Registry) -> Iterator[Check]:
    """Makes the checks, one after the other; the first that fails is the last, for the others depend on it."""
    if registry.embedded:
        steps: dict[str, Callable[[], str]] = {"database": lambda: _database(registry)}
    else:
        server = _Server(registry)
        steps = {"tracking server": server.answers, "version": server.version, "credentials": server.credentials}
    steps["artifact store"] = lambda: artifact_store(registry)
    for name, step in steps.items():
        try:
            yield Check(name, found=step())
        except ProjectError as error:
            yield Check(name, problem=str(error))
            return


def data_remote() -> Iterator[Check]:
    """Checks DVC's default remote, if it is on S3 and there are keys or a role for it."""
    from dvc.repo import Repo  # takes half a second

    with Repo(str(root())) as repo:
        config = repo.config
        url = config["remote"].get(config["core"].get("remote", ""), {}).get("url", "")
    if not url.startswith("s3:"):
        return
    if boto3.Session().get_credentials() is None:
        yield Check("data remote", found=f"{url} is not used here: there are no AWS keys")
        return
    try:
        yield Check("data remote", found=bucket(url))
    except ProjectError as error:
        yield Check("data remote", problem=str(error))


def artifact_store(registry: Registry) -> str:
    """Puts a probe into the artifact store, reads it and deletes it, as registration will."""
    location = registry.client.get_experiment(registry.experiment_id()).artifact_location
    if location.startswith("s3:"):
        return bucket(location)
    if location.startswith("mlflow-artifacts:"):
        return _Server(registry).artifacts(urlsplit(location).path)
    try:
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder) / PROBE
            probe.write_text(PROBE, encoding="utf-8")
            repository: Any = get_artifact_repository(location)
            repository.log_artifact(str(probe))
            repository.delete_artifacts(PROBE)
    except Exception as error:  # each artifact store raises its own kinds
        sentence = explain(error, f"the artifact store {location}", "MLFLOW_TRACKING_URI")
        raise ProjectError(sentence) from error
    return f"{location} is writable"


def bucket(url: str) -> str:
    """Puts a probe below `s3://bucket/prefix`, reads it and deletes it; checks region and clock on the way."""
    parts = urlsplit(url)
    place = {"Bucket": parts.netloc, "Key": f"{parts.path.strip('/')}/{PROBE}".lstrip("/")}
    try:
        s3 = boto3.client("s3")
        put = s3.put_object(**place, Body=PROBE.encode())["ResponseMetadata"]["HTTPHeaders"]
        read = s3.get_object(**place)["Body"].read()
        s3.delete_object(**place)
    except Exception as error:  # boto3 and its HTTP library raise many kinds
        raise ProjectError(explain(error, f"s3://{parts.netloc}", "AWS_ENDPOINT_URL_S3")) from error
    if read != PROBE.encode():
        raise ProjectError(f"s3://{parts.netloc} gives other bytes than were put into it; see what answers there")
    there, here = put.get("x-amz-bucket-region"), s3.meta.region_name
    if there and here not in {there, "aws-global"}:
        raise ProjectError(
            f"s3://{parts.netloc} is in another region, {there} and not {here}; correct AWS_DEFAULT_REGION"
        )
    check_clock(put.get("date"), f"s3://{parts.netloc}")
    return f"{url} is writable"


def check_clock(date: str | None, who: str) -> None:
    """Compares the `Date` of an answer with this machine's clock.

    Raises:
        ProjectError: they are so far apart that signed requests will soon be refused.
    """
    ahead = (datetime.now(UTC) - parsedate_to_datetime(date)).total_seconds() if date else 0.0
    if abs(ahead) > MAX_SKEW:
        way = "ahead of" if ahead > 0 else "behind"
        raise ProjectError(f"this machine's clock is {abs(ahead) / 60:.0f} minutes {way} {who}; set it (NTP)")


def _database(registry: Registry) -> str:
    registry.experiment_id()
    return f"{registry.address} answers"


class _Server:
    """An MLflow server; asked once and not again, for what is down should be told at once."""

    def __init__(self, registry: Registry) -> None:
        self.display_name = registry.display_name
        self.access: Any = get_default_host_creds(registry.uri)  # type: ignore[no-untyped-call]

    def answer(self, method: str, path: str, **how: Any) -> requests.Response:
        asked: Any = http_request  # has no types
        try:
            answer: requests.Response = asked(self.access, path, method, max_retries=0, raise_on_status=False, **how)
        except Exception as error:  # requests, urllib3 and MLflow each raise their own kinds
            raise ProjectError(explain(error, self.display_name, "MLFLOW_TRACKING_URI")) from error
        return answer

    def checked(self, answer: requests.Response) -> requests.Response:
        if sentence := describe_status(answer.status_code, answer.text, self.display_name):
            raise ProjectError(sentence)
        return answer

    def ask(self, method: str, path: str) -> requests.Response:
        return self.checked(self.answer(method, path))

    def answers(self) -> str:
        health = self.ask("GET", "/health")
        if health.text.strip() != "OK":
            raise ProjectError(f"{self.display_name} is another kind of server; correct MLFLOW_TRACKING_URI")
        check_clock(health.headers.get("date"), self.display_name)
        return f"{self.display_name} answers"

    def version(self) -> str:
        theirs, ours = self.ask("GET", "/version").text.strip(), mlflow.__version__
        if theirs.split(".")[0] != ours.split(".")[0]:
            raise ProjectError(
                f"{self.display_name} has MLflow {theirs}, which does not fit {ours} here; "
                "install the same major version"
            )
        return f"{theirs} there, {ours} here"

    def credentials(self) -> str:
        self.ask("GET", f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={EXPERIMENT}")
        return f"user {self.access.username or 'nobody'} is accepted"

    def artifacts(self, path: str) -> str:
        url = f"/api/2.0/mlflow-artifacts/artifacts{path}/{PROBE}"
        put = self.answer("PUT", url, data=PROBE.encode())
        if put.status_code >= requests.codes.internal_server_error:
            raise ProjectError(
                f"{self.display_name} can't store artifacts (HTTP {put.status_code}); its log says why: check its "
                "AWS keys, bucket, region and free space, with `uv run main.py doctor` in its environment"
            )
        self.checked(put)
        if self.ask("GET", url).content != PROBE.encode():
            raise ProjectError(f"{self.display_name} gives other bytes than were put into it; check its artifact store")
        # Registration never deletes, and a role that may not is a good one: whether it works is no condition.
        self.answer("DELETE", url)
        return f"{self.display_name} stores artifacts"
