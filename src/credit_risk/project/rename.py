"""Renames the project: package, imports, pyproject and the contract's name, in all files that git tracks."""

import importlib.util
import re
import shutil
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
    if name == old.name:
        raise ProjectError(f"the project is called '{name}' already")
    check_name(old, name)
    check_clean()
    return replace_names(old, name)


def check_name(old: Problem, name: str) -> None:
    """Checks that the project can have a name.

    Raises:
        ProjectError: Python, AWS or Docker don't take it, it is the name of another package, or it has a hyphen and the
            present one has none: then no file says whether a word is the project or the package.
    """
    if problem := name_problem(name):
        raise ProjectError(f"name {problem}")
    if old.name == old.package and "-" in name:
        raise ProjectError(f"'{old.name}' is also the package's name; choose one without hyphens instead of '{name}'")
    package = replace(old, name=name).package
    if name != old.name and importlib.util.find_spec(package):
        raise ProjectError(f"'{package}' is the name of an installed package; choose another")


def check_clean(*, besides: Path | None = None) -> None:
    """Checks that git has nothing to commit, so that what follows can be undone.

    Args:
        besides: a file that may be new.

    Raises:
        ProjectError: there are changes, or this is no git repository.
    """
    changes = [line[3:] for line in git("status", "--porcelain", "-z", "--untracked-files=all").split("\0") if line]
    if [name for name in changes if besides is None or (root() / name).resolve() != besides.resolve()]:
        raise ProjectError("there are uncommitted changes; commit them first, so that this can be undone")


def replace_names(old: Problem, name: str) -> int:
    """Replaces the spellings of the project's name in the tracked files; returns the number of changed files."""
    new = replace(old, name=name)
    spellings = {old.name: new.name, old.package: new.package, old.model_name: new.model_name}
    changed = [path for path in _tracked_files() if _replace(path, spellings)]
    git("mv", f"src/{old.package}", f"src/{new.package}")
    return len(changed)


def _tracked_files() -> list[Path]:
    names = git("ls-files", "-z").split("\0")
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


def git(*arguments: str) -> str:
    """Runs git in the project; returns its output.

    Raises:
        ProjectError: it fails, or is not installed.
    """
    if not shutil.which("git"):
        raise ProjectError("git is not installed, with which this can be undone; install it")
    result = subprocess.run(["git", *arguments], cwd=root(), capture_output=True, text=True, check=False)
    if result.returncode:
        raise ProjectError(f"git {arguments[0]} failed: {result.stderr.strip() or 'no output'}")
    return result.stdout
