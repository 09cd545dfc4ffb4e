"""The notebooks about the loans tell their story with figures."""

import json

import pytest
from projects import REPOSITORY

NAMES = ("cleaning", "eda", "fe")


def test_the_three_stories_are_there() -> None:
    assert sorted(path.stem for path in (REPOSITORY / "2.notebooks").glob("*.ipynb")) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_shows_figures(name: str) -> None:
    cells = json.loads((REPOSITORY / "2.notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
