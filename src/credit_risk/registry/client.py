"""Client of the model registry: MLflow at MLFLOW_TRACKING_URI, an embedded SQLite file by default.

Aliases: `challenger` is the version to gate, `champion` the one to serve, `previous_champion` the one to roll back to.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
import mlflow
from botocore.config import Config
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json
from credit_risk.project.settings import Settings
from credit_risk.project.settings import settings as load_settings
from credit_risk.registry import embedded_store
from credit_risk.registry.error_messages import describe_error, is_registry_error

MODEL, EXPERIMENT = CONTRACT.problem.model_name, CONTRACT.problem.experiment
CHALLENGER, CHAMPION, PREVIOUS_CHAMPION = "challenger", "champion", "previous_champion"
LINEAGE, LINEAGE_KEY, ONNX_SHA256 = "lineage", "lineage_key", "onnx_sha256"  # tags of a version
ONNX_PATH = "extra_files/model.onnx"  # within a version's artifacts
REFERENCE_ROWS_PATH = "extra_files/reference_rows.json"
METRICS_PATH = "reports/metrics.json"  # within a run's artifacts
# MLflow reads these as well; they would send parts of a version to another store, run or experiment.
_REDIRECTIONS = (
    *("MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"),
    *("MLFLOW_RUN_ID", "MLFLOW_ACTIVE_MODEL_ID"),
)


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version of the model, as it was when it was read."""

    number: str
    tags: dict[str, str]
    aliases: tuple[str, ...]
    run_id: str


class Registry:
    """A connection to the registry.

    Every method raises ProjectError, with one sentence, when the registry fails or rejects a request.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        """Connects; creates the embedded database on first use."""
        settings = settings or load_settings()
        self.uri = settings.mlflow_tracking_uri
        self.embedded = embedded_store.is_embedded(self.uri)
        self._artifact_seconds = settings.mlflow_artifact_upload_download_timeout
        for name in _REDIRECTIONS:
            os.environ.pop(name, None)
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(settings.mlflow_http_request_timeout)
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = str(settings.mlflow_http_request_max_retries)
        logging.getLogger("mlflow").setLevel(logging.ERROR)  # it reports each table that it creates
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        if self.embedded:
            self.moved_from = embedded_store.prepare(self.uri)  # old address of the artifacts, if it was corrected
        with self.plain_errors():
            if not self.embedded:
                limit_s3(settings)
            mlflow.set_tracking_uri(self.uri)  # for MLflow's own functions, and for child processes
            self.client = MlflowClient(self.uri, registry_uri=self.uri)

    @property
    def address(self) -> str:
        """The URI without user and password."""
        if self.embedded:
            return self.uri
        parts = urlsplit(self.uri)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def display_name(self) -> str:
        """Kind and address, for messages."""
        return f"the {'registry' if self.embedded else 'MLflow server'} at {self.address}"

    @contextmanager
    def plain_errors(self) -> Iterator[None]:
        """Turns what MLflow and its stores raise into a ProjectError; other exceptions pass."""
        try:
            yield
        except Exception as error:
            if self.embedded and (problem := embedded_store.schema_problem(self.uri, error)):
                raise ProjectError(problem) from error
            if is_registry_error(error, embedded_store.artifact_folder(self.uri) if self.embedded else None):
                raise ProjectError(describe_error(error, self.display_name, "MLFLOW_TRACKING_URI")) from error
            raise

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """`plain_errors`, with the timeout of artifacts: a store may need long for a large model."""
        name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
        usual = os.environ[name]
        os.environ[name] = str(max(int(usual), self._artifact_seconds))
        try:
            with self.plain_errors():
                yield
        finally:
            os.environ[name] = usual

    def experiment_id(self, name: str = EXPERIMENT) -> str:
        """The experiment that holds the runs; created on first use."""
        with self.plain_errors():
            experiment = self.client.get_experiment_by_name(name)
            if experiment:
                return str(experiment.experiment_id)
            # MLflow's default for SQLite is ./mlruns in the current folder.
            location = embedded_store.artifact_folder(self.uri).as_uri() if self.embedded else None
            return str(self.client.create_experiment(name, artifact_location=location))

    def version_of(self, alias: str) -> Version | None:
        """The version that has an alias, or None."""
        with self.plain_errors():
            try:
                return _version(self.client.get_model_version_by_alias(MODEL, alias))
            except MlflowException as error:
                if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                    return None
                # An MLflow server with users denies access to a model that does not exist.
                if error.error_code == "PERMISSION_DENIED" and not self.client.search_registered_models(
                    f"name = '{MODEL}'"
                ):
                    return None
                raise

    def version(self, number: str) -> Version:
        """A version by its number.

        Raises:
            ProjectError: there is no such version.
        """
        if not (number.isascii() and number.isdecimal() and len(number) < 10):  # noqa: PLR2004 (32 bits)
            raise ProjectError(f"'{number}' is not the number of a version; see `uv run main.py history`")
        with self.plain_errors():
            try:
                return _version(self.client.get_model_version(MODEL, number))
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    raise ProjectError(f"{MODEL} has no version {number}; see `uv run main.py history`") from error
                raise

    def version_or_champion(self, number: str | None) -> Version:
        """The version with this number, or the champion without one.

        Raises:
            ProjectError: there is none.
        """
        version = self.version(number) if number else self.version_of(CHAMPION)
        if version is None:
            raise ProjectError(f"{self.address} has no champion yet; run `uv run main.py` first, or name a --version")
        return version

    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        with self.plain_errors():
            found: list[Version] = []
            token: str | None = None
            while token is None or token:
                page = self.client.search_model_versions(f"name = '{MODEL}'", page_token=token)
                found += map(_version, page)
                token = page.token or ""
            return sorted(found, key=lambda version: int(version.number))

    def create_version(self, model_uri: str, run_id: str, model_id: str, tags: dict[str, str]) -> Version:
        """Registers a logged model as a new version, which has its tags from the start."""
        with self.plain_errors():
            if not self.client.search_registered_models(f"name = '{MODEL}'"):
                self.client.create_registered_model(MODEL, description=CONTRACT.problem.question)
            return _version(self.client.create_model_version(MODEL, model_uri, run_id, tags=tags, model_id=model_id))

    def set_alias(self, alias: str, number: str) -> None:
        """Moves an alias to a version."""
        with self.plain_errors():
            self.client.set_registered_model_alias(MODEL, alias, number)

    def delete_alias(self, alias: str) -> None:
        """Deletes an alias."""
        with self.plain_errors():
            self.client.delete_registered_model_alias(MODEL, alias)

    def model_tag(self, key: str) -> str | None:
        """A tag of the model itself, which all versions share; None without the tag or the model."""
        with self.plain_errors():
            found = self.client.search_registered_models(f"name = '{MODEL}'")
            return found[0].tags.get(key) if found else None

    def set_model_tag(self, key: str, value: str) -> None:
        """Sets a tag of the model itself."""
        with self.plain_errors():
            self.client.set_registered_model_tag(MODEL, key, value)

    def delete_model_tag(self, key: str) -> None:
        """Deletes a tag of the model itself."""
        with self.plain_errors():
            self.client.delete_registered_model_tag(MODEL, key)

    def tag(self, number: str, key: str, value: Any) -> None:
        """Sets a tag of a version."""
        with self.plain_errors():
            self.client.set_model_version_tag(MODEL, number, key, str(value))

    def log_file(self, version: Version, file: Path) -> None:
        """Logs a file with the version's run; a file of the same name is replaced."""
        with self.transfer():
            self.client.log_artifact(version.run_id, str(file))

    def download_file(self, version: Version, path: str, folder: Path) -> Path | None:
        """Downloads a file of the version's run into a folder; None if the run has no such file."""
        with self.transfer():
            parent = path.rpartition("/")[0] or None
            if path not in [found.path for found in self.client.list_artifacts(version.run_id, parent)]:
                return None
            return Path(download_artifacts(run_id=version.run_id, artifact_path=path, dst_path=str(folder)))

    def read_json(self, version: Version, path: str) -> Any:
        """The content of a JSON file of the version's run; None if the run has no such file."""
        with tempfile.TemporaryDirectory() as folder:
            file = self.download_file(version, path, Path(folder))
            return read_json(file) if file else None

    def download(self, number: str, path: str = "", into: Path | None = None) -> Path:
        """Downloads a version's artifacts, or one of them, into a folder if one is given; returns the local path."""
        with self.transfer():
            uri = f"models:/{MODEL}/{number}/{path}".rstrip("/")
            return Path(download_artifacts(artifact_uri=uri, dst_path=str(into) if into else None))


def limit_s3(settings: Settings) -> None:
    """Gives boto3, which waits for minutes by default, the timeouts and retries of the MLflow client."""
    session = botocore.session.get_session()
    attempts = {"total_max_attempts": settings.mlflow_http_request_max_retries + 1}
    timeouts = {
        "connect_timeout": settings.mlflow_http_request_timeout,
        "read_timeout": settings.mlflow_artifact_upload_download_timeout,
    }
    session.set_default_client_config(Config(**timeouts, retries=attempts))
    boto3.setup_default_session(botocore_session=session)


def _version(found: ModelVersion) -> Version:
    # Stores differ in whether a version is a number or text.
    return Version(str(found.version), dict(found.tags), tuple(found.aliases), str(found.run_id))
