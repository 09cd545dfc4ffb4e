"""The workflows of GitHub Actions: actions are pinned, parts are those of .ci/run, and act runs ci.yml."""

import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from containers import environment, needs_podman
from projects import REPOSITORY

WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((REPOSITORY / ".github" / "actions").glob("*/action.yml"))
USES = re.compile(r"uses: ([\w-]+/[\w-]+)(?:/[\w-]+)?@(\S+) # (v\d+\.\d+\.\d+)$")
STAND_IN = (
    "name: stand-in\ndescription: does nothing\nruns: {using: composite, steps: [{run: echo replaced, shell: bash}]}\n"
)


def test_actions_are_pinned_to_a_commit() -> None:
    lines = [line for path in [*WORKFLOWS, *ACTIONS] for line in path.read_text().splitlines() if "uses: " in line]
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


def parsed(name: str) -> Any:
    return yaml.safe_load((REPOSITORY / ".github" / "workflows" / f"{name}.yml").read_text())


@pytest.mark.parametrize(
    ("name", "environment", "further"),
    [("release", "production", {"attestations": "read"}), ("retrain", "model", {}), ("registry", "model", {})],
)
def test_production_jobs_are_serialized_and_need_an_approval(
    name: str, environment: str, further: dict[str, str]
) -> None:
    workflow = parsed(name)
    assert workflow["permissions"] == {}
    *_, last = workflow["jobs"].values()
    assert (workflow | last)["concurrency"]["cancel-in-progress"] is False
    assert last["environment"] == environment  # each has a role of its own, see github.yaml
    assert last["permissions"] == {"contents": "read", "id-token": "write"} | further


def test_a_run_that_waits_for_its_approval_holds_back_no_other() -> None:
    workflow = parsed("release")
    assert "concurrency" not in workflow
    assert [name for name, job in workflow["jobs"].items() if "concurrency" in job] == ["stage", "deploy"]


def test_runners_do_not_move() -> None:
    runners = {job.get("runs-on", "") for path in WORKFLOWS for job in parsed(path.stem)["jobs"].values()} - {""}
    assert not [runner for runner in runners if "latest" in runner]


def test_containers_of_github_s_user_have_the_machine_s_own_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """A job's user is not root, and runc with cgroupfs refuses limits to everybody else."""
    monkeypatch.delenv("CONTAINERS_CONF", raising=False)
    assert "cgroupfs" in Path(environment(0)["CONTAINERS_CONF"]).read_text()
    assert "CONTAINERS_CONF" not in environment(1001)


def test_jobs_with_rights_install_locked_packages_only() -> None:
    for path in WORKFLOWS:
        for name, job in parsed(path.stem)["jobs"].items():
            if "id-token" not in job.get("permissions", {}):
                continue
            commands = "\n".join(step.get("run", "") for step in job["steps"])
            assert not re.search(r"pip install|uv sync|uvx|uv tool|npm", commands), f"{path.stem}.{name}"
    action = yaml.safe_load((REPOSITORY / ".github/actions/install/action.yml").read_text())
    assert "--require-hashes" in action["runs"]["steps"][-1]["run"]


def test_promotion_runs_the_code_of_main() -> None:
    """Anybody may push to the branch of the pull request."""
    checkout, lock, *_ = parsed("retrain")["jobs"]["promote"]["steps"]
    assert checkout["with"] == {"persist-credentials": False}  # without `ref`: the commit that the workflow has
    assert lock["uses"].startswith("actions/download-artifact@")
    kept = [
        step
        for step in parsed("retrain")["jobs"]["train"]["steps"]
        if step.get("with", {}).get("name") == lock["with"]["name"]
    ]
    assert [Path(step["with"]["path"]).parent.as_posix() for step in kept] == [lock["with"]["path"]]


def test_promotion_signs_then_loads_then_promotes() -> None:
    """The loading gate checks the signature that this job has made; only the performance gate moves the alias."""
    (step,) = (step for step in parsed("retrain")["jobs"]["promote"]["steps"] if "SIGNING_KEY" in step.get("env", {}))
    scripts = re.findall(r"uv run ([56]\S+\.py)", step["run"])
    assert scripts == ["6.production/sign_model.py", "5.testing/loading.py", "5.testing/performance.py"]
    assert step["env"]["MODEL_PUBLIC_KEY"] == "${{ vars.MODEL_PUBLIC_KEY }}"


def test_forks_without_an_account_skip_the_jobs_that_need_one() -> None:
    for name, job, variable in (
        ("release", "build", "AWS_BUILD_ROLE"),
        ("retrain", "train", "AWS_RETRAIN_ROLE"),
        ("monitor", "monitor", "AWS_MONITOR_ROLE"),
        ("registry", "run", "AWS_PROMOTE_ROLE"),
    ):
        assert parsed(name)["jobs"][job]["if"] == f"vars.{variable} != ''"
    for name, job in (("release", "deploy"), ("retrain", "promote")):
        assert (
            set(parsed(name)["jobs"][job]["needs"]) & {"build", "train"}
            or parsed(name)["jobs"][job]["needs"] == "train"
        )


@pytest.mark.parametrize("verified", [True, False])
def test_image_of_another_origin_is_not_released(tmp_path: Path, verified: bool) -> None:
    """With ATTEST, each image is signed in the job that pushes it, and verified in the one that releases it."""
    jobs = parsed("release")["jobs"]
    signed, (verify,) = (
        [step for step in jobs[job]["steps"] if text in step.get("uses", "") + step.get("run", "")]
        for job, text in (("build", "actions/attest@"), ("deploy", "gh attestation verify"))
    )
    assert {step["if"] for step in [*signed, verify]} == {"vars.ATTEST == 'true'"}
    names = [step.get("name") for step in jobs["deploy"]["steps"]]
    assert names.index(verify["name"]) < names.index("Deploy")
    assert "if" not in jobs["deploy"]["steps"][names.index("Deploy")], "it needs all steps before"
    gh = f"""#!/bin/sh
echo "$@" >>"{tmp_path}/said"
[ "$2" = verify ] || exec touch sha256:0.jsonl
exit {0 if verified else 1}
"""
    python = f'#!/bin/sh\necho "$@" >>"{tmp_path}/said"\n'
    for program, text in (("gh", gh), (".venv/bin/python", python)):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).write_text(text)
        (tmp_path / program).chmod(0o755)
    (release,) = (step for step in jobs["deploy"]["steps"] if step.get("name") == "Deploy")
    assert release["env"]["ATTESTATION"] == "${{ vars.ATTEST == 'true' && 'attestation.jsonl' || '' }}"
    values = {"GITHUB_REPOSITORY": "owner/name", "GITHUB_SHA": "abc", "IMAGE": "registry/api@sha256:0"}
    values |= {"STACK": "servers", "STRATEGY": "rolling", "ATTESTATION": "attestation.jsonl"}
    values |= {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    for step in (verify, release):  # a step runs if the one before it has succeeded
        done = subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=values, check=False)
        if done.returncode:
            break
    assert (done.returncode == 0) is verified
    download, check, *deploy = (tmp_path / "said").read_text().splitlines()
    given = options(check)
    assert given["verify"] == options(download)["download"] == "oci://registry/api@sha256:0"
    assert given["--signer-workflow"] == "owner/name/.github/workflows/release.yml"
    assert (given["--repo"], given["--source-digest"]) == ("owner/name", "abc")
    assert [options(line)["--attestation"] for line in deploy] == [given["--bundle"]] * verified, "what was verified"


def options(command: str) -> dict[str, str]:
    """The arguments of a command, by the word before each."""
    return dict(pairwise(command.split()))


def test_image_that_runs_is_scanned_every_week() -> None:
    """One of two jobs scans: what runs, or what main would build, where nothing runs or a pull request changes it."""
    workflow = parsed("security")
    jobs = workflow["jobs"]
    assert jobs["running"]["if"] == "github.event_name != 'pull_request' && vars.AWS_SCAN_ROLE != ''"
    assert jobs["image"]["if"] == "github.event_name == 'pull_request' || vars.AWS_SCAN_ROLE == ''"
    *_, find, scan = jobs["running"]["steps"]
    assert scan["with"] == jobs["image"]["steps"][-1]["with"] | {"image-ref": "${{ steps.running.outputs.image }}"}
    assert find["id"] == "running"
    assert "schedule" in workflow[True]  # YAML reads the key `on` as true


def test_staging_gets_the_same_image_first_and_its_failure_holds_production_back() -> None:
    jobs = parsed("release")["jobs"]
    stage, deploy = jobs["stage"], jobs["deploy"]
    assert stage["if"] == "vars.STAGING_STACK != ''"
    assert "stage" in deploy["needs"]
    assert stage["environment"] == "staging"
    assert stage["concurrency"]["group"] != deploy["concurrency"]["group"]
    for results, expected in {
        ("success", "success", "success"): True,
        ("success", "success", "skipped"): True,
        ("success", "success", "failure"): False,
        ("success", "failure", "skipped"): False,
        ("skipped", "success", "skipped"): False,  # without an account
    }.items():
        condition = deploy["if"].replace("!cancelled()", "True").replace("&&", "and").replace("||", "or")
        for job, result in zip(("build", "rehearse", "stage"), results, strict=True):
            condition = condition.replace(f"needs.{job}.result", repr(result))
        assert eval(condition) is expected, results  # noqa: S307


def test_staging_and_production_run_the_same_steps_on_their_own_set() -> None:
    jobs = parsed("release")["jobs"]
    stage, deploy = jobs["stage"], jobs["deploy"]
    assert stage["steps"] is deploy["steps"], "one list, by an alias"
    assert set(stage["env"]) == set(deploy["env"]) == {"ROLE", "STACK", "IMAGE"}
    assert all(re.search("vars.STAGING_|staging-image", value) for value in stage["env"].values())
    assert not re.search("staging", f"{deploy['env']} {deploy['steps']}", re.IGNORECASE)
    (undo,) = (step for step in deploy["steps"] if " undo " in step.get("run", ""))
    assert undo["if"] == "cancelled() || failure()"
    assert undo["run"].startswith("exec "), "the runner signals only the process of the step"


def copy_for_staging(tmp_path: Path, digest: str) -> "subprocess.CompletedProcess[str]":
    """Runs the step that copies the image to staging, whose repository answers with a digest."""
    (step,) = [step for step in parsed("release")["jobs"]["build"]["steps"] if step.get("id") == "staging"]
    (tmp_path / "7.deploy").mkdir()
    for program, text in {"docker": "", "7.deploy/push_image.sh": f"echo staging/api@{digest}"}.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / program).chmod(0o755)
    environment = {
        "IMAGE": "production/api@sha256:1",
        "REPOSITORY": "staging/api",
        "GITHUB_SHA": "abc",
        "TAG": "production/api:abc",
    }
    environment |= {"GITHUB_OUTPUT": str(tmp_path / "output"), "PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = ["bash", "-e", "-c", step["run"]]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)


def test_another_image_for_staging_is_refused(tmp_path: Path) -> None:
    done = copy_for_staging(tmp_path, "sha256:2")
    assert (done.returncode, "staging would get sha256:2" in done.stdout) == (1, True)
    assert not (tmp_path / "output").exists()


def test_the_same_image_is_handed_to_staging(tmp_path: Path) -> None:
    assert copy_for_staging(tmp_path, "sha256:1").returncode == 0
    assert (tmp_path / "output").read_text() == "image=staging/api@sha256:1\n"


def test_image_is_scanned_before_it_is_pushed() -> None:
    steps = parsed("release")["jobs"]["build"]["steps"]
    names = [step.get("id") or ("scan" if step.get("with", {}).get("exit-code") == "1" else "") for step in steps]
    assert 0 < names.index("scan") < names.index("push")
    scan = steps[names.index("scan")]["with"]
    assert scan["ignore-unfixed"] is True
    accepted = yaml.safe_load((REPOSITORY / scan["trivyignores"]).read_text())["vulnerabilities"]
    assert all(entry["statement"] and entry["expired_at"] for entry in accepted)


def test_base_images_are_pinned_and_stay_on_one_python() -> None:
    for path in (REPOSITORY / "7.deploy").rglob("Dockerfile"):
        bases = re.findall(r"^FROM (\S+)", path.read_text(), re.MULTILINE)
        assert all(
            re.fullmatch(r"python:3\.11-slim-trixie@sha256:[0-9a-f]{64}", base) for base in bases if base != "local"
        )
    updates = yaml.safe_load((REPOSITORY / ".github" / "dependabot.yml").read_text())["updates"]
    (docker,) = [update for update in updates if update["package-ecosystem"] == "docker"]
    assert docker["ignore"][0]["dependency-name"] == "python"
    assert "version-update:semver-minor" in docker["ignore"][0]["update-types"]


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


def program() -> str:
    """The path of act, which only the group for deployment has."""
    path = Path(sys.executable).parent / "act"
    return str(path) if path.exists() else pytest.skip("act is not installed: uv run --all-groups pytest")


def act(clone: Path, part: str, tests: str) -> "subprocess.CompletedProcess[str]":
    """Runs a part of ci.yml with some of the tests; actions are replaced by an empty one."""
    stand_in = clone.parent / "stand-in"
    stand_in.mkdir()
    (stand_in / "action.yml").write_text(STAND_IN)
    pins = {
        match.groups()[:2]
        for line in (clone / ".github/workflows/ci.yml").read_text().splitlines()
        if (match := USES.search(line))
    }
    options = [f"--local-repository={action}@{commit}={stand_in}" for action, commit in pins]
    options.append(f"--matrix=part:{part}")
    return subprocess.run(
        [
            program(), "pull_request", "--workflows", ".github/workflows/ci.yml",
            *("--platform", "ubuntu-24.04=-self-hosted", "--pull=false", "--action-offline-mode"),
            *("--env", f"PYTEST_ADDOPTS=--cov-fail-under=0 {tests}", "--env", "PY_COLORS=0"),
            *("--env", "UV_COMPILE_BYTECODE=0", *options),
        ],
        cwd=clone, capture_output=True, text=True, check=False,
    )  # fmt: skip


CALLED = '#!/bin/sh\necho "$(basename "$0") $*" >>"$CALLS"\n'


def act_alone(
    folder: Path, name: str, event: str, programs: dict[str, str], variables: dict[str, str], **inputs: str
) -> tuple[bool, list[str]]:
    """Runs a workflow of the runner in the network, which sees stand-ins for all actions, and these programs.

    Returns:
        Whether the run is green, and the calls of programs.
    """
    workflow = REPOSITORY / ".github" / "workflows" / f"{name}.yml"
    files = {f"bin/{program}": text for program, text in programs.items()} | {
        "calls": "",
        "action/action.yml": STAND_IN,
    }
    files |= {"repository/.github/actions/install/action.yml": STAND_IN, "repository/w.yml": workflow.read_text()}
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(content)
        (folder / file).chmod(0o755)
    subprocess.run(["git", "init", "--quiet", str(folder / "repository")], check=True)
    used = {match[0] for match in re.findall(r"uses: (([\w-]+/[\w-]+)@\S+)", files["repository/w.yml"])}
    options = [f"--local-repository={action}={folder}/action" for action in used]
    options += [f"--var={key}={value}" for key, value in (variables | {"RUNNER": "codebuild-x"}).items()]
    options += [f"--input={key}={value}" for key, value in inputs.items()]
    options += ["--platform=codebuild-x-1-1=-self-hosted", "--pull=false", "--action-offline-mode"]
    done = subprocess.run(
        [program(), event, "--workflows=w.yml", *options],
        cwd=folder / "repository",
        env={"PATH": f"{folder}/bin:/usr/bin:/bin", "CALLS": f"{folder}/calls", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0, (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize(
    ("command", "expected"), [("rollback", ["rollback", "--why", "it is wrong"]), ("history", ["history"])]
)
def test_model_is_rolled_back_from_within_the_network(tmp_path: Path, command: str, expected: list[str]) -> None:
    uv = f'{CALLED}[ "$2" != main.py ] || printf "%s\\n" "$@" >"$CALLS.said"\n'
    variables = {"AWS_PROMOTE_ROLE": "arn"}
    done, _ = act_alone(
        tmp_path,
        "registry",
        "workflow_dispatch",
        {"uv": uv, "aws": CALLED},
        variables,
        command=command,
        why="it is wrong",
    )
    assert done
    assert (tmp_path / "calls.said").read_text().splitlines() == ["run", "main.py", *expected]


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_podman
def test_workflow_succeeds_and_fails_with_a_fault(clone: Path) -> None:
    done = act(clone, "tests", "tests/test_features.py")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert done.stdout.count("Job succeeded") == 1
    (features,) = clone.glob("src/*/features.py")
    features.write_text(f'{features.read_text()}\nraise RuntimeError("a fault of the test")\n')
    shutil.rmtree(clone.parent / "stand-in")
    done = act(clone, "tests", "tests/test_features.py")
    assert done.returncode != 0
    assert "a fault of the test" in done.stdout
    assert "Job failed" in done.stdout
