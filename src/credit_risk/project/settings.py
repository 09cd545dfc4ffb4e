"""Settings from environment variables: addresses, secrets and limits, with defaults for a laptop."""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root, sqlite_url

# Secrets of examples and templates.
PLACEHOLDERS = {
    *("admin", "change-me", "changeme", "changethis", "dummy", "example", "key", "minio", "minioadmin"),
    *("mlflow", "password", "placeholder", "postgres", "secret", "test"),
}
_PLACEHOLDER_DIGESTS = {hashlib.sha256(word.encode()).hexdigest() for word in {*PLACEHOLDERS, ""}}
_SHA256 = r"^[0-9a-f]{64}$"

Words = Annotated[tuple[str, ...], NoDecode]  # comma-separated in the environment
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(gt=0, le=2**31 - 1)]


class Settings(BaseSettings):
    """The environment variables that this project reads; an empty one counts as unset.

    boto3 and MLflow read AWS_* and MLFLOW_TRACKING_* themselves. Their secrets are listed here to be checked.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True)

    app_env: Literal["development", "production"] = Field(
        "development", description="production requires API keys and rejects placeholder secrets"
    )
    mlflow_tracking_uri: str = Field(
        default_factory=lambda: sqlite_url(root() / "3.experiments" / "mlflow.db"),
        description="Store of runs and model versions: a SQLite file on a laptop, an MLflow server elsewhere",
    )
    mlflow_tracking_password: SecretStr | None = Field(None, description="Password of MLFLOW_TRACKING_USERNAME")
    aws_secret_access_key: SecretStr | None = Field(
        None, description="Secret of AWS_ACCESS_KEY_ID for S3; not needed with a role"
    )
    mlflow_http_request_timeout: int = Field(
        10, gt=0, le=3_600, description="Seconds until an MLflow server that does not answer counts as down"
    )
    mlflow_http_request_max_retries: int = Field(
        2, ge=0, le=10, description="Retries of a request to the MLflow server"
    )
    mlflow_artifact_upload_download_timeout: int = Field(
        60, gt=0, le=3_600, description="Seconds until a store that is sent or asked for a model counts as down"
    )
    model_public_key: str = Field(
        "", description="Line that 6.production/sign_model.py prints: load only versions signed with its private key"
    )
    model_cache: Path = Field(
        default_factory=lambda: root() / "6.production" / "cache",
        description="Folder of the served model",
    )
    model_sync_seconds: Seconds = Field(
        2, description="Seconds between two syncs of the served model with the registry"
    )
    prediction_log: Path | None = Field(
        None, description="Folder of the prediction log, to which each worker adds what it has scored; off without it"
    )
    monitoring_store: str = Field(
        default_factory=lambda: str(root() / "6.production" / "monitoring" / "store"),
        description="Folder or s3:// address of shipped predictions and outcomes",
    )
    api_keys_sha256: Words = Field((), description="SHA-256 of each accepted API key, in hexadecimal, comma-separated")
    cors_origins: Words = Field((), description="Origins whose pages may call the API, comma-separated")
    max_body_bytes: Count = Field(16_384, description="Largest body of a single request, and longest line of a stream")
    max_batch_bytes: Count = Field(16_777_216, description="Largest body of a JSON batch")
    max_batch_rows: Count = Field(10_000, description="Most rows in a JSON batch")
    max_stream_rows: Count = Field(1_000_000, description="Most rows in an NDJSON stream")
    request_timeout_seconds: Seconds = Field(10, description="Seconds until a request body must have arrived")
    max_in_flight: Count = Field(256, description="Requests that a worker handles at once; further ones get 503")
    max_queue_seconds: Seconds = Field(
        1, description="Longest delay of the worker's event loop; beyond it, requests get 503"
    )
    drain_seconds: float = Field(
        1, ge=0, le=3_600, description="Seconds of serving after SIGTERM while /readyz reports not ready"
    )
    log_requests: Literal["errors", "all"] = Field("errors", description="Which requests are logged")
    max_batches: Count = Field(
        16, description="Batches and streams that a worker handles at once, in addition to other requests"
    )
    stream_timeout_seconds: Seconds = Field(
        600, description="Seconds until an NDJSON stream must have been sent and answered"
    )
    stream_min_bytes_per_second: int = Field(
        100, ge=0, le=2**31 - 1, description="An NDJSON stream that is slower after REQUEST_TIMEOUT_SECONDS is ended"
    )
    internal_port: int | None = Field(
        None, gt=0, le=65_535, description="Port of /metrics and /status, for no load balancer (default: the API's own)"
    )
    prediction_log_share: float = Field(
        1, gt=0, le=1, description="Share of the scored rows that are logged, at random"
    )
    prediction_log_exclude: Words = Field((), description="Fields that the prediction log leaves out, comma-separated")
    shadow_alias: str | None = Field(
        None, description="Alias of a version that is scored next to the champion, for log and metrics: challenger"
    )

    @property
    def shadow_cache(self) -> Path:
        """Folder of the model that SHADOW_ALIAS names."""
        return self.model_cache / ".shadow"

    @field_validator("api_keys_sha256", "cors_origins", "prediction_log_exclude", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value

    @field_validator("api_keys_sha256")
    @classmethod
    def _check_digests(cls, digests: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.match(_SHA256, digest) for digest in digests):
            raise ValueError(
                "must be SHA-256 digests of 64 hexadecimal digits; make one with 6.production/new_api_key.py"
            )
        return digests

    @field_validator("mlflow_tracking_uri")
    @classmethod
    def _check_uri(cls, uri: str) -> str:
        try:
            parts = urlsplit(uri)
            readable = parts.port is None or parts.port > 0
        except ValueError:
            readable = False
        if not readable or (parts.scheme in {"http", "https"} and not parts.hostname):
            raise ValueError("must be an address such as http://host:5000")
        if parts.scheme == "sqlite" and not re.match(r"sqlite:///[^?]", uri):
            raise ValueError("must name a file, such as sqlite:////folder/mlflow.db")
        return uri

    @model_validator(mode="after")
    def reject_placeholders(self) -> Self:
        """Rejects placeholder secrets in production.

        Raises:
            ProjectError: a password or key is a placeholder.
        """
        if self.app_env != "production":
            return self
        if _PLACEHOLDER_DIGESTS & set(self.api_keys_sha256):
            raise ProjectError("API_KEYS_SHA256 holds a placeholder; make a key with 6.production/new_api_key.py")
        held = {
            "MLFLOW_TRACKING_PASSWORD": self.mlflow_tracking_password,
            "MLFLOW_TRACKING_URI": SecretStr(unquote(urlsplit(self.mlflow_tracking_uri).password or "")),
            "AWS_SECRET_ACCESS_KEY": self.aws_secret_access_key,
        }
        for name, secret in held.items():
            if secret and _is_placeholder(secret.get_secret_value()):
                raise ProjectError(f"{name} holds a placeholder; APP_ENV=production needs a secret of your own")
        return self


def _is_placeholder(secret: str) -> bool:
    letters = re.sub(r"[^a-z]", "", secret.lower())  # so that change_me and Password123! count too
    # The example keys in AWS's documentation end like this.
    return letters in PLACEHOLDERS or letters.startswith("your") or letters.endswith(("example", "examplekey"))


def settings() -> Settings:
    """The environment's settings.

    Raises:
        ProjectError: a variable is invalid; names it, without its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        name = ".".join(str(part) for part in first["loc"]).upper()
        reason = first["msg"].removeprefix("Value error, ").replace("Input should", "must")
        raise ProjectError(f"environment: {name + ' ' if name else ''}{reason}") from None


def serving_settings() -> Settings:
    """The settings of a server.

    Raises:
        ProjectError: a variable is invalid, or production has no API keys.
    """
    current = settings()
    if current.app_env == "production" and not current.api_keys_sha256:
        raise ProjectError("APP_ENV=production needs API_KEYS_SHA256; make a key with 6.production/new_api_key.py")
    return current
