"""Keeps the API's model cache in sync with the registry's champion; the only serving process that uses the registry.

Looks up the champion, downloads a new one, checks its digest, scores its reference rows, and only then moves the
cache's pointer, which the API's workers watch. A champion that fails a check is rejected and the last good one stays
active. When the registry is down it keeps trying; the API's /readyz shows the problem.

Usage: uv run 6.production/model_sync.py [--once]      started by serve.py; --once syncs once and ends
"""

from credit_risk.core.entry_point import describe, run

import argparse
import json
import random
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from credit_risk.core.errors import ProjectError
from credit_risk.formats.onnx_scorer import OnnxScorer
from credit_risk.project.settings import Settings, settings
from credit_risk.registry import lineage
from credit_risk.registry.client import (
    CHAMPION,
    LINEAGE_KEY,
    ONNX_PATH,
    ONNX_SHA256,
    REFERENCE_ROWS_PATH,
    Registry,
    Version,
)
from credit_risk.registry.error_messages import is_registry_error
from credit_risk.registry.promotion import events
from credit_risk.registry.registered_files import check_files
from credit_risk.serving import model_cache, prometheus
from credit_risk.serving.structured_log import log

FILES = {model_cache.ONNX: ONNX_PATH, model_cache.REFERENCE_ROWS: REFERENCE_ROWS_PATH}  # in the cache, in a version
REJECTED_SECONDS = 60  # until a rejected version is downloaded again: its files may have been repaired


def main() -> None:
    """Runs one sync, or loops."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="sync once and end")
    once = parser.parse_args().once
    current = settings()
    syncs = [ModelSync(current)]
    if current.shadow_alias:
        syncs.append(ModelSync(current, current.shadow_alias, current.shadow_cache))
    for sync in syncs:
        model_cache.check_folder(sync.cache)
    if once:
        print(syncs[0].sync_once())
        return
    while True:
        for sync in syncs:
            sync.sync_and_report()
        prometheus.flush()
        # Servers that start together must not query the registry in step.
        time.sleep(current.model_sync_seconds * random.uniform(0.8, 1.2))  # noqa: S311 (no secret)


class ModelSync:
    """Copies the registry's champion, or the version of another alias, into a model cache."""

    def __init__(self, settings: Settings, alias: str = CHAMPION, cache: Path | None = None) -> None:
        """Stores the settings; connects on first use, so that a registry that is down is an expected error."""
        self.settings, self.alias = settings, alias
        self.cache = cache or settings.model_cache
        self._reported = ""
        self.registry: Registry | None = None
        self._rejected: dict[str, tuple[float, str]] = {}  # by version: until when, and why

    def sync_and_report(self) -> None:
        """Syncs, and records and logs what is wrong."""
        problem = ""
        try:
            self.sync_once()
            model_cache.write_sync_status(self.cache, "")
        except (ProjectError, OSError) as error:  # a full disk, for example: the next sync may succeed
            problem = describe(error) or str(error)
            if problem != self._reported:
                log.warning("model not synced", alias=self.alias, reason=problem)
            with suppress(OSError):
                model_cache.write_sync_status(self.cache, problem)
        self._reported = problem

    def sync_once(self) -> str:
        """Updates the cache if the champion has changed; returns what was done, as a sentence.

        Raises:
            ProjectError: the registry does not answer or has no champion, or the champion is rejected.
        """
        try:
            result, version = self._sync()
        except (ProjectError, OSError):
            prometheus.REGISTRY_CHECKS.labels("failed").inc()
            raise
        prometheus.REGISTRY_CHECKS.labels(result).inc()
        if result == "installed":
            log.info("model installed", version=version)
        return f"version {version} is in the cache ({result})"

    def _sync(self) -> tuple[str, str]:
        self.registry = self.registry or Registry(self.settings)
        champion = self.registry.version_of(self.alias)
        if champion is None:
            raise ProjectError(f"{self.registry.address} has no {self.alias} yet; run `uv run main.py` first")
        if reason := lineage.reject_reason(champion):
            raise ProjectError(reason)
        if model_cache.is_current(self.cache, champion.number, champion.tags.get(ONNX_SHA256, "")):
            return "unchanged", champion.number
        until, reason = self._rejected.get(champion.number, (0.0, ""))
        if time.monotonic() < until:
            raise ProjectError(reason)
        with tempfile.TemporaryDirectory() as folder:
            try:
                files, scorer = self._checked_files(self.registry, champion, Path(folder))
            except ProjectError as error:
                if error.__cause__ and is_registry_error(error.__cause__, None):
                    raise  # says nothing about the version
                reason = f"version {champion.number} is rejected: {error}"
                self._rejected[champion.number] = (time.monotonic() + REJECTED_SECONDS, reason)
                raise ProjectError(reason) from error
            model_cache.install(self.cache, files, model_info(champion, scorer))
        return "installed", champion.number

    def _checked_files(self, registry: Registry, champion: Version, folder: Path) -> tuple[dict[str, Path], OnnxScorer]:
        """The champion's files: those that the cache has kept since it was active, else downloaded ones."""
        key = self.settings.model_public_key
        if kept := model_cache.kept_files(self.cache, champion.number, champion.tags.get(ONNX_SHA256, "")):
            with suppress(ProjectError):
                return kept, check_files(champion, list(kept.values()), key)
        files = {name: registry.download(champion.number, path, folder) for name, path in FILES.items()}
        return files, check_files(champion, list(files.values()), key)


def model_info(champion: Version, scorer: OnnxScorer) -> dict[str, Any]:
    """The answer of GET /model: the version, its lineage, and the results of its gates."""
    recorded = lineage.of(champion)
    gate = json.loads(champion.tags.get("gate.performance", "{}"))
    promoted = [event.time for event in events(champion) if event.kind == "promoted"]
    return {
        "version": champion.number,
        "threshold": scorer.metadata.threshold,
        "onnx_sha256": scorer.digest,
        "lineage_key": champion.tags.get(LINEAGE_KEY),
        "git_commit": recorded.get("git_commit"),
        "data": recorded.get("data"),
        "promoted": promoted[-1] if promoted else None,
        "gate": {check["name"]: check["measured"] for check in gate.get("checks", [])},
    }


if __name__ == "__main__":
    run("model sync", main)
