"""Stage 2: reads raw rows in batches, and accounts for each: clean, rejected with a reason, or a duplicate.

`data/parsing.py` says why a row is rejected. Of several usable rows with one row id, the last is kept, that is the one
of the source that stage 1 has read last; the others are duplicates. Where they have another outcome, they are counted.
"""

from collections import Counter
from collections.abc import Sequence
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
from credit_risk.core.files import read_json, replacing, write_json
from credit_risk.core.paths import data
from credit_risk.core.schema import DATE, OUTCOME, ROW_ID, Number
from credit_risk.data.columns import reason_column, respelt
from credit_risk.data.duplicates import Duplicates, find_duplicates
from credit_risk.data.parsing import Parsing, clean_rows

BATCH_ROWS = 100_000
DUPLICATE = "a later row has the same row id"
CONFLICT = "a later row has the same row id and another outcome"
COMMONEST = 5  # unknown codes of a column that are named
CONTRACT_FILE = "contract.py of the package"

CLEAN_SCHEMA = pa.schema(
    [
        (ROW_ID, pa.string()),
        *([(DATE, pa.date32())] if CONTRACT.has_date else []),
        (OUTCOME, pa.int8()),
        *((field.name, pa.float64() if isinstance(field, Number) else pa.string()) for field in CONTRACT.fields),
    ]
)


@dataclass(slots=True)
class Counts:
    """What became of the raw rows.

    Attributes:
        rows: in the raw file.
        clean: that can be used.
        duplicates: that are left out because a later row has the same row id.
        missing: of the clean ones, those without a value, by field that may be missing.
        unlabelled: of the clean ones, those without an outcome.
        reasons: how many are rejected, by reason.
        unknown: by raw column of codes, how often each code occurs that is not declared.
        conflicts: rows that were kept instead of one with another outcome, by source.
    """

    rows: int = 0
    clean: int = 0
    duplicates: int = 0
    missing: dict[str, int] = dataclass_field(default_factory=dict)
    unlabelled: int = 0
    reasons: Counter[str] = dataclass_field(default_factory=Counter)
    unknown: dict[str, Counter[str]] = dataclass_field(default_factory=dict)
    conflicts: Counter[str] = dataclass_field(default_factory=Counter)

    def as_metrics(self) -> dict[str, Any]:
        """For metrics.json."""
        return {
            "rows": self.rows,
            "clean": self.clean,
            "rejected": self.reasons.total(),
            "duplicates": self.duplicates,
            "unlabelled": self.unlabelled,
            "missing": self.missing,
            "reasons": dict(self.reasons),
            "outcome_conflicts": {"rows": self.conflicts.total(), "kept": dict(self.conflicts)},
            "unknown_codes": {
                column: {"rows": codes.total(), "commonest": dict(codes.most_common(COMMONEST))}
                for column, codes in self.unknown.items()
            },
        }

    def summary(self) -> str:
        """One line."""
        text = f"{self.clean:,} clean, {self.reasons.total():,} rejected, {self.duplicates:,} duplicates"
        if self.conflicts:
            text += f", {self.conflicts.total():,} with another outcome than before: kept as in "
            text += ", ".join(f"{source} ({rows:,})" for source, rows in self.conflicts.most_common())
        return text


class CleanParams(params.Params):
    """Section `clean` of params.yaml."""

    max_rejected_share: float = Field(ge=0, le=1)
    max_unknown_share: float = Field(ge=0, le=1)


def run_stage(parsing: Parsing) -> None:
    """Runs stage 2 on the files of the project."""
    limits = params.load("clean", CleanParams)
    manifest = read_json(data("1.raw", "manifest.json"))
    sources = [(entry["source"], entry["rows"]) for entry in manifest]
    counts = clean_file(data("1.raw", "rows.parquet"), data("2.clean"), parsing, limits, sources)
    write_json(data("2.clean", "metrics.json"), counts.as_metrics())
    print(counts.summary())


def clean_file(
    raw_path: Path, folder: Path, parsing: Parsing, limits: CleanParams, sources: Sequence[tuple[str, int]]
) -> Counts:
    """Cleans a file of raw rows; memory grows with the row ids and unknown codes only.

    Args:
        raw_path: Parquet, every column text.
        folder: gets `rows.parquet` with CLEAN_SCHEMA, and `rejected.parquet` with the raw columns of the rows that
            can't be used, and the reason.
        parsing: how columns are read.
        limits: largest shares of rejected rows (without duplicates) and of unknown codes.
        sources: name of each source and its number of rows, in the order of the raw file.

    Raises:
        ProjectError: the columns are not the contract's, too many rows are rejected, or too many codes are unknown.
    """
    raw = pq.ParquetFile(raw_path)
    check_raw_columns(raw.schema_arrow.names)
    counts = Counts()
    with replacing(folder / "rows.parquet") as clean_part, replacing(folder / "rejected.parquet") as rejected_part:
        usable_part = clean_part.with_name(f"{clean_part.name}.usable")
        try:
            keys = _first_pass(raw, usable_part, rejected_part, parsing, counts)
            _check_unknown_share(counts, limits.max_unknown_share)
            _check_rejected_share(counts, limits.max_rejected_share)
            duplicates = find_duplicates(keys)
            counts.duplicates = len(duplicates.places)
            empty = _drop_duplicates(usable_part, clean_part, keys.index.isin(duplicates.places))
            if counts.duplicates:
                _add_duplicates(raw, rejected_part, duplicates)
        finally:
            usable_part.unlink(missing_ok=True)
        counts.clean = counts.rows - counts.duplicates - counts.reasons.total()
        counts.conflicts.update(_source_names(duplicates.kept, sources))
        counts.unlabelled = empty[OUTCOME]
        counts.missing = {field.name: empty[field.name] for field in CONTRACT.fields if not field.required}
    return counts


def _first_pass(raw: pq.ParquetFile, usable: Path, rejected: Path, parsing: Parsing, counts: Counts) -> pd.DataFrame:
    """Writes usable and rejected rows; returns row id and outcome of the usable ones by their place."""
    keys = []
    schema = _rejected_schema(raw)
    with (
        pq.ParquetWriter(usable, CLEAN_SCHEMA, compression="zstd") as usable_file,
        pq.ParquetWriter(rejected, schema, compression="zstd") as rejected_file,
    ):
        for batch in raw.iter_batches(BATCH_ROWS):
            frame = batch.to_pandas()
            rows, reasons, unknown = clean_rows(frame, parsing)
            good = rows[reasons == ""]
            usable_file.write_table(pa.Table.from_pandas(good, CLEAN_SCHEMA, preserve_index=False))
            bad = frame.assign(**{schema.names[-1]: reasons})[reasons != ""]
            rejected_file.write_table(pa.Table.from_pandas(bad, schema, preserve_index=False))
            counts.reasons.update(reasons[reasons != ""])
            for column, codes in unknown.items():
                counts.unknown.setdefault(column, Counter()).update(codes)
            keys.append(good[[ROW_ID, OUTCOME]].set_axis(good.index + counts.rows))
            counts.rows += len(frame)
    return pd.concat(keys) if keys else pd.DataFrame({ROW_ID: pd.Series(dtype="str"), OUTCOME: []})


def _source_names(places: npt.NDArray[np.int64], sources: Sequence[tuple[str, int]]) -> list[str]:
    """The source of each row, by its place in the raw file."""
    ends = np.cumsum([rows for _, rows in sources])
    return [sources[index][0] for index in np.searchsorted(ends, places, side="right")]


def _drop_duplicates(usable: Path, clean: Path, repeated: npt.NDArray[np.bool_]) -> Counter[str]:
    """Copies the usable rows that are not repeated further down; counts their missing values by column."""
    start = 0
    empty: Counter[str] = Counter()
    with pq.ParquetWriter(clean, CLEAN_SCHEMA, compression="zstd") as file:
        for batch in pq.ParquetFile(usable).iter_batches(BATCH_ROWS):
            kept = batch.filter(pa.array(~repeated[start : start + batch.num_rows]))
            file.write_table(pa.Table.from_batches([kept], CLEAN_SCHEMA))
            empty.update({name: kept[name].null_count for name in CLEAN_SCHEMA.names})
            start += batch.num_rows
    return empty


def _add_duplicates(raw: pq.ParquetFile, rejected: Path, duplicates: Duplicates) -> None:
    """Appends the duplicates' raw rows to the rejected ones."""
    schema = _rejected_schema(raw)
    before = pq.read_table(rejected)
    reasons = np.where(duplicates.conflicts, CONFLICT, DUPLICATE)
    start = 0
    with pq.ParquetWriter(rejected, schema, compression="zstd") as file:
        file.write_table(before)
        for batch in raw.iter_batches(BATCH_ROWS):
            here = (duplicates.places >= start) & (duplicates.places < start + batch.num_rows)
            rows = batch.take(pa.array(duplicates.places[here] - start)).to_pandas()
            rows = rows.assign(**{schema.names[-1]: reasons[here]})
            file.write_table(pa.Table.from_pandas(rows, schema, preserve_index=False))
            start += batch.num_rows


def _rejected_schema(raw: pq.ParquetFile) -> pa.Schema:
    """The raw columns, and last the reason, under a name that the source does not have."""
    return pa.schema([*raw.schema_arrow, (reason_column(raw.schema_arrow.names), pa.string())])


def check_raw_columns(names: list[str]) -> None:
    """The source must have the columns that the contract names, and no others.

    Raises:
        ProjectError: names the missing and the new ones, and what to edit.
    """
    missing, new = sorted(CONTRACT.raw_columns - set(names)), sorted(set(names) - CONTRACT.raw_columns)
    if spelt := respelt(names, CONTRACT.raw_columns):
        pairs = ", ".join(f"'{other}' instead of '{name}'" for name, other in spelt.items())
        raise ProjectError(f"the source has column {pairs}; rename it there, or change {CONTRACT_FILE}")
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


def _check_unknown_share(counts: Counts, most: float) -> None:
    """Many unknown codes mean that the source has changed; they would count as missing.

    Raises:
        ProjectError: names the column with the largest share, the limit and the commonest codes.
    """
    column, codes = max(counts.unknown.items(), key=lambda item: item[1].total())
    if codes.total() > most * counts.rows:
        commonest = ", ".join(f"'{code}' ({rows:,} rows)" for code, rows in codes.most_common(COMMONEST))
        raise ProjectError(
            f"column {column} has unknown codes in {codes.total():,} of {counts.rows:,} rows, more than "
            f"clean.max_unknown_share ({most:.2%}): {commonest}; declare them in contract.py or in the words of "
            "2.prep_clean_data.py (None for a code that says nothing), or fix the source"
        )
