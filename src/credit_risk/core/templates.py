"""Renders the templates of pages: the report, the model card and the gate's comparison."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from credit_risk.core.files import replacing


def write(template: Path, target: Path, context: Mapping[str, Any]) -> None:
    """Renders a template into a file; values are escaped when the file is HTML.

    The filters `words`, `percent` and `figure` are the functions below.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=target.suffix == ".html",  # noqa: S701 (Markdown is not HTML)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"words": words, "percent": percent, "figure": figure}
    with replacing(target) as temporary:
        temporary.write_text(environment.get_template(template.name).render(context) + "\n", encoding="utf-8")


def words(name: str) -> str:
    """A name of the code with spaces, as people write it."""
    return name.replace("_", " ")


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{share:.1%}"


def figure(value: float, digits: int = 3) -> str:
    """A number with a fixed count of decimals, without the sign of -0."""
    return f"{value:.{digits}f}".replace("-0." + "0" * digits, "0." + "0" * digits)
