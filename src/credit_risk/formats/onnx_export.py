"""Converts the fitted pipeline to ONNX, with feature names and decision threshold as metadata in the file."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.helper import get_attribute_value, make_node, make_tensor_value_info, set_model_props
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier

from credit_risk.formats.onnx_scorer import GRAPH_NAME, INPUT_NAME, OUTPUT_NAME, OnnxMetadata
from credit_risk.formats.recalibration import SMALLEST, Sigmoid, sigmoid_of, without_recalibration

OPSET = 18


def export_onnx(pipeline: Any, metadata: OnnxMetadata) -> bytes:
    """Converts a pipeline on float32 features; the same pipeline gives the same bytes.

    Args:
        pipeline: fitted, classes 0 and 1.
        metadata: feature names in the order of the columns, and the decision threshold; a recalibration is added.

    Returns:
        The ONNX model: input (n, features), output (n, 1), the probability of class 1; both in float32.

    Raises:
        ValueError: the pipeline has other classes.
    """
    if list(pipeline.classes_) != [0, 1]:
        raise ValueError(f"the classes must be 0 and 1, not {list(pipeline.classes_)}")
    sigmoid = sigmoid_of(pipeline)
    model = to_onnx(
        with_float32_splits(without_recalibration(pipeline)),
        name=GRAPH_NAME,
        initial_types=[(INPUT_NAME, FloatTensorType([None, len(metadata.features)]))],
        options={"zipmap": False},
        target_opset={"": OPSET, "ai.onnx.ml": 3},
    )
    # The converter lists them in the order of a set, which differs between processes.
    opsets = sorted(model.opset_import, key=lambda opset: opset.domain)
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    keep_probability_only(model.graph)
    if sigmoid:
        append_sigmoid(model.graph, sigmoid)
        metadata = replace(metadata, recalibration=(sigmoid.slope, sigmoid.intercept))
    set_model_props(model, metadata.to_props())
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def keep_probability_only(graph: onnx.GraphProto) -> None:
    """Makes the probability of class 1 the only output of a converted classifier, without labels and class 0."""
    _, probabilities = (output.name for output in graph.output)
    *_, last = graph.node
    attributes = {attribute.name: get_attribute_value(attribute) for attribute in last.attribute}
    if last.op_type == "TreeEnsembleClassifier" and attributes["post_transform"] == b"LOGISTIC":
        # The same as a sum of trees and a logistic function, which ONNX Runtime computes a tenth faster.
        del attributes["classlabels_int64s"], attributes["post_transform"]
        renamed = {name.replace("class_", "target_"): value for name, value in attributes.items()}
        outputs = [
            make_node("TreeEnsembleRegressor", last.input, ["log_odds"], domain="ai.onnx.ml", n_targets=1, **renamed),
            make_node("Sigmoid", ["log_odds"], [OUTPUT_NAME]),
        ]
        graph.node.remove(last)
    else:
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "positive"))
        outputs = [make_node("Gather", [probabilities, "positive"], [OUTPUT_NAME], axis=1)]
    graph.node.extend(outputs)
    del graph.output[:]
    graph.output.append(make_tensor_value_info(OUTPUT_NAME, onnx.TensorProto.FLOAT, [None, 1]))


def append_sigmoid(graph: onnx.GraphProto, sigmoid: Sigmoid) -> None:
    """Recalibrates the probability, the only output: the lines of `Sigmoid.apply` in float32."""
    (last,) = (node for node in graph.node if OUTPUT_NAME in node.output)
    last.output[:] = ["raw"]
    numbers = {"least": SMALLEST, "most": 1 - SMALLEST, "one": 1.0, "slope": sigmoid.slope, "shift": sigmoid.intercept}
    graph.initializer.extend(
        onnx.numpy_helper.from_array(np.array(number, np.float32), name) for name, number in numbers.items()
    )
    steps = [
        ("Clip", ["raw", "least", "most"], "inside"),
        ("Sub", ["one", "inside"], "complement"),
        ("Div", ["inside", "complement"], "odds"),
        ("Log", ["odds"], "raw_log_odds"),
        ("Mul", ["raw_log_odds", "slope"], "sloped"),
        ("Add", ["sloped", "shift"], "shifted"),
        ("Sigmoid", ["shifted"], OUTPUT_NAME),
    ]
    graph.node.extend(make_node(kind, inputs, [output]) for kind, inputs, output in steps)


def with_float32_splits(pipeline: Any) -> Any:
    """A copy with float32 thresholds that sends every float32 row the same way through its trees.

    A tree of scikit-learn goes left when x <= t, with t in float64; ONNX stores t in float32. Rounding to the nearest
    may raise t, and a row between the two values would go the other way. Rounding down changes no row's way.
    """
    pipeline = deepcopy(pipeline)
    for splits in _splits(pipeline[-1]):
        nearest = splits.astype(np.float32)
        splits[:] = np.where(nearest > splits, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    return pipeline


def _splits(classifier: Any) -> Iterator[npt.NDArray[np.float64]]:
    """Yields the thresholds of each tree, as arrays that can be changed in place."""
    if isinstance(classifier, CalibratedClassifierCV):
        for calibrated in classifier.calibrated_classifiers_:
            yield from _splits(calibrated.estimator)
    elif isinstance(classifier, HistGradientBoostingClassifier):
        for trees in classifier._predictors:  # noqa: SLF001 (scikit-learn has no public access)
            for tree in trees:
                yield tree.nodes["num_threshold"]
    elif isinstance(classifier, RandomForestClassifier):
        for estimator in classifier.estimators_:
            yield estimator.tree_.threshold
