"""Explainer: exact for a linear model, they add up for any, and nothing irrelevant moves them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from servers import EXAMPLE

from credit_risk.contract import FIELDS, Choice, Number
from credit_risk.serving.explanations import PERMUTATIONS, Explainer, log_odds, tied_fields

NUMBERS = [field for field in FIELDS if isinstance(field, Number) and field.required]
WEIGHTS = {field.name: (index + 1) / field.maximum for index, field in enumerate(NUMBERS)}


def applicants(count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(3)
    rows = []
    for _ in range(count):
        row = dict(EXAMPLE)
        for field in NUMBERS:
            row[field.name] = float(random.integers(field.minimum, field.maximum))
        rows.append(row)
    return rows


def linear(columns: Mapping[str, Any]) -> Any:
    """Numbers by their weights, and one choice."""
    total = sum(weight * np.asarray(columns[name], float) for name, weight in WEIGHTS.items())
    return total + 0.5 * (np.asarray(columns["low_doc"], object) == "yes")


def crossed(columns: Mapping[str, Any]) -> Any:
    """A model in which fields act together."""
    return linear(columns) * (1 + (np.asarray(columns["state"], object) == "CA"))


def by_fields(reasons: Explainer, row: dict[str, Any]) -> dict[tuple[str, ...], float]:
    return {contribution.fields: contribution.log_odds for contribution in reasons.explain(row)}


def test_a_linear_model_is_explained_exactly() -> None:
    references, (applicant,) = applicants(PERMUTATIONS // 2), [EXAMPLE | {"low_doc": "yes", "employees": 9000.0}]
    found = by_fields(Explainer(linear, references), applicant)
    for group in tied_fields():
        weights = {name: WEIGHTS.get(name, 0.0) for name in group}
        expected = sum(
            weight * (applicant[name] - np.mean([row[name] for row in references]))
            for name, weight in weights.items()
            if weight
        )
        expected += 0.5 if group == ("low_doc",) else 0.0
        assert found[group] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("model", [linear, crossed])
def test_reasons_add_up_to_the_difference_of_scores(model: Any) -> None:
    reasons = Explainer(model, applicants(5))
    for row in applicants(20):
        total = sum(by_fields(reasons, row).values())
        own = model(
            {name: np.array([value], object if isinstance(value, str) else float) for name, value in row.items()}
        )
        assert total + reasons.reference == pytest.approx(float(own[0]), abs=1e-9)


def test_what_the_model_does_not_look_at_changes_nothing() -> None:
    reasons = Explainer(crossed, applicants(5))
    before = by_fields(reasons, EXAMPLE)
    after = by_fields(reasons, EXAMPLE | {"urban_rural": None, "naics": 111110.0, "jobs_created": None})
    assert before == after
    assert before["urban_rural",] == before["naics",] == 0.0


def test_the_largest_reason_stands_first_and_the_same_is_said_again() -> None:
    first, again = (Explainer(linear, applicants(5)).explain(EXAMPLE) for _ in range(2))
    assert first == again
    values = [contribution.log_odds for contribution in first]
    assert values == sorted(values, reverse=True)


def test_fields_that_a_rule_ties_together_are_one() -> None:
    assert ("gross_approved", "sba_guaranteed") in tied_fields()
    assert sorted(name for group in tied_fields() for name in group) == sorted(field.name for field in FIELDS)


def test_missing_values_are_values() -> None:
    row = EXAMPLE | {field.name: None for field in FIELDS if isinstance(field, Choice) and not field.required}
    assert all(np.isfinite(value) for value in by_fields(Explainer(linear, [row]), EXAMPLE).values())


def test_log_odds_are_finite() -> None:
    assert np.isfinite(log_odds([0.0, 1.0])).all()
    assert log_odds(0.5) == 0
