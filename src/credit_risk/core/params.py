"""Loads params.yaml. Each section belongs to one script, which defines the section's model."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import relative, root


class Params(BaseModel):
    """Base class of every section: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Section = TypeVar("Section", bound=Params)


def path() -> Path:
    """The path of params.yaml."""
    return root() / "4.dvc_pipeline" / "params.yaml"


def load(section: str, model: type[Section]) -> Section:
    """Loads and validates one section of params.yaml.

    Raises:
        ProjectError: the file or section is missing, or a key is unknown, missing or out of range; names it.
    """
    try:
        return model.model_validate(raw(section))
    except ValidationError as error:
        # A misspelt key also leaves the right one missing: report the misspelling first.
        details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
        problems = []
        for detail in details:
            hint = detail["msg"].removeprefix("Value error, ")
            hint = "unknown key, check its spelling" if detail["type"] == "extra_forbidden" else hint
            problems.append(f"{'.'.join([section, *map(str, detail['loc'])])}: {hint}")
        raise ProjectError(f"{relative(path())}: {'; '.join(problems)}") from error


def raw(section: str) -> Any:
    """One section of params.yaml, not validated.

    Raises:
        ProjectError: the file or section is missing.
    """
    sections = read(path())
    if section not in sections:
        raise ProjectError(f"section '{section}' is missing from {relative(path())}; add it")
    if not isinstance(sections[section] or {}, dict):
        raise ProjectError(f"section '{section}' of {relative(path())} must have keys")
    return sections[section] or {}


def read(file: Path) -> dict[str, Any]:
    """All sections of a params file, not validated.

    Raises:
        ProjectError: the file is missing or is not YAML with sections.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ProjectError(f"{relative(file)} is missing") from error
    except yaml.YAMLError as error:
        raise ProjectError(f"{relative(file)} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ProjectError(f"{relative(file)} has no sections")
    return content
