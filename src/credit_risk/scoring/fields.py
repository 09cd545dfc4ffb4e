"""From batches of rows to numbers: the contract's fields are checked and coded column by column.

Rows have either the raw columns of the source, which are parsed as in stage 2, or the contract's fields.
"""

import runpy
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.feature_set import MISSING, UNSEEN
from credit_risk.core.paths import root
from credit_risk.core.schema import ROW_ID, Choice, Name, Number
from credit_risk.features import FEATURES

Kind = Literal["fields", "raw"]
PARSING = "4.dvc_pipeline/2.prep_clean_data.py"


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of n rows.

    Attributes:
        ids: the row ids, text of shape (n,).
        numbers: by field name numbers or category codes, shape (n,).
        reasons: for each row why it is rejected, or an empty text; None if none is.
    """

    ids: pa.Array
    numbers: dict[str, npt.NDArray[np.float64]]
    reasons: npt.NDArray[Any] | None


def kind_of(schema: pa.Schema, name: str) -> Kind:
    """What the columns of a file are.

    Raises:
        ProjectError: they are neither the contract's fields nor the source's columns; names what is wrong.
    """
    given = set(schema.names)
    required = {field.name for field in CONTRACT.fields if field.required}
    raw = {field.column for field in CONTRACT.fields}
    fields, keys = set(CONTRACT.field_names), {*CONTRACT.keys}
    # A source may call its columns as the fields are called: then text still has to be parsed.
    if required <= given and (not raw <= given or ROW_ID in given or not _all_text(schema)):
        if unknown := given - fields - keys:
            raise ProjectError(f"{name}: column {_quoted(unknown)} is not a field of the contract; remove or rename it")
        return "fields"
    if raw <= given:
        if unknown := given - CONTRACT.raw_columns:
            raise ProjectError(f"{name}: column {_quoted(unknown)} is not in the contract; remove or rename it")
        return "raw"
    raise ProjectError(
        f"{name} has neither the contract's fields (missing: {_quoted(required - given)}) nor the source's columns "
        f"(missing: {_quoted(raw - given)})"
    )


def _all_text(schema: pa.Schema) -> bool:
    return all(pa.types.is_string(schema.field(number.name).type) for number in CONTRACT.numbers if number.required)


def _quoted(names: set[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def read(batch: pa.RecordBatch, kind: Kind, source: str, first_row: int) -> Rows:
    """Reads and checks a batch.

    Args:
        batch: rows with the columns of a kind.
        kind: of the columns.
        source: name of the file, for the ids of rows that have none.
        first_row: number of the batch's first row in the file.

    Raises:
        ProjectError: a column has a type that its field can't have.
    """
    if kind == "fields":
        values, reasons = field_values(batch, source)
        return Rows(_ids(batch, ROW_ID, source, first_row), values, reasons)
    return _read_raw(batch, source, first_row)


def _read_raw(batch: pa.RecordBatch, source: str, first_row: int) -> Rows:
    from credit_risk.data.parsing import plain_ids, read_fields

    text = pa.RecordBatch.from_arrays([as_text(column) for column in batch.columns], names=batch.schema.names)
    frame, why, _ = read_fields(text.to_pandas(), parsing())
    values, _ = field_values(pa.RecordBatch.from_pandas(frame, preserve_index=False), source)
    reasons = why.to_numpy(object)
    key = CONTRACT.row_id
    ids = _ids(text, key.column if key else "", source, first_row)
    if key and key.number:  # as stage 2 stores them
        ids = pa.array(plain_ids(ids.to_pandas()), pa.string())
    if key and key.column in text.schema.names:
        malformed = ~ids.to_pandas().str.fullmatch(key.pattern).to_numpy(bool)
        reasons[malformed] = f"{key.column} is empty or malformed"
    return Rows(ids, values, reasons if (reasons != "").any() else None)


@cache
def parsing() -> Any:
    """How stage 2 reads the source's columns."""
    return runpy.run_path(str(root() / PARSING))["PARSING"]


def as_text(column: pa.Array) -> pa.Array:
    """A column as text, empty where it is missing."""
    return column.cast(pa.string()).fill_null("")


def _ids(batch: pa.RecordBatch, column: str, source: str, first_row: int) -> pa.Array:
    """The row ids; where a row has none, its file and number."""
    own = pc.utf8_trim_whitespace(as_text(batch[column])) if column in batch.schema.names else None
    if own is not None and not pc.any(pc.equal(own, "")).as_py():
        return own
    numbers = pa.array(np.arange(first_row, first_row + len(batch))).cast(pa.string())
    made = pc.binary_join_element_wise(source, numbers, ":")
    return made if own is None else pc.if_else(pc.equal(own, ""), made, own)


def field_values(
    batch: pa.RecordBatch, source: str = "the input"
) -> tuple[dict[str, npt.NDArray[np.float64]], npt.NDArray[Any] | None]:
    """The contract's fields as numbers and codes, and for each row the first rule that it breaks.

    Args:
        batch: columns by field name; an absent one counts as missing in all rows.
        source: for error messages.

    Returns:
        By field name an array of shape (n,); and reasons of shape (n,), None if no row breaks a rule.

    Raises:
        ProjectError: a column has a type that its field can't have.
    """
    values: dict[str, npt.NDArray[np.float64]] = {}
    broken: list[tuple[npt.NDArray[np.bool_], str]] = []
    for field in CONTRACT.fields:
        column = batch[field.name] if field.name in batch.schema.names else pa.nulls(len(batch), pa.string())
        try:
            values[field.name], bad = _numbers(field, column) if isinstance(field, Number) else _codes(field, column)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError) as error:
            raise ProjectError(f"{source}: column '{field.name}' {field.rule}, but holds {column.type}") from error
        if bad.any():
            broken.append((bad, f"{field.name} {field.rule}"))
    for rule in CONTRACT.rules:
        bad = values[rule.smaller] > values[rule.larger]
        if bad.any():
            broken.append((bad, f"{rule.smaller} {rule.rule}"))
    if not broken:
        return values, None
    reasons = np.full(len(batch), "", object)
    for bad, why in reversed(broken):
        reasons[bad] = why
    return values, reasons


def _numbers(field: Number, column: pa.Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """A column of numbers, NaN where it is missing, and which rows break the field's rule."""
    unreadable: Any = False
    if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        from credit_risk.data.parsing import numbers

        text = as_text(column).to_pandas().str.strip()
        values = numbers(text).to_numpy(np.float64)
        unreadable = np.isnan(values) & (text != "").to_numpy()
    elif pa.types.is_boolean(column.type) or pa.types.is_temporal(column.type):
        raise TypeError
    else:
        values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    missing = np.isnan(values)
    good = (values >= field.minimum) & (values <= field.maximum)
    if field.whole:
        good &= values == np.round(values)
    if not field.required:
        good |= missing
    return values, ~good | unreadable


def _codes(field: Choice | Name, column: pa.Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """A column of words as codes, and which rows break the field's rule."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    words = encoded.dictionary.to_pylist()
    if not all(isinstance(word, str | None) for word in words):
        raise TypeError
    # The last entry is for rows without a word.
    codes = np.array([*(_code(field, word or None) for word in words), MISSING])
    values: npt.NDArray[np.float64] = codes[encoded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)]
    bad = values == UNSEEN
    return values, bad | (values == MISSING) if field.required else bad


def _code(field: Choice | Name, word: str | None) -> float:
    return FEATURES.code(field.name, word) if word is None or field.accepts(word) else UNSEEN
