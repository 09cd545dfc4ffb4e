"""Reading of streams: limits of time and rate, with a clock that the messages move."""

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from credit_risk.project.settings import Settings
from credit_risk.serving import request_body
from credit_risk.serving.problem_details import Problem


def read(monkeypatch: pytest.MonkeyPatch, messages: Iterable[tuple[float, bytes]], **settings: Any) -> list[bytes]:
    """The lines of a stream whose messages each arrive some seconds after the last one."""
    now, arriving = 0.0, iter([*messages, (0.0, None)])

    async def receive() -> Any:
        nonlocal now
        seconds, body = next(arriving)
        now += seconds
        return {"type": "http.request", "body": body or b"", "more_body": body is not None}

    async def lines() -> list[bytes]:
        return [line async for group in request_body.read_lines(receive, Settings(**settings)) for line in group]

    monkeypatch.setattr(request_body, "perf_counter", lambda: now)
    return asyncio.run(lines())


def test_lines_are_put_together_from_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, [(0, b"ab"), (0, b"c\n\nd"), (0, b"\n"), (0, b"e")]) == [b"abc", b"d", b"e"]


def test_a_stream_that_drips_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Problem, match="slower than 100 bytes a second") as caught:
        read(monkeypatch, [(6, b"x")] * 100)
    assert caught.value.status == 408


def test_a_stream_that_begins_slowly_or_pauses_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, [(9, b"x"), (9, b"x" * 2_000), (9, b"x" * 2_000)]) == [b"x" * 4_001]


def test_a_stream_has_a_total_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Problem, match="took more than 600 s"):
        read(monkeypatch, [(5, b"x" * 1_000 + b"\n")] * 200)
