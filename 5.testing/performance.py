"""Gate 2: is the registered model good enough to serve, and no worse than the champion?

Measures the version anew, on the held-out loans. With `gates.mode: threshold` it must reach the thresholds; with
`champion` (the default) it must also be no worse than the champion on the same loans. If it passes, it becomes the
champion: the alias moves only here. Exit code: 0 passed, 3 refused, 1 error. The result, the figures of both and the
decisions that would change are written to 5.testing/reports and logged with the version's run.

Usage: uv run 5.testing/performance.py [--version N]              gates it and, if it passes, promotes it
       uv run 5.testing/performance.py [--version N] --no-promote gates it, and leaves the champion as it is
       uv run 5.testing/performance.py [--version N] --against M  compares the two and promotes neither
"""

import argparse
import json
import sys
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from credit_risk.core import params, templates
from credit_risk.core.arrays import Labels
from credit_risk.core.entry_point import run
from credit_risk.core.errors import ProjectError
from credit_risk.core.paths import data, root
from credit_risk.data.splits import Holdout, as_frame, read_holdout
from credit_risk.evaluation.bootstrap import auc_difference
from credit_risk.evaluation.leakage import single_feature_aucs
from credit_risk.evaluation.metrics import measure
from credit_risk.formats import skops_model
from credit_risk.formats.onnx_scorer import Scorer
from credit_risk.formats.reference_rows import TOLERANCE, max_score_difference
from credit_risk.model import TrainParams, default_probability, fit, logistic_baseline, read_split
from credit_risk.registry.client import CHAMPION, ONNX_PATH, REFERENCE_ROWS_PATH, Registry, Version
from credit_risk.registry.gate_results import (
    EXIT_REJECTED,
    Check,
    GateResult,
    Measured,
    check,
    gate_key,
    publish,
    read_gate_result,
    version_to_gate,
)
from credit_risk.registry.promotion import promote, record, rolled_back


class GateParams(params.Params):
    """Section `gates` of params.yaml."""

    mode: Literal["threshold", "champion"]
    min_auc: float = Field(ge=0.5, le=1)
    min_out_of_time_auc: float = Field(ge=0.5, le=1)
    max_calibration_error: float = Field(ge=0, le=1)
    calibration_bins: int = Field(ge=2)
    min_brier_skill: float = Field(ge=0, le=1)
    min_auc_over_logistic: float = Field(ge=0, le=1)
    min_accuracy: float | None = Field(None, ge=0, le=1)
    leak_auc: float = Field(gt=0.5, le=1)
    margin: float = Field(ge=0)
    bootstrap_resamples: int = Field(ge=100)
    seed: int = Field(ge=0)


def main() -> None:
    """Runs the gate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", metavar="N", help="version to gate (default: the challenger)")
    parser.add_argument("--against", metavar="M", help="compare with this version and promote neither")
    parser.add_argument("--no-promote", action="store_true", help="gate it, and leave the champion as it is")
    arguments = parser.parse_args()
    section = params.load("gates", GateParams)
    registry = Registry()
    version = version_to_gate(registry, arguments.version)
    champion = registry.version_of(CHAMPION)
    other = registry.version(arguments.against) if arguments.against else champion
    sides = {name: read_holdout(name) for name in ("test", "out_of_time")}
    key = gate_key(champion.number if champion else None)

    contender = Contender(registry, version, sides)
    checks = threshold_checks(contender, section)
    contenders = [contender]
    if other and other.number != version.number and (section.mode == "champion" or arguments.against):
        contenders.append(standing := Contender(registry, other, sides))
        checks += champion_checks(contender, standing, section)
    gate = "comparison" if arguments.against else "performance"
    verdict = GateResult(gate, version.number, other.number if other else None, key, checks)
    page = root() / "5.testing" / "reports" / f"{gate}.html"
    facts = {"verdict": verdict, **side_by_side(contenders, section.calibration_bins)}
    templates.write(root() / "5.testing" / "comparison.html.j2", page, facts)
    registry.log_file(version, page)
    publish(registry, verdict)
    if not arguments.against:
        decide(registry, verdict, contender, promoting=not arguments.no_promote)
    if not verdict.passed:
        sys.exit(EXIT_REJECTED)


def side_by_side(contenders: list["Contender"], bins: int) -> dict[str, Any]:
    """What the page shows of one model or two; of a model that can't be measured, the problem."""
    facts: dict[str, Any] = {"models": [one.version.number for one in contenders], "problem": "", "sides": []}
    try:
        for name in ("test", "out_of_time"):
            labels = contenders[0].sides[name].labels
            refused = [one.scores(name) >= one.scorer.metadata.threshold for one in contenders]
            figures = [
                one.figures(name, bins)
                | {
                    "refused": float(no.mean()),
                    "approved_default_rate": float(labels[~no].mean()) if (~no).any() else 0.0,
                }
                for one, no in zip(contenders, refused, strict=True)
            ]
            facts["sides"].append({"name": name, "figures": figures, "decisions": changed_decisions(labels, refused)})
    except Exception as error:  # noqa: BLE001 (whatever a damaged model raises: the checks have refused it for that)
        facts |= {"problem": " ".join(str(error).split())[:300] or type(error).__name__}
    return facts


def changed_decisions(labels: Labels, refused: list[npt.NDArray[np.bool_]]) -> list[dict[str, Any]]:
    """Loans by what two models decide about them: how many, which share, and how many of these defaulted.

    Args:
        labels: shape (n,).
        refused: by the new model and by the old one, each of shape (n,); by one model alone, nothing has changed.
    """
    new, old = refused[0], refused[-1]
    kinds = {
        "both approve": ~new & ~old,
        "both refuse": new & old,
        "refused by the new one only": new & ~old,
        "refused by the old one only": ~new & old,
    }
    return [
        {
            "decision": decision,
            "loans": int(mine.sum()),
            "share": float(mine.mean()),
            "default_rate": float(labels[mine].mean()) if mine.any() else 0.0,
        }
        for decision, mine in kinds.items()
    ]


def decide(registry: Registry, verdict: GateResult, contender: "Contender", *, promoting: bool) -> None:
    """Moves the alias if every check has passed; writes the refusal on the version if not."""
    if verdict.passed and not promoting:
        print(f"version {verdict.version} may be promoted: uv run 5.testing/performance.py --version {verdict.version}")
    elif verdict.passed:
        why = f"ROC AUC {contender.figures('test')['roc_auc']:.3f} in time, "
        why += f"{contender.figures('out_of_time')['roc_auc']:.3f} out of time"
        promote(registry, verdict.version, verdict.against, why)
        print(f"version {verdict.version} is the champion")
    else:
        why = f"performance: {', '.join(verdict.failures)}"
        record(registry, "refused", verdict.version, verdict.against, why)


class Contender:
    """A version and its scores on the held-out loans; each part is loaded or computed once, when first needed."""

    def __init__(self, registry: Registry, version: Version, sides: dict[str, Holdout]) -> None:
        """Downloads the version."""
        self.version = version
        self.sides = sides
        self.folder = registry.download(version.number)
        self._scores: dict[str, npt.NDArray[np.float64]] = {}

    @cached_property
    def scorer(self) -> Scorer:
        """The serving form; which features it wants is not checked here but by the loading gate."""
        return Scorer((self.folder / ONNX_PATH).read_bytes(), expected_features=None)

    def scores(self, side: str) -> npt.NDArray[np.float64]:
        """Probability of default of each held-out loan, from applicant fields."""
        if side not in self._scores:
            pipeline = skops_model.load(self.folder)
            self._scores[side] = default_probability(pipeline, self.sides[side].applications)
        return self._scores[side]

    def figures(self, side: str, bins: int = 10) -> dict[str, float]:
        """All figures on the held-out loans."""
        return measure(self.sides[side].labels, self.scores(side), self.scorer.metadata.threshold, bins)

    @property
    def split(self) -> Any:
        """The parameters of the split it was trained on."""
        return json.loads(self.version.tags["lineage"])["params"]["split"]


def threshold_checks(contender: Contender, section: GateParams) -> tuple[Check, ...]:
    """What every version must reach, whatever the champion is."""

    def at_least(name: str, figure: str, side: str, least: float) -> Check:
        def measured() -> Measured:
            value = contender.figures(side)[figure]
            return value >= least, f"{value:.3f}"

        return check(name, f"≥ {least:.3f}", measured)

    def loading() -> Measured:
        verdict = read_gate_result(contender.version, "loading")
        passed = verdict is not None and verdict["passed"]
        return passed, "passed" if passed else "not passed"

    def not_rolled_back() -> Measured:
        event = rolled_back(contender.version)
        return event is None, f"on {event.time[:10]}: {event.why}" if event else "never"

    def calibration() -> Measured:
        error = contender.figures("test", section.calibration_bins)["ece"]
        return error <= section.max_calibration_error, f"{error:.3f}"

    def skill_over_logistic() -> Measured:
        train = params.load("train", TrainParams)
        baseline = fit(logistic_baseline(train), *read_split(data("4.split", "rows", "train.parquet")))
        test = contender.sides["test"]
        difference, interval = auc_difference(
            test.labels,
            contender.scores("test"),
            default_probability(baseline, test.features),
            section.bootstrap_resamples,
            section.seed,
        )
        shown = f" ({interval[0]:+.3f} to {interval[1]:+.3f})" if interval else ""
        return difference >= section.min_auc_over_logistic, f"{difference:+.3f}{shown}"

    def leak() -> Measured:
        names = contender.scorer.metadata.features
        features, labels = read_split(data("4.split", "rows", "test.parquet"), names)
        name, auc = next(iter(single_feature_aucs(features, labels, names, section.seed).items()))
        return auc < section.leak_auc, f"{auc:.3f} ({name})"

    checks: tuple[Check, ...] = (
        check("loading", "the loading gate has passed", loading),
        check("not_rolled_back", "never, or promoted since", not_rolled_back),
        at_least("auc", "roc_auc", "test", section.min_auc),
        at_least("out_of_time_auc", "roc_auc", "out_of_time", section.min_out_of_time_auc),
        check("calibration", f"≤ {section.max_calibration_error:.3f}", calibration),
        at_least("skill_over_majority", "brier_skill", "test", section.min_brier_skill),
        check("skill_over_logistic", f"≥ {section.min_auc_over_logistic:+.3f}", skill_over_logistic),
        check("leak", f"no single feature ≥ {section.leak_auc:.3f}", leak),
    )
    if section.min_accuracy is not None:
        checks += (at_least("accuracy", "accuracy", "test", section.min_accuracy),)
    return checks


def champion_checks(contender: Contender, champion: Contender, section: GateParams) -> tuple[Check, ...]:
    """Whether the contender is no worse than the champion, both on the same loans."""

    def same_split() -> Measured:
        now = params.read(params.path())["split"]
        if contender.split == champion.split == now:
            return True, ", ".join(f"{name} {value}" for name, value in now.items())
        return False, f"{contender.split} and {champion.split}, now {now}"

    def champion_scores() -> Measured:
        # A champion from other feature code would be measured wrong, and lose for it.
        def score(rows: Any) -> npt.NDArray[np.float64]:
            return default_probability(skops_model.load(champion.folder), as_frame(rows))

        largest = max_score_difference(champion.folder / REFERENCE_ROWS_PATH, score)
        return largest <= TOLERANCE, f"{largest:.1e}"

    def difference(side: str) -> tuple[float, float, float]:
        value, interval = auc_difference(
            contender.sides[side].labels,
            contender.scores(side),
            champion.scores(side),
            section.bootstrap_resamples,
            section.seed,
        )
        if interval is None:
            raise ProjectError("too few rows of an outcome for an interval")
        return value, *interval

    def in_time() -> Measured:
        value, low, high = difference("test")
        return low > -section.margin, f"{value:+.4f} ({low:+.4f} to {high:+.4f})"

    def out_of_time() -> Measured:
        value, low, high = difference("out_of_time")
        return high >= 0, f"{value:+.4f} ({low:+.4f} to {high:+.4f})"

    return (
        check("same_split", "all three split parameters alike", same_split),
        check("champion_scores", "as registered; else use gates.mode: threshold", champion_scores),
        check("champion_in_time", f"AUC difference, lower end > {-section.margin:+.4f}", in_time),
        check("champion_out_of_time", "AUC difference, upper end ≥ 0", out_of_time),
    )


if __name__ == "__main__":
    run("performance gate", main)
