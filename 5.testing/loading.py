"""Gate 1: can the registered model be loaded, and is it the model it says it is?

Loads the version from the registry in a fresh process, as a server would, without unpickling anything, and holds its
two forms against each other on every held-out loan. If this gate fails, nothing further runs.
Exit code: 0 passed, 3 refused, 1 error.

Usage: uv run 5.testing/loading.py [--version N]      default: the challenger
"""

import argparse
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
from mlflow.models import Model
from sklearn.pipeline import Pipeline

from credit_risk.contract import FIELDS, Choice
from credit_risk.core.entry_point import run
from credit_risk.core.files import sha256
from credit_risk.data.splits import read_holdout
from credit_risk.features import FEATURE_NAMES, from_application, from_columns
from credit_risk.formats import skops_model
from credit_risk.formats.onnx_scorer import Scorer
from credit_risk.formats.reference_rows import TOLERANCE, max_score_difference
from credit_risk.model import default_probability
from credit_risk.registry.client import CHAMPION, ONNX_PATH, ONNX_SHA256, REFERENCE_ROWS_PATH, Registry
from credit_risk.registry.gate_results import (
    EXIT_REJECTED,
    Check,
    GateResult,
    Measured,
    check,
    gate_key,
    publish,
    version_to_gate,
)
from credit_risk.registry.promotion import record
from credit_risk.registry.signature import contract_signature

Floats = npt.NDArray[np.float32]
EDGE_LOANS = 200  # that are tried with each field at each of its edges
SPLIT_LOANS = 8  # that are moved onto each split: not every loan comes by it


def main() -> None:
    """Runs the gate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", metavar="N", help="version to check (default: the challenger)")
    arguments = parser.parse_args()
    registry = Registry()
    version = version_to_gate(registry, arguments.version)
    champion = registry.version_of(CHAMPION)
    against = champion.number if champion else None
    candidate = Candidate(registry.download(version.number), version.tags.get(ONNX_SHA256, ""))
    verdict = GateResult("loading", version.number, against, gate_key(against), candidate.checks())
    publish(registry, verdict)
    if not verdict.passed:
        record(registry, "refused", version.number, against, f"loading: {', '.join(verdict.failures)}")
        sys.exit(EXIT_REJECTED)


class Candidate:
    """A downloaded version; each of its parts is loaded once, when the first check needs it."""

    def __init__(self, folder: Path, digest: str) -> None:
        """Takes the folder of the version's files, and the SHA-256 of its ONNX form as the registry has it."""
        self.folder = folder
        self.digest = digest
        self.sides = [read_holdout("test"), read_holdout("out_of_time")]
        self.applications = pd.concat([side.applications for side in self.sides], ignore_index=True)

    @cached_property
    def pipeline(self) -> Pipeline:
        """The scikit-learn form, from applicant fields."""
        return skops_model.load(self.folder)

    @cached_property
    def scorer(self) -> Scorer:
        """The serving form, from features."""
        return Scorer.load(self.folder / ONNX_PATH)

    @cached_property
    def scores(self) -> npt.NDArray[np.float64]:
        """The scikit-learn form's probability of default of every held-out loan."""
        return default_probability(self.pipeline, self.applications)

    def checks(self) -> tuple[Check, ...]:
        """All checks, each on its own: one that fails does not hide the others."""
        return (
            check("format", "skops, nothing pickled", self.format),
            check("loads", "only trusted types", self.loads),
            check("signature", "the contract's", self.signature),
            check("digest", "the ONNX form is the one registered", self.onnx_digest),
            check("valid_scores", "a probability for every loan", self.valid_scores),
            check("agreement", f"both forms within {TOLERANCE:.0e}", self.agreement),
            check("edges", f"also at the edges, within {TOLERANCE:.0e}", self.edges),
            check("reference_rows", f"scores as registered, within {TOLERANCE:.0e}", self.reference_rows),
        )

    def format(self) -> Measured:
        """No file in it is of a kind that runs code when it is loaded."""
        pickles = sorted(p.name for p in self.folder.rglob("*") if p.suffix in {".pkl", ".pickle", ".joblib"})
        declared = Model.load(str(self.folder)).flavors["sklearn"]["serialization_format"]
        return declared == "skops" and not pickles, ", ".join([declared, *pickles])

    def loads(self) -> Measured:
        """Both forms can be loaded."""
        steps = [name for name, _ in self.pipeline.steps]
        return bool(steps) and bool(self.scorer), ", ".join(steps)

    def signature(self) -> Measured:
        """What the version takes and gives is what the contract says."""
        signature, expected = Model.load(str(self.folder)).signature, contract_signature()
        if signature is None:
            return False, "none"
        given, wanted = set(signature.inputs.input_names()), set(expected.inputs.input_names())
        differences = [f"+{name}" for name in sorted(given - wanted)] + [f"-{name}" for name in sorted(wanted - given)]
        same = signature.inputs == expected.inputs and signature.outputs == expected.outputs
        return same, "the contract's" if same else ", ".join(differences) or "other types"

    def onnx_digest(self) -> Measured:
        """The ONNX file has the digest that the registry holds."""
        found = sha256(self.folder / ONNX_PATH)
        return found == self.digest, found[:12]

    def valid_scores(self) -> Measured:
        """Every held-out loan gets a number from 0 to 1."""
        valid = np.isfinite(self.scores) & (self.scores >= 0) & (self.scores <= 1)
        return len(valid) > 0 and bool(valid.all()), f"{valid.sum():,} of {len(valid):,}"

    def agreement(self) -> Measured:
        """The serving form gives what the scikit-learn form gives, on every held-out loan."""
        served = np.concatenate([self.scorer.score(side.features) for side in self.sides])
        largest = float(np.max(np.abs(served - self.scores)))
        return largest <= TOLERANCE, f"{largest:.1e} on {len(served):,} loans"

    def edges(self) -> Measured:
        """Both forms agree where they are likeliest to part: missing, extreme and unseen values, and each split."""
        applications = edge_applications(self.applications.iloc[:EDGE_LOANS])
        features = edge_features(self.sides[0].features, self.folder / ONNX_PATH, self.pipeline)
        largest = max(
            float(
                np.max(
                    np.abs(
                        self.scorer.score(from_columns(dict(applications)))
                        - default_probability(self.pipeline, applications)
                    )
                )
            ),
            float(np.max(np.abs(self.scorer.score(features) - default_probability(self.pipeline[1:], features)))),
        )
        return largest <= TOLERANCE, f"{largest:.1e} on {len(applications) + len(features):,} rows"

    def reference_rows(self) -> Measured:
        """The reference rows get the scores they had when the version was registered."""
        largest = max_score_difference(
            self.folder / REFERENCE_ROWS_PATH,
            lambda rows: np.concatenate([self.scorer.score(from_application(row)) for row in rows]),
        )
        return largest <= TOLERANCE, f"{largest:.1e}"


def edge_applications(loans: pd.DataFrame) -> pd.DataFrame:
    """Each loan with each field missing (if it may be), at its extremes, or of a word nobody has seen."""
    frames = []
    for field in FIELDS:
        values: tuple[Any, ...] = ("?",) if isinstance(field, Choice) else (field.minimum, field.maximum)
        frames += [loans.assign(**{field.name: value}) for value in values]
        if not field.required:
            frames.append(loans.assign(**{field.name: None if isinstance(field, Choice) else np.nan}))
    optional = {field.name: None if isinstance(field, Choice) else np.nan for field in FIELDS if not field.required}
    return pd.concat([*frames, loans.assign(**optional)], ignore_index=True)


def edge_features(loans: Floats, onnx_file: Path, pipeline: Pipeline) -> Floats:
    """Loans with one feature moved onto each split of each tree, and to the next number on either side of it.

    Args:
        loans: features of some loans, shape (n, len(FEATURES)).
        onnx_file: the serving form, whose trees are looked at; a model without trees has no splits.
        pipeline: the scikit-learn form, which knows what columns the trees see.

    Returns:
        Features, three rows a split and loan tried; the loans themselves when there is no split.
    """
    seen = [name.rpartition("__")[2] for name in pipeline[1:-1].get_feature_names_out(FEATURE_NAMES)]
    splits = sorted(
        {(seen[column], value) for column, value in tree_splits(onnx_file) if seen[column] in FEATURE_NAMES}
    )
    if not splits:
        return loans
    rows = np.resize(loans, (len(splits), SPLIT_LOANS, 3, loans.shape[1]))  # other loans at each split
    for index, (name, value) in enumerate(splits):
        at = np.float32(value)
        sides = (np.nextafter(at, np.float32(-np.inf)), at, np.nextafter(at, np.float32(np.inf)))
        rows[index, :, :, FEATURE_NAMES.index(name)] = sides
    return rows.reshape(-1, loans.shape[1])


def tree_splits(onnx_file: Path) -> Iterator[tuple[int, float]]:
    """Column and threshold of every split of every tree in an ONNX file."""
    for node in onnx.load(onnx_file).graph.node:
        if node.op_type in {"TreeEnsembleClassifier", "TreeEnsembleRegressor"}:
            values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
            nodes = zip(values["nodes_featureids"], values["nodes_values"], values["nodes_modes"], strict=True)
            yield from ((column, value) for column, value, mode in nodes if mode != b"LEAF")


if __name__ == "__main__":
    run("loading gate", main)
