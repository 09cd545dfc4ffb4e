"""The contract as an MLflow model signature: fields in, probabilities of both classes out."""

import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec

from credit_risk.contract import CONTRACT
from credit_risk.core.schema import Number


def contract_signature() -> ModelSignature:
    """The signature that a registered model must have.

    Numbers are doubles, whole ones too: MLflow's integers can't be missing. Output: shape (n, 2), the probabilities of
    classes 0 (negative) and 1 (positive).
    """
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.double if isinstance(field, Number) else DataType.string, field.name, required=field.required)
        for field in CONTRACT.fields
    ]
    return ModelSignature(Schema(inputs), Schema([TensorSpec(np.dtype(np.float64), (-1, 2))]))
