"""The shell scripts of 7.deploy, with stand-ins for aws and docker that write down how they are called."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from projects import REPOSITORY

from credit_risk.contract import CONTRACT

NAME = CONTRACT.problem.name
STAND_IN = """#!/usr/bin/env python3
import json, os, sys
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
line = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
for part, answer in json.loads(os.environ["ANSWERS"]).items():
    if part in line:
        if answer == "fails":
            sys.exit(1)
        print(answer)
        break
"""


class Programs:
    """Stand-ins on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls"
        self.calls.touch()
        self.answers: dict[str, str] = {}
        self.path = f"{folder}:{os.environ['PATH']}"
        for name in ("aws", "docker"):
            program = folder / name
            program.write_text(STAND_IN)
            program.chmod(0o755)

    def run(self, script: str, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        settings = {"PATH": self.path, "CALLS": str(self.calls), "ANSWERS": json.dumps(self.answers)} | environment
        command = ["bash", str(REPOSITORY / "7.deploy" / script), *arguments]
        return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)

    def called(self) -> list[list[str]]:
        return [json.loads(line) for line in self.calls.read_text().splitlines()]


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


def test_deploy_passes_prefix_parameters_and_tags(programs: Programs) -> None:
    assert programs.run("stack.sh", "deploy", "storage", "MultiAz=false", "Protect=true").returncode == 0
    (call,) = programs.called()
    assert call[:3] == ["aws", "cloudformation", "deploy"]
    assert call[call.index("--stack-name") + 1] == f"{NAME}-storage"
    assert call[call.index("--tags") + 1] == f"stack-prefix={NAME}"
    assert call[call.index("--parameter-overrides") + 1 :] == [f"Prefix={NAME}", "MultiAz=false", "Protect=true"]


def test_a_second_set_has_another_prefix(programs: Programs) -> None:
    assert programs.run("stack.sh", "deploy", "network", STACK_PREFIX="staging").returncode == 0
    (call,) = programs.called()
    assert call[call.index("--stack-name") + 1] == "staging-network"
    assert call[call.index("--tags") + 1] == "stack-prefix=staging"
    assert "--parameter-overrides" not in call  # the network has no parameter Prefix, and none was given


def test_outputs_and_resources_are_read(programs: Programs) -> None:
    programs.answers = {"OutputKey=='Url'": "https://api", "describe-stack-resource": "id-1"}
    assert programs.run("stack.sh", "output", "servers", "Url").stdout == "https://api\n"
    assert programs.run("stack.sh", "resource", "storage", "Database").stdout == "id-1\n"
    missing = programs.run("stack.sh", "output", "servers", "Nothing")
    assert (missing.returncode, missing.stderr) == (1, f"stack.sh: the stack {NAME}-servers has no output Nothing\n")


def test_unknown_templates_and_commands_are_rejected(programs: Programs) -> None:
    assert "there is no template nothing" in programs.run("stack.sh", "deploy", "nothing").stderr
    for arguments in ([], ["deploy"], ["make", "network"], ["output", "servers"]):
        done = programs.run("stack.sh", *arguments)
        assert done.returncode == 2
        assert "Usage" in done.stderr
    assert programs.called() == []


DIGEST = "registry.example.com/api@sha256:" + "0" * 64


def test_an_image_is_pushed_and_its_digest_printed(programs: Programs) -> None:
    programs.answers = {"Architecture": "linux/amd64", "RepoDigests": f"other.example.com/api@sha256:1\n{DIGEST}"}
    programs.answers["docker pull"] = "fails"  # no image has this tag
    assert programs.run("push_image.sh", "registry.example.com/api:1").stdout == f"{DIGEST}\n"
    assert ["docker", "push", "--quiet", "registry.example.com/api:1"] in programs.called()
    programs.calls.write_text("")
    del programs.answers["docker pull"]
    again = programs.run("push_image.sh", "registry.example.com/api:1")
    assert again.stdout == f"{DIGEST}\n"
    assert "is in the repository already" in again.stderr
    assert not [call for call in programs.called() if "push" in call], "tags are immutable"


@pytest.mark.fault("an image is built for another processor", "it is not pushed")
def test_an_image_for_another_processor_is_not_pushed(programs: Programs) -> None:
    programs.answers = {"Architecture": "linux/arm64"}
    done = programs.run("push_image.sh", "registry.example.com/api:1")
    assert done.returncode == 1
    assert "is for linux/arm64, servers are linux/amd64; build it with --platform linux/amd64" in done.stderr
    assert not [call for call in programs.called() if "push" in call]


@pytest.mark.parametrize(("given", "platform"), [((), "linux/amd64"), (("--platform", "linux/arm64"), "linux/arm64")])
def test_images_are_built_for_the_servers_without_an_index(
    programs: Programs, given: tuple[str, ...], platform: str
) -> None:
    for part, context in ((), "."), (("--mlflow",), "7.deploy/mlflow"):
        done = programs.run("build_image.sh", *part, "api:1", *given, CONTAINER_TOOL="docker")
        assert done.returncode == 0, done.stderr
        call = programs.called()[-1]
        assert call[call.index("--platform") + 1] == platform
        assert call.count("--platform") == 1
        assert call[-1] == context
        assert call[call.index("--file") + 1] == f"{context if part else '7.deploy'}/Dockerfile"
