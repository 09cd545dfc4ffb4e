"""The runbook and its picture: what they name is there."""

import re
import subprocess
from html import unescape
from typing import Any

import pytest
from cfnlint.decode import decode
from projects import REPOSITORY

DEPLOY = REPOSITORY / "7.deploy"
RUNBOOK = (DEPLOY / "runbook.md").read_text()


def template(name: str) -> Any:
    found, problems = decode(str(DEPLOY / "aws" / f"{name}.yaml"))
    assert not problems
    return found


def test_each_output_that_it_asks_for_is_told_by_the_stack() -> None:
    asked = {*re.findall(r"output (\w+) (\w+)", RUNBOOK)}
    asked |= {(stack, name) for name, stack in re.findall(r"output `(\w+)` of `(\w+)`", RUNBOOK)}
    assert len(asked) >= 4
    assert [pair for pair in asked if pair[1] not in template(pair[0])["Outputs"]] == []


def test_each_parameter_that_it_sets_is_one_of_the_stack() -> None:
    commands = re.findall(r"`stack (\w+)([^`]*)`", RUNBOOK)
    assert {name for name, _ in commands} == {path.stem for path in (DEPLOY / "aws").glob("[a-z]*.yaml")}
    for name, arguments in commands:
        parameters = template(name).get("Parameters", {})
        assert [given for given in re.findall(r"(\w+)=", arguments) if given not in parameters] == []


def test_it_tells_each_variable_and_secret_of_the_workflows() -> None:
    text = "".join(path.read_text() for path in (REPOSITORY / ".github" / "workflows").glob("*.yml"))
    names = {*re.findall(r"\b(?:vars|secrets)\.(\w+)", text)}
    assert len(names) >= 10
    assert [name for name in names if name not in RUNBOOK] == []


@pytest.mark.parametrize("label", re.findall(r'label="([^"]+)"', (DEPLOY / "architecture.dot").read_text()))
def test_the_picture_is_of_the_text(label: str) -> None:
    drawn = unescape((DEPLOY / "architecture.svg").read_text())
    assert [line for line in label.split("\\n") if line.strip() not in drawn] == []


def test_the_picture_has_the_arrows_of_the_text() -> None:
    lines = (DEPLOY / "architecture.dot").read_text().splitlines()
    arrows = [line.split("[")[0].strip() for line in lines if " -> " in line and "style=invis" not in line]
    drawn = re.findall(r"<title>(\w+)->(\w+)</title>", unescape((DEPLOY / "architecture.svg").read_text()))
    assert len(arrows) > 10
    assert sorted(arrows) == sorted(" -> ".join(pair) for pair in drawn)


def test_each_part_of_a_stack_that_it_names_is_there() -> None:
    parts = re.findall(r"part (registry|balancer) (\w+)\)", RUNBOOK)
    assert len(parts) >= 6
    assert [part for part in parts if part[1] not in template(part[0])["Resources"]] == []


def test_each_shell_block_is_valid() -> None:
    blocks = re.findall(r"^( *)```sh\n(.*?)^\1```", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    for _, block in blocks:
        done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
        assert done.returncode == 0, block + done.stderr


def test_it_deletes_the_stacks_that_there_are() -> None:
    (deleted,) = re.findall(r"^for stack in (.*); do\n  aws cloudformation delete-stack", RUNBOOK, re.MULTILINE)
    assert sorted(deleted.split()) == sorted(path.stem for path in (DEPLOY / "aws").glob("[a-z]*.yaml"))
    imports = {name: str(template(name)) for name in deleted.split()}
    for place, name in enumerate(deleted.split()):  # a stack can't go while another imports from it
        users = [user for user, text in imports.items() if f"{name.capitalize()}Stack}}" in text]
        assert [user for user in users if user not in deleted.split()[:place]] == []
