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
# Controls, ends of lines, changes of the direction of writing, and halves of characters.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_VARIANTS = re.compile(r"[\u034f\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # marks of how a letter is drawn


def normalized(name: str) -> str:
    """The letters, digits and vowel signs of a name, in lower case and with compatibility characters replaced.

    `Bank of America, N.A.` and `BANK OF AMERICA NA` are one name. Source: Unicode Standard Annex 15 (form NFKC).
    """
    folded = _VARIANTS.sub("", unicodedata.normalize("NFKC", name).casefold())
    kept = "".join(each for each in folded if each.isalnum() or unicodedata.category(each).startswith("M"))
    return unicodedata.normalize("NFKC", kept)


@lru_cache(_CACHED)
def name_code(name: str) -> float:
    """A whole number from 0 to CODES - 1 for a name, the same in each process and on each machine.

    NO_NAME for a text without a letter or digit, or with control characters. Two names may share a code: of 3,000
    names, 0.3 pairs do on average; of 10,000, three pairs.
    """
    text = normalized(name)
    if _CONTROL.search(name) or not any(map(str.isalnum, text)):
        return NO_NAME
    return float(int.from_bytes(blake2b(text.encode(), digest_size=3).digest(), "big"))


def common_codes(codes: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The COMMON most frequent values of an array, or all if it has fewer, ascending."""
    distinct, counts = np.unique(codes, return_counts=True)
    return np.sort(distinct[np.argsort(-counts, kind="stable")[:COMMON]])
