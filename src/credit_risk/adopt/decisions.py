"""What a program can't know of a data set: the checklist for a person."""

import re

from credit_risk.adopt.measure import Choice
from credit_risk.adopt.plan import Plan
from credit_risk.core.schema import Number

# Parts of column names that may stand for a protected group, or for something close to one.
PROTECTED = re.compile(
    r"(^|_)(age|birth|dob|disab|ethnic|gender|marital|married|nation|origin|preg|race|religio|sex|zip|postcode)"
)
FLAG_VALUES = 2  # a whole number with two is a flag
TOO_EASY = 0.98  # ROC AUC of all columns together: columns that leak only together may be among them
FEW_VALUES = 10  # a whole number with no more may be a code


def decisions(plan: Plan, choice: Choice) -> dict[str, list[str]]:
    """Sentences by the question that they belong to; empty groups are left out."""
    problem, fields = plan.contract.problem, plan.contract.fields
    alone = sorted(fields, key=lambda field: -plan.aucs[field.column])
    groups = {
        "Does it give the outcome away?": [
            f"`{name}` alone has a ROC AUC of {plan.aucs[name]:.2f} and is left out: when is it known? If it is known "
            "when the model is asked, declare it in contract.py and raise both `leak_auc` in params.yaml"
            for name in plan.leaks
        ]
        + _too_easy(max(choice.aucs.values()), [field.column for field in alone]),
        "When is each column known?": [
            f"`{field.column}` (ROC AUC alone {plan.aucs[field.column]:.2f})" for field in alone
        ],
        "Columns that are left out": _left_out(plan),
        "Which fields are protected?": [
            f"`{field.name}`: may a decision depend on it? If not, `protected=True`"
            for field in fields
            if PROTECTED.search(field.name)
        ],
        "Is it a quantity or a code?": [
            f"`{field.name}` has {values} different whole numbers; a code becomes a Choice with words"
            for field in fields
            if isinstance(field, Number)
            and field.whole
            and FLAG_VALUES < (values := plan.columns[field.column].numbers.nunique()) <= FEW_VALUES
        ],
        "Words, costs and gates": [
            "contract.py: the words of the problem, `source` and `limits`",
            f"contract.py: the units and descriptions of {len(fields)} fields (now empty, and the column's name)",
            (
                "params.yaml: `train.cost_false_negative` and `train.cost_false_positive`: what does it cost to accept "
                f"“{problem.positive}”, and to decline “{problem.negative}”?"
            ),
            f"params.yaml: `gates`: is a ROC AUC of {choice.metrics['roc_auc'].low:.2f} enough to be of use?",
        ],
    }
    return {title: entries for title, entries in groups.items() if entries}


def _too_easy(auc: float, columns: list[str]) -> list[str]:
    if auc < TOO_EASY:
        return []
    first = ", ".join(f"`{name}`" for name in columns[:3])
    sentence = (
        f"all columns together reach a ROC AUC of {auc:.3f}, as few problems do: do some give the outcome away only "
        f"together, such as two times and their difference? Begin with {first}"
    )
    return [sentence]


def _left_out(plan: Plan) -> list[str]:
    entries = [
        f"`{name}` looks like a row id: `--id {name}`?" for name in plan.proposals("id")[:3] if not plan.request.row_id
    ]
    entries += [
        f"`{name}` looks like a date: if rows are ordered by it, `--date {name}`"
        for name in plan.proposals("date")
        if not plan.request.date
    ]
    entries += [
        f"`{name}` has {plan.columns[name].known.nunique():,} different texts: could some be grouped into a category? "
        "If they name what recurs, such as a shop, and nobody's person, declare a Name in contract.py"
        for name in plan.proposals("text")
    ]
    if plan.request.date and len(formats := plan.columns[plan.request.date].formats) > 1:
        entries.append(f"`{plan.request.date}` is read as `{formats[0]}`, but `{formats[1]}` fits as well")
    if plan.missing:
        entries.append(f"these values count as missing: {', '.join(f'`{word}`' for word in sorted(plan.missing))}")
    return entries
