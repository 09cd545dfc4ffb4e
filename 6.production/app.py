"""The API: rows in, probabilities and decisions out.

Serves the active model from the cache that model_sync.py fills. Imports neither pandas, scikit-learn nor MLflow, and
unpickles nothing. Every request passes the middleware, which answers most of POST /predict itself.

Usage: uv run main.py serve                                 or 6.production/serve.py: with model sync
       uv run uvicorn --app-dir 6.production app:app        without it: serves what is in the cache
"""

import credit_risk.core.entry_point  # noqa: F401 (a wrong setting ends uvicorn with one sentence)

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse
from fastapi.security import APIKeyHeader
from fastapi.staticfiles import StaticFiles
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException

from credit_risk.contract import CONTRACT
from credit_risk.project.settings import serving_settings
from credit_risk.serving import model_cache, predictions, prometheus
from credit_risk.serving.active_model import ActiveModel
from credit_risk.serving.middleware import OPEN, PREDICT, PREDICT_BATCH, Middleware
from credit_risk.serving.predictions import BatchPrediction, ExplainedPrediction, Prediction
from credit_risk.serving.problem_details import INTERNAL_ERROR, MEDIA_TYPE, Problem, ProblemDocument, documented
from credit_risk.serving.request_body import JSON, NDJSON, check_media_type, read_lines
from credit_risk.serving.request_model import PredictionRequest
from credit_risk.serving.structured_log import log

PAGE = Path(__file__).parent / "page"
MAX_SYNC_AGE = 10  # times the usual pause of model sync; then /readyz says that it has not reported
PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
EXAMPLES = ("low risk", "medium risk", "high risk")

current = serving_settings()
active_model = ActiveModel(current.model_cache)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Loads the model; without one the API starts nevertheless, and /readyz says so."""
    active_model.refresh()
    gc.set_threshold(10_000)  # a batch makes thousands of objects, none of which needs the collector
    gc.collect()
    gc.freeze()  # collections skip what exists now; otherwise they would take a sixth of a batch's time
    middleware.drain_on_sigterm()
    recorder = middleware.recorder
    steps = [active_model.poll, middleware.run_maintenance, *([recorder.run] if recorder.enabled else [])]
    if recorder.shadow:
        recorder.shadow.refresh()
        steps.append(recorder.shadow.poll)
    tasks = [asyncio.create_task(repeat(step)) for step in steps]
    yield
    for task in tasks:
        task.cancel()
    recorder.close()


async def repeat(step: Callable[[], Awaitable[None]]) -> None:
    """Runs a step of background work again and again; a failure is logged and does not end it."""
    while True:
        try:
            await step()
        except Exception:  # noqa: BLE001 (whatever it is, the next run may succeed)
            log.exception("background task failed", task=step.__qualname__)
            await asyncio.sleep(1)


api = FastAPI(
    title=CONTRACT.problem.title, version="1", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
)


def respond(problem: Problem, request: Request) -> Response:
    """A problem as a response."""
    body = problem.body(request.state.request_id)
    return Response(body, problem.status, dict(problem.headers), MEDIA_TYPE)


@api.exception_handler(Problem)
async def handle_problem(request: Request, problem: Problem) -> Response:
    """A request that the API's own code rejects."""
    return respond(problem, request)


@api.exception_handler(Exception)
async def handle_unexpected(request: Request, _: Exception) -> Response:
    """Unexpected error: logged by the middleware; the client gets a generic 500."""
    return respond(INTERNAL_ERROR, request)


@api.exception_handler(HTTPException)
async def handle_http_exception(request: Request, error: HTTPException) -> Response:
    """A request that FastAPI rejects: unknown path or method."""
    return respond(Problem(error.status_code, error.detail, headers=list((error.headers or {}).items())), request)


@api.exception_handler(RequestValidationError)
async def handle_invalid_query(request: Request, error: RequestValidationError) -> Response:
    """A query parameter is invalid; bodies are validated by the API's own code."""
    first = error.errors()[0]
    return respond(Problem(422, f"{first['loc'][-1]}: {first['msg']}"), request)


def request_body(schemas: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI of a body that is read as bytes, by media type."""
    content = {media_type: {"schema": schema} for media_type, schema in schemas.items()}
    return {"requestBody": {"required": True, "content": content}}


def openapi() -> dict[str, Any]:
    """The OpenAPI document, with the schemas that FastAPI can't infer because bodies are read and written as bytes."""
    if not api.openapi_schema:
        document = get_openapi(title=api.title, version=api.version, routes=api.routes)
        adapters: list[tuple[str, Literal["validation", "serialization"], TypeAdapter[Any]]] = [
            ("row", "validation", TypeAdapter(PredictionRequest)),
            ("problem", "serialization", TypeAdapter(ProblemDocument)),
        ]
        _, more = TypeAdapter.json_schemas(adapters, ref_template="#/components/schemas/{model}")
        document["components"]["schemas"].update(more["$defs"])
        api.openapi_schema = document
    return api.openapi_schema


api.openapi = openapi  # type: ignore[method-assign]  # how FastAPI's documentation says to extend it
KEY = [Security(APIKeyHeader(name="X-API-Key", auto_error=False, description="Required when keys are configured"))]
ROW = {"$ref": "#/components/schemas/PredictionRequest"}
BATCH_ROW = {"anyOf": [ROW, {}]}  # rows are validated one by one, so a list may contain anything


@api.post(
    PREDICT,
    dependencies=KEY,
    response_model=Prediction | ExplainedPrediction,
    responses=documented(400, 401, 408, 413, 415, 422, 503),
    openapi_extra=request_body({JSON: ROW}),
)
async def predict(request: Request, *, explain: bool = False) -> Response:
    """Probability and decision for one row; with `explain=true` also what each field contributes."""
    headers, request_id = dict(request.scope["headers"]), request.state.request_id.encode()
    body = await middleware.predict(headers, request.receive, request_id, explain=explain)
    return Response(body, media_type=JSON)


@api.post(
    PREDICT_BATCH,
    dependencies=KEY,
    response_model=BatchPrediction,
    responses=documented(400, 401, 408, 413, 415, 503)
    | {200: {"content": {NDJSON: {"schema": {"type": "string"}}}, "description": "In the order of the rows"}},
    openapi_extra=request_body({JSON: {"type": "array", "items": BATCH_ROW}, NDJSON: {"type": "string"}}),
)
async def predict_batch(request: Request) -> Response:
    """Many rows, as a JSON list or as NDJSON (streamed, one per line). An invalid row gets its errors instead."""
    model, headers = active_model.get(), dict(request.scope["headers"])
    record = middleware.recorder, request.state.request_id.encode()
    if check_media_type(headers, JSON, NDJSON) == NDJSON:
        return StreamResponse(predictions.predict_stream(read_lines(request.receive, current), model, *record))
    body = await middleware.bodies.read(request.receive, headers, current.max_batch_bytes)
    return Response(await predictions.predict_batch(body, model, current.max_batch_rows, *record), media_type=JSON)


class StreamResponse(Response):
    """A response that is sent while the request is still being read, which Starlette's own streaming does not allow."""

    media_type = NDJSON

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        """Takes the parts of the body."""
        super().__init__()
        del self.headers["content-length"]
        self._chunks = chunks

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG002 (ASGI)
        """Sends each part as it comes."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


@api.get("/model", dependencies=KEY, responses=documented(401, 503))
async def model_info() -> dict[str, Any]:
    """The active version: its lineage, the results of its gates, and since when this worker has served it."""
    cached = active_model.get().cached
    return {**cached.info, "loaded_since": cached.loaded_since}


@api.get("/examples", dependencies=KEY, responses=documented(401, 503))
async def examples() -> list[dict[str, Any]]:
    """Three held-out rows, from low to high risk."""
    reference = active_model.get().cached.reference_rows
    ranked = [row for _, row in sorted(zip(reference["scores"], reference["rows"], strict=True), key=lambda it: it[0])]
    chosen = (ranked[0], ranked[len(ranked) // 2], ranked[-1])
    return [{"label": label, "row": row} for label, row in zip(EXAMPLES, chosen, strict=True)]


@api.get("/contract")
async def contract() -> dict[str, Any]:
    """The contract: fields, rules and the words of the problem, for forms and texts."""
    fields = [
        {
            **{name: value for name, value in asdict(field).items() if name != "column"},
            "label": CONTRACT.label(field.name),
            "kind": type(field).__name__.lower(),  # choice, name or number
            "rule": field.rule,
        }
        for field in CONTRACT.fields
    ]
    rules = [{"smaller": rule.smaller, "larger": rule.larger, "rule": rule.rule} for rule in CONTRACT.rules]
    key_required = bool(current.api_keys_sha256)
    return {"problem": asdict(CONTRACT.problem), "fields": fields, "rules": rules, "key_required": key_required}


@api.get("/livez")
async def livez() -> dict[str, str]:
    """Whether the process answers."""
    return {"detail": "alive"}


@api.get("/readyz", responses=documented(503))
async def readyz() -> dict[str, str]:
    """Whether the worker can predict and accepts requests; `/status` says why not."""
    if middleware.draining or not active_model.loaded:
        raise Problem(503, "not ready")
    return {"detail": "ready"}


@api.get("/status")
async def status() -> dict[str, Any]:
    """Internal: what this worker serves and whether it is up to date, and which version each worker serves."""
    detail = "the server is stopping" if middleware.draining else active_model.status()
    problem = model_cache.sync_problem(current.model_cache, MAX_SYNC_AGE * current.model_sync_seconds)
    if active_model.loaded and problem:
        detail += f" from the cache: {problem}"
    ready = active_model.loaded and not middleware.draining
    shadow = {"shadow": middleware.recorder.shadow.status()} if middleware.recorder.shadow else {}
    return {"ready": ready, "detail": detail, "workers": prometheus.model_versions(), **shadow}


@api.get("/metrics", response_class=Response)
async def metrics() -> Response:
    """Internal: metrics of all workers, for Prometheus."""
    return Response(prometheus.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


@api.get("/", include_in_schema=False)
async def page() -> Response:
    """The page."""
    return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)


@api.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """The documentation, by Swagger UI."""
    return FileResponse(PAGE / "docs.html", headers=PAGE_HEADERS)


class PageFiles(StaticFiles):
    """Files of the page and of Swagger UI, with the page's security headers."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Adds the headers."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(PAGE_HEADERS)
        return response


api.mount("/page", PageFiles(directory=PAGE, check_dir=False), "page")
api.mount("/docs", PageFiles(packages=[("fastapi_offline", "static")]), "docs files")
middleware = Middleware(api, active_model, current, OPEN | {PREDICT, PREDICT_BATCH, "/model", "/examples"})
app: Any = middleware
if current.cors_origins:
    app = CORSMiddleware(
        middleware, allow_origins=current.cors_origins, allow_methods=["GET", "POST"], allow_headers=["*"]
    )
