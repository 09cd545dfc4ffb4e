"""Records scored rows beside the requests: for the prediction log, and for the shadow model.

A request only makes a line and appends it to a list. Twenty times a second the list is taken over: the shadow model
scores its rows in a thread, and another thread writes them to the log. Both have limits of memory and time, beyond
which rows are dropped and counted: neither a slow disk nor a slow shadow model makes a request wait or fail.
"""

import random
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
from credit_risk.serving.log_writer import Batch, LineFormat, LogWriter, logged_fields
from credit_risk.serving.structured_log import log

MAX_BYTES = 32_000_000  # of rows that wait, about
FEATURES_BYTES = 1_000  # of a row's features
SHADOW_SECONDS = 0.5  # that rows wait for the shadow model before they are logged without its score


class _Scoring(NamedTuple):
    """Rows that the shadow model is scoring: their lines, about their bytes, and the champion's decisions."""

    lines: list[bytes]
    bytes: int
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
        # Of the rows that were recorded since the last tick: lines; and for the shadow model features and decisions.
        self._lines: list[bytes] = []
        self._features: list[Sequence[float]] = []
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
        """Records a scored row, unless too many wait already; see `LineFormat.line`."""
        if self._share < 1 and random.random() >= self._share:  # noqa: S311 (no secret)
            return
        if self._bytes > MAX_BYTES:
            self._dropped += 1
            return
        if self._writer:
            line = self._format.line(time, request_id, row, probability, decision, version, body)
            self._lines.append(line)
            self._bytes += len(line)
        if self.shadow:
            self._features.append(features)
            self._decisions.append(decision)
            self._versions.add(version)
            self._bytes += FEATURES_BYTES

    def tick(self) -> None:
        """Takes over what was recorded since the last call."""
        self._finish_scoring()
        lines, size = self._lines, self._bytes
        if size and not self._start_scoring(lines, size):
            self._write(Batch(lines, size))
        self._lines, self._features, self._decisions, self._bytes = [], [], [], 0
        self._versions.clear()
        self._count()

    def close(self) -> None:
        """Writes what there is; called when no request is left."""
        self.tick()
        if self._scoring:
            self._write(Batch(self._scoring.lines, self._scoring.bytes))
            self._scoring = None
        if self._writer:
            self._writer.close()
        if self.shadow:
            self._executor.shutdown(wait=False, cancel_futures=True)
        self._count()

    def _start_scoring(self, lines: list[bytes], size: int) -> bool:
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
        features = np.array(self._features, np.float32)
        future = self._executor.submit(lambda: model.scorer.score_many(features).tolist())
        self._scoring = _Scoring(lines, size, self._decisions, model, future, monotonic())
        return True

    def _finish_scoring(self) -> None:
        if not self._scoring:
            return
        lines, size, decisions, model, future, since = self._scoring
        if not future.done():
            if monotonic() - since > SHADOW_SECONDS:
                self._scoring, self._late = None, future
                prometheus.SHADOW_ROWS.labels("slow").inc(len(decisions))
                self._write(Batch(lines, size))
            return
        self._scoring = None
        if error := future.exception():
            prometheus.SHADOW_ROWS.labels("failed").inc(len(decisions))
            log.warning("the shadow model fails", version=model.version, reason=str(error)[:200])
            self._write(Batch(lines, size))
            return
        self._observe(decisions, future.result(), model)
        self._write(Batch(lines, size, model.version, future.result()))

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
            self._dropped += len(batch.lines)
            return
        self._handed_over += batch.bytes
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
