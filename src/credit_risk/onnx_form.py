"""The serving form: the fitted pipeline compiled to ONNX, with what a scorer needs written into the file itself."""

from typing import Any

import onnx
from onnx.helper import set_model_props
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType

from credit_risk.scorer import GRAPH_NAME, INPUT_NAME, Facts

OPSET = 18


def compile_onnx(pipeline: Any, facts: Facts) -> bytes:
    """Compiles a pipeline on float32 features; the same pipeline gives the same bytes.

    Args:
        pipeline: fitted, classes 0 and 1.
        facts: the feature names in the order of the columns, and the decision threshold.

    Returns:
        The ONNX model: input (n, features) in float32, outputs label and probabilities (n, 2).
    """
    model = to_onnx(
        pipeline,
        name=GRAPH_NAME,
        initial_types=[(INPUT_NAME, FloatTensorType([None, len(facts.features)]))],
        options={"zipmap": False},
        target_opset={"": OPSET, "ai.onnx.ml": 3},
    )
    # The converter lists them in the order of a set, which differs from process to process.
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    set_model_props(model, facts.to_props())
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content
