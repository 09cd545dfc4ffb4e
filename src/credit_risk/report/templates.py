"""Filling in the templates of pages for people: the report, the model card and the gate's comparison."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from credit_risk.core.files import replacing


def write(template: Path, target: Path, facts: Mapping[str, Any]) -> None:
    """Renders a template into a file; in HTML what is filled in is escaped."""
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=target.suffix == ".html",  # noqa: S701 (Markdown is no HTML)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"words": words, "percent": percent, "figure": figure}
    with replacing(target) as temporary:
        temporary.write_text(environment.get_template(template.name).render(facts) + "\n", encoding="utf-8")


def words(name: str) -> str:
    """A name of the code as people write it."""
    return name.replace("_", " ")


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{share:.1%}"


def figure(value: float, digits: int = 3) -> str:
    """A figure with so many digits, never -0."""
    return f"{value:.{digits}f}".replace("-0." + "0" * digits, "0." + "0" * digits)
