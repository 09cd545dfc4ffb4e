"""Writes a first contract, cleaning, features and parameters for a file of rows, once, as code that is then yours.

Shows what each column is taken for and what a person must decide. Asks for a clean git tree, and prints how to undo it.

Usage: uv run main.py adopt FILE --target COLUMN --positive VALUE [--id COLUMN] [--date COLUMN] [--name TITLE]
"""

from credit_risk.core.entry_point import run

import argparse
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column as TableColumn
from rich.table import Table

from credit_risk.adopt import columns, measure, plan, project, render
from credit_risk.adopt.decisions import decisions
from credit_risk.adopt.declaration import Request
from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import Choice, Number
from credit_risk.evaluation.leakage import NO_SKILL

SHOWN_WORDS = 3


def main() -> None:
    """Runs the command."""
    start, console = time.monotonic(), Console(highlight=False)
    arguments = parse_arguments()
    if not NO_SKILL < arguments.leak_auc <= 1:
        raise ProjectError("--leak-auc must be above 0.5 and at most 1")
    request = Request(
        path=Path(arguments.file),
        target=arguments.target,
        positive=arguments.positive,
        row_id=arguments.id,
        date=arguments.date,
        title=arguments.name,
        leak_auc=arguments.leak_auc,
    )
    with console.status("reading"):
        made = plan.make(request, columns.read(request.path))
        if not arguments.plan:
            project.check(CONTRACT.problem, made, clean=arguments.clean)
    show_columns(made, console)
    with console.status("comparing learners"):
        choice = measure.choose(made)
    show_model(made, choice, console)
    if arguments.plan:
        console.print("nothing was changed (--plan)")
        return
    old, new = CONTRACT.problem, made.contract.problem
    written = project.formatted(old, new, render.files(made, choice, old.package))
    head = render.head(made)
    created = project.apply(old, made, written, head, clean=arguments.clean)
    show_decisions(made, choice, console)
    for name in written:
        console.print(f"wrote {name}")
    kept = "removed" if arguments.clean else f"moved to {project.ASIDE}/"
    console.print(f"the first problem's own files were {kept}; took {time.monotonic() - start:.0f} s")
    undo = " ".join(f"'{name}'" if " " in name else name for name in created if Path(name) != request.path)
    console.print(f"undo: git checkout . && git clean -fdqx {escape(undo)}\nnext: uv run main.py", soft_wrap=True)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="main.py adopt", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE", help="CSV, CSV.gz or Parquet with one row for each case")
    parser.add_argument("--target", required=True, metavar="COLUMN", help="column with the outcome")
    parser.add_argument("--positive", required=True, metavar="VALUE", help="its value where the event happened")
    parser.add_argument("--id", metavar="COLUMN", help="column that identifies a row, if there is one")
    parser.add_argument("--date", metavar="COLUMN", help="column that orders rows in time, if there is one")
    parser.add_argument("--name", metavar="TITLE", help='title and name, as "Customer churn" (default: of the file)')
    parser.add_argument(
        "--leak-auc",
        type=float,
        default=0.9,
        metavar="AUC",
        help="leave out columns that reach it alone (default: %(default)s; 1 keeps all)",
    )
    parser.add_argument("--clean", action="store_true", help="remove the first problem's files instead of moving them")
    parser.add_argument("--plan", action="store_true", help="show the plan and change nothing")
    return parser.parse_args()


def show_columns(made: plan.Plan, console: Console) -> None:
    """Prints what each column is taken for, and what it predicts alone."""
    fields = {field.column: field for field in made.contract.fields}
    table = Table(
        TableColumn("column", overflow="fold"),
        "taken as",
        "values",
        "missing",
        TableColumn("AUC alone", justify="right"),
    )
    for name, column in made.columns.items():
        field = fields.get(name)
        if isinstance(field, Number):
            kind, values = (
                ("whole number" if field.whole else "number"),
                f"{field.minimum:,.6g} to {field.maximum:,.6g}",
            )
        elif isinstance(field, Choice):
            kind, values = "choice", ", ".join(field.choices[:SHOWN_WORDS]) + ", …" * (len(field.choices) > SHOWN_WORDS)
        elif name in (made.request.row_id, made.request.date):
            kind, values = ("row id" if name == made.request.row_id else "date"), column.known.iloc[0]
        else:
            kind, values = "[bold]not used[/]", made.contract.not_fields[name]
        auc = f"{made.aucs[name]:.2f}" if name in made.aucs else ""
        missing = f"{column.missing_share:.1%}" if column.missing_share else ""
        table.add_row(escape(name), kind, escape(values), missing, f"[bold red]{auc}[/]" if name in made.leaks else auc)
    console.print(table)


def show_model(made: plan.Plan, choice: measure.Choice, console: Console) -> None:
    """Prints the split, and the learners that were compared."""
    parts = ", ".join(
        f"{part} {int((made.split == part).sum()):,}"
        for part in ("train", "test", "out_of_time")
        if (made.split == part).any()
    )
    rate = float(made.rows.labels.mean())
    console.print(f"{len(made.rows.labels):,} rows with an outcome, {rate:.1%} positive: {parts}")
    aucs = ", ".join(f"{model.replace('_', ' ')} {auc:.3f}" for model, auc in choice.aucs.items())
    console.print(f"ROC AUC in {choice.folds} folds of train: {aucs}; takes {choice.train.model.replace('_', ' ')}")


def show_decisions(made: plan.Plan, choice: measure.Choice, console: Console) -> None:
    """Prints what a person must decide."""
    console.print(f"\n[bold]What a person must decide[/] (also in {render.DECISIONS})")
    for title, entries in decisions(made, choice).items():
        console.print(f"  {title}")
        shown = entries[:4]
        for entry in shown:
            console.print(f"    {escape(entry)}", soft_wrap=True)
        if len(entries) > len(shown):
            console.print(f"    … and {len(entries) - len(shown)} more")


if __name__ == "__main__":
    run("adopt", main)
