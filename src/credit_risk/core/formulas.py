"""Formulas of `features.py`: expressions that compute whole columns and single values with the same bits.

A formula has numbers, names, `+ - * / // %`, comparisons (1 if true, else 0) and `known(x)` (0 where x is missing, else
1). There are no branches and no other functions, so the same expression works on NumPy arrays and on Python floats.
"""

import ast
from collections.abc import Callable, Collection, Mapping
from types import CodeType
from typing import Any

from credit_risk.core.errors import ProjectError

_ALLOWED = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Name, ast.Load, ast.Constant),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.USub),
    *(ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)


def parse(formula: str, names: Collection[str], where: str) -> ast.Expression:
    """A formula as a syntax tree, with comparisons and `known` as arithmetic.

    Args:
        formula: the expression.
        names: what it may use.
        where: for error messages, as "feature 'x'".

    Raises:
        ProjectError: it is no expression, or uses another name or operation.
    """
    try:
        tree = ast.parse(formula, mode="eval")
    except SyntaxError as error:
        raise ProjectError(f"features.py: {where}: '{formula}' is not an expression: {error.msg}") from error
    tree.body = _AsArithmetic(where).visit(tree.body)
    ast.fix_missing_locations(tree)
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED) or (isinstance(node, ast.Constant) and type(node.value) not in (int, float)):
            raise ProjectError(
                f"features.py: {where}: '{formula}' may only have numbers, fields, + - * / // %, comparisons, known()"
            )
        if isinstance(node, ast.Name) and node.id not in names:
            raise ProjectError(f"features.py: {where} uses '{node.id}', which is not a field that it may use")
    return tree


def names_in(tree: ast.Expression) -> frozenset[str]:
    """The names that a parsed formula uses."""
    return frozenset(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def compile_formula(formula: str, names: Collection[str], where: str) -> CodeType:
    """One formula as code for `eval`; raises as `parse`."""
    return compile(parse(formula, names, where), "formula", "eval")


def compile_together(formulas: Mapping[str, ast.Expression], coded: Collection[str]) -> Callable[..., Any]:
    """One function of all formulas, which costs a single call a row.

    Args:
        formulas: by feature name.
        coded: features whose result is a number to be replaced by its category code.

    Returns:
        A function that returns a tuple of results. Its arguments: values by field name; a function (result, feature
        name) -> code; a function that makes a result NaN if it does not fit into float32, where formulas may overflow.
    """
    # Names of fields begin with a letter, so none of them hides an argument of the function.
    used = sorted(set().union(*map(names_in, formulas.values())))
    lines = [f"    {name} = _values[{name!r}]" for name in used]
    results = []
    for name, tree in formulas.items():
        text = ast.unparse(tree)
        if name in coded:
            text = f"_code({text}, {name!r})"
        elif any(map(_may_overflow, ast.walk(tree))):
            text = f"_finite({text})"
        results.append(text)
    source = "\n".join(["def compute(_values, _code, _finite):", *lines, f"    return ({', '.join(results)},)"])
    namespace: dict[str, Any] = {"__builtins__": {}}
    exec(compile(source, "formulas", "exec"), namespace)  # noqa: S102 (the parts have passed parse)
    compute: Callable[..., Any] = namespace["compute"]
    return compute


def _may_overflow(node: ast.AST) -> bool:
    """Whether an operation can leave the range of its operands, as the fields themselves can't."""
    if not isinstance(node, ast.BinOp):
        return False
    return isinstance(node.op, ast.Div) or (isinstance(node.op, ast.Mult) and not isinstance(node.right, ast.Constant))


class _AsArithmetic(ast.NodeTransformer):
    """Makes numbers of what is true or false: NumPy adds booleans in another way than Python."""

    def __init__(self, where: str) -> None:
        self._where = where

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        if len(node.ops) > 1:
            raise ProjectError(f"features.py: {self._where}: write a < b < c as (a < b) * (b < c)")
        self.generic_visit(node)
        return ast.BinOp(node, ast.Mult(), ast.Constant(1.0))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if ast.unparse(node.func) != "known" or len(node.args) != 1 or node.keywords:
            raise ProjectError(f"features.py: {self._where}: the only function of formulas is known(field)")
        argument = self.visit(node.args[0])
        return ast.BinOp(ast.Compare(argument, [ast.Eq()], [argument]), ast.Mult(), ast.Constant(1.0))
