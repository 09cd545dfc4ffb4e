"""Why this applicant's risk is higher than that of others: what each field adds to the log-odds of default.

Shapley values by sampled permutations (Castro, Gómez, Tejada, 2009, "Polynomial calculation of the Shapley value based
on sampling"; each permutation is also taken in reverse, which halves the noise): starting from a reference applicant,
the fields take the applicant's values one after the other, and each field is credited with what its step changes. The
credits add up to the applicant's log-odds less the references', exactly. For a model that is linear in the fields they
are exact themselves, for others an estimate; permutations and references are fixed, so it is always the same one.

Fields that a rule ties together change together: a guarantee above the loan is no applicant.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from credit_risk.contract import FIELDS, RULES, Number

LogOdds = Callable[[Mapping[str, Any]], npt.NDArray[np.float64]]
PERMUTATIONS = 16  # eight, and the same in reverse: 177 rows to score, between one and two milliseconds
MAX_REASONS = 4  # that a refusal names at most, as US lenders do (12 CFR 1002.9, official interpretation)
_SMALLEST = 1e-7  # probability; its log-odds are finite


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one field, or several that are tied together, adds to the log-odds of default."""

    fields: tuple[str, ...]
    log_odds: float


def log_odds(probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """ln(p / (1 - p)) of each probability, with 0 and 1 moved a little inwards."""
    inside = np.clip(np.asarray(probabilities, np.float64), _SMALLEST, 1 - _SMALLEST)
    odds: npt.NDArray[np.float64] = np.log(inside / (1 - inside))
    return odds


def tied_fields() -> list[tuple[str, ...]]:
    """The fields of the contract, those that a rule names in one group."""
    groups = [{field.name} for field in FIELDS]
    for rule in RULES:
        joined = [group for group in groups if group & {rule.smaller, rule.larger}]
        groups = [group for group in groups if group not in joined] + [set().union(*joined)]
    order = {field.name: place for place, field in enumerate(FIELDS)}
    return sorted((tuple(sorted(group, key=order.__getitem__)) for group in groups), key=lambda group: order[group[0]])


class Explainer:
    """Explains scores of one model against one reference population."""

    def __init__(self, model: LogOdds, references: Sequence[Mapping[str, Any]], seed: int = 0) -> None:
        """Draws the permutations.

        Args:
            model: log-odds of default, shape (n,), of n applications given as columns by field name.
            references: applications to compare with, at least one.
            seed: of the permutations.
        """
        self._model = model
        self.groups = tied_fields()
        half = PERMUTATIONS // 2
        random = np.random.default_rng(seed)
        forward = np.array([random.permutation(len(self.groups)) for _ in range(half)])
        self._orders = np.concatenate([forward, forward[:, ::-1]])
        chosen = [references[index % len(references)] for index in range(half)] * 2
        self._references = {
            field.name: _column([row.get(field.name) for row in chosen], isinstance(field, Number)) for field in FIELDS
        }
        self._reference_log_odds = model(self._references)
        self.reference = float(self._reference_log_odds.mean())
        # Whether a group has taken the applicant's values, by permutation, step and group.
        places = np.argsort(self._orders, axis=1)
        steps = np.arange(1, len(self.groups))
        self._taken = places[:, None, :] < steps[None, :, None]

    def explain(self, application: Mapping[str, Any]) -> list[Contribution]:
        """What each field, or group of tied fields, adds; the largest first.

        They add up to the application's log-odds less `reference`.
        """
        rows: dict[str, Any] = {}
        for number, group in enumerate(self.groups):
            for name in group:
                references = self._references[name]
                own = _column([application.get(name)], references.dtype != object)
                between = np.where(self._taken[:, :, number], own[0], references[:, None]).ravel()
                rows[name] = np.concatenate([between, own])
        *between, end = self._model(rows).tolist()
        steps = np.reshape(between, self._taken.shape[:2])
        path = np.column_stack([self._reference_log_odds, steps, np.full(len(steps), end)])
        credit = np.zeros(len(self.groups))
        np.add.at(credit, self._orders, np.diff(path, axis=1))
        credit /= len(path)
        found = [Contribution(group, float(value)) for group, value in zip(self.groups, credit, strict=True)]
        return sorted(found, key=lambda contribution: -contribution.log_odds)


def _column(values: list[Any], number: bool) -> npt.NDArray[Any]:
    if number:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    column = np.empty(len(values), object)
    column[:] = values
    return column
