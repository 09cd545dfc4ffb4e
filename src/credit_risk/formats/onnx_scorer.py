"""Scoring with the model's serving form: ONNX Runtime and NumPy, nothing else."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from credit_risk.core.errors import ProjectError
from credit_risk.features import ALIKE, FEATURE_NAMES

GRAPH_NAME = "credit_risk"
INPUT_NAME, OUTPUT_NAME = "features", "probability_of_default"


@dataclass(frozen=True, slots=True)
class OnnxMetadata:
    """What the file says of itself: its features and the decision threshold."""

    features: tuple[str, ...]
    threshold: float

    def to_props(self) -> dict[str, str]:
        """As ONNX metadata."""
        return {"features": json.dumps(self.features), "threshold": repr(self.threshold)}

    @classmethod
    def from_props(cls, props: dict[str, str]) -> Self:
        """From ONNX metadata.

        Raises:
            KeyError, ValueError: an entry is missing or no value of its kind.
        """
        return cls(tuple(json.loads(props["features"])), float(props["threshold"]))


class Scorer:
    """A loaded serving form. Thread-safe; uses one thread a call and never spins."""

    def __init__(self, content: bytes, expected_features: tuple[str, ...] | None = FEATURE_NAMES) -> None:
        """Loads the bytes of an ONNX model.

        Args:
            content: the file's bytes.
            expected_features: what it must want; None to only look at what it says of itself.

        Raises:
            ProjectError: they are no such model, or it wants other features than this code computes.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            self.metadata = OnnxMetadata.from_props(self._session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # ONNX Runtime raises its own kinds, without a common base
            raise ProjectError(f"the ONNX model can't be loaded: {' '.join(str(error).split())[:200]}") from error
        if expected_features is not None and self.metadata.features != expected_features:
            raise ProjectError(
                f"the ONNX model wants features {', '.join(self.metadata.features)}, but this code computes "
                f"{', '.join(expected_features)}; serve it with the code it was made with, or retrain"
            )
        if [output.name for output in self._session.get_outputs()] != [OUTPUT_NAME]:
            raise ProjectError(f"the ONNX model does not answer with {OUTPUT_NAME} alone; train it anew")
        self.digest = hashlib.sha256(content).hexdigest()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Loads a file.

        Raises:
            ProjectError: as for the bytes, or the file can't be read.
        """
        try:
            return cls(path.read_bytes())
        except OSError as error:
            raise ProjectError(f"the ONNX model can't be read: {error}") from error

    def score(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Probability of default, shape (n,), of features of shape (n, len(FEATURES)) in float32."""
        (column,) = self._session.run([OUTPUT_NAME], {INPUT_NAME: features})
        scores: npt.NDArray[np.float32] = column[:, 0]
        return scores

    def score_many(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The same as `score`, a seventh faster for hundreds of rows.

        Loans that are alike take the same way through most trees. When they come after each other, the processor
        guesses that way right more often.
        """
        order = np.lexsort(features[:, ALIKE].T)
        scores = np.empty(len(features), np.float32)
        scores[order] = self.score(features[order])
        return scores
