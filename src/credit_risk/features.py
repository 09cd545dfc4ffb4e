"""The features: what the model sees of an application, defined once, for training, batch, notebooks and the API.

Row-wise and stateless, on NumPy alone. The arithmetic is written so that the same lines take whole columns (arrays) or
one application (plain Python numbers): only +, -, *, / and comparisons, no branches and no functions of NumPy. Results
are float64 until the end and then rounded to float32 once, so that training, the serving form and every caller see
the same bits. What must be fitted (imputing, encoding, selection) is inside the model's pipeline, not here.

A missing number is NaN. Category codes: the word's position in the contract's list; MISSING and UNSEEN are fixed codes.
There is no calendar feature: the approval year lifts the score in time and lowers it out of time (it memorises eras).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from credit_risk.contract import FIELD_NAMES, FIELDS, SECTORS, Choice, Number

MISSING = -1.0  # no word given
UNSEEN = -2.0  # a word that the contract does not list

Value = Any  # a float64 array of shape (n,), or one float: the arithmetic below takes both
Features = npt.NDArray[np.float32]


class _Codes(dict[Any, float]):
    """Category codes by word."""

    def __missing__(self, word: Any) -> float:
        # Pandas' missing word is NaN, which is unequal to itself.
        return UNSEEN if word == word else MISSING  # noqa: PLR0124


_CODES = {
    field.name: _Codes({None: MISSING} | {word: float(code) for code, word in enumerate(field.choices)})
    for field in FIELDS
    if isinstance(field, Choice)
}
NUMBERS = tuple(field.name for field in FIELDS if isinstance(field, Number))
_NAN = float("nan")
# Sector code by the first two digits of a NAICS code (0 to 99).
_SECTOR_CODES = [float(SECTORS.index(digits)) if digits in SECTORS else UNSEEN for digits in range(100)]


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature's name, unit, the reason it is there, and whether its values are category codes."""

    name: str
    unit: str
    reason: str
    categorical: bool = False


FEATURES = (
    Feature("gross_approved", "USD", "small loans are often unsecured and default more"),
    Feature("guaranteed_share", "share 0 to 1", "the programme behind the loan shows in the share the SBA guarantees"),
    Feature("unguaranteed", "USD", "what the bank itself can lose disciplines its choice"),
    Feature("employees", "people", "larger businesses survive shocks"),
    Feature("loan_per_employee", "USD per person", "debt against the size that must carry it"),
    Feature("jobs_created", "people", "growth that must still succeed"),
    Feature("jobs_retained", "people", "a business that is there already; also a code that changed in use over time"),
    Feature("created_ratio", "jobs per person", "planned growth against size: ambition is risk"),
    Feature("retained_ratio", "jobs per person", "share of the staff that the loan protects"),
    Feature("loan_per_job", "USD per person", "money against all jobs that depend on it"),
    Feature("sector", "code", "default rates differ severalfold between industries", categorical=True),
    Feature("industry", "three-digit NAICS number", "industries within a sector differ too"),
    Feature("state", "code", "local economies, and the banks active there", categorical=True),
    Feature("bank_state", "code", "stands in for the lender: a few states host the large small-loan lenders", True),
    Feature("same_state_bank", "1 or 0", "a local bank knows its borrower; 0 also when a state is not known"),
    Feature("new_business", "code", "young businesses fail more", categorical=True),
    Feature("franchise", "code", "a franchise brings a tried plan", categorical=True),
    Feature("urban_rural", "code", "rural borrowers default less", categorical=True),
    Feature("revolving_credit", "code", "a credit line is drawn when cash is short", categorical=True),
    Feature("low_doc", "code", "LowDoc loans were small and screened in another way", categorical=True),
    Feature("naics_known", "1 or 0", "a file without an industry code was kept in another way"),
    Feature("jobs_known", "1 or 0", "whether the bank reported jobs"),
    Feature("round_amount", "1 or 0", "amounts in whole thousands are asked for, others are computed from a need"),
)
FEATURE_NAMES = tuple(feature.name for feature in FEATURES)
CATEGORICAL = tuple(feature.name for feature in FEATURES if feature.categorical)
# Loans with the same share, and within it industry, are alike: most trees treat them alike. Only speed depends on it.
_ALIKE = ("industry", "guaranteed_share")  # the last is sorted by first
ALIKE = [FEATURE_NAMES.index(name) for name in _ALIKE if name in FEATURE_NAMES] or [0]


def from_columns(columns: Mapping[str, Any]) -> Features:
    """Features of many applications.

    Args:
        columns: by field name a column of n values: numbers (NaN when missing) or words (None or NaN when missing); a
            data frame will do. A field that may be missing may be absent.

    Returns:
        Array of shape (n, len(FEATURES)), float32, columns in the order of FEATURES.

    Raises:
        KeyError: a required field is absent.
    """
    rows = len(columns[FIELDS[0].name])
    get: dict[str, Value] = {}
    for field in FIELDS:
        if field.name not in columns:
            if field.required:
                raise KeyError(field.name)
            get[field.name] = np.full(rows, MISSING if isinstance(field, Choice) else np.nan)
        elif isinstance(field, Choice):
            get[field.name] = np.fromiter(map(_CODES[field.name].__getitem__, columns[field.name]), np.float64)
        else:
            get[field.name] = np.asarray(columns[field.name], np.float64)
    digits = get["naics"] // 10_000.0
    known = (digits >= 0.0) & (digits < len(_SECTOR_CODES))
    sector = np.where(np.isnan(digits), MISSING, UNSEEN)
    sector[known] = np.array(_SECTOR_CODES)[digits[known].astype(np.intp)]
    with np.errstate(divide="ignore", invalid="ignore"):
        values = _features(get, sector)
    return np.column_stack([np.asarray(value, np.float32) for value in values])


def from_application(application: Mapping[str, Any]) -> Features:
    """Features of one application, the same bits as `from_columns` gives.

    Args:
        application: one value a field: a number or word, None when missing; valid against the contract.

    Returns:
        Array of shape (1, len(FEATURES)), float32.
    """
    return np.array([row_of(application)], np.float32)


def row_of(application: Mapping[str, Any]) -> tuple[float, ...]:
    """The features of one application as plain numbers, not yet rounded to float32; see `from_application`."""
    get: dict[str, Value] = {}
    for name in NUMBERS:
        value = application.get(name)
        get[name] = _NAN if value is None else value
    for name, codes in _CODES.items():
        get[name] = codes[application.get(name)]
    digits = get["naics"] // 10_000.0
    sector = MISSING if digits != digits else _SECTOR_CODES[int(digits)]  # noqa: PLR0124 (NaN is unequal to itself)
    return _features(get, sector)


def from_applications(applications: Sequence[Any]) -> Features:
    """Features of many applications.

    Args:
        applications: objects whose attributes are the contract's fields in its order, as `request.py` makes them.

    Returns:
        Array of shape (n, len(FEATURES)), float32, the same bits as `from_application` gives for each.
    """
    columns = zip(*[vars(application).values() for application in applications], strict=True)
    return from_columns(dict(zip(FIELD_NAMES, columns, strict=True)))


def _features(get: Mapping[str, Value], sector: Value) -> tuple[Value, ...]:
    """The features in the order of FEATURES, float64; `get` has numbers and category codes by field name."""
    gross, guaranteed = get["gross_approved"], get["sba_guaranteed"]
    employees, created, retained = get["employees"], get["jobs_created"], get["jobs_retained"]
    state, bank_state, naics = get["state"], get["bank_state"], get["naics"]
    staff = employees + 1.0  # with the owner; also keeps the ratios finite
    return (
        gross,
        guaranteed / gross,
        gross - guaranteed,
        employees,
        gross / staff,
        created,
        retained,
        created / staff,
        retained / staff,
        gross / (staff + created),
        sector,
        naics // 1_000.0,
        state,
        bank_state,
        (state == bank_state) * (state >= 0.0) * 1.0,
        get["new_business"],
        get["franchise"],
        get["urban_rural"],
        get["revolving_credit"],
        get["low_doc"],
        (naics == naics) * 1.0,  # noqa: PLR0124 (NaN is unequal to itself)
        (retained == retained) * 1.0,  # noqa: PLR0124
        (gross % 1_000.0 == 0.0) * 1.0,
    )
