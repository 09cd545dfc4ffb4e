"""Section `gates` of params.yaml."""

from typing import Literal, Self

from pydantic import Field, model_validator

from credit_risk.contract import CONTRACT
from credit_risk.core.params import Params


class ShadowDemands(Params):
    """What the prediction log must show of a version, scored in the shadow of the champion, before it is promoted."""

    days: int = Field(ge=1)
    rows: int = Field(ge=1)
    max_changed_decisions: float = Field(1, ge=0, le=1)
    max_psi: float | None = Field(None, ge=0)


class GateParams(Params):
    """Section `gates` of params.yaml."""

    mode: Literal["threshold", "champion"]
    min_auc: float = Field(ge=0.5, le=1)
    min_out_of_time_auc: float | None = Field(None, ge=0.5, le=1)
    max_calibration_error: float = Field(ge=0, le=1)
    calibration_bins: int = Field(ge=2)
    min_brier_skill: float = Field(ge=0, le=1)
    min_auc_over_logistic: float = Field(ge=-1, le=1)
    min_accuracy: float | None = Field(None, ge=0, le=1)
    cost_in_time: Literal["stop", "warn", "off"] = "stop"
    cost_out_of_time: Literal["stop", "warn", "off"] = "warn"
    leak_auc: float = Field(gt=0.5, le=1)
    margin: float = Field(ge=0)
    shadow: ShadowDemands | None = None
    bootstrap_resamples: int = Field(ge=100)
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def require_out_of_time_auc(self) -> Self:
        """A contract with a date has an out-of-time holdout, which needs a threshold."""
        if CONTRACT.has_date and self.min_out_of_time_auc is None:
            raise ValueError("min_out_of_time_auc is missing")
        return self
