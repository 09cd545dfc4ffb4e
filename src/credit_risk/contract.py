"""YOURS: what a row is. The problem and its words, the outcome, the keys, the fields and the rules between them.

Declarations only; `core/schema.py` has the classes and checks them when this module is imported. Frame checks, request
model, MLflow signature, page, report, model card and all names are derived from here.
"""

from credit_risk.core.schema import Choice, Contract, Name, NotAbove, Number, Problem, RowId, Target

NO_YES = ("no", "yes")
# USPS codes: the 50 states, the District of Columbia and the five inhabited territories.
STATES = (
    "AL", "AK", "AZ", "AR", "CA", "CO", "CT", "DE", "DC", "FL", "GA", "HI", "ID", "IL", "IN", "IA", "KS", "KY", "LA",
    "ME", "MD", "MA", "MI", "MN", "MS", "MO", "MT", "NE", "NV", "NH", "NJ", "NM", "NY", "NC", "ND", "OH", "OK", "OR",
    "PA", "RI", "SC", "SD", "TN", "TX", "UT", "VT", "VA", "WA", "WV", "WI", "WY", "AS", "GU", "MP", "PR", "VI",
)  # fmt: skip

CONTRACT = Contract(
    problem=Problem(
        name="credit-risk",
        title="Credit risk",
        question="How likely is it that an SBA loan is charged off, as known when the lender approves it?",
        row="loan",
        rows="loans",
        event="default",
        positive="charged off",
        negative="paid in full",
        accept="approve",
        accepted="approved",
        decline="decline",
        declined="declined",
        source=(
            "US Small Business Administration, released with Li, Mickel & Taylor, Should This Loan be Approved or "
            "Denied?, Journal of Statistics Education 26(1), 2018."
        ),
        limits=(
            "It ranks applications for SBA-guaranteed loans at the moment of approval, to help the person who decides.",
            "It is a worked example and must not decide about anybody's loan today.",
            "Ranks carry over to later years, less well; probabilities do not. Do not use them for pricing.",
            "It has only seen loans that were approved. How declined applications would have ended is not in the data.",
            "It has not been examined for discrimination: the data names no protected group.",
            "Loans guaranteed in full are not of the 7(a) programme and easy to tell apart, which raises all figures.",
            "For loans of the 7(a) programme, read the slice “guaranteed: in part”.",
        ),
        acronyms=("NAICS", "SBA"),
    ),
    target=Target(column="MIS_Status", positive=("CHGOFF",), negative=("P I F",)),
    row_id=RowId("LoanNr_ChkDgt", pattern=r"[0-9]+", number=True),
    date="ApprovalDate",
    fields=(
        Number(
            name="gross_approved",
            column="GrAppv",
            unit="USD",
            minimum=100,
            maximum=5_500_000,
            description="Loan amount the bank approved",
            example=137_300.0,
        ),
        Number(
            name="sba_guaranteed",
            column="SBA_Appv",
            unit="USD",
            minimum=0,
            maximum=5_500_000,
            description="Part of the amount that the SBA guarantees; never above the amount approved",
            example=116_705.0,
        ),
        Number(
            name="naics",
            column="NAICS",
            unit="code",
            minimum=110_000,
            maximum=999_999,
            whole=True,
            required=False,
            description="Industry: six-digit NAICS code; its first two digits are the sector",
            example=722_211.0,
        ),
        Choice(
            name="state",
            column="State",
            choices=STATES,
            required=False,
            description="State of the borrower",
            example="AR",
        ),
        Name(
            name="lender",
            column="Bank",
            max_length=30,  # of the source, which cuts longer ones
            required=False,
            description="Name of the lending bank",
            example="HOPE FCU",
        ),
        Choice(
            name="bank_state",
            column="BankState",
            choices=STATES,
            required=False,
            description="State of the lending bank",
            example="MS",
        ),
        Number(
            name="employees",
            column="NoEmp",
            unit="people",
            minimum=0,
            maximum=9_999,
            whole=True,
            description="Employees of the business before the loan",
            example=7.0,
        ),
        Number(
            name="jobs_created",
            column="CreateJob",
            unit="people",
            minimum=0,
            maximum=9_999,
            whole=True,
            required=False,
            description="Jobs that the loan is expected to create",
            example=2.0,
        ),
        Number(
            name="jobs_retained",
            column="RetainedJob",
            unit="people",
            minimum=0,
            maximum=9_999,
            whole=True,
            required=False,
            description="Jobs that the loan is expected to retain",
            example=7.0,
        ),
        Choice(
            name="new_business",
            column="NewExist",
            choices=NO_YES,
            required=False,
            description="Whether the business is two years old or younger",
            example="no",
        ),
        Choice(
            name="franchise",
            column="FranchiseCode",
            choices=NO_YES,
            description="Whether the business is a franchise",
            example="yes",
        ),
        Choice(
            name="urban_rural",
            column="UrbanRural",
            choices=("urban", "rural"),
            required=False,
            description="Where the business is",
            example="urban",
        ),
        Choice(
            name="revolving_credit",
            column="RevLineCr",
            choices=NO_YES,
            required=False,
            description="Whether it is a revolving line of credit",
            example="no",
        ),
        Choice(
            name="low_doc",
            column="LowDoc",
            choices=NO_YES,
            required=False,
            description="Whether it went through the one-page LowDoc programme",
            example="no",
        ),
    ),
    rules=(NotAbove("sba_guaranteed", "gross_approved"),),
    not_fields={
        # Unknown when the loan is approved.
        "Term": "it was overwritten when a loan failed (often with the remaining months), so it reveals the outcome",
        "ChgOffDate": "it exists only after a charge-off",
        "ChgOffPrinGr": "it is the amount charged off",
        "BalanceGross": "it is the balance left at the end",
        "DisbursementDate": "the money is paid out after approval",
        "DisbursementGross": "the money is paid out after approval",
        # Identity.
        "Name": "it identifies the borrower",
        "City": "it identifies the borrower",
        "Zip": "it identifies the borrower",
        # The calendar.
        "ApprovalFY": "it memorises eras; it is only used to read the century of ApprovalDate",
    },
)
