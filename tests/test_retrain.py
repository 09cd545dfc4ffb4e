"""Retraining: files are checked before they are added, policies decide, the champion is recalibrated as a version."""

import gzip
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from projects import Project, run_script
from rows import valid_rows

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.files import write_json
from credit_risk.core.schema import DATE, OUTCOME, ROW_ID
from credit_risk.data.splits import as_frame, as_records, read_holdout
from credit_risk.data.store import Store
from credit_risk.features import FEATURES
from credit_risk.formats import skops_model
from credit_risk.formats.onnx_scorer import OnnxScorer
from credit_risk.formats.recalibration import Sigmoid
from credit_risk.formats.reference_rows import max_score_difference
from credit_risk.model import positive_probability
from credit_risk.monitoring import outcomes, shipping
from credit_risk.registry import lineage
from credit_risk.registry.client import CHAMPION, ONNX_PATH, REFERENCE_ROWS_PATH, Registry, Version
from credit_risk.registry.gating import gate
from credit_risk.registry.rebuild import rebuild
from credit_risk.retraining.ingest import add_files
from credit_risk.retraining.newest import LOG, Rows, newest_rows
from credit_risk.retraining.policy import MONITORED, reason_to_wait
from credit_risk.retraining.recalibrate import register_recalibrated

RETRAIN = "6.production/retrain.py"
needs_date = pytest.mark.skipif(not CONTRACT.has_date, reason="the contract has no date")


def source(project: Project) -> Path:
    return next(iter(sorted(project.path("1.data", "source").iterdir())))


def text_of(file: Path) -> str:
    return gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()


def test_files_are_added_once_and_only_if_all_are_sound(
    fresh: Project, inside: Callable[[Project], None], tmp_path: Path
) -> None:
    inside(fresh)
    header, *rows = text_of(source(fresh)).splitlines()
    good, lacking, other = tmp_path / "new.csv", tmp_path / "lacking.csv", tmp_path / "other" / "new.csv"
    good.write_text("\n".join([header, *rows[:3]]) + "\n")
    lacking.write_text("\n".join(["another" + header[header.index(",") :], *rows[:3]]) + "\n")
    other.parent.mkdir()
    other.write_text("\n".join([header, *rows[3:6]]) + "\n")
    before = sorted(fresh.path("1.data", "source").iterdir())
    for wrong, message in (
        ([good, lacking], "lacks column"),
        ([good, tmp_path / "none.csv"], "is no file"),
        ([good, other], "two files are named new.csv"),
        ([good, fresh.path("readme.md")], "is not one of"),
    ):
        with pytest.raises(ProjectError, match=message):
            add_files(wrong)
        assert sorted(fresh.path("1.data", "source").iterdir()) == before
    assert add_files([good]) == ["1.data/source/new.csv"]
    assert fresh.path("1.data", "source", "new.csv").read_bytes() == good.read_bytes()
    assert add_files([good]) == []
    with pytest.raises(ProjectError, match="another file of that name"):
        add_files([other])
    fresh.set_params({"data.sources": [f"1.data/source/{before[0].name}"]})
    with pytest.raises(ProjectError, match=r"is not read; add 1.data/source/\* to data.sources"):
        add_files([good])


def test_policies(fresh: Project, inside: Callable[[Project], None]) -> None:
    inside(fresh)
    champion = Version("3", {}, (), "run")
    assert reason_to_wait("scheduled", champion) is None
    assert reason_to_wait("recalibrate", champion) is None
    assert "never" in str(reason_to_wait("never", champion))
    assert reason_to_wait("on_drift", None) is None  # there is nothing to keep
    with pytest.raises(ProjectError, match="is missing; run"):
        reason_to_wait("on_drift", champion)
    result = fresh.path(*MONITORED)
    write_json(result, {"version": "3", "alarms": [], "to": "2026-11-27"})
    assert "no alarm until 2026-11-27" in str(reason_to_wait("on_drift", champion))
    write_json(result, {"version": "3", "alarms": ["psi"], "to": "2026-11-27"})
    assert reason_to_wait("on_drift", champion) is None
    write_json(result, {"version": "2", "alarms": ["psi"], "to": "2026-11-27"})
    with pytest.raises(ProjectError, match="about version 2, and the champion is version 3"):
        reason_to_wait("on_drift", champion)
    result.write_text("{")
    with pytest.raises(ProjectError, match="can't be read"):
        reason_to_wait("on_drift", champion)


def test_a_policy_that_waits_touches_nothing(
    project: Project, inside: Callable[[Project], None], capsys: pytest.CaptureFixture[str]
) -> None:
    inside(project)
    before = sorted(project.path("1.data", "source").iterdir())
    assert run_script(project, RETRAIN, "--policy", "never", "--data", "none.csv") == 0
    assert capsys.readouterr().out == "the policy is never: the champion stays; the files were not added\n"
    assert sorted(project.path("1.data", "source").iterdir()) == before


def shifted(count: int, seed: int = 0) -> Rows:
    """Held-out rows of a world in which the odds are four times as high as the champion says."""
    holdout = read_holdout("test")
    chosen = np.arange(count) % len(holdout.labels)
    registry = Registry()
    champion = registry.version_of(CHAMPION)
    assert champion is not None
    probabilities = OnnxScorer.load(registry.download(champion.number) / ONNX_PATH).score(holdout.features[chosen])
    happens = np.random.default_rng(seed).random(count) < Sigmoid(1.0, float(np.log(4))).apply(probabilities)
    days = np.datetime64("2026-01-01") + np.arange(count) // 50
    fields = holdout.rows.iloc[chosen].reset_index(drop=True)
    return Rows(fields, holdout.features[chosen], happens.astype(np.int8), days, LOG)


@pytest.mark.integration
def test_the_champion_is_recalibrated_as_a_version_that_shares_its_model(
    project: Project, inside: Callable[[Project], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside(project)
    registry = Registry()
    champion = registry.version("1")
    with monkeypatch.context() as interrupted:
        interrupted.setattr(Registry, "create_version", lambda *_: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            register_recalibrated(registry, champion, shifted(20_000))
    few = shifted(10)
    with monkeypatch.context() as newer_code:
        newer_code.setattr(FEATURES, "names", (*FEATURES.names, "added"))
        with pytest.raises(ProjectError, match="version 1 takes other features than this code computes"):
            register_recalibrated(registry, champion, few)
    version = register_recalibrated(registry, champion, shifted(20_000))
    assert register_recalibrated(registry, champion, shifted(20_000)).number == version.number == "2"
    recorded = lineage.of(version)
    fitted, measured = recorded[lineage.RECALIBRATION], recorded[lineage.MEASURED]
    assert (fitted["slope"], fitted["intercept"]) == pytest.approx((1, np.log(4)), abs=0.35)
    assert fitted["to"] < measured["from"]
    assert measured["brier_change_high"] < 0
    assert measured["ece_after"] < 0.05 < measured["ece_before"]

    old, new = (registry.download(number) for number in ("1", "2"))
    holdout = read_holdout("test")
    before, after = (OnnxScorer.load(folder / ONNX_PATH).score(holdout.features) for folder in (old, new))
    assert np.abs(Sigmoid(fitted["slope"], fitted["intercept"]).apply(before) - after).max() < 1e-5
    assert np.abs(positive_probability(skops_model.load(new), holdout.rows) - after).max() < 1e-6
    scorer = OnnxScorer.load(new / ONNX_PATH)
    assert max_score_difference(new / REFERENCE_ROWS_PATH, scorer.score_rows) < 1e-6

    outcome = gate(registry, version, lambda path, *options: run_script(project, path, *options) == 0)
    assert outcome.passed, outcome.result
    assert outcome.champion is not None
    assert outcome.champion.number == "2"
    again = gate(registry, registry.version("1"), lambda *_: pytest.fail("the base must not replace it"))
    assert again.result == "is already the champion, recalibrated as version 2"
    newer = register_recalibrated(registry, registry.version("2"), shifted(20_000, seed=1))
    assert lineage.recalibrated_from(newer) == "1"  # sigmoids do not pile up
    with pytest.raises(ProjectError, match="version 2 is version 1, recalibrated"):
        rebuild(registry, registry.version("2"), project.params_file.open())


def test_scored_rows_with_outcomes_are_the_newest(
    finished: Project, inside: Callable[[Project], None], tmp_path: Path
) -> None:
    inside(finished)
    store, count = Store(str(tmp_path)), 300
    rows = as_records(as_frame(valid_rows(count, seed=3)))
    table = shipping.SCHEMA.empty_table().to_pandas().reindex(range(count))
    table = table.assign(**{name: [row[name] for row in rows] for name in CONTRACT.field_names})
    table["time"] = np.datetime64("2025-01-01") + np.arange(count).astype("timedelta64[D]")
    table["time"] = table["time"].dt.tz_localize("UTC")
    table = table.assign(version="1", probability=0.2, decision=CONTRACT.problem.accept)
    table[ROW_ID] = [f"id-{number}" for number in range(count)]
    for day, part in table.groupby(table["time"].dt.strftime("%Y-%m")):
        content = pa.Table.from_pandas(part, shipping.SCHEMA, preserve_index=False)
        store.write_table(f"{shipping.PREDICTIONS}/day={day}-01/a.parquet", content)
    known = tmp_path / "known.csv"
    lines = [f"id-{number},{number % 2},2026-02-01" for number in range(50, 250)]
    known.write_text("\n".join([f"{ROW_ID},{OUTCOME},{DATE}", *lines]))
    outcomes.take_in(str(known), store)
    champion = Registry().version("1")
    found = newest_rows(Registry(), champion, store, 100, 10)
    assert (len(found.labels), found.source) == (100, LOG)
    assert (found.days.min(), found.days.max()) == (np.datetime64("2025-05-31"), np.datetime64("2025-09-07"))
    older, newer = found.halves()
    assert len(older.labels) == len(newer.labels) == 50
    with pytest.raises(ProjectError, match=r"needs 100000 rows of each outcome .* there are 200 scored rows"):
        newest_rows(Registry(), champion, store, 1_000, 100_000)


@pytest.mark.slow
@needs_date
def test_retraining_from_the_command_line(project: Project, tmp_path: Path) -> None:
    """New data, recalibrate, then the pipeline."""
    new = tmp_path / "new.csv.gz"
    shutil.copy(source(project), new)
    first = project.run("main.py", "retrain", "--policy", "recalibrate", "--data", str(new)).stdout
    assert "added 1.data/source/new.csv.gz" in first
    assert "# Version 2 " in first
    assert "Compared with version 1, the champion before." in first
    assert "calibration error" in first
    assert project.path("5.testing", "reports", "retraining.md").read_text() in first
    trained = project.run("main.py", "retrain", "--data", str(new)).stdout
    assert "added" not in trained
    assert "- new: 1.data/source/new.csv.gz" in trained
    assert "# Version 3 " in trained
