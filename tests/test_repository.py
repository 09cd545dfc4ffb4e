"""What a repository that people start from has beside its code."""

import re
import tomllib
from typing import Any

import yaml
from projects import REPOSITORY

CI = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def load(*parts: str) -> Any:
    return yaml.safe_load(REPOSITORY.joinpath(*parts).read_text(encoding="utf-8"))


def test_each_hook_before_a_commit_is_a_command_of_the_check() -> None:
    (local,) = load(".pre-commit-config.yaml")["repos"]
    commands = [hook["entry"] for hook in local["hooks"]]
    assert len(commands) >= 5
    assert [command for command in commands if command not in CI] == []


def test_each_marker_is_run_by_the_check() -> None:
    markers = [marker.partition(":")[0] for marker in PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]]
    selections = " ".join(re.findall(r'run_pytest -m ["\']?([^\n]+)', CI))
    selecting = [name for name in markers if "(" not in name]  # fault(…) has arguments and selects nothing
    assert [name for name in selecting if name not in selections and name != "integration"] == []
    assert PYPROJECT["tool"]["coverage"]["report"]["fail_under"] >= 90
    assert "--cov" in CI


def test_each_dependency_has_its_reason() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    listed = [
        *PYPROJECT["project"]["dependencies"],
        *(name for group in PYPROJECT["dependency-groups"].values() for name in group),
    ]
    for requirement in listed:
        assert re.search(rf'^\s*"{re.escape(requirement)}", +# \w', text, re.MULTILINE), requirement


def test_licence_is_the_same_everywhere() -> None:
    assert (REPOSITORY / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    assert PYPROJECT["project"]["license"] == "MIT"
    assert 'licenses="MIT"' in (REPOSITORY / "7.deploy" / "Dockerfile").read_text(encoding="utf-8")


def test_changelog_has_its_form() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", heading) for heading in headings[1:])
    assert headings[1].startswith(f"[{PYPROJECT['project']['version']}] - ")
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds


def test_the_lock_file_has_hashes_and_names_no_host() -> None:
    lock = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in lock
    assert "--hash=sha256:" in lock
    assert "uv.lock" in (REPOSITORY / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_forms_of_github_have_fields() -> None:
    for path in (REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        if path.name != "config.yml":
            form = load(".github", "ISSUE_TEMPLATE", path.name)
            assert form["name"]
            assert all(field.get("attributes") for field in form["body"])


def test_a_model_change_is_described_by_data_metrics_and_gate_result() -> None:
    template = (REPOSITORY / ".github" / "pull_request_template.md").read_text(encoding="utf-8").lower()
    issue = (REPOSITORY / ".github" / "ISSUE_TEMPLATE" / "model_change.yml").read_text(encoding="utf-8").lower()
    for text in (template, issue):
        assert [word for word in ("data", "metrics", "gate", "retrain_summary.py") if word not in text] == []
