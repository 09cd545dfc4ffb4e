"""Raw loans are scored with the parsing of stage 2."""

import pandas as pd
import pyarrow as pa

from credit_risk.features import FEATURES
from credit_risk.scoring.fields import kind_of, read

LOAN = {
    "LoanNr_ChkDgt": " 01000014003.0 ",
    "GrAppv": "$60,000.00 ",
    "SBA_Appv": "$48,000.00 ",
    "NAICS": "451120",
    "State": "IN",
    "Bank": "Fifth Bank, N.A.",
    "BankState": "",
    "NoEmp": "4",
    "CreateJob": "0",
    "RetainedJob": "8800",
    "NewExist": "2",
    "FranchiseCode": "1",
    "UrbanRural": "0",
    "RevLineCr": "Y",
    "LowDoc": "N",
}


def test_a_raw_loan_without_date_and_outcome() -> None:
    batch = pa.RecordBatch.from_pandas(pd.DataFrame([LOAN, LOAN | {"LoanNr_ChkDgt": "?"}]), preserve_index=False)
    assert kind_of(batch.schema, "loans.csv") == "raw"
    found = read(batch, "raw", "loans.csv", 0)
    assert found.ids.to_pylist() == ["1000014003", "?"]
    assert found.reasons is not None
    assert found.reasons.tolist() == ["", "LoanNr_ChkDgt is empty or malformed"]
    one = {name: column[:1] for name, column in found.numbers.items()}
    fields = {"gross_approved": 60_000.0, "sba_guaranteed": 48_000.0, "naics": 451_120.0, "state": "IN"}
    fields |= {"lender": "FIFTH BANK NA"}
    fields |= {"employees": 4.0, "jobs_created": 0.0, "new_business": "yes", "franchise": "no"}
    fields |= {"revolving_credit": "yes", "low_doc": "no"}
    assert FEATURES.from_numbers(one).tobytes() == FEATURES.from_row(fields).tobytes()
