"""The runbook: outputs, parameters, resources and variables that it names exist."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from cfnlint.decode import decode
from projects import REPOSITORY

DEPLOY = REPOSITORY / "7.deploy"
RUNBOOK = (DEPLOY / "runbook.md").read_text()
TEMPLATES = [path.stem for path in (DEPLOY / "aws").glob("[a-z]*.yaml")]


def template(name: str) -> Any:
    found, problems = decode(str(DEPLOY / "aws" / f"{name}.yaml"))
    assert not problems
    return found


def test_outputs_exist() -> None:
    asked = {*re.findall(r"\$\(output (\w+) (\w+)\)", RUNBOOK)}
    asked |= {(stack, name) for name, stack in re.findall(r"output `(\w+)` of `(\w+)`", RUNBOOK)}
    assert len(asked) >= 4
    assert [pair for pair in asked if pair[1] not in template(pair[0])["Outputs"]] == []


def test_parameters_exist() -> None:
    commands = re.findall(r"(?:`|^ *|eval \")stack (\w+)([^`\n]*)", RUNBOOK, re.MULTILINE)
    assert {name for name, _ in commands} == set(TEMPLATES)
    for name, arguments in commands:
        parameters = template(name).get("Parameters", {})
        assert [given for given in re.findall(r"(\w+)=", arguments) if given not in parameters] == []


def test_variables_and_secrets_of_the_workflows_are_documented() -> None:
    text = "".join(path.read_text() for path in (REPOSITORY / ".github" / "workflows").glob("*.yml"))
    names = {*re.findall(r"\b(?:vars|secrets)\.(\w+)", text)}
    assert len(names) >= 10
    assert [name for name in names if name not in RUNBOOK] == []


def test_diagram_names_each_template() -> None:
    diagram = RUNBOOK.split("```mermaid")[1].split("```")[0]
    assert set(re.findall(r"\((\w+)\.yaml\)", diagram)) == set(TEMPLATES)


def test_resources_exist() -> None:
    parts = re.findall(r"resource (registry|balancer|storage) (\w+)\)", RUNBOOK)
    assert len(parts) >= 6
    assert [part for part in parts if part[1] not in template(part[0])["Resources"]] == []


def test_shell_blocks_are_valid() -> None:
    blocks = re.findall(r"^( *)```sh\n(.*?)^\1```", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    for _, block in blocks:
        done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
        assert done.returncode == 0, block + done.stderr


STAND_IN = """#!/bin/sh
cat >/dev/null
case "$0 $*" in
*password-stdin) ;;
*Architecture*) echo linux/amd64 ;;
*RepoDigests*) echo "answer@sha256:0" ;;
*) echo answer ;;
esac
"""


def test_steps_run_in_their_order_with_their_variables_defined(tmp_path: Path) -> None:
    """Each command of the steps from nothing to HTTPS, with stand-ins for the clouds: a variable that no earlier step
    has set, a function that is missing or a wrong call of our own scripts ends the script."""
    for program in ("aws", "curl", "docker", "gh", "sleep", "uv"):
        (tmp_path / program).write_text(STAND_IN)
        (tmp_path / program).chmod(0o755)
    steps = RUNBOOK.split("## From nothing to HTTPS")[1].split("## Releases")[0].split("### A stack has failed")[0]
    found = re.finditer(r"^( *)```sh\n(.*?)^\1```|`(stack [^`]*|gh [^`]*|aws [^`]*)`", steps, re.MULTILINE | re.DOTALL)
    commands = [match[2] or match[3].replace("\n", " ") for match in found]
    commands = [command for command in commands if not command.startswith(("stack` ", "gh auth", "gh variable"))]
    assert len(commands) > 20
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(commands).replace("…", "x")],
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CONTAINER_TOOL": "docker"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr


def test_each_step_says_what_to_see_and_what_to_do_otherwise() -> None:
    steps = re.findall(r"^(\d+\. .*?)(?=^\d+\. |^#|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert len(steps) >= 17
    for step in steps:
        parts = re.search(r"\*\*You see:\*\* \S.*\*\*If not:\*\* \S", step, re.DOTALL)
        assert parts, step


def test_files_exist() -> None:
    scripts = {*re.findall(r"(?:uv run )?\b((?:7\.deploy|6\.production)/[\w./]+\.\w+)", RUNBOOK)}
    assert len(scripts) >= 5
    assert [name for name in scripts if not (REPOSITORY / name).exists()] == []


def test_stacks_are_deleted_in_reverse_order() -> None:
    (deleted,) = re.findall(r"^for stack in (.*); do\n  7.deploy/stack.sh delete", RUNBOOK, re.MULTILINE)
    assert sorted(deleted.split()) == sorted(TEMPLATES)
    imports = {name: str(template(name)) for name in deleted.split()}
    for place, name in enumerate(deleted.split()):  # a stack can't be deleted while another imports from it
        users = [user for user, text in imports.items() if f"${{Prefix}}-{name}-" in text]
        assert [user for user in users if user not in deleted.split()[:place]] == []
