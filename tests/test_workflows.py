"""The workflows of GitHub Actions: pinned, the same commands as .ci/run, and run for real on this machine."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from containers import needs_podman
from projects import REPOSITORY

WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
USES = re.compile(r"uses: ([\w-]+/[\w-]+)@(\S+) # (v\d+\.\d+\.\d+)$")
STAND_IN = (
    "name: stand-in\ndescription: does nothing\nruns: {using: composite, steps: [{run: echo stands in, shell: bash}]}\n"
)


def test_every_action_is_pinned_to_one_commit_with_its_version_beside_it() -> None:
    lines = [line for path in WORKFLOWS for line in path.read_text().splitlines() if "uses: " in line]
    foreign = [line for line in lines if "uses: ./" not in line]
    found = [USES.search(line) for line in foreign]
    assert len(foreign) > 10
    assert all(found), foreign
    pins = {match.groups() for match in found if match}
    assert len(pins) == len({action for action, *_ in pins})  # nobody uses two versions of one
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for _, commit, _ in pins)


def test_the_workflow_runs_the_parts_of_the_projects_own_check() -> None:
    parts = re.findall(r"^part_(\w+)\(\)", (REPOSITORY / ".ci" / "run").read_text(), re.MULTILINE)
    workflow: Any = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["check"]
    assert job["strategy"]["matrix"]["part"] == parts
    assert job["steps"][-1]["run"] == 'bash .ci/run "$PART"'
    assert "secrets" not in (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text()  # forks have none


@pytest.mark.parametrize("name", ["release", "retrain"])
def test_one_job_at_a_time_deploys_or_promotes_and_asks_before(name: str) -> None:
    workflow: Any = yaml.safe_load((REPOSITORY / ".github" / "workflows" / f"{name}.yml").read_text())
    assert workflow["permissions"] == {}
    assert workflow["concurrency"]["cancel-in-progress"] is False
    *_, last = workflow["jobs"].values()
    assert last["environment"] == "production"
    assert last["permissions"] == {"contents": "read", "id-token": "write"}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with what is not committed yet."""
    target = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(target)], check=True)
    changed = subprocess.run(
        ["git", "diff", "HEAD", "--binary"], cwd=REPOSITORY, capture_output=True, check=True
    ).stdout
    if changed:
        subprocess.run(["git", "apply"], cwd=target, input=changed, check=True)
    return target


def act(clone: Path, parts: list[str], tests: list[str]) -> "subprocess.CompletedProcess[str]":
    """Runs parts of ci.yml, with only some of the tests; actions that set up a runner are stood in for."""
    stand_in = clone.parent / "stand-in"
    stand_in.mkdir()
    (stand_in / "action.yml").write_text(STAND_IN)
    pins = {
        match.groups()[:2]
        for line in (clone / ".github/workflows/ci.yml").read_text().splitlines()
        if (match := USES.search(line))
    }
    options = [f"--local-repository={action}@{commit}={stand_in}" for action, commit in pins]
    options += [f"--matrix=part:{part}" for part in parts]
    return subprocess.run(
        [
            str(Path(sys.executable).parent / "act"), "pull_request", "--workflows", ".github/workflows/ci.yml",
            *("--platform", "ubuntu-latest=-self-hosted", "--pull=false", "--action-offline-mode"),
            *("--env", f"PYTEST_ADDOPTS={' '.join(tests)}", "--env", "PY_COLORS=0"),
            *("--env", "UV_COMPILE_BYTECODE=0", *options),
        ],
        cwd=clone, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_podman
def test_the_workflow_is_green_and_with_a_fault_in_the_code_red(clone: Path) -> None:
    done = act(clone, ["tests", "marked"], ["tests/test_features.py", "tests/test_image.py::test_it_says_what_it_is"])
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert done.stdout.count("Job succeeded") == 2
    features = clone / "src" / "credit_risk" / "features.py"
    features.write_text(features.read_text().replace("MISSING = ", "MISSING = 1 + ", 1))
    shutil.rmtree(clone.parent / "stand-in")
    done = act(clone, ["tests"], ["tests/test_features.py"])
    assert done.returncode != 0
    assert "FAILED tests/test_features.py" in done.stdout
    assert "Job failed" in done.stdout
