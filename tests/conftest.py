"""Fixtures: projects in the states that tests start from."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # tests run in parallel, and threads that wait for each other spin
import ast
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from projects import REPOSITORY, Project, copy_finished, copy_project, once
from servers import fetch

from credit_risk.contract import CONTRACT

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer
    from stacks import Stack

TESTS = Path(__file__).parent
settings.register_profile("tests", deadline=None)  # a busy machine is no failure
settings.load_profile("tests")
LONGEST = (
    "test_second_problem.py",
    "test_faults.py",
    "test_workflows_keep_green.py",
    "test_kills.py",
    "test_openapi_fuzz.py",
    "test_workflows.py",
)
FINISHED = {"finished", "project", "fetched", "cache"}  # fixtures that start with a whole run


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leaves out test files that need a dependency group which is not installed; the summary names them."""
    return True if collection_path.suffix == ".py" and missing_package(collection_path) else None


@lru_cache
def missing_package(path: Path) -> str | None:
    """A package that is not installed and that a test file imports, itself or through modules of this repository."""
    for name in imported_names(path):
        ours = [folder.joinpath(*name.split(".")).with_suffix(".py") for folder in (TESTS, REPOSITORY / "src")]
        if files := [file for file in ours if file.exists()]:
            if package := missing_package(files[0]):
                return package
        elif importlib.util.find_spec(package := name.partition(".")[0]) is None:
            return package
    return None


def imported_names(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports at its top level."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            for alias in node.names:
                if REPOSITORY.joinpath("src", *node.module.split("."), f"{alias.name}.py").exists():
                    yield f"{node.module}.{alias.name}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names the files that were left out, and says how to include them."""
    files = [f"{path.name} ({name})" for path in sorted(TESTS.rglob("test_*.py")) if (name := missing_package(path))]
    if files:
        terminalreporter.write_line(f"a package is not installed for {', '.join(files)}: uv run --all-groups pytest")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest files first, so that none runs alone at the end, and tests of a finished project last."""

    def rank(item: pytest.Item) -> int:
        if item.path.name in LONGEST:
            return LONGEST.index(item.path.name)
        return len(LONGEST) + bool(FINISHED & set(getattr(item, "fixturenames", ())))

    items.sort(key=rank)


@pytest.fixture
def s3_server(monkeypatch: pytest.MonkeyPatch) -> "Iterator[ThreadedMotoServer]":
    """An S3 service on loopback, which the environment names."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    # fsspec keeps its file systems in the process, with the address of an earlier test's server.
    pytest.importorskip("s3fs").S3FileSystem.clear_instance_cache()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all test processes of this run share; one at a time fills it.

    TESTS_SHARED names a folder that several runs share; the repository must not change in between.
    """
    base = tmp_path_factory.getbasetemp()
    given = os.environ.get("TESTS_SHARED")
    folder = Path(given) if given else (base if worker_id == "master" else base.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def empty_registry(shared: Path) -> Path:
    """An MLflow database with its tables, for copying: making them takes five seconds."""

    def make(path: Path) -> None:
        code = (
            f"from {CONTRACT.problem.package}.registry.client import Registry; Registry().client.search_experiments()"
        )
        environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{path}"}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)

    return once(shared / "mlflow.db", make)


@pytest.fixture(scope="session")
def start(shared: Path, empty_registry: Path) -> Path:
    """A project on which nothing has run, for copying."""

    def make(folder: Path) -> None:
        shutil.copy(empty_registry, copy_project(folder).path("3.experiments", "mlflow.db"))

    return once(shared / "start", make)


@pytest.fixture(scope="session")
def finished(shared: Path, start: Path) -> Project:
    """A project whose stages and gates have run once, in one process. Read it; to change something, take a copy."""

    def make(folder: Path) -> None:
        project = Project(Path(shutil.copytree(start, folder, symlinks=True)))
        project.run_measured(str(REPOSITORY / "tests" / "spine.py"))

    return Project(once(shared / "finished", make))


@pytest.fixture(scope="session")
def first_run(shared: Path, start: Path) -> Project:
    """A project on which `main.py` has run once; `output.txt` holds what it printed. Read it only."""

    def make(folder: Path) -> None:
        project = Project(Path(shutil.copytree(start, folder, symlinks=True)))
        project.path("output.txt").write_text(project.run_measured("main.py").stdout)

    return Project(once(shared / "first_run", make))


@pytest.fixture
def fresh(tmp_path: Path, start: Path) -> Project:
    """A project on which nothing has run, with an empty registry."""
    shutil.copytree(start, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


@pytest.fixture
def project(tmp_path: Path, finished: Project) -> Project:
    """A copy of the finished project, with a registry of its own."""
    return copy_finished(finished, tmp_path / "project")


@pytest.fixture(scope="session")
def fetched(shared: Path, finished: Project) -> Path:
    """A model cache that holds the champion of the finished project, for copying."""
    return once(shared / "cache", lambda folder: fetch(finished, folder).check_returncode())


@pytest.fixture
def cache(tmp_path: Path, fetched: Path) -> Path:
    """A model cache of its own that holds the champion of the finished project."""
    shutil.copytree(fetched, tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Callable[[Project], None]:
    """Sets the environment of this process to a project's, as a script that runs there has it."""

    def enter(project: Project) -> None:
        for name in [name for name in os.environ if name.startswith(("MLFLOW_", "AWS_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PROJECT_ROOT", str(project.root))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.path('3.experiments', 'mlflow.db')}")

    return enter


@pytest.fixture(scope="session")
def image(shared: Path, finished: Project, fetched: Path) -> str:
    """The image of the API, with the champion of the finished project baked in."""

    from containers import TAG, build

    def make(folder: Path) -> None:
        shutil.copytree(finished.root, folder, symlinks=True)
        shutil.copytree(fetched, folder / "6.production" / "cache", dirs_exist_ok=True)
        build(folder, TAG, "--build-arg", "MODEL=6.production/cache")

    once(shared / "image", make)
    return TAG


@pytest.fixture(scope="session")
def stack() -> Iterator["Stack"]:
    """PostgreSQL, S3 and the MLflow server; each test process has its own."""
    from stacks import running_stack

    if not shutil.which("postgres") and not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        pytest.skip("PostgreSQL is not installed (Debian's package: postgresql)")
    # Not below pytest's folder, which only its owner can enter.
    with tempfile.TemporaryDirectory(prefix="stack-") as folder, running_stack(Path(folder)) as running:
        yield running
