"""Declarations as Python source, laid out as `ruff format` does."""

import dataclasses
import json
import textwrap
from collections.abc import Mapping
from typing import Any

WIDTH = 120
INDENT = "    "
GROUPED = 10_000  # from here on, digits are written in groups
EXACT = 1e15  # from here on, not every whole number is a float


class Source(str):
    """An expression, which is written as it is."""

    __slots__ = ()


def literal(value: Any, depth: int = 0, *, before: int = 0) -> str:
    """The source of a value: text, number, tuple, mapping, or a declaration of `core/schema.py`.

    Arguments of a declaration that have their default are left out.

    Args:
        value: what is written.
        depth: levels of indentation of the line on which it begins.
        before: characters on that line before it, without the indentation; a comma follows it.
    """
    if isinstance(value, str):
        return value if isinstance(value, Source) else text(value)
    room = WIDTH - len(INDENT) * depth - before - len(",")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [(f"{name}=", each) for name, each in _arguments(value)]
        return _bracketed(f"{type(value).__name__}(", parts, ")", depth, room)
    if isinstance(value, Mapping):
        return _bracketed("{", [(f"{literal(key)}: ", each) for key, each in value.items()], "}", depth, room)
    if not isinstance(value, tuple | frozenset):
        return number(value)
    unordered = isinstance(value, frozenset)
    opening, closing = ("frozenset({", "})") if unordered else ("(", ",)" if len(value) == 1 else ")")
    items = sorted(value) if unordered else value
    return _bracketed(opening, [("", each) for each in items], closing, depth, room)


def filled(words: tuple[str, ...]) -> str:
    """A long tuple of texts on full lines, which the formatter would write one below the other."""
    lines = textwrap.wrap(
        ", ".join(text(word).replace(" ", "\0") for word in words) + ",",
        WIDTH - len(INDENT),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(["(", *(INDENT + line.replace("\0", " ") for line in lines), ")  # fmt: skip"])


def text(value: str) -> str:
    """A text in the quotes that need fewer escapes."""
    if '"' in value and "'" not in value and value.isprintable() and "\\" not in value:
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=False)


def number(value: Any) -> str:
    """A number (or None or a truth value) as people write it: whole where it is whole, with groups of digits."""
    if isinstance(value, bool) or value is None or value != round(value) or abs(value) >= EXACT:
        return repr(value)
    return f"{int(value):_}" if abs(value) >= GROUPED else f"{int(value)}"


def _arguments(value: Any) -> list[tuple[str, Any]]:
    found = []
    for each in dataclasses.fields(value):
        default = each.default_factory() if each.default_factory is not dataclasses.MISSING else each.default
        if (current := getattr(value, each.name)) != default:
            found.append((each.name, current))
    return found


def _bracketed(opening: str, parts: list[tuple[str, Any]], closing: str, depth: int, room: int) -> str:
    """On one line; else, for a call, its arguments on a line of their own; else each part on a line."""
    inside = ", ".join(f"{name}{literal(value)}" for name, value in parts)
    if "\n" not in inside and len(opening + inside + closing) <= room:
        return f"{opening}{inside}{closing}"
    outer, inner = INDENT * depth, INDENT * (depth + 1)
    if opening not in ("(", "{") and "\n" not in inside and len(inner + inside) <= WIDTH:
        return f"{opening}\n{inner}{inside}\n{outer}{closing}"
    lines = [f"{inner}{name}{literal(value, depth + 1, before=len(name))},\n" for name, value in parts]
    return f"{opening}\n{''.join(lines)}{outer}{closing.removeprefix(',')}"
