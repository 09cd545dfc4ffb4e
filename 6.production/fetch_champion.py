"""Fetches the champion from the registry into the API's cache: the only process of serving that knows MLflow.

A damaged or unknown model is refused, and the cache keeps pointing to the last good one.

Usage: uv run 6.production/fetch_champion.py
"""

import json
from typing import Any

import numpy as np

from credit_risk import champion_cache
from credit_risk.errors import CreditRiskError
from credit_risk.features import from_application
from credit_risk.golden import TOLERANCE, largest_difference
from credit_risk.promotion import events
from credit_risk.registry import CHAMPION, GOLDEN_PATH, LINEAGE_KEY, ONNX_PATH, ONNX_SHA256, Registry, Version
from credit_risk.scorer import Scorer
from credit_risk.script import run
from credit_risk.settings import Settings


def main() -> None:
    """Resolves the alias, downloads what serving needs, checks it, and installs it."""
    settings = Settings()
    registry = Registry(settings)
    champion = registry.version_of(CHAMPION)
    if champion is None:
        raise CreditRiskError(f"{registry.address} has no champion yet; run `uv run main.py` first")
    onnx, golden = (registry.download(champion.number, path) for path in (ONNX_PATH, GOLDEN_PATH))
    scorer = Scorer.load(onnx)
    if scorer.digest != champion.tags.get(ONNX_SHA256):
        raise CreditRiskError(f"version {champion.number} is refused: its ONNX form is not the one that was registered")
    difference = largest_difference(
        golden, lambda rows: np.concatenate([scorer.score(from_application(row)) for row in rows])
    )
    if not difference <= TOLERANCE:
        raise CreditRiskError(
            f"version {champion.number} is refused: its golden rows score {difference:.1e} off what was registered"
        )
    files = {champion_cache.ONNX: onnx, champion_cache.GOLDEN: golden}
    champion_cache.install(settings.model_cache, files, about(champion, scorer))
    print(f"version {champion.number} is in the cache")


def about(champion: Version, scorer: Scorer) -> dict[str, Any]:
    """What GET /model says: the version, where it comes from, and what the gates measured."""
    lineage = json.loads(champion.tags.get("lineage", "{}"))
    verdict = json.loads(champion.tags.get("gate.performance", "{}"))
    promoted = [event.time for event in events(champion) if event.kind == "promoted"]
    return {
        "version": champion.number,
        "threshold": scorer.facts.threshold,
        "onnx_sha256": scorer.digest,
        "lineage_key": champion.tags.get(LINEAGE_KEY),
        "git_commit": lineage.get("git_commit"),
        "data": lineage.get("data"),
        "promoted": promoted[-1] if promoted else None,
        "gate": {check["name"]: check["measured"] for check in verdict.get("checks", [])},
    }


if __name__ == "__main__":
    run("fetch champion", main)
