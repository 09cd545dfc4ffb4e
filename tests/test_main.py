"""`main.py` as a user runs it: first run, no change, new data, another registry, errors, Ctrl-C."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from projects import Project, descendants, thin, wait_for_script

from credit_risk.contract import CONTRACT
from credit_risk.project.settings import Settings
from credit_risk.registry.client import Registry
from credit_risk.registry.promotion import history

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

GATES = ["loading", "performance"]


def stages(project: Project) -> list[str]:
    return list(yaml.safe_load(project.path("4.dvc_pipeline", "dvc.yaml").read_text())["stages"])


def steps(output: str) -> list[str]:
    """The steps that a run shows as finished."""
    return re.findall(r"^  (\S+) +\d+\.\d s", output, re.MULTILINE)


def events(project: Project) -> list[tuple[str, str]]:
    """Kind and version of each event in the registry."""
    uri = f"sqlite:///{project.path('3.experiments', 'mlflow.db')}"
    return [(event.kind, event.version) for event in history(Registry(Settings(mlflow_tracking_uri=uri)))]


def test_first_run_shows_stages_metrics_result_and_next_commands(first_run: Project) -> None:
    output = first_run.path("output.txt").read_text()
    assert steps(output) == [*stages(first_run), *GATES]
    metrics = json.loads(first_run.path("1.data", "6.reports", "metrics.json").read_text())
    for holdout in CONTRACT.holdouts:
        assert f"{metrics[holdout]['roc_auc']:.3f} (" in output
    assert "version 1 is the champion" in output
    assert "uv run main.py serve" in output
    assert json.loads(first_run.path("6.production", "example.json").read_text()) == CONTRACT.example
    log = first_run.path("4.dvc_pipeline", "last_run.log").read_text()
    assert "registered version 1" in log
    assert "performance gate, version 1" in log  # the whole table


def test_without_a_change_nothing_runs_and_a_changed_model_replaces_the_champion(
    project: Project, tmp_path: Path
) -> None:
    lock = project.path("4.dvc_pipeline", "dvc.lock").read_bytes()
    command = project.command(str(project.path("main.py")))  # from another folder
    done = subprocess.run(command, cwd=tmp_path, env=project.environment, capture_output=True, text=True, check=True)
    again = done.stdout
    assert steps(again) == []
    assert "nothing has changed since the last run" in again
    assert project.path("4.dvc_pipeline", "dvc.lock").read_bytes() == lock

    project.set_params({"train.seed": 7})
    changed = project.run("main.py", PYTHONIOENCODING="ascii").stdout  # figures and gates have other characters
    assert steps(changed) == ["train_model", "evaluate_model", "register_model", *GATES]
    assert "version 2 is the champion" in changed

    back = project.run("main.py", "rollback", "--why", "complaints").stdout
    assert "version 1 is the champion again, instead of 2" in back
    assert events(project) == [("promoted", "1"), ("promoted", "2"), ("rolled back", "2")]
    shown = project.run("main.py", "history").stdout
    assert re.findall(r"(promoted|rolled back) *│ (\d)", shown) == events(project)
    assert "complaints" in shown
    report = project.run("main.py", "report").stdout
    assert "performance.html" in report
    assert "champion_in_time" in report


def test_a_rejected_first_model_leaves_no_champion(project: Project, empty_registry: Any) -> None:
    """Another registry gets the model although DVC sees no change."""
    other = project.path("other", "mlflow.db")
    other.parent.mkdir()
    shutil.copy(empty_registry, other)
    project.set_params({"gates.min_auc": 0.999})
    lock = project.path("4.dvc_pipeline", "dvc.lock").read_bytes()
    uri = {"MLFLOW_TRACKING_URI": f"sqlite:///{other}"}
    result = project.run("main.py", check=False, **uri)
    assert steps(result.stdout) == ["register_model", *GATES]
    assert "was rejected: performance gate: auc (" in result.stdout
    assert "there is no champion to serve" in result.stdout
    assert result.returncode == 1
    assert project.path("4.dvc_pipeline", "dvc.lock").read_bytes() == lock
    project.set_params({"gates.min_auc": 0.5})
    assert "can be promoted" in project.run("main.py", "--no-promote", check=True, **uri).stdout  # exit code 0


def test_expected_errors_are_one_line(project: Project) -> None:
    project.set_params({"train.sed": 1})
    result = project.run("main.py", check=False)
    assert result.returncode == 1
    assert "error: stage 5: " in result.stderr
    assert "train.sed: unknown key" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert result.stderr.count("\n") == 1

    (project.path("1.data", "source") / "zz.csv").write_text("Mood\ngood\n")
    result = project.run("main.py", check=False)
    assert result.returncode == 1
    assert "error: stage 1: source 1.data/source/zz.csv" in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_unreachable_registry_is_one_line(project: Project) -> None:
    result = project.run("main.py", check=False, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert result.returncode == 1
    assert "http://127.0.0.1:9 is down" in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_unexpected_error_keeps_its_traceback_in_the_log(project: Project) -> None:
    script = project.path("4.dvc_pipeline", "6.evaluate_model.py")
    script.write_text(script.read_text().replace("def main() -> None:", "def main() -> None:\n    1 / 0", 1))
    result = project.run("main.py", check=False)
    assert result.returncode == 1
    assert "error: ZeroDivisionError: division by zero (all output: 4.dvc_pipeline/last_run.log)" in result.stderr
    assert "Traceback" in project.path("4.dvc_pipeline", "last_run.log").read_text()


def test_wrong_command_line_is_explained(first_run: Project) -> None:
    assert "serve" in first_run.run("main.py", "--help").stdout
    result = first_run.run("main.py", "deploy", check=False)
    assert result.returncode == 2
    assert "invalid choice: 'deploy'" in result.stderr
    result = first_run.run("main.py", "--no-promote", "retrain", check=False)
    assert result.returncode == 2
    assert "options of retrain come after its name" in result.stderr


@pytest.mark.timeout(900)
def test_ctrl_c_ends_the_children_and_the_next_run_resumes(project: Project) -> None:
    project.set_params({"train.seed": 7})
    interrupted(project, "5.train_model.py")
    interrupted(project, "5.testing/loading.py", after="register_model")  # it starts before, and waits
    assert steps(project.run("main.py").stdout) == GATES


def interrupted(project: Project, script: str, *arguments: str, after: str = "") -> str:
    """Starts main.py, presses Ctrl-C when a script runs, and returns what it printed; nothing is left running.

    With `after`, when that step has finished too.
    """
    main = subprocess.Popen(
        project.command("main.py", *arguments),
        cwd=project.root,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_script(main.pid, script)
    assert main.stdout is not None
    output = ""
    while after not in output:
        output += (line := main.stdout.readline())
        assert line, output
    children = descendants(main.pid)
    main.send_signal(signal.SIGINT)
    output += main.stdout.read()
    assert main.wait(30) == 130
    assert "interrupted; run again to resume" in output
    assert "Traceback" not in output
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    return output


def test_lock_file_has_no_times_and_no_addresses(finished: Project) -> None:
    locked = yaml.safe_load(finished.path("4.dvc_pipeline", "dvc.lock").read_text())["stages"]
    assert list(locked) == stages(finished)
    for stage in locked.values():
        stage.pop("params", None)  # may hold a date
    assert not re.search(r"://|\d{4}-\d\d-\d\d|\d\d:\d\d", yaml.safe_dump(locked))


@pytest.mark.slow
def test_refresh_sees_that_a_remote_source_has_changed(project: Project) -> None:
    (source,) = project.path("1.data", "source").glob("*.csv.gz")
    web = project.path("web")
    web.mkdir()
    shutil.move(source, web / "rows.csv.gz")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(web)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    project.set_params({"data.sources": [f"http://127.0.0.1:{server.server_port}/rows.csv.gz"]})
    assert "get_data" in steps(project.run("main.py").stdout)
    assert steps(project.run("main.py", "--refresh").stdout) == []
    thin(web / "rows.csv.gz", web / "rows.csv.gz", every=2)
    os.utime(web / "rows.csv.gz", (0, 0))  # another Last-Modified, the only sign of a change that this server gives
    assert steps(project.run("main.py").stdout) == []
    output = interrupted(project, "2.prep_clean_data.py", "--refresh")  # other tests show what comes then
    assert "rows.csv.gz has changed" in output
    assert steps(output) == ["get_data"]
    server.shutdown()
    server.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...
