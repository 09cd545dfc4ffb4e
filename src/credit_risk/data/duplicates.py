"""Rows with one row id: the last is kept, and those that say another outcome are found."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import OUTCOME, ROW_ID
from credit_risk.data.parsing import plain_ids


@dataclass(frozen=True, slots=True)
class Duplicates:
    """The rows that are left out, by their place in the raw file.

    Attributes:
        places: of the n rows, ascending.
        conflicts: shape (n,): whether the row had an outcome, and the row that is kept has another one or none.
        kept: places of the rows that are kept instead of those with another outcome, each once.
    """

    places: npt.NDArray[np.int64]
    conflicts: npt.NDArray[np.bool_]
    kept: npt.NDArray[np.int64]


def find_duplicates(keys: pd.DataFrame) -> Duplicates:
    """Finds the rows that another row with the same id follows.

    Args:
        keys: row id and outcome (missing where unknown) of all usable rows, indexed by place in the raw file.

    Raises:
        ProjectError: two spellings of one number are row ids, and the contract does not say whether they are one.
    """
    check_spelling(keys[ROW_ID])
    several = keys[keys[ROW_ID].duplicated(keep=False)]
    repeated = several[ROW_ID].duplicated(keep="last")
    dropped, last = several[repeated], several[~repeated].reset_index(names="place").set_index(ROW_ID)
    instead = last.loc[dropped[ROW_ID]]
    outcomes = [frame[OUTCOME].fillna(-1).to_numpy() for frame in (dropped, instead)]
    conflicts = (outcomes[0] >= 0) & (outcomes[0] != outcomes[1])
    return Duplicates(dropped.index.to_numpy(), conflicts, np.unique(instead["place"].to_numpy()[conflicts]))


def check_spelling(ids: Any) -> None:
    """Leading zeros and `.0` of a spreadsheet would make two rows of one.

    Raises:
        ProjectError: ids differ in the spelling of a number only.
    """
    if CONTRACT.row_id is None or CONTRACT.row_id.number is not None:
        return
    plain = plain_ids(ids)
    if (plain == ids).all():
        return
    spellings = pd.DataFrame({"id": ids, "number": plain}).drop_duplicates()
    several = spellings[spellings["number"].duplicated(keep=False)].sort_values("number", kind="stable")
    if len(several):
        one, other = several["id"].head(2)
        raise ProjectError(
            f"column {CONTRACT.row_id.column} has the row ids '{one}' and '{other}', which are the same number; in "
            "contract.py, set number=True of RowId if they are one row, and number=False if they are two"
        )
