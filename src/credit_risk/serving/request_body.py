"""Reading of request bodies, with limits of size and time."""

import asyncio
import re
from collections.abc import AsyncIterator
from time import perf_counter

from starlette.types import Receive

from credit_risk.contract import CONTRACT
from credit_risk.project.settings import Settings
from credit_risk.serving.problem_details import Problem

JSON, NDJSON = "application/json", "application/x-ndjson"
_JSON = JSON.encode()
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii"})
GROUP = 500  # rows that are processed at a time; other requests are served in between


def check_media_type(headers: dict[bytes, bytes], *accepted: str) -> str:
    """The body's media type, without its parameters.

    Raises:
        Problem: 415, it is not one of those accepted, or the body is compressed.
    """
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise Problem(415, "the body must not be compressed", headers=[("accept-encoding", "identity")])
    given = headers.get(b"content-type", b"")
    if given == _JSON:  # nearly always; saves the parsing
        media_type = JSON
    else:
        media_type, _, parameters = given.decode("latin-1").lower().partition(";")
        media_type = media_type.strip()
        charset = re.search(r"charset\s*=\s*\"?([\w-]+)", parameters)
        if charset and charset[1] not in _UTF8:
            raise Problem(415, "the body must be UTF-8")
    if media_type not in accepted:
        raise Problem(415, f"content-type must be {' or '.join(accepted)}")
    return media_type


class BodyReader:
    """Reads whole bodies, each within a time limit.

    `cancel_overdue`, which is called periodically, enforces the limit for all requests: `asyncio.timeout` would cost
    each of them 6 µs, this costs 0.5 µs.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._started: dict[asyncio.Task[None] | None, float] = {}

    async def read(self, receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
        """Reads a body of at most `limit` bytes.

        Raises:
            Problem: 408, it does not arrive in time; 413, it is too large; 400, the client has disconnected.
        """
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > limit:  # noqa: PLR2004 (digits of a 64-bit number)
            raise _too_large(limit)
        task = asyncio.current_task()
        self._started[task] = perf_counter()
        try:
            message = await receive()
            body: bytes = message.get("body", b"")
            while message.get("more_body", False):
                message = await receive()
                body += message.get("body", b"")
                if len(body) > limit:
                    raise _too_large(limit)
        except asyncio.CancelledError:
            if task is None or task in self._started:  # not cancelled by cancel_overdue
                raise
            task.uncancel()
            raise _too_slow(self._timeout_seconds) from None
        finally:
            self._started.pop(task, None)
        if message["type"] == "http.disconnect":
            raise Problem(400, "the client has disconnected")
        return body

    def cancel_overdue(self) -> None:
        """Cancels the requests whose bodies are overdue."""
        earliest = perf_counter() - self._timeout_seconds
        for task, started in list(self._started.items()):
            if task and started < earliest:
                del self._started[task]
                task.cancel()


def _too_large(limit: int) -> Problem:
    return Problem(413, f"the body must not be larger than {limit:,} bytes")


def _too_slow(seconds: float) -> Problem:
    return Problem(408, f"the body did not arrive within {seconds:g} s")


async def read_lines(receive: Receive, settings: Settings) -> AsyncIterator[list[bytes]]:
    """Yields the lines of a body as they arrive, without empty ones and line ends, at most GROUP at a time.

    Raises:
        Problem: 413, a line or their number is above the limit; 408, the client is silent for too long, too slow, or
            not finished in time.
    """
    rest, rows, received, more, start = b"", 0, 0, True, perf_counter()
    while more:
        try:
            async with asyncio.timeout(settings.request_timeout_seconds):
                message = await receive()
        except TimeoutError:
            raise _too_slow(settings.request_timeout_seconds) from None
        if message["type"] == "http.disconnect":
            return
        more, body = message.get("more_body", False), message.get("body", b"")
        received += len(body)
        _check_pace(received, perf_counter() - start, settings)
        *lines, rest = (rest + body).split(b"\n")
        if not more:
            lines.append(rest)
        if max(map(len, [*lines, rest])) > settings.max_body_bytes:
            limit = f"{settings.max_body_bytes:,} bytes"
            raise Problem(413, f"a line must not be longer than {limit}; curl keeps line ends with --data-binary only")
        lines = [line for line in lines if line.strip()]
        rows += len(lines)
        if rows > settings.max_stream_rows:
            limit = f"{settings.max_stream_rows:,} {CONTRACT.problem.rows}"
            raise Problem(413, f"a stream must not have more than {limit}")
        for group in range(0, len(lines), GROUP):
            yield lines[group : group + GROUP]


def _check_pace(received: int, seconds: float, settings: Settings) -> None:
    if seconds > settings.stream_timeout_seconds:
        raise Problem(408, f"the stream took more than {settings.stream_timeout_seconds:g} s")
    least = settings.stream_min_bytes_per_second
    if seconds > settings.request_timeout_seconds and received < least * seconds:
        raise Problem(408, f"the stream is slower than {least:,} bytes a second")
