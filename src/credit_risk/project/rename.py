"""Renames the project: package, imports, pyproject and the contract's name, in all files that git tracks."""

import importlib.util
import re
import subprocess
from dataclasses import replace
from pathlib import Path

from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import root
from credit_risk.core.schema import Problem, name_problem

DATA = re.compile(r"1\.data/(source|later)/")  # never touched


def rename(old: Problem, name: str) -> int:
    """Replaces every spelling of the project's name; returns the number of changed files.

    Args:
        old: the contract's problem.
        name: lower-case words joined by hyphens, as `churn` or `late-parcels`.

    Raises:
        ProjectError: Python, AWS or Docker don't take the name, or the git tree is not clean.
    """
    if problem := name_problem(name):
        raise ProjectError(f"name {problem}")
    new = replace(old, name=name)
    if name == old.name:
        raise ProjectError(f"the project is called '{name}' already")
    if importlib.util.find_spec(new.package):
        raise ProjectError(f"'{new.package}' is the name of an installed package; choose another")
    if _git("status", "--porcelain").strip():
        raise ProjectError("there are uncommitted changes; commit them first, so that the renaming can be undone")
    spellings = {old.name: new.name, old.package: new.package, old.model_name: new.model_name}
    changed = [path for path in _tracked_files() if _replace(path, spellings)]
    _git("mv", f"src/{old.package}", f"src/{new.package}")
    return len(changed)


def _tracked_files() -> list[Path]:
    names = _git("ls-files", "-z").split("\0")
    names.append("uv.lock")  # not tracked, but uv needs the project's name in it
    return [root() / name for name in names if name and not DATA.match(name) and (root() / name).is_file()]


def _replace(path: Path, spellings: dict[str, str]) -> bool:
    """Replaces whole names in a text file; says whether there were any."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:  # a picture
        return False
    replaced = text
    for old, new in spellings.items():
        replaced = re.sub(rf"(?<![A-Za-z0-9]){re.escape(old)}(?![A-Za-z0-9])", new, replaced)
    if replaced == text:
        return False
    path.write_bytes(replaced.encode("utf-8"))
    return True


def _git(*arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=root(), capture_output=True, text=True, check=False)
    if result.returncode:
        raise ProjectError(f"git {arguments[0]} failed: {result.stderr.strip() or 'no output'}")
    return result.stdout
