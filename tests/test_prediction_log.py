"""The prediction log and the shadow model: what is written, and that nothing of it reaches a request."""

import json
import os
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from projects import wait_until
from rows import example_row

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.project.settings import Settings
from credit_risk.serving import log_writer, prometheus, recorder
from credit_risk.serving.log_writer import logged_fields
from credit_risk.serving.recorder import Recorder

ACCEPT, DECLINE = CONTRACT.problem.accept, CONTRACT.problem.decline
EXAMPLE = example_row()
FIRST = CONTRACT.field_names[0]


def entry(row_id: str | None = None, body: bytes | None = None, time: float = 1e9) -> tuple[Any, ...]:
    """A scored row, as `Recorder.add` takes it."""
    return time, b"request-1", EXAMPLE | {"row_id": row_id}, 0.25, ACCEPT, "3", (1.0, 2.0), body


def record(folder: Path, *entries: tuple[Any, ...], **settings: Any) -> list[dict[str, Any]]:
    """Records rows and closes the log; returns its lines."""
    recorder = Recorder(Settings(prediction_log=folder, **settings))
    for each in entries:
        recorder.add(*each)
    recorder.close()
    return lines(folder)


def lines(folder: Path) -> list[dict[str, Any]]:
    assert list((folder / "open").iterdir()) == []
    return [json.loads(line) for path in (folder / "ready").iterdir() for line in path.read_text().splitlines()]


def counted(name: str, **labels: str) -> float:
    counter = {"lines": prometheus.LOG_LINES, "shadow": prometheus.SHADOW_ROWS}[name]
    return float(counter.labels(**labels)._value.get())


def test_a_line_has_row_prediction_and_version(tmp_path: Path) -> None:
    (line,) = record(tmp_path, entry(row_id="loan \u00e9:7"))
    assert line == {
        "time": "2001-09-09T01:46:40.000Z",
        "request_id": "request-1",
        "row_id": "loan \u00e9:7",
        "version": "3",
        "probability": 0.25,
        "decision": ACCEPT,
        "fields": EXAMPLE,
        "shadow": None,
    }


def test_rows_are_logged_as_they_were_sent_on_one_line(tmp_path: Path) -> None:
    sent = json.dumps(EXAMPLE, indent=2).replace("\n", "\r\n").encode()
    assert [line["fields"] for line in record(tmp_path, entry(body=sent), entry("7", body=sent))] == [EXAMPLE, EXAMPLE]


def test_a_clock_that_is_set_back_shows_in_the_times_and_costs_no_row(tmp_path: Path) -> None:
    found = record(tmp_path, entry(time=1e9), entry(time=1e9 - 3600), entry(time=1e9))
    assert [line["time"][11:19] for line in found] == ["01:46:40", "00:46:40", "01:46:40"]


def test_fields_can_be_left_out(tmp_path: Path) -> None:
    sent = json.dumps(EXAMPLE).encode()
    found = record(tmp_path, entry(), entry(body=sent), prediction_log_exclude=f"{FIRST},")
    assert [line["fields"] for line in found] == [{k: v for k, v in EXAMPLE.items() if k != FIRST}] * 2
    with pytest.raises(ProjectError, match="names 'agee', which is not a field"):
        logged_fields(Settings(prediction_log_exclude="agee"))


def test_a_share_of_the_rows_can_be_logged(tmp_path: Path) -> None:
    found = record(tmp_path, *[entry()] * 1_000, prediction_log_share=0.1)
    assert 40 < len(found) < 200


def test_nothing_is_written_unless_asked_for(tmp_path: Path) -> None:
    assert not Recorder(Settings(model_cache=tmp_path)).enabled


def test_files_are_finished_by_age_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "FILE_BYTES", 1)
    log = Recorder(Settings(prediction_log=tmp_path))
    for _ in range(2):
        log.add(*entry())
        log.tick()
    wait_until(lambda: (tmp_path / "ready").is_dir() and len(list((tmp_path / "ready").iterdir())) == 2, "two files")
    log.close()
    assert len(lines(tmp_path)) == 2


def test_a_folder_that_fails_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.write_text("not a folder")
    lost = counted("lines", result="lost")
    log = Recorder(Settings(prediction_log=folder))
    log.add(*entry())

    def has_counted() -> bool:
        log.tick()
        return counted("lines", result="lost") == lost + 1

    wait_until(has_counted, "the line to be counted")
    folder.unlink()  # repaired
    log.add(*entry())
    log.close()
    assert len(lines(folder)) == 1


def test_a_file_that_somebody_deletes_is_made_again(tmp_path: Path) -> None:
    log = Recorder(Settings(prediction_log=tmp_path))
    log.add(*entry())
    log.tick()
    (path,) = wait_until(lambda: [*tmp_path.glob("open/*.jsonl")], "the file")
    path.unlink()
    log.add(*entry())
    log.close()
    assert len(lines(tmp_path)) == 1


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []

    def write(file: int, data: Any) -> int:
        written.append(bytes(data))
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return int(real(file, data[: len(data) // 2] if len(written) == 2 else data))

    def has_written(count: int) -> bool:
        return len(written) >= count

    real = os.write
    monkeypatch.setattr(os, "write", write)
    log = Recorder(Settings(prediction_log=tmp_path))
    for count in (1, 3):  # the second line is cut in its middle, and then there is no room
        log.add(*entry())
        log.tick()
        wait_until(partial(has_written, count), "the write")
    log.close()
    assert len(lines(tmp_path)) == 1


def test_rows_beyond_the_limit_are_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = json.dumps(EXAMPLE).encode()
    monkeypatch.setattr(recorder, "MAX_BYTES", 3 * (len(sent) + recorder.LINE_BYTES) - 1)
    dropped = counted("lines", result="dropped")
    assert len(record(tmp_path, *[entry(body=sent)] * 10)) == 3
    assert counted("lines", result="dropped") == dropped + 7


class Shadow:
    """A shadow model with scores that the test sets."""

    loaded = True

    def __init__(self, score: Any) -> None:
        self._model = SimpleNamespace(version="4", threshold=0.5, scorer=SimpleNamespace(score_many=score))

    def get(self) -> Any:
        return self._model


def shadowed(folder: Path, shadow: Any) -> Recorder:
    found = Recorder(Settings(prediction_log=folder, shadow_alias="challenger", model_cache=folder / "cache"))
    found.shadow = shadow
    return found


def test_the_shadow_models_scores_are_logged_and_counted(tmp_path: Path) -> None:
    before = prometheus.SHADOW_DECISIONS.labels(ACCEPT, DECLINE)._value.get()
    log = shadowed(tmp_path, Shadow(lambda features: features[:, 0] * np.float32(0.5)))
    log.add(*entry())
    log.tick()
    wait_until(lambda: log._scoring and log._scoring.scores.done(), "the score")
    log.close()
    assert [line["shadow"] for line in lines(tmp_path)] == [{"version": "4", "probability": 0.5}]
    assert prometheus.SHADOW_DECISIONS.labels(ACCEPT, DECLINE)._value.get() == before + 1


def test_a_slow_shadow_model_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "SHADOW_SECONDS", 0)
    slow, free = counted("shadow", result="slow"), threading.Event()
    log = shadowed(tmp_path, Shadow(lambda _: free.wait(20) and np.zeros(1, np.float32)))
    for _ in range(3):
        log.add(*entry())
        log.tick()
    log.tick()
    assert counted("shadow", result="slow") == slow + 3
    free.set()
    log.close()
    assert [line["shadow"] for line in lines(tmp_path)] == [None] * 3


@pytest.mark.parametrize("result", ["failed", "absent"])
def test_a_failing_or_absent_shadow_model_costs_only_its_scores(tmp_path: Path, result: str) -> None:
    def fail(_: Any) -> Any:
        raise ValueError("of another shape")

    before = counted("shadow", result=result)
    log = shadowed(tmp_path, Shadow(fail) if result == "failed" else SimpleNamespace(loaded=False))
    log.add(*entry())
    log.tick()
    if result == "failed":
        wait_until(lambda: log._scoring and log._scoring.scores.done(), "the failure")
    log.close()
    assert [line["shadow"] for line in lines(tmp_path)] == [None]
    assert counted("shadow", result=result) == before + 1
