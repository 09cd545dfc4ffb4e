"""Scores a Parquet file with dask.dataframe: the registered scikit-learn pipeline on each partition, two workers."""

import sys
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
from distributed import Client, LocalCluster

from credit_risk.contract import CONTRACT
from credit_risk.formats.skops_model import load

MODELS: dict[str, Any] = {}  # loaded once by each worker


def score(frame: pd.DataFrame, model: str) -> pd.DataFrame:
    """The scores of a partition."""
    pipeline = MODELS.get(model) or MODELS.setdefault(model, load(Path(model)))
    probability = pipeline.predict_proba(frame[list(CONTRACT.field_names)])[:, 1]
    return pd.DataFrame({"row_id": frame["row_id"], "probability": probability})


if __name__ == "__main__":
    source, target, model = sys.argv[1:]
    dask.config.set({"dataframe.convert-string": False})  # Arrow's missing words are none to the pipeline
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**options) as cluster, Client(cluster):  # type: ignore[no-untyped-call]
        frame = dd.read_parquet(source, split_row_groups=True)
        meta = pd.DataFrame({"row_id": pd.Series(dtype="str"), "probability": pd.Series(dtype="float64")})
        frame.map_partitions(score, model, meta=meta).to_parquet(target)
