"""The active model: the one that this worker serves, replaced between two requests when the cache's pointer moves."""

import asyncio
import time
from functools import cached_property
from pathlib import Path

from credit_risk.core.errors import ProjectError
from credit_risk.features import FEATURES
from credit_risk.serving import model_cache
from credit_risk.serving.explanations import Explainer, log_odds
from credit_risk.serving.micro_batching import MicroBatcher
from credit_risk.serving.model_cache import CachedModel
from credit_risk.serving.problem_details import Problem
from credit_risk.serving.prometheus import MODEL_INFO, MODEL_LOADS
from credit_risk.serving.structured_log import log

POLL_SECONDS = 0.5  # between two checks of the pointer
RETRY_SECONDS = 5  # until a version that failed to load is tried again: the cause may have been a passing one


class LoadedModel:
    """A loaded model, with what predictions need of it."""

    def __init__(self, cached: CachedModel) -> None:
        self.cached = cached
        self.version = cached.version
        self.scorer = cached.scorer
        self.threshold = cached.scorer.metadata.threshold
        self.batcher = MicroBatcher(cached.scorer)

    @cached_property
    def explainer(self) -> Explainer:
        """Explains predictions against the reference rows that the model accepts, or all if it accepts none."""
        rows, scores = self.cached.reference_rows["rows"], self.cached.reference_rows["scores"]
        accepted = [row for row, score in zip(rows, scores, strict=True) if score < self.threshold]
        return Explainer(lambda columns: log_odds(self.scorer.score(FEATURES.from_columns(columns))), accepted or rows)


class ActiveModel:
    """Holds the active model. A request calls `get()` once, so that its response comes from one model."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._stamp: tuple[int, int] | None = None
        self._failed_stamp: tuple[int, int] | None = None
        self._retry_at = 0.0
        self._model: LoadedModel | None = None
        self._problem = "no model has been fetched yet"

    def get(self) -> LoadedModel:
        """The active model.

        Raises:
            Problem: 503, there is none; the detail gives the reason.
        """
        if self._model is None:
            raise Problem(503, self._problem, headers=[("retry-after", "5")])
        return self._model

    def refresh(self) -> None:
        """Loads the cache's active version if the pointer has moved; if that fails, the last good model stays."""
        stamp = model_cache.pointer_stamp(self._cache)
        if stamp == self._stamp or (stamp == self._failed_stamp and time.monotonic() < self._retry_at):
            return
        try:
            cached = model_cache.load(self._cache)
            cached.scorer.score(FEATURES.from_row(cached.reference_rows["rows"][0]))  # the first call is slow
        except ProjectError as error:
            if stamp != self._failed_stamp:
                log.error("model not loaded", reason=str(error))
            self._problem = str(error)
            self._failed_stamp, self._retry_at = stamp, time.monotonic() + RETRY_SECONDS
            MODEL_LOADS.labels("failed").inc()
            return
        if self._model:
            MODEL_INFO.labels(self._model.version).set(0)
        self._stamp, self._model = stamp, LoadedModel(cached)
        MODEL_INFO.labels(cached.version).set(1)
        MODEL_LOADS.labels("loaded").inc()
        log.info("model loaded", version=cached.version)

    async def poll(self) -> None:
        """Waits POLL_SECONDS and refreshes, in a thread: the event loop goes on answering requests."""
        await asyncio.sleep(POLL_SECONDS)
        await asyncio.to_thread(self.refresh)
