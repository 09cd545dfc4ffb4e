"""YOURS: what the model sees of a row. Each feature is declared once, with its unit, its reason and its formula.

Training, notebooks and API compute features from these declarations, through `core/feature_set.py`. A formula is an
expression over the contract's fields (`core/formulas.py` lists what it may contain); without one, the feature is the
field of its own name. `default_features(CONTRACT)` declares all fields as they are. Anything that must be fitted, such
as imputing or encoding, belongs into the pipeline of `model.py`.

There is no calendar feature: the approval year raises the score in time and lowers it out of time.
"""

from credit_risk.contract import CONTRACT
from credit_risk.core.feature_set import CODE, FLAG, Feature, FeatureSet, Slice, WhatIf

# First two digits of the North American Industry Classification System.
SECTORS = (11, 21, 22, 23, 31, 32, 33, 42, 44, 45, 48, 49, 51, 52, 53, 54, 55, 56, 61, 62, 71, 72, 81, 92)

FEATURES = FeatureSet(
    CONTRACT,
    (
        Feature("gross_approved", "USD", "small loans are often unsecured and default more"),
        Feature(
            "guaranteed_share",
            "share 0 to 1",
            "the loan programme determines the share that the SBA guarantees",
            "sba_guaranteed / gross_approved",  # no direction: falling would cost 0.004 of AUC, see ablation.json
        ),
        Feature(
            "unguaranteed",
            "USD",
            "a lender that can lose more of its own money chooses more carefully",
            "gross_approved - sba_guaranteed",
        ),
        Feature("employees", "people", "larger businesses survive shocks", direction=-1),
        # One is added to the employees for the owner, which also keeps the ratios finite.
        Feature(
            "loan_per_employee",
            "USD per person",
            "debt relative to the size of the business that repays it",
            "gross_approved / (employees + 1)",
        ),
        Feature("jobs_created", "people", "growth that is planned and not yet achieved"),
        Feature("jobs_retained", "people", "an existing business; the use of this code also changed over time"),
        Feature(
            "created_ratio",
            "jobs per person",
            "planned growth relative to size: ambitious plans fail more often",
            "jobs_created / (employees + 1)",
        ),
        Feature(
            "retained_ratio",
            "jobs per person",
            "share of the staff that the loan protects",
            "jobs_retained / (employees + 1)",
        ),
        Feature(
            "loan_per_job",
            "USD per person",
            "debt relative to all jobs that depend on it",
            "gross_approved / (employees + 1 + jobs_created)",
        ),
        Feature("sector", CODE, "default rates differ severalfold between industries", "naics // 10_000", SECTORS),
        Feature("industry", "three-digit NAICS number", "industries within a sector differ too", "naics // 1_000"),
        Feature("state", CODE, "local economies, and the banks active there"),
        Feature("lender", CODE, "lenders differ in whom they choose; encoded by the outcomes of their loans in train"),
        Feature("bank_state", CODE, "the large small-loan lenders are in a few states; also known of new lenders"),
        Feature(
            "same_state_bank",
            FLAG,
            "a local bank has more information about the borrower; 0 also when a state is not known",
            "(state == bank_state) * (state >= 0)",
        ),
        Feature("new_business", CODE, "young businesses fail more", direction=1),
        Feature("franchise", CODE, "a franchise follows a tested business plan"),
        Feature("urban_rural", CODE, "rural borrowers default less"),
        Feature("revolving_credit", CODE, "a credit line is drawn when cash is short"),
        Feature("low_doc", CODE, "LowDoc loans were small and screened differently"),
        Feature("naics_known", FLAG, "records without an industry code come from another process", "known(naics)"),
        Feature("jobs_known", FLAG, "whether the bank reported jobs", "known(jobs_retained)"),
        Feature(
            "round_amount",
            FLAG,
            "amounts in whole thousands are requested, others are computed from a need",
            "gross_approved % 1_000 == 0",
        ),
    ),
    slices=(
        Slice("sector", "sector"),
        Slice("state", "state"),
        Slice("new business", "new_business"),
        Slice("urban or rural", "urban_rural"),
        Slice("guaranteed", "guaranteed_share", edges=(0.999999,), labels=("in part", "in full")),
        Slice(
            "loan size",
            "gross_approved",
            edges=(50_000, 150_000, 350_000),
            labels=("up to 50,000 USD", "up to 150,000 USD", "up to 350,000 USD", "more"),
        ),
    ),
    what_ifs=(
        WhatIf(
            "the SBA guarantees 10 % more of the amount", {"sba_guaranteed": "sba_guaranteed + 0.1 * gross_approved"}
        ),
        WhatIf("five more employees", {"employees": "employees + 5"}),
        WhatIf("an existing business instead of a new one", {"new_business": "no"}),
    ),
    batch_order=("guaranteed_share", "industry"),
)
