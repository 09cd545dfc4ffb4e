"""A new field, in one edit of contract.py and one of features.py: what old clients and old versions get then."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from projects import REPOSITORY, Project
from servers import EXAMPLE

from credit_risk.contract import CONTRACT
from credit_risk.features import FEATURES
from credit_risk.serving import model_cache

pytestmark = pytest.mark.integration

PACKAGE = CONTRACT.problem.package
FIELD = f"""
from dataclasses import replace

from {PACKAGE}.core.schema import Number

added = Number(name="added", column="Added", unit="units", minimum=0, maximum=9, description="New", example=2.0)
CONTRACT = replace(CONTRACT, fields=(*CONTRACT.fields, replace(added, required=REQUIRED)))
"""
# In front of the others: a model that took features by their position would answer something else.
FEATURE = f"""
from {PACKAGE}.core.feature_set import Feature, FeatureSet

added = Feature("added_twice", "units", "new", "2 * added")
FEATURES = FeatureSet(CONTRACT, (added, *FEATURES), slices=FEATURES.slices, what_ifs=FEATURES.what_ifs)
"""
ASK = """
import json, sys
sys.path.insert(0, "6.production")
from starlette.testclient import TestClient
import app
with TestClient(app.app) as client:
    found = [client.request(one[0], one[1], **({"json": one[2]} if one[2:] else {})) for one in json.loads(sys.argv[1])]
    print(json.dumps([answer.json() for answer in found]))
"""
ADDED = EXAMPLE | {"added": 1}
REQUESTS = [
    ("GET", "/status"),
    ("GET", "/contract"),
    ("GET", "/openapi.json"),
    ("POST", "/predict", EXAMPLE),
    ("POST", "/predict", ADDED),
    ("POST", "/predict", EXAMPLE | {"added": 10}),
    ("POST", "/predict/batch", [EXAMPLE, ADDED]),
    ("POST", "/predict?explain=true", ADDED),
]


def changed(folder: Path, *, required: bool, feature: str = FEATURE) -> str:
    """PYTHONPATH of a package with a field more and other features."""
    shutil.copytree(REPOSITORY / "src", folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in (("contract.py", FIELD.replace("REQUIRED", str(required))), ("features.py", feature)):
        with (folder / PACKAGE / name).open("a") as file:
            file.write(text)
    return str(folder)


def answers(project: Project, cache: Path, source: str) -> list[Any]:
    """What the API of that package answers to REQUESTS, with the version that the older code has registered."""
    done = project.run("-c", ASK, json.dumps(REQUESTS), MODEL_CACHE=str(cache), PYTHONPATH=source)
    found: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_an_optional_field_is_served_to_old_and_new_clients_by_a_version_without_it(
    finished: Project, cache: Path, tmp_path: Path
) -> None:
    status, contract, openapi, old, new, wrong, batch, explained = answers(
        finished, cache, changed(tmp_path / "src", required=False)
    )
    assert status["ready"]
    probability = float(model_cache.load(cache).scorer.score_rows([EXAMPLE])[0])
    one_by_one = [old["probability"], new["probability"], explained["probability"]]
    in_a_batch = [answer["probability"] for answer in batch["results"]]
    assert [*one_by_one, *in_a_batch] == pytest.approx([probability] * 5, abs=1e-6)
    assert wrong["detail"] == "added must be a number from 0 to 9 or null"
    added = {tuple(each["fields"]): each["log_odds"] for each in explained["explanation"]["contributions"]}
    assert added["added",] == 0
    assert contract["fields"][-1]["label"] == "Added"  # of which the page makes its form
    schema = openapi["components"]["schemas"]["PredictionRequest"]
    assert "added" in schema["properties"]
    assert "added" not in schema["required"]


def test_a_required_field_is_missed_in_one_sentence(finished: Project, cache: Path, tmp_path: Path) -> None:
    status, contract, openapi, old, new, *_ = answers(finished, cache, changed(tmp_path / "src", required=True))
    assert status["ready"]
    assert old["detail"] == "added is missing; it must be a number from 0 to 9"
    assert 0 <= new["probability"] <= 1
    assert contract["fields"][-1]["required"]
    assert "added" in openapi["components"]["schemas"]["PredictionRequest"]["required"]


def test_a_version_with_a_feature_that_is_gone_is_refused_in_one_sentence(
    finished: Project, cache: Path, tmp_path: Path
) -> None:
    without = f"""
from {PACKAGE}.core.feature_set import FeatureSet

FEATURES = FeatureSet(CONTRACT, list(FEATURES)[:-1])
"""
    status, *_ = answers(finished, cache, changed(tmp_path / "src", required=False, feature=without))
    assert not status["ready"]
    assert status["detail"] == (
        f"the ONNX model takes the features {FEATURES.names[-1]}, which this code does not compute; "
        "use the code it was trained with, or retrain: `uv run main.py`"
    )
