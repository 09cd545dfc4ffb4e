"""The model that this worker serves, swapped between two requests when the cache's pointer moves."""

import asyncio
import json
from functools import cached_property
from pathlib import Path

from credit_risk.core.errors import ProjectError
from credit_risk.features import from_application, from_columns
from credit_risk.serving import model_cache
from credit_risk.serving.explanations import Explainer, log_odds
from credit_risk.serving.micro_batching import MicroBatcher
from credit_risk.serving.model_cache import CachedModel
from credit_risk.serving.problem_details import Problem
from credit_risk.serving.prometheus import MODEL, MODEL_LOADS
from credit_risk.serving.structured_log import log

SCHEMA_VERSION = 1  # of the answers; a change that breaks readers raises it
POLL_SECONDS = 0.5  # one look at the file system each


class LoadedModel:
    """A loaded model with what answers of it need."""

    def __init__(self, model: CachedModel) -> None:
        """Prepares it."""
        self.model = model
        self.scorer = model.scorer
        self.together = MicroBatcher(model.scorer)
        self.threshold = model.scorer.metadata.threshold
        # The end of each answer, in JSON: what depends on the model alone.
        self.tail = (
            f',"threshold":{self.threshold!r},"model_version":{json.dumps(model.version)},'
            f'"schema_version":{SCHEMA_VERSION}}}'
        )

    @cached_property
    def reasons(self) -> Explainer:
        """Explains scores against held-out applicants that the model would approve."""
        reference_rows, scores = self.model.reference_rows["applications"], self.model.reference_rows["scores"]
        approved = [row for row, score in zip(reference_rows, scores, strict=True) if score < self.threshold]
        return Explainer(lambda columns: log_odds(self.scorer.score(from_columns(columns))), approved or reference_rows)


class Champion:
    """Holds the served model. A request takes `get()` once, so its answer comes from one model throughout."""

    def __init__(self, cache: Path) -> None:
        """Takes the cache's folder; loads nothing yet."""
        self._cache = cache
        self._stamp: tuple[int, int] | None = None
        self._model: LoadedModel | None = None
        self._reason = "no model has been fetched yet"

    def get(self) -> LoadedModel:
        """The model.

        Raises:
            Problem: 503, there is none; says why.
        """
        if self._model is None:
            raise Problem(503, self._reason, headers=[("retry-after", "5")])
        return self._model

    def refresh(self) -> None:
        """Loads what the pointer names, if it has moved; what can't be loaded leaves the last good model in place."""
        stamp = model_cache.pointer_stamp(self._cache)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            model = model_cache.load(self._cache)
            model.scorer.score(from_application(model.reference_rows["applications"][0]))  # the first run is a slow one
        except ProjectError as error:
            self._reason = str(error)
            MODEL_LOADS.labels("failed").inc()
            log.error("model not loaded", reason=self._reason)
            return
        if self._model:
            MODEL.labels(self._model.model.version).set(0)
        self._model = LoadedModel(model)
        MODEL.labels(model.version).set(1)
        MODEL_LOADS.labels("loaded").inc()
        log.info("model loaded", version=model.version)

    async def watch(self) -> None:
        """Refreshes for ever; loads beside the event loop, which goes on answering meanwhile."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await asyncio.to_thread(self.refresh)
