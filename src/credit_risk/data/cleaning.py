"""The machinery of stage 2: from raw text to the contract's fields, in batches, with every rejected row accounted for.

How the columns of one data set are parsed is declared in `2.prep_clean_data.py` as a `Parsing`. A row is rejected with
its first reason: no valid row id, no date, an unknown outcome, a number that can't be read, or a broken rule of the
contract. Of several usable rows with one row id, the last is kept (later files know more); the others are duplicates.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from credit_risk.contract import CONTRACT
from credit_risk.core import params
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing, write_json
from credit_risk.core.paths import data
from credit_risk.core.schema import DATE, OUTCOME, ROW_ID, Choice, Contract
from credit_risk.core.schema import Field as ContractField
from credit_risk.data.validation import failures

BATCH_ROWS = 100_000
DUPLICATE = "a later row has the same row id"
CONTRACT_FILE = "contract.py of the package"

Text = "pd.Series[str]"
Parser = Callable[[Any], Any]  # a column of stripped text -> a column of values, missing where the text has no meaning

CLEAN_SCHEMA = pa.schema(
    [
        (ROW_ID, pa.string()),
        *([(DATE, pa.date32())] if CONTRACT.has_date else []),
        (OUTCOME, pa.int8()),
        *((field.name, pa.string() if isinstance(field, Choice) else pa.float64()) for field in CONTRACT.fields),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsing:
    """How the raw columns of one data set are read.

    Attributes:
        missing: spellings of a missing value, after stripping.
        words: by name of a choice field, the contract's word of each raw code; other codes count as missing.
        parsers: by field name, the function that reads its column; without one, numbers are plain decimals and choices
            are spelt as in the contract.
        fillers: by name of a number field, values that stand for a missing one.
        date: reads the dates from a frame of raw columns; without it, they are ISO dates (2024-12-31).
    """

    missing: frozenset[str] = frozenset({""})
    words: Mapping[str, Mapping[str, str]] = dataclass_field(default_factory=dict)
    parsers: Mapping[str, Parser] = dataclass_field(default_factory=dict)
    fillers: Mapping[str, frozenset[float]] = dataclass_field(default_factory=dict)
    date: Callable[[pd.DataFrame], Any] | None = None

    def __post_init__(self) -> None:
        """Checks the names.

        Raises:
            ProjectError: a name is not a field of the right kind, or a word is not one of its choices.
        """
        choices = {choice.name: choice.choices for choice in CONTRACT.choices}
        numbers = {number.name for number in CONTRACT.numbers}
        for name in [*(self.words.keys() - choices), *(self.fillers.keys() - numbers)]:
            raise ProjectError(f"2.prep_clean_data.py: '{name}' is not a field of this kind in contract.py")
        for name in self.parsers.keys() - set(CONTRACT.field_names):
            raise ProjectError(f"2.prep_clean_data.py: '{name}' has a parser but is not a field in contract.py")
        for name, words in self.words.items():
            if unknown := set(words.values()) - set(choices[name]):
                raise ProjectError(f"2.prep_clean_data.py: '{min(unknown)}' is not one of the choices of '{name}'")


@dataclass(slots=True)
class Counts:
    """What became of the raw rows."""

    rows: int = 0
    clean: int = 0
    duplicates: int = 0
    unlabelled: int = 0
    reasons: Counter[str] = dataclass_field(default_factory=Counter)

    def as_metrics(self) -> dict[str, Any]:
        """For metrics.json."""
        return {
            "rows": self.rows,
            "clean": self.clean,
            "rejected": self.reasons.total(),
            "duplicates": self.duplicates,
            "unlabelled": self.unlabelled,
            "reasons": dict(self.reasons),
        }


class CleanParams(params.Params):
    """Section `clean` of params.yaml."""

    max_rejected_share: float = Field(ge=0, le=1)


def run_stage(parsing: Parsing) -> None:
    """Runs stage 2 on the files of the project."""
    section = params.load("clean", CleanParams)
    clean, rejected = data("2.clean", "rows.parquet"), data("2.clean", "rejected.parquet")
    counts = clean_file(data("1.raw", "rows.parquet"), clean, rejected, parsing, section.max_rejected_share)
    write_json(data("2.clean", "metrics.json"), counts.as_metrics())
    print(f"{counts.clean:,} clean, {counts.reasons.total():,} rejected, {counts.duplicates:,} duplicates")


def clean_file(raw_path: Path, clean_path: Path, rejected_path: Path, parsing: Parsing, max_rejected: float) -> Counts:
    """Cleans a file of raw rows; memory grows with the row ids only.

    Args:
        raw_path: Parquet, every column text.
        clean_path: written: CLEAN_SCHEMA.
        rejected_path: written: the raw columns of the rows that can't be used, and the reason.
        parsing: how columns are read.
        max_rejected: largest share of rejected rows, without duplicates.

    Raises:
        ProjectError: the columns are not the contract's, or too many rows are rejected.
    """
    raw = pq.ParquetFile(raw_path)
    check_raw_columns(raw.schema_arrow.names)
    counts = Counts()
    with replacing(clean_path) as clean_part, replacing(rejected_path) as rejected_part:
        usable_part = clean_part.with_name(f"{clean_part.name}.usable")
        try:
            ids = _first_pass(raw, usable_part, rejected_part, parsing, counts)
            _check_rejected_share(counts, max_rejected)
            repeated = ids.duplicated(keep="last").to_numpy()
            counts.duplicates = int(repeated.sum())
            _drop_duplicates(usable_part, clean_part, repeated)
            if counts.duplicates:
                _add_duplicates(raw, rejected_part, ids.index.to_numpy()[repeated])
        finally:
            usable_part.unlink(missing_ok=True)
        counts.clean = counts.rows - counts.duplicates - counts.reasons.total()
        outcomes = pq.read_table(clean_part, columns=[OUTCOME])[OUTCOME]
        counts.unlabelled = outcomes.null_count
    return counts


def _first_pass(raw: pq.ParquetFile, usable: Path, rejected: Path, parsing: Parsing, counts: Counts) -> Any:
    """Writes usable and rejected rows; returns the row ids of the usable ones, indexed by row of the raw file."""
    ids = []
    schema = _rejected_schema(raw)
    with (
        pq.ParquetWriter(usable, CLEAN_SCHEMA, compression="zstd") as usable_file,
        pq.ParquetWriter(rejected, schema, compression="zstd") as rejected_file,
    ):
        for batch in raw.iter_batches(BATCH_ROWS):
            frame = batch.to_pandas()
            clean, why = clean_rows(frame, parsing)
            good = clean[why == ""]
            usable_file.write_table(pa.Table.from_pandas(good, CLEAN_SCHEMA, preserve_index=False))
            bad = frame.assign(reason=why)[why != ""]
            rejected_file.write_table(pa.Table.from_pandas(bad, schema, preserve_index=False))
            counts.reasons.update(bad["reason"])
            ids.append(good[ROW_ID].set_axis(good.index + counts.rows))
            counts.rows += len(frame)
    return pd.concat(ids) if ids else pd.Series(dtype="str")


def _drop_duplicates(usable: Path, clean: Path, repeated: npt.NDArray[np.bool_]) -> None:
    """Copies the usable rows that are not repeated further down."""
    start = 0
    with pq.ParquetWriter(clean, CLEAN_SCHEMA, compression="zstd") as file:
        for batch in pq.ParquetFile(usable).iter_batches(BATCH_ROWS):
            keep = pa.array(~repeated[start : start + batch.num_rows])
            file.write_table(pa.Table.from_batches([batch.filter(keep)], CLEAN_SCHEMA))
            start += batch.num_rows


def _add_duplicates(raw: pq.ParquetFile, rejected: Path, places: npt.NDArray[np.int64]) -> None:
    """Appends the rows at some places of the raw file to the rejected ones."""
    schema = _rejected_schema(raw)
    before = pq.read_table(rejected)
    start = 0
    with pq.ParquetWriter(rejected, schema, compression="zstd") as file:
        file.write_table(before)
        for batch in raw.iter_batches(BATCH_ROWS):
            here = places[(places >= start) & (places < start + batch.num_rows)] - start
            frame = batch.take(pa.array(here)).to_pandas().assign(reason=DUPLICATE)
            file.write_table(pa.Table.from_pandas(frame, schema, preserve_index=False))
            start += batch.num_rows


def _rejected_schema(raw: pq.ParquetFile) -> pa.Schema:
    return pa.schema([*raw.schema_arrow, ("reason", pa.string())])


def check_raw_columns(names: list[str]) -> None:
    """The source must have the columns that the contract names, and no others.

    Raises:
        ProjectError: names the missing and the new ones, and what to edit.
    """
    missing, new = sorted(CONTRACT.raw_columns - set(names)), sorted(set(names) - CONTRACT.raw_columns)
    if missing:
        hint = f"; it has {', '.join(repr(name) for name in new)}, which the contract does not name" if new else ""
        raise ProjectError(
            f"column {', '.join(missing)} is missing from the source{hint}; add it there, or change {CONTRACT_FILE}"
        )
    if new:
        raise ProjectError(
            f"column {', '.join(repr(name) for name in new)} is not in the contract; declare it in {CONTRACT_FILE} "
            "as a field, or in not_fields with the reason, or remove it from the source"
        )


def _check_rejected_share(counts: Counts, most: float) -> None:
    """Too many rejected rows mean that the source has changed, not that some rows are bad.

    Raises:
        ProjectError: names the share, the limit and the most frequent reason.
    """
    rejected = counts.reasons.total()
    if rejected > most * counts.rows:
        reason, count = counts.reasons.most_common(1)[0]
        raise ProjectError(
            f"{rejected:,} of {counts.rows:,} rows are rejected, more than clean.max_rejected_share ({most:.2%}); "
            f"the most frequent reason: {reason} ({count:,} rows)"
        )


def clean_rows(raw: pd.DataFrame, parsing: Parsing) -> "tuple[pd.DataFrame, pd.Series[str]]":
    """Cleans a batch.

    Args:
        raw: text columns as in the source.
        parsing: how they are read.

    Returns:
        The frame of CLEAN_SCHEMA's columns, and for each row why it can't be used ("" when it can); the values of a
        row that can't be used have no meaning.
    """
    why = pd.Series("", index=raw.index, dtype="str")

    def reject(rows: "pd.Series[bool]", reason: "str | pd.Series[str]") -> None:
        why[rows & (why == "")] = reason

    clean = pd.DataFrame({ROW_ID: row_ids(raw)})
    if CONTRACT.row_id:
        valid = clean[ROW_ID].str.fullmatch(CONTRACT.row_id.pattern)
        reject(~valid, f"{CONTRACT.row_id.column} is empty or malformed")
    if CONTRACT.date:
        clean[DATE] = (parsing.date or _iso_dates)(raw)
        reject(clean[DATE].isna(), f"{CONTRACT.date} can't be read as a date")
    target = CONTRACT.target
    outcome = raw[target.column].str.strip()
    codes = dict.fromkeys(target.positive, 1) | dict.fromkeys(target.negative, 0)
    clean[OUTCOME] = outcome.map(codes).astype("Int8")
    reject(~outcome.isin([*codes, *target.unlabelled]), f"{target.column} is none of {', '.join(filter(None, codes))}")
    fields, broken = read_fields(raw, parsing)
    reject(broken != "", broken)
    return clean.join(fields), why


def read_fields(raw: pd.DataFrame, parsing: Parsing) -> "tuple[pd.DataFrame, pd.Series[str]]":
    """Reads the contract's fields from raw text; keys and outcome need not be there.

    Args:
        raw: text columns as in the source, those of the fields at least.
        parsing: how they are read.

    Returns:
        The frame of the fields, and for each row why it can't be used ("" when it can).
    """
    why = pd.Series("", index=raw.index, dtype="str")
    fields = pd.DataFrame(index=raw.index)
    for each in CONTRACT.fields:
        text = raw[each.column].str.strip()
        text = text.where(~text.isin(parsing.missing), "")
        fields[each.name] = values = _parsed(each, text, parsing)
        if not isinstance(each, Choice):
            why[values.isna() & (text != "") & (why == "")] = f"{each.column} can't be read as a number"
            fillers = parsing.fillers.get(each.name, frozenset())
            fields[each.name] = values.where(~values.isin(fillers))
    broken = failures(fields)
    why.loc[broken.index] = why.loc[broken.index].where(why.loc[broken.index] != "", broken)
    return fields, why


def row_ids(raw: pd.DataFrame, contract: Contract = CONTRACT) -> "pd.Series[str]":
    """The row id of each raw row: its column, or a SHA-256 of all columns where the source has no id."""
    if contract.row_id:
        return raw[contract.row_id.column].str.strip()
    names = sorted(contract.raw_columns)
    lines = raw[names].agg("\x1f".join, axis=1)
    return lines.map(lambda line: hashlib.sha256(line.encode()).hexdigest())


def _parsed(each: ContractField, text: Any, parsing: Parsing) -> Any:
    if isinstance(each, Choice):
        text = text.str.replace(r"^([0-9]+)\.0+$", r"\1", regex=True)  # a spreadsheet writes the code 1 as 1.0
        if each.name in parsing.parsers:
            return parsing.parsers[each.name](text)
        if each.name in parsing.words:
            return text.map(parsing.words[each.name])
        return text.where(text != "")
    return parsing.parsers.get(each.name, numbers)(text)


def numbers(text: Any) -> Any:
    """Numbers from text such as `-12`, `0.5` and `6.1e-05`; NaN for anything else (also for `nan` and `inf`)."""
    return pd.to_numeric(text.where(text.str.fullmatch(r"-?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?"))).astype("float64")


def _iso_dates(raw: pd.DataFrame) -> Any:
    return pd.to_datetime(raw[CONTRACT.date].str.strip(), format="%Y-%m-%d", errors="coerce")
