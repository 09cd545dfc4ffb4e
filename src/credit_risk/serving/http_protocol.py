"""Uvicorn's HTTP protocol with the limits that it lacks: size and time of headers, and time for reading a response.

Requests that uvicorn itself rejects get problem documents too.
"""

import asyncio
import secrets
from http import HTTPStatus
from time import monotonic
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from credit_risk.serving.problem_details import MEDIA_TYPE, Problem

MAX_HEAD_BYTES = 65_536  # of a request: target and headers; also of what follows a body
CLOSE_SECONDS = 1  # in which a rejected client can read why; closing at once may discard the response


class HeadersTooLargeError(Exception):
    """Stops the parser; the client gets 431."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    timeout_seconds: ClassVar[float] = 10
    rejections: ClassVar[list[int]] = []  # their status, until the metrics have counted them
    # Connections from which nothing but a complete head of a request is expected, and since when; the oldest first.
    waiting: ClassVar[dict["Protocol", float]] = {}

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._unparsed = 0  # bytes since the parser has last reported a head, a part of a body or an end
        self._rejected = False
        self._problem = Problem(400, "this is not a valid HTTP request")  # if the parser stops
        self._reading: asyncio.TimerHandle | None = None
        self.waiting[self] = monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self.waiting.pop(self, None)
        if self._reading:
            self._reading.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses what has arrived."""
        if self._rejected:
            return
        self._unparsed += len(data)
        super().data_received(data)
        if self._unparsed > MAX_HEAD_BYTES and not self._rejected:
            self.reject(_too_large())
        elif (self.cycle is None or self.cycle.response_complete) and self not in self.waiting:
            self.waiting[self] = monotonic()

    def on_headers_complete(self) -> None:
        """Starts the request."""
        self.waiting.pop(self, None)
        large, self._unparsed = self._unparsed > MAX_HEAD_BYTES, 0
        if large and len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._problem = _too_large()
            raise HeadersTooLargeError
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Adds to the request's body."""
        self._unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Ends the request's body."""
        self._unparsed = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's own text)
        """The parser has stopped: this is no HTTP, or it was told to."""
        self.reject(self._problem)

    def reject(self, problem: Problem) -> None:
        """Sends a problem document, unless a response is under way, and closes the connection."""
        self.waiting.pop(self, None)
        self._rejected = True
        self.rejections.append(problem.status)
        if self.transport.is_closing() or (self.cycle and not self.cycle.response_complete):
            self.transport.close()
            return
        self.transport.write(_response(problem))
        self.transport.write_eof()
        self.loop.call_later(CLOSE_SECONDS, self.transport.close)

    def pause_writing(self) -> None:
        """The client does not read its response as fast as it is sent."""
        super().pause_writing()
        self._reading = self.loop.call_later(self.timeout_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client has read on."""
        super().resume_writing()
        if self._reading:
            self._reading.cancel()


def close_overdue() -> None:
    """Ends the connections that have not sent the whole head of a request in time."""
    earliest = monotonic() - Protocol.timeout_seconds
    for connection, since in list(Protocol.waiting.items()):
        if since > earliest:
            return
        connection.reject(Problem(408, f"the headers did not arrive within {Protocol.timeout_seconds:g} s"))


def _too_large() -> Problem:
    return Problem(431, f"target and headers must not be larger than {MAX_HEAD_BYTES:,} bytes")


def _response(problem: Problem) -> bytes:
    request_id = secrets.token_hex(8)
    body = problem.body(request_id)
    head: list[Any] = [
        f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}",
        f"content-type: {MEDIA_TYPE}",
        f"content-length: {len(body)}",
        f"x-request-id: {request_id}",
        "connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
