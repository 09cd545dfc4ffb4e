"""The arguments of `main.py adopt`; imports nothing slow."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments to a parser."""
    parser.add_argument("file", metavar="FILE", help="CSV, CSV.gz or Parquet with one row for each case")
    parser.add_argument("--target", required=True, metavar="COLUMN", help="column with the outcome")
    parser.add_argument("--positive", required=True, metavar="VALUE", help="its value where the event happened")
    parser.add_argument("--id", metavar="COLUMN", help="column that identifies a row, if there is one")
    parser.add_argument("--date", metavar="COLUMN", help="column that orders rows in time, if there is one")
    parser.add_argument("--name", metavar="TITLE", help='title and name, as "Customer churn" (default: of the file)')
    parser.add_argument(
        "--leak-auc",
        type=float,
        default=0.9,
        metavar="AUC",
        help="leave out columns that reach it alone (default: %(default)s; 1 keeps all)",
    )
    parser.add_argument("--clean", action="store_true", help="remove the first problem's files instead of moving them")
    parser.add_argument("--plan", action="store_true", help="show the plan and change nothing")
