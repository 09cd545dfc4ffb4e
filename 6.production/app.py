"""The API: applications in, probabilities of default and decisions out.

Serves the ONNX form of the champion from the cache that model_sync.py fills. Imports neither pandas, scikit-learn nor
MLflow, and never unpickles. Every request passes the gateway first (keys, limits, metrics, log), which answers
POST /predict itself; what is declared here documents it and answers the rest.

Usage: uv run main.py serve                                 or 6.production/serve.py: with the keeper
       uv run uvicorn --app-dir 6.production app:app        without it: serves what is in the cache
"""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.responses import FileResponse, JSONResponse
from fastapi.security import APIKeyHeader
from fastapi.staticfiles import StaticFiles
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from credit_risk.contract import FIELDS, RULES, Choice
from credit_risk.core.settings import serving_settings
from credit_risk.serving import model_cache, predictions, prometheus
from credit_risk.serving.active_model import Champion
from credit_risk.serving.middleware import OPEN, PREDICT, Middleware
from credit_risk.serving.predictions import ExplainedPrediction, Predictions
from credit_risk.serving.problem_details import FAULT, MEDIA_TYPE, Problem, ProblemDocument, documented
from credit_risk.serving.request_body import JSON, NDJSON, check_media_type, read_body, read_lines, too_slow
from credit_risk.serving.request_model import LoanApplication

PAGE = Path(__file__).parent / "page"
SYNC_PATIENCE = 10  # times its usual pause: longer, and a silent keeper is told in /readyz
PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
EXAMPLES = ("low risk", "middling risk", "high risk")

current = serving_settings()
champion = Champion(current.model_cache)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Loads the model; without one the API starts all the same, and says so in /readyz."""
    champion.refresh()
    gc.set_threshold(10_000)  # a batch makes three thousand objects, none of which needs the collector
    gc.collect()
    gc.freeze()  # what is here now stays: looking through it again and again would take a sixth of a batch's time
    gateway.drain_on_sigterm()
    tasks = [asyncio.create_task(champion.watch()), asyncio.create_task(gateway.run_maintenance())]
    yield
    for task in tasks:
        task.cancel()


api = FastAPI(title="Credit risk", version="1", lifespan=lifespan, redoc_url=None, redirect_slashes=False)


def answered(problem: Problem, request: Request) -> Response:
    """A problem as a response."""
    document = problem.document(request.state.request_id)
    return JSONResponse(document, problem.status, dict(problem.headers), MEDIA_TYPE)


@api.exception_handler(Problem)
async def known(request: Request, problem: Problem) -> Response:
    """What our own code refuses."""
    return answered(problem, request)


@api.exception_handler(Exception)
async def unknown(request: Request, _: Exception) -> Response:
    """A fault of ours: the gateway writes it to the log, and the client learns nothing of it."""
    return answered(FAULT, request)


@api.exception_handler(HTTPException)
async def refused(request: Request, error: HTTPException) -> Response:
    """What FastAPI itself refuses: unknown paths and methods."""
    return answered(Problem(error.status_code, error.detail, headers=list((error.headers or {}).items())), request)


@api.exception_handler(RequestValidationError)
async def wrong_query(request: Request, error: RequestValidationError) -> Response:
    """A parameter of the query is not what it should be; bodies are read by our own code."""
    first = error.errors()[0]
    return answered(Problem(422, f"{first['loc'][-1]}: {first['msg']}"), request)


async def whole_body(request: Request, limit: int) -> bytes:
    """The body, if it is not too large and comes in time."""
    try:
        async with asyncio.timeout(current.request_timeout_seconds):
            return await read_body(request.receive, dict(request.scope["headers"]), limit)
    except TimeoutError:
        raise too_slow(current.request_timeout_seconds) from None


def body_of(schemas: dict[str, Any]) -> dict[str, Any]:
    """OpenAPI of a body that is read as bytes, by media type."""
    return {"requestBody": {"required": True, "content": {kind: {"schema": it} for kind, it in schemas.items()}}}


def openapi() -> dict[str, Any]:
    """The OpenAPI document, with the models that FastAPI does not see because bytes are read and written."""
    if not api.openapi_schema:
        document = get_openapi(title=api.title, version=api.version, routes=api.routes)
        _, unseen = models_json_schema(
            [(LoanApplication, "validation"), (ProblemDocument, "serialization")],
            ref_template="#/components/schemas/{model}",
        )
        document["components"]["schemas"].update(unseen["$defs"])
        api.openapi_schema = document
    return api.openapi_schema


api.openapi = openapi  # type: ignore[method-assign]  # how FastAPI's documentation says to extend it
KEY = [Security(APIKeyHeader(name="X-API-Key", auto_error=False, description="Demanded when keys are configured"))]
APPLICATION = {"$ref": "#/components/schemas/LoanApplication"}
# Rows are judged one by one, so a list may hold anything.
ROW = {"anyOf": [APPLICATION, {}]}


@api.post(
    "/predict",
    dependencies=KEY,
    response_model=ExplainedPrediction,
    responses=documented(400, 401, 408, 413, 415, 422, 503),
    openapi_extra=body_of({JSON: APPLICATION}),
)
async def predict_one(request: Request, *, explain: bool = False) -> Response:
    """Probability of default and decision for one application; with `explain=true` also what raised the risk."""
    check_media_type(dict(request.scope["headers"]), JSON)
    body = await whole_body(request, current.max_body_bytes)
    if explain:  # written here: FastAPI would check its own answer once more
        explained = predictions.explained(body, champion.get())
        return Response(explained.model_dump_json(exclude_none=True), media_type=JSON)
    return Response(await predictions.one(body, champion.get()), media_type=JSON)


@api.post(
    "/predict/batch",
    dependencies=KEY,
    response_model=Predictions,
    responses=documented(400, 401, 408, 413, 415, 503)
    | {200: {"content": {NDJSON: {"schema": {"type": "string"}}}, "description": "In the order of the rows"}},
    openapi_extra=body_of({JSON: {"type": "array", "items": ROW}, NDJSON: {"type": "string"}}),
)
async def predict_batch(request: Request) -> Response:
    """Many applications, as a JSON list or as NDJSON (streamed, a line each). A bad row gets errors in its place."""
    model = champion.get()
    if check_media_type(dict(request.scope["headers"]), JSON, NDJSON) == NDJSON:
        lines = read_lines(request.receive, current)
        return Stream(predictions.stream(lines, model))
    body = await whole_body(request, current.max_batch_bytes)
    return Response(await predictions.many(body, model, current.max_batch_rows), media_type=JSON)


class Stream(Response):
    """An answer that grows while the request is still being read, which FastAPI's own streaming does not allow."""

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
async def about() -> dict[str, Any]:
    """The served version: where it comes from, what the gates measured, and since when this worker has served it."""
    model = champion.get().model
    return {**model.about, "loaded_since": model.loaded_since}


@api.get("/examples", dependencies=KEY, responses=documented(401, 503))
async def examples() -> list[dict[str, Any]]:
    """Held-out loans, from low to high risk."""
    rows = champion.get().model.reference_rows
    ranked = [row for _, row in sorted(zip(rows["scores"], rows["applications"], strict=True), key=lambda it: it[0])]
    chosen = (ranked[0], ranked[len(ranked) // 2], ranked[-1])
    return [{"label": label, "application": row} for label, row in zip(EXAMPLES, chosen, strict=True)]


@api.get("/contract")
async def contract() -> dict[str, Any]:
    """The fields of an application, for forms."""
    fields = []
    for field in FIELDS:
        told = {name: getattr(field, name) for name in field.__slots__ if name != "raw"}
        kind = "choice" if isinstance(field, Choice) else "number"
        fields.append({**told, "label": field.label, "kind": kind, "rule": field.rule})
    rules = [{"smaller": rule.smaller, "larger": rule.larger, "rule": rule.rule} for rule in RULES]
    return {"fields": fields, "rules": rules, "key_required": bool(current.api_keys_sha256)}


@api.get("/livez")
async def livez() -> dict[str, str]:
    """Whether the process answers."""
    return {"detail": "alive"}


@api.get("/readyz", responses=documented(503))
async def readyz() -> dict[str, str]:
    """Whether it can predict and wants requests; says when it serves without word from the registry."""
    if gateway.draining:
        raise Problem(503, "the server is stopping")
    model = champion.get().model
    patience = SYNC_PATIENCE * current.model_sync_seconds
    problem = model_cache.sync_problem(current.model_cache, patience)
    return {"detail": f"serving version {model.version}" + (f" from the cache: {problem}" if problem else "")}


@api.get("/metrics", response_class=Response)
async def scrape() -> Response:
    """Metrics for Prometheus, of all workers together."""
    return Response(prometheus.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


@api.get("/", include_in_schema=False)
async def page() -> Response:
    """The page for people."""
    return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)


class PageFiles(StaticFiles):
    """The page's files, with its security headers."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """Adds them."""
        response = super().file_response(*args, **kwargs)
        response.headers.update(PAGE_HEADERS)
        return response


api.mount("/page", PageFiles(directory=PAGE, check_dir=False), "page")
gateway = Middleware(api, champion, current, OPEN | {PREDICT, "/predict/batch", "/model", "/examples"})
app: Any = gateway
if current.cors_origins:
    app = CORSMiddleware(
        gateway, allow_origins=current.cors_origins, allow_methods=["GET", "POST"], allow_headers=["*"]
    )
