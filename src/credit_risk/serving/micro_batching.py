"""Scores the requests that a worker finds waiting at the same moment in one call of the model.

A call costs ten microseconds whatever it holds, and four more a row: sixteen requests that arrive together cost less
than a third of sixteen calls. Nobody waits for company: what is there in this turn of the event loop is scored in the
next. A row's score does not depend on the rows beside it.
"""

import asyncio

import numpy as np

from credit_risk.formats.onnx_scorer import Scorer


class MicroBatcher:
    """A scorer for one row a request, within one event loop."""

    def __init__(self, scorer: Scorer) -> None:
        """Wraps a scorer."""
        self._scorer = scorer
        self._rows: list[tuple[float, ...]] = []
        self._futures: list[asyncio.Future[float]] = []

    def score(self, row: tuple[float, ...]) -> "asyncio.Future[float]":
        """The probability of default of a row of features, soon."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[float] = loop.create_future()
        if not self._rows:
            loop.call_soon(self._run)
        self._rows.append(row)
        self._futures.append(future)
        return future

    def _run(self) -> None:
        rows, futures = self._rows, self._futures
        self._rows, self._futures = [], []
        try:
            scores = self._scorer.score(np.array(rows, np.float32)).tolist()
        except Exception as error:  # noqa: BLE001 (each request that waits must learn of it)
            for future in futures:
                if not future.done():
                    future.set_exception(error)
            return
        for future, score in zip(futures, scores, strict=True):
            if not future.done():  # its client may have gone
                future.set_result(score)
