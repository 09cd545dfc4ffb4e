"""Micro-batching: the requests that a worker receives at the same moment are scored in one call of the model.

A call costs 10 µs plus 4 µs a row, so sixteen requests in one call cost less than a third of sixteen calls. No request
waits for others: what has arrived in one iteration of the event loop is scored in the next. A row's score does not
depend on the other rows of its batch.
"""

import asyncio

import numpy as np

from credit_risk.formats.onnx_scorer import OnnxScorer


class MicroBatcher:
    """Scores single rows in batches, within one event loop."""

    def __init__(self, scorer: OnnxScorer) -> None:
        self._scorer = scorer
        self._rows: list[tuple[float, ...]] = []
        self._futures: list[asyncio.Future[float]] = []

    def score(self, row: tuple[float, ...]) -> "asyncio.Future[float]":
        """A future of the probability for a row of features."""
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
            probabilities = self._scorer.score(np.array(rows, np.float32)).tolist()
        except Exception as error:  # noqa: BLE001 (every waiting request must get it)
            for future in futures:
                if not future.done():
                    future.set_exception(error)
            return
        for future, probability in zip(futures, probabilities, strict=True):
            if not future.done():  # done: its client has disconnected
                future.set_result(probability)
