"""Section `monitor` of params.yaml."""

from pydantic import Field, field_validator

from credit_risk.contract import CONTRACT
from credit_risk.core.params import Params


class MonitorParams(Params):
    """When a window of predictions raises an alarm."""

    window_days: int = Field(ge=1)
    ignored_fields: tuple[str, ...] = ()
    min_rows: int = Field(ge=1)
    alpha: float = Field(gt=0, lt=1)
    min_psi: float = Field(ge=0)
    min_share_change: float = Field(ge=0, le=1)
    max_invalid_share: float = Field(ge=0, le=1)
    max_auc_drop: float = Field(ge=0, le=1)
    min_rate_gap: float = Field(ge=0, le=1)

    @field_validator("ignored_fields")
    @classmethod
    def check_fields(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """Each is a field of the contract."""
        for name in names:
            if name not in CONTRACT.field_names:
                raise ValueError(f"'{name}' is not a field of the contract")
        return names
