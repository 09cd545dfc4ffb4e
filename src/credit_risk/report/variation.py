"""Importance and dependence of fields: values change in the fields, and features are computed from them again.

Changing features one by one would make rows that cannot exist, as a new word next to a comparison with the old
one. Fields that a rule of the contract ties are shuffled together and changed together, so that no row breaks it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import roc_auc_score

from credit_risk.core.arrays import Labels, Scores
from credit_risk.core.schema import Choice, Contract, Number

PredictRows = Callable[[pd.DataFrame], Scores]  # probability of each row, given as a frame of the contract
AND = " and "  # between fields that are shuffled as one
SHUFFLES = 3  # of each group of fields
GRID_POINTS = 20  # of a dependence curve
MIN_CATEGORY_SHARE = 0.005  # rarer words are not in a dependence curve


def tied_fields(contract: Contract) -> list[tuple[str, ...]]:
    """The fields in groups that rules tie, each in the contract's order; protected fields are left out."""
    group = {field.name: field.name for field in contract.fields if not field.protected}
    for rule in contract.rules:
        joined, kept = group.get(rule.larger), group.get(rule.smaller)
        if joined and kept:
            group = {name: kept if own == joined else own for name, own in group.items()}
    return [tuple(name for name in group if group[name] == own) for own in dict.fromkeys(group.values())]


def permutation_importance(
    predict: PredictRows, rows: pd.DataFrame, labels: Labels, contract: Contract, seed: int
) -> pd.DataFrame:
    """The ROC AUC that is lost when the values of fields are shuffled; columns field, mean and spread, highest first.

    Fields that a rule ties are shuffled as one and named together. Source: Breiman (2001), "Random forests".
    """
    rng = np.random.default_rng(seed)
    reference = roc_auc_score(labels, predict(rows))
    found = []
    for names in tied_fields(contract):
        orders = [rng.permutation(len(rows)) for _ in range(SHUFFLES)]
        shuffled = [rows.assign(**{name: rows[name].to_numpy()[order] for name in names}) for order in orders]
        losses = [reference - roc_auc_score(labels, scores) for scores in predict_each(predict, shuffled)]
        found.append({"field": AND.join(names), "mean": float(np.mean(losses)), "spread": float(np.std(losses))})
    return pd.DataFrame(found).sort_values(
        "mean", key=lambda mean: mean.round(9), ascending=False, kind="stable", ignore_index=True
    )


def dependence(predict: PredictRows, rows: pd.DataFrame, contract: Contract, name: str) -> pd.DataFrame:
    """Mean probability of the rows if one field had a certain value in all of them; x: value or word, y: mean.

    Words are in the order of their mean probabilities, lowest first. Source: Friedman (2001), "Greedy function
    approximation: a gradient boosting machine".
    """
    field, known = contract.field(name), rows[name].dropna()
    if isinstance(field, Number):
        grid: list[Any] = number_grid(known.to_numpy(np.float64), field)
    else:
        shares = known.value_counts(normalize=True)
        words = field.choices if isinstance(field, Choice) else sorted(shares.index[:GRID_POINTS])
        grid = [word for word in words if shares.get(word, 0.0) >= MIN_CATEGORY_SHARE]
    changed = [with_value(rows, contract, name, value) for value in grid]
    means = [float(scores.mean()) for scores in predict_each(predict, changed)]
    curve = pd.DataFrame({"x": pd.Series(grid, dtype=float if isinstance(field, Number) else object), "y": means})
    if not isinstance(field, Number):
        # Rounded, so that the order of equal words is the same on every processor.
        curve = curve.sort_values("y", key=lambda y: y.round(9), kind="stable", ignore_index=True)
    return curve


def predict_each(predict: PredictRows, frames: Sequence[pd.DataFrame]) -> list[Scores]:
    """The probabilities of each frame, predicted in one call: most of its time does not depend on the rows."""
    if not frames:
        return []
    ends = np.cumsum([len(frame) for frame in frames])
    return np.split(predict(pd.concat(frames, ignore_index=True)), ends[:-1])


def number_grid(known: npt.NDArray[np.float64], field: Number) -> list[float]:
    """Values of a number between its outliers, ascending, whole where the field is."""
    if not len(known):
        return []
    quantiles = np.quantile(known, np.linspace(0.02, 0.98, GRID_POINTS))
    grid: list[float] = np.unique(np.round(quantiles) if field.whole else quantiles).tolist()
    return grid


def with_value(rows: pd.DataFrame, contract: Contract, name: str, value: float | str) -> pd.DataFrame:
    """The rows with one value of a field in all of them; fields that rules tie to it follow.

    A number that must not be above the changed one keeps its share of it; one that must not be below rises with it.
    """
    changed = rows.assign(**{name: value})
    for names in [group for group in tied_fields(contract) if name in group and len(group) > 1]:
        before = {each: rows[each].to_numpy(np.float64) for each in names}
        after = {each: changed[each].to_numpy(np.float64) for each in names}
        settled = {name}
        for _ in names:  # a chain of rules is followed link by link
            for rule in contract.rules:
                if rule.larger in settled and rule.smaller in names and rule.smaller not in settled:
                    after[rule.smaller] = scaled(before, after, rule.smaller, rule.larger)
                    settled.add(rule.smaller)
                elif rule.smaller in settled and rule.larger in names and rule.larger not in settled:
                    after[rule.larger] = np.maximum(before[rule.larger], after[rule.smaller])
                    settled.add(rule.larger)
        after = {each: within(contract.field(each), after[each]) for each in names}
        for rule in [rule for _ in names for rule in contract.rules if rule.smaller in names]:
            after[rule.smaller] = within(
                contract.field(rule.smaller), np.minimum(after[rule.smaller], after[rule.larger])
            )
        changed = changed.assign(**after)
    return changed


def scaled(
    before: Mapping[str, npt.NDArray[np.float64]],
    after: Mapping[str, npt.NDArray[np.float64]],
    smaller: str,
    larger: str,
) -> npt.NDArray[np.float64]:
    """The smaller number with the share of the larger one that it had, at most the whole of it."""
    share = np.divide(before[smaller], before[larger], out=np.ones_like(before[smaller]), where=before[larger] > 0)
    return np.minimum(share * after[larger], after[larger])


def within(field: Any, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values within the range of a number field, and whole where it is."""
    clipped = np.clip(values, field.minimum, field.maximum)
    return np.floor(clipped) if field.whole else clipped
