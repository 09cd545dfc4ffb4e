"""Measures how often monitoring alarms: on windows that have not moved, and on the half-years of 1.data/later.

Uses the champion of this checkout and its reference. Windows that have not moved are drawn with replacement from the
held-out rows of the training period (test), which neither the model nor the reference has seen; they are scored by the
ONNX model, as the API scores. Each is measured once with its outcomes and once without.

Usage: uv run benchmarks/monitoring.py [--resamples 200]
Writes: benchmarks/results/monitoring.md
"""

import argparse
import runpy
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from credit_risk.contract import CONTRACT
from credit_risk.core import params
from credit_risk.core.files import replacing
from credit_risk.core.paths import data, root
from credit_risk.core.schema import OUTCOME, ROW_ID
from credit_risk.data.parsing import clean_rows
from credit_risk.data.splits import read_holdout
from credit_risk.features import FEATURES
from credit_risk.formats.onnx_scorer import OnnxScorer
from credit_risk.monitoring.comparison import Check, compare
from credit_risk.monitoring.params import MonitorParams
from credit_risk.monitoring.reference import FILE_NAME, Reference
from credit_risk.monitoring.window import Window
from credit_risk.registry.client import CHAMPION, ONNX_PATH, Registry

SIZES = (500, 2_500, 7_500)
KINDS = ("psi", "missing", "invalid", "decline_rate", "volume", "estimated_auc", "realised_auc", "event_rate")


def main() -> None:
    """Measures and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resamples", type=int, default=200)
    resamples: int = parser.parse_args().resamples
    registry = Registry()
    champion = registry.version_of(CHAMPION)
    assert champion, "there is no champion; run `uv run main.py` first"
    with tempfile.TemporaryDirectory() as name:
        path = registry.download_file(champion, FILE_NAME, Path(name))
        assert path, "the champion has no reference; run `uv run main.py` again"
        reference = Reference.read(path)
        scorer = OnnxScorer.load(registry.download(champion.number, ONNX_PATH, Path(name)))
    section = params.load("monitor", MonitorParams)
    text = "\n\n".join(
        [
            "# False alarms and alarms of monitoring",
            f"Made by `uv run benchmarks/monitoring.py --resamples {resamples}` with section `monitor` of params.yaml.",
            unmoved(reference, scorer, section, resamples),
            later(reference, scorer, section),
        ]
    )
    with replacing(root() / "benchmarks" / "results" / "monitoring.md") as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    print(text)


def unmoved(reference: Reference, scorer: OnnxScorer, section: MonitorParams, resamples: int) -> str:
    """The share of windows of each size that alarm, in all and by kind."""
    held_out = read_holdout("test")
    pool = window(held_out.rows, held_out.labels.astype(float), scorer)
    rng = np.random.default_rng(0)
    columns = []
    for size in SIZES:
        beyond: Counter[str] = Counter()
        alarming: Counter[str] = Counter()
        for _ in range(resamples):
            checks = compare(reference, pool.select(rng.integers(len(pool.rows), size=size)), section)
            beyond.update(kinds(check for check in checks if check.beyond))
            alarming.update(kinds(check for check in checks if check.alarm))
        columns.append(
            [f"{beyond[kind] / resamples:.1%}, {alarming[kind] / resamples:.1%}" for kind in ("any", *KINDS)]
        )
    sizes = " | ".join(f"{size:,} {CONTRACT.problem.rows}" for size in SIZES)
    lines = [
        "## Windows that have not moved",
        "",
        f"{resamples} windows of each size: the share with a difference beyond the limit, and the share that alarms,",
        "which also needs significance after Holm's correction where the check is a test.",
        "",
        f"| check | {sizes} |",
        f"|---|{'---|' * len(SIZES)}",
    ]
    for name, *cells in zip(["**any**", *(kind.replace("_", " ") for kind in KINDS)], *columns, strict=True):
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def later(reference: Reference, scorer: OnnxScorer, section: MonitorParams) -> str:
    """The checks that alarm on each file of 1.data/later, without outcomes and with them."""
    parsing = runpy.run_path(str(root() / "4.dvc_pipeline" / "2.prep_clean_data.py"))["PARSING"]
    lines = [
        "## The half-years after the training period",
        "",
        "| file | alarms, no outcomes | with outcomes also | estimated AUC | realised | estimated rate | realised |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted(data("later").glob("*.csv.gz")):
        clean, why, _ = clean_rows(pd.read_csv(path, dtype="str", keep_default_na=False), parsing)
        good = clean[why == ""].reset_index(drop=True)
        labels = good[OUTCOME].to_numpy(float, na_value=np.nan)
        scored = window(good[list(CONTRACT.field_names)], labels, scorer)
        checks = compare(reference, scored, section)
        found = {check.kind: check for check in checks}
        without = Counter(check.kind for check in compare(reference, blind(scored), section) if check.alarm)
        assert without, f"no alarm on {path.name}"
        also = {check.kind for check in checks if check.alarm} - set(without)
        known = scored.select(np.isfinite(scored.labels))
        rate = float(reference.calibrated(known.probabilities).mean())
        cells = [
            path.name.removesuffix(".csv.gz"),
            ", ".join(f"{kind.replace('_', ' ')} ({count})" for kind, count in without.items()),
            ", ".join(sorted(kind.replace("_", " ") for kind in also)) or "none",
            *(f"{found[kind].value:.3f}" for kind in ("estimated_auc", "realised_auc")),
            f"{rate:.3f}",
            f"{known.labels.mean():.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def window(fields: pd.DataFrame, labels: np.ndarray, scorer: OnnxScorer) -> Window:
    """Rows as the API would have logged them, with outcomes."""
    probabilities = scorer.score_many(FEATURES.from_columns(dict(fields.items()))).astype(np.float64)  # type: ignore[arg-type]
    problem = CONTRACT.problem
    decisions = np.where(probabilities >= scorer.metadata.threshold, problem.decline, problem.accept)
    ids = [str(number) for number in range(len(fields))]
    extra: dict[str, Any] = {ROW_ID: ids, "time": 0, "probability": probabilities, "decision": decisions}
    predictions = fields.assign(**extra)
    return Window.of(predictions, pd.DataFrame({ROW_ID: ids, OUTCOME: labels}))


def blind(scored: Window) -> Window:
    """The window without its outcomes."""
    return Window(
        scored.rows, scored.features, scored.probabilities, scored.declined, np.full(len(scored.labels), np.nan)
    )


def kinds(checks: Iterable[Check]) -> set[str]:
    """The kinds of some checks, and `any` if there is one."""
    found = {check.kind for check in checks}
    return found | ({"any"} if found else set())


if __name__ == "__main__":
    main()
