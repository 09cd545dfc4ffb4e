"""Gate 1: can the registered model be loaded, and is it the model that was registered?

Downloads the version from the registry in a fresh process, as a server does, loads it without unpickling, and compares
its two formats, scikit-learn and ONNX, on every held-out row. If this gate fails, nothing further runs.
Exit code: 0 passed, 3 rejected, 1 error.

Usage: uv run 5.testing/loading.py [--version N]      default: the challenger
"""

from credit_risk.core.entry_point import run

import argparse
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property

import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
from mlflow.models import Model
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import sha256
from credit_risk.core.schema import Number
from credit_risk.data.splits import read_holdout
from credit_risk.features import FEATURES
from credit_risk.formats import skops_model
from credit_risk.formats.onnx_scorer import OnnxScorer
from credit_risk.formats.reference_rows import TOLERANCE, max_score_difference
from credit_risk.model import positive_probability
from credit_risk.project.settings import settings
from credit_risk.registry import lineage
from credit_risk.registry.client import CHAMPION, ONNX_PATH, ONNX_SHA256, REFERENCE_ROWS_PATH, Registry, Version
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
from credit_risk.registry.promotion import record_rejection
from credit_risk.registry.signature import contract_signature
from credit_risk.registry.signed_model import SIGNED, as_pem, check_signature

Floats = npt.NDArray[np.floating]
EDGE_ROWS = 200  # rows that are tried with each field at each of its limits
SPLIT_ROWS = 8  # rows that are moved onto each split of a tree: not every row reaches it


def main() -> None:
    """Runs the gate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", metavar="N", help="version to check (default: the challenger)")
    parser.add_argument("--wait", action="store_true", help="begin after a line of standard input")
    arguments = parser.parse_args()
    if arguments.wait:
        with suppress(ProjectError):  # it comes again, when main.py shows errors of the gate
            Registry()  # takes a second
        if not sys.stdin.readline():
            return  # main.py has ended
    as_pem(settings().model_public_key)  # a mistyped key is an error, not a reason to reject the version
    registry = Registry()
    version = version_to_gate(registry, arguments.version)
    champion = registry.version_of(CHAMPION)
    number = champion.number if champion else None
    with threadpool_limits(1):  # on a busy machine, threads of so short a task wait for each other
        checks = DownloadedVersion(registry, version).checks()
    result = GateResult("loading", version.number, None, gate_key(number), checks)
    publish(registry, result)
    print(result.summary)
    if not result.passed:
        record_rejection(registry, version.number, number, f"loading: {', '.join(result.failures)}")
        sys.exit(EXIT_REJECTED)


class DownloadedVersion:
    """A downloaded version; each of its parts is loaded once, when the first check needs it."""

    def __init__(self, registry: Registry, version: Version) -> None:
        """Downloads the version and reads the held-out rows."""
        self.version = version
        self.folder = registry.download(version.number)
        self.holdouts = [read_holdout(name) for name in CONTRACT.holdouts]
        self.rows = pd.concat([holdout.rows for holdout in self.holdouts], ignore_index=True)

    @cached_property
    def pipeline(self) -> Pipeline:
        """The scikit-learn pipeline, from fields."""
        return skops_model.load(self.folder)

    @cached_property
    def scorer(self) -> OnnxScorer:
        """The ONNX model, from features."""
        return OnnxScorer.load(self.folder / ONNX_PATH)

    @cached_property
    def scores(self) -> Floats:
        """Probability of the positive class of every held-out row, by the scikit-learn pipeline."""
        return positive_probability(self.pipeline, self.rows)

    def checks(self) -> tuple[Check, ...]:
        """All checks, each on its own: one that fails does not hide the others."""
        return (
            check("lineage", "registered by this project for this problem", self.lineage),
            check("format", "skops, nothing pickled", self.format),
            check("loads", "only trusted types", self.loads),
            check("signature", "the contract's; else register again: `uv run main.py`", self.signature),
            check("digest", "the ONNX model is the registered one", self.onnx_digest),
            check("signed", "by the owner of MODEL_PUBLIC_KEY, if it is set", self.signed),
            check("valid_scores", f"a probability for every {CONTRACT.problem.row}", self.valid_scores),
            check("agreement", f"both formats within {TOLERANCE:.0e}", self.agreement),
            check("edges", f"both formats within {TOLERANCE:.0e} at limits and splits", self.edges),
            check("reference_rows", f"scores as registered, within {TOLERANCE:.0e}", self.reference_rows),
        )

    def lineage(self) -> Measured:
        """The version belongs to this problem, and was registered by this layout of the project."""
        reason = lineage.reject_reason(self.version)
        return reason is None, reason or "yes"

    def format(self) -> Measured:
        """No file is of a kind that runs code when it is loaded."""
        pickles = sorted(p.name for p in self.folder.rglob("*") if p.suffix in {".pkl", ".pickle", ".joblib"})
        declared = Model.load(str(self.folder)).flavors["sklearn"]["serialization_format"]
        return declared == "skops" and not pickles, ", ".join([declared, *pickles])

    def loads(self) -> Measured:
        """Both formats can be loaded."""
        steps = [name for name, _ in self.pipeline.steps]
        return bool(steps) and bool(self.scorer), ", ".join(steps)

    def signature(self) -> Measured:
        """Inputs and outputs are those of the contract."""
        signature, expected = Model.load(str(self.folder)).signature, contract_signature()
        if signature is None:
            return False, "none"
        actual, required = set(signature.inputs.input_names()), set(expected.inputs.input_names())
        differences = [f"+{name}" for name in sorted(actual - required)] + [
            f"-{name}" for name in sorted(required - actual)
        ]
        same = signature.inputs == expected.inputs and signature.outputs == expected.outputs
        return same, "the contract's" if same else ", ".join(differences) or "other types"

    def onnx_digest(self) -> Measured:
        """The ONNX file has the digest that the registry has recorded."""
        found = sha256(self.folder / ONNX_PATH)
        return found == self.version.tags.get(ONNX_SHA256), found[:12]

    def signed(self) -> Measured:
        """The files that are served are those that the key has signed; without a key, nothing is required."""
        key = settings().model_public_key
        try:
            check_signature(self.version, [self.folder / path for path in SIGNED], key)
        except ProjectError as error:
            return False, str(error)
        return True, "yes" if key else "not required"

    def valid_scores(self) -> Measured:
        """Every held-out row gets a number from 0 to 1."""
        valid = np.isfinite(self.scores) & (self.scores >= 0) & (self.scores <= 1)
        return len(valid) > 0 and bool(valid.all()), f"{valid.sum():,} of {len(valid):,}"

    def agreement(self) -> Measured:
        """Both formats give the same score for every held-out row."""
        served = np.concatenate([self.scorer.score(holdout.features) for holdout in self.holdouts])
        return within_tolerance(served, self.scores)

    def edges(self) -> Measured:
        """Both formats agree on missing, extreme and unseen values, and at each split of each tree."""
        rows = edge_rows(self.rows.iloc[:EDGE_ROWS])
        features = self.edge_features(self.holdouts[0].features)
        return within_tolerance(
            np.concatenate([self.scorer.score(FEATURES.from_columns(dict(rows))), self.scorer.score(features)]),
            np.concatenate(
                [positive_probability(self.pipeline, rows), positive_probability(self.pipeline[1:], features)]
            ),
        )

    def edge_features(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Rows with one feature moved onto each split of each tree, and to the next number below and above it.

        Args:
            features: of some rows, shape (n, len(FEATURES)).

        Returns:
            Features, three rows for each split and row tried; the given features for a model without trees.
        """
        columns = [name.rpartition("__")[2] for name in self.pipeline[1:-1].get_feature_names_out(FEATURES.names)]
        splits = sorted(
            {
                (columns[column], value)
                for column, value in tree_splits(onnx.load(self.folder / ONNX_PATH))
                if columns[column] in FEATURES.names
            }
        )
        if not splits:
            return features
        moved = np.resize(features, (len(splits), SPLIT_ROWS, 3, features.shape[1]))  # other rows at each split
        for index, (name, value) in enumerate(splits):
            at = np.float32(value)
            around = (np.nextafter(at, np.float32(-np.inf)), at, np.nextafter(at, np.float32(np.inf)))
            moved[index, :, :, FEATURES.names.index(name)] = around
        return moved.reshape(-1, features.shape[1])

    def reference_rows(self) -> Measured:
        """The reference rows get the scores that they had at registration."""
        difference = max_score_difference(self.folder / REFERENCE_ROWS_PATH, self.scorer.score_rows)
        return difference <= TOLERANCE, f"{difference:.1e}"


def within_tolerance(served: Floats, scores: Floats) -> Measured:
    """Whether two arrays of scores of the same rows agree."""
    difference = float(np.max(np.abs(served - scores)))
    return difference <= TOLERANCE, f"{difference:.1e} on {len(scores):,} rows"


def edge_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Each row with each field at its limits, with an unseen word, and missing if that is allowed."""
    missing = {
        field.name: np.nan if isinstance(field, Number) else None for field in CONTRACT.fields if not field.required
    }
    frames = [rows.assign(**missing)]
    for field in CONTRACT.fields:
        values = (field.minimum, field.maximum) if isinstance(field, Number) else ("?", "a new word")
        frames += [rows.assign(**{field.name: value}) for value in values]
        if not field.required:
            frames.append(rows.assign(**{field.name: missing[field.name]}))
    return pd.concat(frames, ignore_index=True)


def tree_splits(model: onnx.ModelProto) -> Iterator[tuple[int, float]]:
    """Column and threshold of every split of every tree of an ONNX model."""
    for node in model.graph.node:
        if node.op_type in {"TreeEnsembleClassifier", "TreeEnsembleRegressor"}:
            values = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
            nodes = zip(values["nodes_featureids"], values["nodes_values"], values["nodes_modes"], strict=True)
            yield from ((column, value) for column, value, mode in nodes if mode != b"LEAF")


if __name__ == "__main__":
    run("loading gate", main)
