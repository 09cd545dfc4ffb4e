"""The training environment: the exact packages that a model was made with, as one hash."""

import hashlib
import os
import shutil
import subprocess

from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root
from credit_risk.core.streams import last_line

LOCK = "requirements-pipeline.lock"  # the committed export, for installing without uv.lock
_TRAINING = ["--no-default-groups", "--group", "pipeline"]  # a new test tool must not retrain the model
_EXPORT = ["export", "--frozen", *_TRAINING, "--no-emit-project", "--no-header", "--no-annotate", "--quiet"]


def environment_sha256() -> str:
    """SHA-256 of the exact versions and hashes of the training packages, as `uv export` lists them.

    Without uv.lock (packages installed from the committed export), it is the hash of that export: the same bytes.

    Raises:
        ProjectError: uv, or the export, is missing or fails.
    """
    if not (root() / "uv.lock").exists():
        if not (root() / LOCK).exists():
            raise ProjectError(f"uv.lock and {LOCK} are missing; make the first with `uv lock`")
        return hashlib.sha256((root() / LOCK).read_bytes()).hexdigest()
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise ProjectError("uv is not on the PATH; install it with `pip install uv`, and run with `uv run`")
    result = subprocess.run([uv, *_EXPORT], cwd=root(), capture_output=True, check=False)
    if result.returncode:
        raise ProjectError(f"the packages can't be listed: {last_line(result.stderr.decode())}")
    return hashlib.sha256(result.stdout).hexdigest()
