"""Puts a plan into the project: renames it, moves the first problem's files aside, and writes the new ones."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from credit_risk.adopt.code import WIDTH
from credit_risk.adopt.plan import Plan
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing
from credit_risk.core.paths import root
from credit_risk.core.schema import Problem
from credit_risk.project.rename import check_clean, check_name, git, replace_names

ASIDE = "example"  # the folder that the first problem's files are moved to; left out by ruff (pyproject.toml)
# The first problem's own files, as paths and globs. What is written again is not among them.
OWN = (
    *("1.data/source/*", "1.data/later/*", "1.data/*/metrics.json", "2.notebooks/*.ipynb", "tests/example"),
    *("3.experiments/term_leak.*", "3.experiments/ablation.*", "docs/honest_figures.md", "docs/model_card.md"),
    *("docs/images/page.png", "docs/images/report.png", "benchmarks/replay.py", "benchmarks/results/replay.*"),
    *("benchmarks/late_labels.py", "benchmarks/results/late_labels.*"),
)
# A block of a document that has one of these is about the first problem.
ABOUT_IT = re.compile(r"\bSBA|\bloans?\b|tests/example|term_leak|ablation|honest_figures|docs/images", re.IGNORECASE)
DOCUMENTS = ("CONTRIBUTING.md", "3.experiments/readme.md", "docs/make_it_yours.md")
README_BEGINS = "## What you get"  # from here on it is true of any problem


def check(old: Problem, plan: Plan, *, clean: bool) -> None:
    """Checks that the project can take the plan, before anything is measured.

    Raises:
        ProjectError: the git tree is not clean, the project can't have the name, or ASIDE has other files of an earlier
            problem already.
    """
    check_clean(besides=plan.request.path)
    check_name(old, plan.contract.problem.name)
    taken = [name for path in own_files() if (name := path.relative_to(root())) and (root() / ASIDE / name).exists()]
    if taken and not clean:
        raise ProjectError(f"{ASIDE}/{taken[0]} exists; move or delete the folder {ASIDE}, or use --clean")


def apply(old: Problem, plan: Plan, written: Mapping[str, str], head: str, *, clean: bool) -> list[str]:
    """Changes the project; returns the new paths, which git does not know yet.

    Args:
        old: the present contract's problem.
        plan: what is known of the new one.
        written: text by path.
        head: the beginning of the readme.
        clean: whether the first problem's files are removed instead of moved aside.
    """
    new = plan.contract.problem
    source = plan.request.path.resolve()
    content = source.read_bytes() if _inside(source, root() / "1.data") else None  # it may be about to be moved
    if new.name != old.name:
        replace_names(old, new.name)
        git("reset", "-q")  # the renaming is in git's index; without it, `git checkout .` undoes all
    set_aside(clean=clean)
    notebooks = root() / "src" / new.package / "adopt" / "notebooks"
    for notebook in sorted(notebooks.glob("*.ipynb")):
        _copy(notebook, root() / "2.notebooks" / notebook.name)
    target = root() / "1.data" / "source" / source.name
    if content is None:
        _copy(source, target)
    else:
        _write(target, content)
    for folder in ("source", "later"):
        (root() / "1.data" / folder).mkdir(exist_ok=True)
    for name, text in written.items():
        _write(root() / name, text.encode())
    _write(root() / "readme.md", (head + _after(README_BEGINS, "readme.md")).encode())
    for name in DOCUMENTS:
        if (path := root() / name).exists():
            _write(path, without_blocks(path.read_text(encoding="utf-8")).encode())
    _describe(new)
    (root() / "4.dvc_pipeline" / "dvc.lock").write_text("schema: '2.0'\n", encoding="utf-8")
    return created()


def without_blocks(text: str) -> str:
    """A Markdown document without the paragraphs, list items, rows and code blocks that are about the first problem.

    A heading or the head of a table that is left without content goes as well.
    """
    kept: list[str] = []
    for block in _blocks(text):
        if ABOUT_IT.search(block):
            continue
        if block.startswith("#"):  # of headings without content between them, the last of the same depth or higher
            while kept and kept[-1].startswith("#") and _depth(kept[-1]) >= _depth(block):
                kept.pop()
        kept.append(block)
    while kept and kept[-1].startswith("#"):
        kept.pop()
    return "".join(kept).rstrip("\n") + "\n"


def _blocks(text: str) -> list[str]:
    """A document's parts, with the empty lines after each: code blocks, headings, list items, rows, paragraphs."""
    fenced = r"(?:^```.*\n(?:.*\n)*?```\n+)"
    table = r"(?:^\|.*\n\|[-| :]+\n)"  # head and rule of a table, which stay together
    line = r"(?:^(?:\||#|[-*] |\d+\. ).*\n(?:^ +\S.*\n)*\n*)"
    paragraph = r"(?:(?:^(?!```|\||#|[-*] |\d+\. ).+\n)+\n*)"
    return re.findall(rf"(?m){fenced}|{table}|{line}|{paragraph}|^.*\n", text)


def _depth(heading: str) -> int:
    return len(heading) - len(heading.lstrip("#"))


def formatted(old: Problem, new: Problem, written: Mapping[str, str]) -> dict[str, str]:
    """The files, their code formatted by the project's ruff if it is installed, under the project's new name.

    Ruff knows the package by its present name, under which the code has been rendered.

    Raises:
        ProjectError: the code does not pass ruff.
    """
    ruff, result = importlib.util.find_spec("ruff") is not None, dict(written)
    for name, text in written.items():
        if name.endswith(".py"):
            shown = name.replace(f"src/{new.package}/", f"src/{old.package}/")
            code = _ruff(shown, _ruff(shown, text, "format"), "check", "--fix") if ruff else text
            result[name] = re.sub(rf"\b{re.escape(old.package)}\b", new.package, code)
    return result


def _ruff(name: str, text: str, *command: str) -> str:
    # A long name of a column can't be broken.
    text = re.sub(rf"(?m)^(.{{{WIDTH + 1},}})(?<!E501)$", r"\1  # noqa: E501", text) if "check" in command else text
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "-q", "--stdin-filename", name, "-"],
        cwd=root(),
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ProjectError(f"the code for {name} does not pass ruff: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def created() -> list[str]:
    """New paths, folders that are new as a whole as one."""
    names = git("ls-files", "--others", "--exclude-standard", "--directory", "-z").split("\0")
    return sorted(filter(None, names))


def set_aside(*, clean: bool) -> None:
    """Moves the first problem's own files to the folder ASIDE, or removes them if `clean`."""
    for path in own_files():
        target = root() / ASIDE / path.relative_to(root())
        if clean or path.name == "metrics.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


def own_files() -> list[Path]:
    """The first problem's own files that are there."""
    return [path for pattern in OWN for path in sorted(root().glob(pattern))]


def _after(heading: str, name: str) -> str:
    """A document from a heading on, without what is about the first problem; empty without the heading."""
    text = (root() / name).read_text(encoding="utf-8")
    start = text.find(f"\n{heading}\n")
    return "" if start < 0 else without_blocks(text[start + 1 :])


def _describe(problem: Problem) -> None:
    path = root() / "pyproject.toml"
    text = path.read_text(encoding="utf-8")
    description = json.dumps(f"{problem.title}: from raw rows to a gated, served model", ensure_ascii=False)  # as TOML
    _write(
        path, re.sub(r'(?<=^description = )".*"$', lambda _: description, text, count=1, flags=re.MULTILINE).encode()
    )


def _inside(path: Path, folder: Path) -> bool:
    return folder.resolve() in path.parents


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)
