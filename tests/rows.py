"""Rows for tests, generated from the contract: they fit whatever problem it declares."""

import random
from typing import Any

from hypothesis import strategies as st

from credit_risk.contract import CONTRACT
from credit_risk.core.schema import Choice, Field, Name, Number

Row = dict[str, Any]
MISSING_SHARE = 0.2  # of the values of an optional field


def example_row(**changes: Any) -> Row:
    """The contract's example, with some fields changed."""
    return CONTRACT.example | changes


def valid_rows(count: int, seed: int = 0) -> list[Row]:
    """Valid rows, the same for the same seed: each number spread over its range, optional fields sometimes missing."""
    source = random.Random(seed)  # noqa: S311 (no secret)
    return [keep_rules({field.name: _value(field, source) for field in CONTRACT.fields}) for _ in range(count)]


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    """Rows as columns, by field name."""
    return {name: [row[name] for row in rows] for name in CONTRACT.field_names}


def rows() -> st.SearchStrategy[Row]:
    """Hypothesis strategy: valid rows, minimum, maximum and missing values among them."""
    return st.fixed_dictionaries({field.name: values(field) for field in CONTRACT.fields}).map(keep_rules)


def values(field: Field) -> st.SearchStrategy[Any]:
    """Hypothesis strategy: what a field accepts, None included if it is optional."""
    valid: st.SearchStrategy[Any]
    if isinstance(field, Choice):
        valid = st.sampled_from(field.choices)
    elif isinstance(field, Name):
        valid = st.text(max_size=field.max_length).filter(field.accepts)
    elif field.whole:
        valid = st.integers(int(field.minimum), int(field.maximum)).map(float)
    else:
        valid = st.floats(field.minimum, field.maximum)
    return valid if field.required else st.none() | valid


def invalid_values(field: Field) -> list[Any]:
    """Values that a field rejects: wrong types, beyond its range, not among its choices, None if it is required."""
    wrong: list[Any] = [True, [], {}, "?" if isinstance(field, Name) else "no such value"]
    if isinstance(field, Number):
        wrong += [field.minimum - 1, field.maximum + 1]
        wrong += [field.minimum + 0.5] if field.whole else []
    elif isinstance(field, Choice):
        wrong += [7.0, f"{field.choices[0]} "]
    else:
        wrong += [7.0, "x" * (field.max_length + 1)]
    return [*wrong, None] if field.required else wrong


def keep_rules(row: Row) -> Row:
    """The row, with the rules between its fields kept."""
    row = dict(row)
    for _ in CONTRACT.rules:  # a change for one rule may break another
        for rule in CONTRACT.rules:
            smaller, larger = row[rule.smaller], row[rule.larger]
            if smaller > larger:
                if CONTRACT.field(rule.smaller).accepts(larger):
                    row[rule.smaller] = larger
                else:
                    row[rule.larger] = smaller
    return row


def _value(field: Field, source: random.Random) -> Any:
    if not field.required and source.random() < MISSING_SHARE:
        return None
    if isinstance(field, Choice):
        return source.choice(field.choices)
    if isinstance(field, Name):
        return f"{field.example or 'name'} {source.randrange(20)}"[-field.max_length :]
    if field.whole:
        return float(source.randint(int(field.minimum), int(field.maximum)))
    return source.uniform(field.minimum, field.maximum)
