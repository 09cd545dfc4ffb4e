"""Gate 2: is the registered model good enough to serve, and no worse than the champion?

Measures the registered version on the held-out rows as it is served, by its ONNX model. With `gates.mode: threshold` it
must reach the thresholds; with `champion` (the default) it must also be no worse than the champion on the same rows. A
version that passes becomes the champion: the alias moves only here. Exit code: 0 passed, 3 rejected, 1 error. The
result, the metrics of both versions and the decisions that would change are written to 5.testing/reports and logged
with the version's run.

Usage: uv run 5.testing/performance.py [--version N]              gates it and promotes it if it passes
       uv run 5.testing/performance.py [--version N] --no-promote gates it and does not promote it
       uv run 5.testing/performance.py [--version N] --against M  compares two versions and promotes neither
"""

from credit_risk.core.entry_point import run

import argparse
import sys
import tempfile
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from credit_risk.contract import CONTRACT
from credit_risk.core import params, templates
from credit_risk.core.arrays import Labels, Scores
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json
from credit_risk.core.paths import data, root
from credit_risk.data.splits import Holdout, read_holdout, read_row_ids, read_split
from credit_risk.data.store import Store
from credit_risk.evaluation.bootstrap import auc_difference
from credit_risk.evaluation.costs import DecisionRule, decision_costs
from credit_risk.evaluation.leakage import single_feature_aucs
from credit_risk.evaluation.metrics import measure
from credit_risk.evaluation.recalibration import effect, is_better
from credit_risk.features import FEATURES
from credit_risk.formats.onnx_scorer import OnnxScorer
from credit_risk.formats.recalibration import Sigmoid
from credit_risk.formats.reference_rows import TOLERANCE, max_score_difference
from credit_risk.project.settings import settings
from credit_risk.registry import lineage, training_rows
from credit_risk.registry.client import CHAMPION, ONNX_PATH, REFERENCE_ROWS_PATH, Registry, Version
from credit_risk.registry.gate_params import GateParams, ShadowDemands
from credit_risk.registry.gate_results import (
    EXIT_REJECTED,
    Check,
    GateResult,
    Measured,
    check,
    error_text,
    gate_key,
    publish,
    read_gate_result,
    version_to_gate,
)
from credit_risk.registry.looks import adjusted, count_looks
from credit_risk.registry.promotion import promote, record_rejection, rolled_back

Holdouts = dict[str, Holdout]


def main() -> None:
    """Runs the gate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", metavar="N", help="version to gate (default: the challenger)")
    parser.add_argument("--against", metavar="M", help="compare with this version and promote neither")
    parser.add_argument("--no-promote", action="store_true", help="gate the version and do not promote it")
    arguments = parser.parse_args()
    section = params.load("gates", GateParams)
    registry = Registry()
    version = version_to_gate(registry, arguments.version)
    champion = registry.version_of(CHAMPION)
    number = champion.number if champion else None
    other = version_to_compare(registry, version, champion, arguments.against, section.mode)
    holdouts = {name: read_holdout(name) for name in CONTRACT.holdouts}
    evaluated = [EvaluatedVersion(registry, each, holdouts) for each in (version, other) if each]
    gate = "comparison" if arguments.against else "performance"
    checks = PerformanceChecks(section, *evaluated, looks=count_looks(registry, version)).checks()
    usable = champion and number != version.number and lineage.reject_reason(champion) is None
    if section.shadow and number and usable and not arguments.against:
        checks += shadow_checks(section.shadow, evaluated[0], number, section)
    result = GateResult(gate, version.number, other.number if other else None, gate_key(number), checks)
    page = root() / "5.testing" / "reports" / f"{gate}.html"
    templates.write(root() / "5.testing" / "comparison.html.j2", page, page_context(result, evaluated, section))
    registry.log_file(version, page)
    publish(registry, result)
    if not result.passed:
        if not arguments.against:
            record_rejection(registry, version.number, number, f"performance: {', '.join(result.failures)}")
        print(result.summary)
        sys.exit(EXIT_REJECTED)
    if arguments.against:
        print(result.summary)
    elif arguments.no_promote:
        command = f"uv run 5.testing/performance.py --version {version.number}"
        print(f"{result.summary}; to promote version {version.number}: {command}")
    else:
        aucs = [f"{name.replace('_', ' ')} {evaluated[0].metrics(name)['roc_auc']:.3f}" for name in holdouts]
        promote(registry, version.number, number, f"ROC AUC {', '.join(aucs)}")
        print(f"{result.summary}; version {version.number} is the champion")


def version_to_compare(
    registry: Registry, version: Version, champion: Version | None, against: str | None, mode: str
) -> Version | None:
    """The version to compare with: `against`, else the champion; None in threshold mode or without a usable champion.

    Raises:
        ProjectError: `against` can't be used by this code.
    """
    other = registry.version(against) if against else champion
    if other is None or other.number == version.number or (mode == "threshold" and not against):
        return None
    if reason := lineage.reject_reason(other):
        if against:
            raise ProjectError(reason)
        print(f"{reason}; only the thresholds are checked")
        return None
    return other


def shadow_checks(
    demands: ShadowDemands, evaluated: "EvaluatedVersion", champion: str, section: GateParams
) -> tuple[Check, ...]:
    """What `gates.shadow` demands of the rows that the version has scored in the shadow of the champion."""
    try:
        from credit_risk.monitoring import shadow  # here: the folder can be deleted

        train, store = params.raw("train"), Store(settings().monitoring_store)
        threshold = evaluated.scorer.metadata.threshold
        rows = shadow.ShadowRows.read(store, champion, evaluated.version.number, threshold)
        costs = train["cost_false_negative"], train["cost_false_positive"]
        return shadow.checks(shadow.compare(rows, costs, section.bootstrap_resamples, section.seed), demands)
    except Exception as error:  # noqa: BLE001 (whatever it is, the log does not show what is demanded)
        return (Check("shadow_log", False, error_text(error), "rows that both versions have scored"),)


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
        """The ONNX model; the loading gate checks which features it takes, and that it agrees with scikit-learn's."""
        return OnnxScorer((self.folder / ONNX_PATH).read_bytes(), expected_features=None)

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
        with tempfile.TemporaryDirectory() as folder:
            file = self.registry.download_file(self.version, training_rows.FILE_NAME, Path(folder))
            summary = read_json(file) if file else None
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


class PerformanceChecks:
    """The checks of a version: against the thresholds, and against the champion if there is one."""

    def __init__(
        self,
        section: GateParams,
        evaluated: EvaluatedVersion,
        champion: EvaluatedVersion | None = None,
        *,
        looks: int = 1,
    ) -> None:
        """Takes the parameters, the versions to compare, and how many versions were measured on the holdout."""
        self.params = section
        self.evaluated = evaluated
        self.champion = champion
        self.looks = looks

    def checks(self) -> tuple[Check, ...]:
        """All checks, each on its own: one that fails does not hide the others."""
        return (*self.threshold_checks(), *(self.champion_checks(self.champion) if self.champion else ()))

    def threshold_checks(self) -> list[Check]:
        """What every version must reach."""
        section = self.params
        checks = [
            check("lineage", "registered by this project for this problem", self.lineage),
            check("loading", "the loading gate has passed", self.loading),
            check("not_rolled_back", "never, or promoted since", self.not_rolled_back),
            check("unseen_rows", "trained on no held-out row", self.evaluated.unseen_rows),
            self.at_least("auc", "roc_auc", "test", section.min_auc),
        ]
        if CONTRACT.has_date:
            checks.append(self.at_least("out_of_time_auc", "roc_auc", "out_of_time", section.min_out_of_time_auc or 0))
        checks += [
            *self.probability_checks(),
            *self.skill_over_logistic_checks(),
            check("leak", f"no single feature ≥ {section.leak_auc:.3f}", self.leak),
        ]
        if section.min_accuracy is not None:
            checks.append(self.at_least("accuracy", "accuracy", "test", section.min_accuracy))
        return checks + [
            check(name, "below the cheaper of accepting and declining all", partial(self.cost, holdout, action))
            for name, holdout, action in cost_checks(section, recalibrated=self.evaluated.recalibration is not None)
        ]

    def skill_over_logistic_checks(self) -> list[Check]:
        """None of a version that recalibrates another: it ranks as that one, and stage 6 has measured other rows."""
        if lineage.recalibrated_from(self.evaluated.version):
            return []
        required = f"≥ {self.params.min_auc_over_logistic:+.3f}"
        return [check("skill_over_logistic", required, self.skill_over_logistic)]

    def probability_checks(self) -> list[Check]:
        """What the probabilities must reach: in time, or on newer rows if they are recalibrated for these."""
        section = self.params
        if self.evaluated.recalibration is not None:
            required = "calibration error and Brier score of newer rows are lower than without it"
            return [check("recalibration", required, self.recalibration)]
        return [
            check("calibration", f"≤ {section.max_calibration_error:.3f}", self.calibration),
            self.at_least("skill_over_majority", "brier_skill", "test", section.min_brier_skill),
        ]

    def champion_checks(self, champion: EvaluatedVersion) -> list[Check]:
        """Whether the version is no worse than the champion, both on the same rows."""
        margin = self.params.margin
        checks = [
            check("same_split", "split parameters of both, and now", lambda: self.same_split(champion)),
            check(
                "champion_unseen_rows",
                "trained on no held-out row; else use gates.mode: threshold",
                champion.unseen_rows,
            ),
            check(
                "champion_scores",
                f"as registered, within {TOLERANCE:.0e}; else use gates.mode: threshold",
                lambda: self.reference_scores(champion),
            ),
            check(
                "champion_in_time",
                f"AUC difference, lower end > {-margin:+.4f}",
                lambda: self.difference(champion, "test", lambda low, _: low > -margin),
            ),
        ]
        if CONTRACT.has_date:
            checks.append(
                check(
                    "champion_out_of_time",
                    "AUC difference, upper end ≥ 0",
                    lambda: self.difference(champion, "out_of_time", lambda _, high: round(high, 4) >= 0),
                )
            )
        return checks

    def at_least(self, name: str, metric: str, holdout: str, minimum: float) -> Check:
        """A metric reaches its threshold."""

        def measured() -> Measured:
            value = self.evaluated.metrics(holdout)[metric]
            return value >= minimum, f"{value:.3f}"

        return check(name, f"≥ {minimum:.3f}", measured)

    def cost(self, holdout: str, action: str) -> Measured:
        """The decisions cost less than the cheaper trivial policy; a warning passes, and says that they don't."""
        train = params.raw("train")
        rule = DecisionRule(
            self.evaluated.scorer.metadata.threshold, train["cost_false_negative"], train["cost_false_positive"]
        )
        costs = decision_costs(self.evaluated.holdouts[holdout].labels, self.evaluated.scores(holdout), rule)
        cheaper = min("cost_accept_all", "cost_decline_all", key=lambda policy: costs[policy])
        passed = costs["cost"] < costs[cheaper]
        shown = f"{costs['cost']:.3f} ({cheaper.removeprefix('cost_').replace('_', ' ')} {costs[cheaper]:.3f})"
        return passed or action == "warn", shown if passed or action == "stop" else f"warning: {shown}"

    def lineage(self) -> Measured:
        """The version belongs to this problem, and was registered by this layout of the project."""
        reason = lineage.reject_reason(self.evaluated.version)
        return reason is None, reason or "yes"

    def loading(self) -> Measured:
        """The loading gate has passed the version."""
        result = read_gate_result(self.evaluated.version, "loading")
        passed = result is not None and result["passed"]
        return passed, "passed" if passed else "not passed"

    def not_rolled_back(self) -> Measured:
        """The version has not been rolled back."""
        event = rolled_back(self.evaluated.version)
        return event is None, f"on {event.time[:10]}: {event.reason}" if event else "never"

    def calibration(self) -> Measured:
        """The expected calibration error is low."""
        error = self.evaluated.metrics("test", self.params.calibration_bins)["ece"]
        return error <= self.params.max_calibration_error, f"{error:.3f}"

    def recalibration(self) -> Measured:
        """Recalibration is better than none, beyond chance, on rows that are newer than those it was fitted on."""
        found = lineage.of(self.evaluated.version).get(lineage.MEASURED)
        if found is None:
            scores = self.evaluated.scores("out_of_time")
            before = Sigmoid(*(self.evaluated.scorer.metadata.recalibration or ())).invert(scores)
            labels = self.evaluated.holdouts["out_of_time"].labels
            found = effect(labels, before, scores, self.params.calibration_bins)
        shown = f"error {found['ece_before']:.3f} → {found['ece_after']:.3f}, "
        return is_better(found), shown + f"Brier score {found['brier_before']:.3f} → {found['brier_after']:.3f}"

    def skill_over_logistic(self) -> Measured:
        """The model is better than logistic regression on the same features, which stage 6 has measured."""
        reported = read_json(data("6.reports", "metrics.json"))["test"]
        if reported["rows"] != len(self.evaluated.holdouts["test"].labels):
            raise ProjectError("1.data/6.reports/metrics.json is about other rows; run the pipeline: `uv run main.py`")
        difference = self.evaluated.metrics("test")["roc_auc"] - reported["logistic_baseline"]["roc_auc"]
        return difference >= self.params.min_auc_over_logistic, f"{difference:+.3f}"

    def leak(self) -> Measured:
        """No feature predicts the outcome almost by itself."""
        names = self.evaluated.scorer.metadata.features
        features, labels = read_split("test", names)
        aucs = single_feature_aucs(features, labels, names, self.params.seed, FEATURES.open_names)
        name, auc = next(iter(aucs.items()))
        return auc < self.params.leak_auc or self.params.leak_auc == 1, f"{auc:.3f} ({name})"

    def same_split(self, champion: EvaluatedVersion) -> Measured:
        """Both versions were trained on the split that they are measured on."""
        now = holdout_params(params.raw("split"))
        if self.evaluated.split_params == champion.split_params == now:
            return True, ", ".join(f"{name} {value}" for name, value in now.items())
        return False, f"{self.evaluated.split_params} and {champion.split_params}, now {now}"

    def reference_scores(self, champion: EvaluatedVersion) -> Measured:
        """The champion is computed as it was; with other feature code it would be measured wrongly, and lose."""
        difference = max_score_difference(champion.folder / REFERENCE_ROWS_PATH, champion.scorer.score_rows)
        return difference <= TOLERANCE, f"{difference:.1e}"

    def difference(self, champion: EvaluatedVersion, holdout: str, passes: Any) -> Measured:
        """The paired interval of the AUC difference to the champion fulfils a condition on its ends."""
        difference, interval = auc_difference(
            self.evaluated.holdouts[holdout].labels,
            self.evaluated.scores(holdout),
            champion.scores(holdout),
            self.params.bootstrap_resamples,
            self.params.seed,
        )
        shown = with_interval(difference, interval)
        if interval and self.looks > 1:
            low, high = adjusted(difference, interval, self.looks)
            shown += f"; adjusted for {self.looks} looks at this holdout {low:+.4f} to {high:+.4f}"
        return interval is not None and passes(*interval), shown


def cost_checks(section: GateParams, *, recalibrated: bool = False) -> list[tuple[str, str, str]]:
    """Name, holdout and action of each check of the decisions' costs that is not switched off.

    A recalibrated version decides about newer rows, so what it would have cost in time only warns.
    """
    in_time = "warn" if recalibrated and section.cost_in_time == "stop" else section.cost_in_time
    found: list[tuple[str, str, str]] = [("cost_in_time", "test", in_time)]
    if CONTRACT.has_date:
        found.append(("cost_out_of_time", "out_of_time", section.cost_out_of_time))
    return [each for each in found if each[2] != "off"]


def with_interval(difference: float, interval: tuple[float, float] | None) -> str:
    """A difference with its interval, for a table."""
    if interval is None:
        return f"{difference:+.4f} (too few rows of an outcome for an interval)"
    return f"{difference:+.4f} ({interval[0]:+.4f} to {interval[1]:+.4f})"


def page_context(result: GateResult, evaluated: list[EvaluatedVersion], section: GateParams) -> dict[str, Any]:
    """What the comparison page shows; for a model that can't be measured, the error instead of its metrics."""
    context: dict[str, Any] = {
        "words": CONTRACT.problem,
        "result": result,
        "versions": [each.version.number for each in evaluated],
        "error": "",
    }
    try:
        return context | {
            "holdouts": [holdout_context(name, evaluated, section.calibration_bins) for name in CONTRACT.holdouts]
        }
    except Exception as error:  # noqa: BLE001 (a damaged model may raise anything; its checks have failed)
        return context | {"error": error_text(error), "holdouts": []}


def holdout_context(name: str, evaluated: list[EvaluatedVersion], bins: int) -> dict[str, Any]:
    """Metrics of one or two versions on a holdout, and the decisions that differ."""
    labels = evaluated[0].holdouts[name].labels
    metrics = []
    for each in evaluated:
        declined = each.decisions(name)
        metrics.append(
            each.metrics(name, bins)
            | {"declined": float(declined.mean()), "accepted_positive_rate": positive_rate(labels, ~declined)}
        )
    decisions = changed_decisions(labels, evaluated[0].decisions(name), evaluated[-1].decisions(name))
    return {"name": name, "metrics": metrics, "decisions": decisions}


def changed_decisions(labels: Labels, new: npt.NDArray[np.bool_], old: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Rows grouped by the decisions of two models: how many, their share, and the positive rate among them.

    Args:
        labels: shape (n,).
        new: whether the new model declines each row, shape (n,).
        old: the same of the old model.
    """
    accepted, declined = CONTRACT.problem.accepted, CONTRACT.problem.declined
    groups = {
        f"{accepted} by both": ~new & ~old,
        f"{declined} by both": new & old,
        f"{declined} by the new one only": new & ~old,
        f"{declined} by the old one only": ~new & old,
    }
    return [
        {
            "decision": decision,
            "rows": int(group.sum()),
            "share": float(group.mean()),
            "positive_rate": positive_rate(labels, group),
        }
        for decision, group in groups.items()
    ]


def positive_rate(labels: Labels, group: npt.NDArray[np.bool_]) -> float:
    """Share of positives in a group of rows; 0 for an empty one."""
    return float(labels[group].mean()) if group.any() else 0.0


def holdout_params(section: dict[str, Any]) -> dict[str, Any]:
    """Those parameters of section `split` that decide which rows are held out; null is the same as not set."""
    return {name: value for name, value in section.items() if name != "min_rows" and value is not None}


if __name__ == "__main__":
    run("performance gate", main)
