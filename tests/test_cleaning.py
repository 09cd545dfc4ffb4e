"""Stage 2's machinery: which rows are kept, rejected and counted, whatever the contract."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from projects import REPOSITORY, Project, lone_stage, run_script, script
from raw import raw_frame, raw_row, row_id

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import Choice, Target
from credit_risk.data import cleaning, duplicates, parsing
from credit_risk.data.cleaning import CONFLICT, DUPLICATE, CleanParams, Counts, clean_file
from credit_risk.data.parsing import Parsing, numbers
from credit_risk.data.validation import failures

TARGET = CONTRACT.target
REQUIRED = [number for number in CONTRACT.numbers if number.required]
with_row_id = pytest.mark.parametrize("column", [CONTRACT.row_id.column] if CONTRACT.row_id else [])
with_date = pytest.mark.parametrize("column", [CONTRACT.date] if CONTRACT.date else [])
with_number = pytest.mark.parametrize("field", REQUIRED[:1], ids=lambda field: field.name)
with_choice = pytest.mark.parametrize("field", CONTRACT.choices[:1], ids=lambda field: field.name)


LIMITS = CleanParams(max_rejected_share=1, max_unknown_share=1)
Cleaned = tuple[pd.DataFrame, pd.DataFrame, Counts]


def clean_in(folder: Path, rows: Sequence[dict[str, str]], parsing: Parsing, limits: CleanParams = LIMITS) -> Cleaned:
    """Cleans rows, the first half from one source and the others from another; returns clean, rejected, counts."""
    raw_frame(*rows).to_parquet(folder / "raw.parquet")
    sources = [("1.csv", len(rows) // 2), ("2.csv", len(rows) - len(rows) // 2)]
    counts = clean_file(folder / "raw.parquet", folder, parsing, limits, sources)
    return pd.read_parquet(folder / "rows.parquet"), pd.read_parquet(folder / "rejected.parquet"), counts


@pytest.fixture
def clean(tmp_path: Path) -> Callable[..., Cleaned]:
    """Cleans rows; keyword arguments are those of the parsing."""
    return lambda *rows, limits=LIMITS, **parsing: clean_in(tmp_path, rows, Parsing(**parsing), limits)


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
    assert rejected.set_index("reason").loc[CONFLICT, TARGET.column] == first
    assert column in rejected


@with_row_id
def test_an_outcome_that_changes_is_counted_with_the_source_that_is_kept(
    clean: Callable[..., Cleaned], column: str
) -> None:
    yes, no, open_ = ({TARGET.column: values[0]} for values in (TARGET.positive, TARGET.negative, TARGET.unlabelled))
    before = [raw_row(0) | no, raw_row(1) | no, raw_row(2) | open_, raw_row(3) | no]
    after = [raw_row(0) | yes, raw_row(1) | no, raw_row(2) | yes, raw_row(3) | open_]
    found, rejected, counts = clean(*before, *after)
    assert found["outcome"].fillna(-1).tolist() == [1, 0, 1, -1]
    assert counts.conflicts == {"2.csv": 2}  # a new outcome is none, a lost one is
    assert rejected["reason"].tolist() == [CONFLICT, DUPLICATE, DUPLICATE, CONFLICT]
    assert rejected[column].tolist() == [row_id(number) for number in range(4)]
    assert counts.as_metrics()["outcome_conflicts"] == {"rows": 2, "kept": {"2.csv": 2}}
    assert counts.summary() == (
        "4 clean, 0 rejected, 4 duplicates, 2 with another outcome than before: kept as in 2.csv (2)"
    )


def with_row_ids(monkeypatch: pytest.MonkeyPatch, *, number: bool | None) -> None:
    assert CONTRACT.row_id
    changed = replace(CONTRACT, row_id=replace(CONTRACT.row_id, pattern="[0-9]+", number=number))
    for module in (parsing, duplicates):
        monkeypatch.setattr(module, "CONTRACT", changed)


@with_row_id
def test_the_spellings_of_a_number_are_one_row_or_two_as_the_contract_says(
    clean: Callable[..., Cleaned], column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spelt = [raw_row(0) | {column: text} for text in ("70", "0070", "70.0", "07000")]
    with_row_ids(monkeypatch, number=True)
    found, rejected, _ = clean(*spelt)
    assert found["row_id"].tolist() == ["70", "7000"]
    assert rejected["reason"].tolist() == [DUPLICATE] * 2
    with_row_ids(monkeypatch, number=False)
    assert clean(*spelt)[0]["row_id"].tolist() == ["70", "0070", "07000"]  # 70.0 is malformed
    with_row_ids(monkeypatch, number=None)
    with pytest.raises(ProjectError, match=f"{column} has the row ids '70' and '0070', which are the same number"):
        clean(*spelt)
    assert len(clean(*spelt[1:])[0]) == 2  # leading zeros alone are no contradiction


def test_a_source_may_have_a_column_of_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = replace(CONTRACT, not_fields={**CONTRACT.not_fields, "reason": "somebody's words"})
    for module in (parsing, cleaning):
        monkeypatch.setattr(module, "CONTRACT", changed)
    bad = raw_row(1) | {TARGET.column: "neither"}
    frame = raw_frame(raw_row(0), bad, raw_row(0)).assign(reason="theirs")
    frame.to_parquet(tmp_path / "raw.parquet")
    counts = clean_file(tmp_path / "raw.parquet", tmp_path, Parsing(), LIMITS, [("1.csv", 3)])
    rejected = pd.read_parquet(tmp_path / "rejected.parquet")
    assert rejected["reason"].tolist() == ["theirs"] * 2
    assert rejected["reason_"].tolist() == [*counts.reasons, DUPLICATE]


@pytest.mark.parametrize(
    "field", [field for field in CONTRACT.fields if not field.required][:2], ids=lambda field: field.name
)
def test_missing_values_are_counted_by_field(clean: Callable[..., Cleaned], field: Any) -> None:
    _, _, counts = clean(raw_row(0), raw_row(1, **{field.name: ""}), raw_row(2, **{field.name: " "}))
    others = {other.name: 0 for other in CONTRACT.fields if not other.required and other.example is not None}
    assert counts.missing == others | {field.name: 2}


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


@with_date
def test_dates_after_today_are_rejected(clean: Callable[..., Cleaned], column: str) -> None:
    today = date.today()  # noqa: DTZ011 (a row is from this machine)
    days = [today - timedelta(1), today, today + timedelta(3), date(2999, 12, 31)]
    found, rejected, _ = clean(*(raw_row(i) | {column: day.isoformat()} for i, day in enumerate(days)))
    assert found["date"].tolist() == days[:2]
    assert rejected["reason"].tolist() == [f"{column} is after today"] * 2


@with_date
@pytest.mark.parametrize("text", ["2024-02-29 00:00:00", "2024-02-29T23:59:59.123Z", "2024-02-29 01:00:00.000000-0500"])
def test_iso_dates_are_read_whatever_the_parsing_and_their_time_is_left_out(
    clean: Callable[..., Cleaned], column: str, text: str
) -> None:
    for own in (None, lambda raw: pd.to_datetime(raw[column], format="%d.%m.%Y", errors="coerce")):
        found, _, _ = clean(raw_row(0) | {column: text}, date=own)
        assert found["date"].tolist() == [date(2024, 2, 29)]


@with_number
@pytest.mark.parametrize("text", ["x", "1e", "inf", "nan", "٣", "1,5", "1 000", "5%", "0x10", "1_000"])
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


@with_choice
def test_a_code_is_the_same_number_however_it_is_spelt(clean: Callable[..., Cleaned], field: Choice) -> None:
    rows = [raw_row(i, **{field.name: text}) for i, text in enumerate(["7", "07", "007.00"])]
    for code in ("7", "07"):
        found, _, _ = clean(*rows, words={field.name: {code: field.choices[0]}})
        assert found[field.name].tolist() == [field.choices[0]] * 3
    with pytest.raises(ProjectError, match=f"'07' and another code of '{field.name}' are the same number"):
        Parsing(words={field.name: {"07": field.choices[0], "7": None}})


def test_an_outcome_is_the_same_number_however_it_is_spelt(
    clean: Callable[..., Cleaned], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Target(column=TARGET.column, positive=("1",), negative=("0",))
    monkeypatch.setattr(parsing, "CONTRACT", replace(CONTRACT, target=target))
    rows = [raw_row(i) | {TARGET.column: text} for i, text in enumerate(["1.0", "0", "", "01", "0.5"])]
    found, rejected, _ = clean(*rows)
    assert found["outcome"].fillna(-1).tolist() == [1, 0, -1, 1]
    assert rejected["reason"].tolist() == [f"{TARGET.column} is none of 1, 0"]


@with_choice
def test_unknown_codes_are_counted_and_stop_above_their_share(clean: Callable[..., Cleaned], field: Choice) -> None:
    words: dict[str, str | None] = {word: word for word in field.choices} | {"0": None}
    texts = [*(["?!"] * 2), *(["new"] * 3), "0", "", field.choices[0], field.choices[-1], "0"]
    rows = [raw_row(i, **{field.name: text}) for i, text in enumerate(texts)]
    _, _, counts = clean(*rows, words={field.name: words})
    codes = counts.as_metrics()["unknown_codes"]
    assert codes.pop(field.column) == {"rows": 5, "commonest": {"new": 3, "?!": 2}}
    assert {column["rows"] for column in codes.values()} <= {0}
    clean(*rows, words={field.name: words}, limits=CleanParams(max_rejected_share=1, max_unknown_share=0.5))
    with pytest.raises(ProjectError, match=f"{field.column} has unknown codes in 5 of 10 rows, more than") as caught:
        clean(*rows, words={field.name: words}, limits=CleanParams(max_rejected_share=1, max_unknown_share=0.4))
    assert r"'new' (3 rows), '?!' (2 rows)" in str(caught.value)


@with_choice
def test_a_word_that_is_spelt_in_another_way_is_unknown_and_its_row_rejected(
    clean: Callable[..., Cleaned], field: Choice
) -> None:
    _, rejected, counts = clean(raw_row(0), raw_row(1, **{field.name: "TRUE"}))
    assert rejected["reason"].tolist() == [f"{field.name} {field.rule}"]
    assert counts.unknown[field.column] == {"TRUE": 1}


def test_a_third_outcome_stops_and_is_named(clean: Callable[..., Cleaned]) -> None:
    rows = [raw_row(0), raw_row(1), raw_row(2) | {TARGET.column: "maybe"}]
    with pytest.raises(ProjectError, match=f"{TARGET.column} has unknown codes in 1 of 3 rows.*'maybe'"):
        clean(*rows, limits=CleanParams(max_rejected_share=1, max_unknown_share=0.3))


def test_too_many_rejected_rows_stop_and_leave_the_last_good_files(clean: Callable[..., Any], tmp_path: Path) -> None:
    bad = raw_row(1) | {TARGET.column: "maybe"}
    half = CleanParams(max_rejected_share=0.5, max_unknown_share=1)
    good, *_ = clean(raw_row(0), bad, limits=half)  # exactly the share
    with pytest.raises(ProjectError, match=r"2 of 3 rows are rejected, more than clean.max_rejected_share \(50.00%\)"):
        clean(raw_row(0), bad, bad, limits=half)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "rows.parquet"), good)
    assert {path.name for path in tmp_path.iterdir()} == {"raw.parquet", "rows.parquet", "rejected.parquet"}


def test_batches_make_no_difference(clean: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [raw_row(i % 7) | ({TARGET.column: "maybe"} if i % 5 == 0 else {}) for i in range(20)]
    whole = clean(*rows)
    monkeypatch.setattr(cleaning, "BATCH_ROWS", 3)
    parts = clean(*rows)
    for one, other in zip(whole[:2], parts[:2], strict=True):
        pd.testing.assert_frame_equal(one, other)
    assert whole[2] == parts[2]


NASTY = st.sampled_from(
    ["", " ", "0", "-1", "7.0", "1e308", "1e999", "9" * 400, "nan", "inf", "0001-01-01", "9999-12-31", "2024-02-30"]
)
CHANGES = st.dictionaries(st.sampled_from(sorted(CONTRACT.raw_columns)), NASTY | st.text(max_size=9), max_size=2)
OWN: Parsing = script(Project(REPOSITORY), "4.dvc_pipeline/2.prep_clean_data.py")["PARSING"]


@pytest.mark.parametrize("parsed", [Parsing(), OWN], ids=["plain", "own"])
@settings(max_examples=9, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(CHANGES, min_size=20, max_size=60))
def test_any_text_gives_clean_rows_or_reasons(
    tmp_path: Path, parsed: Parsing, changes: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if CONTRACT.row_id:
        with_row_ids(monkeypatch, number=True)  # two spellings of one number are another test's
    rows = [raw_row(number % 15) | change for number, change in enumerate(changes)]
    found, rejected, counts = clean_in(tmp_path, rows, parsed)
    assert len(rows) == counts.rows == counts.clean + counts.reasons.total() + counts.duplicates
    assert (len(found), len(rejected)) == (counts.clean, counts.rows - counts.clean)
    assert rejected["reason"].str.len().gt(0).all()
    assert found["row_id"].is_unique
    assert found["outcome"].dropna().isin([0, 1]).all()
    assert failures(found[list(CONTRACT.field_names)]).empty
    if CONTRACT.row_id:
        assert found["row_id"].str.fullmatch("[0-9]+").all()
    if CONTRACT.date:
        assert all(day <= parsing.last_date().date() for day in found["date"])


def test_new_and_missing_columns_are_named() -> None:
    names = sorted(CONTRACT.raw_columns)
    with pytest.raises(ProjectError, match=r"column 'Mood' is not in the contract; declare it in contract\.py"):
        cleaning.check_raw_columns([*names, "Mood"])
    with pytest.raises(ProjectError, match=f"column {names[0]} is missing from the source; it has 'Mood', which"):
        cleaning.check_raw_columns([*names[1:], "Mood"])
    with pytest.raises(ProjectError, match=f"has column ' {names[0].upper()}' instead of '{names[0]}'"):
        cleaning.check_raw_columns([*names[1:], f" {names[0].upper()}"])


@pytest.mark.parametrize("part", ["words", "parsers", "fillers"])
def test_a_misspelt_field_in_the_parsing_is_named(part: str) -> None:
    with pytest.raises(ProjectError, match="'no_such_field'"):
        replace(Parsing(), **{part: {"no_such_field": {}}})  # type: ignore[arg-type]


@with_choice
def test_a_word_that_is_no_choice_is_named(field: Choice) -> None:
    with pytest.raises(ProjectError, match=f"'nonsense' is not a choice of '{field.name}'"):
        Parsing(words={field.name: {"7": "nonsense"}})


def test_without_an_id_equal_rows_are_duplicates() -> None:
    without_id = replace(CONTRACT, row_id=None)
    ids = parsing.row_ids(raw_frame(raw_row(0), raw_row(1), raw_row(0)), without_id)
    assert ids[0] == ids[2] != ids[1]
    assert ids.str.fullmatch("[0-9a-f]{64}").all()


def test_numbers_are_read_from_decimal_text() -> None:
    text = pd.Series(["1", "-2.50", "007", "1.", "6.1e-05", "", "0x1", "NaN", "inf"])
    assert numbers(text).tolist()[:5] == [1.0, -2.5, 7.0, 1.0, 6.1e-05]
    assert numbers(text)[5:].isna().all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clean: {max_rejected_share: 0.5}", "clean.max_unknown_share: Field required"),
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
