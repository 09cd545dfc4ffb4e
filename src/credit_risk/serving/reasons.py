"""Reasons for a prediction as sentences, in the words of contract and features.

A reason is a field, or several that a rule connects, that raises the risk (`explanations.py`). The sentence has the
row's value and the typical one of reference rows that the model accepts, which travel with the model. Of connected
fields, and of the features that are computed from them alone, it names the quantity whose value is the least usual.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median, mode
from typing import Any

from credit_risk.contract import CONTRACT
from credit_risk.core.feature_set import CODE, FLAG, FeatureSet
from credit_risk.core.schema import Choice, Contract, Name, Number
from credit_risk.features import FEATURES

Row = Mapping[str, Any]
UNIT_OF_SHARES = "share"  # first word of a unit; shares are shown in percent
NO_UNITS = {CODE, FLAG, ""}
LARGE = 100  # from here on, a number is shown without decimals


@dataclass(frozen=True, slots=True)
class _Quantity:
    """A number that a reason may name: a field, or a feature that is computed from connected fields."""

    name: str
    unit: str
    value: Callable[[Row], float | None]
    typical: tuple[float, ...]  # known values of the reference rows, ascending

    def rank(self, value: float) -> float:
        """The share of the reference rows that have a lower value; equal ones count half."""
        places = bisect_left(self.typical, value) + bisect_right(self.typical, value)
        return places / 2 / len(self.typical) if self.typical else 0.5


class Reasons:
    """Words the reasons for predictions of one model."""

    def __init__(
        self, accepted_rows: Sequence[Row], contract: Contract = CONTRACT, features: FeatureSet = FEATURES
    ) -> None:
        """Takes rows that the model accepts, at least one: typical is what these have."""
        self._rows, self._contract, self._features = accepted_rows, contract, features
        self._quantities: dict[tuple[str, ...], list[_Quantity]] = {}  # filled when first needed, as the next one
        self._commonest: dict[str, Any] = {}

    def may_name(self, fields: Sequence[str]) -> bool:
        """Whether connected fields may be named as a reason."""
        return all(self._contract.field(name).reason for name in fields)

    def sentence(self, fields: tuple[str, ...], row: Row) -> str:
        """What is unusual about a row's values of connected fields."""
        field = self._contract.field(fields[0])
        if len(fields) == 1 and not isinstance(field, Number):
            return self._of_word(field, row)
        if fields not in self._quantities:
            self._quantities[fields] = self._named(fields)
        known = [
            (quantity, value) for quantity in self._quantities[fields] if (value := quantity.value(row)) is not None
        ]
        if not known:
            return f"{self._contract.label(fields[0])} is not known"
        quantity, value = max(known, key=lambda pair: abs(pair[0].rank(pair[1]) - 0.5))
        label, shown = self._contract.label(quantity.name), shown_value(value, quantity.unit)
        if quantity.unit == CODE or not quantity.typical or value == median(quantity.typical):
            return f"{label} is {shown}"
        usual = median(quantity.typical)
        high_or_low = "high" if value > usual else "low"
        return f"{label} is {high_or_low}: {shown}; {self._accepted} typically have {shown_value(usual, quantity.unit)}"

    @property
    def _accepted(self) -> str:
        return f"{self._contract.problem.accepted} {self._contract.problem.rows}"

    def _of_word(self, field: Choice | Name, row: Row) -> str:
        label, word = self._contract.label(field.name), row.get(field.name)
        if field.name not in self._commonest:
            known = [each[field.name] for each in self._rows if each.get(field.name) is not None]
            self._commonest[field.name] = mode(known) if known and isinstance(field, Choice) else None
        usual = self._commonest[field.name]
        sentence = f"{label} is {'not known' if word is None else word}"
        return sentence if usual in {word, None} else f"{sentence}; {self._accepted} most often have {usual}"

    def _named(self, fields: tuple[str, ...]) -> list[_Quantity]:
        found = [self._quantity(name, field.unit, _reader(name)) for name in fields if (field := self._number(name))]
        for number, feature in enumerate(self._features):
            used = self._features.fields_of(feature)
            if len(used) > 1 and used <= set(fields) and feature.unit != FLAG:
                found.append(self._quantity(feature.name, feature.unit, self._computed(number)))
        return found

    def _number(self, name: str) -> Number | None:
        field = self._contract.field(name)
        return field if isinstance(field, Number) else None

    def _computed(self, number: int) -> Callable[[Row], float | None]:
        def value(row: Row) -> float | None:
            computed = self._features.row_values(row)[number]
            return None if computed != computed else computed  # noqa: PLR0124 (NaN: it can't be computed)

        return value

    def _quantity(self, name: str, unit: str, value: Callable[[Row], float | None]) -> _Quantity:
        known = [found for row in self._rows if (found := value(row)) is not None]
        return _Quantity(name, unit, value, tuple(sorted(known)))


def _reader(name: str) -> Callable[[Row], float | None]:
    return lambda row: row.get(name)


def shown_value(value: float, unit: str) -> str:
    """A number as people write it, with its unit."""
    if unit.partition(" ")[0] == UNIT_OF_SHARES:
        return f"{value:.0%}"
    if unit == CODE:
        return f"{value:.0f}"
    number = f"{value:,.0f}" if abs(value) >= LARGE or value == round(value) else f"{value:,.3g}"
    return number if unit in NO_UNITS else f"{number} {unit}"
