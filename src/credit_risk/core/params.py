"""Loading one section of params.yaml into its model. Each section's model stands in the script that uses it."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import relative, root


class Params(BaseModel):
    """Base of every section: frozen, and a misspelt key fails by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Section = TypeVar("Section", bound=Params)


def path() -> Path:
    """Where params.yaml is."""
    return root() / "4.dvc_pipeline" / "params.yaml"


def load(section: str, model: type[Section]) -> Section:
    """Loads and checks one section of params.yaml.

    Raises:
        ProjectError: the file or section is missing, or a key is unknown, missing or out of range; names it.
    """
    where = relative(path())
    content = read(path())
    if section not in content:
        raise ProjectError(f"section '{section}' is missing from {where}; add it")
    try:
        return model.model_validate(content[section] or {})
    except ValidationError as error:
        # A misspelt key also leaves the right one missing: say the misspelling first.
        details = sorted(error.errors(include_url=False), key=lambda detail: detail["type"] != "extra_forbidden")
        problems = []
        for detail in details:
            hint = detail["msg"].removeprefix("Value error, ")
            hint = "unknown key, check its spelling" if detail["type"] == "extra_forbidden" else hint
            problems.append(f"{'.'.join([section, *map(str, detail['loc'])])}: {hint}")
        raise ProjectError(f"{where}: {'; '.join(problems)}") from error


def read(file: Path) -> dict[str, Any]:
    """All sections, unchecked.

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
