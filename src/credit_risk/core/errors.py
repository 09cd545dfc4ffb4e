"""Expected errors: one sentence that says what is wrong and what to do, instead of a traceback.

Importing this module installs the exception hook that shows them, also when they occur while modules are imported.
"""

import sys
import tomllib
from types import TracebackType

from credit_risk.core.paths import relative, root


class ProjectError(Exception):
    """An expected failure: shown as one sentence, without a traceback, with a non-zero exit code."""


def missing_package(error: BaseException) -> str | None:
    """The command that installs a missing package, if a dependency group of pyproject.toml has it."""
    pyproject = root() / "pyproject.toml"
    if not isinstance(error, ModuleNotFoundError) or not error.name or not pyproject.exists():
        return None
    module = error.name.partition(".")[0]
    for group, requirements in tomllib.loads(pyproject.read_text(encoding="utf-8"))["dependency-groups"].items():
        if any(isinstance(one, str) and _letters(one).startswith(_letters(module)) for one in requirements):
            command = f"uv run --group {group} {relative(sys.argv[0])}"
            return f"{module} is not installed; use `{command}`"
    return None


def _letters(name: str) -> str:
    """A name without punctuation: the distribution `ruamel.yaml` has the module `ruamel`, `cfn-lint` has `cfnlint`."""
    return "".join(filter(str.isalnum, name.lower()))


def _show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    sentence = str(error) if isinstance(error, ProjectError) else missing_package(error)
    if sentence is None:
        sys.__excepthook__(kind, error, traceback)
    else:
        print(f"error: {sentence}", file=sys.stderr)


sys.excepthook = _show
