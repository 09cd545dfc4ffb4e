"""Section `retrain` of params.yaml."""

from typing import Literal

from pydantic import Field

from credit_risk.core.params import Params

Policy = Literal["never", "scheduled", "on_drift", "recalibrate"]


class RetrainParams(Params):
    """When `main.py retrain` trains, and on how many of the newest rows it recalibrates at most."""

    policy: Policy
    recalibration_rows: int = Field(ge=100)
