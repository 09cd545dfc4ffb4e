"""Explanations: what each field adds to a row's log-odds, compared with reference rows.

Shapley values by sampled permutations (Castro, Gómez, Tejada, 2009, "Polynomial calculation of the Shapley value based
on sampling"; each permutation is also used in reverse, which halves the variance). Starting from a reference row, the
fields take the explained row's values one after the other, and each field is credited with the change at its step. The
credits add up exactly to the row's log-odds minus the mean of the reference rows'. For a model that is linear in the
fields they are exact, for others an estimate. Permutations and reference rows are fixed, so the result is reproducible.

Fields that a rule of the contract connects change together: a row that breaks a rule is not a valid input.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from credit_risk.contract import CONTRACT
from credit_risk.core.schema import Contract, Number

LogOdds = Callable[[Mapping[str, Any]], npt.NDArray[np.float64]]
PERMUTATIONS = 16  # eight, and the same in reverse: about 200 rows to score, 1 to 2 ms


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one field, or several that a rule connects, adds to a row's log-odds."""

    fields: tuple[str, ...]
    log_odds: Annotated[
        float, Field(description=f"Added to the log-odds of {CONTRACT.problem.event}; a negative value lowers the risk")
    ]


def field_groups(contract: Contract = CONTRACT) -> list[tuple[str, ...]]:
    """A contract's fields in groups: those that rules connect are in one, all others alone."""
    groups = [{name} for name in contract.field_names]
    for rule in contract.rules:
        connected = [group for group in groups if group & {rule.smaller, rule.larger}]
        groups = [group for group in groups if group not in connected] + [set().union(*connected)]
    order = {name: position for position, name in enumerate(contract.field_names)}
    return sorted((tuple(sorted(group, key=order.__getitem__)) for group in groups), key=lambda group: order[group[0]])


class Explainer:
    """Explains the predictions of one model against one set of reference rows."""

    def __init__(self, model: LogOdds, reference_rows: Sequence[Mapping[str, Any]]) -> None:
        """Draws the permutations and scores the reference rows.

        Args:
            model: log-odds, shape (n,), of n rows given as columns by field name.
            reference_rows: rows to compare with, at least one.
        """
        self._model = model
        self.groups = field_groups()
        half = PERMUTATIONS // 2
        random = np.random.default_rng(0)
        forward = np.array([random.permutation(len(self.groups)) for _ in range(half)])
        self._orders = np.concatenate([forward, forward[:, ::-1]])
        chosen = [reference_rows[index % len(reference_rows)] for index in range(half)] * 2
        self._reference_columns = {
            field.name: _column([row.get(field.name) for row in chosen], isinstance(field, Number))
            for field in CONTRACT.fields
        }
        self._reference_log_odds = model(self._reference_columns)
        self.reference = float(self._reference_log_odds.mean())
        # Whether a group has the explained row's values, by permutation, step and group.
        positions = np.argsort(self._orders, axis=1)
        steps = np.arange(1, len(self.groups))
        self._changed = positions[:, None, :] < steps[None, :, None]

    def explain(self, row: Mapping[str, Any]) -> list[Contribution]:
        """The contribution of each group of fields, the largest first.

        Their sum is the row's log-odds minus `reference`.
        """
        columns: dict[str, Any] = {}
        for number, group in enumerate(self.groups):
            for name in group:
                reference = self._reference_columns[name]
                own = _column([row.get(name)], reference.dtype != object)
                between = np.where(self._changed[:, :, number], own[0], reference[:, None]).ravel()
                columns[name] = np.concatenate([between, own])
        *between, end = self._model(columns).tolist()
        steps = np.reshape(between, self._changed.shape[:2])
        path = np.column_stack([self._reference_log_odds, steps, np.full(len(steps), end)])
        credits_ = np.zeros(len(self.groups))
        np.add.at(credits_, self._orders, np.diff(path, axis=1))
        credits_ /= len(path)
        found = [Contribution(group, float(value)) for group, value in zip(self.groups, credits_, strict=True)]
        return sorted(found, key=lambda contribution: -contribution.log_odds)


def _column(values: list[Any], number: bool) -> npt.NDArray[Any]:
    if number:
        return np.array([np.nan if value is None else value for value in values], np.float64)
    column = np.empty(len(values), object)
    column[:] = values
    return column
