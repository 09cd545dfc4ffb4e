"""Stage 4: the out-of-time window follows the newest loan, and no loan changes sides."""

import hashlib
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from projects import Project, lone_stage, run_script, script

STAGE = "4.dvc_pipeline/4.split_data.py"
Loan = tuple[str, date, int | None]


@pytest.fixture
def root(tmp_path: Path, inside: Callable[[Project], None]) -> Project:
    project = lone_stage(tmp_path, STAGE, "3.features", "split: {out_of_time_months: 24, test_share: 0.2}")
    inside(project)
    return project


def split(project: Project, loans: list[Loan]) -> dict[str, set[str]]:
    """The loan numbers on each side."""
    assert run(project, loans) == 0
    return {
        side: set(pq.read_table(project.path("1.data", "4.split", f"{side}.parquet"))["loan_number"].to_pylist())
        for side in ("train", "test", "out_of_time")
    }


def run(project: Project, loans: list[Loan]) -> int:
    columns: list[Any] = [list(column) for column in zip(*loans, strict=True)] or [[], [], []]
    table = pa.table(
        {
            "loan_number": pa.array(columns[0], pa.string()),
            "approval_date": pa.array(columns[1], pa.date32()),
            "default": pa.array(columns[2], pa.int8()),
        }
    )
    pq.write_table(table, project.path("1.data", "3.features", "features.parquet"))
    return run_script(project, STAGE)


def loans(count: int, start: int = 0, year: int = 2000) -> list[Loan]:
    """Loans with both outcomes, a month apart within a year."""
    return [(f"{start + i}", date(year, i % 12 + 1, 15), i % 2) for i in range(count)]


def test_window_counts_back_from_the_newest_labelled_loan(root: Project) -> None:
    late: list[Loan] = [
        ("first out", date(2004, 12, 30), 1),
        ("last in", date(2004, 12, 29), 0),
        ("newest", date(2006, 12, 29), 0),
        ("unlabelled", date(2008, 1, 1), None),
    ]
    sides = split(root, [*loans(200), *late])
    assert sides["out_of_time"] == {"first out", "newest"}
    assert "last in" in sides["train"] | sides["test"]
    assert "unlabelled" not in set.union(*sides.values())


def test_sides_are_apart_and_complete(root: Project) -> None:
    rows = [*loans(300), *loans(50, 1000, 2010)]
    sides = split(root, rows)
    assert sum(map(len, sides.values())) == len(rows)
    assert set.union(*sides.values()) == {number for number, *_ in rows}


def test_loans_stay_on_their_side_when_others_arrive_in_any_order(root: Project) -> None:
    before = split(root, [*loans(300), *loans(50, 1000, 2010)])
    after = split(root, [*loans(80, 5000, 2012), *reversed([*loans(300), *loans(50, 1000, 2010)])])
    assert before["test"] <= after["test"]
    assert before["train"] <= after["train"]


def test_new_data_moves_the_window_and_train_grows(root: Project) -> None:
    before = split(root, [*loans(300), *loans(50, 1000, 2010)])
    after = split(root, [*loans(300), *loans(50, 1000, 2010), *loans(50, 2000, 2014)])
    assert len(after["train"]) > len(before["train"])
    assert after["out_of_time"] == {str(2000 + i) for i in range(50)}


def test_hash_is_sha256_of_the_loan_number(root: Project) -> None:
    names = script(root, STAGE)
    numbers = [str(10**9 + i) for i in range(20_000)]
    shares = names["hash_share"](numbers)
    digest = hashlib.sha256(b"1000000000").digest()
    assert shares[0] == int.from_bytes(digest[:8], "big") / 2**64
    assert ((shares >= 0) & (shares < 1)).all()
    assert abs((shares < 0.2).mean() - 0.2) < 0.01  # 3.5 standard errors of 20,000 draws


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no loan has an outcome"),
        ([("1", date(2000, 1, 1), None)], "no loan has an outcome"),
        (loans(50), "train has 0 loans and not both outcomes"),
        ([*loans(50), ("x", date(2010, 1, 1), 0)], "out_of_time has 1 loans and not both outcomes"),
    ],
    ids=range(4),
)
def test_a_side_without_both_outcomes_is_named(
    root: Project, rows: list[Loan], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, rows) == 1
    assert message in capsys.readouterr().err
    assert not root.path("1.data", "4.split").exists()
