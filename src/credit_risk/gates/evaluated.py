"""A registered version and its scores on the held-out rows."""

from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from credit_risk.core.arrays import Scores
from credit_risk.data.splits import Holdout, read_row_ids
from credit_risk.evaluation.metrics import measure
from credit_risk.formats.onnx_scorer import OnnxScorer
from credit_risk.registry import lineage, training_rows
from credit_risk.registry.client import ONNX_PATH, Registry, Version
from credit_risk.registry.gate_results import Measured

Holdouts = dict[str, Holdout]


class EvaluatedVersion:
    """A version and its scores on the held-out rows; each part is loaded or computed once, when first needed."""

    def __init__(self, registry: Registry, version: Version, holdouts: Holdouts) -> None:
        """Downloads the version."""
        self.version = version
        self.registry = registry
        self.holdouts = holdouts
        self.folder = registry.download(version.number)
        self.scores = cache(self._scores)
        self.metrics = cache(self._metrics)

    @cached_property
    def scorer(self) -> OnnxScorer:
        """The ONNX model; the loading gate checks that it agrees with scikit-learn's."""
        return OnnxScorer.load(self.folder / ONNX_PATH)

    @property
    def split_params(self) -> Any:
        """Parameters of the split that the version was trained on."""
        return holdout_params(lineage.of(self.version)["params"]["split"])

    @property
    def recalibration(self) -> dict[str, Any] | None:
        """What the lineage records of a recalibration on newer outcomes; None without one."""
        recorded: dict[str, Any] | None = lineage.of(self.version).get(lineage.RECALIBRATION)
        return recorded

    def unseen_rows(self) -> Measured:
        """The version was not trained on rows that are held out today."""
        summary = self.registry.read_json(self.version, training_rows.FILE_NAME)
        if summary is None:
            return True, "not recorded"
        shares = {name: training_rows.seen_share(summary, read_row_ids(name)) for name in self.holdouts}
        shown = ", ".join(f"{name.replace('_', ' ')} {share:.1%}" for name, share in shares.items())
        until = f", trained on rows until {summary['last_date']}" if summary["last_date"] else ""
        return not any(shares.values()), shown + until

    def decisions(self, holdout: str) -> npt.NDArray[np.bool_]:
        """Whether each held-out row is declined, at the version's own threshold."""
        return self.scores(holdout) >= self.scorer.metadata.threshold

    def _scores(self, holdout: str) -> Scores:
        """Probability of the positive class of each held-out row."""
        return self.scorer.score(self.holdouts[holdout].features).astype(np.float64)

    def _metrics(self, holdout: str, bins: int = 10) -> dict[str, float]:
        """All metrics on a holdout."""
        threshold = self.scorer.metadata.threshold
        return measure(self.holdouts[holdout].labels, self.scores(holdout), threshold, bins)


def holdout_params(section: dict[str, Any]) -> dict[str, Any]:
    """Those parameters of section `split` that decide which rows are held out; null is the same as not set."""
    return {name: value for name, value in section.items() if name != "min_rows" and value is not None}
