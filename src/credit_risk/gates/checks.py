"""The checks of the performance gate: against the thresholds of params.yaml, and against the champion."""

from functools import partial
from typing import Any

from credit_risk.contract import CONTRACT
from credit_risk.core import params
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import read_json
from credit_risk.core.paths import data
from credit_risk.data.splits import read_split
from credit_risk.evaluation.bootstrap import auc_difference
from credit_risk.evaluation.costs import DecisionRule, decision_costs
from credit_risk.evaluation.leakage import single_feature_aucs
from credit_risk.evaluation.recalibration import effect, is_better
from credit_risk.features import FEATURES
from credit_risk.formats.recalibration import Sigmoid
from credit_risk.formats.reference_rows import TOLERANCE, max_score_difference
from credit_risk.gates.evaluated import EvaluatedVersion, holdout_params
from credit_risk.registry import lineage
from credit_risk.registry.client import REFERENCE_ROWS_PATH
from credit_risk.registry.gate_params import GateParams
from credit_risk.registry.gate_results import Check, Measured, check, read_gate_result
from credit_risk.registry.looks import adjusted
from credit_risk.registry.promotion import rolled_back


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
