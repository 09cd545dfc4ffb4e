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


def reason_column(names: Iterable[str]) -> str:
    """A name for the column with the reasons of rejected rows: `reason`, with underscores if the source has that."""
    name, taken = "reason", set(names)
    while name in taken:
        name += "_"
    return name


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))
