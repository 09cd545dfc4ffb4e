"""Names of columns: those that are spelt in another way than expected, that are none, and that are still free."""

from collections.abc import Iterable


def respelt(given: Iterable[str], expected: Iterable[str]) -> dict[str, str]:
    """Expected names that are missing, each with a given name that differs in case, blanks or punctuation only."""
    given, expected = set(given), set(expected)
    others = {_letters(name): name for name in sorted(given - expected)}
    return {name: others[_letters(name)] for name in sorted(expected - given) if _letters(name) in others}


def nameless(names: list[str]) -> str | None:
    """What is wrong with a column that has no name of its own: one clause, or None."""
    for number, name in enumerate(names, start=1):
        if not name.strip() or name.startswith("__index_level_"):
            return f"has no name for column {number}; pandas writes its index so: save the file with index=False"
    return None


def unused(name: str, names: Iterable[str]) -> str:
    """A name that is none of the given ones: with underscores behind it, as many as it takes."""
    taken = set(names)
    while name in taken:
        name += "_"
    return name


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))
