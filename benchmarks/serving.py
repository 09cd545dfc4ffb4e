"""This API beside other ways to serve the same registered model: requests a second, latency, memory, size.

Each server gets the registry's champion, one worker, an environment of its own (kept in benchmarks/.environments) and
a core to itself; the load generator, wrk, has another. They are measured one after the other, in rounds, each once it
has given the same probabilities for held-out loans as the registered scikit-learn form. PEERS says how each is set up.

Usage: uv run benchmarks/serving.py            a quarter of an hour; needs wrk (Debian: apt-get install wrk)
       uv run benchmarks/serving.py --quick    one short round, two to three minutes; writes nothing
       uv run benchmarks/serving.py --quick --only "bare ASGI"      this API and these; writes nothing
Writes: benchmarks/results/serving.md and serving.png
"""

import argparse
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import resource
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import psutil

from credit_risk import registered_form
from credit_risk.contract import FIELDS, Choice
from credit_risk.errors import CreditRiskError
from credit_risk.files import replacing
from credit_risk.holdout import as_records, read_holdout
from credit_risk.model import default_probability
from credit_risk.paths import relative, root
from credit_risk.registry import CHAMPION, Registry
from credit_risk.script import run

CONNECTIONS = (1, 16, 64)
ROUNDS, SECONDS = 5, 3  # passes over all servers; length of each measurement
QUICK_SECONDS = WARM_UP_SECONDS = 1
# A slow server is measured for longer, so that each connection has several answers; but not for ever.
ANSWERS, LONGEST_SECONDS = 4, 8
LOANS = 200  # held-out loans that are sent in turn
BATCH_ROWS = 1000
TOLERANCE = 1e-6  # between a server's probability and the registered scikit-learn form's
BUSY = 0.9  # share of its core from which on the load generator itself may be the limit
READY_SECONDS = 120  # until a server that does not answer counts as broken
LIFE_SECONDS = 1800  # no server lives longer, whatever becomes of the benchmark
GRACE_SECONDS = 5  # between SIGTERM and SIGKILL
POLL_SECONDS = 0.01
MB = 1_000_000
OK = 200

PEER_FILES = Path(__file__).resolve().parent / "serving_peers"
ENVIRONMENTS = Path(__file__).resolve().parent / ".environments"
RESULTS = Path(__file__).resolve().parent / "results"
LOCK = "requirements.lock"
WORDS = {item.name for item in FIELDS if isinstance(item, Choice)}

Application = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to serve the model.

    Attributes:
        name: as in the tables.
        package: whose version is told.
        environment: one of NEEDS; the command's program is from there.
        command: may name {port}, {model} (folder of the version's files), {peers} (our files for peers), {root}.
        path: of a prediction.
        setup: what was set and why, for the report.
        variables: of the environment; may also name {scratch}, {registry}, {key_sha256} and two {more_ports}.
        body: an application as the peer takes it.
        probability: of default, in the peer's answer; None when there is none.
    """

    name: str
    package: str
    environment: str
    command: str
    path: str
    setup: str
    variables: dict[str, str] = field(default_factory=dict)
    body: Callable[[Application], Any] = dict
    probability: Callable[[Any], float] | None = lambda answer: float(answer["probability_of_default"])


def as_split(application: Application) -> Any:
    """An application as MLflow's scoring server takes it."""
    return {"dataframe_split": {"columns": list(application), "data": [list(application.values())]}}


def as_tensors(application: Application) -> Any:
    """An application in the Open Inference Protocol: a tensor a field."""
    words: Application = {"datatype": "BYTES", "parameters": {"content_type": "str"}}
    numbers: Application = {"datatype": "FP64"}
    inputs = [
        {"name": name, "shape": [1, 1], "data": [value], **(words if name in WORDS else numbers)}
        for name, value in application.items()
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
# Pinned to a core, more threads than that would only get in each other's way.
ALWAYS = {"OMP_NUM_THREADS": "1"}

PEERS = (
    Peer(
        THIS,
        "uvicorn",
        "serving",
        "python {root}/6.production/serve.py --port {port} --workers 1",
        "/predict",
        "As in production: requirements.lock, `APP_ENV=production`, a key with each request, metrics, limits, request "
        "ids, errors logged, the keeper beside it following an MLflow server.",
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
        "An ordinary handler around this project's scoring core, without keys, metrics and limits: it shows which part "
        "of the gain is ONNX and plain numbers, and which the rest of this API.",
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
        "lists as trusted, not from a list of the project: whoever can write the artifact can widen it.",
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
        lambda application: {"application": application},
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
        lambda application: {"applications": [application]},
        lambda answer: float(answer[0]),
    ),
    Peer(
        "MLServer",
        "mlserver",
        "mlserver",
        "mlserver start {peers}/mlserver",
        "/v2/models/credit-risk/infer",
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
        "/v2/models/credit-risk/infer",
        "The same with at most 100 requests a batch, as BentoML, collected for at most 10 ms, which its documentation "
        "leaves to trial.",
        {**MLSERVER, "MLSERVER_MODEL_MAX_BATCH_SIZE": "100", "MLSERVER_MODEL_MAX_BATCH_TIME": "0.01"},
        as_tensors,
        lambda answer: float(answer["outputs"][0]["data"][1]),
    ),
)
# The API's worker without serve.py and its keeper, which start on the same core at the same moment.
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


@dataclass(frozen=True, slots=True)
class Load:
    """What the load generator saw: milliseconds, and how busy it was itself (share of its core)."""

    connections: int
    per_second: float
    p50: float
    p99: float
    failed: int
    busy: float


@dataclass(slots=True)
class Measured:
    """What was measured of a server; a value a round."""

    difference: float = float("nan")  # largest, to the registered scikit-learn form's probabilities
    ready: list[float] = field(default_factory=list)  # seconds
    memory: list[float] = field(default_factory=list)  # MB, after the load, all its processes
    keeper: list[float] = field(default_factory=list)  # MB of these that are this API's keeper
    loads: list[Load] = field(default_factory=list)
    batch: list[float] = field(default_factory=list)  # rows a second

    def at(self, connections: int, what: str) -> float:
        """Median over the rounds of one figure at so many connections."""
        return float(median(getattr(load, what) for load in self.loads if load.connections == connections))


@dataclass(frozen=True, slots=True)
class Bench:
    """What all measurements share: the model's folder and number, loans and their probabilities, cores, addresses."""

    model: Path
    version: str
    scratch: Path
    applications: list[Application]
    expected: Any
    cores: tuple[int, int] | None  # of the servers, of the load generator; None where the system can't pin
    registry: str = ""
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def write(self, name: str, bodies: list[Any]) -> Path:
        """Writes bodies to a file, a line each."""
        path = self.scratch / f"{name}.jsonl"
        path.write_text("".join(json.dumps(body) + "\n" for body in bodies), encoding="utf-8")
        return path


def main() -> None:
    """Measures all servers in rounds and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round; prints the report and writes nothing")
    names = [peer.name for peer in PEERS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help="; ".join(names))
    arguments = parser.parse_args()
    if not shutil.which("wrk"):
        raise CreditRiskError("the load generator wrk is missing; install it (Debian: apt-get install wrk)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the servers are ended first
    peers = [peer for peer in PEERS if peer.name in {THIS, *arguments.only}]
    rounds, seconds = (1, QUICK_SECONDS) if arguments.quick else (ROUNDS, SECONDS)
    began, busy = time.monotonic(), os.getloadavg()[0]
    measured = {peer.name: Measured() for peer in [*peers, WORKER]}
    with tempfile.TemporaryDirectory(prefix="serving-") as name, registry(prepare(Path(name))) as bench:
        for environment in dict.fromkeys(peer.environment for peer in peers):
            build(environment, bench)
        with serving(PEERS[0], bench) as server:  # fills the API's cache
            empty = server.ready
        for number in range(rounds):
            # Each round begins with another server, so that none always runs after the same one.
            for peer in [*peers[number % len(peers) :], *peers[: number % len(peers)]]:
                say(f"round {number + 1} of {rounds}: {peer.name}")
                try:
                    measure(peer, bench, seconds, measured[peer.name])
                except CreditRiskError as error:
                    if not measured[peer.name].loads:
                        raise
                    say(f"left out of this round: {error}")  # what the other rounds have shown still counts
            with serving(WORKER, bench) as server:
                measured[WORKER.name].ready.append(server.ready)
        core = measure_core(bench)
    text = report(
        measured,
        peers,
        date=f"{datetime.now(UTC):%d %B %Y}",
        machine=machine(),
        busy=f"{busy:.1f}" + (" (others were at work: trust the ratios only)" if busy > 1 else ""),
        version=bench.version,
        wrk=wrk_version(),
        rounds=f"{rounds} round" + "s" * (rounds > 1),
        seconds=seconds,
        minutes=f"{(time.monotonic() - began) / 60:.0f}",
        empty=f"{empty:.1f}",
        **{name: f"{figure:.1f}" for name, figure in core.items()},
    )
    print(text)
    if arguments.quick or len(peers) < len(PEERS):
        return
    with replacing(RESULTS / "serving.png") as temporary:
        plot(measured, peers, temporary)
    with replacing(RESULTS / "serving.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    say(f"wrote {relative(RESULTS / 'serving.md')} and serving.png")


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def prepare(scratch: Path) -> Bench:
    """Downloads the champion; scores the loans that will be sent with its scikit-learn form."""
    cores = None
    if sys.platform == "linux":
        usable = sorted(os.sched_getaffinity(0))
        if len(usable) < 2:  # noqa: PLR2004 (one for the servers, one for the load)
            raise CreditRiskError("this benchmark needs two cores: one for the servers, one for the load generator")
        cores = (usable[-1], usable[0])
    known = Registry()
    champion = known.version_of(CHAMPION)
    if champion is None:
        raise CreditRiskError(f"{known.address} has no champion yet; run `uv run main.py` first")
    model = known.download(champion.number, into=scratch / "model")
    frame = read_holdout("test").applications.head(LOANS)
    expected = default_probability(registered_form.load(model), frame)
    return Bench(model, champion.number, scratch, as_records(frame), expected, cores)


@contextmanager
def registry(bench: Bench) -> Iterator[Bench]:
    """Gives the bench the address of an MLflow server, as serving has in production; starts one for a SQLite file."""
    known = Registry()
    if not known.embedded:
        yield replace(bench, registry=known.uri)
        return
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", known.uri, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--workers", "1", "--no-serve-artifacts"]
    log = bench.scratch / "mlflow-server.log"
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight processes that nothing here needs
    with process(command, quiet, bench, log, for_load=True) as server, httpx.Client(trust_env=False) as client:
        wait_for(lambda: client.get(f"http://127.0.0.1:{port}/health"), server, "the MLflow server", log)
        yield replace(bench, registry=f"http://127.0.0.1:{port}")


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [it.getsockname()[1] for it in sockets]
    for it in sockets:
        it.close()
    return ports


# --- environments ---


def build(name: str, bench: Bench) -> None:
    """Makes an environment, unless it is there already; packages are not newer than the project's own."""
    needs, folder = NEEDS[name], ENVIRONMENTS / name
    newest = tomllib.loads((root() / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["uv"]["exclude-newer"]
    pinned = (bench.model / "requirements.txt").read_text(encoding="utf-8").split()
    wanted = [*needs.packages, *(pin for pin in pinned if pin.partition("==")[0] in needs.model)]
    locked = (root() / LOCK).read_text(encoding="utf-8") if LOCK in wanted else ""
    recipe = json.dumps([wanted, locked, newest, platform.python_version()])
    digest, made = hashlib.sha256(recipe.encode()).hexdigest(), folder / "made_from.sha256"
    if made.exists() and made.read_text() == digest:
        return
    say(f"building the environment {name}")
    uv = os.environ.get("UV") or shutil.which("uv") or "uv"
    install = [
        uv,
        "pip",
        "install",
        "--quiet",
        "--python",
        str(folder),
        "--compile-bytecode",
        "--exclude-newer",
        newest,
    ]
    commands = [
        [uv, "venv", "--quiet", "--clear", "--python", platform.python_version(), str(folder)],
        [*install, *wanted],
    ]
    if needs.project:  # editable, so that it is never an old one
        commands.append([*install, "--no-deps", "--editable", str(root())])
    for command in commands:
        done = subprocess.run(command, cwd=root(), capture_output=True, text=True, check=False)
        if done.returncode:
            reason = " ".join(done.stderr.split())[:300]
            raise CreditRiskError(f"the environment {name} can't be built: {reason}")
    made.write_text(digest)


def site_packages(environment: str) -> Path:
    """Where an environment's packages are."""
    return next((ENVIRONMENTS / environment / "lib").glob("python*/site-packages"))


def installed_mb(environment: str) -> float:
    """Size of an environment's packages, without compiled bytecode."""
    files = site_packages(environment).rglob("*")
    return sum(it.lstat().st_size for it in files if it.is_file() and it.parent.name != "__pycache__") / MB


def version(peer: Peer) -> str:
    """The peer's package and its version."""
    path = [str(site_packages(peer.environment))]
    return next(f"{it.name} {it.version}" for it in importlib.metadata.distributions(name=peer.package, path=path))


# --- servers ---


@contextmanager
def on_core(cores: tuple[int, int] | None, *, for_load: bool) -> Iterator[None]:
    """Pins this process, and what it starts meanwhile, to the core of the load or of the servers."""
    if cores is None:
        yield
        return
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores[1 if for_load else 0]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)


@contextmanager
def process(
    command: list[str], variables: dict[str, str], bench: Bench, log: Path, *, for_load: bool
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with this block, and on Linux also when the benchmark is killed."""
    ours = ("PYTHON", "MLFLOW_", "UV", "VIRTUAL_ENV", "CREDIT_RISK_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    if shutil.which("setpriv") and shutil.which("timeout"):
        # SIGTERM when the benchmark dies, and SIGKILL for the whole group soon after any SIGTERM.
        guard = ["setpriv", "--pdeathsig", "TERM", "timeout", f"--kill-after={GRACE_SECONDS}", str(LIFE_SECONDS)]
        command = [*guard, *command]
    with log.open("wb") as output, on_core(bench.cores, for_load=for_load):
        child = subprocess.Popen(
            command,
            cwd=bench.scratch,
            env=environment | ALWAYS | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the benchmark, which then ends them in order
        )
    try:
        yield child
    finally:
        below = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE_SECONDS + 1)
        child.kill()
        child.wait()
        for left in below:
            with suppress(psutil.NoSuchProcess):
                left.kill()


def wait_for(ask: Callable[[], httpx.Response], server: subprocess.Popen[bytes], name: str, log: Path) -> None:
    """Asks until the answer is 200.

    Raises:
        CreditRiskError: the server has ended, or has not answered so for READY_SECONDS.
    """
    deadline, last = time.monotonic() + READY_SECONDS, "nothing"
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            answer = ask()
            if answer.status_code == OK:
                return
            last = f"{answer.status_code} {answer.text[:200]}"
        time.sleep(POLL_SECONDS)
    lines = log.read_text(errors="replace").strip().splitlines() or ["nothing"]
    what = "ended" if server.poll() is not None else f"did not answer in {READY_SECONDS} s (last answer: {last})"
    raise CreditRiskError(f"{name} {what}; the last line of its log is: {lines[-1][:300]}")


@dataclass(frozen=True, slots=True)
class Server:
    """A peer that answers."""

    client: httpx.Client
    url: str
    ready: float  # seconds from its start to its first prediction
    pid: int


@contextmanager
def serving(peer: Peer, bench: Bench) -> Iterator[Server]:
    """Starts a peer, waits for its first prediction, and ends it."""
    port, *more_ports = free_ports(3)
    values: dict[str, Any] = {
        "port": port,
        "more_ports": more_ports,
        "model": bench.model,
        "peers": PEER_FILES,
        "root": root(),
        "scratch": bench.scratch,
        "registry": bench.registry,
        "key_sha256": hashlib.sha256(bench.key.encode()).hexdigest(),
    }
    programs = ENVIRONMENTS / peer.environment / "bin"
    command = [part.format(**values) for part in f"{programs}/{peer.command}".split()]
    variables = {name: value.format(**values) for name, value in peer.variables.items()}
    variables["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    headers = {"content-type": "application/json"} | ({"x-api-key": bench.key} if peer.variables is PRODUCTION else {})
    url, log = f"http://127.0.0.1:{port}", bench.scratch / "server.log"
    body = json.dumps(peer.body(bench.applications[0]))
    start = time.monotonic()
    with (
        process(command, variables, bench, log, for_load=False) as child,
        httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client,
    ):
        wait_for(lambda: client.post(peer.path, content=body), child, peer.name, log)
        yield Server(client, url, time.monotonic() - start, child.pid)


def wait_for_keeper(server: Server) -> None:
    """Waits until this API's keeper has looked at the registry: its start, once in a server's life, takes the core.

    Raises:
        CreditRiskError: it has not done so in READY_SECONDS.
    """
    deadline = time.monotonic() + READY_SECONDS
    while "from the cache" in server.client.get("/readyz").json()["detail"]:
        if time.monotonic() > deadline:
            raise CreditRiskError(f"the keeper has not reported in {READY_SECONDS} s")
        time.sleep(POLL_SECONDS)


def memory_mb(pid: int) -> tuple[float, float]:
    """Memory of a process and all below it, pages that they share counted once; and how much of it is a keeper."""
    whole = keeper = 0.0
    for it in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            used = (it.memory_full_info().pss if sys.platform == "linux" else it.memory_info().rss) / MB
            whole += used
            keeper += used if any(part.endswith("keeper.py") for part in it.cmdline()) else 0.0
    return whole, keeper


# --- measurements ---


@dataclass(frozen=True, slots=True)
class Requests:
    """What is sent: to which path, and the file that has a body a line."""

    path: str
    file: Path


def measure(peer: Peer, bench: Bench, seconds: int, measured: Measured) -> None:
    """Starts a peer, checks its probabilities if that has not been done yet, and loads it."""
    requests = Requests(
        peer.path, bench.write("bodies", [peer.body(application) for application in bench.applications])
    )
    bodies = requests.file.read_bytes().splitlines()
    with serving(peer, bench) as server:
        if peer.probability and not measured.loads:
            measured.difference = check(peer, bodies, bench, server)
        if peer.name == THIS:
            wait_for_keeper(server)
        rate = load(server, requests, bench, WARM_UP_SECONDS, 16).per_second
        loads = []
        for connections in CONNECTIONS:
            server.client.post(peer.path, content=bodies[0])  # what is still queued comes first
            enough = math.ceil(ANSWERS * connections / max(rate, 1))
            loads.append(load(server, requests, bench, max(seconds, min(enough, LONGEST_SECONDS)), connections))
            if not loads[-1].per_second:
                raise CreditRiskError(f"{peer.name} answers nothing at {named(connections)}; is the machine busy?")
        measured.loads += loads
        whole, keeper = memory_mb(server.pid)
        measured.ready.append(server.ready)
        measured.memory.append(whole)
        measured.keeper.append(keeper)
        if peer.name == THIS:
            rows = bench.applications * (BATCH_ROWS // LOANS)
            batches = load(server, Requests("/predict/batch", bench.write("batch", [rows])), bench, seconds, 1)
            measured.batch.append(batches.per_second * BATCH_ROWS)


def check(peer: Peer, bodies: list[bytes], bench: Bench, server: Server) -> float:
    """The largest difference between a peer's probabilities and those of the registered scikit-learn form.

    Sixteen requests at a time: a server that batches must not mix them up.

    Raises:
        CreditRiskError: it is more than TOLERANCE.
    """
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: server.client.post(peer.path, content=body), bodies))
    refused = [answer for answer in answers if answer.status_code != OK]
    if refused:
        raise CreditRiskError(f"{peer.name} refuses a loan: {refused[0].status_code} {refused[0].text[:200]}")
    scores = [peer.probability(answer.json()) for answer in answers if peer.probability]
    difference = float(np.abs(np.array(scores) - bench.expected).max())
    if not difference <= TOLERANCE:
        raise CreditRiskError(f"{peer.name} is {difference:.1e} off the registered model's probabilities")
    return difference


def load(server: Server, requests: Requests, bench: Bench, seconds: int, connections: int) -> Load:
    """Sends as many requests as so many connections can, for so many seconds."""
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"]
    command += ["--timeout", "30s", "--script", str(PEER_FILES / "load.lua")]
    for name in ("content-type", "x-api-key"):
        if name in server.client.headers:
            command += ["--header", f"{name}: {server.client.headers[name]}"]
    command += [server.url + requests.path, "--", str(requests.file)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with on_core(bench.cores, for_load=True):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise CreditRiskError(f"wrk failed: {' '.join((done.stderr or done.stdout).split())[:300]}")
    seen = json.loads(done.stdout.splitlines()[-1])
    lasted = seen["microseconds"] / 1e6
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    answered = seen["requests"] - seen["refused"]
    p50, p99 = seen["p50"] / 1000, seen["p99"] / 1000
    return Load(connections, answered / lasted, p50, p99, seen["refused"] + seen["lost"], used / lasted)


def measure_core(bench: Bench) -> dict[str, float]:
    """Microseconds a row of the scoring core, in a process of its own, on the servers' core."""
    program, applications = ENVIRONMENTS / "serving" / "bin" / "python", bench.write("core", bench.applications)
    with on_core(bench.cores, for_load=False):
        command = [program, PEER_FILES / "core.py", bench.scratch / "cache", applications]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


# --- report ---


def machine() -> str:
    """Processor, cores and memory."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, {psutil.virtual_memory().total / MB / 1000:.0f} GB of memory"


def wrk_version() -> str:
    """The load generator's version."""
    told = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout
    return " ".join(told.split()[:2]) or "wrk"


REPORT = """\
# Serving the same model, side by side

Made by `uv run benchmarks/serving.py` on {date}, on {machine}; load average before the start {busy}; version {version}
of the model, {loans} held-out loans sent in turn; {wrk}; {minutes} minutes.

One worker each, on a core of its own; the load generator on another. {rounds} of {seconds} s a measurement; medians.
Slow servers are measured for longer, until each connection has had some answers. Closed loop: a connection sends its
next request when it has its answer; wrk corrects the percentiles for coordinated omission. The load generator used
{busiest} of its core at most{limit}.

![Requests a second and 99th percentiles](serving.png)

## Requests a second

{throughput}

## Requests this API answers for each one of the others

{ratios}

## Latency: median / 99th percentile, ms

{latency}

## What it takes

{costs}

Ready: from the start of the process to its first prediction. Memory: of all its processes after the load, shared pages
counted once. Packages: without compiled bytecode. Failed: requests refused or lost in all rounds. Difference: largest,
to the probabilities of the registered scikit-learn form.

This API is a worker ({worker_memory} MB; ready in {worker_ready} s by itself) and a keeper ({keeper_memory} MB), which
starts at the same moment on the same core; requests are measured once it
has started. From an empty cache, with download and checks, it was ready in {empty} s.

## Beyond single requests

- `/predict/batch`, {batch_rows} rows a request, one connection: {batch} rows a second.
- The scoring core in a process of its own, from a validated application to its probability: {one} µs a row;
  {sixteen} µs a row when sixteen are scored in one call. Validating the bytes of one takes {validate} µs.

## How each is set up

The peers serve the registered scikit-learn form, as their documentation shows it; all have one OpenMP thread, as more
would share the one core, and no access log. What they run is in `benchmarks/serving_peers`, the commands in
`benchmarks/serving.py`.

{setup}
"""


def report(measured: dict[str, Measured], peers: list[Peer], **facts: Any) -> str:
    """The figures in Markdown."""
    this, found = measured[THIS], [(peer, measured[peer.name]) for peer in peers]
    connections = [named(count) for count in CONNECTIONS]

    def figures(of: Callable[[Measured, int], str], leave_out: str = "") -> str:
        rows = [[p.name, *(of(m, count) for count in CONNECTIONS)] for p, m in found if p.name != leave_out]
        return table(["server", *connections], rows)

    costs = [
        [
            peer.name,
            version(peer),
            f"{median(it.ready):.1f}",
            f"{median(it.memory):.0f}",
            f"{installed_mb(peer.environment):.0f}",
            f"{sum(load.failed for load in it.loads):,}",
            f"{it.difference:.0e}" if peer.probability else "",
        ]
        for peer, it in found
    ]
    busiest = max(load.busy for _, it in found for load in it.loads)
    return REPORT.format(
        **facts,
        loans=LOANS,
        busiest=f"{busiest:.0%}",
        limit=": it may have been the limit" if busiest > BUSY else "",
        throughput=figures(lambda it, count: f"{it.at(count, 'per_second'):,.0f}"),
        ratios=figures(lambda it, count: ratio(this.at(count, "per_second") / it.at(count, "per_second")), THIS),
        latency=figures(lambda it, count: f"{it.at(count, 'p50'):,.2f} / {it.at(count, 'p99'):,.2f}"),
        costs=table(["server", "version", "ready, s", "memory, MB", "packages, MB", "failed", "difference"], costs),
        worker_ready=f"{median(measured[WORKER.name].ready):.1f}",
        worker_memory=f"{median(this.memory) - median(this.keeper):.0f}",
        keeper_memory=f"{median(this.keeper):.0f}",
        batch_rows=f"{BATCH_ROWS:,}",
        batch=f"{median(this.batch):,.0f}",
        setup="\n".join(f"- **{peer.name}**: {peer.setup}" for peer in peers),
    )


def named(connections: int) -> str:
    """So many connections, in words."""
    return f"{connections} connection" + "s" * (connections > 1)


def ratio(value: float) -> str:
    """Three digits or so."""
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"  # noqa: PLR2004


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are figures."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(measured: dict[str, Measured], peers: list[Peer], path: Path) -> None:
    """Requests a second and 99th percentiles, on logarithmic axes; colours and marks tell the connections apart."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    ordered = sorted(peers, key=lambda peer: measured[peer.name].at(16, "per_second"))
    figure, panels = plt.subplots(1, 2, figsize=(11, 0.5 * len(ordered) + 1.6), sharey=True, layout="constrained")
    for panel, what, label in zip(
        panels, ("per_second", "p99"), ("requests a second", "99th percentile, ms"), strict=True
    ):
        # Okabe and Ito's colours
        for connections, colour, mark in zip(CONNECTIONS, ("#0072B2", "#E69F00", "#009E73"), "os^", strict=True):
            values = [measured[peer.name].at(connections, what) for peer in ordered]
            panel.scatter(values, range(len(ordered)), c=colour, marker=mark, s=45, label=named(connections), zorder=3)
        panel.set(xscale="log", xlabel=label)
        panel.set_yticks(range(len(ordered)), [peer.name for peer in ordered])
        panel.grid(color="#dddddd")
    panels[0].legend(loc="lower right")
    figure.savefig(path, dpi=90, format="png")
    plt.close(figure)


if __name__ == "__main__":
    run("serving benchmark", main)
