"""Stage 3: computes the features of every row (feature engineering).

Reads:  1.data/2.clean/rows.parquet
Writes: 1.data/3.features/features.parquet   row id, date, outcome and one float32 column per feature
Params: none

`features.py` of the package declares the features; the API computes them from the same declarations.
"""

from credit_risk.core.entry_point import run

import pyarrow as pa
import pyarrow.parquet as pq

from credit_risk.contract import CONTRACT
from credit_risk.core.files import replacing
from credit_risk.core.paths import data
from credit_risk.features import FEATURES

BATCH_ROWS = 100_000


def main() -> None:
    """Runs the stage."""
    clean = pq.ParquetFile(data("2.clean", "rows.parquet"))
    keys = [clean.schema_arrow.field(key) for key in CONTRACT.keys]
    schema = pa.schema([*keys, *((name, pa.float32()) for name in FEATURES.names)])
    with (
        replacing(data("3.features", "features.parquet")) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as file,
    ):
        for batch in clean.iter_batches(BATCH_ROWS):
            columns = {name: batch[name].to_numpy(zero_copy_only=False) for name in CONTRACT.field_names}
            features = FEATURES.from_columns(columns)
            file.write_table(pa.table([*(batch[key] for key in CONTRACT.keys), *features.T], schema))
    print(f"{clean.metadata.num_rows:,} {CONTRACT.problem.rows}, {len(FEATURES)} features")


if __name__ == "__main__":
    run("stage 3", main)
