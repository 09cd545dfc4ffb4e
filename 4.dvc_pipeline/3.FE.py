"""Stage 3: computes the features of every loan (feature engineering).

Reads:  1.data/2.clean/loans.parquet
Writes: 1.data/3.features/features.parquet   loan number, approval date, outcome and one float32 column a feature
Params: none

What each feature is and why it is there stands in src/credit_risk/features.py: the API computes them too.
"""

import pyarrow as pa
import pyarrow.parquet as pq

from credit_risk.contract import FIELD_NAMES, KEYS
from credit_risk.core.entry_point import run
from credit_risk.core.files import replacing
from credit_risk.core.paths import data
from credit_risk.features import FEATURE_NAMES, from_columns

BATCH_ROWS = 100_000


def main() -> None:
    """Runs the stage."""
    clean = pq.ParquetFile(data("2.clean", "loans.parquet"))
    keys = [clean.schema_arrow.field(key) for key in KEYS]
    schema = pa.schema([*keys, *((name, pa.float32()) for name in FEATURE_NAMES)])
    with (
        replacing(data("3.features", "features.parquet")) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as file,
    ):
        for batch in clean.iter_batches(BATCH_ROWS):
            features = from_columns({name: batch[name].to_numpy(zero_copy_only=False) for name in FIELD_NAMES})
            file.write_table(pa.table([*(batch[key] for key in KEYS), *features.T], schema))
    print(f"{clean.metadata.num_rows:,} loans, {len(FEATURE_NAMES)} features")


if __name__ == "__main__":
    run("stage 3", main)
