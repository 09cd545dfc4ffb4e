"""Reads the file as stage 1 does, and finds out what each of its columns holds."""

import glob
import itertools
import keyword
import os
import re
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel

from credit_risk.adopt.parsers import MISSING, MISSING_NUMBERS, date_formats, number_parser
from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root
from credit_risk.core.schema import RESERVED, plain_code
from credit_risk.core.streams import last_line
from credit_risk.data.parsing import numbers

MAX_WORDS = 64  # of a choice; a text with more is left out
MIN_ROWS_PER_WORD = 5  # on average, likewise
# Names with a meaning of their own: key columns, words of Python, attributes of the request model.
TAKEN = {*RESERVED, *keyword.kwlist, *dir(BaseModel)}
_KEY = re.compile(r"(^|[_ ])(id|key|uuid|guid|index|no|nr|num|number|rownames?|unnamed.*)$")

Kind = Literal["number", "choice", "text", "date", "id", "constant", "empty"]


@dataclass(frozen=True)
class Column:
    """One column of the source.

    Attributes:
        raw: its name there.
        text: stripped values; "" where missing.
        kind: what it holds.
        parser: of its numbers.
        formats: of its dates; more than one when they can't be told apart.
        words: of a choice, the most frequent first.
    """

    raw: str
    text: "pd.Series[str]"
    kind: Kind
    parser: Callable[[Any], Any] = numbers
    formats: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @cached_property
    def known(self) -> "pd.Series[str]":
        """The values that are not missing."""
        return self.text[self.text != ""]

    @cached_property
    def numbers(self) -> "pd.Series[float]":
        """The numbers, NaN where missing."""
        read: pd.Series[float] = self.parser(self.text)
        return read

    @cached_property
    def categories(self) -> "pd.Series[str]":
        """The words of a choice as stage 2 reads them, NaN where missing."""
        return self.text.map({word: plain_code(word) for word in self.known.unique()})

    @property
    def missing_share(self) -> float:
        """Share of rows without a value."""
        return float((self.text == "").mean())


def read(path: Path) -> pd.DataFrame:
    """Every row of the file, every column as stripped text; read by the script of stage 1.

    Raises:
        ProjectError: stage 1 can't read it, with its reason.
    """
    if not path.is_file():
        raise ProjectError(f"{path} is not a file")
    with tempfile.TemporaryDirectory() as folder:
        params = Path(folder, "4.dvc_pipeline", "params.yaml")
        params.parent.mkdir()
        params.write_text(yaml.safe_dump({"data": {"sources": [glob.escape(str(path.resolve()))]}}), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(root() / "4.dvc_pipeline" / "1.get_data.py")],
            env=os.environ | {"PROJECT_ROOT": folder},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sentence = last_line(done.stderr, "stage 1 can't read it")
            shown = os.path.relpath(path.resolve(), Path(folder).resolve())
            raise ProjectError(sentence.removeprefix("stage 1: ").replace(shown, str(path)))
        raw = pd.read_parquet(Path(folder, "1.data", "1.raw", "rows.parquet"))
    return pd.DataFrame({name: raw[name].str.strip() for name in raw})


def missing_spellings(text: "pd.Series[str]") -> frozenset[str]:
    """The spellings of a missing value that occur in a column of stripped text."""
    known = text[~text.isin(["", *MISSING, *MISSING_NUMBERS])]
    spellings = [*MISSING, *(MISSING_NUMBERS if number_parser(known) else ())]
    return frozenset(text[text.isin(spellings)].unique())


def profile(raw: str, text: "pd.Series[str]") -> Column:
    """What a column of stripped text, with "" for missing values, holds."""
    known = text[text != ""]
    if not len(known):
        return Column(raw, text, "empty")
    if len(known) == len(text) and (text == text.iloc[0]).all():
        return Column(raw, text, "constant")
    parser, formats = number_parser(known), tuple(date_formats(known))
    if formats and (parser is None or formats == ("%Y%m%d",)):
        return Column(raw, text, "date", formats=formats)
    is_id = _is_id(raw, known, parser)
    if is_id or parser:
        return Column(raw, text, "id" if is_id else "number", parser=parser or numbers)
    words = tuple(known.map(plain_code).value_counts().index)
    if len(words) > MAX_WORDS or len(known) < MIN_ROWS_PER_WORD * len(words):
        return Column(raw, text, "text")
    return Column(raw, text, "choice", words=words)


def field_name(raw: str, taken: Callable[[str], bool]) -> str:
    """A name for the field of a column: lower-case ASCII words joined by underscores, none of those taken."""
    ascii_only = unicodedata.normalize("NFKD", raw).encode("ascii", "ignore").decode()
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", ascii_only)
    name = re.sub(r"[^a-z0-9]+", "_", split.lower()).strip("_")
    name = name if re.match("[a-z]", name) else f"field_{name}".rstrip("_")
    name = f"{name}_value" if name in TAKEN else name
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return next(each for each in itertools.chain([name], numbered) if not taken(each))


def _is_id(raw: str, known: "pd.Series[str]", parser: Callable[[Any], Any] | None) -> bool:
    """Whether the values look like names of rows: all different, and text or counted or called so."""
    if known.nunique() < len(known):
        return False
    if parser is None:
        return True
    values = parser(known).dropna()
    if len(values) < len(known) or (values != values.round()).any():
        return False
    counted = bool(values.max() - values.min() + 1 == len(values))
    return counted or bool(_KEY.search(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", raw).lower())) or not raw
