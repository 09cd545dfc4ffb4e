"""Writes the best candidate's parameters into params.yaml, if it is better than the current ones beyond chance.

Takes the candidates that 1.compare_models.py and 2.tune.py have logged for the current rows of train, best first, and
skips those whose ONNX model does not agree with scikit-learn. The best of many candidates also owes something to
chance: so it is measured again, together with the current parameters, on fresh folds, and must win by more than a
standard error. The holdouts are not opened. All comments of params.yaml stay, except the one on the learner's section,
which then names the MLflow run.

Usage: uv run --group experiments 3.experiments/3.select_best.py [--dry-run] [--folds time] [--processes N]
Reads:  1.data/4.split/rows/train.parquet, runs of the search's MLflow experiment
Writes: 4.dvc_pipeline/params.yaml, section train; the tag `selected` on the run
"""

from credit_risk.core.entry_point import run

import argparse
from datetime import UTC, datetime

import numpy as np
from rich.console import Console
from rich.syntax import Syntax

from credit_risk.core import params
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing
from credit_risk.core.paths import relative
from credit_risk.features import FEATURES
from credit_risk.formats.onnx_export import export_onnx
from credit_risk.formats.onnx_scorer import OnnxMetadata, OnnxScorer
from credit_risk.model import TrainParams, fit, positive_probability
from credit_risk.registry.client import Registry
from credit_risk.search.backends import add_arguments, process_pool
from credit_risk.search.candidates import searched_parameters
from credit_risk.search.folds import TrainRows, difference, mean, read_train_rows
from credit_risk.search.params_file import diff, updated
from credit_risk.search.tracking import CANDIDATE, SearchLog

FRESH_FOLDS = 10
MAX_DIFFERENCE = 1e-6  # between the probabilities of scikit-learn and ONNX, as in the loading gate
console = Console(highlight=False)


def main() -> None:
    """Selects, confirms, shows the difference and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="show the difference and write nothing")
    add_arguments(parser)
    options = parser.parse_args()
    train = params.load("train", TrainParams)
    rows = read_train_rows(options.folds, train.seed)
    log = SearchLog(Registry(), rows)
    run_id, description, candidate = best_servable(log, rows)
    if searched_parameters(candidate) == searched_parameters(train):
        say(f"params.yaml has the best candidate already: {description}")
        return
    fresh = read_train_rows(options.folds, train.seed + 1, FRESH_FOLDS)
    jobs = [(each, fold) for each in (candidate, train) for fold in range(FRESH_FOLDS)]
    results = list(process_pool(fresh, options.processes)(jobs))
    new, current = results[:FRESH_FOLDS], results[FRESH_FOLDS:]
    gain, error = difference(new, current, fresh)
    figures = f"{mean(new):.4f} against {mean(current):.4f}, a difference of {gain:+.4f} (standard error {error:.4f})"
    say(f"best candidate: {description}\non {FRESH_FOLDS} fresh folds: {figures}")
    if gain <= error:
        say("not better by more than a standard error: params.yaml stays as it is")
        return
    before = params.path().read_text(encoding="utf-8")
    note = f"tuned: MLflow run {run_id}; ROC AUC on {FRESH_FOLDS} fresh folds of train {figures}"
    after = updated(before, candidate, note)
    console.print(Syntax(diff(before, after), "diff", background_color="default", word_wrap=True))
    if options.dry_run:
        say("nothing is written (--dry-run)")
        return
    with replacing(params.path()) as temporary:
        temporary.write_text(after, encoding="utf-8")
    log.tag(run_id, {"selected": datetime.now(UTC).isoformat(timespec="seconds")})
    say(f"{relative(params.path())} is written; `uv run main.py` trains, gates and promotes")


def best_servable(log: SearchLog, rows: TrainRows) -> tuple[str, str, TrainParams]:
    """The best candidate that can be served: its run, a description, and its parameters.

    Raises:
        ProjectError: there is none.
    """
    for found in log.complete():
        run_id, metrics = str(found.info.run_id), found.data.metrics
        candidate = TrainParams.model_validate_json(found.data.tags[CANDIDATE])
        description = (
            f"{candidate.model}, {found.data.tags['mlflow.runName']}, ROC AUC {metrics['roc_auc_mean']:.4f} "
            f"(standard error {metrics['roc_auc_standard_error']:.4f}), MLflow run {run_id}"
        )
        gap = onnx_difference(candidate, rows)
        if gap <= MAX_DIFFERENCE:
            return run_id, description, candidate
        say(f"skipped: {description}: its ONNX model differs by {gap:.1e}")
    raise ProjectError(
        "no candidate on these rows can be served; run 3.experiments/1.compare_models.py or 2.tune.py first"
    )


def onnx_difference(candidate: TrainParams, rows: TrainRows) -> float:
    """The largest difference between the probabilities of scikit-learn and ONNX on train."""
    fitted = fit(candidate, rows.features, rows.labels)
    scorer = OnnxScorer(export_onnx(fitted, OnnxMetadata(FEATURES.names, 0.5)))
    return float(np.abs(scorer.score(rows.features) - positive_probability(fitted, rows.features)).max())


def say(text: str) -> None:
    """Prints a sentence without breaking it."""
    console.print(text, soft_wrap=True, markup=False)


if __name__ == "__main__":
    run("select best", main)
