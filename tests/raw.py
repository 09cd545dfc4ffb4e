"""Raw rows of the contract, as a source would have them if its columns needed no parsing of their own."""

import re
from typing import Any

import pandas as pd

from credit_risk.contract import CONTRACT


def row_id(number: int) -> str:
    """A row id that matches the contract's pattern; none is the same for two numbers."""
    if CONTRACT.row_id is None:
        return ""
    candidates = (str(10**9 + number), f"id-{number}", f"ID{number:06}")
    return next(text for text in candidates if re.fullmatch(CONTRACT.row_id.pattern, text))


def raw_row(number: int = 0, **fields: str) -> dict[str, str]:
    """By column the text of a valid row; `fields` replaces the text of fields by their name."""
    row = dict.fromkeys(sorted(CONTRACT.raw_columns), "")
    for field in CONTRACT.fields:
        value = field.example
        text = "" if value is None else value if isinstance(value, str) else f"{value:.10g}"
        row[field.column] = fields.get(field.name, text)
    row[CONTRACT.target.column] = (CONTRACT.target.positive if number % 2 else CONTRACT.target.negative)[0]
    if CONTRACT.date:
        row[CONTRACT.date] = f"20{number % 20:02}-06-15"
    if CONTRACT.row_id:
        row[CONTRACT.row_id.column] = row_id(number)
    return row


def raw_frame(*rows: dict[str, Any]) -> pd.DataFrame:
    """Raw rows as stage 1 writes them: every column text."""
    return pd.DataFrame(list(rows), columns=sorted(CONTRACT.raw_columns)).astype("str")
