"""Writes the best candidate's parameters into params.yaml, if it is really better than what stands there.

Takes the candidates that 1.compare_models.py and 2.tune.py have logged for the present train loans, best first, and
passes over those that stage 5 can't compile for serving, saying why. The best of many is always better by luck too:
so it is measured again beside the present parameters on fresh folds, and must win by more than a standard error. The
held-out loans are not opened. All comments of params.yaml stay, but for the one that says where the learner's
parameters come from: it names the MLflow run.

Usage: uv run 3.experiments/3.select_best.py [--dry-run] [--folds time] [--scheduler tcp://HOST:PORT]
Reads:  1.data/4.split/rows/train.parquet, runs of the MLflow experiment `credit-risk-search`
Writes: 4.dvc_pipeline/params.yaml, section train; the tag `selected` on the run
"""

import argparse
import difflib
import io
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.console import Console
from rich.syntax import Syntax
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from credit_risk.core import params
from credit_risk.core.entry_point import run
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import replacing
from credit_risk.core.paths import relative
from credit_risk.features import FEATURE_NAMES
from credit_risk.formats.onnx_export import export_onnx
from credit_risk.formats.onnx_scorer import OnnxMetadata, Scorer
from credit_risk.model import TrainParams, default_probability, fit
from credit_risk.registry.client import Registry
from credit_risk.search.candidates import (
    CANDIDATE,
    Candidate,
    FoldResult,
    Loans,
    RunLog,
    arguments,
    mean,
    read_loans,
    workers,
)

FRESH_FOLDS = 10
MOST_DISAGREEMENT = 1e-6  # between both forms of a model, as the gates ask
console = Console(highlight=False)


def main() -> None:
    """Selects, confirms, shows the difference and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="show the difference and write nothing")
    arguments(parser)
    options = parser.parse_args()
    train = params.load("train", TrainParams)
    loans = read_loans(options.folds, train.seed)
    log = RunLog(Registry(), loans)
    run_id, found, candidate = best_servable(log, loans)
    if same(candidate.train, train):
        say(f"params.yaml has the best candidate already: {found}")
        return
    fresh = read_loans(options.folds, train.seed + 1, FRESH_FOLDS)
    with workers(fresh, options.scheduler, options.processes) as evaluate:
        jobs = [(one, fold) for one in (candidate, Candidate(train)) for fold in range(FRESH_FOLDS)]
        results = list(evaluate(jobs))
    theirs, ours = results[:FRESH_FOLDS], results[FRESH_FOLDS:]
    gain, error = difference(theirs, ours, fresh)
    figures = f"{mean(theirs):.4f} against {mean(ours):.4f}, a difference of {gain:+.4f} (standard error {error:.4f})"
    say(f"best candidate: {found}\non {FRESH_FOLDS} fresh folds: {figures}")
    if gain <= error:
        say("not better by more than a standard error: params.yaml stays as it is")
        return
    before = params.path().read_text(encoding="utf-8")
    note = f"tuned: MLflow run {run_id}; ROC AUC on {FRESH_FOLDS} fresh folds of train {figures}"
    after = updated(before, candidate.train, note)
    console.print(Syntax("".join(diff(before, after)), "diff", background_color="default", word_wrap=True))
    if options.dry_run:
        say("nothing is written (--dry-run)")
        return
    with replacing(params.path()) as temporary:
        temporary.write_text(after, encoding="utf-8")
    log.tag(run_id, {"selected": datetime.now(UTC).isoformat(timespec="seconds")})
    say(f"{relative(params.path())} is written; `uv run main.py` trains, gates and promotes")


def best_servable(log: RunLog, loans: Loans) -> tuple[str, str, Candidate]:
    """The best candidate that can be served: its run, a description, and itself.

    Raises:
        ProjectError: there is none.
    """
    uncompiled: set[str] = set()  # learners without a converter: other parameters change nothing
    for found in log.complete():
        run_id, name = str(found.info.run_id), found.data.tags["mlflow.runName"]
        auc, error = (found.data.metrics[metric] for metric in ("roc_auc_mean", "roc_auc_standard_error"))
        candidate = Candidate.from_json(found.data.tags[CANDIDATE])
        if candidate.model in uncompiled:
            continue
        what = f"{candidate.model}, {name}, ROC AUC {auc:.4f} (standard error {error:.4f}), MLflow run {run_id}"
        gap = serving_gap(candidate, loans)
        if gap is None:
            uncompiled.add(candidate.model)
            say(f"passed over, as all of its learner: {what}: it does not compile to ONNX, so it can't be served")
        elif gap > MOST_DISAGREEMENT:
            say(f"passed over: {what}: its serving form differs by {gap:.1e}")
        else:
            return run_id, what, candidate
    raise ProjectError(
        "no candidate on these loans can be served; run 3.experiments/1.compare_models.py or 2.tune.py first"
    )


def serving_gap(candidate: Candidate, loans: Loans) -> float | None:
    """How far apart both forms of a candidate are on train, from trying; None when it does not compile for serving."""
    if candidate.lightgbm is not None:
        fitted: Any = candidate.pipeline(len(loans.labels)).fit(loans.features, loans.labels)
    else:
        fitted = fit(candidate.train, loans.features, loans.labels)
    try:
        scorer = Scorer(export_onnx(fitted, OnnxMetadata(FEATURE_NAMES, 0.5)))
    except Exception:  # noqa: BLE001 (the converter raises many kinds)
        return None
    return float(np.abs(scorer.score(loans.features) - default_probability(fitted, loans.features)).max())


def say(text: str) -> None:
    """Prints a sentence without breaking it."""
    console.print(text, soft_wrap=True, markup=False)


def same(one: TrainParams, other: TrainParams) -> bool:
    """Whether two sections make the same model: sections of other learners don't count."""
    return relevant(one) == relevant(other)


def relevant(train: TrainParams) -> dict[str, Any]:
    """What of a section a search changes, as it stands in params.yaml."""
    return {
        "model": train.model,
        "calibration": train.calibration,
        "selection": {"min_importance": train.selection.min_importance},
        train.model: getattr(train, train.model),
    }


def difference(theirs: list[FoldResult], ours: list[FoldResult], loans: Loans) -> tuple[float, float]:
    """Mean difference in ROC AUC over the same folds, and its standard error.

    Folds share loans that models are fitted on, so their differences are not independent: the variance of the mean is
    taken as (1/k + scored/fitted) times that of a difference. Source: Nadeau & Bengio (2003), "Inference for the
    generalization error".
    """
    gains = [their.roc_auc - our.roc_auc for their, our in zip(theirs, ours, strict=True)]
    share = float(np.mean([len(scored) / len(fitted) for fitted, scored in loans.folds]))
    return float(np.mean(gains)), float(np.std(gains, ddof=1) * (1 / len(gains) + share) ** 0.5)


def updated(text: str, train: TrainParams, note: str) -> str:
    """The text of params.yaml with a section's parameters, and with `note` as the comment of its learner."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    content = yaml.load(text)
    section = content["train"]
    wanted = relevant(train)
    learner = section[train.model]
    for name in [name for name in learner if name not in wanted[train.model]]:
        del learner[name]
    put(section, wanted)
    section.yaml_add_eol_comment(note, train.model, column=0)
    out = io.StringIO()
    yaml.dump(content, out)
    return out.getvalue()


def put(section: Any, wanted: dict[str, Any]) -> None:
    """Sets values in place, so that comments stay; a new key stands first, as blank lines hang on the last."""
    for name, value in wanted.items():
        if isinstance(value, dict) and name in section:
            put(section[name], value)
        elif name in section:
            if section[name] != value:
                section[name] = value
        else:
            section.insert(0, name, flow(value) if isinstance(value, dict) else value)


def flow(mapping: dict[str, Any]) -> CommentedMap:
    """A mapping on one line."""
    made = CommentedMap(mapping)
    made.fa.set_flow_style()
    return made


def diff(before: str, after: str) -> Iterator[str]:
    """What has changed, as `diff -u` shows it."""
    name = relative(params.path())
    return difflib.unified_diff(before.splitlines(keepends=True), after.splitlines(keepends=True), name, name, n=1)


if __name__ == "__main__":
    run("select best", main)
