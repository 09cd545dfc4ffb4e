"""YOURS. Stage 2: turns the raw text into the fields of the contract.

Reads:  1.data/1.raw/rows.parquet, 1.data/1.raw/manifest.json
Writes: 1.data/2.clean/rows.parquet       row id, outcome and one column per field
        1.data/2.clean/rejected.parquet   the rows that can't be used: raw columns, and the reason
        1.data/2.clean/metrics.json       rows in and out, rejected by reason, duplicates, unknown codes, …
Params: clean
"""

from credit_risk.core.entry_point import run

from credit_risk.data.cleaning import run_stage
from credit_risk.data.parsing import Parsing

PARSING = Parsing()

if __name__ == "__main__":
    run("stage 2", lambda: run_stage(PARSING))
