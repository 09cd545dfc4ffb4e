"""ASGI middleware that every request passes: overload protection, API keys, request ids, metrics and log.

One layer and not five, because each of them would cost more than the prediction itself. It also answers POST /predict
without a query, the fast path; all other requests go on to FastAPI.
"""

import asyncio
import hashlib
import hmac
import itertools
import re
import secrets
import signal
import threading
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from credit_risk.project.settings import Settings
from credit_risk.serving import predictions, prometheus
from credit_risk.serving.active_model import ActiveModel
from credit_risk.serving.http_protocol import Protocol, close_overdue
from credit_risk.serving.problem_details import INTERNAL_ERROR, MEDIA_TYPE, Problem
from credit_risk.serving.recorder import Recorder
from credit_risk.serving.request_body import JSON, BodyReader, check_media_type
from credit_risk.serving.structured_log import log

PREDICT, PREDICT_BATCH = "/predict", "/predict/batch"
INTERNAL = frozenset({"/metrics", "/status"})  # with an internal port, these are there and nowhere else
HEALTH = INTERNAL | {"/livez", "/readyz"}  # always answered, also under overload
OPEN = HEALTH | {"/", "/contract", "/docs", "/openapi.json"}  # need no key
FILES = ("/page/", "/docs/")  # nor do the files of the page and of the documentation
TICK_SECONDS = 0.05  # between two runs of maintenance
SHOWN_PATH = 200  # characters of a path that the log repeats
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}").fullmatch
_JSON_HEADER = (b"content-type", JSON.encode())
_PROBLEM_HEADER = (b"content-type", MEDIA_TYPE.encode())
_CLOSE = [(b"connection", b"close")]


class Middleware:
    """The ASGI application that the server runs; wraps the FastAPI one."""

    def __init__(self, app: ASGIApp, active_model: ActiveModel, settings: Settings, endpoints: Iterable[str]) -> None:
        """Wraps an application.

        Args:
            app: the ASGI application for all requests but the fast path.
            active_model: makes the predictions.
            settings: API keys and limits.
            endpoints: paths that get their own metrics; all others are counted as "other", because a scanner that tries
                thousands of paths must not fill the memory.
        """
        self._app, self._active_model, self._settings = app, active_model, settings
        self._endpoints = frozenset(endpoints)
        self._keys = [bytes.fromhex(digest) for digest in settings.api_keys_sha256]
        self._in_flight = self._batches = 0  # batches are not among those in flight: they may take minutes
        self._late = False  # the event loop is behind by more than max_queue_seconds
        self.draining = False
        self._prefix = secrets.token_hex(6).encode()
        self._count = itertools.count()
        self.bodies = BodyReader(settings.request_timeout_seconds)
        self._observe: dict[tuple[str, int], Callable[[float], None]] = {}  # by endpoint and status
        self.recorder = Recorder(settings)
        self._log_all = settings.log_requests == "all"
        Protocol.timeout_seconds = settings.request_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = perf_counter()
        path, headers = scope["path"], dict(scope["headers"])
        prefix = scope.get("root_path", "")
        if prefix:
            path = self._without_prefix(path, prefix)
        request_id = headers.get(b"x-request-id", b"")
        if not request_id or not _REQUEST_ID(request_id):
            request_id = b"%s-%x" % (self._prefix, next(self._count))
        response = _Response(send, request_id, self)
        batch = path == PREDICT_BATCH
        self._in_flight += not batch
        self._batches += batch
        try:
            self._admit(path, headers, scope)
            if path == PREDICT and scope["method"] == "POST" and not scope["query_string"]:
                await response.send_complete(200, await self.predict(headers, receive, request_id), _JSON_HEADER)
            else:
                await self._forward(scope, prefix, path, receive, response)
        except Problem as problem:
            await response.send_problem(problem)
        except Exception:  # noqa: BLE001 (the log gets all of it, the client a generic 500)
            log.exception("request failed", request_id=request_id.decode(), path=path[:SHOWN_PATH])
            await response.send_problem(INTERNAL_ERROR)
        finally:
            self._in_flight -= not batch
            self._batches -= batch
            status, seconds = response.status, perf_counter() - start
            try:
                self._observe[path, status](seconds)
            except KeyError:
                self._first_observe(path, status)(seconds)
            if status >= 400 or self._log_all:  # noqa: PLR2004 (errors begin there)
                self._log(scope["method"], path, response, seconds)

    async def predict(
        self, headers: dict[bytes, bytes], receive: Receive, request_id: bytes, *, explain: bool = False
    ) -> bytes:
        """The response of POST /predict; also called by FastAPI's route, which parses the query.

        Raises:
            Problem: the request is rejected, or there is no model.
        """
        check_media_type(headers, JSON)
        body = await self.bodies.read(receive, headers, self._settings.max_body_bytes)
        model = self._active_model.get()
        return await predictions.predict_one(body, model, self.recorder, request_id, explain=explain)

    async def run_maintenance(self) -> None:
        """Runs every 50 ms: measures how late the event loop is, ends overdue uploads, writes the metrics.

        The event loop's delay is what a request that arrives now would have to wait.
        """
        start = perf_counter()
        await asyncio.sleep(TICK_SECONDS)
        self._late = perf_counter() - start - TICK_SECONDS > self._settings.max_queue_seconds
        self.bodies.cancel_overdue()
        close_overdue()
        for status in Protocol.rejections:
            self._first_observe("", status)(0)
        Protocol.rejections.clear()
        prometheus.IN_FLIGHT.set(self._in_flight + self._batches)
        prometheus.flush()

    def drain_on_sigterm(self) -> None:
        """Makes SIGTERM take effect after drain_seconds.

        Until then the worker goes on serving, answers /readyz with 503, and closes each connection after its response.
        Then the server's own handler stops it, after the requests in flight.
        """
        loop, stop = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
        if not callable(stop) or threading.current_thread() is not threading.main_thread():
            return  # no server that handles signals: a test client

        def drain(number: int, frame: Any) -> None:
            if self.draining:
                return
            self.draining = True
            loop.call_soon_threadsafe(loop.call_later, self._settings.drain_seconds, stop, number, frame)

        signal.signal(signal.SIGTERM, drain)

    async def _forward(self, scope: Scope, prefix: str, path: str, receive: Receive, response: "_Response") -> None:
        """Passes a request on to FastAPI."""
        if prefix and not path:  # the page's links are relative to the folder
            await response.send_complete(307, b"", (b"location", f"{prefix}/".encode()))
            return
        state = {**scope.get("state", {}), "request_id": response.request_id.decode()}
        scope = {**scope, "path": prefix + path, "state": state}
        if scope["method"] == "HEAD":  # uvicorn sends no body in response to it
            scope["method"] = "GET"
        await self._app(scope, receive, response.send)

    def _without_prefix(self, path: str, prefix: str) -> str:
        """A path without the prefix that uvicorn has put before it, and without the client's if the proxy left it."""
        path = path.removeprefix(prefix)
        if path.startswith(f"{prefix}/") or (path == prefix and path not in self._endpoints):
            return path.removeprefix(prefix)
        return path

    def _admit(self, path: str, headers: dict[bytes, bytes], scope: Scope) -> None:
        """Rejects a request that would overload the worker or has no valid key, before its body is read."""
        if path in HEALTH:
            internal = self._settings.internal_port
            if internal and path in INTERNAL and scope["server"][1] != internal:
                raise Problem(404, "Not Found")
            return
        if path == PREDICT_BATCH:
            full = self._batches > self._settings.max_batches
        else:
            full = self._in_flight > self._settings.max_in_flight
        if self._late or full:
            raise Problem(
                503, "the server has more requests than it can answer in time", headers=[("retry-after", "1")]
            )
        if self._keys and path not in OPEN and not path.startswith(FILES):
            digest = hashlib.sha256(headers.get(b"x-api-key", b"")).digest()
            # All keys are compared, each in constant time, so that the time reveals nothing.
            if not sum(hmac.compare_digest(digest, key) for key in self._keys):
                raise Problem(401, "X-API-Key is missing or unknown", headers=[("www-authenticate", "X-API-Key")])

    def _first_observe(self, path: str, status: int) -> Callable[[float], None]:
        endpoint = path if path in self._endpoints else "other"
        observe = prometheus.REQUEST_SECONDS.values(endpoint, str(status)).append
        if endpoint == path:
            self._observe[path, status] = observe
        return observe

    def _log(self, method: str, path: str, response: "_Response", seconds: float) -> None:
        log.info(
            "request",
            request_id=response.request_id.decode(),
            method=method,
            path=path[:SHOWN_PATH],
            status=response.status,
            milliseconds=round(seconds * 1000, 3),
            detail=response.detail,
        )


class _Response:
    """Sends one response: adds the request's id, and remembers the status."""

    __slots__ = ("_middleware", "_send", "_started", "detail", "request_id", "status")

    def __init__(self, send: Send, request_id: bytes, middleware: Middleware) -> None:
        self._send, self.request_id, self._middleware = send, request_id, middleware
        self._started = False
        self.status = 499  # if none is sent: the client has disconnected
        self.detail: str | None = None

    async def send(self, message: Message) -> None:
        """Passes on a message of the wrapped application."""
        if message["type"] == "http.response.start":
            message["headers"] = self._start(message["status"], message["headers"])
        await self._send(message)

    async def send_complete(self, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        """Sends a response whose body is complete."""
        all_headers = self._start(status, (*headers, (b"content-length", b"%d" % len(body))))
        await self._send({"type": "http.response.start", "status": status, "headers": all_headers})
        await self._send({"type": "http.response.body", "body": body})

    def _start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        self._started, self.status = True, status
        return [*headers, (b"x-request-id", self.request_id), *(_CLOSE if self._middleware.draining else ())]

    async def send_problem(self, problem: Problem) -> None:
        """Sends a problem document; if a response has been started, the connection just ends."""
        self.detail = problem.detail
        if self._started:
            self.status = problem.status
            return
        headers = [(name.encode(), value.encode()) for name, value in problem.headers]
        if problem.status in {401, 408, 413, 503}:
            headers += _CLOSE  # the rest of the body is not wanted
        await self.send_complete(problem.status, problem.body(self.request_id.decode()), _PROBLEM_HEADER, *headers)
