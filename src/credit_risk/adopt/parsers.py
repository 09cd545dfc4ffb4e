"""How numbers and dates are spelt. The function that fits a column is copied into the written stage 2."""

import re
from collections.abc import Callable
from typing import Any

import pandas as pd

from credit_risk.data.parsing import numbers

# Nothing else is meant by these; the second kind counts as missing only where a column of numbers has it.
MISSING = ("NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "NULL", "null", "?")
MISSING_NUMBERS = ("None", "none", "-", "--", ".", "unknown", "Unknown", "missing", "Missing")
READABLE = 0.995  # share of a column's values that must be readable; the rows of the others are rejected

# As strptime's directives; of two formats that fit, the first is taken.
DATE_FORMATS = (
    *("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M", "%Y/%m/%d"),
    *("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M", "%m/%d/%y"),
    *("%d-%b-%Y", "%d-%b-%y", "%d %b %Y", "%b %d, %Y", "%B %d, %Y", "%b-%Y", "%Y-%m", "%Y%m%d"),
)
_DATE_LIKE = re.compile(r"[0-9].*[-/. ].*[0-9]|[A-Za-z]{3,9}[- ][0-9]{4}")


def amounts(text: "pd.Series[str]") -> Any:
    """Numbers from text such as `$1,200.50`, `-3 %` and `(40)`; missing for anything else."""
    plain = text.str.replace(r"^\((.+)\)$", r"-\1", regex=True)
    plain = plain.str.replace(r"^([-+]?)[$€£] ?", r"\1", regex=True).str.replace(
        r" ?[%€]$|,(?=[0-9]{3})", "", regex=True
    )
    return numbers(plain.str.removeprefix("+"))


def decimal_commas(text: "pd.Series[str]") -> Any:
    """Numbers from text such as `1.200,50`; missing for anything else."""
    plain = text.where(text.str.fullmatch(r"-?[0-9]{1,3}(\.[0-9]{3})*(,[0-9]+)?|-?[0-9]+,[0-9]+"), "")
    return numbers(plain.str.replace(".", "").str.replace(",", "."))


NUMBER_PARSERS: tuple[Callable[[Any], Any], ...] = (numbers, amounts, decimal_commas)


def number_parser(text: "pd.Series[str]") -> Callable[[Any], Any] | None:
    """The first parser that reads nearly all values of a column, none of them missing; None if it holds no numbers."""
    for parser in NUMBER_PARSERS:
        if len(text) and parser(text).notna().mean() >= READABLE:
            return parser
    return None


def date_formats(text: "pd.Series[str]") -> list[str]:
    """The formats that read nearly all values of a column, none of them missing."""
    distinct = pd.Series(text.unique(), dtype="str")
    if not len(distinct) or distinct.str.contains(_DATE_LIKE).mean() < READABLE:
        eight_digits = len(distinct) and distinct.str.fullmatch("(19|20)[0-9]{6}").all()
        return ["%Y%m%d"] if eight_digits else []
    return [
        each
        for each in DATE_FORMATS
        if pd.to_datetime(distinct, format=each, errors="coerce").notna().mean() >= READABLE
    ]
