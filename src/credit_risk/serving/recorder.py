"""Records scored rows in the background: for the prediction log, and for the shadow model.

A request only appends the parts of a line to a list. Five times a second the list is taken over: the shadow model
scores its rows in a thread, and another thread makes the lines and writes them to the log. Both have limits of memory
and time, beyond which rows are dropped and counted: neither a slow disk nor a slow shadow model makes a request wait or
fail. More often would cost more, and less often lose more when the process is killed: at most the last second.
"""

import asyncio
import random
from array import array
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from credit_risk.contract import CONTRACT
from credit_risk.project.settings import Settings
from credit_risk.serving import prometheus
from credit_risk.serving.active_model import ActiveModel, LoadedModel
from credit_risk.serving.log_writer import BODY, Batch, LineFormat, LogWriter, logged_fields
from credit_risk.serving.structured_log import log

MAX_BYTES = 32_000_000  # of rows that wait, about
LINE_BYTES = 300  # of a line, without the row
FEATURES_BYTES = 1_000  # of a row's features
TICK_SECONDS = 0.2
SHADOW_SECONDS = 0.3  # that rows wait for the shadow model before they are logged without its score


class _Scoring(NamedTuple):
    """Rows that the shadow model is scoring: parts of lines, about their bytes, and the champion's decisions."""

    parts: list[Any]
    size: int
    decisions: list[str]
    model: LoadedModel
    scores: "Future[Any]"
    since: float


class Recorder:
    """Records rows; all methods are called on the event loop."""

    def __init__(self, settings: Settings) -> None:
        """Starts what the settings ask for.

        Raises:
            ProjectError: a setting is wrong.
        """
        self._format = LineFormat(logged_fields(settings))
        self._writer = LogWriter(settings.prediction_log) if settings.prediction_log else None
        self.shadow: ActiveModel | None = None
        if settings.shadow_alias:
            self.shadow = ActiveModel(settings.shadow_cache, prometheus.SHADOW_SERVED, prometheus.SHADOW_EXPECTED)
            self._executor = ThreadPoolExecutor(1, "shadow")
        self.enabled = bool(self._writer or self.shadow)
        self._share = settings.prediction_log_share
        # Of the rows recorded since the last tick: parts of lines; and for the shadow model features and decisions.
        self._parts: list[Any] = []
        self._features = array("f")
        self._decisions: list[str] = []
        self._versions: set[str] = set()
        self._bytes = self._handed_over = self._dropped = 0
        self._counted = {"written": 0, "lost": 0}
        self._scoring: _Scoring | None = None
        self._late: Future[Any] | None = None  # a call of the shadow model that nobody waits for any more

    def add(  # noqa: PLR0913, PLR0917 (on the path of each request)
        self,
        time: float,
        request_id: bytes,
        row: dict[str, Any],
        probability: float,
        decision: str,
        version: str,
        features: Sequence[float],
        body: bytes | None,
    ) -> None:
        """Records a scored row, unless too many wait already; see `LineFormat.parts`."""
        if self._share < 1 and random.random() >= self._share:  # noqa: S311 (no secret)
            return
        if self._bytes > MAX_BYTES:
            self._dropped += 1
            return
        if self._writer:
            parts = self._format.parts(time, request_id, row, probability, decision, version, body)
            self._parts += parts
            self._bytes += len(parts[BODY]) + LINE_BYTES
        if self.shadow:
            self._features.extend(features)
            self._decisions.append(decision)
            self._versions.add(version)
            self._bytes += FEATURES_BYTES

    async def run(self) -> None:
        """Takes over what is recorded in TICK_SECONDS."""
        await asyncio.sleep(TICK_SECONDS)
        self.tick()

    def tick(self) -> None:
        """Takes over what was recorded since the last call."""
        self._finish_scoring()
        parts, size = self._parts, self._bytes
        if size and not self._start_scoring(parts, size):
            self._write(Batch(parts, size))
        self._parts, self._features, self._decisions, self._bytes = [], array("f"), [], 0
        self._versions.clear()
        self._count()

    def close(self) -> None:
        """Writes what there is; called when no request is left."""
        self.tick()
        if self._scoring:
            self._write(Batch(self._scoring.parts, self._scoring.size))
            self._scoring = None
        if self._writer:
            self._writer.close()
        if self.shadow:
            self._executor.shutdown(wait=False, cancel_futures=True)
        self._count()

    def _start_scoring(self, parts: list[Any], size: int) -> bool:
        """Has the shadow model score rows; False if there is none, or it is busy."""
        if not self.shadow:
            return False
        model = self.shadow.get() if self.shadow.loaded else None
        if self._late and self._late.done():
            self._late = None
        if not model or self._late or self._scoring:
            prometheus.SHADOW_ROWS.labels("slow" if model else "absent").inc(len(self._decisions))
            return False
        if model.version in self._versions:  # it has been promoted
            return False
        features = np.frombuffer(self._features, np.float32).reshape(len(self._decisions), -1)
        future = self._executor.submit(lambda: model.scorer.score_many(features).tolist())
        self._scoring = _Scoring(parts, size, self._decisions, model, future, monotonic())
        return True

    def _finish_scoring(self) -> None:
        if not self._scoring:
            return
        parts, size, decisions, model, future, since = self._scoring
        if not future.done():
            if monotonic() - since > SHADOW_SECONDS:
                self._scoring, self._late = None, future
                prometheus.SHADOW_ROWS.labels("slow").inc(len(decisions))
                self._write(Batch(parts, size))
            return
        self._scoring = None
        if error := future.exception():
            prometheus.SHADOW_ROWS.labels("failed").inc(len(decisions))
            log.warning("the shadow model fails", version=model.version, reason=str(error)[:200])
            self._write(Batch(parts, size))
            return
        self._observe(decisions, future.result(), model)
        self._write(Batch(parts, size, model.version, future.result()))

    def _observe(self, decisions: list[str], scores: list[float], model: LoadedModel) -> None:
        prometheus.SHADOW_ROWS.labels("scored").inc(len(decisions))
        prometheus.SHADOW_PROBABILITIES.values().extend(scores)
        accept, decline = CONTRACT.problem.accept, CONTRACT.problem.decline
        shadow = [decline if score >= model.threshold else accept for score in scores]
        for pair, count in Counter(zip(decisions, shadow, strict=True)).items():
            prometheus.SHADOW_DECISIONS.labels(*pair).inc(count)

    def _write(self, batch: Batch) -> None:
        if not self._writer:
            return
        if self._handed_over - self._writer.finished_bytes > MAX_BYTES:  # the disk is slow
            self._dropped += batch.rows
            return
        self._handed_over += batch.size
        self._writer.put(batch)

    def _count(self) -> None:
        if self._dropped:
            prometheus.LOG_LINES.labels("dropped").inc(self._dropped)
            self._dropped = 0
        if self._writer:
            for name, counted in self._counted.items():
                total = getattr(self._writer, name)
                if total > counted:
                    prometheus.LOG_LINES.labels(name).inc(total - counted)
                    self._counted[name] = total
