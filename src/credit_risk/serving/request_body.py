"""Bodies of requests, read with limits of size and time."""

import asyncio
import re
from collections.abc import AsyncIterator

from starlette.types import Receive

from credit_risk.core.settings import Settings
from credit_risk.serving.problem_details import Problem

JSON, NDJSON = "application/json", "application/x-ndjson"
_JSON = JSON.encode()
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii"})
GROUP = 500  # lines that are handed on at a time; other requests get their turn in between


def check_media_type(headers: dict[bytes, bytes], *accepted: str) -> str:
    """The body's media type, without its parameters.

    Raises:
        Problem: 415, it is none of those accepted.
    """
    given = headers.get(b"content-type", b"")
    if given == _JSON:  # nearly always; spares the parsing
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


async def read_body(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    """The whole body; the caller bounds the time.

    Raises:
        Problem: 413, it is longer than the limit; 400, the client has gone.
    """
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 18 or int(length) > limit:  # noqa: PLR2004 (digits of a 64-bit number)
        raise too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large(limit)
    if message["type"] == "http.disconnect":
        raise Problem(400, "the client has gone")
    return body


def too_large(limit: int) -> Problem:
    """A body above the limit, in bytes."""
    return Problem(413, f"the body must not be larger than {limit:,} bytes")


def too_slow(seconds: float) -> Problem:
    """A body that has not come in time."""
    return Problem(408, f"the body did not arrive within {seconds:g} s")


async def read_lines(receive: Receive, settings: Settings) -> AsyncIterator[list[bytes]]:
    """The lines of a body as they arrive, without empty ones and line ends.

    Raises:
        Problem: 413, a line or their number is above the limit; 408, the client is silent for too long.
    """
    rest, rows, more = b"", 0, True
    while more:
        try:
            async with asyncio.timeout(settings.request_timeout_seconds):
                message = await receive()
        except TimeoutError:
            raise too_slow(settings.request_timeout_seconds) from None
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
        *lines, rest = (rest + message.get("body", b"")).split(b"\n")
        if not more:
            lines.append(rest)
        if max(map(len, [*lines, rest])) > settings.max_body_bytes:
            raise Problem(413, f"a line must not be longer than {settings.max_body_bytes:,} bytes")
        lines = [line for line in lines if line.strip()]
        rows += len(lines)
        if rows > settings.max_stream_rows:
            raise Problem(413, f"a stream must not have more than {settings.max_stream_rows:,} applications")
        for start in range(0, len(lines), GROUP):
            yield lines[start : start + GROUP]
