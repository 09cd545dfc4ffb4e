"""Addresses and secrets: from environment variables, with defaults for a laptop. Standard names stay standard."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings

from credit_risk.paths import root


class Settings(BaseSettings):
    """The environment. AWS_* and MLFLOW_S3_ENDPOINT_URL are read by boto3 and MLflow themselves."""

    mlflow_tracking_uri: str = Field(
        default_factory=lambda: f"sqlite:///{root() / '3.experiments' / 'mlflow.db'}",
        description="Where runs and model versions are: a SQLite file on a laptop, an MLflow server elsewhere",
    )
    mlflow_http_request_timeout: int = Field(10, description="Seconds until a silent MLflow server counts as down")
    mlflow_http_request_max_retries: int = Field(2, description="How often a request to it is tried again")
    model_cache: Path = Field(
        default_factory=lambda: root() / "6.production" / "cache",
        description="Folder in which the API keeps the champion it last served",
    )
