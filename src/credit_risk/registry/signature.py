"""The contract as an MLflow model signature: applicant fields in, probabilities of both classes out."""

import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from credit_risk.contract import FIELDS, Number


def contract_signature() -> ModelSignature:
    """The signature a registered model must have.

    Numbers are doubles, also the whole ones: integers can't be missing. Output: shape (n, 2), probability of class 0
    (paid in full) and 1 (default).
    """
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.double if isinstance(field, Number) else DataType.string, field.name, required=field.required)
        for field in FIELDS
    ]
    return ModelSignature(Schema(inputs), Schema([TensorSpec(np.dtype(np.float64), (-1, 2))]))
