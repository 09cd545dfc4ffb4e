"""The model that this worker serves, swapped between two requests when the cache's pointer moves."""

import asyncio
import json
from functools import cached_property
from pathlib import Path

from credit_risk import champion_cache
from credit_risk.champion_cache import ServedModel
from credit_risk.errors import CreditRiskError
from credit_risk.features import from_application, from_columns
from credit_risk.reasons import Reasons, log_odds
from credit_risk.serving.log import log
from credit_risk.serving.metrics import MODEL, MODEL_LOADS
from credit_risk.serving.problems import Problem
from credit_risk.serving.together import Together

SCHEMA_VERSION = 1  # of the answers; a change that breaks readers raises it
POLL_SECONDS = 0.5  # one look at the file system each


class Answering:
    """A loaded model with what answers of it need."""

    def __init__(self, model: ServedModel) -> None:
        """Prepares it."""
        self.model = model
        self.scorer = model.scorer
        self.together = Together(model.scorer)
        self.threshold = model.scorer.facts.threshold
        # The end of each answer, in JSON: what depends on the model alone.
        self.tail = (
            f',"threshold":{self.threshold!r},"model_version":{json.dumps(model.version)},'
            f'"schema_version":{SCHEMA_VERSION}}}'
        )

    @cached_property
    def reasons(self) -> Reasons:
        """Explains scores against held-out applicants that the model would approve."""
        golden, scores = self.model.golden["applications"], self.model.golden["scores"]
        approved = [row for row, score in zip(golden, scores, strict=True) if score < self.threshold]
        return Reasons(lambda columns: log_odds(self.scorer.score(from_columns(columns))), approved or golden)


class Champion:
    """Holds the served model. A request takes `get()` once, so its answer comes from one model throughout."""

    def __init__(self, cache: Path) -> None:
        """Takes the cache's folder; loads nothing yet."""
        self._cache = cache
        self._stamp: tuple[int, int] | None = None
        self._model: Answering | None = None
        self._reason = "no model has been fetched yet"

    def get(self) -> Answering:
        """The model.

        Raises:
            Problem: 503, there is none; says why.
        """
        if self._model is None:
            raise Problem(503, self._reason, headers=[("retry-after", "5")])
        return self._model

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
            MODEL.labels(self._model.model.version).set(0)
        self._model = Answering(model)
        MODEL.labels(model.version).set(1)
        MODEL_LOADS.labels("loaded").inc()
        log.info("model loaded", version=model.version)

    async def watch(self) -> None:
        """Refreshes for ever; loads beside the event loop, which goes on answering meanwhile."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await asyncio.to_thread(self.refresh)
