"""Ships the API's prediction log of this host to Parquet by day, in MONITORING_STORE (a folder or s3://bucket/path).

Ships the finished files of the log, and those of processes that have died. Run it from a scheduler on each host: what a
failed or killed run leaves is shipped by the next one, each row exactly once.

Usage: uv run main.py log ship [--log FOLDER]    FOLDER: also an s3:// address to which servers upload finished files
"""

from credit_risk.core.entry_point import run

import argparse
from pathlib import Path

from credit_risk.core.errors import ProjectError
from credit_risk.data.store import Store
from credit_risk.monitoring.shipping import ship, ship_uploaded
from credit_risk.project.settings import settings


def main() -> None:
    """Ships the log."""
    current = settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["ship"])
    parser.add_argument(
        "--log", default=current.prediction_log, help="folder or s3:// address (default: PREDICTION_LOG)"
    )
    log = parser.parse_args().log
    if log is None:
        raise ProjectError(
            "the prediction log is off; set PREDICTION_LOG to a folder, for the API and for this command"
        )
    store = Store(current.monitoring_store)
    shipped = ship_uploaded(Store(log), store) if "://" in str(log) else ship(Path(log), store)
    print(f"{shipped.rows:,} predictions of {shipped.files} files shipped to {store.name}")
    if shipped.unfinished or shipped.damaged:
        lines = f"{shipped.unfinished} unfinished last lines, {shipped.damaged} damaged lines"
        print(f"{lines} (kept in {store.name}/_damaged)")


if __name__ == "__main__":
    run("log", main)
