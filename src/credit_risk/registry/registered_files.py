"""Checks downloaded files of a version before they are used: they must be those that were registered."""

from pathlib import Path

from credit_risk.core.errors import ProjectError
from credit_risk.core.files import sha256
from credit_risk.formats.onnx_scorer import OnnxScorer
from credit_risk.formats.reference_rows import TOLERANCE, max_score_difference
from credit_risk.registry.client import ONNX_SHA256, Version
from credit_risk.registry.signed_model import check_signature


def check_files(version: Version, files: list[Path], public_key: str) -> OnnxScorer:
    """Checks signature, digest and reference rows; returns the scorer.

    Args:
        version: as it is in the registry.
        files: the downloaded SIGNED, that is ONNX model and reference rows.
        public_key: see `check_signature`.

    Raises:
        ProjectError: they are not what was registered; the message says how.
    """
    check_signature(version, files, public_key)
    onnx, reference_rows = files
    if sha256(onnx) != version.tags.get(ONNX_SHA256):  # before the file is parsed
        raise ProjectError("its ONNX model is not the one that was registered")
    scorer = OnnxScorer.load(onnx)
    try:
        difference = max_score_difference(reference_rows, scorer.score_rows)
    except (ValueError, KeyError, TypeError) as error:
        raise ProjectError("its reference rows can't be read") from error
    if not difference <= TOLERANCE:
        raise ProjectError(f"the scores of its reference rows differ by {difference:.1e} from the registered ones")
    return scorer
