"""Scripts: expected errors are one sentence, and a stage does not outlive the run that it belongs to."""

from credit_risk.core.entry_point import _MACHINE, PIPELINE_PID, describe

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from projects import wait_for_script, wait_until

from credit_risk.core import entry_point
from credit_risk.core.environment import LOCK, environment_sha256
from credit_risk.core.paths import root
from credit_risk.project.settings import Settings

SCRIPT = """
import time
from pathlib import Path
from credit_risk.core.entry_point import run

def main() -> None:
    Path("begun").touch()
    time.sleep(60)

run("stage", main)
"""
STAGES = "stages:\n  long:\n    cmd: python stage.py\n"


def python(folder: Path, code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs code as a script in a folder that is the project's root."""
    script = folder / "3.experiments" / "2.tune.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(code)
    return subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PROJECT_ROOT": str(folder)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_package_names_the_command(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[dependency-groups]\nexperiments = ["no-such.Package>=3"]\n')
    result = python(tmp_path, "import credit_risk.core.entry_point\nimport no_such.thing")
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "error: no_such is not installed; use `uv run --group experiments 3.experiments/2.tune.py`"
    ]


def test_a_missing_package_of_no_group_keeps_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[dependency-groups]\nexperiments = ["optuna"]\n')
    result = python(tmp_path, "import credit_risk.core.entry_point\nimport no_such")
    assert "Traceback" in result.stderr


def test_an_expected_error_during_imports_is_one_sentence(tmp_path: Path) -> None:
    code = "import credit_risk.core.entry_point as e\nraise e.ProjectError('the contract is wrong')"
    result = python(tmp_path, code)
    assert (result.returncode, result.stderr) == (1, "error: the contract is wrong\n")


def test_characters_that_the_terminal_lacks_do_not_stop_a_script(tmp_path: Path) -> None:
    code = "from credit_risk.core.entry_point import run\nrun('stage', lambda: print('┃ done'))"
    result = python(tmp_path, code, PYTHONIOENCODING="latin-1")
    assert (result.returncode, result.stdout) == (0, "? done\n")


def test_a_closed_output_is_no_error_and_takes_nothing_from_the_next_file(tmp_path: Path) -> None:
    code = (
        "from credit_risk.core.entry_point import run\n"
        "def main():\n"
        "    with open('made', 'w') as file:\n"
        "        print('printed')\n"
        "        file.write('written')\n"
        "run('stage', main)"
    )
    (tmp_path / "stage.py").write_text(code)
    command = ["sh", "-c", f"exec {sys.executable} stage.py >&- 2>&-"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0
    assert (tmp_path / "made").read_text() == "written"


def test_work_goes_on_when_nobody_reads_the_output(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from credit_risk.core.entry_point import run\n"
        "run('stage', lambda: ([print('x' * 1000) for _ in range(1000)], Path('done').touch()))"
    )
    (tmp_path / "stage.py").write_text(code)
    with subprocess.Popen(
        [sys.executable, "stage.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.close()  # as `| head` does
        _, errors = process.communicate()
    assert (process.returncode, errors) == (0, b"")
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "make it writable"), (errno.EMFILE, "ulimit -n")],
)
def test_a_problem_of_the_machine_is_one_sentence(number: int, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROJECT_ROOT", raising=False)
    sentence = describe(OSError(number, os.strerror(number), str(root() / "1.data" / "2.clean" / "rows.parquet")))
    assert sentence == f"1.data/2.clean/rows.parquet: {os.strerror(number)}; {_MACHINE[number]}"
    assert remedy in sentence
    assert describe(OSError(number, os.strerror(number), "/elsewhere")) == f"/elsewhere: {sentence.partition(': ')[2]}"
    assert describe(OSError(number, os.strerror(number))) == sentence.partition(": ")[2]


def test_a_missing_output_names_the_command_and_any_other_file_keeps_its_traceback(tmp_path: Path) -> None:
    code = "from credit_risk.core.entry_point import run\nrun('stage 7', lambda: open('{}'))"
    result = python(tmp_path, code.format(tmp_path / "1.data" / "5.model" / "model.onnx"))
    assert result.stderr == "stage 7: 1.data/5.model/model.onnx is missing; run the pipeline first: `uv run main.py`\n"
    assert result.returncode == 1
    assert "Traceback" in python(tmp_path, code.format(tmp_path / "other")).stderr


@pytest.mark.parametrize(("name", "value"), [("PROJECT_ROOT", "/nowhere"), (PIPELINE_PID, "abc"), (PIPELINE_PID, "-1")])
def test_variables_of_the_scripts_themselves(name: str, value: str, tmp_path: Path) -> None:
    code = "from credit_risk.core.entry_point import run\nfrom credit_risk.core.paths import root\nrun('stage', root)"
    result = python(tmp_path, code, **{name: value})
    assert result.returncode == 1
    assert result.stderr.startswith(f"stage: environment: {name} must be ")
    assert result.stderr.count("\n") == 1


def test_a_stage_of_an_experiment_uses_the_checkout_that_it_is_in(tmp_path: Path) -> None:
    """DVC runs `dvc exp run --temp` and `--queue` in a checkout of their own, and names the first one in DVC_ROOT."""
    package = Path(entry_point.__file__).parents[1]
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / package.name).symlink_to(package)
    folder = tmp_path / "4.dvc_pipeline"
    folder.mkdir()
    module = f"{package.name}.core"
    (folder / "stage.py").write_text(
        f"import {module}.entry_point, {module}.paths as paths\nprint(paths.root(), paths.__file__)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PROJECT_ROOT"}
    command = [sys.executable, "stage.py", "an argument"]
    done = subprocess.run(
        command, cwd=folder, env=environment | {"DVC_STAGE": "x"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(tmp_path), str(tmp_path / "src" / package.name / "core" / "paths.py")]


def test_the_watch_on_the_run_survives_too_many_open_files() -> None:
    code = (
        "import os, psutil, resource\n"
        "from credit_risk.core.entry_point import _alive\n"
        "process = psutil.Process()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "assert _alive(process)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODEL_SYNC_SECONDS", raising=False)
    unset = Settings()
    monkeypatch.setenv("MODEL_SYNC_SECONDS", "")
    monkeypatch.setenv("APP_ENV", "")
    assert Settings() == unset


def test_the_environment_without_uv_lock_is_the_committed_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROJECT_ROOT", str(tmp_path))
    (tmp_path / LOCK).write_text("numpy==2.4.0 --hash=sha256:00\n")
    assert environment_sha256() == hashlib.sha256((tmp_path / LOCK).read_bytes()).hexdigest()


@pytest.mark.integration
@pytest.mark.parametrize("shell", ["sh", "bash"])  # dash stays as the stage's parent, bash becomes the stage
def test_a_stage_ends_when_dvc_is_killed(shell: str, tmp_path: Path) -> None:
    (tmp_path / "stage.py").write_text(SCRIPT)
    (tmp_path / "dvc.yaml").write_text(STAGES)
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--quiet", "--no-scm"], cwd=tmp_path, check=True)
    environment = os.environ | {"SHELL": str(shutil.which(shell))}
    process = subprocess.Popen([*dvc, "repro"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_until((tmp_path / "begun").exists, "the stage to begin")
        stage = wait_for_script(process.pid, "stage.py")
    finally:
        process.kill()
        process.wait()
    assert not left_over(stage)


@pytest.mark.integration
@pytest.mark.parametrize("in_a_run", [True, False])
def test_a_script_outlives_the_shell_that_started_it_unless_it_belongs_to_its_run(
    in_a_run: bool, tmp_path: Path
) -> None:
    (tmp_path / "stage.py").write_text(SCRIPT)
    prefix = f"{PIPELINE_PID}=$$ " if in_a_run else ""
    command = f"{prefix}{sys.executable} stage.py >/dev/null & until [ -e begun ]; do sleep 0.1; done; echo $!"
    environment = {name: value for name, value in os.environ.items() if name != PIPELINE_PID}
    shell = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, check=True)
    try:
        script = psutil.Process(int(shell.stdout))
    except psutil.NoSuchProcess:
        assert in_a_run
        return
    assert bool(left_over(script, 2)) is not in_a_run


def left_over(process: psutil.Process, seconds: float = 10) -> list[psutil.Process]:
    """The process, if it is still running after so long; it is killed then."""
    _, left = psutil.wait_procs([process], timeout=seconds)
    for one in left:
        one.kill()
    return left
