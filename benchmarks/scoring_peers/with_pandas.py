"""Scores a Parquet file as most projects do: one data frame, and the registered scikit-learn pipeline."""

import sys
from pathlib import Path

import pandas as pd

from credit_risk.contract import CONTRACT
from credit_risk.formats.skops_model import load

if __name__ == "__main__":
    source, target, model = sys.argv[1:]
    frame = pd.read_parquet(source)
    probability = load(Path(model)).predict_proba(frame[list(CONTRACT.field_names)])[:, 1]
    pd.DataFrame({"row_id": frame["row_id"], "probability": probability}).to_parquet(target)
