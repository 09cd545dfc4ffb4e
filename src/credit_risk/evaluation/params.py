"""Section `evaluate` of params.yaml."""

from pydantic import Field

from credit_risk.core.params import Params


class EvaluateParams(Params):
    """How the model is measured; `min_slice_rows` and `importance_rows` are of the report alone."""

    bootstrap_resamples: int = Field(ge=100)
    calibration_bins: int = Field(ge=2)
    leak_auc: float = Field(gt=0.5, le=1)
    min_slice_rows: int = Field(ge=10)
    importance_rows: int = Field(ge=100)
