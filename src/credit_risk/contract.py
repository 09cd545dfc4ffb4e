"""The contract: what a lender knows when a loan is approved, declared once, as plain data.

Everything else is derived from it, each in a module of its own: the check of frames (`frames.py`), the request model of
the API (`request.py`) and the MLflow signature (`signature.py`). To add, change or remove an applicant field, edit
FIELDS and nothing else here; a field that features should use is then read in `features.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from credit_risk.core.errors import ProjectError

SHOWN = 3  # choices that an error message lists
ACRONYMS = ("NAICS", "SBA")  # words of field names that people write in capitals


@dataclass(frozen=True, slots=True)
class Number:
    """A quantity.

    Attributes:
        name: the field's name, everywhere but in the raw file.
        unit: what one means, for people.
        minimum: the smallest allowed value, included.
        maximum: the largest allowed value, included.
        whole: whether fractions are refused.
        required: whether an application without it is refused; otherwise it may be missing (null).
        raw: the column of the raw file it is read from.
        description: for the lender.
        example: a realistic value.
    """

    name: str
    unit: str
    minimum: float
    maximum: float
    whole: bool
    required: bool
    raw: str
    description: str
    example: float

    @property
    def label(self) -> str:
        """The name as people write it."""
        return _label(self.name)

    @property
    def rule(self) -> str:
        """What a value must be, as the end of a sentence; both the frame check and the API say just this."""
        kind = "a whole number" if self.whole else "a number"
        null = "" if self.required else " or null"
        return f"must be {kind} from {self.minimum:,.0f} to {self.maximum:,.0f}{null}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a closed list of words.

    Attributes:
        name: the field's name, everywhere but in the raw file.
        choices: the allowed words; their order is the order of the feature codes.
        required: whether an application without it is refused; otherwise it may be missing (null).
        raw: the column of the raw file it is read from.
        description: for the lender.
        example: a realistic value.
    """

    name: str
    choices: tuple[str, ...]
    required: bool
    raw: str
    description: str
    example: str

    @property
    def label(self) -> str:
        """The name as people write it."""
        return _label(self.name)

    @property
    def rule(self) -> str:
        """What a value must be, as the end of a sentence; both the frame check and the API say just this."""
        shown = ", ".join(self.choices[:SHOWN]) + (", …" if len(self.choices) > SHOWN else "")
        null = "" if self.required else " or null"
        return f"must be one of {shown}{null}"


def _label(name: str) -> str:
    words = [word.upper() if word.upper() in ACRONYMS else word for word in name.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


NO_YES = ("no", "yes")
# USPS codes: the 50 states, the District of Columbia and the five inhabited territories.
STATES = (
    "AL", "AK", "AZ", "AR", "CA", "CO", "CT", "DE", "DC", "FL", "GA", "HI", "ID", "IL", "IN", "IA", "KS", "KY", "LA",
    "ME", "MD", "MA", "MI", "MN", "MS", "MO", "MT", "NE", "NV", "NH", "NJ", "NM", "NY", "NC", "ND", "OH", "OK", "OR",
    "PA", "RI", "SC", "SD", "TN", "TX", "UT", "VT", "VA", "WA", "WV", "WI", "WY", "AS", "GU", "MP", "PR", "VI",
)  # fmt: skip
# First two digits of the North American Industry Classification System.
SECTORS = (11, 21, 22, 23, 31, 32, 33, 42, 44, 45, 48, 49, 51, 52, 53, 54, 55, 56, 61, 62, 71, 72, 81, 92)

FIELDS: tuple[Number | Choice, ...] = (
    Number(
        "gross_approved", "USD", 100, 5_500_000, False, True, "GrAppv",
        "Loan amount the bank approved", 137_300.0,
    ),
    Number(
        "sba_guaranteed", "USD", 0, 5_500_000, False, True, "SBA_Appv",
        "Part of the amount that the SBA guarantees; never above the amount approved", 116_705.0,
    ),
    Number(
        "naics", "code", 110_000, 999_999, True, False, "NAICS",
        "Industry: six-digit NAICS code; its first two digits are the sector", 722_211.0,
    ),
    Choice("state", STATES, False, "State", "State of the borrower", "AR"),
    Choice("bank_state", STATES, False, "BankState", "State of the lending bank", "MS"),
    Number("employees", "people", 0, 9_999, True, True, "NoEmp", "Employees of the business before the loan", 7.0),
    Number("jobs_created", "people", 0, 9_999, True, False, "CreateJob", "Jobs the loan is to create", 2.0),
    Number("jobs_retained", "people", 0, 9_999, True, False, "RetainedJob", "Jobs the loan is to keep", 7.0),
    Choice("new_business", NO_YES, False, "NewExist", "Whether the business is two years old or younger", "no"),
    Choice("franchise", NO_YES, True, "FranchiseCode", "Whether the business is a franchise", "yes"),
    Choice("urban_rural", ("urban", "rural"), False, "UrbanRural", "Where the business is", "urban"),
    Choice("revolving_credit", NO_YES, False, "RevLineCr", "Whether it is a revolving line of credit", "no"),
    Choice("low_doc", NO_YES, False, "LowDoc", "Whether it went through the one-page LowDoc programme", "no"),
)  # fmt: skip
FIELD_NAMES = tuple(field.name for field in FIELDS)


@dataclass(frozen=True, slots=True)
class NotAbove:
    """A rule over two numbers: `smaller` may not be above `larger`."""

    smaller: str
    larger: str

    @property
    def rule(self) -> str:
        """The end of a sentence that begins with the smaller field's name."""
        return f"must not be above {self.larger}"


RULES: tuple[NotAbove, ...] = (NotAbove("sba_guaranteed", "gross_approved"),)

# What is not known when the loan is approved, and why: never an applicant field, never a feature.
UNKNOWN_AT_APPROVAL = {
    "Term": "it was rewritten when a loan failed, so it tells the outcome",  # for a third: what was left of seven years
    "ChgOffDate": "it exists only after a charge-off",
    "ChgOffPrinGr": "it is the amount charged off",
    "BalanceGross": "it is the balance left at the end",
    "DisbursementDate": "the money is paid out after approval",
    "DisbursementGross": "the money is paid out after approval",
    "MIS_Status": "it is the outcome itself",
}
# Who the borrower or the bank is: not a property of the risk, or with too many values to be one.
IDENTITY = ("LoanNr_ChkDgt", "Name", "City", "Zip", "Bank")
# When the loan was approved: it orders the loans for the split, and is no feature (it memorises eras).
CALENDAR = ("ApprovalDate", "ApprovalFY")

LOAN_NUMBER = "loan_number"
APPROVAL_DATE = "approval_date"
DEFAULT = "default"  # 1 charged off, 0 paid in full, missing while there is no outcome
KEYS = (LOAN_NUMBER, APPROVAL_DATE, DEFAULT)

RAW_COLUMNS = frozenset([*(field.raw for field in FIELDS), *UNKNOWN_AT_APPROVAL, *IDENTITY, *CALENDAR])


def refusal(column: str) -> str | None:
    """Why a column can't be an applicant field: one clause, or None when the contract knows it.

    Names are compared without case and underscores, so that `term` or `mis_status` do not slip through.
    """
    if column in FIELD_NAMES:
        return None
    wanted = column.lower().replace("_", "")
    for raw, why in UNKNOWN_AT_APPROVAL.items():
        if wanted == raw.lower().replace("_", ""):
            return f"is unknown at approval: {why}"
    return "is not in the contract"


def check_fields(fields: Iterable[Number | Choice]) -> None:
    """Checks the declaration itself.

    Raises:
        ProjectError: a field stands twice, or is read from a column that is unknown at approval, names the
            borrower, or is the calendar.
    """
    seen: set[str] = set()
    for field in fields:
        if field.name in seen:
            raise ProjectError(f"contract: field '{field.name}' is declared twice")
        seen.add(field.name)
        for name in (field.raw, field.name):
            reason = refusal(name) or ""
            if reason.startswith("is unknown at approval"):
                raise ProjectError(f"contract: field '{field.name}' reads column '{name}', which {reason}")
        if field.raw in IDENTITY or field.raw in CALENDAR:
            raise ProjectError(f"contract: field '{field.name}' reads '{field.raw}', an identity or the calendar")


check_fields(FIELDS)
