"""7.deploy/faults.md: what fails, what happens, and the test that shows it; made from the marker `fault` of the tests.

Write the page: uv run tests/test_fault_table.py
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from projects import REPOSITORY

PAGE = REPOSITORY / "7.deploy" / "faults.md"
FILES = sorted((REPOSITORY / "tests").glob("test_*.py"))
HEADER = """# Faults: what fails, what happens, and the test that shows it

Written by `uv run tests/test_fault_table.py`. Run a test with `uv run --all-groups pytest -m '' FILE -k NAME`.

| what fails | what happens | test |
|---|---|---|
"""


def faults(path: Path) -> Iterator[tuple[str, str, str]]:
    """What fails, what happens and the test's name, of each test of a file with the marker, in their order."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    for node in [node for node in nodes if isinstance(node, ast.FunctionDef)]:
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.fault":
                fails, happens = (ast.literal_eval(argument) for argument in decorator.args)
                yield fails, happens, node.name


def page() -> str:
    """The page."""
    rows = [
        f"| {fails} | {happens} | [{name.removeprefix('test_')}](../tests/{path.name}) |"
        for path in FILES
        for fails, happens, name in faults(path)
    ]
    return HEADER + "\n".join(rows) + "\n"


def test_page_is_current() -> None:
    assert len(page().splitlines()) > 25
    assert PAGE.read_text(encoding="utf-8") == page(), "run `uv run tests/test_fault_table.py`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
