"""The journey as a user takes it: `main.py`, run again, changed, refused, rolled back, interrupted."""

import json
import os
import re
import shutil
import signal
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psutil
import pytest
import yaml
from projects import Project, descendants, thin, wait_for_script

from credit_risk.core.settings import Settings
from credit_risk.registry.client import Registry
from credit_risk.registry.promotion import history

pytestmark = pytest.mark.integration

STAGES = ["1.get_data", "2.prep_clean_data", "3.FE", "4.split_data", "5.train_model", "6.evaluate_model"]
REGISTER, GATES = "7.register_model", ["loading", "performance"]


def steps(output: str) -> list[str]:
    """The steps that a run shows as done."""
    return re.findall(r"^  (\S+) +\d+\.\d s", output, re.MULTILINE)


def told(project: Project) -> list[tuple[str, str]]:
    """Kind and version of each event that `main.py history` prints."""
    output = project.run("main.py", "history").stdout
    return re.findall(r"(promoted|refused|rolled back) *│ (\d+)", output)


def lineages(project: Project) -> list[tuple[str, str]]:
    """Kind and version of each event, from the registry itself."""
    uri = f"sqlite:///{project.path('3.experiments', 'mlflow.db')}"
    return [(event.kind, event.version) for event in history(Registry(Settings(mlflow_tracking_uri=uri)))]


def train_rows(project: Project) -> int:
    return int(json.loads(project.path("1.data", "4.split", "metrics.json").read_text())["train"]["rows"])


def test_first_run_shows_stages_figures_verdict_and_next_commands(first_run: Project) -> None:
    output = first_run.path("output.txt").read_text()
    assert steps(output) == [*STAGES, REGISTER, *GATES]
    metrics = json.loads(first_run.path("1.data", "6.reports", "metrics.json").read_text())
    for side in ("test", "out_of_time"):
        figures = metrics[side]
        assert f"{figures['roc_auc']:.3f} ({figures['roc_auc_low']:.3f} to {figures['roc_auc_high']:.3f})" in output
    assert "version 1 (challenger) passed all gates and was promoted" in output
    assert "version 1 is the champion" in output
    assert "uv run main.py serve" in output
    assert "curl -s localhost:8000/predict" in output


def test_a_parameters_life(project: Project) -> None:
    """Nothing changed, changed, rolled back, changed back."""
    lock = project.path("4.dvc_pipeline", "dvc.lock").read_bytes()
    again = project.run("main.py").stdout
    assert steps(again) == []
    assert "nothing has changed since the last run" in again
    assert "version 1 (challenger) is the champion already" in again
    assert project.path("4.dvc_pipeline", "dvc.lock").read_bytes() == lock

    project.set_params({"train.hist_gradient_boosting.max_iter": 50})
    changed = project.run("main.py").stdout
    assert steps(changed) == ["5.train_model", "6.evaluate_model", REGISTER, *GATES]
    assert "version 2 (challenger) passed all gates" in changed
    assert lineages(project) == [("promoted", "1"), ("promoted", "2")]

    back = project.run("main.py", "rollback", "--why", "complaints").stdout
    assert "champion is version 1 again, instead of 2" in back
    assert lineages(project)[-1] == ("rolled back", "2")
    rolled_back = project.run("main.py").stdout
    assert steps(rolled_back) == []
    assert "version 2 (challenger) was refused already: rolled back on" in rolled_back
    assert "complaints" in rolled_back
    assert "version 1 is the champion" in rolled_back

    project.set_params({"train.hist_gradient_boosting.max_iter": 60})
    reverted = project.run("main.py").stdout  # DVC has kept the files; the registry has version 1
    assert "version 1 (challenger) is the champion already" in reverted
    assert "version 3" not in reverted

    assert lineages(project) == told(project) == [("promoted", "1"), ("promoted", "2"), ("rolled back", "2")]


def test_new_data_after_six_months_and_then_a_new_column(project: Project) -> None:
    rows = train_rows(project)
    later, source = project.path("1.data", "later"), project.path("1.data", "source")
    shutil.copy(later / "sba_loans_2007H1.csv.gz", source)
    output = project.run("main.py").stdout
    assert steps(output) == [*STAGES, REGISTER, *GATES]
    assert train_rows(project) > rows
    split = json.loads(project.path("1.data", "4.split", "metrics.json").read_text())
    assert split["out_of_time"]["to"].startswith("2007-0")
    assert re.search(r"version 2 \(challenger\) (passed all gates and was promoted|refused: )", output)
    verdict = json.loads(project.path("5.testing", "reports", "performance.json").read_text())
    assert (verdict["version"], verdict["against"]) == ("2", "1")
    assert "champion_in_time" in {check["name"] for check in verdict["checks"]}

    (source / "zz.csv").write_text("LoanNr_ChkDgt,Mood\n1,good\n")
    result = project.run("main.py", check=False)
    assert result.returncode == 1
    assert "stage 1: source 1.data/source/zz.csv misses column" in result.stderr
    assert "has the new column Mood" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_another_registry_gets_the_model_although_dvc_sees_no_change(project: Project, empty_registry: Any) -> None:
    other = project.path("other.db")
    shutil.copy(empty_registry, other)
    project.set_params({"gates.min_out_of_time_auc": 0.99})
    lock = project.path("4.dvc_pipeline", "dvc.lock").read_bytes()
    result = project.run("main.py", check=False, MLFLOW_TRACKING_URI=f"sqlite:///{other}")
    assert steps(result.stdout) == [REGISTER, *GATES]
    assert "version 1 (challenger) refused: performance gate: out_of_time_auc" in result.stdout
    assert "no champion stands" in result.stdout
    assert result.returncode == 1
    assert project.path("4.dvc_pipeline", "dvc.lock").read_bytes() == lock


def test_errors_are_one_sentence(project: Project) -> None:
    project.set_params({"train.hist_gradient_boosting.max_itr": 60})
    result = project.run("main.py", check=False)
    assert result.returncode == 1
    assert "error: stage 5: params.yaml: train.hist_gradient_boosting: " in result.stderr
    assert "'max_itr'" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert result.stderr.count("\n") == 1

    project.set_params({"train.sed": 20070101})
    result = project.run("main.py", check=False)
    assert "train.sed: unknown key, check its spelling" in result.stderr

    result = project.run("main.py", check=False, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1


def test_wrong_command_line_is_explained(finished: Project) -> None:
    assert "serve" in finished.run("main.py", "--help").stdout
    result = finished.run("main.py", "deploy", check=False)
    assert result.returncode == 2
    assert "invalid choice: 'deploy'" in result.stderr


def test_ctrl_c_stops_the_children_the_next_run_goes_on_and_its_refusal_is_remembered(project: Project) -> None:
    project.set_params({"train.hist_gradient_boosting.max_iter": 40})
    interrupted(project, "5.train_model.py")
    project.set_params({"gates.min_auc": 0.99})
    refused = project.run("main.py").stdout
    assert steps(refused) == ["5.train_model", "6.evaluate_model", REGISTER, *GATES]
    assert "version 2 (challenger) refused: performance gate: auc (" in refused
    assert "version 1 is the champion" in refused
    remembered = project.run("main.py").stdout
    assert steps(remembered) == []
    assert "version 2 (challenger) was refused already: performance gate: auc (" in remembered
    assert lineages(project) == [("promoted", "1"), ("refused", "2")]


def interrupted(project: Project, script: str, *arguments: str) -> str:
    """Starts main.py, presses Ctrl-C when a script runs, and returns what it printed; nothing runs on."""
    main = subprocess.Popen(
        project.command("main.py", *arguments),
        cwd=project.root,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_script(main.pid, script)
    children = descendants(main.pid)
    main.send_signal(signal.SIGINT)
    output, _ = main.communicate(timeout=30)
    assert main.returncode == 130
    assert "interrupted; the next run goes on from here" in output
    assert "Traceback" not in output
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    return output


def test_lock_file_has_no_times_and_no_addresses(finished: Project) -> None:
    text = finished.path("4.dvc_pipeline", "dvc.lock").read_text()
    assert not re.search(r"://|\d{4}-\d\d-\d\d|\d\d:\d\d", text)
    stages = yaml.safe_load(text)["stages"]
    assert len(stages) == 7


@pytest.mark.slow
def test_refresh_sees_that_a_remote_source_has_changed(project: Project) -> None:
    source = project.path("1.data", "source", "sba_loans.csv.gz")
    web = project.path("web")
    web.mkdir()
    shutil.move(source, web / "loans.csv.gz")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(web)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    project.set_params({"data.sources": [f"http://127.0.0.1:{server.server_port}/loans.csv.gz"]})
    assert "1.get_data" in steps(project.run("main.py").stdout)
    assert steps(project.run("main.py", "--refresh").stdout) == []
    thin(web / "loans.csv.gz", web / "loans.csv.gz", every=2)
    os.utime(web / "loans.csv.gz", (0, 0))  # another Last-Modified, which is all that this server tells
    assert steps(project.run("main.py").stdout) == []
    output = interrupted(project, "2.prep_clean_data.py", "--refresh")  # what comes then, other tests show
    assert "loans.csv.gz has changed" in output
    assert steps(output) == ["1.get_data"]
    server.shutdown()
    server.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...
