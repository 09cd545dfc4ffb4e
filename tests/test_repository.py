"""What a repository that people start from has beside its code."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from projects import REPOSITORY

CI = (REPOSITORY / ".ci" / "run").read_text()
YAML = sorted([*REPOSITORY.glob(".github/**/*.yml"), REPOSITORY / ".pre-commit-config.yaml"])


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_each_hook_before_a_commit_is_a_command_of_the_check() -> None:
    (local,) = load(REPOSITORY / ".pre-commit-config.yaml")["repos"]
    commands = [hook["entry"] for hook in local["hooks"]]
    assert len(commands) >= 5
    assert [command for command in commands if command not in CI] == []


def test_licence_is_named_alike_everywhere() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert (REPOSITORY / "LICENSE").read_text().startswith("MIT License")
    assert project["license"] == "MIT"
    assert 'licenses="MIT"' in (REPOSITORY / "7.deploy" / "Dockerfile").read_text()


def test_changelog_keeps_its_form() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", heading) for heading in headings[1:])
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert headings[1].startswith(f"[{version}] - ")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_every_file_for_github_can_be_read(path: Path) -> None:
    assert load(path)


def test_a_model_change_is_asked_for_data_metrics_and_verdict() -> None:
    template = (REPOSITORY / ".github" / "pull_request_template.md").read_text().lower()
    issue = (REPOSITORY / ".github" / "ISSUE_TEMPLATE" / "model_change.yml").read_text().lower()
    for text in (template, issue):
        assert [word for word in ("data", "metrics", "verdict", "retrain_summary.py") if word not in text] == []
