"""Takes in outcomes that have become known, for `uv run main.py monitor`.

FILE is CSV, CSV.gz or Parquet, a path or URL, with the columns row_id, outcome and date (the day when it was known, as
2024-12-31); row id and outcome may have the source's names and words. The same file can be taken in again.

Usage: uv run main.py outcomes FILE
"""

from credit_risk.core.entry_point import run

import argparse

from credit_risk.data.store import Store
from credit_risk.monitoring.outcomes import REJECTED, take_in
from credit_risk.project.settings import settings


def main() -> None:
    """Takes in a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="path or URL")
    store = Store(settings().monitoring_store)
    taken = take_in(parser.parse_args().file, store)
    print(f"{taken.rows:,} outcomes taken in to {store.name}")
    if taken.rejected:
        print(f"{taken.rejected:,} rows rejected, with reasons: {store.name}/{REJECTED}")


if __name__ == "__main__":
    run("outcomes", main)
