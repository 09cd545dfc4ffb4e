"""The figures about the SBA loans in the documents are those of committed results, and they are honest."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from projects import REPOSITORY

RESULTS = [*REPOSITORY.glob("benchmarks/results/*.json"), *REPOSITORY.glob("3.experiments/*.json")]
OTHERS = {"0.500"}  # chance
DOCUMENTS = [REPOSITORY / "readme.md", REPOSITORY / "docs" / "honest_figures.md"]


def numbers(value: Any) -> list[float]:
    """All numbers of a JSON document, without their signs."""
    if isinstance(value, dict):
        return [number for each in value.values() for number in numbers(each)]
    if isinstance(value, list):
        return [number for each in value for number in numbers(each)]
    return [abs(float(value))] if isinstance(value, int | float) else []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_each_figure_of_three_digits_is_a_committed_result(document: Path) -> None:
    """`uv run 3.experiments/term_leak.py` and `uv run docs/update.py` write them after a run."""
    committed = {f"{number:.3f}" for path in RESULTS for number in numbers(json.loads(path.read_text()))}
    found = re.findall(r"(?<![\d.])0\.\d{3}(?!\d)", document.read_text(encoding="utf-8"))
    assert [figure for figure in found if figure not in committed | OTHERS] == []


def test_without_the_leak_the_model_is_better_than_logistic_regression_and_with_it_too_good() -> None:
    leak = json.loads((REPOSITORY / "3.experiments" / "term_leak.json").read_text())
    figures = json.loads((REPOSITORY / "benchmarks" / "results" / "figures.json").read_text())
    for split in ("test", "out_of_time"):
        honest, leaking = leak["without_term"][f"{split}_auc"], leak["with_term"][f"{split}_auc"]
        assert figures[split]["logistic_baseline"]["roc_auc"] < honest < leaking
    assert leak["with_term"]["test_auc"] > 0.9
    assert leak["without_term"]["test_auc"] >= 0.73
    assert leak["without_term"]["out_of_time_auc"] >= 0.65
