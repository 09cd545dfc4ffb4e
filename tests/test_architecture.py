"""Imports inside the package point downwards, and each folder keeps to its role."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from projects import REPOSITORY

PACKAGE = next(path.parent for path in REPOSITORY.glob("src/*/contract.py"))
# Each part of the package imports from the floors below its own.
FLOORS: tuple[set[str], ...] = (
    {"core"},
    {"project"},
    {"evaluation"},
    {"contract"},
    {"features"},
    {"model"},
    {"formats"},
    {"data", "registry", "rollout", "serving"},
    {"adopt", "gates", "rehearsal", "report", "runner", "scoring", "search"},
    {"monitoring"},
    {"retraining"},
)
FLOOR = {part: height for height, parts in enumerate(FLOORS) for part in parts}
TRAINING_LIBRARIES = {"pandas", "sklearn", "mlflow", "pyarrow", "pandera", "scipy", "joblib", "skops", "dvc"}
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
FOLDERS = sorted(path for path in REPOSITORY.glob("[0-9].*") if path.is_dir())
SCRIPTS = sorted(path for folder in FOLDERS for path in folder.glob("*.py"))


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    """Names that a file imports, as `package.module` for modules of the package; without those for type checkers."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {name for node in statements(tree, top_level_only) for name in imported_names(node)}


def statements(node: ast.AST, top_level_only: bool) -> Iterator[ast.AST]:
    """All import statements that run, if only when a function is called."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not (top_level_only and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)):
            yield from statements(child, top_level_only)


def imported_names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"relative import: {ast.unparse(node)}"
        for alias in node.names:
            submodule = f"{node.module}.{alias.name}"
            yield submodule if submodule in MODULES else str(node.module)


def part(module: str) -> str:
    """`core` of `package.core.paths`, `contract` of `package.contract`, the empty string of the package itself."""
    return (*module.split("."), "")[1]


def ours(names: set[str]) -> set[str]:
    return names & MODULES.keys()


def test_each_part_of_the_package_has_a_floor() -> None:
    assert {part(module) for module in MODULES} - {""} <= FLOOR.keys()


@pytest.mark.parametrize("module", [module for module in MODULES if part(module)])
def test_imports_point_downwards(module: str) -> None:
    mine = part(module)
    for other in sorted(ours(imports(MODULES[module]))):
        theirs = part(other)
        if theirs and theirs != mine:
            assert FLOOR[theirs] < FLOOR[mine], f"{module} imports {other}, which is not below it"


def test_no_import_is_circular() -> None:
    graph = {module: ours(imports(path, top_level_only=True)) - {module} for module, path in MODULES.items()}
    assert len(tuple(graphlib.TopologicalSorter(graph).static_order())) == len(MODULES)


def reached(names: set[str]) -> set[str]:
    """Everything that these imports lead to, through all modules of the package."""
    seen: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        seen.add(name)
        if name in MODULES:
            parents = {name.rpartition(".")[0]} & MODULES.keys()
            waiting |= (imports(MODULES[name]) | parents) - seen
    return seen


@pytest.mark.parametrize(
    "start",
    [
        *(module for module in MODULES if part(module) == "serving"),
        *("6.production/" + name for name in ("app.py", "serve.py")),
    ],
)
def test_serving_reaches_no_training_library(start: str) -> None:
    names = {start} if start in MODULES else imports(REPOSITORY / start)
    libraries = {name.partition(".")[0] for name in reached(names)}
    assert libraries & TRAINING_LIBRARIES == set()


def test_the_package_never_imports_from_a_numbered_folder() -> None:
    stems = {path.stem for folder in FOLDERS for path in folder.rglob("*.py")}
    found = {name.partition(".")[0] for path in MODULES.values() for name in imports(path)}
    assert found & (stems | {folder.name for folder in FOLDERS}) == set()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_never_import_each_other(script: Path) -> None:
    others = {path.stem for path in SCRIPTS} - {script.stem}
    assert {name.partition(".")[0] for name in imports(script)} & others == set()


def test_numbered_folders_are_no_packages() -> None:
    assert [
        path for folder in FOLDERS for path in (folder, *folder.glob("*/")) if (path / "__init__.py").exists()
    ] == []


def test_no_file_edits_the_import_path() -> None:
    for path in [REPOSITORY / "main.py", *MODULES.values(), *SCRIPTS]:
        assert "sys.path" not in path.read_text(encoding="utf-8"), path
