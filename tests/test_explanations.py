"""Explainer: exact for a linear model, contributions add up for any, and unused fields contribute nothing."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from rows import valid_rows
from servers import EXAMPLE

from credit_risk.contract import CONTRACT
from credit_risk.core.arrays import log_odds
from credit_risk.core.schema import Choice, Contract, NotAbove, Number
from credit_risk.serving.explanations import PERMUTATIONS, Explainer, field_groups

WEIGHTS = {number.name: (index + 1) / (number.maximum or 1) for index, number in enumerate(CONTRACT.numbers)}
ROWS = valid_rows(40, seed=3)


def contribution(name: str, values: Any) -> Any:
    """What a field adds in the linear model: a weight times a number, or 0.5 for one word."""
    field = CONTRACT.field(name)
    if isinstance(field, Number):
        return WEIGHTS[name] * np.nan_to_num(np.array(values, float))
    word = field.choices[0] if isinstance(field, Choice) else ROWS[0][name]
    return 0.5 * (np.array(values, object) == word)


def linear(columns: Mapping[str, Any]) -> Any:
    return sum(contribution(name, columns[name]) for name in CONTRACT.field_names)


def crossed(columns: Mapping[str, Any]) -> Any:
    """A model in which fields interact."""
    first, last = CONTRACT.field_names[0], CONTRACT.field_names[-1]
    return linear(columns) * (1 + contribution(first, columns[first]) * contribution(last, columns[last]))


def by_group(explainer: Explainer, row: dict[str, Any]) -> dict[tuple[str, ...], float]:
    return {found.fields: found.log_odds for found in explainer.explain(row)}


def test_a_linear_model_is_explained_exactly() -> None:
    references, row = ROWS[: PERMUTATIONS // 2], ROWS[-1]
    found = by_group(Explainer(linear, references), row)
    for group in field_groups():
        expected = sum(
            contribution(name, [row[name]])[0] - np.mean([contribution(name, [it[name]])[0] for it in references])
            for name in group
        )
        assert found[group] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("model", [linear, crossed])
def test_contributions_add_up_to_the_difference_of_log_odds(model: Any) -> None:
    explainer = Explainer(model, ROWS[:5])
    for row in ROWS[5:]:
        own = model({name: [value] for name, value in row.items()})
        assert sum(by_group(explainer, row).values()) + explainer.reference == pytest.approx(float(own[0]), abs=1e-9)


def test_fields_that_the_model_does_not_use_contribute_nothing() -> None:
    used, *unused = field_groups()
    explainer = Explainer(lambda columns: sum(contribution(name, columns[name]) for name in used), ROWS[:5])
    for row in ROWS[5:10]:
        before = by_group(explainer, row)
        assert [before[group] for group in unused] == [0.0] * len(unused)
        changed = row | {name: ROWS[-1][name] for group in unused for name in group}
        assert by_group(explainer, changed) == before


def test_the_largest_contribution_comes_first_and_the_result_is_reproducible() -> None:
    first, again = (Explainer(linear, ROWS[:5]).explain(EXAMPLE) for _ in range(2))
    assert first == again
    values = [found.log_odds for found in first]
    assert values == sorted(values, reverse=True)


def test_fields_that_rules_connect_form_one_group() -> None:
    numbers = tuple(
        Number(name=name, column=name, unit="1", minimum=0, maximum=1, description=name, example=0) for name in "abcde"
    )
    rules = (NotAbove("a", "c"), NotAbove("c", "e"))
    contract = Contract(problem=CONTRACT.problem, target=CONTRACT.target, fields=numbers, rules=rules)
    assert field_groups(contract) == [("a", "c", "e"), ("b",), ("d",)]
    assert sorted(name for group in field_groups() for name in group) == sorted(CONTRACT.field_names)


def test_missing_values_are_explained() -> None:
    missing = EXAMPLE | {field.name: None for field in CONTRACT.fields if not field.required}
    for reference, row in ((missing, EXAMPLE), (EXAMPLE, missing)):
        assert all(np.isfinite(value) for value in by_group(Explainer(linear, [reference]), row).values())


def test_log_odds_are_finite() -> None:
    assert np.isfinite(log_odds([0.0, 1.0])).all()
    assert log_odds(0.5) == 0
