"""The workflows of GitHub Actions: actions are pinned, parts are those of .ci/run, and act runs ci.yml."""

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
    "name: stand-in\ndescription: does nothing\nruns: {using: composite, steps: [{run: echo replaced, shell: bash}]}\n"
)


def test_actions_are_pinned_to_a_commit() -> None:
    lines = [line for path in WORKFLOWS for line in path.read_text().splitlines() if "uses: " in line]
    foreign = [line for line in lines if "uses: ./" not in line]
    found = [USES.search(line) for line in foreign]
    assert foreign
    assert all(found), foreign
    pins = {match.groups() for match in found if match}
    assert len(pins) == len({action for action, *_ in pins})  # one version of each
    assert all(re.fullmatch("[0-9a-f]{40}", commit) for _, commit, _ in pins)


def test_ci_runs_the_parts_of_the_local_check() -> None:
    parts = re.findall(r"^part_(\w+)\(\)", (REPOSITORY / ".ci" / "run").read_text(), re.MULTILINE)
    workflow: Any = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text())
    job = workflow["jobs"]["check"]
    assert job["strategy"]["matrix"]["part"] == parts
    assert job["steps"][-1]["run"] == 'bash .ci/run "$PART"'
    assert "secrets" not in (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text()  # forks have no secrets


@pytest.mark.parametrize("path", [path for path in WORKFLOWS if path.stem != "ci"], ids=lambda path: path.stem)
def test_production_jobs_are_serialized_and_need_an_approval(path: Path) -> None:
    workflow: Any = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    *_, last = workflow["jobs"].values()
    assert (workflow | last)["concurrency"]["cancel-in-progress"] is False
    assert last["environment"] == "production"
    assert last["permissions"] == {"contents": "read", "id-token": "write"}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with the uncommitted changes."""
    target = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(target)], check=True)
    changed = subprocess.run(
        ["git", "diff", "HEAD", "--binary"], cwd=REPOSITORY, capture_output=True, check=True
    ).stdout
    if changed:
        subprocess.run(["git", "apply"], cwd=target, input=changed, check=True)
    return target


def act(clone: Path, parts: list[str], tests: list[str]) -> "subprocess.CompletedProcess[str]":
    """Runs parts of ci.yml with some of the tests; actions are replaced by an empty one."""
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
            *("--env", f"PYTEST_ADDOPTS=--cov-fail-under=0 {' '.join(tests)}", "--env", "PY_COLORS=0"),
            *("--env", "UV_COMPILE_BYTECODE=0", *options),
        ],
        cwd=clone, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_podman
def test_workflow_succeeds_and_fails_with_a_fault(clone: Path) -> None:
    done = act(
        clone,
        ["tests", "marked"],
        ["tests/test_features.py", "tests/test_image.py::test_labels_name_version_and_commit"],
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert done.stdout.count("Job succeeded") == 2
    (features,) = clone.glob("src/*/features.py")
    features.write_text(f'{features.read_text()}\nraise RuntimeError("a fault of the test")\n')
    shutil.rmtree(clone.parent / "stand-in")
    done = act(clone, ["tests"], ["tests/test_features.py"])
    assert done.returncode != 0
    assert "a fault of the test" in done.stdout
    assert "Job failed" in done.stdout
