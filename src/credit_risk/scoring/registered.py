"""The ONNX model of a registered version, checked before it is used."""

import tempfile
from pathlib import Path

from credit_risk.core.errors import ProjectError
from credit_risk.project.settings import settings
from credit_risk.registry import lineage
from credit_risk.registry.client import Registry
from credit_risk.registry.registered_files import check_files
from credit_risk.registry.signed_model import SIGNED


def download(registry: Registry, number: str | None) -> tuple[str, bytes]:
    """The number of a version, the champion's if none is given, and the bytes of its ONNX model.

    Raises:
        ProjectError: there is no such version, this code can't use it, or its files are not those registered.
    """
    version = registry.version_or_champion(number)
    if why := lineage.reject_reason(version):
        raise ProjectError(why)
    with tempfile.TemporaryDirectory() as folder:
        files = [registry.download(version.number, path, Path(folder)) for path in SIGNED]
        try:
            check_files(version, files, settings().model_public_key)
        except ProjectError as error:
            raise ProjectError(f"version {version.number} is rejected: {error}") from error
        return version.number, files[0].read_bytes()
