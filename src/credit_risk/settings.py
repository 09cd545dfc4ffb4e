"""Addresses and secrets: from environment variables, with defaults for a laptop. Standard names stay standard."""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings

from credit_risk.errors import CreditRiskError
from credit_risk.paths import root

PLACEHOLDERS = {"admin", "changeme", "changethis", "minioadmin", "mlflow", "password", "postgres", "secret", "test"}


class Settings(BaseSettings):
    """The environment. AWS_* and MLFLOW_TRACKING_USERNAME are read by boto3 and MLflow themselves."""

    app_env: Literal["development", "production"] = Field(
        "development", description="`production` refuses placeholder passwords"
    )
    mlflow_tracking_uri: str = Field(
        default_factory=lambda: f"sqlite:///{root() / '3.experiments' / 'mlflow.db'}",
        description="Where runs and model versions are: a SQLite file on a laptop, an MLflow server elsewhere",
    )
    mlflow_tracking_password: SecretStr | None = Field(None, description="Of MLFLOW_TRACKING_USERNAME, for the server")
    mlflow_http_request_timeout: int = Field(10, description="Seconds until a silent MLflow server counts as down")
    mlflow_http_request_max_retries: int = Field(2, description="How often a request to it is tried again")
    model_cache: Path = Field(
        default_factory=lambda: root() / "6.production" / "cache",
        description="Folder in which the API keeps the champion it last served",
    )

    @model_validator(mode="after")
    def refuse_placeholders(self) -> Self:
        """Nobody may go into production with the password of an example.

        Raises:
            CreditRiskError: a password is one of PLACEHOLDERS.
        """
        given = self.mlflow_tracking_password.get_secret_value() if self.mlflow_tracking_password else None
        for password in (given, urlsplit(self.mlflow_tracking_uri).password):
            if self.app_env == "production" and password and password.lower().strip("-_!123") in PLACEHOLDERS:
                raise CreditRiskError("the password of the MLflow server is a placeholder; set a secret one")
        return self
