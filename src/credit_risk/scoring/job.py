"""A scoring job: what to score, with which model, into which folder; scored in parallel and resumed where it stopped.

The output has `part-*.parquet` with scores, `_rejected/part-*.parquet` with the rows that break the contract and the
reason, `_job.json` (what is scored, with which version), `_model.onnx`, and `_summary.json` (counts of a finished job).
Readers of a folder of Parquet files skip names that begin with an underscore.

A batch is done when its part exists; its rejected rows are written before. So a job that was killed at any moment is
finished by running it again, and each row is in the output exactly once.
"""

import json
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import ROW_ID
from credit_risk.data.columns import reason_column
from credit_risk.data.store import Store
from credit_risk.features import FEATURES
from credit_risk.formats.onnx_scorer import OnnxScorer
from credit_risk.scoring import inputs
from credit_risk.scoring.fields import Kind, as_text, kind_of, read
from credit_risk.scoring.inputs import Batch, InputFile, Piece

JOB, MODEL, SUMMARY, REJECTED = "_job.json", "_model.onnx", "_summary.json", "_rejected"
WAITING = 2  # batches a thread, at most, that are read and not yet scored
SCHEMA = pa.schema(
    [
        (ROW_ID, pa.string()),
        ("probability", pa.float64()),
        ("decision", pa.dictionary(pa.int32(), pa.string())),
        ("model_version", pa.dictionary(pa.int32(), pa.string())),
    ]
)
Report = Callable[[int, float], None]  # rows just scored, and the bytes of input just done


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker needs to know: where to write, and the version, digest and column kind of `_job.json`."""

    output: str
    version: str
    onnx_sha256: str
    kind: Kind


def prepare(source: str, output: Store, version: str, content: bytes) -> Job:
    """Begins a job: records what is scored, and with which model.

    Raises:
        ProjectError: the input can't be read or has other columns, or the output belongs to something else.
    """
    files = inputs.find(source)
    kinds = {kind_of(inputs.columns(file), file.name) for file in files}
    if len(kinds) > 1:
        raise ProjectError("some input files have the contract's fields and others raw columns; score them separately")
    if output.names() - {MODEL}:  # a job that was killed before it began has the model only
        raise ProjectError(f"{output.name} is not empty and holds no scoring job; choose another folder")
    job = Job(output.address, version, OnnxScorer(content).digest, kinds.pop())
    output.write(MODEL, content)
    record = {"version": version, "onnx_sha256": job.onnx_sha256, "kind": job.kind, "inputs": inputs.as_json(files)}
    output.write_json(JOB, record)
    return job


def begun(source: str, output: Store, version: str | None) -> Job | None:
    """The job that the output belongs to; None if there is none yet.

    Raises:
        ProjectError: it has other inputs, or another version.
    """
    if JOB not in output.names():
        return None
    record = json.loads(output.read(JOB))
    if record["inputs"] != inputs.as_json(inputs.find(source)):
        raise ProjectError(f"{output.name} holds scores of other inputs, or they have changed; choose another folder")
    if version not in {None, record["version"]}:
        raise ProjectError(f"{output.name} holds scores of version {record['version']}; choose another folder")
    return Job(output.address, record["version"], record["onnx_sha256"], record["kind"])


def job_pieces(output: Store) -> list[Piece]:
    """The pieces of all inputs of a job."""
    files = [InputFile(**entry) for entry in json.loads(output.read(JOB))["inputs"]]
    return [piece for number, file in enumerate(files) for piece in inputs.pieces(number, file)]


def score_pieces(job: Job, pieces: Iterable[Piece], report: Report, threads: int | None = None) -> None:
    """Scores what is left of some pieces, with one thread for each core.

    Args:
        job: the job.
        pieces: of its inputs.
        report: called after each batch, by one thread at a time.
        threads: how many score; None for one a core.

    Raises:
        ProjectError: an input can't be read, or the output can't be written.
    """
    output, scorer = Store(job.output), _scorer(job)
    done = output.names()
    threads = threads or len(os.sched_getaffinity(0))
    lock = threading.Lock()

    def work(piece: Piece, batch: Batch) -> None:
        score_batch(job, scorer, output, piece.file.name, batch)
        with lock:
            report(len(batch.rows), batch.size)

    with ThreadPoolExecutor(threads) as pool:
        waiting: set[Future[None]] = set()
        try:
            for piece in pieces:
                count = inputs.batch_count(piece)
                if count is not None and {_part(f"{piece.label}-{number:05}") for number in range(count)} <= done:
                    report(0, piece.size)
                    continue
                for batch in inputs.batches(piece):
                    if _part(batch.label) in done:
                        report(0, batch.size)
                        continue
                    if len(waiting) >= WAITING * threads:
                        finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                        for each in finished:
                            each.result()
                    waiting.add(pool.submit(work, piece, batch))
            for each in waiting:
                each.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def score_batch(job: Job, scorer: OnnxScorer, output: Store, source: str, batch: Batch) -> None:
    """Scores a batch and writes its part, after the rows that it rejects."""
    rows = read(batch.rows, job.kind, source, batch.first_row)
    ids, values = rows.ids, rows.numbers
    if rows.reasons is not None:
        good = rows.reasons == ""
        columns, names = [as_text(column) for column in batch.rows.columns], batch.rows.schema.names
        rejected = pa.table(
            [rows.ids, *columns, pa.array(rows.reasons, pa.string())],
            names=[f"scored_{ROW_ID}", *names, reason_column(names)],
        )
        output.write_table(f"{REJECTED}/{_part(batch.label)}", rejected.filter(pa.array(~good)))
        ids, values = ids.filter(pa.array(good)), {name: column[good] for name, column in values.items()}
    probabilities = np.empty(0)
    if len(ids):
        probabilities = scorer.score_many(FEATURES.from_numbers(values)).astype(np.float64)
    # In double precision, as the API compares: the threshold is not a number of float32.
    declined = (probabilities >= scorer.metadata.threshold).astype(np.int32)
    words = [CONTRACT.problem.accept, CONTRACT.problem.decline]
    columns = [
        ids,
        pa.array(probabilities),
        pa.DictionaryArray.from_arrays(declined, words),
        pa.DictionaryArray.from_arrays(np.zeros(len(ids), np.int32), [job.version]),
    ]
    output.write_table(_part(batch.label), pa.table(columns, schema=SCHEMA))


def finish(job: Job) -> dict[str, Any]:
    """Counts the rows of all parts, records them and returns them.

    Raises:
        ProjectError: they are not as many as the inputs have.
    """
    output = Store(job.output)
    output.remove_temporary()
    scored = sum(output.rows(name) for name in output.names() if name.startswith("part-"))
    rejected = sum(output.rows(f"{REJECTED}/{name}") for name in output.names(REJECTED))
    known = [piece.rows for piece in job_pieces(output)]
    if all(rows is not None for rows in known) and sum(filter(None, known)) != scored + rejected:
        raise ProjectError(f"{output.name} has {scored + rejected:,} rows and the input {sum(filter(None, known)):,}")
    summary = {"scored": scored, "rejected": rejected, "version": job.version}
    output.write_json(SUMMARY, summary)
    return summary


def finished(output: Store) -> dict[str, Any] | None:
    """The counts of a finished job; None if it is not finished."""
    return json.loads(output.read(SUMMARY)) if SUMMARY in output.names() else None


def _part(label: str) -> str:
    return f"part-{label}.parquet"


@lru_cache(maxsize=1)
def _scorer(job: Job) -> OnnxScorer:
    output = Store(job.output)
    scorer = OnnxScorer(output.read(MODEL))
    if scorer.digest != job.onnx_sha256:
        raise ProjectError(f"{MODEL} in {output.name} is not the model that the job began with")
    return scorer
