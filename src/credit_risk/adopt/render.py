"""Renders the files of a plan."""

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from credit_risk.adopt.code import Source, filled, literal
from credit_risk.adopt.decisions import decisions
from credit_risk.adopt.measure import BINS, Choice, Measured, is_small
from credit_risk.adopt.plan import Plan, Rows
from credit_risk.core import templates
from credit_risk.core.feature_set import Slice
from credit_risk.core.schema import Choice as ChoiceField
from credit_risk.core.schema import Number
from credit_risk.data.parsing import ISO_DATE, numbers

# Limits of drift: with few rows of train, more of it is chance.
MANY_MONITOR = {"min_rows": 500, "min_psi": 0.1, "min_share_change": 0.05, "max_auc_drop": 0.03, "min_rate_gap": 0.03}
FEW_MONITOR = {"min_rows": 100, "min_psi": 0.25, "min_share_change": 0.1, "max_auc_drop": 0.05, "min_rate_gap": 0.1}
MAX_GROUPS = 8  # of a slice
MAX_LINE = 100  # characters of a list of words; a longer one is a constant
MIN_TABLE = 12  # numbers of a kind, from which on they are the rows of a table
DECISIONS = "decisions.md"


def files(plan: Plan, choice: Choice, package: str) -> dict[str, str]:
    """The written files, by path from the repository root, with imports from a package."""
    folder = f"src/{plan.contract.problem.package}/"
    context = {"package": package, "package_folder": folder, "contract": plan.contract, "request": plan.request}
    written = {
        f"{folder}contract.py": _render("contract.py.j2", context | _contract(plan)),
        f"{folder}features.py": _render("features.py.j2", context | {"slices": slices(plan)}),
        "4.dvc_pipeline/2.prep_clean_data.py": _render("2.prep_clean_data.py.j2", context | _parsing(plan)),
        "4.dvc_pipeline/params.yaml": _render("params.yaml.j2", context | _params(plan, choice)),
        DECISIONS: _render("decisions.md.j2", context | {"decisions": decisions(plan, choice)}),
    }
    return written | {
        name: _render(f"{template}.j2", context | _documents(plan))
        for name, template in {"1.data/readme.md": "data.md", "2.notebooks/readme.md": "notebooks.md"}.items()
    }


def head(plan: Plan) -> str:
    """The first part of the readme."""
    return _render("readme.md.j2", {"contract": plan.contract, "decisions": DECISIONS})


def slices(plan: Plan) -> tuple[Slice, ...]:
    """Groups of the report: by the three choices that predict most, and by thirds of the number that does."""
    ranked = sorted(plan.contract.fields, key=lambda field: -plan.aucs[field.column])
    choices = [field for field in ranked if isinstance(field, ChoiceField) and 1 < len(field.choices) <= MAX_GROUPS]
    found = [Slice(field.name.replace("_", " "), field.name) for field in choices[:3]]
    for field in ranked:
        if isinstance(field, Number):
            thirds = plan.columns[field.column].numbers.quantile([1 / 3, 2 / 3]).tolist()
            edges = tuple(dict.fromkeys(float(f"{value:.3g}") for value in thirds))
            if len(edges) == len(thirds):
                return (*found, Slice(field.name.replace("_", " "), field.name, edges=edges))
    return tuple(found)


def _render(template: str, context: Mapping[str, Any]) -> str:
    environment = Environment(  # noqa: S701 (Python, YAML and Markdown, not HTML)
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": literal, "percent": templates.percent, "measured": measured}
    return environment.get_template(template).render(context).rstrip("\n") + "\n"


def measured(metric: Measured) -> str:
    """A figure with its standard error."""
    return f"{metric.value:.3f}, standard error {metric.error:.3f}"


def _contract(plan: Plan) -> dict[str, Any]:
    contract = plan.contract
    used = {"Contract", "Problem", "Target", *(type(field).__name__ for field in contract.fields)}
    leaks = {name: contract.not_fields[name] for name in contract.not_fields if name in plan.leaks}
    tables = _tables(contract.numbers)
    in_tables = {field.name for table in tables for field in table["fields"]}
    names: dict[tuple[str, ...], str] = {}
    fields: list[Any] = []
    for field in contract.fields:
        if isinstance(field, ChoiceField) and len(literal(field.choices)) > MAX_LINE:
            name = names.setdefault(field.choices, field.name.upper())
            fields.append(replace(field, choices=cast(Any, Source(name))))
        elif field.name not in in_tables:
            fields.append(field)
    return {
        "classes": sorted(used | ({"RowId"} if contract.row_id else set())),
        "constants": {name: filled(words) for words, name in names.items()},
        "tables": tables,
        "fields": fields,
        "leaks": leaks,
        "others": {name: reason for name, reason in contract.not_fields.items() if name not in leaks},
    }


def _tables(fields: Sequence[Number]) -> list[dict[str, Any]]:
    """Many numbers of a kind are shorter as rows of a table."""
    tables = []
    for whole, required in itertools.product((False, True), (True, False)):
        alike = [field for field in fields if (field.whole, field.required) == (whole, required)]
        if len(alike) >= MIN_TABLE:
            words = [*([] if required else ["optional"]), *(["whole"] if whole else []), "numbers"]
            renamed = any(field.name != field.column for field in alike)
            rows = [
                (
                    *([field.name] if renamed else []),
                    *(field.column, field.unit, field.minimum, field.maximum, field.example, field.description),
                )
                for field in alike
            ]
            tables.append(
                {
                    "name": "_".join(words).upper(),
                    "what": " ".join(words).capitalize(),
                    "fields": alike,
                    "rows": rows,
                    "renamed": renamed,
                    "whole": whole,
                    "required": required,
                }
            )
    return tables


def _parsing(plan: Plan) -> dict[str, Any]:
    parsers: dict[str, Callable[[Any], Any]] = {
        field.name: plan.columns[field.column].parser
        for field in plan.contract.numbers
        if plan.columns[field.column].parser is not numbers
    }
    arguments: dict[str, str] = {}
    if plan.missing:
        arguments["missing"] = literal(frozenset({"", *plan.missing}), 1, before=len("missing="))
    if parsers:
        entries = ", ".join(f'"{name}": {parser.__name__}' for name, parser in parsers.items())
        lines = "".join(f'        "{name}": {parser.__name__},\n' for name, parser in parsers.items())
        arguments["parsers"] = f"{{{entries}}}" if len(entries) < MAX_LINE else f"{{\n{lines}    }}"
    date = plan.columns[plan.contract.date] if plan.contract.date else None
    if date and date.known.str.match(ISO_DATE).all():
        date = None  # stage 2 reads these dates by itself
    if date:
        arguments["date"] = "dates"
    functions = [inspect.getsource(function) for function in dict.fromkeys(parsers.values())]
    return {
        "functions": functions,
        "any_type": bool(functions),
        "date_format": date.formats[0] if date else "",
        "date_example": date.known.iloc[0] if date else "",
        "arguments": arguments,
    }


def _params(plan: Plan, choice: Choice) -> dict[str, Any]:
    few, metrics = is_small(plan), choice.metrics
    problem, labels = plan.contract.problem, plan.rows.labels
    kept = {field.name: plan.aucs[field.column] for field in plan.contract.fields}
    best = max(kept, key=lambda name: kept[name])
    leak_auc = _leak_limit(plan, kept[best] + (metrics["roc_auc"].high - metrics["roc_auc"].value))
    highest = f"the highest here is {best} with {kept[best]:.2f}"
    if leak_auc == 1:
        highest += ": 1 switches the check off"
    gates = {
        "min_auc": floor(max(0.5, metrics["roc_auc"].low)),
        "max_calibration_error": round(math.ceil(100 * min(1, metrics["ece"].high)) / 100, 2),
        "min_brier_skill": floor(max(0, metrics["brier_skill"].low)),
        "min_auc_over_logistic": floor(metrics["auc_over_logistic"].low - 0.01),
        "margin": max(0.005, round(metrics["roc_auc"].error, 3)),
    }
    if "out_of_time_auc" in metrics:
        gates["min_out_of_time_auc"] = floor(max(0.5, metrics["out_of_time_auc"].low))
    return {
        "folds": choice.folds,
        "rows": choice.rows,
        "max_rejected": max(0.01, math.ceil(150 * plan.rejected_share) / 100),
        "min_rows": plan.min_rows,
        "months": plan.out_of_time_months,
        "late_share": float(np.mean(plan.split == "out_of_time")),
        "test_share": plan.test_share,
        "train": choice.train,
        "aucs": ", ".join(f"{name} {auc:.3f}" for name, auc in choice.aucs.items()),
        "event": problem.event,
        "positive": problem.positive,
        "negative": problem.negative,
        "positive_rate": float(labels.mean()),
        "resamples": 500 if few else 1000,
        "bins": BINS[few],
        "leak_auc": leak_auc,
        "highest": highest,
        "slice_rows": 30 if few else 200,
        "gates": gates,
        "monitor": FEW_MONITOR if few else MANY_MONITOR,
        "metrics": metrics,
    }


def _leak_limit(plan: Plan, chance: float) -> float:
    """As asked for; higher where an honest feature could reach that by chance on the rows of the test."""
    limit = plan.request.leak_auc
    return limit if chance < limit else min(1.0, math.ceil(100 * chance) / 100)


def floor(value: float) -> float:
    """Rounded down to two decimals."""
    return math.floor(100 * value + 1e-9) / 100


def _documents(plan: Plan) -> dict[str, Any]:
    rows: Rows = plan.rows
    return {
        "rows": len(plan.raw),
        "labelled": len(rows.labels),
        "positive_rate": float(rows.labels.mean()),
        "columns": len(plan.columns) + 1,
    }
