"""The runbook: outputs, parameters, resources and variables that it names exist."""

import os
import re
import subprocess
from typing import Any

import botocore.session
import jmespath  # type: ignore[import-untyped]  # comes with botocore
import pytest
from botocore import xform_name
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
printf '%s\\n' "$(basename "$0")" "$@" END >>"$CALLS"
case "$(basename "$0") $*" in
*PortForwarding*) exec tail -f /dev/null ;;
*password-stdin* | jq*) cat >/dev/null ;;
*Architecture*) echo linux/amd64 ;;
*RepoDigests*) echo "answer@sha256:0" ;;
*ResourceRecord.Name) echo example.com ;;
*) echo answer ;;
esac
"""
PROGRAMS = ("aws", "curl", "dig", "docker", "gh", "git", "jq", "sleep", "uv")
INLINE = "(?:stack|release|gh|aws|curl|dig|export|uv run) [^`]*"  # commands in a sentence


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """All commands of the runbook, run in their order, with stand-ins that write down how they are called."""
    folder = tmp_path_factory.mktemp("runbook")
    (folder / "bin").mkdir()
    for program in PROGRAMS:
        (folder / "bin" / program).write_text(STAND_IN)
        (folder / "bin" / program).chmod(0o755)
    for name in ("7.deploy", "pyproject.toml"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "key.pem").touch()
    found = re.finditer(rf"^( *)```sh\n(.*?)^\1```|`({INLINE})`", RUNBOOK, re.MULTILINE | re.DOTALL)
    commands = [match[2] or match[3].replace("\n", " ") for match in found]
    assert len(commands) > 60
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(commands).replace("…", "x")],
        stdin=subprocess.DEVNULL,
        env=os.environ
        | {"PATH": f"{folder}/bin:{os.environ['PATH']}", "CONTAINER_TOOL": "docker", "CALLS": f"{folder}/calls"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr
    return [call.splitlines() for call in (folder / "calls").read_text().removesuffix("END\n").split("END\n")]


def test_commands_run_in_their_order_with_their_variables_defined(calls: list[list[str]]) -> None:
    """A variable that nothing before has set, or a wrong call of our own scripts, would have ended them."""
    assert {program for program, *_ in calls} == set(PROGRAMS)
    releases = [call for call in calls if "7.deploy/release.py" in call]
    assert len(releases) > 5
    assert all("--stack" in call for call in releases), "without it, staging's shell would release to production"


CLIENT, OWN = {"configure", "s3"}, {("ecr", "get-login-password"), ("cloudformation", "deploy"), ("logs", "tail")}
OTHER_NAMES = {("sns", "notification-endpoint"): "endpoint"}
EVERYWHERE = {"query", "output", "cli-input-json"}


def test_aws_knows_each_operation_with_these_options(calls: list[list[str]]) -> None:
    """By AWS's own models of its services; all options that an operation requires are given."""
    session = botocore.session.get_session()
    checked = set()
    for _, service, *words in (call for call in calls if call[0] == "aws" and call[1] not in CLIENT):
        operation = words[1] if words[0] == "wait" else words[0]
        if (service, operation) in OWN:
            continue
        service = "s3" if service == "s3api" else service  # noqa: PLW2901
        model = session.get_service_model(service)
        named = {xform_name(name, "-"): name for name in model.operation_names}
        if words[0] == "wait":
            waiters = session.get_waiter_model(service)
            named = {xform_name(name, "-"): waiters.get_waiter(name).operation for name in waiters.waiter_names}
        assert operation in named, f"aws {service} {' '.join(words)}"
        shape = model.operation_model(named[operation]).input_shape
        known = {xform_name(name, "-") for name in shape.members}
        options = {word.removeprefix("--") for word in words if word.startswith("--")}
        given = {OTHER_NAMES.get((service, name), name) for name in options - EVERYWHERE}
        given = {name.removeprefix("no-") if name.removeprefix("no-") in known else name for name in given}
        assert given <= known, f"aws {service} {operation}: {given - known}"
        missing = {xform_name(name, "-") for name in shape.required_members} - given
        assert "cli-input-json" in options or not missing, f"aws {service} {operation} needs {missing}"
        checked.add((service, operation))
    assert len(checked) > 25


def test_only_the_public_zone_of_the_domain_is_taken(calls: list[list[str]]) -> None:
    """AWS lists the zones from the domain's name on: the first one may be of another domain."""
    (call,) = [call for call in calls if "list-hosted-zones-by-name" in call]
    query = call[call.index("--query") + 1]
    other, inner, own = (
        {"Id": f"/hostedzone/{name}", "Name": name, "Config": {"PrivateZone": name == "inner"}}
        for name in ("other.com.", "inner", "example.com.")
    )
    private = inner | {"Name": "example.com."}
    assert jmespath.search(query, {"HostedZones": [other]}) is None
    assert jmespath.search(query, {"HostedZones": [private, own, other]}) == "/hostedzone/example.com."


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
