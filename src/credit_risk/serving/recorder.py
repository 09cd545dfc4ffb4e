"""Records scored rows beside the requests: for the prediction log, and for the shadow model.

A request only appends to a list. Twenty times a second the list is taken over: the shadow model scores its rows in a
thread, and another thread writes them to the log. Both have limits of memory and time, beyond which rows are dropped
and counted: neither a slow disk nor a slow shadow model makes a request wait or fail.
"""

import random
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from credit_risk.contract import CONTRACT
from credit_risk.project.settings import Settings
from credit_risk.serving import prometheus
from credit_risk.serving.active_model import ActiveModel, LoadedModel
from credit_risk.serving.log_writer import Batch, Entry, LogWriter, logged_fields
from credit_risk.serving.structured_log import log

MAX_BYTES = 32_000_000  # of rows that wait, about
ENTRY_BYTES = 2_000  # of a row beside its body
SHADOW_SECONDS = 0.5  # that rows wait for the shadow model before they are logged without its score


class _Scoring(NamedTuple):
    entries: list[Entry]
    bytes: int
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
        fields = logged_fields(settings)
        self._writer = LogWriter(settings.prediction_log, fields) if settings.prediction_log else None
        self.shadow: ActiveModel | None = None
        if settings.shadow_alias:
            self.shadow = ActiveModel(settings.shadow_cache, prometheus.SHADOW_SERVED, prometheus.SHADOW_EXPECTED)
            self._executor = ThreadPoolExecutor(1, "shadow")
        self.enabled = bool(self._writer or self.shadow)
        self._share = settings.prediction_log_share
        self._entries: list[Entry] = []
        self._bytes = self._handed_over = self._dropped = 0
        self._counted = {"written": 0, "lost": 0}
        self._scoring: _Scoring | None = None
        self._late: Future[Any] | None = None  # a call of the shadow model that nobody waits for any more

    def add(self, entry: Entry) -> None:
        """Records a scored row, unless too many wait already."""
        if self._share < 1 and random.random() >= self._share:  # noqa: S311 (no secret)
            return
        if self._bytes > MAX_BYTES:
            self._dropped += 1
            return
        self._bytes += ENTRY_BYTES + (len(entry.body) if entry.body else 0)
        self._entries.append(entry)

    def tick(self) -> None:
        """Takes over what was recorded since the last call."""
        self._finish_scoring()
        entries, size = self._entries, self._bytes
        self._entries, self._bytes = [], 0
        if entries and not self._start_scoring(entries, size):
            self._write(Batch(entries, size, None, None))
        self._count()

    def close(self) -> None:
        """Writes what there is; called when no request is left."""
        self.tick()
        if self._scoring:
            self._write(Batch(self._scoring.entries, self._scoring.bytes, None, None))
            self._scoring = None
        if self._writer:
            self._writer.close()
        if self.shadow:
            self._executor.shutdown(wait=False, cancel_futures=True)
        self._count()

    def _start_scoring(self, entries: list[Entry], size: int) -> bool:
        """Has the shadow model score rows; False if there is none, or it is busy."""
        if not self.shadow:
            return False
        model = self.shadow.get() if self.shadow.loaded else None
        if self._late and self._late.done():
            self._late = None
        if not model or self._late or self._scoring:
            prometheus.SHADOW_ROWS.labels("slow" if model else "absent").inc(len(entries))
            return False
        if all(entry.version == model.version for entry in entries):  # it has been promoted
            return False
        features = np.array([entry.features for entry in entries], np.float32)
        future = self._executor.submit(lambda: model.scorer.score_many(features).tolist())
        self._scoring = _Scoring(entries, size, model, future, monotonic())
        return True

    def _finish_scoring(self) -> None:
        if not self._scoring:
            return
        entries, size, model, future, since = self._scoring
        if future.done():
            self._scoring = None
            error = future.exception()
            if error:
                prometheus.SHADOW_ROWS.labels("failed").inc(len(entries))
                log.warning("the shadow model fails", version=model.version, reason=str(error)[:200])
                self._write(Batch(entries, size, None, None))
                return
            scores = future.result()
            self._observe(entries, scores, model)
            self._write(Batch(entries, size, model.version, scores))
        elif monotonic() - since > SHADOW_SECONDS:
            self._scoring, self._late = None, future
            prometheus.SHADOW_ROWS.labels("slow").inc(len(entries))
            self._write(Batch(entries, size, None, None))

    def _observe(self, entries: list[Entry], scores: list[float], model: LoadedModel) -> None:
        prometheus.SHADOW_ROWS.labels("scored").inc(len(entries))
        prometheus.SHADOW_PROBABILITIES.values().extend(scores)
        accept, decline = CONTRACT.problem.accept, CONTRACT.problem.decline
        pairs: dict[tuple[str, str], int] = {}
        for entry, score in zip(entries, scores, strict=True):
            pair = entry.decision, decline if score >= model.threshold else accept
            pairs[pair] = pairs.get(pair, 0) + 1
        for (champion, shadow), count in pairs.items():
            prometheus.SHADOW_DECISIONS.labels(champion, shadow).inc(count)

    def _write(self, batch: Batch) -> None:
        if not self._writer:
            return
        if self._handed_over - self._writer.finished_bytes > MAX_BYTES:  # the disk is slow
            self._dropped += len(batch.entries)
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
