"""Scoring leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path


def test_scoring_reports_to_nobody(tmp_path: Path) -> None:
    """Where ONNX Runtime may report, it makes an identifier below the home folder before it does."""
    kept = {name: value for name, value in os.environ.items() if name not in {"CI", "ORT_DISABLE_TELEMETRY"}}
    program = "import credit_risk.formats.onnx_scorer as s; s.ort.SessionOptions()"
    subprocess.run([sys.executable, "-c", program], env=kept | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*")) == []
