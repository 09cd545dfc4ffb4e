"""Batch scoring: the API's numbers, every row once, rejected rows with reasons, resumed after a kill."""

import gzip
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from projects import Project, run_script, wait_until
from raw import raw_frame, raw_row, row_id
from rows import columns, invalid_values, rows, valid_rows
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import ROW_ID, Number
from credit_risk.data.parsing import Parsing
from credit_risk.data.splits import as_frame
from credit_risk.data.store import Store
from credit_risk.data.validation import failures
from credit_risk.features import FEATURES
from credit_risk.formats.onnx_export import export_onnx
from credit_risk.formats.onnx_scorer import OnnxMetadata, OnnxScorer
from credit_risk.scoring import fields, inputs
from credit_risk.scoring import job as jobs
from credit_risk.scoring.fields import field_values
from credit_risk.scoring.job import REJECTED


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def model() -> bytes:
    """The ONNX model of a logistic regression on random rows, with the threshold at its median score."""
    rows = valid_rows(300)
    features = FEATURES.from_columns(columns(rows))
    labels = np.random.default_rng(0).integers(0, 2, len(rows))
    pipeline = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression())
    threshold = float(np.median(pipeline.fit(features, labels).predict_proba(features)[:, 1]))
    return export_onnx(pipeline, OnnxMetadata(FEATURES.names, threshold))


def fields_table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a Parquet file of the contract's fields has them, with row ids."""
    table = pa.Table.from_pandas(as_frame(rows), preserve_index=False)
    return table.append_column(ROW_ID, pa.array([f"id-{number}" for number in range(len(rows))]))


def score(source: object, output: object, model: bytes) -> dict[str, Any]:
    """Scores as the script does, without a registry."""
    folder = Store(str(output))
    job = jobs.begun(str(source), folder, None) or jobs.prepare(str(source), folder, "7", model)
    jobs.score_pieces(job, jobs.job_pieces(folder), lambda *_: None)
    return jobs.finish(job)


def scores(output: Path) -> pd.DataFrame:
    """All scores by row id: readers of a folder skip what begins with an underscore."""
    frame: pd.DataFrame = pq.read_table(output).to_pandas()
    return frame.set_index(ROW_ID).sort_index()


def rejected(output: Path) -> dict[str, str]:
    """Reasons by row id."""
    table = pq.read_table(output / REJECTED)
    return dict(zip(table[f"scored_{ROW_ID}"].to_pylist(), table["reason"].to_pylist(), strict=True))


def test_scores_and_decisions_are_those_of_the_api(tmp_path: Path, model: bytes) -> None:
    rows = valid_rows(500, seed=1)
    pq.write_table(fields_table(rows), tmp_path / "rows.parquet", row_group_size=128)
    assert score(tmp_path / "rows.parquet", tmp_path / "out", model) == {"scored": 500, "rejected": 0, "version": "7"}
    found = scores(tmp_path / "out")
    scorer = OnnxScorer(model)
    expected = scorer.score_rows(rows).astype(float)
    by_id = pd.Series(expected, [f"id-{number}" for number in range(500)]).sort_index()
    assert (found["probability"] - by_id).abs().max() <= 1e-6
    words = CONTRACT.problem.decline, CONTRACT.problem.accept
    declined = np.where(found["probability"] >= scorer.metadata.threshold, *words)
    assert found["decision"].tolist() == declined.tolist()
    assert len(set(declined)) == 2
    assert set(found["model_version"]) == {"7"}


@given(st.lists(rows(), min_size=1, max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_checks_are_those_of_data_frames(valid: list[dict[str, Any]], random: Any) -> None:
    """Words and order of the reasons are the same as in stage 2; so is what is accepted."""
    frame = as_frame(valid)
    for row in range(len(frame)):
        for field in CONTRACT.fields:
            if random.random() < 0.2:
                kinds = (int, float) if isinstance(field, Number) else (str, type(None))
                wrong = [value for value in invalid_values(field) if isinstance(value, kinds) and value is not True]
                frame[field.name] = frame[field.name].where(frame.index != row, random.choice(wrong))
    _, reasons = field_values(pa.RecordBatch.from_pandas(frame, preserve_index=False))
    expected = failures(frame)
    assert ({} if reasons is None else {n: why for n, why in enumerate(reasons) if why}) == expected.to_dict()


def test_a_rejected_row_goes_to_its_own_file_with_the_reason(tmp_path: Path, model: bytes) -> None:
    frame = fields_table(valid_rows(4)).to_pandas()
    number, last = CONTRACT.numbers[0], CONTRACT.fields[-1]
    frame.loc[1, number.name] = number.maximum + 1
    frame.loc[2, last.name] = last.minimum - 1 if isinstance(last, Number) else "?"
    frame.loc[3, ROW_ID] = None
    frame.to_parquet(tmp_path / "rows.parquet")
    assert score(tmp_path / "rows.parquet", tmp_path / "out", model)["rejected"] == 2
    assert rejected(tmp_path / "out") == {
        "id-1": f"{number.name} {number.rule}",
        "id-2": f"{last.name} {last.rule}",
    }
    assert scores(tmp_path / "out").index.to_list() == ["id-0", "rows.parquet:3"]
    kept = pq.read_table(tmp_path / "out" / REJECTED).to_pandas()
    assert kept[number.name].astype(float).max() == number.maximum + 1  # as it came


def test_raw_columns_are_parsed(tmp_path: Path, model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """CSV without the outcome; a folder of files, one compressed with its suffix in capitals; an unreadable number."""
    monkeypatch.setattr(fields, "parsing", Parsing)
    unreadable = raw_row(2, **{CONTRACT.numbers[0].name: "twelve"})
    frame = raw_frame(raw_row(0), raw_row(1), unreadable).drop(columns=[CONTRACT.target.column])
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    frame.iloc[:1].to_csv(folder / "a.csv", index=False)
    frame.iloc[1:].to_csv(folder / "more" / "b.CSV.GZ", index=False, compression="gzip")
    (folder / "_SUCCESS").write_text("")
    assert score(folder, tmp_path / "out", model) == {"scored": 2, "rejected": 1, "version": "7"}
    example = OnnxScorer(model).score_rows([CONTRACT.example])[0]
    assert scores(tmp_path / "out")["probability"].to_list() == pytest.approx([example] * 2, abs=1e-6)
    assert list(rejected(tmp_path / "out").values()) == [f"{CONTRACT.numbers[0].column} can't be read as a number"]
    if CONTRACT.row_id:
        assert scores(tmp_path / "out").index.to_list() == [row_id(0), row_id(1)]


def test_csv_of_fields_and_columns_of_wrong_types(tmp_path: Path, model: bytes) -> None:
    rows = valid_rows(50, seed=3)
    fields_table(rows).to_pandas().to_csv(tmp_path / "rows.csv", index=False)
    assert score(tmp_path / "rows.csv", tmp_path / "out", model)["scored"] == 50
    expected = OnnxScorer(model).score_rows(rows)
    assert sorted(scores(tmp_path / "out")["probability"]) == pytest.approx(sorted(expected), abs=1e-6)
    wrong = fields_table(rows).to_pandas()
    wrong[CONTRACT.numbers[0].name] = True
    wrong.to_parquet(tmp_path / "wrong.parquet")
    with pytest.raises(ProjectError, match=f"'{CONTRACT.numbers[0].name}' must be a"):
        score(tmp_path / "wrong.parquet", tmp_path / "other", model)


def test_files_that_cant_be_read_or_written(tmp_path: Path, model: bytes) -> None:
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(b"a,b")[:10] + b"\xff" * 99)
    with pytest.raises(ProjectError, match=r"^rows\.csv\.gz can't be read, or is no table: Error -3"):
        score(tmp_path / "rows.csv.gz", tmp_path / "out", model)
    (tmp_path / "latin.csv").write_bytes("é\n1\n".encode("latin-1"))
    with pytest.raises(ProjectError, match=r"^latin\.csv can't be read, or is no table: 'utf-8' codec"):
        score(tmp_path / "latin.csv", tmp_path / "out", model)
    fields_table(valid_rows(1)).to_pandas().to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(ProjectError, match=r"can't be read or written: .*Not a directory"):
        score(tmp_path / "rows.csv", tmp_path / "rows.csv" / "out", model)


def test_a_file_of_a_web_server(tmp_path: Path, model: bytes) -> None:
    fields_table(valid_rows(3)).to_pandas().to_csv(tmp_path / "rows.csv", index=False)
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/rows.csv"
        assert score(address, tmp_path / "out", model)["scored"] == 3
        server.shutdown()


def test_a_file_that_is_named_may_begin_with_an_underscore(tmp_path: Path) -> None:
    (tmp_path / "_rows.csv").write_text("a\n1\n")
    assert [file.name for file in inputs.find(str(tmp_path / "_rows.csv"))] == ["_rows.csv"]
    with pytest.raises(ProjectError, match="has no file that ends with"):
        inputs.find(str(tmp_path))


@pytest.mark.parametrize("number", [number for number in CONTRACT.numbers if number.whole][:1], ids=lambda it: it.name)
def test_almost_whole_is_not_whole(number: Number) -> None:
    row = CONTRACT.example | {number.name: float(np.nextafter(number.maximum, 0))}
    _, reasons = field_values(pa.RecordBatch.from_pylist([row]))
    assert reasons is not None
    assert reasons.tolist() == [f"{number.name} {number.rule}"]


def test_columns_that_are_not_the_contracts_are_named(tmp_path: Path, model: bytes) -> None:
    table = fields_table(valid_rows(2))
    optional = [field.name for field in CONTRACT.fields if not field.required]
    pq.write_table(table.drop_columns(optional), tmp_path / "fewer.parquet")
    assert score(tmp_path / "fewer.parquet", tmp_path / "out", model)["scored"] == 2
    for wrong, message in (
        (table.append_column("moods", table[ROW_ID]), "column 'moods' is not a field"),
        (table.select([ROW_ID]), "neither the contract's fields"),
    ):
        pq.write_table(wrong, tmp_path / "wrong.parquet")
        with pytest.raises(ProjectError, match=message):
            score(tmp_path / "wrong.parquet", tmp_path / "no", model)
    assert not (tmp_path / "no").exists()


def test_a_stopped_job_is_finished_and_nothing_is_scored_twice(
    tmp_path: Path, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the rejected rows of a batch and its part, and with a file half-written."""
    monkeypatch.setattr(inputs, "BATCH_ROWS", 100)
    monkeypatch.setattr(inputs, "PIECE_ROWS", 150)
    frame = fields_table(valid_rows(700, seed=2)).to_pandas()
    number = CONTRACT.numbers[0]
    frame.loc[::70, number.name] = number.maximum + 1
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "rows.parquet", row_group_size=100)
    out = tmp_path / "out"
    write, written = Store.write, []

    def until_the_disk_is_full(self: Store, name: str, content: bytes) -> None:
        written.append(name)
        if len(written) == 9:
            raise ProjectError("the disk is full")
        write(self, name, content)

    monkeypatch.setattr(Store, "write", until_the_disk_is_full)
    with pytest.raises(ProjectError, match="full"):
        score(tmp_path / "rows.parquet", out, model)
    (out / ".store-0").write_bytes(b"half")
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert 0 < len(before) < 7
    assert score(tmp_path / "rows.parquet", out, model) == {"scored": 690, "rejected": 10, "version": "7"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sorted([*scores(out).index, *rejected(out)]) == sorted(frame[ROW_ID])
    assert not list(out.glob(".store-*"))


def test_an_output_belongs_to_one_job(tmp_path: Path, model: bytes) -> None:
    source, out = tmp_path / "rows.parquet", tmp_path / "out"
    pq.write_table(fields_table(valid_rows(3)), source)
    score(source, out, model)
    with pytest.raises(ProjectError, match="holds scores of version 7"):
        jobs.begun(str(source), Store(str(out)), "8")
    pq.write_table(fields_table(valid_rows(4)), source)
    with pytest.raises(ProjectError, match="other inputs"):
        jobs.begun(str(source), Store(str(out)), None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("Dear")
    with pytest.raises(ProjectError, match="is not empty"):
        score(source, tmp_path / "mine", model)
    with pytest.raises(ProjectError, match=r"has no file that ends with \.csv"):
        score(tmp_path / "mine", tmp_path / "new", model)


def test_object_stores(model: bytes) -> None:
    """Through fsspec, as s3://: no renaming there."""
    store = fsspec.filesystem("memory")
    with store.open("/bucket/in/rows.parquet", "wb") as file:
        pq.write_table(fields_table(valid_rows(5)), file)
    assert score("memory://bucket/in", "memory://bucket/out", model)["scored"] == 5
    assert score("memory://bucket/in", "memory://bucket/out", model)["scored"] == 5
    assert len(store.glob("/bucket/out/part-*")) == 1


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_the_command_survives_a_kill(
    project: Project,
    inside: Callable[[Project], None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Killed while it scores, it finishes when it is run again; the scores are those of the registered version."""
    clean = pq.read_table(project.path("1.data", "2.clean", "rows.parquet"))
    fields = clean.select([ROW_ID, *CONTRACT.field_names])
    many = pa.concat_tables([fields] * 100)
    pq.write_table(many.set_column(0, ROW_ID, pa.array(map(str, range(len(many))))), project.path("in.parquet"))
    command = ("main.py", "score", "in.parquet", "--output", "out")
    out = project.path("out")
    killed = subprocess.Popen(project.command(*command), cwd=project.root, env=project.environment)
    wait_until(lambda: list(out.glob("part-*")) or killed.poll() is not None, "the first part")
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert len(list(out.glob("part-*"))) < -(-len(many) // inputs.BATCH_ROWS)

    inside(project)
    monkeypatch.chdir(project.root)
    assert run_script(project, *command) == 0
    assert f"{len(many):,} rows scored with version 1, 0 rejected" in capfd.readouterr().out
    found = pq.read_table(out)
    assert sorted(map(int, found[ROW_ID].to_pylist())) == list(range(len(many)))
    assert run_script(project, *command, "--version", "1") == 0
    assert f"all {len(many):,} scores of version 1" in capfd.readouterr().out
    assert run_script(project, "main.py", "score", "nowhere.csv", "--output", "other") == 1
    assert capfd.readouterr().err.startswith("score: nowhere.csv")


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_a_cluster_that_loses_a_worker(tmp_path: Path, model: bytes) -> None:
    """A real scheduler and two workers, one of which is killed: every row once, the same scores."""
    cluster = pytest.importorskip("distributed")
    from credit_risk.scoring.cluster import score_on_cluster

    some = valid_rows(2_000, seed=5)
    pq.write_table(pa.concat_tables([fields_table(some)] * 100), tmp_path / "one.parquet", row_group_size=50_000)
    for number in range(4):
        (tmp_path / "in").mkdir(exist_ok=True)
        os.link(tmp_path / "one.parquet", tmp_path / "in" / f"{number}.parquet")
    out = Store(str(tmp_path / "out"))
    job = jobs.prepare(str(tmp_path / "in"), out, "7", model)
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "processes": True}
    with cluster.LocalCluster(**options) as running:
        victim = next(iter(running.workers.values())).pid

        def kill_the_first() -> None:
            wait_until(lambda: len(out.names()) > 3, "parts")
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill_the_first)
        killer.start()
        score_on_cluster(running.scheduler_address, job, jobs.job_pieces(out), lambda *_: None)
        killer.join()
    assert jobs.finish(job)["scored"] == 4 * 100 * 2_000
    expected = OnnxScorer(model).score_rows(some).astype(float)
    found = pq.read_table(tmp_path / "out").to_pandas()
    assert (found["probability"] - found[ROW_ID].str[3:].astype(int).map(dict(enumerate(expected)))).abs().max() <= 1e-6
