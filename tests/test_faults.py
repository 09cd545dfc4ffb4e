"""Outages at critical moments: nothing half-registered is promoted, and a retry finishes the work."""

from collections.abc import Callable
from typing import Any

import mlflow.sklearn
import pytest
from projects import Project, run_script
from stacks import Stack, onnx_object, put

from credit_risk.project.host import free_port
from credit_risk.registry.client import CHALLENGER, CHAMPION, Registry
from credit_risk.registry.gate_results import EXIT_REJECTED
from credit_risk.registry.promotion import history

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]
REGISTER, LOADING, PERFORMANCE = (
    "4.dvc_pipeline/7.register_model.py",
    "5.testing/loading.py",
    "5.testing/performance.py",
)

# When a server fails: before which call of which script, and which servers that call needs.
MOMENTS: dict[str, list[tuple[Any, str, set[str]]]] = {
    REGISTER: [
        (Registry, "experiment_id", {"postgres", "s3", "mlflow"}),  # before anything
        (mlflow.sklearn, "log_model", {"postgres", "s3", "mlflow"}),  # params are logged
        (Registry, "create_version", {"postgres", "mlflow"}),  # the model is logged
        (Registry, "set_alias", {"postgres", "mlflow"}),  # the version is made and has no alias
    ],
    LOADING: [(Registry, "download", {"postgres", "s3", "mlflow"})],
    PERFORMANCE: [(Registry, "set_alias", {"postgres", "mlflow"})],  # all checks have passed
}


@pytest.fixture
def at_work(
    stack: Stack, project: Project, inside: Callable[[Project], None], monkeypatch: pytest.MonkeyPatch
) -> Project:
    """A project with an empty model on the stack, in this process, with short limits."""
    stack.forget_model()
    inside(project)
    for name, value in stack.environment().items():
        monkeypatch.setenv(name, value)
    return project


@pytest.mark.parametrize("server", ["postgres", "s3", "mlflow"])
class TestStopped:  # classes, so that two test processes can share the work
    @pytest.mark.fault(
        "PostgreSQL, S3 or MLflow stops while a model is registered or promoted",
        "one sentence; nothing half-registered is promoted; a retry finishes",
    )
    def test_outage_at_each_moment(
        self, server: str, at_work: Project, stack: Stack, capsys: pytest.CaptureFixture[str]
    ) -> None:
        outage_at_each_moment(server, "stop", at_work, stack, capsys)


@pytest.mark.parametrize("server", ["postgres", "s3", "mlflow"])
class TestFrozen:
    @pytest.mark.fault("one of them hangs", "the same, after a limit")
    def test_outage_at_each_moment(
        self, server: str, at_work: Project, stack: Stack, capsys: pytest.CaptureFixture[str]
    ) -> None:
        outage_at_each_moment(server, "freeze", at_work, stack, capsys)


def outage_at_each_moment(
    server: str, how: str, at_work: Project, stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, moments in MOMENTS.items():
        for owner, call, needed in moments:
            with pytest.MonkeyPatch.context() as patch:
                before_call(patch, owner, call, lambda: stack.break_(server, how))
                code = run_script(at_work, path)
            stack.repair(server, how)
            error = capsys.readouterr().err
            assert code == (1 if server in needed else 0), (path, call, error)
            if code:
                assert error.count("\n") == 1, error
                assert error.startswith(("stage 7: ", "loading gate: ", "performance gate: "))
                assert "127.0.0.1" in error
            champion = Registry().version_of(CHAMPION)
            assert (champion is None) == (path != PERFORMANCE or code != 0)
        assert run_script(at_work, path) == 0  # the retry
    registry = Registry()
    (version,) = registry.versions()
    assert [registry.version_of(alias).number for alias in (CHALLENGER, CHAMPION)] == [version.number] * 2  # type: ignore[union-attr]
    assert {event.kind for event in history(registry)} == {"promoted"}
    runs = registry.client.search_runs([registry.experiment_id()], "attributes.status = 'RUNNING'")
    assert not runs


def before_call(patch: pytest.MonkeyPatch, owner: Any, name: str, happen: Callable[[], None]) -> None:
    """Runs `happen` just before the first call of a function."""
    function = getattr(owner, name)
    happened: list[bool] = []

    def wrapped(*arguments: Any, **options: Any) -> Any:
        if not happened:
            happened.append(True)
            happen()
        return function(*arguments, **options)

    patch.setattr(owner, name, wrapped)


@pytest.mark.fault("an artifact is altered or cut", "rejected by its digest")
def test_a_damaged_artifact_is_rejected_by_its_digest(at_work: Project, stack: Stack) -> None:
    assert run_script(at_work, REGISTER) == 0
    registry = Registry()
    key, good = onnx_object(registry, "1")
    altered, truncated = good.replace(b"threshold", b"Threshold", 1), good[: len(good) // 2]
    for bad in (altered, truncated):
        assert bad != good
        put(key, bad)
        assert run_script(at_work, LOADING) == EXIT_REJECTED
        assert "digest" in history(registry)[-1].reason
    assert run_script(at_work, PERFORMANCE) == EXIT_REJECTED
    assert registry.version_of(CHAMPION) is None

    put(key, good)
    assert [run_script(at_work, path) for path in (LOADING, PERFORMANCE)] == [0, 0]
    put(key, altered)  # after the promotion: serving checks it too
    served = at_work.run("main.py", "serve", "--port", str(free_port()), check=False, **stack.environment("service"))
    assert served.returncode == 1
    assert served.stderr.startswith("error: ")
    assert "Traceback" not in served.stderr
