"""The contract that a data set's columns suggest: which are fields, with what range or words, and which are none."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from credit_risk.adopt.code import EXACT
from credit_risk.adopt.columns import Column, field_name
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import Choice, Contract, Field, Number, Problem, RowId, Target, name_problem, plain_column
from credit_risk.data.parsing import plain_ids

STEPS = (1, 2, 5)  # times a power of ten: the grid of ranges, a tenth of the span or less
# Values that need their column's name.
PLAIN_WORDS = {"yes", "no", "y", "n", "true", "false", "t", "f", "0", "1", "0.0", "1.0"}
UNIT = ""  # that nobody has said yet
# Reasons why a column is no field, as `not_fields` of the contract has them.
REASONS = {
    "date": "it is a date; only the order of the rows may come from it",
    "id": "it identifies the row: all its values differ",
    "constant": "it has one value",
    "empty": "it is empty",
}


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user has said on the command line."""

    path: Path
    target: str
    positive: str
    row_id: str | None = None
    date: str | None = None
    title: str | None = None
    leak_auc: float = 0.9


def reason_for_no_field(column: Column) -> str | None:
    """Why a column can't be a field; None if it can."""
    if column.kind == "text":
        return f"it has {column.known.nunique():,} different texts"
    return REASONS.get(column.kind)


def declare_contract(
    request: Request, target: Target, columns: Mapping[str, Column], used: list[str], excluded: Mapping[str, str]
) -> Contract:
    """The contract of a data set.

    Args:
        request: what the user has said.
        target: the outcome.
        columns: by raw name.
        used: raw names of the columns that become fields, unless another column is spelt nearly the same.
        excluded: the reason for each column that is no field.

    Raises:
        ProjectError: no column can be a field.
    """
    excluded = dict(excluded)
    taken = {
        plain_column(name) for name in (*excluded, request.target, request.row_id, request.date) if name is not None
    }
    fields: list[Field] = []
    for raw in used:
        if plain_column(raw) in taken:
            excluded[raw] = "another column that is no field has nearly the same name"
            continue
        name = field_name(raw, lambda name: name in [each.name for each in fields] or plain_column(name) in taken)
        fields.append(_field(name, columns[raw]))
    if not fields:
        raise ProjectError(f"no column of {request.path.name} can be a field: {'; '.join(_listed(excluded))}")
    ids = columns[request.row_id].known if request.row_id else None
    digits = ids is not None and bool(ids.str.fullmatch("[0-9]+").all())
    row_id = RowId(request.row_id, pattern="[0-9]+" if digits else ".+") if request.row_id else None
    if row_id and ids is not None and plain_ids(ids).nunique() < ids.nunique():
        row_id = replace(row_id, number=False)  # 007 and 7 both occur
    return Contract(
        problem=_problem(request, target),
        target=target,
        row_id=row_id,
        date=request.date,
        fields=tuple(fields),
        not_fields=excluded,
    )


def _listed(excluded: Mapping[str, str]) -> list[str]:
    return [f"'{name}': {reason}" for name, reason in list(excluded.items())[:5]]


def slug(title: str) -> str:
    """The project's name of a title: `customer-churn` of `Customer churn`."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _problem(request: Request, target: Target) -> Problem:
    stem = re.sub(r"\.(csv\.gz|csv|parquet)$", "", request.path.name)
    title = request.title or " ".join(re.split(r"[^A-Za-z0-9]+", stem)).strip().capitalize()
    if problem := name_problem(slug(title)):
        raise ProjectError(f"the name {problem}; choose another with --name")
    label = " ".join(re.split(r"[^A-Za-z0-9]+", target.column)).strip() or target.column
    (positive,), (negative,) = target.positive, target.negative
    return Problem(
        name=slug(title),
        title=title,
        question=f"How likely is it that {label} is {positive}?",
        row="row",
        rows="rows",
        event=label if positive.lower() in PLAIN_WORDS else positive,
        positive=_outcome(label, positive),
        negative=_outcome(label, negative),
        accept="accept",
        accepted="accepted",
        decline="decline",
        declined="declined",
        source=f"{request.path.name}.",
        limits=("Nobody has reviewed yet what the model may be used for.",),
    )


def _outcome(label: str, value: str) -> str:
    return f"{label}: {value}" if value.lower() in PLAIN_WORDS else value


def _field(name: str, column: Column) -> Field:
    required = not (column.text == "").any()
    description = column.raw.strip().replace("_", " ")
    if column.kind == "choice":
        # In alphabetical order a word keeps its code when another run finds other frequencies.
        return Choice(
            name=name,
            column=column.raw,
            choices=tuple(sorted(column.words)),
            description=description,
            example=column.words[0],
            required=required,
        )
    values = column.numbers.dropna()
    whole = bool((values == values.round()).all())
    minimum, maximum = value_range(float(values.min()), float(values.max()), whole)
    median = float(values.quantile(0.5, interpolation="lower"))
    return Number(
        name=name,
        column=column.raw,
        unit=UNIT,
        minimum=minimum,
        maximum=maximum,
        description=description,
        example=median,
        whole=whole,
        required=required,
    )


def value_range(low: float, high: float, whole: bool) -> tuple[float, float]:
    """The range rounded outwards, to a tenth of its span or less."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 10))
    step = max(power * each for each in STEPS if power * each <= span / 10 * (1 + 1e-9))
    step = max(step, 1.0) if whole else step
    return _rounded(math.floor(low / step + 1e-9) * step), _rounded(math.ceil(high / step - 1e-9) * step)


def _rounded(value: float) -> float:
    """Without the last bits of a multiplication, and whole where it is whole."""
    value = float(f"{value:.10g}")
    return int(value) if value == round(value) and abs(value) < EXACT else value
