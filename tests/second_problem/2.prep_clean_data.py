"""YOURS. Stage 2: turns the raw text into the fields of the contract.

Reads:  1.data/1.raw/rows.parquet
Writes: 1.data/2.clean/rows.parquet       row id, outcome and one column per field
        1.data/2.clean/rejected.parquet   the rows that can't be used: raw columns, and the reason
        1.data/2.clean/metrics.json       rows in and out, rejected by reason, duplicates, rows without an outcome
Params: clean
"""

from credit_risk.core.entry_point import run

from credit_risk.data.cleaning import Parsing, run_stage

PARSING = Parsing()

if __name__ == "__main__":
    run("stage 2", lambda: run_stage(PARSING))
