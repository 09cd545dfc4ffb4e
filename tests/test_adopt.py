"""What `main.py adopt` finds in columns, decides, refuses and writes; test_adopt_run.py runs the result."""

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from adopt_rows import TARGET, raw_rows
from projects import REPOSITORY

from credit_risk.adopt import measure, plan, project, render
from credit_risk.adopt.code import literal
from credit_risk.adopt.columns import field_name, missing_spellings, profile
from credit_risk.adopt.decisions import decisions
from credit_risk.adopt.declaration import Request, value_range
from credit_risk.adopt.parsers import amounts, date_formats, decimal_commas
from credit_risk.adopt.project import ASIDE, OWN, check, formatted, set_aside, without_blocks
from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import Choice, Contract, Number
from credit_risk.data.splits import hash_share

REQUEST = Request(path=Path("rows.csv"), target=TARGET, positive="yes", title="Customer churn")


def column(*values: str, repeat: int = 20) -> "pd.Series[str]":
    return pd.Series([*values] * repeat, dtype="str")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (column("1", "2.5", ""), "number"),
        (column("$1,200.50", "$3"), "number"),
        (column("1.200,50", "3,5"), "number"),
        (column("red", "blue", ""), "choice"),
        (column("yes", "", ""), "choice"),
        (column("yes"), "constant"),
        (column(""), "empty"),
        (column("2024-01-31", "2024-02-01"), "date"),
        (column("20240131", "20240201"), "date"),
        (column("31-Jan-24", "1-Feb-24", ""), "date"),
        (pd.Series([f"row {n}" for n in range(40)]), "id"),
        (pd.Series([str(n) for n in range(100, 140)]), "id"),
        (pd.Series([f"text {n % 30}" for n in range(60)]), "text"),
        (pd.Series([str(n * n / 7) for n in range(40)]), "number"),
        (pd.Series([str(n * n) for n in range(40)]), "number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_kinds_of_columns(values: "pd.Series[str]", kind: str) -> None:
    assert profile("x", values).kind == kind


def test_whole_numbers_that_all_differ_are_an_id_only_if_their_name_says_so() -> None:
    squares = pd.Series([str(n * n) for n in range(40)])
    assert [profile(name, squares).kind for name in ("CustomerID", "row_id", "", "area")] == [
        "id",
        "id",
        "id",
        "number",
    ]


def test_missing_spellings() -> None:
    assert missing_spellings(column("1", "NA", "-")) == {"NA", "-"}
    assert missing_spellings(column("red", "NA", "-")) == {"NA"}  # beside words, a dash may be one
    assert missing_spellings(column("red", "blue")) == frozenset()


def test_amounts_and_decimal_commas() -> None:
    assert amounts(pd.Series(["$1,200.50", "-3 %", "(40)", "€5", "+7", "1,2"])).tolist()[:5] == [1200.5, -3, -40, 5, 7]
    assert decimal_commas(pd.Series(["1.200,50", "-3,5", "1.234.567"])).tolist() == [1200.5, -3.5, 1234567]
    assert amounts(pd.Series(["1,2", "abc"])).isna().all()
    assert decimal_commas(pd.Series(["1.5", "abc"])).isna().all()


def test_formats_of_dates() -> None:
    assert date_formats(pd.Series(["2024-01-31 10:00:00"])) == ["%Y-%m-%d %H:%M:%S"]
    assert date_formats(pd.Series(["31/01/2024", "01/02/2024"])) == ["%d/%m/%Y"]
    assert date_formats(pd.Series(["02/01/2024", "01/02/2024"])) == ["%d/%m/%Y", "%m/%d/%Y"]  # either may be meant
    assert date_formats(pd.Series(["12-34", "5"])) == []


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("Total Charges ($)", "total_charges"),
        ("monthlyCharge", "monthly_charge"),
        ("Alter in Jähren", "alter_in_jahren"),
        ("2nd", "field_2nd"),
        ("年齢", "field"),
        ("class", "class_value"),
        ("outcome", "outcome_value"),
        ("copy", "copy_value"),
        ("Time", "time_value"),
        ("taken", "taken_2"),
    ],
)
def test_names_of_fields(raw: str, name: str) -> None:
    assert field_name(raw, {"taken"}.__contains__) == name


@pytest.mark.parametrize(
    ("low", "high", "whole", "expected"),
    [
        (0.2, 97.3, False, (0, 100)),
        (18, 92, True, (15, 95)),
        (0, 1, True, (0, 1)),
        (1961, 2014, True, (1960, 2015)),
        (-0.03, 0.21, False, (-0.04, 0.22)),
        (7, 7, True, (7, 7)),
        (123_456, 9_876_543, True, (0, 10_000_000)),
    ],
)
def test_ranges_are_rounded_outwards(low: float, high: float, whole: bool, expected: tuple[float, float]) -> None:
    assert value_range(low, high, whole) == pytest.approx(expected)


@pytest.fixture(scope="module")
def made() -> plan.Plan:
    return plan.make(replace(REQUEST, row_id="Customer", date="Signed"), raw_rows())


def test_fields_are_declared_from_what_the_columns_hold(made: plan.Plan) -> None:
    fields = {field.name: field for field in made.contract.fields}
    assert fields.keys() == {"age", "monthly_charge", "plan", "score"}
    age, charge, kind = fields["age"], fields["monthly_charge"], fields["plan"]
    assert isinstance(age, Number)
    assert age.whole
    assert not age.required  # "?" occurs
    assert isinstance(charge, Number)
    assert charge.column == "Monthly charge"
    assert (charge.minimum, charge.maximum) == (0, 1200)
    assert isinstance(kind, Choice)
    assert kind.choices == ("basic", "gold", "silver")
    assert all(field.accepts(field.example) for field in fields.values())
    assert (charge.description, charge.unit) == ("Monthly charge", "")
    assert made.missing == {"?"}


def test_columns_that_are_no_fields_have_a_reason(made: plan.Plan) -> None:
    reasons = made.contract.not_fields
    assert reasons.keys() == {"Cancelled", "Remark", "Version"}
    assert reasons["Cancelled"].startswith("leak? its ROC AUC alone is 1.00")
    assert "texts" in reasons["Remark"]
    assert reasons["Version"] == "it has one value"


def test_keys_that_are_not_asked_for_are_proposed_and_not_taken() -> None:
    found = plan.make(REQUEST, raw_rows())
    assert (found.contract.row_id, found.contract.date) == (None, None)
    assert (found.proposals("id"), found.proposals("date")) == (["Customer"], ["Signed"])
    assert found.contract.not_fields.keys() == {"Customer", "Signed", "Cancelled", "Remark", "Version"}


def test_leaks_stay_when_asked_for() -> None:
    kept = plan.make(replace(REQUEST, leak_auc=1.0), raw_rows())
    assert "cancelled" in kept.contract.field_names
    assert kept.leaks == ()


def test_rows_are_split_as_stage_4_does(made: plan.Plan) -> None:
    assert set(made.split) == {"train", "test", "out_of_time"}
    dates = made.rows.dates
    assert dates is not None
    assert dates[made.split == "out_of_time"].min() > dates[made.split == "train"].max()
    assert made.out_of_time_months is not None
    shares = hash_share(made.rows.ids.tolist(), made.contract.problem.name)  # the new name, not this project's
    in_time = made.split != "out_of_time"
    assert ((made.split == "test") == (shares < made.test_share))[in_time].all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": "churnd"}, "has no column 'churnd'; did you mean 'churned'?"),
        ({"row_id": "nothing of the kind"}, "has no column 'nothing of the kind'; it has Customer"),
        ({"positive": "true"}, "'true' is not a value of 'churned'; its values are 'no', 'yes'"),
        ({"target": "Plan", "positive": "gold"}, "has 3 different outcomes"),
        ({"target": "Version", "positive": "1"}, "has the same outcome in every row"),
        ({"row_id": "Plan"}, "is no row id"),
        ({"date": "Plan"}, "can't be read as dates, such as"),
        ({"date": TARGET}, "must be three different columns"),
        ({"title": "!"}, "choose another with --name"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProjectError, match=re.escape(message)):
        plan.make(replace(REQUEST, **changes), raw_rows())


def test_codes_are_compared_as_stage_2_does() -> None:
    rows = raw_rows().assign(**{TARGET: raw_rows()[TARGET].map({"yes": "1.0", "no": "0"})})
    found = plan.make(replace(REQUEST, positive="1"), rows)
    assert (found.contract.target.positive, found.contract.target.negative) == (("1",), ("0",))
    assert found.rows.labels.mean() == pytest.approx((rows[TARGET] == "1.0").mean())
    assert profile("x", column("01", "1", "b1")).words == ("1", "b1")


def test_too_few_rows_of_an_outcome_are_refused() -> None:
    rows = raw_rows()
    few = pd.concat([rows[rows[TARGET] == "no"], rows[rows[TARGET] == "yes"].head(49)])
    with pytest.raises(ProjectError, match="only 49 rows have 'churned' = 'yes'; at least 50"):
        plan.make(REQUEST, few)


def test_equal_rows_count_once() -> None:
    with pytest.raises(ProjectError, match="only 3 different rows have 'churned' = "):
        plan.make(REQUEST, raw_rows()[["Plan", TARGET]])


def test_columns_that_all_give_the_outcome_away_are_refused() -> None:
    with pytest.raises(ProjectError, match="keep them with --leak-auc 1"):
        plan.make(REQUEST, raw_rows()[["Customer", "Cancelled", TARGET]])


def test_a_file_without_usable_columns_is_refused() -> None:
    with pytest.raises(ProjectError, match=r"no column of rows\.csv can be a field: 'Remark'"):
        plan.make(REQUEST, raw_rows()[["Remark", TARGET]])


def test_declarations_become_source_that_gives_them_back() -> None:
    """Whatever the contract is: here, the project's own."""
    names: dict[str, Any] = {}
    exec("from credit_risk.core.schema import *", names)  # noqa: S102 (our own module)
    assert eval(literal(CONTRACT), names) == CONTRACT  # noqa: S307 (made above)
    assert max(map(len, literal(CONTRACT.fields[0]).splitlines())) <= 120


@pytest.fixture(scope="module")
def choice(made: plan.Plan) -> measure.Choice:
    """A choice without the fits that it would take."""
    names = ("roc_auc", "ece", "brier_skill", "auc_over_logistic", "out_of_time_auc")
    settings = measure.settings(len(made.rows.labels), made.rows.labels)
    metrics = {name: measure.Measured(0.7, 0.02) for name in names}
    return measure.Choice(train=settings[0], aucs={"logistic_regression": 0.7}, metrics=metrics, folds=5, rows=700)


def test_written_files_say_what_was_decided(made: plan.Plan, choice: measure.Choice) -> None:
    written = render.files(made, choice, CONTRACT.problem.package)
    names: dict[str, Any] = {}
    source = written["src/customer_churn/contract.py"]
    exec(source, names)  # noqa: S102 (made above)
    contract: Contract = names["CONTRACT"]
    assert contract == made.contract
    assert "DECIDE" in source
    params = yaml.safe_load(written["4.dvc_pipeline/params.yaml"])
    split = {"min_rows": 30, "out_of_time_months": made.out_of_time_months, "test_share": made.test_share}
    split |= dict.fromkeys(("calibration_months", "performance_months", "observed_until"))
    assert params["split"] == split
    assert params["clean"]["max_rejected_share"] == 0.01
    ours = yaml.safe_load((REPOSITORY / "4.dvc_pipeline" / "params.yaml").read_text(encoding="utf-8"))
    # Not ours without a date.
    of_dates = {"out_of_time_months", "calibration_months", "performance_months", "observed_until"}
    of_dates |= {"min_out_of_time_auc", "cost_out_of_time"}
    assert {name: section.keys() - of_dates for name, section in params.items()} == {
        name: section.keys() - of_dates for name, section in ours.items()
    }
    assert params["gates"]["min_auc"] == 0.64  # measured, less three standard errors
    assert params["evaluate"]["leak_auc"] >= 0.9
    stage = written["4.dvc_pipeline/2.prep_clean_data.py"]
    assert 'parsers={"monthly_charge": amounts}' in stage
    assert 'missing=frozenset({"", "?"})' in stage
    listed = written["decisions.md"]
    for part in ("`Cancelled` alone", "`age`: may a decision", "`Remark` has"):
        assert part in listed


def test_written_code_is_formatted_under_its_new_name(made: plan.Plan, choice: measure.Choice) -> None:
    pytest.importorskip("ruff")
    long = "a name of a column that goes on " * 5
    number = replace(made.contract.numbers[0], column=long)
    changed = replace(made, contract=replace(made.contract, fields=(number, *made.contract.fields[1:])))
    changed = replace(changed, columns={**made.columns, long: made.columns["Age"]}, aucs={**made.aucs, long: 0.6})
    new = made.contract.problem
    rendered = render.files(changed, choice, CONTRACT.problem.package)
    written = formatted(CONTRACT.problem, new, rendered)
    name = "src/customer_churn/contract.py"
    assert written[name].startswith('"""YOURS')
    assert "from customer_churn.core.schema import" in written[name]
    assert f'column="{long}",  # noqa: E501' in written[name]
    stage = "4.dvc_pipeline/2.prep_clean_data.py"  # the layout is that of the formatter already
    assert written[stage].replace(new.package, CONTRACT.problem.package) == rendered[stage]
    with pytest.raises(ProjectError, match="does not pass ruff"):
        formatted(CONTRACT.problem, new, {name: "import os\n\nprint(undefined)\n"})


def test_a_title_with_quotes_leaves_pyproject_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROJECT_ROOT", str(tmp_path))
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\ndescription = "old \\"one\\""\n')
    project._describe(replace(CONTRACT.problem, title='Late "parcels"'))
    described = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]["description"]
    assert described == 'Late "parcels": from raw rows to a gated, served model'


def test_many_numbers_of_a_kind_become_a_table(made: plan.Plan) -> None:
    example = made.contract.fields[0]
    assert isinstance(example, Number)
    many = tuple(replace(example, name=f"n{index}", column=f"N{index}", required=True) for index in range(12))
    (table,) = render._tables([*many, example])
    assert table["fields"] == list(many)
    assert render._tables(many[1:]) == []


def test_logistic_regression_is_taken_unless_another_learner_is_better_beyond_chance() -> None:
    best = {"logistic_regression": 0, "random_forest": 1}
    equal = np.array([[0.70, 0.71, 0.72], [0.71, 0.70, 0.73]])
    assert measure._simplest(best, equal) == 0
    assert measure._simplest(best, equal + np.array([[0], [0.05]])) == 1


def test_documents_lose_what_is_about_the_first_problem() -> None:
    text = "# A\n\nAbout loans.\n\n- SBA\n  goes on\n- kept\n\n## B\n\nloans\n\n"
    text += "## C\n\n| a |\n|---|\n| term_leak |\n| x |\n\n```\nx\n\ny\n```\n"
    assert without_blocks(text) == "# A\n\n- kept\n\n## C\n\n| a |\n|---|\n| x |\n\n```\nx\n\ny\n```\n"


def test_the_first_problems_files_are_where_adopt_looks_for_them() -> None:
    if (REPOSITORY / "tests" / "example").exists():  # not yet adopted
        assert [pattern for pattern in OWN if not list(REPOSITORY.glob(pattern))] == []


def test_columns_that_are_too_good_together_are_a_question(made: plan.Plan, choice: measure.Choice) -> None:
    question = "Does it give the outcome away?"
    before = decisions(made, choice)[question]
    added = decisions(made, replace(choice, aucs={"logistic_regression": 0.9, "random_forest": 0.991}))[question]
    assert added[: len(before)] == before
    assert [each[:55] for each in added[len(before) :]] == ["all columns together reach a ROC AUC of 0.991, as few p"]


def test_files_of_an_earlier_problem_are_not_overwritten(
    made: plan.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("2.notebooks/look.ipynb", f"{ASIDE}/2.notebooks/look.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(project, "check_clean", lambda **_: None)  # git
    monkeypatch.setenv("PROJECT_ROOT", str(tmp_path))
    with pytest.raises(ProjectError, match=rf"{ASIDE}/2\.notebooks/look\.ipynb exists"):
        check(CONTRACT.problem, made, clean=False)
    check(CONTRACT.problem, made, clean=True)


@pytest.mark.parametrize("clean", [False, True])
def test_own_files_are_moved_aside_or_removed_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean: bool
) -> None:
    own = ["1.data/source/old.csv", "1.data/later/new.csv", "tests/example/test_it.py", "2.notebooks/eda.ipynb"]
    others = ["1.data/readme.md", "tests/test_split.py", "3.experiments/2.tune.py"]
    for name in [*own, *others, "1.data/4.split/metrics.json"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.setenv("PROJECT_ROOT", str(tmp_path))
    set_aside(clean=clean)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*others, *([] if clean else [f"example/{name}" for name in own])}
