"""What every request passes: admission, identity, key, limits, metrics and log, in one layer of plain ASGI.

One layer and not five, because each of them costs more than the prediction itself. POST /predict is answered right here
from bytes to bytes; what has a query (`?explain=true`), and everything else, goes on to FastAPI.
"""

import asyncio
import hashlib
import hmac
import itertools
import re
import secrets
import signal
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from credit_risk.core.settings import Settings
from credit_risk.serving import predictions
from credit_risk.serving.active_model import Champion
from credit_risk.serving.problem_details import FAULT, MEDIA_TYPE, Problem
from credit_risk.serving.prometheus import IN_FLIGHT, REQUEST_SECONDS, flush_all
from credit_risk.serving.request_body import JSON, check_media_type, read_body, too_slow
from credit_risk.serving.structured_log import log

PREDICT = "/predict"
HEALTH = frozenset({"/livez", "/readyz", "/metrics"})  # always answered, also under overload
OPEN = HEALTH | {"/", "/contract", "/docs", "/openapi.json"}  # need no key
PAGE = "/page/"  # … nor do the page's files
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}").fullmatch
_TICK_SECONDS = 0.05  # of the house-keeping
_TOO_SLOW = "too slow"  # marks our own cancelling
SHOWN_PATH = 200  # characters of a path that the log repeats
_JSON_HEADER = (b"content-type", b"application/json")
_PROBLEM_HEADER = (b"content-type", MEDIA_TYPE.encode())
_CLOSE = (b"connection", b"close")


class Middleware:
    """The ASGI application that the server runs; wraps the FastAPI one."""

    def __init__(self, app: ASGIApp, champion: Champion, settings: Settings, endpoints: Iterable[str]) -> None:
        """Puts itself in front of an application.

        Args:
            app: the ASGI application for all but POST /predict.
            champion: holds the served model.
            settings: keys and limits.
            endpoints: paths that metrics may name; all others are counted together, or a scanner fills the memory.
        """
        self._app, self._champion, self._settings = app, champion, settings
        self._endpoints = frozenset(endpoints)
        self._keys = [bytes.fromhex(digest) for digest in settings.api_keys_sha256]
        self._in_flight = 0
        self._late = False  # the event loop is behind by more than max_queue_seconds
        self.draining = False
        self._prefix = secrets.token_hex(6).encode()
        self._count = itertools.count()
        self._reading: dict[asyncio.Task[None] | None, float] = {}  # since when a request's body is awaited
        self._note: dict[tuple[str, int], Callable[[float], None]] = {}  # by endpoint and status
        self._log_all = settings.log_requests == "all"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        path, headers = scope["path"], dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"")
        if not request_id or not _REQUEST_ID(request_id):
            request_id = b"%s-%x" % (self._prefix, next(self._count))
        answer = _Answer(send, request_id, self)
        self._in_flight += 1
        try:
            self._admit(path, headers)
            if path == PREDICT and scope["method"] == "POST" and not scope["query_string"]:
                await self._predict(headers, receive, answer, start)
            else:
                scope["state"] = {**scope.get("state", {}), "request_id": request_id.decode()}
                await self._app(scope, receive, answer.send)
        except Problem as problem:
            await answer.problem(problem)
        except Exception:  # noqa: BLE001 (whatever it is, the client learns nothing of it, and the log everything)
            log.exception("request failed", request_id=request_id.decode(), path=path[:SHOWN_PATH])
            await answer.problem(FAULT)
        finally:
            self._in_flight -= 1
            status, seconds = answer.status, perf_counter() - start
            try:
                self._note[path, status](seconds)
            except KeyError:
                self._first_of_its_kind(path, status)(seconds)
            if status >= 400 or self._log_all:  # noqa: PLR2004 (errors begin there)
                self._log(scope, request_id, answer, seconds)

    async def _predict(self, headers: dict[bytes, bytes], receive: Receive, answer: "_Answer", start: float) -> None:
        """The short way: from the bytes of one application to the bytes of its answer."""
        check_media_type(headers, JSON)
        task = asyncio.current_task()
        self._reading[task] = start
        try:
            body = await read_body(receive, headers, self._settings.max_body_bytes)
        except asyncio.CancelledError as cancelled:
            if task is None or cancelled.args != (_TOO_SLOW,):
                raise
            task.uncancel()
            raise too_slow(self._settings.request_timeout_seconds) from None
        finally:
            self._reading.pop(task, None)
        await answer.whole(200, await predictions.one(body, self._champion.get()), _JSON_HEADER)

    async def run_maintenance(self) -> None:
        """Many times a second, for ever: the load, the slow, and the metrics.

        Measures how late the event loop is, which is what a request that arrives now would have to wait; ends requests
        whose bodies do not come; and counts what the metrics have noted.
        """
        while True:
            start = perf_counter()
            await asyncio.sleep(_TICK_SECONDS)
            now = perf_counter()
            self._late = now - start - _TICK_SECONDS > self._settings.max_queue_seconds
            for task, since in list(self._reading.items()):
                if task and now - since > self._settings.request_timeout_seconds:
                    task.cancel(_TOO_SLOW)
            IN_FLIGHT.set(self._in_flight)
            flush_all()

    def drain_on_sigterm(self) -> None:
        """Makes SIGTERM wait for drain_seconds.

        So long the worker says that it is not ready, closes each connection after its answer, and goes on serving;
        then the server's own handler stops it, and requests in flight are finished.
        """
        loop, stop = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
        if not callable(stop):
            return  # no server that handles signals: a test client

        def drain(number: int, frame: Any) -> None:
            if self.draining:
                return
            self.draining = True
            loop.call_soon_threadsafe(loop.call_later, self._settings.drain_seconds, stop, number, frame)

        signal.signal(signal.SIGTERM, drain)

    def _admit(self, path: str, headers: dict[bytes, bytes]) -> None:
        """Refuses what would overload the worker or has no key, before any of its body is read."""
        if path in HEALTH:
            return
        if self._late or self._in_flight > self._settings.max_in_flight:
            raise Problem(
                503, "the server has more requests than it can answer in time", headers=[("retry-after", "1")]
            )
        if self._keys and path not in OPEN and not path.startswith(PAGE):
            digest = hashlib.sha256(headers.get(b"x-api-key", b"")).digest()
            # All are compared, each in constant time, so that the time tells nothing.
            if not sum(hmac.compare_digest(digest, key) for key in self._keys):
                raise Problem(401, "X-API-Key is missing or unknown", headers=[("www-authenticate", "X-API-Key")])

    def _first_of_its_kind(self, path: str, status: int) -> Callable[[float], None]:
        endpoint = path if path in self._endpoints else "other"
        note: Callable[[float], None] = REQUEST_SECONDS.labels(endpoint, str(status)).note
        if endpoint == path:
            self._note[path, status] = note
        return note

    def _log(self, scope: Scope, request_id: bytes, answer: "_Answer", seconds: float) -> None:
        log.info(
            "request",
            request_id=request_id.decode(),
            method=scope["method"],
            path=scope["path"][:SHOWN_PATH],
            status=answer.status,
            milliseconds=round(seconds * 1000, 3),
            detail=answer.detail,
        )


class _Answer:
    """Sends one answer: adds the request's id, and remembers the status."""

    __slots__ = ("_gateway", "_request_id", "_send", "_started", "detail", "status")

    def __init__(self, send: Send, request_id: bytes, gateway: Middleware) -> None:
        self._send, self._request_id, self._gateway = send, request_id, gateway
        self._started = False
        self.status = 499  # until there is one: the client has gone
        self.detail: str | None = None

    async def send(self, message: Message) -> None:
        """Passes a message of the wrapped application on."""
        if message["type"] == "http.response.start":
            self._started, self.status = True, message["status"]
            message["headers"] = [*message["headers"], (b"x-request-id", self._request_id)]
            if self._gateway.draining:
                message["headers"].append(_CLOSE)
        await self._send(message)

    async def whole(self, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        """Sends an answer that is complete."""
        self._started, self.status = True, status
        named = [*headers, (b"content-length", b"%d" % len(body)), (b"x-request-id", self._request_id)]
        if self._gateway.draining:
            named.append(_CLOSE)
        await self._send({"type": "http.response.start", "status": status, "headers": named})
        await self._send({"type": "http.response.body", "body": body})

    async def problem(self, problem: Problem) -> None:
        """Sends a problem document, if nothing has been sent yet; else the connection just ends."""
        self.detail = problem.detail
        if self._started:
            self.status = problem.status
            return
        headers = [(name.encode(), value.encode()) for name, value in problem.headers]
        if problem.status in {401, 408, 413, 503}:
            headers.append(_CLOSE)  # the rest of the body is not wanted
        await self.whole(problem.status, problem.body(self._request_id.decode()), _PROBLEM_HEADER, *headers)
