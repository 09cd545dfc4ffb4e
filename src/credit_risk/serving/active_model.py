"""The active model: the one that this worker serves, replaced between two requests when the cache's pointer moves."""

import asyncio
import time
from functools import cached_property
from pathlib import Path
from typing import Any

from prometheus_client import Gauge

from credit_risk.core.arrays import log_odds
from credit_risk.core.errors import ProjectError
from credit_risk.features import FEATURES
from credit_risk.serving import model_cache
from credit_risk.serving.explanations import Explainer
from credit_risk.serving.micro_batching import MicroBatcher
from credit_risk.serving.model_cache import CachedModel
from credit_risk.serving.problem_details import Problem
from credit_risk.serving.prometheus import MODEL_EXPECTED, MODEL_LOADS, MODEL_SERVED
from credit_risk.serving.reasons import Reasons
from credit_risk.serving.structured_log import log

POLL_SECONDS = 0.5  # between two checks of the pointer
# Until a version that failed to load is tried again, twice as long each time: the cause may have been a passing one.
RETRY_SECONDS, MAX_RETRY_SECONDS = 1, 60


class LoadedModel:
    """A loaded model, with what predictions need of it."""

    def __init__(self, cached: CachedModel) -> None:
        self.cached = cached
        self.version = cached.version
        self.scorer = cached.scorer
        self.threshold = cached.scorer.metadata.threshold
        self.batcher = MicroBatcher(cached.scorer)

    @cached_property
    def accepted_rows(self) -> list[dict[str, Any]]:
        """The reference rows that the model accepts, or all if it accepts none."""
        rows, scores = self.cached.reference_rows["rows"], self.cached.reference_rows["scores"]
        return [row for row, score in zip(rows, scores, strict=True) if score < self.threshold] or rows

    @cached_property
    def explainer(self) -> Explainer:
        """Explains predictions, compared with the rows that the model accepts."""
        score = self.scorer.score
        return Explainer(lambda columns: log_odds(score(FEATURES.from_columns(columns))), self.accepted_rows)

    @cached_property
    def reasons(self) -> Reasons:
        """Words the reasons for predictions."""
        return Reasons(self.accepted_rows)


class ActiveModel:
    """Holds the active model. A request calls `get()` once, so that its response comes from one model."""

    def __init__(self, cache: Path, served: Gauge = MODEL_SERVED, expected: Gauge = MODEL_EXPECTED) -> None:
        self._cache, self._served_gauge, self._expected_gauge = cache, served, expected
        self._stamp: tuple[int, int] | None = None
        self._failed_stamp: tuple[int, int] | None = None
        self._retry_at, self._retry_seconds = 0.0, 0.0
        self._model: LoadedModel | None = None
        self._expected = ""
        self.problem = "no model has been fetched yet"  # why the expected version is not served; empty if it is

    def get(self) -> LoadedModel:
        """The active model.

        Raises:
            Problem: 503, there is none; `problem` gives the reason, which is not for clients.
        """
        if self._model is None:
            raise Problem(503, "no model has been loaded yet", headers=[("retry-after", "5")])
        return self._model

    @property
    def loaded(self) -> bool:
        """Whether there is one."""
        return self._model is not None

    def status(self) -> str:
        """What this worker serves, and why it isn't what it should serve."""
        if self._model is None:
            return self.problem
        version = self._model.version
        return f"serving version {version}" + (
            f", not version {self._expected}: {self.problem}" if self.problem else ""
        )

    def refresh(self) -> None:
        """Loads the cache's active version if the pointer has moved; if that fails, the last good model stays."""
        stamp = model_cache.pointer_stamp(self._cache)
        if stamp == self._stamp or (stamp == self._failed_stamp and time.monotonic() < self._retry_at):
            return
        self._expect(model_cache.active_version(self._cache))
        try:
            model = self._load()
        except Exception as error:  # noqa: BLE001 (a worker that can't load a model has to go on)
            self._fail(stamp, error)
            return
        if self._model:
            self._served_gauge.labels(self._model.version).set(0)
        self._stamp, self._failed_stamp, self._model, self.problem = stamp, None, model, ""
        self._expect(model.version)
        self._served_gauge.labels(model.version).set(1)
        MODEL_LOADS.labels("loaded").inc()
        log.info("model loaded", version=model.version)

    def _load(self) -> LoadedModel:
        cached = model_cache.load(self._cache)
        cached.scorer.score(FEATURES.from_row(cached.reference_rows["rows"][0]))  # the first call is slow
        return LoadedModel(cached)

    def _expect(self, version: str) -> None:
        if version != self._expected:
            if self._expected:
                self._expected_gauge.labels(self._expected).set(0)
            if version:
                self._expected_gauge.labels(version).set(1)
            self._expected = version

    def _fail(self, stamp: tuple[int, int] | None, error: Exception) -> None:
        if stamp != self._failed_stamp:
            self._retry_seconds = RETRY_SECONDS
            log.error("model not loaded", reason=str(error), exc_info=not isinstance(error, ProjectError))
        else:
            self._retry_seconds = min(2 * self._retry_seconds, MAX_RETRY_SECONDS)
        self.problem = str(error)
        self._failed_stamp, self._retry_at = stamp, time.monotonic() + self._retry_seconds
        MODEL_LOADS.labels("failed").inc()

    async def poll(self) -> None:
        """Waits POLL_SECONDS and refreshes, in a thread: the event loop goes on answering requests."""
        await asyncio.sleep(POLL_SECONDS)
        await asyncio.to_thread(self.refresh)
