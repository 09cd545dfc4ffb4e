"""The classes that `contract.py` is written in: fields, rules, target and the problem's words, with their checks.

They fit any table of rows with a binary outcome; `contract.py` has what is decided about one data set. A contract is
checked when it is created, so a mistake in it stops the first import and not the training.
"""

import keyword
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from dataclasses import fields as dataclass_fields
from functools import cached_property
from typing import Any

from credit_risk.core.errors import ProjectError
from credit_risk.core.names import name_code

ROW_ID, DATE, OUTCOME = "row_id", "date", "outcome"  # key columns of the files of stages 2 to 4
# Columns of the files and of the prediction log that are no fields: a field can't have their names.
RESERVED = (
    *(ROW_ID, DATE, OUTCOME, "time", "request_id", "version", "probability", "decision"),
    *("shadow_version", "shadow_probability"),
)
SHOWN_CHOICES = 3  # in an error message
MAX_NAME_LENGTH = 200  # characters; the API and the prediction log must not become a store of texts
_NAME = re.compile(r"[a-z][a-z0-9_]*").fullmatch
_SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*").fullmatch
# A whole number as codes and ids have it, with the leading zeros and the empty decimal part that spreadsheets add.
NUMBER_SPELLING = r"^(-?)0*([0-9]+)(\.0*)?$"
MAX_NAME = 32  # characters; AWS limits load balancer and target group names to 32 characters


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The problem's name and the words for it; every other name and text is derived from these.

    Attributes:
        name: lower-case words joined by hyphens. The package is this name with underscores.
        title: heading of page, report and API.
        question: what the model answers, as one sentence.
        row: what one row is, in the singular.
        rows: the same in the plural.
        event: noun for the positive outcome, as in "default rate" and "probability of default".
        positive: what happened to a row of class 1.
        negative: what happened to a row of class 0.
        accept: decision below the threshold, as a verb.
        accepted: its past form.
        decline: decision at or above the threshold, as a verb.
        declined: its past form.
        source: where the data comes from, as one sentence.
        limits: what the model must not be used for and does not cover, as sentences.
        acronyms: words of field names that are written in capitals.
    """

    name: str
    title: str
    question: str
    row: str
    rows: str
    event: str
    positive: str
    negative: str
    accept: str
    accepted: str
    decline: str
    declined: str
    source: str
    limits: tuple[str, ...] = ()
    acronyms: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """Name of the Python package."""
        return self.name.replace("-", "_")

    @property
    def model_name(self) -> str:
        """Name of the registered model."""
        return "".join(word.capitalize() for word in self.name.split("-")) + "Model"

    @property
    def experiment(self) -> str:
        """Name of the MLflow experiment."""
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The outcome as the source has it. A value that is in none of the three tuples rejects its row.

    Attributes:
        column: raw column.
        positive: values of class 1.
        negative: values of class 0.
        unlabelled: values of rows whose outcome is not known yet.
    """

    column: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    unlabelled: tuple[str, ...] = ("",)


@dataclass(frozen=True, slots=True)
class RowId:
    """The raw column that identifies a row.

    Attributes:
        column: raw column.
        pattern: what its values must match in full.
        number: whether the values are whole numbers: `007` and `7.0`, as spreadsheets write them, are then stored as
            `7`, which must match the pattern. With False, they are three values; with None, two spellings of one number
            stop the stage that cleans the rows.
    """

    column: str
    pattern: str = r".+"
    number: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A quantity.

    Attributes:
        name: the field's name, everywhere but in the raw file.
        column: the column of the raw file it is read from.
        unit: what one means; empty for a bare number.
        minimum: the smallest allowed value, included.
        maximum: the largest allowed value, included.
        description: for the person who fills in the form.
        example: a realistic value.
        whole: whether fractions are rejected.
        required: whether a row without it is rejected; otherwise it may be missing (null).
        protected: whether it must never become a feature.
        reason: whether an explanation may name it as a reason.
    """

    name: str
    column: str
    unit: str
    minimum: float
    maximum: float
    description: str
    example: float | None
    whole: bool = False
    required: bool = True
    protected: bool = False
    reason: bool = True

    @property
    def rule(self) -> str:
        """What a value must be, as the end of a sentence; frame checks and API use the same words."""
        kind = "a whole number" if self.whole else "a number"
        null = "" if self.required else " or null"
        return f"must be {kind} from {self.minimum:,.15g} to {self.maximum:,.15g}{null}"

    def accepts(self, value: Any) -> bool:
        """Whether a value keeps the field's own rule."""
        if value is None:
            return not self.required
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.minimum <= value <= self.maximum and not (self.whole and value != round(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of a closed list of words.

    Attributes:
        name: the field's name, everywhere but in the raw file.
        column: the column of the raw file it is read from.
        choices: the allowed words; their order is the order of the category codes.
        description: for the person who fills in the form.
        example: a realistic value.
        required: whether a row without it is rejected; otherwise it may be missing (null).
        protected: whether it must never become a feature.
        reason: whether an explanation may name it as a reason.
    """

    name: str
    column: str
    choices: tuple[str, ...]
    description: str
    example: str | None
    required: bool = True
    protected: bool = False
    reason: bool = True

    @property
    def rule(self) -> str:
        """What a value must be, as the end of a sentence; frame checks and API use the same words."""
        shown = ", ".join(self.choices[:SHOWN_CHOICES]) + (", …" if len(self.choices) > SHOWN_CHOICES else "")
        null = "" if self.required else " or null"
        return f"must be one of {shown}{null}"

    def accepts(self, value: Any) -> bool:
        """Whether a value keeps the field's own rule."""
        return not self.required if value is None else value in self.choices


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """One of many words that nobody can list, such as a lender or a merchant.

    Case, blanks and punctuation make no difference. The pipeline encodes a name by the outcomes of its rows in train; a
    name that is not among them counts as an average one.

    Attributes:
        name: the field's name, everywhere but in the raw file.
        column: the column of the raw file it is read from.
        description: for the person who fills in the form.
        example: a realistic value.
        max_length: characters.
        required: whether a row without it is rejected; otherwise it may be missing (null).
        protected: whether it must never become a feature.
        reason: whether an explanation may name it as a reason.
    """

    name: str
    column: str
    description: str
    example: str | None
    max_length: int = 100
    required: bool = True
    protected: bool = False
    reason: bool = True

    @property
    def rule(self) -> str:
        """What a value must be, as the end of a sentence; frame checks and API use the same words."""
        null = "" if self.required else " or null"
        return f"must be a line of 1 to {self.max_length} characters, with a letter or digit{null}"

    def accepts(self, value: Any) -> bool:
        """Whether a value keeps the field's own rule."""
        if value is None:
            return not self.required
        return isinstance(value, str) and len(value) <= self.max_length and name_code(value) >= 0


Field = Number | Choice | Name


@dataclass(frozen=True, slots=True)
class NotAbove:
    """A rule between two numbers: `smaller` must not be above `larger`. Both are required."""

    smaller: str
    larger: str

    @property
    def rule(self) -> str:
        """The end of a sentence that begins with the smaller field's name."""
        return f"must not be above {self.larger}"


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a row is: the problem's words, the keys, the outcome, the fields and the rules between them.

    Attributes:
        problem: name and words.
        target: the outcome.
        row_id: what identifies a row; None where the source has nothing of the kind (then equal rows are duplicates).
        date: raw column by which rows are ordered in time; None where there is none (then no out-of-time holdout).
        fields: what is known of a row when the model is asked.
        rules: between fields.
        not_fields: every other raw column, with the reason why it is no field.
    """

    problem: Problem
    target: Target
    fields: tuple[Field, ...]
    row_id: RowId | None = None
    date: str | None = None
    rules: tuple[NotAbove, ...] = ()
    not_fields: Mapping[str, str] = dataclass_field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the declaration.

        Raises:
            ProjectError: names what is wrong with it.
        """
        if problem := next(_problems(self), None):
            raise ProjectError(f"contract.py: {problem}")

    @cached_property
    def field_names(self) -> tuple[str, ...]:
        """Names of the fields, in their order."""
        return tuple(field.name for field in self.fields)

    @cached_property
    def numbers(self) -> tuple[Number, ...]:
        """The fields that are numbers."""
        return tuple(field for field in self.fields if isinstance(field, Number))

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """The fields that are choices."""
        return tuple(field for field in self.fields if isinstance(field, Choice))

    @cached_property
    def open_names(self) -> tuple[Name, ...]:
        """The fields that are names with an open vocabulary."""
        return tuple(field for field in self.fields if isinstance(field, Name))

    @cached_property
    def has_date(self) -> bool:
        """Whether rows are ordered in time."""
        return self.date is not None

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Columns of the files of stages 2 to 4 that are no fields."""
        return (ROW_ID, DATE, OUTCOME) if self.has_date else (ROW_ID, OUTCOME)

    @cached_property
    def holdouts(self) -> tuple[str, ...]:
        """Names of the splits that are held out."""
        return ("test", "out_of_time") if self.has_date else ("test",)

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """Names of all splits."""
        return ("train", *self.holdouts)

    @cached_property
    def example(self) -> dict[str, Any]:
        """A valid row, by field name."""
        return {field.name: field.example for field in self.fields}

    @cached_property
    def raw_columns(self) -> frozenset[str]:
        """All columns of the source."""
        named = [self.target.column, self.row_id.column if self.row_id else None, self.date]
        return frozenset(name for name in (*self.not_fields, *_columns(self.fields), *named) if name is not None)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What makes it this problem and no other: outcome and fields."""
        target = [self.target.column, sorted(self.target.positive), sorted(self.target.negative)]
        return {"target": target, "fields": sorted(self.field_names)}

    def field(self, name: str) -> Field:
        """The field of a name."""
        return self.fields[self.field_names.index(name)]

    def label(self, name: str) -> str:
        """A field's name as people write it."""
        acronyms = self.problem.acronyms
        words = [word.upper() if word.upper() in acronyms else word for word in name.split("_")]
        return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])

    def rejection(self, column: str) -> str | None:
        """Why a column can't be a field: one clause, or None for the name of a field.

        Names are compared without case and underscores, so that no spelling of an excluded column slips through.
        """
        if column in self.field_names:
            return None
        return self._excluded.get(plain_column(column), "is not in the contract")

    @cached_property
    def _excluded(self) -> dict[str, str]:
        reasons = {self.target.column: "is the outcome itself"}
        reasons |= {column: f"is excluded: {reason}" for column, reason in self.not_fields.items()}
        if self.row_id:
            reasons[self.row_id.column] = "is excluded: it identifies the row"
        if self.date:
            reasons[self.date] = "is excluded: it orders the rows for the split"
        return {plain_column(column): reason for column, reason in reasons.items()}


def plain_code(code: str) -> str:
    """A code without what spreadsheets do to numbers: `1` for `01` and `1.0`; other codes stay as they are."""
    return re.sub(NUMBER_SPELLING, r"\1\2", code)


def _columns(fields: Iterable[Field]) -> list[str]:
    return [field.column for field in fields]


def plain_column(column: str) -> str:
    """The name of a column as names are compared: without case and underscores."""
    return column.lower().replace("_", "")


def name_problem(name: str) -> str | None:
    """Why a project can't have this name: one clause, or None if it can.

    The name becomes a Python package, an AWS resource prefix and a Docker image, so it must suit all three.
    """
    if not _SLUG(name):
        return f"'{name}' must be lower-case words of a-z and 0-9 joined by single hyphens, beginning with a letter"
    if len(name) > MAX_NAME:
        return f"'{name}' has {len(name)} characters; AWS takes at most {MAX_NAME}"
    if name.startswith(("aws", "amzn")):
        return f"'{name}' begins with a prefix that AWS reserves"
    if keyword.iskeyword(name) or name in sys.stdlib_module_names:
        return f"'{name}' is a word or a module of Python itself"
    return None


def _problems(contract: Contract) -> Iterator[str]:
    """What is wrong with a contract, the first first."""
    if problem := name_problem(contract.problem.name):
        yield f"problem name {problem}"
    if not contract.fields:
        yield "there are no fields"
    yield from _target_problems(contract.target)
    yield from _key_problems(contract)
    seen: set[str] = set()
    for each in contract.fields:
        if each.name in seen:
            yield f"field '{each.name}' is declared twice"
        seen.add(each.name)
        yield from _field_problems(contract, each)
    yield from _rule_problems(contract)
    yield from _word_problems(contract)


def _target_problems(target: Target) -> Iterator[str]:
    if not target.positive or not target.negative:
        yield "the target needs at least one positive and one negative value"
    codes = [plain_code(value) for value in (*target.positive, *target.negative, *target.unlabelled)]
    if doubled := sorted({code for code in codes if codes.count(code) > 1}):
        yield f"target value '{doubled[0]}' has more than one outcome"
    if "" in (*target.positive, *target.negative):
        yield "an empty target value is a row without an outcome, neither positive nor negative"


def _key_problems(contract: Contract) -> Iterator[str]:
    if not contract.row_id:
        return
    try:
        matches_empty = re.fullmatch(contract.row_id.pattern, "")
    except re.error as error:
        yield f"the pattern of the row id is not a regular expression: {error}"
    else:
        if matches_empty:
            yield f"the pattern '{contract.row_id.pattern}' of the row id accepts rows without an id"


def _word_problems(contract: Contract) -> Iterator[str]:
    """Empty texts, which would leave a gap in a page or a message, and values that no stripped text equals."""
    texts = {f"problem {each.name}": getattr(contract.problem, each.name) for each in dataclass_fields(Problem)}
    texts |= {"columns": sorted(contract.raw_columns), "not_fields": list(contract.not_fields.values())}
    for each in contract.fields:
        texts[f"field '{each.name}'"] = [each.description, *(each.choices if isinstance(each, Choice) else [])]
    for where, text in texts.items():
        if any(not one.strip() for one in ([text] if isinstance(text, str) else text)):
            yield f"{where}: a text is empty"
    values = [*contract.target.positive, *contract.target.negative, *contract.target.unlabelled]
    for value in [*values, *(word for choice in contract.choices for word in choice.choices)]:
        if value != value.strip():
            yield f"'{value}' begins or ends with a blank; what the source has is compared without them"


def _field_problems(contract: Contract, each: Field) -> Iterator[str]:
    where = f"field '{each.name}'"
    if not _NAME(each.name) or each.name in RESERVED:
        yield f"{where} must be a lower-case name and none of {', '.join(RESERVED)}"
    for name in (each.column, each.name):
        if reason := contract._excluded.get(plain_column(name)):  # noqa: SLF001 (same module)
            yield f"{where} reads column '{name}', which {reason}"
    if isinstance(each, Choice) and (not each.choices or len(set(each.choices)) < len(each.choices)):
        yield f"{where} needs choices, each once"
    if isinstance(each, Number) and not (
        each.minimum <= each.maximum and math.isfinite(each.minimum) and math.isfinite(each.maximum)
    ):
        yield f"{where} has a minimum above its maximum, or one that is not finite"
    if isinstance(each, Name) and not 1 <= each.max_length <= MAX_NAME_LENGTH:
        yield f"{where} needs a max_length from 1 to {MAX_NAME_LENGTH}"
    if not each.accepts(each.example):
        yield f"the example of {where} is {each.example!r}, but it {each.rule}"


def _rule_problems(contract: Contract) -> Iterator[str]:
    numbers = {number.name: number for number in contract.numbers}
    for rule in contract.rules:
        for name in (rule.smaller, rule.larger):
            if name not in numbers or not numbers[name].required:
                yield f"rule '{rule.smaller} {rule.rule}' needs required numbers, and '{name}' is none"
                return
        if contract.example[rule.smaller] > contract.example[rule.larger]:
            yield f"the examples break the rule '{rule.smaller} {rule.rule}'"
