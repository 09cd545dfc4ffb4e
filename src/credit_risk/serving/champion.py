"""The model that this worker serves, swapped between two requests when the cache's pointer moves."""

import asyncio
from pathlib import Path

from credit_risk import champion_cache
from credit_risk.champion_cache import ServedModel
from credit_risk.errors import CreditRiskError
from credit_risk.features import from_application
from credit_risk.serving.log import log
from credit_risk.serving.metrics import MODEL, MODEL_LOADS
from credit_risk.serving.problems import Problem

POLL_SECONDS = 0.5  # one look at the file system each


class Champion:
    """Holds the served model. A request takes `get()` once, so its answer comes from one model throughout."""

    def __init__(self, cache: Path) -> None:
        """Takes the cache's folder; loads nothing yet."""
        self._cache = cache
        self._stamp: tuple[int, int] | None = None
        self._model: ServedModel | None = None
        self._reason = "no model has been fetched yet"

    def get(self) -> ServedModel:
        """The model.

        Raises:
            Problem: 503, there is none; says why.
        """
        if self._model is None:
            raise Problem(503, self._reason, headers=[("retry-after", "5")])
        return self._model

    @property
    def loaded(self) -> bool:
        """Whether there is a model."""
        return self._model is not None

    def refresh(self) -> None:
        """Loads what the pointer names, if it has moved; what can't be loaded leaves the last good model in place."""
        stamp = champion_cache.pointer_stamp(self._cache)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            model = champion_cache.load(self._cache)
            model.scorer.score(from_application(model.golden["applications"][0]))  # the first run is a slow one
        except CreditRiskError as error:
            self._reason = str(error)
            MODEL_LOADS.labels("failed").inc()
            log.error("model not loaded", reason=self._reason)
            return
        if self._model:
            MODEL.labels(self._model.version).set(0)
        self._model = model
        MODEL.labels(model.version).set(1)
        MODEL_LOADS.labels("loaded").inc()
        log.info("model loaded", version=model.version)

    async def watch(self) -> None:
        """Refreshes for ever; loads beside the event loop, which goes on answering meanwhile."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await asyncio.to_thread(self.refresh)
