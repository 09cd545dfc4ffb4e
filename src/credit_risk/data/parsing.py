"""From raw text to the contract's fields: how the columns of a data set are read, and why a row can't be used.

How the columns of one data set are parsed is declared in `2.prep_clean_data.py` as a `Parsing`. A row is rejected with
its first reason: no valid row id, no date or one after today, an unknown outcome, a number that can't be read, or a
broken rule of the contract.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import DATE, NUMBER_SPELLING, OUTCOME, ROW_ID, Choice, Contract, Name, Number, plain_code
from credit_risk.data.validation import failures

SHOWN_CHARACTERS = 40  # of an unknown code
ISO_DATE = r"^([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ][0-9:.]+(?:Z|[+-][0-9:]+)?)?$"  # a time of day is left out
FIRST_TIME_ZONE = timezone(timedelta(hours=14))  # where a day begins first: the rows may come from there

Parser = Callable[[Any], Any]  # a column of stripped text -> a column of values, missing where the text has no meaning


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsing:
    """How the raw columns of one data set are read.

    Codes that are whole numbers are compared as numbers: `01` and `1.0` are 1.

    Attributes:
        missing: spellings of a missing value, after stripping.
        words: by name of a choice field, the contract's word of each raw code, or None for a code that is known to say
            nothing. Other codes count as missing and as unknown. Without an entry, words are spelt as in the contract.
        parsers: by field name, the function that reads its column; without one, numbers are plain decimals and names
            as they are. It gets each distinct text once.
        fillers: by name of a number field, values that stand for a missing one.
        date: reads the dates from a frame of raw columns; ISO dates (2024-12-31) are read in any case.
    """

    missing: frozenset[str] = frozenset({""})
    words: Mapping[str, Mapping[str, str | None]] = dataclass_field(default_factory=dict)
    parsers: Mapping[str, Parser] = dataclass_field(default_factory=dict)
    fillers: Mapping[str, frozenset[float]] = dataclass_field(default_factory=dict)
    date: Callable[[pd.DataFrame], Any] | None = None

    def __post_init__(self) -> None:
        """Checks the names.

        Raises:
            ProjectError: a name is not a field of the right kind, a word is not one of its choices, or a number is
                given as a code twice.
        """
        choices = {choice.name: choice.choices for choice in CONTRACT.choices}
        numbers = {number.name for number in CONTRACT.numbers}
        for name in [*(self.words.keys() - choices), *(self.fillers.keys() - numbers)]:
            raise ProjectError(f"2.prep_clean_data.py: '{name}' is not a field of this kind in contract.py")
        for name in self.parsers.keys() - set(CONTRACT.field_names):
            raise ProjectError(f"2.prep_clean_data.py: '{name}' has a parser but is not a field in contract.py")
        for name, words in self.words.items():
            if unknown := set(words.values()) - {*choices[name], None}:
                raise ProjectError(f"2.prep_clean_data.py: '{min(map(str, unknown))}' is not a choice of '{name}'")
        for choice in CONTRACT.choices:
            codes = self.codes(choice)
            for code, word in self.words.get(choice.name, {w: w for w in choice.choices}).items():
                if codes[plain_code(code)] != word and choice.name not in self.parsers:
                    raise ProjectError(
                        f"2.prep_clean_data.py: '{code}' and another code of '{choice.name}' are the same number; if "
                        "they mean different things, write a parser"
                    )

    def codes(self, choice: Choice) -> dict[str, str | None]:
        """The word of each code, by the code's plain spelling."""
        words = self.words.get(choice.name, {word: word for word in choice.choices})
        return {plain_code(code): word for code, word in words.items()}


class Cleaned(NamedTuple):
    """A batch of rows after cleaning.

    Attributes:
        rows: row id, date, outcome and fields, or the fields alone; those of a row that can't be used have no meaning.
        reasons: why each row can't be used; "" where it can.
        unknown: by raw column of codes, how often each code occurs that is not declared.
    """

    rows: pd.DataFrame
    reasons: "pd.Series[str]"
    unknown: dict[str, Counter[str]]


class _Column:
    """A raw column as its distinct texts, stripped, so that each is parsed once."""

    def __init__(self, raw: "pd.Series[str]", missing: frozenset[str] = frozenset()) -> None:
        self._places, distinct = pd.factorize(raw, use_na_sentinel=False)
        self._index = raw.index
        texts = pd.Series(distinct, dtype="str").str.strip()
        self.texts = texts.where(~texts.isin(missing) & texts.notna(), "")

    def rows(self, values: Any) -> Any:
        """The column of all rows, from one value for each distinct text."""
        return values.take(self._places).set_axis(self._index)

    def counted(self, chosen: "pd.Series[bool]") -> Counter[str]:
        """How often each of some texts occurs; of a long one, its beginning."""
        rows = np.bincount(self._places, minlength=len(self.texts))
        counts: Counter[str] = Counter()
        for text, number in zip(self.texts[chosen], rows[chosen], strict=True):
            counts[text[:SHOWN_CHARACTERS]] += int(number)
        return counts


def clean_rows(raw: pd.DataFrame, parsing: Parsing) -> Cleaned:
    """Cleans a batch of raw rows, whose columns are text as in the source."""
    reasons = pd.Series("", index=raw.index, dtype="str")

    def reject(chosen: "pd.Series[bool]", reason: "str | pd.Series[str]") -> None:
        reasons[chosen & (reasons == "")] = reason

    rows = pd.DataFrame({ROW_ID: row_ids(raw, CONTRACT)})
    if CONTRACT.row_id:
        valid = rows[ROW_ID].str.fullmatch(CONTRACT.row_id.pattern)
        reject(~valid, f"{CONTRACT.row_id.column} is empty or malformed")
    if CONTRACT.date:
        rows[DATE] = _dates(raw, parsing)
        reject(rows[DATE].isna(), f"{CONTRACT.date} can't be read as a date")
        reject(rows[DATE] > last_date(), f"{CONTRACT.date} is after today")
    target = CONTRACT.target
    column = _Column(raw[target.column])
    outcomes, known = _outcomes(column.texts)
    rows[OUTCOME] = column.rows(outcomes)
    reject(~column.rows(known), f"{target.column} is none of {', '.join((*target.positive, *target.negative))}")
    fields = read_fields(raw, parsing)
    reject(fields.reasons != "", fields.reasons)
    unknown = {target.column: column.counted(~known), **fields.unknown}
    return Cleaned(rows.join(fields.rows), reasons, unknown)


def read_fields(raw: pd.DataFrame, parsing: Parsing) -> Cleaned:
    """Reads the contract's fields from raw text; the columns of keys and outcome need not be there."""
    reasons = pd.Series("", index=raw.index, dtype="str")
    rows = pd.DataFrame(index=raw.index)
    unknown: dict[str, Counter[str]] = {}
    values: Any
    for field in CONTRACT.fields:
        column = _Column(raw[field.column], parsing.missing)
        if isinstance(field, Choice):
            values, known = _words(field, column.texts, parsing)
            unknown[field.column] = column.counted(~known)
        elif isinstance(field, Name):
            values = _names(field, column.texts, parsing)
        else:
            values, readable = _numbers(field, column.texts, parsing)
            reasons[~column.rows(readable) & (reasons == "")] = f"{field.column} can't be read as a number"
        rows[field.name] = column.rows(values)
    broken = failures(rows)
    reasons.loc[broken.index] = reasons.loc[broken.index].where(reasons.loc[broken.index] != "", broken)
    return Cleaned(rows, reasons, unknown)


def row_ids(raw: pd.DataFrame, contract: Contract = CONTRACT) -> "pd.Series[str]":
    """The row id of each raw row: its column, or a SHA-256 of all columns where the source has no id."""
    if contract.row_id:
        return stored_ids(raw[contract.row_id.column], contract)
    names = sorted(contract.raw_columns)
    lines = raw[names].agg("\x1f".join, axis=1)
    return lines.map(lambda line: hashlib.sha256(line.encode()).hexdigest())


def stored_ids(ids: Any, contract: Contract = CONTRACT) -> "pd.Series[str]":
    """Ids as stage 2 stores them, so that two spellings of one id are equal."""
    stripped: pd.Series[str] = ids.str.strip()
    if contract.row_id and contract.row_id.number:
        stripped = plain_ids(stripped)
    return stripped


def plain_ids(ids: Any) -> Any:
    """Ids as `plain_code` spells them."""
    return ids.str.replace(NUMBER_SPELLING, r"\1\2", regex=True)


def last_date() -> pd.Timestamp:
    """The latest date that it is anywhere on Earth: rows may come from another time zone than this machine's."""
    return pd.Timestamp(datetime.now(FIRST_TIME_ZONE).date())


def numbers(text: Any) -> Any:
    """Numbers from text such as `-12`, `0.5` and `6.1e-05`; NaN for anything else (also for `nan` and `inf`)."""
    decimal = text.str.fullmatch(r"-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?")
    return text.where(decimal).astype("float64")  # pandas.to_numeric fails for integers of hundreds of digits


def _dates(raw: pd.DataFrame, parsing: Parsing) -> Any:
    """Dates without a time of day; NaT for what is none."""
    own = parsing.date(raw).astype("datetime64[s]") if parsing.date else pd.Series(pd.NaT, raw.index, "datetime64[s]")
    if own.isna().any():
        text = raw[CONTRACT.date].str.strip().str.extract(ISO_DATE)[0]
        own = own.fillna(pd.to_datetime(text, format="%Y-%m-%d", errors="coerce").astype("datetime64[s]"))
    return own.dt.normalize()


def _outcomes(texts: "pd.Series[str]") -> "tuple[pd.Series[Any], pd.Series[bool]]":
    """Class of each text, missing where it has none, and whether the text is one that the target declares."""
    target, codes = CONTRACT.target, texts.map(plain_code)
    outcomes = {plain_code(value): 1 for value in target.positive} | {plain_code(value): 0 for value in target.negative}
    return codes.map(outcomes).astype("Int8"), codes.isin([*outcomes, *map(plain_code, target.unlabelled)])


def _words(choice: Choice, texts: Any, parsing: Parsing) -> "tuple[pd.Series[str], pd.Series[bool]]":
    """Word of each text, and whether the text is empty or a code that is known."""
    plain = texts.map(plain_code)
    if choice.name in parsing.parsers:
        words = parsing.parsers[choice.name](texts.str.replace(r"^([0-9]+)\.0+$", r"\1", regex=True))
        return words, (texts == "") | words.isin(choice.choices)
    codes = parsing.codes(choice)
    known = (texts == "") | plain.isin(list(codes))
    words = plain.map(codes)
    if choice.name not in parsing.words:  # another word is not missing: its row is rejected
        words = words.where(known, texts)
    return words, known


def _names(name: Name, texts: Any, parsing: Parsing) -> Any:
    """Name of each text, missing where there is none."""
    names = parsing.parsers[name.name](texts) if name.name in parsing.parsers else texts
    return names.where(texts != "")


def _numbers(number: Number, texts: Any, parsing: Parsing) -> "tuple[pd.Series[float], pd.Series[bool]]":
    """Number of each text, and whether the text is empty or can be read."""
    values = parsing.parsers.get(number.name, numbers)(texts).astype("float64")
    readable = values.notna() | (texts == "")
    return values.where(~values.isin(parsing.fillers.get(number.name, frozenset()))), readable
