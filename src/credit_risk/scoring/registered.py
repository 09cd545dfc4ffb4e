"""The ONNX model of a registered version, checked before it is used."""

import tempfile
from pathlib import Path

from credit_risk.core.errors import ProjectError
from credit_risk.core.files import sha256
from credit_risk.formats.onnx_scorer import OnnxScorer
from credit_risk.formats.reference_rows import TOLERANCE, max_score_difference
from credit_risk.project.settings import settings
from credit_risk.registry import lineage
from credit_risk.registry.client import CHAMPION, ONNX_PATH, ONNX_SHA256, REFERENCE_ROWS_PATH, Registry
from credit_risk.registry.signed_model import check_signature


def download(registry: Registry, number: str | None) -> tuple[str, bytes]:
    """The number of a version, the champion's if none is given, and the bytes of its ONNX model.

    Raises:
        ProjectError: there is no such version, this code can't use it, or its files are not those registered.
    """
    version = registry.version(number) if number else registry.version_of(CHAMPION)
    if version is None:
        raise ProjectError(f"{registry.address} has no champion yet; run `uv run main.py` first, or name a --version")
    if why := lineage.reject_reason(version):
        raise ProjectError(why)
    with tempfile.TemporaryDirectory() as folder:
        onnx, rows = (
            registry.download(version.number, path, Path(folder)) for path in (ONNX_PATH, REFERENCE_ROWS_PATH)
        )
        try:
            check_signature(version, [onnx, rows], settings().model_public_key)
        except ProjectError as error:
            raise ProjectError(f"version {version.number} is rejected: {error}") from error
        if sha256(onnx) != version.tags.get(ONNX_SHA256):
            raise ProjectError(f"the ONNX model of version {version.number} is not the one that was registered")
        content = onnx.read_bytes()
        difference = max_score_difference(rows, OnnxScorer(content).score_rows)
    if not difference <= TOLERANCE:
        raise ProjectError(
            f"the reference rows of version {version.number} differ by {difference:.1e} from the registered scores"
        )
    return version.number, content
