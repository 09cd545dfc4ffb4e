"""Names with an open vocabulary, as of lenders: compared without case and punctuation, and coded as numbers."""

import re
import unicodedata
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

CODES = 2**24  # whole numbers that float32 holds exactly
NO_NAME = -2.0  # code of a text that is no name, as UNSEEN of feature_set.py
COMMON = 20  # names that are told apart where distributions are compared; the others are one group
_CACHED = 20_000  # names, so that one that occurs often costs a look-up
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_PUNCTUATION = re.compile(r"[\W_]+")


def normalized(name: str) -> str:
    """The letters and digits of a name, in lower case and with compatibility characters replaced.

    `Bank of America, N.A.` and `BANK OF AMERICA NA` are one name. Source: Unicode Standard Annex 15 (form NFKC).
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    return _PUNCTUATION.sub("", unicodedata.normalize("NFKC", folded))


@lru_cache(_CACHED)
def name_code(name: str) -> float:
    """A whole number from 0 to CODES - 1 for a name, the same in each process and on each machine.

    NO_NAME for a text without a letter or digit, or with control characters. Two names may share a code: of 3,000
    names, 0.3 pairs do on average; of 10,000, three pairs.
    """
    text = normalized(name)
    if not text or _CONTROL.search(name):
        return NO_NAME
    return float(int.from_bytes(blake2b(text.encode(), digest_size=3).digest(), "big"))


def common_codes(codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The COMMON most frequent values of an array, or all if it has fewer, ascending."""
    distinct, counts = np.unique(codes, return_counts=True)
    return np.sort(distinct[np.argsort(-counts, kind="stable")[:COMMON]])
