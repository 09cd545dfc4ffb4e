"""The engine behind `features.py`: features of a data frame, of one row, and of many rows, with the same bits.

Arithmetic is in float64 and rounded to float32 once at the end. A missing number is NaN; a result that is not finite,
such as a division by zero, becomes NaN. A choice is seen by formulas as its category code: the position of the word in
the contract's list, MISSING or UNSEEN. A name with an open vocabulary is seen as its code (`core/names.py`) or MISSING.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from credit_risk.core.errors import ProjectError
from credit_risk.core.formulas import compile_formula, compile_together, names_in, parse
from credit_risk.core.names import name_code
from credit_risk.core.schema import DATE, OUTCOME, ROW_ID, Choice, Contract, Number

MISSING = -1.0  # category code of a missing word
UNSEEN = -2.0  # category code of a word that the contract does not list
FLAG = "1 or 0"  # unit of a feature that is true or false
CODE = "code"  # unit of a category
WORDS_OF_FLAG = {1.0: "yes", 0.0: "no"}

FloatArray = npt.NDArray[np.float32]
_NAN = float("nan")
FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Feature:
    """One input of the model.

    Attributes:
        name: unique among the features.
        unit: what one means; FLAG for a feature that is true or false, CODE for a category.
        reason: why the feature is there.
        formula: expression over field names (see formulas.py); empty for the field of the feature's own name.
        categories: for a category that is computed from a number, the numbers in the order of their codes.
        direction: 1 if a higher value should never lower the predicted probability, -1 if it should never raise it; a
            later word of a category is higher, and a missing one the lowest. Trees keep it with `train.monotonic`.
    """

    name: str
    unit: str
    reason: str
    formula: str = ""
    categories: tuple[float, ...] = ()
    direction: Literal[-1, 0, 1] = 0


@dataclass(frozen=True, slots=True)
class Slice:
    """A grouping of rows by one feature, for which the report shows figures of their own.

    Attributes:
        name: of the grouping.
        feature: the feature it looks at. A category or flag is grouped by its words.
        edges: for a number, the upper bounds of all groups but the last, ascending; a bound belongs to its group.
        labels: names of the groups, one more than edges.
    """

    name: str
    feature: str
    edges: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WhatIf:
    """A change of a row that should lower the risk, other things equal.

    Attributes:
        change: the change in words.
        fields: by field name the new value: a formula over number fields, or a word of another field.
    """

    change: str
    fields: Mapping[str, str]


class _Codes(dict[Any, float]):
    """Category codes by word."""

    def __missing__(self, word: Any) -> float:
        # Pandas' missing word is NaN, which is unequal to itself.
        return UNSEEN if word == word else MISSING  # noqa: PLR0124


class _NameCodes:
    """Codes of names with an open vocabulary."""

    def __getitem__(self, name: Any) -> float:
        if isinstance(name, str):
            return name_code(name)
        return UNSEEN if name is not None and name == name else MISSING  # noqa: PLR0124 (as above)


class FeatureSet:
    """The features of a contract's rows, in their order."""

    def __init__(
        self,
        contract: Contract,
        features: Sequence[Feature],
        *,
        slices: Sequence[Slice] = (),
        what_ifs: Sequence[WhatIf] = (),
        batch_order: Sequence[str] = (),
    ) -> None:
        """Checks the declarations and compiles the formulas.

        Args:
            contract: declares the fields that formulas may use.
            features: in the order of the model's columns.
            slices: groupings of the report.
            what_ifs: changes of the report.
            batch_order: features by which batches are sorted before scoring, the most important first. Similar rows
                next to each other take the same branches in most trees, which is faster; scores do not depend on it.

        Raises:
            ProjectError: names the declaration that is wrong, and why.
        """
        self._contract = contract
        self._features = tuple(features)
        self.names = tuple(feature.name for feature in features)
        self._words = {feature.name: words for feature in features if (words := _words_by_code(contract, feature))}
        self.flags = tuple(feature.name for feature in features if feature.unit == FLAG)
        self.categorical = tuple(name for name in self.names if name in self._words and name not in self.flags)
        self.open_names = tuple(feature.name for feature in features if _is_open(contract, feature))
        self.slices, self.what_ifs = tuple(slices), tuple(what_ifs)
        self._codes: dict[str, _Codes | _NameCodes] = {
            choice.name: _Codes({None: MISSING} | {word: float(code) for code, word in enumerate(choice.choices)})
            for choice in contract.choices
        }
        self._codes |= {name.name: _NameCodes() for name in contract.open_names}
        self._number_names = tuple(number.name for number in contract.numbers)
        self._categories = {
            feature.name: _Codes({value: float(code) for code, value in enumerate(feature.categories)})
            for feature in features
            if feature.categories
        }
        allowed = [field.name for field in contract.fields if not field.protected]
        parsed = {f.name: parse(f.formula or f.name, allowed, f"feature '{f.name}'") for f in features}
        self._uses = {name: names_in(tree) for name, tree in parsed.items()}
        self._compute = compile_together(parsed, self._categories)
        if problem := next(self._problems(batch_order), None):
            raise ProjectError(f"features.py: {problem}")
        self.batch_order = [self.names.index(name) for name in reversed(batch_order)]

    def _problems(self, batch_order: Sequence[str]) -> Iterator[str]:
        """What is wrong with the declarations, apart from formulas of features."""
        if doubled := sorted({name for name in self.names if self.names.count(name) > 1}):
            yield f"feature '{doubled[0]}' is declared twice"
        if taken := [name for name in (ROW_ID, DATE, OUTCOME, "probability") if name in self.names]:
            yield f"feature '{taken[0]}' has the name of another column of the files"
        for name in [*batch_order, *(each.feature for each in self.slices)]:
            if name not in self.names:
                yield f"batch_order or a slice names '{name}', which is not a feature"
        for each in self.slices:
            if each.feature in self.open_names:
                yield f"slice '{each.name}': '{each.feature}' has too many values to be grouped"
            if bool(each.edges) == (each.feature in self._words) or len(each.labels) not in (0, len(each.edges) + 1):
                yield f"slice '{each.name}': a number needs edges and one label more, a category neither"
        for what_if in self.what_ifs:
            yield from self._what_if_problems(what_if)

    def _what_if_problems(self, what_if: WhatIf) -> Iterator[str]:
        where = f"what-if '{what_if.change}'"
        for name, change in what_if.fields.items():
            if name not in self._contract.field_names:
                yield f"{where} changes '{name}', which is not a field"
                return
            field = self._contract.field(name)
            if isinstance(field, Number):
                compile_formula(change, self._number_names, where)
            elif not field.accepts(change):
                yield f"{where}: '{name}' {field.rule}"

    def __iter__(self) -> Iterator[Feature]:
        """The declared features, in their order."""
        return iter(self._features)

    def fields_of(self, feature: Feature) -> frozenset[str]:
        """Names of the fields that a feature is computed from."""
        return self._uses[feature.name]

    def __len__(self) -> int:
        """Number of features."""
        return len(self._features)

    @property
    def directions(self) -> dict[str, int]:
        """Direction by feature name, of those that declare one."""
        return {feature.name: feature.direction for feature in self._features if feature.direction}

    def from_columns(self, columns: Mapping[str, Any]) -> FloatArray:
        """Features of many rows.

        Args:
            columns: by field name a column of n values: numbers (NaN when missing) or words (None or NaN when missing);
                a data frame will do. A field that is not required may be absent.

        Returns:
            Array of shape (n, len(self)), float32.

        Raises:
            KeyError: a required field is absent.
        """
        rows = len(next(iter(columns[name] for name in self._contract.field_names if name in columns)))
        values: dict[str, Any] = {}
        for field in self._contract.fields:
            if field.name not in columns:
                if field.required:
                    raise KeyError(field.name)
                values[field.name] = np.full(rows, _NAN if isinstance(field, Number) else MISSING)
            elif not isinstance(field, Number):
                codes = self._codes[field.name]
                values[field.name] = np.fromiter(map(codes.__getitem__, columns[field.name]), np.float64)
            else:
                values[field.name] = np.asarray(columns[field.name], np.float64)
            if len(values[field.name]) != rows:
                raise ValueError(f"column '{field.name}' has another length than the first one")
        return self.from_numbers(values)

    def from_numbers(self, values: Mapping[str, npt.NDArray[np.float64]]) -> FloatArray:
        """Features of many rows whose words are category codes already, as `code` gives them.

        Args:
            values: by field name, of all fields, an array of shape (n,).

        Returns:
            Array of shape (n, len(self)), float32; the same bits as `from_columns` gives.
        """
        rows = len(next(iter(values.values())))
        with np.errstate(all="ignore"):
            computed = self._compute(values, self._code_column, np.asarray)
            features = np.column_stack([np.asarray(np.broadcast_to(v, rows), np.float32) for v in computed])
        features[~np.isfinite(features)] = np.nan
        return features

    def code(self, field: str, word: str | None) -> float:
        """The code of a word of a choice or name field; MISSING for None, UNSEEN for what is no word of the field."""
        return self._codes[field][word]

    def from_row(self, row: Mapping[str, Any]) -> FloatArray:
        """Features of one row, the same bits as `from_columns` gives.

        Args:
            row: one value a field: a number or word, None when missing; valid against the contract.

        Returns:
            Array of shape (1, len(self)), float32.
        """
        return np.array([self.row_values(row)], np.float32)

    def row_values(self, row: Mapping[str, Any]) -> tuple[float, ...]:
        """The features of one row as plain numbers, not yet rounded to float32; see `from_row`."""
        values: dict[str, float] = {}
        for name in self._number_names:
            value = row.get(name)
            values[name] = _NAN if value is None else value
        for name, codes in self._codes.items():
            values[name] = codes[row.get(name)]
        try:
            computed: tuple[float, ...] = self._compute(values, self._code_value, _finite)
        except ZeroDivisionError:  # arrays give infinity or NaN instead
            columns = {name: np.array([row.get(name)], object) for name in self._contract.field_names}
            numbers = {name: np.array([values[name]]) for name in self._number_names}
            return tuple(self.from_columns(columns | numbers)[0].tolist())
        return computed

    def from_rows(self, rows: Sequence[Any]) -> FloatArray:
        """Features of many rows.

        Args:
            rows: objects whose first attributes are the contract's fields in its order, as those of the request model.

        Returns:
            Array of shape (n, len(self)), float32, the same bits as `from_row` gives for each.
        """
        columns = zip(*[vars(row).values() for row in rows], strict=True)
        return self.from_columns(dict(zip(self._contract.field_names, columns, strict=False)))

    def words(self, name: str, codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The words behind the codes of a category or flag, an object array of the same shape."""
        words = self._words[name]
        return np.array([words[float(code)] for code in codes], dtype=object)

    def column(self, features: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
        """One feature's column of an array of shape (n, len(self))."""
        column: npt.NDArray[Any] = features[:, self.names.index(name)]
        return column

    def groups(self, features: npt.NDArray[Any], sliced: Slice) -> npt.NDArray[Any]:
        """The group label of each row, an object array of shape (n,)."""
        values = self.column(features, sliced.feature)
        if sliced.feature in self._words:
            return self.words(sliced.feature, values)
        labels = sliced.labels or (*(f"up to {edge:,g}" for edge in sliced.edges), "more")
        places = np.searchsorted(np.asarray(sliced.edges), values, side="left")
        return np.where(np.isnan(values), "unknown", np.array(labels, object)[np.minimum(places, len(labels) - 1)])

    def _code_column(self, values: Any, feature: str) -> Any:
        """Category codes of an array of numbers; MISSING for NaN, UNSEEN for a number that is not declared."""
        codes = self._categories[feature]
        distinct, places = np.unique(values, return_inverse=True)  # few: a category has few values
        return np.array([codes[value] for value in distinct.tolist()])[places]

    def _code_value(self, value: float, feature: str) -> float:
        return self._categories[feature][value]

    def changed(self, columns: Mapping[str, Any], what_if: WhatIf) -> dict[str, Any]:
        """The columns after a change; numbers stay within their ranges and rules.

        Args:
            columns: by field name a column of n values.
            what_if: the change.
        """
        rows = len(columns[self._contract.field_names[0]])
        numbers = {name: np.asarray(columns[name], np.float64) for name in self._number_names}
        result = {name: columns[name] for name in self._contract.field_names}
        for name, change in what_if.fields.items():
            field = self._contract.field(name)
            if not isinstance(field, Number):
                result[name] = np.full(rows, change, object)
                continue
            code = compile_formula(change, self._number_names, f"what-if '{what_if.change}'")
            value: Any = eval(code, {"__builtins__": {}}, numbers)  # noqa: S307 (compile_formula has checked it)
            value = np.clip(np.broadcast_to(value, rows), field.minimum, field.maximum)
            result[name] = np.round(value) if field.whole else value
        for rule in self._contract.rules:
            if rule.smaller in what_if.fields:
                result[rule.smaller] = np.minimum(result[rule.smaller], np.asarray(result[rule.larger], np.float64))
            elif rule.larger in what_if.fields:
                result[rule.larger] = np.maximum(result[rule.larger], np.asarray(result[rule.smaller], np.float64))
        return result


def _finite(value: float) -> float:
    """NaN for a result that float32 can't hold: arrays become infinite there, and infinite values become NaN."""
    return value if -FLOAT32_MAX <= value <= FLOAT32_MAX else _NAN


def default_features(contract: Contract) -> tuple[Feature, ...]:
    """The contract's fields as they are, those that are not protected: where a new problem begins."""
    return tuple(
        Feature(field.name, field.unit if isinstance(field, Number) else CODE, field.description)
        for field in contract.fields
        if not field.protected
    )


def _is_open(contract: Contract, feature: Feature) -> bool:
    """Whether a feature is a name with an open vocabulary."""
    return (feature.formula or feature.name) in [name.name for name in contract.open_names]


def _words_by_code(contract: Contract, feature: Feature) -> dict[float, str]:
    """Words by value, of a category or flag; empty for a number."""
    if feature.unit == FLAG:
        return WORDS_OF_FLAG
    unknown = {MISSING: "unknown", UNSEEN: "unseen"}
    if feature.categories:
        return {float(code): f"{value:g}" for code, value in enumerate(feature.categories)} | unknown
    name = feature.formula or feature.name
    if name in contract.field_names and isinstance(field := contract.field(name), Choice):
        return {float(code): word for code, word in enumerate(field.choices)} | unknown
    return {}
