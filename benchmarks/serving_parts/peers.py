"""The servers that are compared, how each is set up, and what its environment contains."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from credit_risk.contract import CONTRACT

WORDS = {name for name in CONTRACT.field_names if name not in {number.name for number in CONTRACT.numbers}}
LOCK = "requirements.lock"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to serve the model.

    Attributes:
        name: as in the tables.
        package: whose version is reported.
        environment: one of NEEDS; the command's program is from there.
        command: may name {port}, {model} (folder of the version's files), {peers} (our files for peers), {root}.
        path: of a prediction.
        setup: what was set and why, for the report.
        variables: of the environment; may also name {scratch}, {registry}, {key_sha256} and two {more_ports}.
        body: a row in the peer's format.
        probability: in the peer's answer; None when there is none.
    """

    name: str
    package: str
    environment: str
    command: str
    path: str
    setup: str
    variables: dict[str, str] = field(default_factory=dict)
    body: Callable[[Row], Any] = dict
    probability: Callable[[Any], float] | None = lambda answer: float(answer["probability"])


def as_split(row: Row) -> Any:
    """A row in the format of MLflow's scoring server."""
    return {"dataframe_split": {"columns": list(row), "data": [list(row.values())]}}


def as_tensors(row: Row) -> Any:
    """A row in the Open Inference Protocol: a tensor per field."""
    text: Row = {"datatype": "BYTES", "parameters": {"content_type": "str"}}
    number: Row = {"datatype": "FP64"}
    inputs = [
        {"name": name, "shape": [1, 1], "data": [value], **(text if name in WORDS else number)}
        for name, value in row.items()
    ]
    return {"parameters": {"content_type": "pd"}, "inputs": inputs}


THIS, LIMIT, MLFLOW, ADAPTIVE = "this API", "bare ASGI", "mlflow models serve", "BentoML, adaptive batching"
UVICORN = "uvicorn --host 127.0.0.1 --port {port} --workers 1 --no-access-log --no-server-header --app-dir"
PRODUCTION = {
    "APP_ENV": "production",
    "API_KEYS_SHA256": "{key_sha256}",
    "MODEL_CACHE": "{scratch}/cache",
    "MLFLOW_TRACKING_URI": "{registry}",
}
MODEL = {"MODEL_FOLDER": "{model}"}
BENTOML = {**MODEL, "BENTOML_HOME": "{scratch}/bentoml", "BENTOML_DO_NOT_TRACK": "True"}
MLSERVER = {
    "MLSERVER_MODEL_URI": "{model}",
    "MLSERVER_HTTP_PORT": "{port}",
    "MLSERVER_GRPC_PORT": "{more_ports[0]}",
    "MLSERVER_METRICS_PORT": "{more_ports[1]}",
}
# Servers are pinned to one core.
ALWAYS = {"OMP_NUM_THREADS": "1"}

PEERS = (
    Peer(
        THIS,
        "uvicorn",
        "serving",
        "python {root}/6.production/serve.py --port {port} --workers 1",
        "/predict",
        "As in production: requirements.lock, `APP_ENV=production`, a key with each request, metrics, limits, request "
        "ids, errors logged, model sync with an MLflow server.",
        PRODUCTION,
    ),
    Peer(
        LIMIT,
        "uvicorn",
        "serving",
        UVICORN + " {peers} bare:app",
        "/",
        "The same uvicorn; reads the body and answers a constant of the same length. No API on it can be faster.",
        probability=None,
    ),
    Peer(
        "FastAPI + ONNX",
        "fastapi",
        "serving",
        UVICORN + " {peers} fastapi_onnx:app",
        "/predict",
        "An ordinary handler with this project's features and ONNX model, without keys, metrics and limits: the "
        "rest of the difference is the fast path of this API.",
        MODEL,
    ),
    Peer(
        "FastAPI + pandas",
        "fastapi",
        "fastapi",
        UVICORN + " {peers} naive:app",
        "/predict",
        "As most tutorials write it: `def` handler, pydantic model, one-row data frame, `predict_proba`.",
        MODEL,
    ),
    Peer(
        MLFLOW,
        "mlflow",
        "mlflow",
        "mlflow models serve --model-uri {model} --env-manager local --host 127.0.0.1 --port {port} --workers 1",
        "/invocations",
        "In an environment of the model's own requirements. It builds the model from the types that the *artifact* "
        "lists as trusted, not from a list of the project, so the artifact can extend it.",
        {"UVICORN_ACCESS_LOG": "false"},
        as_split,
        lambda answer: float(answer["predictions"][0][1]),
    ),
    Peer(
        "BentoML",
        "bentoml",
        "bentoml",
        "bentoml serve bento:Plain --working-dir {peers} --host 127.0.0.1 --port {port}",
        "/predict",
        "`bentoml serve` runs in production mode by default. Access log off, which BentoML has on.",
        BENTOML,
        lambda row: {"row": row},
        float,
    ),
    Peer(
        ADAPTIVE,
        "bentoml",
        "bentoml",
        "bentoml serve bento:Adaptive --working-dir {peers} --host 127.0.0.1 --port {port}",
        "/predict",
        "`batchable=True` with BentoML's own limits (100 requests a batch). Clients send lists of one: that spares the "
        "wrapping service of BentoML's documentation, a process and a hop.",
        BENTOML,
        lambda row: {"rows": [row]},
        lambda answer: float(answer[0]),
    ),
    Peer(
        "MLServer",
        "mlserver",
        "mlserver",
        "mlserver start {peers}/mlserver",
        "/v2/models/model/infer",
        "The MLflow runtime, its documented way for a registered model (it trusts the artifact's list of types, too). "
        "`debug` off, one inference worker (its default; without one it is no faster), batching off (its default). "
        "uvloop 0.21, because its workers do not start with 0.22.",
        MLSERVER,
        as_tensors,
        lambda answer: float(answer["outputs"][0]["data"][1]),
    ),
    Peer(
        "MLServer, adaptive batching",
        "mlserver",
        "mlserver",
        "mlserver start {peers}/mlserver",
        "/v2/models/model/infer",
        "The same with at most 100 requests a batch, as BentoML, collected for at most 10 ms, which its documentation "
        "leaves to trial.",
        {**MLSERVER, "MLSERVER_MODEL_MAX_BATCH_SIZE": "100", "MLSERVER_MODEL_MAX_BATCH_TIME": "0.01"},
        as_tensors,
        lambda answer: float(answer["outputs"][0]["data"][1]),
    ),
)
# The API's worker without serve.py and model sync, which start on the same core at the same moment.
WORKER = Peer(
    "the worker alone",
    "uvicorn",
    "serving",
    UVICORN + " {root}/6.production app:app",
    "/predict",
    "",
    PRODUCTION,
)


@dataclass(frozen=True, slots=True)
class Environment:
    """What to install: for pip, and whether the model's requirements come along and this project's package."""

    packages: tuple[str, ...]
    model: tuple[str, ...] = ()
    project: bool = True


# MLflow loads the model with the code that the artifact brings; BentoML 1.4 can't be installed beside MLflow.
MODEL_PACKAGES = ("numpy", "pandas", "scikit-learn", "skops")
NEEDS = {
    "serving": Environment(("--require-hashes", "--requirements", LOCK)),
    "fastapi": Environment(("fastapi", "uvicorn[standard]"), MODEL_PACKAGES),
    "mlflow": Environment((), ("mlflow", *MODEL_PACKAGES), project=False),
    "bentoml": Environment(("bentoml>=1.4",), MODEL_PACKAGES),
    "mlserver": Environment(
        ("mlserver>=1.7", "mlserver-mlflow>=1.7", "uvloop<0.22"), ("mlflow", *MODEL_PACKAGES), project=False
    ),
}
