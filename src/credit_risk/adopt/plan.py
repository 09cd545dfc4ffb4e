"""What is decided about a data set from its columns: keys, fields, and the columns that are no fields."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from credit_risk.adopt.columns import Column, missing_spellings, profile
from credit_risk.adopt.declaration import Request, declare_contract, reason_for_no_field
from credit_risk.adopt.parsers import MISSING, READABLE
from credit_risk.core.arrays import Floats, Labels
from credit_risk.core.errors import ProjectError
from credit_risk.core.feature_set import FeatureSet, default_features
from credit_risk.core.schema import Choice, Contract, Target, plain_code
from credit_risk.data.parsing import last_date, row_ids
from credit_risk.data.splits import hash_share
from credit_risk.evaluation.leakage import single_feature_aucs

MIN_ROWS = 50  # of each outcome: with fewer, neither a threshold nor a metric on the holdout means anything
SMALL = 5_000  # rows below which a larger share is held out
SEED = 1
MIN_SPLIT_ROWS = 30  # of each outcome in each split, if there are as many
SHOWN = 8  # names or values in an error message
OUTCOMES = (0, 1)
LATE_SHARE = 0.2  # of the rows, that are about to be held out as the newest
MAX_LATE_SHARE = 0.6  # … and at most


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is known of a data set, and decided.

    Attributes:
        request: the command line.
        raw: every row as text.
        columns: by raw name.
        missing: spellings of a missing value.
        contract: the contract that is written.
        aucs: by raw column, the out-of-fold ROC AUC of each field or suspected leak alone.
        leaks: raw columns at or above the limit.
        out_of_time_months: the newest months that are held out; None without a date.
        test_share: of the older rows.
    """

    request: Request
    raw: pd.DataFrame
    columns: Mapping[str, Column]
    missing: frozenset[str]
    contract: Contract
    aucs: Mapping[str, float]
    leaks: tuple[str, ...]
    out_of_time_months: int | None
    test_share: float

    @cached_property
    def rows(self) -> "Rows":
        """The labelled rows with the features of the contract."""
        return labelled_rows(self.raw, self.columns, self.contract)

    @cached_property
    def split(self) -> npt.NDArray[np.str_]:
        """`train`, `test` or `out_of_time` of each labelled row, as stage 4 will split them."""
        return _split(self.rows, self.contract, self.test_share, self.out_of_time_months)

    @property
    def min_rows(self) -> int:
        """What stage 4 may ask for: rows of the rarer outcome in each split."""
        fewest = min(int(np.bincount(self.rows.labels[self.split == part]).min()) for part in np.unique(self.split))
        return MIN_SPLIT_ROWS if fewest >= MIN_SPLIT_ROWS else max(1, fewest // 2)

    @property
    def rejected_share(self) -> float:
        """Share of rows with a number or a key that can't be read."""
        bad = row_ids(self.raw, self.contract) == ""
        if self.contract.date:
            bad |= ~(read_dates(self.columns[self.contract.date]) <= last_date())
        for number in self.contract.numbers:
            column = self.columns[number.column]
            bad |= column.numbers.isna() & (column.text != "")
        return float(bad.mean())

    def proposals(self, kind: str) -> list[str]:
        """Raw columns of a kind, such as ids or dates, that the command line does not name."""
        taken = {self.request.row_id, self.request.date}
        return [name for name, column in self.columns.items() if column.kind == kind and name not in taken]


@dataclass(frozen=True)
class Rows:
    """Labelled rows, each once: features (n, k) in float32 with their names and categories, labels, ids and dates."""

    features: Floats
    names: tuple[str, ...]
    categorical: tuple[str, ...]
    labels: Labels
    ids: "pd.Series[str]"
    dates: "pd.Series[pd.Timestamp] | None"


def make(request: Request, raw: pd.DataFrame) -> Plan:
    """The plan for a data set.

    Raises:
        ProjectError: what the command line says does not fit the data, or the data do not fit the template.
    """
    for name in filter(None, (request.target, request.row_id, request.date)):
        _check_column(name, raw, request.path)
    target = _target(request, raw[request.target])
    features = raw.drop(columns=request.target)
    missing = frozenset().union(*(missing_spellings(features[name]) for name in features)) - {""}
    columns = {
        str(name): profile(str(name), features[name].where(~features[name].isin(missing), "")) for name in features
    }
    _check_keys(request, columns)
    keys = {request.target, request.row_id, request.date}
    possible = {name: reason_for_no_field(column) for name, column in columns.items() if name not in keys}
    excluded = {name: reason for name, reason in possible.items() if reason}
    used = [name for name in columns if name not in keys and name not in excluded]
    contract = declare_contract(request, target, columns, used, excluded)
    rows = labelled_rows(raw, columns, contract)
    _check_rows(target, rows)
    small = len(rows.labels) < SMALL
    months = None if rows.dates is None else _months(rows.dates, rows.labels)
    test_share = 0.3 if small else 0.2
    train = _split(rows, contract, test_share, months) == "train"
    aucs = single_feature_aucs(rows.features[train], rows.labels[train], rows.names, SEED)
    by_column = {contract.field(name).column: auc for name, auc in aucs.items()}
    leaks = tuple(name for name, auc in by_column.items() if auc >= request.leak_auc and request.leak_auc < 1)
    if leaks:
        if len(leaks) == len(used):
            raise ProjectError(
                f"each column alone reaches a ROC AUC of {request.leak_auc} ({', '.join(leaks[:3])}, …), as if all "
                "knew the outcome; if they really are that good, keep them with --leak-auc 1"
            )
        reasons = {name: f"leak? its ROC AUC alone is {by_column[name]:.2f}; say when it is known" for name in leaks}
        excluded = {name: (excluded | reasons)[name] for name in columns if name in excluded or name in leaks}
        contract = declare_contract(request, target, columns, [name for name in used if name not in leaks], excluded)
    return Plan(
        request=request,
        raw=raw,
        columns=columns,
        missing=missing,
        contract=contract,
        aucs=by_column,
        leaks=leaks,
        out_of_time_months=months,
        test_share=test_share,
    )


def labelled_rows(raw: pd.DataFrame, columns: Mapping[str, Column], contract: Contract) -> Rows:
    """The rows that have an outcome and all required keys, with the features of a contract's fields."""
    codes = dict.fromkeys(contract.target.positive, 1) | dict.fromkeys(contract.target.negative, 0)
    outcome = raw[contract.target.column].map(plain_code).map(codes)
    ids = row_ids(raw, contract)
    dates = read_dates(columns[contract.date]) if contract.date else None
    usable = outcome.notna() & (ids != "") & ~ids.duplicated(keep="last")
    if dates is not None:
        usable &= dates <= last_date()
    values: dict[str, Any] = {}
    for each in contract.fields:
        column = columns[each.column]
        values[each.name] = (column.categories if isinstance(each, Choice) else column.numbers)[usable].to_numpy()
    features = FeatureSet(contract, default_features(contract))
    return Rows(
        features.from_columns(values),
        features.names,
        features.categorical,
        outcome[usable].to_numpy().astype(np.int8),
        ids[usable],
        None if dates is None else dates[usable],
    )


def read_dates(column: Column) -> Any:
    """The dates of a column, NaT where missing."""
    return pd.to_datetime(column.text, format=column.formats[0], errors="coerce").dt.normalize()


def _split(rows: Rows, contract: Contract, test_share: float, months: int | None) -> npt.NDArray[np.str_]:
    split = np.where(hash_share(rows.ids.tolist(), contract.problem.name) < test_share, "test", "train")
    if rows.dates is not None and months is not None:
        cut = rows.dates.max() - pd.DateOffset(months=months)
        split = np.where(rows.dates.to_numpy() > cut.to_datetime64(), "out_of_time", split)
    return split


def _check_column(name: str, raw: pd.DataFrame, path: Path) -> None:
    if name in raw:
        return
    near = difflib.get_close_matches(name, map(str, raw.columns), 1, cutoff=0.5)
    hint = (
        f"did you mean '{near[0]}'?"
        if near
        else f"it has {', '.join(raw.columns[:SHOWN])}" + ", …" * (raw.shape[1] > SHOWN)
    )
    raise ProjectError(f"{path.name} has no column '{name}'; {hint}")


def _target(request: Request, text: "pd.Series[str]") -> Target:
    counts = text.map(plain_code).value_counts()
    unlabelled = [name for name in counts.index if name in ("", *MISSING)]
    counts = counts.drop(unlabelled)
    shown = ", ".join(f"'{value}'" for value in counts.index[:SHOWN]) + (", …" if len(counts) > SHOWN else "")
    if len(counts) > len(OUTCOMES):
        raise ProjectError(
            f"column '{request.target}' has {len(counts):,} different outcomes ({shown}), and this template predicts "
            "one of two; make a column with two values first"
        )
    if len(counts) < len(OUTCOMES):
        raise ProjectError(f"column '{request.target}' has the same outcome in every row ({shown or 'it is empty'})")
    positive = plain_code(request.positive)
    if positive not in counts:
        raise ProjectError(f"'{request.positive}' is not a value of '{request.target}'; its values are {shown}")
    for value, count in counts.items():
        if count < MIN_ROWS:
            raise ProjectError(
                f"only {count} rows have '{request.target}' = '{value}'; at least {MIN_ROWS} of each outcome are needed"
            )
    negative = next(value for value in counts.index if value != positive)
    return Target(
        column=request.target,
        positive=(positive,),
        negative=(str(negative),),
        unlabelled=("", *sorted(set(unlabelled) - {""})),
    )


def _check_rows(target: Target, rows: Rows) -> None:
    """Rows without a key are rejected, and equal ones count once."""
    for code, (value,) in enumerate((target.negative, target.positive)):
        if (count := int((rows.labels == code).sum())) < MIN_ROWS:
            raise ProjectError(
                f"only {count} different rows have '{target.column}' = '{value}'; at least {MIN_ROWS} of each outcome "
                "are needed"
            )


def _check_keys(request: Request, columns: Mapping[str, Column]) -> None:
    if request.row_id == request.target or request.date in (request.target, request.row_id or ""):
        raise ProjectError("--target, --id and --date must be three different columns")
    if request.row_id:
        column = columns[request.row_id]
        if column.missing_share > 1 - READABLE:
            raise ProjectError(f"'{request.row_id}' is no row id: {column.missing_share:.1%} of its cells are empty")
        if (distinct := column.known.nunique()) < len(column.known) / 2:
            raise ProjectError(
                f"'{request.row_id}' is no row id: {len(column.known):,} rows have {distinct:,} different values, and "
                "of the rows with one id only the last is used"
            )
    if request.date:
        column = columns[request.date]
        if not column.formats:
            example = column.known.iloc[0] if len(column.known) else ""
            raise ProjectError(f"the values of '{request.date}' can't be read as dates, such as '{example}'")
        if column.missing_share > 1 - READABLE:
            raise ProjectError(
                f"{column.missing_share:.1%} of the dates in '{request.date}' are empty; leave out --date"
            )


def _months(dates: "pd.Series[pd.Timestamp]", labels: Labels) -> int:
    """How many of the newest months to hold out: about a fifth of the rows, with both outcomes on both sides."""
    best: tuple[float, int] | None = None
    for months in (1, 2, 3, 6, 12, 24, 36, 60):
        newest = dates > dates.max() - pd.DateOffset(months=months)
        kinds = [np.bincount(labels[part], minlength=2).min() for part in (newest.to_numpy(), ~newest.to_numpy())]
        if min(kinds) >= MIN_ROWS // 2:
            distance = abs(float(newest.mean()) - LATE_SHARE)
            best = min(best or (distance, months), (distance, months))
    if best is None or best[0] > MAX_LATE_SHARE - LATE_SHARE:
        days = (dates.max() - dates.min()).days
        raise ProjectError(
            f"the dates span {days} days, and no number of newest months leaves enough rows of both outcomes on either "
            "side for an out-of-time holdout; leave out --date"
        )
    return best[1]
