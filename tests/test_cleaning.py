"""Stage 2's machinery: which rows are kept, rejected and counted, whatever the contract."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from projects import Project, lone_stage, run_script
from raw import raw_frame, raw_row, row_id

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import Choice
from credit_risk.data import cleaning
from credit_risk.data.cleaning import DUPLICATE, Counts, Parsing, clean_file, numbers

TARGET = CONTRACT.target
REQUIRED = [number for number in CONTRACT.numbers if number.required]
with_row_id = pytest.mark.parametrize("column", [CONTRACT.row_id.column] if CONTRACT.row_id else [])
with_date = pytest.mark.parametrize("column", [CONTRACT.date] if CONTRACT.date else [])
with_number = pytest.mark.parametrize("field", REQUIRED[:1], ids=lambda field: field.name)
with_choice = pytest.mark.parametrize("field", CONTRACT.choices[:1], ids=lambda field: field.name)


@pytest.fixture
def clean(tmp_path: Path) -> Callable[..., tuple[pd.DataFrame, pd.DataFrame, Counts]]:
    """Cleans rows; returns the clean and the rejected ones, and the counts."""

    def run(*rows: dict[str, str], most: float = 1.0, **parsing: Any) -> tuple[pd.DataFrame, pd.DataFrame, Counts]:
        raw_frame(*rows).to_parquet(tmp_path / "raw.parquet")
        clean, rejected = tmp_path / "clean.parquet", tmp_path / "rejected.parquet"
        counts = clean_file(tmp_path / "raw.parquet", clean, rejected, Parsing(**parsing), most)
        return pd.read_parquet(clean), pd.read_parquet(rejected), counts

    return run


def test_a_valid_row_becomes_its_fields(clean: Callable[..., Any]) -> None:
    found, rejected, counts = clean(raw_row(0), raw_row(1))
    for field in CONTRACT.fields:
        values = found[field.name].tolist()
        assert values == [field.example] * 2 if field.example is not None else found[field.name].isna().all()
    assert found["outcome"].tolist() == [0, 1]
    assert found.columns.tolist() == [*CONTRACT.keys, *CONTRACT.field_names]
    assert rejected.empty
    assert (counts.rows, counts.clean, counts.duplicates, counts.unlabelled) == (2, 2, 0, 0)


@with_row_id
@pytest.mark.parametrize("text", ["", "  "])
def test_rows_without_an_id_are_rejected_and_are_not_duplicates(
    clean: Callable[..., Any], column: str, text: str
) -> None:
    found, rejected, counts = clean(*(raw_row(i) | ({column: text} if i % 2 else {}) for i in range(6)))
    assert len(found) == 3
    assert rejected["reason"].tolist() == [f"{column} is empty or malformed"] * 3
    assert counts.duplicates == 0


@with_row_id
def test_row_ids_are_compared_as_they_are_stored(clean: Callable[..., Any], column: str) -> None:
    found, rejected, counts = clean(raw_row(0), raw_row(0) | {column: f" {row_id(0)}  "})
    assert found["row_id"].tolist() == [row_id(0)]
    assert rejected["reason"].tolist() == [DUPLICATE]
    assert counts.duplicates == 1


@with_row_id
@with_number
def test_the_last_usable_copy_is_kept(clean: Callable[..., Any], column: str, field: Any) -> None:
    first, last = TARGET.negative[0], TARGET.positive[0]
    good = raw_row(0) | {TARGET.column: first}
    found, rejected, counts = clean(good, good | {TARGET.column: last}, good | {field.column: "x"}, raw_row(1))
    assert found[["row_id", "outcome"]].to_numpy().tolist() == [[row_id(0), 1], [row_id(1), 1]]
    assert counts.duplicates == 1
    assert rejected.set_index("reason").loc[DUPLICATE, TARGET.column] == first
    assert column in rejected


def test_rows_without_an_outcome_stay_and_are_counted(clean: Callable[..., Any]) -> None:
    found, _, counts = clean(raw_row(0), raw_row(1) | {TARGET.column: TARGET.unlabelled[0]}, raw_row(3))
    assert found["outcome"].isna().tolist() == [False, True, False]
    assert counts.unlabelled == 1


def test_another_outcome_is_rejected(clean: Callable[..., Any]) -> None:
    _, rejected, _ = clean(raw_row(0), raw_row(1) | {TARGET.column: "maybe"})
    assert rejected["reason"].tolist() == [f"{TARGET.column} is none of {', '.join(TARGET.positive + TARGET.negative)}"]


@with_date
def test_what_is_no_date_is_rejected(clean: Callable[..., Any], column: str) -> None:
    _, rejected, _ = clean(raw_row(0), raw_row(1) | {column: "soon"})
    assert rejected["reason"].tolist() == [f"{column} can't be read as a date"]


@with_number
@pytest.mark.parametrize("text", ["x", "1e", "inf", "nan", "٣", "1,5"])
def test_what_is_no_number_is_rejected(clean: Callable[..., Any], field: Any, text: str) -> None:
    _, rejected, _ = clean(raw_row(0), raw_row(1, **{field.name: text}))
    assert rejected["reason"].tolist() == [f"{field.column} can't be read as a number"]


@with_number
def test_a_number_out_of_its_range_is_rejected_with_the_rule(clean: Callable[..., Any], field: Any) -> None:
    _, rejected, _ = clean(raw_row(0), raw_row(1, **{field.name: f"{field.maximum + 1:.10g}"}))
    (reason,) = rejected["reason"]
    assert reason in {f"{field.name} {field.rule}", *(f"{rule.smaller} {rule.rule}" for rule in CONTRACT.rules)}


@with_number
def test_fillers_and_missing_spellings_are_missing(clean: Callable[..., Any], field: Any) -> None:
    rows = [raw_row(0), raw_row(1, **{field.name: "N/A"}), raw_row(2, **{field.name: f"{field.maximum:.10g}"})]
    _, rejected, _ = clean(
        *rows, missing=frozenset({"", "N/A"}), fillers={field.name: frozenset({float(field.maximum)})}
    )
    assert rejected["reason"].tolist() == [f"{field.name} {field.rule}"] * 2  # a required number is missing


@with_choice
def test_words_are_read_from_codes_however_a_spreadsheet_spells_them(clean: Callable[..., Any], field: Choice) -> None:
    rows = [raw_row(i, **{field.name: text}) for i, text in enumerate(["7", "7.0", " 7 "])]
    found, _, _ = clean(*rows, words={field.name: {"7": field.choices[0]}})
    assert found[field.name].tolist() == [field.choices[0]] * 3


def test_too_many_rejected_rows_stop_and_leave_the_last_good_files(clean: Callable[..., Any], tmp_path: Path) -> None:
    bad = raw_row(1) | {TARGET.column: "maybe"}
    good, *_ = clean(raw_row(0), bad, most=0.5)  # exactly the share
    with pytest.raises(ProjectError, match=r"2 of 3 rows are rejected, more than clean.max_rejected_share \(50.00%\)"):
        clean(raw_row(0), bad, bad, most=0.5)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "clean.parquet"), good)
    assert {path.name for path in tmp_path.iterdir()} == {"raw.parquet", "clean.parquet", "rejected.parquet"}


def test_batches_make_no_difference(clean: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [raw_row(i % 7) | ({TARGET.column: "maybe"} if i % 5 == 0 else {}) for i in range(20)]
    whole = clean(*rows)
    monkeypatch.setattr(cleaning, "BATCH_ROWS", 3)
    parts = clean(*rows)
    for one, other in zip(whole[:2], parts[:2], strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert whole[2] == parts[2]


def test_new_and_missing_columns_are_named() -> None:
    names = sorted(CONTRACT.raw_columns)
    with pytest.raises(ProjectError, match=r"column 'Mood' is not in the contract; declare it in contract\.py"):
        cleaning.check_raw_columns([*names, "Mood"])
    with pytest.raises(ProjectError, match=f"column {names[0]} is missing from the source; it has 'Mood', which"):
        cleaning.check_raw_columns([*names[1:], "Mood"])


@pytest.mark.parametrize("part", ["words", "parsers", "fillers"])
def test_a_misspelt_field_in_the_parsing_is_named(part: str) -> None:
    with pytest.raises(ProjectError, match="'no_such_field'"):
        replace(Parsing(), **{part: {"no_such_field": {}}})  # type: ignore[arg-type]


@with_choice
def test_a_word_that_is_no_choice_is_named(field: Choice) -> None:
    with pytest.raises(ProjectError, match=f"'nonsense' is not one of the choices of '{field.name}'"):
        Parsing(words={field.name: {"7": "nonsense"}})


def test_without_an_id_equal_rows_are_duplicates() -> None:
    without_id = replace(CONTRACT, row_id=None)
    ids = cleaning.row_ids(raw_frame(raw_row(0), raw_row(1), raw_row(0)), without_id)
    assert ids[0] == ids[2] != ids[1]
    assert ids.str.fullmatch("[0-9a-f]{64}").all()


def test_numbers_are_read_from_decimal_text() -> None:
    text = pd.Series(["1", "-2.50", "007", "1.", "6.1e-05", "", "0x1", "NaN", "inf"])
    assert numbers(text).tolist()[:5] == [1.0, -2.5, 7.0, 1.0, 6.1e-05]
    assert numbers(text)[5:].isna().all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clean: {max_rejected_shar: 0.5}", "clean.max_rejected_shar: unknown key, check its spelling"),
        ("clean: {max_rejected_share: 2}", "clean.max_rejected_share: Input should be less than or equal to 1"),
        ("clean: {}", "clean.max_rejected_share: Field required"),
        ("split: {}", "section 'clean' is missing from 4.dvc_pipeline/params.yaml"),
        ("clean: [", "4.dvc_pipeline/params.yaml is not valid YAML"),
        ("just text", "4.dvc_pipeline/params.yaml has no sections"),
    ],
)
def test_bad_parameters_are_named(
    tmp_path: Path, inside: Callable[[Project], None], text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = "4.dvc_pipeline/2.prep_clean_data.py"
    project = lone_stage(tmp_path, stage, "1.raw", text)
    inside(project)
    assert run_script(project, stage) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
