"""Rows of another problem as a stranger's file has them: id, date, money, words, missing values, a leak, free text."""

import numpy as np
import pandas as pd

TARGET = "churned"
COUNT = 1_200


def raw_rows() -> pd.DataFrame:
    """1,200 customers, every value text; the older, the dearer and the holders of a basic plan leave more often."""
    source = np.random.default_rng(5)
    age, charge = source.integers(18, 90, COUNT), source.uniform(10, 1_180, COUNT)
    charge[0] = 1_199.5
    plans = source.choice(["basic", "silver", "gold"], COUNT, p=[0.5, 0.3, 0.2])
    odds = np.exp((age - 54) / 25 + (charge - 600) / 400 + (plans == "basic") - 1.5)
    left = source.random(COUNT) < odds / (1 + odds)
    dates = pd.Timestamp("2022-01-01") + pd.to_timedelta(source.integers(0, 730, COUNT), "D")
    return pd.DataFrame(
        {
            "Customer": [f"C{number:05}" for number in range(COUNT)],
            "Signed": dates.strftime("%d.%m.%Y"),
            "Age": pd.Series(age.astype("str")).where(source.random(COUNT) > 0.05, "?"),
            "Monthly charge": [f"${value:,.2f}" for value in charge],
            "Plan": plans,
            "Score": source.normal(0, 1, COUNT).round(2).astype("str"),
            "Cancelled": np.where(left, "on request", "never"),
            "Remark": [f"spoke to agent {number}" for number in source.integers(0, 400, COUNT)],
            "Version": "1",
            TARGET: np.where(left, "yes", "no"),
        },
        dtype="str",
    )
