"""Stage 4: the out-of-time window follows the newest row, and no row changes its split."""

import hashlib
import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from projects import Project, lone_stage, run_script, script

from credit_risk.contract import CONTRACT
from credit_risk.core.schema import DATE, OUTCOME, ROW_ID

needs_date = pytest.mark.skipif(not CONTRACT.has_date, reason="the contract has no date")
STAGE = "4.dvc_pipeline/4.split_data.py"
Row = tuple[str, date, int | None]


@pytest.fixture
def root(tmp_path: Path, inside: Callable[[Project], None]) -> Project:
    project = lone_stage(tmp_path, STAGE, "3.features", "split: {out_of_time_months: 24, test_share: 0.2, min_rows: 1}")
    inside(project)
    return project


def split(project: Project, rows: list[Row]) -> dict[str, set[str]]:
    """The row ids of each split."""
    assert run(project, rows) == 0
    folder = project.path("1.data", "4.split", "rows")
    assert {path.stem for path in folder.iterdir()} == set(CONTRACT.splits)
    return {name: set(pq.read_table(folder / f"{name}.parquet")[ROW_ID].to_pylist()) for name in CONTRACT.splits}


def run(project: Project, rows: list[Row]) -> int:
    columns: list[Any] = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
    table = pa.table(
        {
            ROW_ID: pa.array(columns[0], pa.string()),
            DATE: pa.array(columns[1], pa.date32()),
            OUTCOME: pa.array(columns[2], pa.int8()),
        }
    ).select(CONTRACT.keys)
    pq.write_table(table, project.path("1.data", "3.features", "features.parquet"))
    return run_script(project, STAGE)


def made(count: int, start: int = 0, year: int = 2000) -> list[Row]:
    """Rows with both outcomes, a month apart within a year."""
    return [(f"{start + i}", date(year, i % 12 + 1, 15), i % 2) for i in range(count)]


@needs_date
def test_window_counts_back_from_the_newest_labelled_row(root: Project) -> None:
    late: list[Row] = [
        ("first out", date(2004, 12, 30), 1),
        ("last in", date(2004, 12, 29), 0),
        ("newest", date(2006, 12, 29), 0),
        ("unlabelled", date(2008, 1, 1), None),
    ]
    splits = split(root, [*made(200), *late])
    assert splits["out_of_time"] == {"first out", "newest"}
    assert "last in" in splits["train"] | splits["test"]
    assert "unlabelled" not in set.union(*splits.values())


@needs_date
@pytest.mark.parametrize(
    ("window", "left_out", "message"),
    [
        ("performance_months: 12, observed_until: '2013-01-31'", {"1", "2", "3"}, None),
        ("performance_months: 24", {"1", "2", "3"}, None),  # from the newest row, with or without an outcome
        ("performance_months: 25", {"0", "1", "2", "3"}, None),
        ("performance_months: 0", set(), None),
        ("performance_months: null", set(), None),
        ("performance_months: 12, observed_until: '2012-06-30'", set(), "observed_until is 2012-06-30, but the newest"),
        ("performance_months: 900", set(), "no row is 900 months (split.performance_months) old on 2014-01-31"),
        ("performance_months: 1.5", set(), "split.performance_months"),
        ("performance_months: 1, observed_until: 2015-01-31", set(), 'write it in quotes, as "2015-01-31"'),
    ],
    ids=range(9),
)
def test_rows_that_are_too_young_have_no_usable_outcome(
    root: Project, window: str, left_out: set[str], message: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    young: list[Row] = [
        ("0", date(2012, 1, 30), 0),
        ("1", date(2012, 2, 1), 1),
        ("2", date(2012, 3, 1), 0),
        ("3", date(2012, 4, 1), 1),
    ]
    late: list[Row] = [("unknown", date(2013, 1, 30) if "2013" in window else date(2014, 1, 31), None)]
    root.params_file.write_text(root.params_file.read_text().replace("24", f"24, {window}"))
    code = run(root, [*made(200, 1000), *made(24, 5000, 2011), *young, *late])
    if message:
        assert code == 1
        assert message in capsys.readouterr().err
        return
    folder = root.path("1.data", "4.split", "rows")
    used = {number for path in folder.iterdir() for number in pq.read_table(path)[ROW_ID].to_pylist()}
    assert {number for number, *_ in young} - used == left_out
    counted = json.loads(root.path("1.data", "4.split", "metrics.json").read_text()).get("performance_window")
    assert bool(counted) == bool(left_out)
    if counted:
        assert (counted["rows"], counted["labelled"]) == (len(left_out) + 1, len(left_out))
        positive = sum(outcome or 0 for number, _, outcome in young if number in left_out)
        assert counted["positive_rate"] == pytest.approx(positive / len(left_out), abs=1e-6)
        assert f"too young {len(left_out) + 1}" in capsys.readouterr().out


@needs_date
@pytest.mark.parametrize(
    ("months", "message"), [(12, None), (24, "split.calibration_months must be less than split.out_of_time_months")]
)
def test_the_oldest_months_out_of_time_can_be_set_apart_for_calibration(
    root: Project, months: int, message: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    root.params_file.write_text(root.params_file.read_text().replace("24", f"24, calibration_months: {months}"))
    code = run(root, [*made(200), *made(12, 500, 2009), *made(12, 1000, 2010)])
    if message:
        assert code == 1
        assert message in capsys.readouterr().err
        return
    folder = root.path("1.data", "4.split", "rows")
    ids = {path.stem: set(pq.read_table(path)[ROW_ID].to_pylist()) for path in folder.iterdir()}
    assert ids["calibration"] == {str(500 + i) for i in range(12)}
    assert ids["out_of_time"] == {str(1000 + i) for i in range(12)}
    assert len(ids["train"] | ids["test"]) == 200


def test_splits_are_disjoint_and_complete(root: Project) -> None:
    rows = [*made(300), *made(50, 1000, 2010)]
    splits = split(root, rows)
    assert sum(map(len, splits.values())) == len(rows)
    assert set.union(*splits.values()) == {number for number, *_ in rows}


def test_loans_stay_on_their_split_when_others_arrive_in_any_order(root: Project) -> None:
    before = split(root, [*made(300), *made(50, 1000, 2010)])
    after = split(root, [*made(80, 5000, 2012), *reversed([*made(300), *made(50, 1000, 2010)])])
    assert before["test"] <= after["test"]
    assert before["train"] <= after["train"]


@needs_date
def test_new_data_moves_the_window_and_train_grows(root: Project) -> None:
    before = split(root, [*made(300), *made(50, 1000, 2010)])
    after = split(root, [*made(300), *made(50, 1000, 2010), *made(50, 2000, 2014)])
    assert len(after["train"]) > len(before["train"])
    assert after["out_of_time"] == {str(2000 + i) for i in range(50)}


def test_hash_is_sha256_of_the_row_id_salted_with_the_projects_name(root: Project) -> None:
    names = script(root, STAGE)
    numbers = [str(10**9 + i) for i in range(20_000)]
    shares = names["hash_share"](numbers)
    digest = hashlib.sha256(f"{CONTRACT.problem.name}:1000000000".encode()).digest()
    assert shares[0] == int.from_bytes(digest[:8], "big") / 2**64
    assert ((shares >= 0) & (shares < 1)).all()
    assert abs((shares < 0.2).mean() - 0.2) < 0.01  # 3.5 standard errors of 20,000 draws


WORDS = CONTRACT.problem


def outcomes(split: str, positive: int, negative: int) -> str:
    """What the message says about a split."""
    return (
        f"{split} has {positive + negative} {WORDS.rows}, {positive} {WORDS.positive} and {negative} {WORDS.negative}"
    )


@needs_date
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no row has an outcome"),
        ([("1", date(2000, 1, 1), None)], "no row has an outcome"),
        (made(50), outcomes("train", 0, 0)),
        ([*made(50), ("x", date(2010, 1, 1), 0)], outcomes("out_of_time", 0, 1)),
        (
            [*made(50), ("x", date(2010, 1, 1), 0)],
            "and needs 1 of each (split.min_rows); the newest date is 2010-01-01",
        ),
    ],
    ids=range(5),
)
def test_a_split_without_both_outcomes_is_named(
    root: Project, rows: list[Row], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, rows) == 1
    assert message in capsys.readouterr().err
    assert not root.path("1.data", "4.split").exists()


@pytest.mark.parametrize("outcome", [0, 1])
def test_a_constant_outcome_stops(root: Project, outcome: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, [(name, day, outcome) for name, day, _ in [*made(300), *made(50, 1000, 2010)]]) == 1
    assert re.search(r"train has .* and needs 1 of each \(split.min_rows\)", capsys.readouterr().err)


def test_few_rows_of_an_outcome_stop(root: Project, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*made(300), *made(50, 1000, 2010)]
    outcome_of = {name: outcome for name, _, outcome in rows}
    counts = [
        sum(outcome_of[name] == outcome for name in names) for names in split(root, rows).values() for outcome in (0, 1)
    ]
    params = "split: {out_of_time_months: 24, test_share: 0.2, min_rows: %d}"
    root.params_file.write_text(params % min(counts))
    assert run(root, rows) == 0
    root.params_file.write_text(params % (min(counts) + 1))
    assert run(root, rows) == 1
    assert f"and needs {min(counts) + 1} of each (split.min_rows)" in capsys.readouterr().err
