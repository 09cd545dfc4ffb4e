"""What the decisions do to groups of rows: declined shares and error rates, with intervals.

Groups are the report's slices and the words or quarters of each field that the contract marks as protected. The
four-fifths rule compares shares of accepted rows: below 0.8 of the group with the highest share, a selection deserves
an explanation. Source: Uniform Guidelines on Employee Selection Procedures, 29 CFR 1607.4(D) (1978).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from credit_risk.core.arrays import Labels
from credit_risk.core.names import common_codes, name_code
from credit_risk.core.schema import Contract, Name, Number
from credit_risk.report.tables import OTHERS, share_with_interval

FOUR_FIFTHS = 0.8
UNKNOWN = "unknown"
QUARTERS = 4  # groups of a protected number


def outcomes(
    labels: Labels, declined: npt.NDArray[np.bool_], groupings: Mapping[str, npt.NDArray[Any]]
) -> pd.DataFrame:
    """Decisions and errors by group.

    Args:
        labels: shape (n,).
        declined: whether each row is declined, shape (n,).
        groupings: by name of the grouping the group of each row, shape (n,).

    Returns:
        For each group: rows; `declined`, `false_positive` (declined among the negative rows) and `false_negative`
        (accepted among the positive rows) as shares with 95 % Wilson intervals `_low` and `_high`; `ratio`, its share
        of accepted rows over the highest of its grouping; and `below_four_fifths`. A share of no rows is None, and so
        is the ratio of the combined group OTHERS. A grouping of one group is left out.
    """
    found: list[dict[str, Any]] = []
    for name, groups in groupings.items():
        rows: list[dict[str, Any]] = []
        for group in sorted(pd.unique(groups), key=lambda group: (group == OTHERS, str(group))):
            inside = groups == group
            negative, positive = inside & (labels == 0), inside & (labels == 1)
            rows.append(
                {"grouping": name, "group": str(group), "rows": int(inside.sum())}
                | share_with_interval("declined", declined[inside])
                | share_with_interval("false_positive", declined[negative])
                | share_with_interval("false_negative", ~declined[positive])
            )
        highest = max((1 - row["declined"] for row in rows if row["group"] != OTHERS), default=0.0)
        for row in rows:
            row["ratio"] = (1 - row["declined"]) / highest if highest and row["group"] != OTHERS else None
            row["below_four_fifths"] = row["ratio"] is not None and row["ratio"] < FOUR_FIFTHS
        found += rows if len(rows) > 1 else []
    return pd.DataFrame(found, dtype=object)


def combine_few(groups: npt.NDArray[Any], min_rows: int) -> npt.NDArray[Any]:
    """The groups, with those of fewer rows as one group OTHERS."""
    names, places, counts = np.unique(groups.astype(str), return_inverse=True, return_counts=True)
    return np.where(counts >= min_rows, names, OTHERS).astype(object)[places]


def protected_groups(contract: Contract, rows: pd.DataFrame) -> dict[str, npt.NDArray[Any]]:
    """By name of each protected field the group of each row: its word or common name, or the quarter of its number."""
    return {field.name: groups_of(rows[field.name], field) for field in contract.fields if field.protected}


def groups_of(values: pd.Series, field: Any) -> npt.NDArray[Any]:
    """The group of each value of a field, an object array."""
    missing = values.isna().to_numpy()
    if isinstance(field, Name):
        codes = values.map(name_code, na_action="ignore")
        common = codes.isin(common_codes(codes[~missing].to_numpy(np.float64)))
        spelling = values.groupby(codes).transform("first")  # the same of all rows with one name
        return np.where(missing, UNKNOWN, spelling.where(common, OTHERS).astype(object).to_numpy())
    if not isinstance(field, Number):
        return np.where(missing, UNKNOWN, values.astype(object).to_numpy())
    numbers = values.to_numpy(np.float64)
    if missing.all():
        return np.full(len(numbers), UNKNOWN, object)
    edges = np.unique(np.quantile(numbers[~missing], np.arange(1, QUARTERS) / QUARTERS))
    names = np.array([*(f"up to {edge:,g}" for edge in edges), f"above {edges[-1]:,g}"], object)
    return np.where(missing, UNKNOWN, names[np.searchsorted(edges, numbers, side="left").clip(max=len(edges))])
