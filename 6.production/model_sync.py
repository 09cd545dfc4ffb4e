"""Keeps the API's cache at the champion: the only process of serving that talks to the registry.

Asks who is champion, downloads a new one by its version, checks its digest, scores its reference rows, and only then
moves the cache's pointer, which the API's workers watch. A damaged or unknown model is refused and the last
good one stays. With the registry down it goes on trying, and what is wrong stands in the API's /readyz.

Usage: uv run 6.production/model_sync.py [--once]      started by serve.py; --once looks once and ends
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from credit_risk.core.entry_point import run
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import sha256
from credit_risk.core.settings import Settings, settings
from credit_risk.features import from_application
from credit_risk.formats.onnx_scorer import Scorer
from credit_risk.formats.reference_rows import TOLERANCE, max_score_difference
from credit_risk.registry.client import (
    CHAMPION,
    LINEAGE_KEY,
    ONNX_PATH,
    ONNX_SHA256,
    REFERENCE_ROWS_PATH,
    Registry,
    Version,
)
from credit_risk.registry.promotion import events
from credit_risk.serving import model_cache
from credit_risk.serving.prometheus import CHAMPION_CHECKS
from credit_risk.serving.structured_log import log

FILES = (ONNX_PATH, REFERENCE_ROWS_PATH)
REFUSED_SECONDS = 60  # until a refused version is downloaded again: its files may have been repaired


def main() -> None:
    """Looks once, or for ever."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="look once and end")
    once = parser.parse_args().once
    keeper = ModelSync(settings())
    if once:
        print(keeper.follow())
        return
    said = ""
    while True:
        problem = ""
        try:
            keeper.follow()
        except ProjectError as error:
            problem = str(error)
            if problem != said:
                log.warning("champion not followed", reason=problem)
        model_cache.report(keeper.cache, problem)
        said = problem
        # Many servers must not ask in step.
        time.sleep(keeper.settings.model_sync_seconds * random.uniform(0.8, 1.2))  # noqa: S311 (no secret)


class ModelSync:
    """Brings the cache to the champion, again and again."""

    def __init__(self, settings: Settings) -> None:
        """Takes the settings; connects on first use, so that a registry that is down is told as one."""
        self.settings = settings
        self.cache = settings.model_cache
        self.registry: Registry | None = None
        self._refused: dict[str, tuple[float, str]] = {}  # by version: until when, and why

    def follow(self) -> str:
        """Brings the cache to the champion; returns what was done, as a sentence.

        Raises:
            ProjectError: the registry does not answer, has no champion, or the champion is damaged.
        """
        try:
            result, version = self._follow()
        except ProjectError:
            CHAMPION_CHECKS.labels("failed").inc()
            raise
        CHAMPION_CHECKS.labels(result).inc()
        if result == "installed":
            log.info("champion installed", version=version)
        return f"version {version} is in the cache ({result})"

    def _follow(self) -> tuple[str, str]:
        self.registry = self.registry or Registry(self.settings)
        champion = self.registry.version_of(CHAMPION)
        if champion is None:
            raise ProjectError(f"{self.registry.address} has no champion yet; run `uv run main.py` first")
        if model_cache.is_current(self.cache, champion.number, champion.tags.get(ONNX_SHA256, "")):
            return "unchanged", champion.number
        until, why = self._refused.get(champion.number, (0.0, ""))
        if time.monotonic() < until:
            raise ProjectError(why)
        with tempfile.TemporaryDirectory() as folder:
            onnx, reference_rows = (self.registry.download(champion.number, path, Path(folder)) for path in FILES)
            self._install(champion, onnx, reference_rows)
        return "installed", champion.number

    def _install(self, champion: Version, onnx: Path, reference_rows: Path) -> None:
        try:
            scorer = checked(champion, onnx, reference_rows)
        except ProjectError as error:
            why = f"version {champion.number} is refused: {error}"
            self._refused[champion.number] = (time.monotonic() + REFUSED_SECONDS, why)
            raise ProjectError(why) from error
        files = {model_cache.ONNX: onnx, model_cache.REFERENCE_ROWS: reference_rows}
        model_cache.install(self.cache, files, about(champion, scorer))


def checked(champion: Version, onnx: Path, reference_rows: Path) -> Scorer:
    """The scorer of downloaded files.

    Raises:
        ProjectError: they are not what was registered; says in what.
    """
    if sha256(onnx) != champion.tags.get(ONNX_SHA256):  # before anything reads it
        raise ProjectError("its ONNX form is not the one that was registered")
    scorer = Scorer.load(onnx)
    try:
        difference = max_score_difference(
            reference_rows, lambda rows: np.concatenate([scorer.score(from_application(row)) for row in rows])
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ProjectError("its reference rows can't be read") from error
    if not difference <= TOLERANCE:
        raise ProjectError(f"its reference rows score {difference:.1e} off what was registered")
    return scorer


def about(champion: Version, scorer: Scorer) -> dict[str, Any]:
    """What GET /model says: the version, where it comes from, and what the gates measured."""
    lineage = json.loads(champion.tags.get("lineage", "{}"))
    verdict = json.loads(champion.tags.get("gate.performance", "{}"))
    promoted = [event.time for event in events(champion) if event.kind == "promoted"]
    return {
        "version": champion.number,
        "threshold": scorer.metadata.threshold,
        "onnx_sha256": scorer.digest,
        "lineage_key": champion.tags.get(LINEAGE_KEY),
        "git_commit": lineage.get("git_commit"),
        "data": lineage.get("data"),
        "promoted": promoted[-1] if promoted else None,
        "gate": {check["name"]: check["measured"] for check in verdict.get("checks", [])},
    }


if __name__ == "__main__":
    run("keeper", main)
