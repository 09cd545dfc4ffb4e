"""The training environment as one hash: which exact packages a model was made with."""

import hashlib
import os
import shutil
import subprocess

from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root

_TRAINING = ["--no-default-groups", "--group", "pipeline"]  # a new test tool must not retrain the model
_EXPORT = ["export", "--frozen", *_TRAINING, "--no-emit-project", "--no-header", "--no-annotate", "--quiet"]


def environment_sha256() -> str:
    """SHA-256 of the exact versions and hashes of the training packages, as `uv export` lists them: no addresses in it.

    Raises:
        ProjectError: uv or its lock is missing.
    """
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise ProjectError("uv is not on the PATH; install it with `pip install uv`, and run with `uv run`")
    result = subprocess.run([uv, *_EXPORT], cwd=root(), capture_output=True, check=False)
    if result.returncode:
        raise ProjectError(f"the environment can't be listed: {result.stderr.decode().strip().splitlines()[-1]}")
    return hashlib.sha256(result.stdout).hexdigest()
