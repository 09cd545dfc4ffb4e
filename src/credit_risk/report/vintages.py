"""Who is in the data: by year of the date, how many rows have an outcome yet, and how many of these are positive."""

from typing import Any

import pandas as pd

from credit_risk.report.tables import share_with_interval


def vintages(dates: pd.Series, outcomes: pd.Series) -> pd.DataFrame:
    """One row a year, oldest first.

    Args:
        dates: of all rows, shape (n,).
        outcomes: 1 positive, 0 negative, missing where the outcome is not known; shape (n,).

    Returns:
        `year`, `rows`, `labelled` (share of rows with an outcome) and `positive` (share of positive rows among these),
        both with 95 % Wilson intervals; `positive` is None in a year without outcomes.
    """
    found: list[dict[str, Any]] = []
    years = pd.to_datetime(dates).dt.year
    for year in sorted(years.unique()):
        inside = outcomes[(years == year).to_numpy()]
        known = inside.dropna()
        found.append(
            {"year": int(year), "rows": len(inside)}
            | share_with_interval("labelled", inside.notna().to_numpy())
            | share_with_interval("positive", known.to_numpy() == 1)
        )
    return pd.DataFrame(found, dtype=object)
