"""Shipping of the log, outcomes, and the comparison of a window of predictions with the training period."""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from socket import gethostname
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from projects import Project, run_script
from rows import valid_rows
from sklearn.metrics import roc_auc_score

from credit_risk.contract import CONTRACT
from credit_risk.core.errors import ProjectError
from credit_risk.core.schema import OUTCOME, RESERVED, ROW_ID, Number
from credit_risk.data.splits import as_frame, as_records, read_holdout
from credit_risk.data.store import Store
from credit_risk.features import FEATURES
from credit_risk.formats.onnx_scorer import OnnxScorer
from credit_risk.monitoring import comparison, shadow
from credit_risk.monitoring.comparison import Check, compare, corrected
from credit_risk.monitoring.estimate import estimate, expected_auc
from credit_risk.monitoring.outcomes import REJECTED, known_outcomes, labels_of, take_in
from credit_risk.monitoring.outcomes import SCHEMA as OUTCOMES_SCHEMA
from credit_risk.monitoring.params import MonitorParams
from credit_risk.monitoring.reference import Distribution, Reference, make_reference
from credit_risk.monitoring.result import write_result
from credit_risk.monitoring.shadow import ShadowRows
from credit_risk.monitoring.shipping import SCHEMA, ship, ship_uploaded
from credit_risk.monitoring.window import Window, read_predictions
from credit_risk.registry.gate_params import ShadowDemands
from credit_risk.serving.log_writer import Batch, LineFormat, LogWriter

if TYPE_CHECKING:
    from moto.server import ThreadedMotoServer

EVER = (date(1, 1, 1), date(9999, 12, 31))
THRESHOLD = 0.5
SECTION = MonitorParams(
    window_days=30,
    min_rows=100,
    alpha=0.05,
    min_psi=0.1,
    min_share_change=0.05,
    max_invalid_share=0.01,
    max_auc_drop=0.03,
    min_rate_gap=0.03,
)
problem = CONTRACT.problem


def line(number: int, day: str = "2026-11-27", **changes: Any) -> str:
    """A line of the log."""
    entry = {
        "time": f"{day}T23:59:59.999Z",
        "request_id": f"request-{number}",
        ROW_ID: f"id-{number}",
        "version": "3",
        "probability": 0.25,
        "decision": problem.accept,
        "fields": CONTRACT.example,
        "shadow": {"version": "4", "probability": 0.5} if number % 2 else None,
    }
    return json.dumps(entry | changes)


def log_file(log: Path, name: str, *lines: str, folder: str = "ready", end: str = "\n") -> Path:
    path = log / folder / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + end)
    return path


def shipped(store: Path) -> list[str]:
    return sorted(read_predictions(Store(str(store)), *EVER)[ROW_ID])


def test_no_field_has_the_name_of_another_column_of_the_log() -> None:
    assert {name for name in SCHEMA.names if name not in CONTRACT.field_names} <= {*RESERVED}


def test_lines_become_rows_by_day(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    path = log_file(log, "host-1-a", line(1), line(2, "2026-11-28"), line(3, "2026-11-28"))
    result = ship(log, Store(str(store)))
    assert (result.files, result.rows, result.unfinished, result.damaged) == (1, 3, 0, 0)
    assert not path.exists()
    rows = read_predictions(Store(str(store)), date(2026, 11, 27), date(2026, 11, 27))
    (row,) = rows.to_dict("records")
    assert row["time"] == pd.Timestamp("2026-11-27T23:59:59.999Z")
    assert (row["request_id"], row[ROW_ID], row["version"]) == ("request-1", "id-1", "3")
    assert (row["probability"], row["shadow_version"], row["shadow_probability"]) == (0.25, "4", 0.5)
    assert {name: row[name] for name in CONTRACT.field_names} == CONTRACT.example
    assert len(read_predictions(Store(str(store)), date(2026, 11, 28), date(2026, 12, 1))) == 2
    assert ship(log, Store(str(store))).files == 0


def test_rows_from_before_a_field_was_added_lack_it(tmp_path: Path) -> None:
    store, new = Store(str(tmp_path / "store")), CONTRACT.fields[-1].name
    log_file(tmp_path / "log", "host-1-a", line(1))
    ship(tmp_path / "log", store)
    (name,) = store.names("predictions/day=2026-11-27")
    path = f"predictions/day=2026-11-27/{name}"
    store.write_table(path, store.read_table(path).drop_columns([new]).append_column("removed", pa.array(["x"])))
    rows = read_predictions(store, *EVER)
    assert rows.columns.tolist() == SCHEMA.names
    assert rows[new].isna().tolist() == [True]


def test_uploaded_files_are_shipped_once_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an object store, here one in memory; a file that another run takes meanwhile costs nothing."""
    log, store = Store(f"memory://{tmp_path}/log"), Store(str(tmp_path / "store"))
    for number in (1, 2):
        log.write(f"ready/host-{number}-a.jsonl", f"{line(number)}\n".encode())
    read = Store.read

    def taken(self: Store, name: str) -> bytes:
        if name == "ready/host-2-a.jsonl":
            self.remove(name)
        return read(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "read", taken)
        assert ship_uploaded(log, store).rows == 1
    assert log.names("ready") == set()
    log.write("ready/host-1-a.jsonl", f"{line(1)}\n".encode())  # a server that could not delete it has sent it again
    assert ship_uploaded(log, store).rows == 1
    assert shipped(tmp_path / "store") == ["id-1"]
    log.remove("ready/host-1-a.jsonl")  # gone already: nothing


def test_what_the_api_writes_is_what_is_shipped(tmp_path: Path) -> None:
    """A row as it was sent, and one of a batch with an id of the caller's, one field left out."""
    for names in (CONTRACT.field_names, CONTRACT.field_names[1:]):
        log, store = tmp_path / f"log{len(names)}", Store(str(tmp_path / f"store{len(names)}"))
        rows: list[dict[str, Any]] = [CONTRACT.example | {ROW_ID: None}, CONTRACT.example | {ROW_ID: "row 7"}]
        parts, bodies = LineFormat(names).parts, (json.dumps(CONTRACT.example, indent=1).encode(), None)
        lines = [
            part
            for row, body in zip(rows, bodies, strict=True)
            for part in parts(86_400.25, b"request", row, 0.5, problem.decline, "3", body)
        ]
        writer = LogWriter(log)
        writer.put(Batch(lines, 0, "4", [0.25, 0.75]))
        writer.close()
        result = ship(log, store)
        assert (result.rows, result.unfinished, result.damaged) == (2, 0, 0)
        found = read_predictions(store, date(1970, 1, 2), date(1970, 1, 2)).to_dict("records")
        assert pd.isna(found[0][ROW_ID])
        assert found[1][ROW_ID] == "row 7"
        assert [row["shadow_probability"] for row in found] == [0.25, 0.75]
        for row in found:
            given = {name: CONTRACT.example[name] for name in names if CONTRACT.example[name] is not None}
            assert {name: row[name] for name in given} == given
            assert (row["time"], row["decision"]) == (pd.Timestamp("1970-01-02T00:00:00.250Z"), problem.decline)


def test_unfinished_and_damaged_lines_are_counted_and_cost_no_other_row(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    without = json.loads(line(2)) | {"fields": None}
    log_file(
        log, "host-1-a", line(1), "not JSON", json.dumps(without), line(3, probability="high"), line(4)[:-20], end=""
    )
    log_file(log, "host-1-b", line(5), line(6), end="")
    result = ship(log, Store(str(store)))
    assert (result.rows, result.unfinished, result.damaged) == (3, 1, 3)
    assert shipped(store) == ["id-1", "id-5", "id-6"]
    assert (store / "_damaged" / "host-1-a.jsonl").read_text().startswith("not JSON\n")


def test_open_files_are_shipped_when_their_process_has_died(tmp_path: Path) -> None:
    log, store = tmp_path / "log", tmp_path / "store"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = gethostname()
    log_file(log, f"{host}-{dead.pid}-a", line(1), folder="open")
    alive = log_file(log, f"{host}-{os.getpid()}-b", line(2), folder="open")
    elsewhere = log_file(log, f"another-host-{dead.pid}-c", line(3), folder="open")
    reused = log_file(log, f"{host}-{os.getpid()}-d", line(4), folder="open")
    os.utime(reused, (0, 0))  # written before the process with this number began
    assert ship(log, Store(str(store))).files == 2
    assert shipped(store) == ["id-1", "id-4"]
    assert alive.exists()
    assert elsewhere.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from {package}.data.store import Store
from {package}.monitoring.shipping import ship
write, written = Store.write, []
def until_killed(self, name, content):
    written.append(name)
    if len(written) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, name, content)
Store.write = until_killed
ship(Path(sys.argv[1]), Store(sys.argv[2]))
"""


def test_a_killed_run_is_completed_and_nothing_is_shipped_twice(tmp_path: Path) -> None:
    """Killed between the two days of the second file."""
    log, store = tmp_path / "log", tmp_path / "store"
    for number in range(3):
        log_file(log, f"host-1-{number}", line(number), line(10 + number, "2026-11-28"))
    program = KILLED.format(package=problem.package)
    killed = subprocess.run([sys.executable, "-c", program, str(log), str(store)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(shipped(store)) == 3
    assert len(list(log.rglob("*.jsonl"))) == 2
    ship(log, Store(str(store)))
    assert shipped(store) == sorted(f"id-{number}" for number in (0, 1, 2, 10, 11, 12))
    assert not list(log.rglob("*.jsonl"))


def test_a_store_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with S3 away, or a full disk; and a second shipper that has taken the file meanwhile."""
    log, store = tmp_path / "log", tmp_path / "store"
    path = log_file(log, "host-1-a", line(1))

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", fail)
        with pytest.raises(ProjectError, match="No space left"):
            ship(log, Store(str(store)))
    assert path.exists()
    read = Path.read_bytes

    def read_and_ship(self: Path) -> bytes:
        content = read(self)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "read_bytes", read)
            assert ship(log, Store(str(store))).rows == 1
        return content

    monkeypatch.setattr(Path, "read_bytes", read_and_ship)
    assert ship(log, Store(str(store))).rows == 1
    assert shipped(store) == ["id-1"]


def test_outcomes_are_taken_in_once_and_the_latest_counts(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    tomorrow = (datetime.now(UTC) + timedelta(days=3)).date().isoformat()
    rows = [
        (" id-1 ", CONTRACT.target.positive[0], "2026-01-01"),
        ("id-2", problem.negative, "2026-01-01"),
        ("id-3", "1.0", "2026-01-02"),  # as a spreadsheet saves it
        ("", "1", "2026-01-01"),
        ("id-4", "perhaps", "2026-01-01"),
        ("id-5", "0", "01.02.2026"),
        ("id-6", "0", tomorrow),
    ]
    text = pd.DataFrame(rows, columns=[ROW_ID, OUTCOME, "date"]).to_csv(index=False)
    (tmp_path / "first.CSV.GZ").write_bytes(gzip.compress(text.encode()))
    for _ in range(2):
        taken = take_in(str(tmp_path / "first.CSV.GZ"), store)
        assert (taken.rows, taken.rejected) == (3, 4)
    reasons = pq.read_table(tmp_path / "store" / REJECTED)["reason"].to_pylist()
    assert [why.split()[1] for why in reasons] == ["row", "outcome", "date", "date"]
    pd.DataFrame({ROW_ID: ["id-1"], OUTCOME: ["0"], "date": ["2026-02-01"]}).to_parquet(tmp_path / "second.parquet")
    take_in(str(tmp_path / "second.parquet"), store)
    known = known_outcomes(store).set_index(ROW_ID)[OUTCOME]
    assert known.to_dict() == {"id-1": 0, "id-2": 0, "id-3": 1}
    (tmp_path / "wrong.csv").write_text("id,outcome\n1,1\n")
    with pytest.raises(ProjectError, match=f"lacks the column {ROW_ID}"):
        take_in(str(tmp_path / "wrong.csv"), store)
    (tmp_path / "bad.csv").write_text(f"{ROW_ID},{OUTCOME},date\n1,perhaps,2026-01-01\n")
    with pytest.raises(ProjectError, match="has no usable row; the outcome is none of"):
        take_in(str(tmp_path / "bad.csv"), store)


def test_contradictions_are_rejected_and_outcomes_before_the_prediction_are_not_used(tmp_path: Path) -> None:
    store, file = Store(str(tmp_path / "store")), tmp_path / "outcomes.csv"

    def take(*rows: str) -> tuple[int, int]:
        file.write_text("\n".join([f"{ROW_ID},{OUTCOME},date", *rows]))
        taken = take_in(str(file), store)
        return taken.rows, taken.rejected

    first = ("id-1,1,2025-11-25", "id-2,1,2025-12-01", "id-2,1,2025-12-01", "id-3,0,2025-12-01", "id-3,1,2025-12-01")
    assert take(*first) == (3, 2)
    assert take("id-2,0,2025-12-01", "nobody,0,2025-12-01") == (1, 1)
    assert take(*first) == (3, 2)  # again
    assert take("id-2,0,2025-12-02") == (1, 0)
    rows = pd.DataFrame({ROW_ID: ["id-1", "id-2", "id-3", None], "time": pd.Timestamp("2025-11-27T23:59Z")})
    labels, early = labels_of(rows, known_outcomes(store))
    assert early == 1
    assert np.array_equal(labels, [np.nan, 0, np.nan, np.nan], equal_nan=True)


KILLED_HALF_WAY = """
import os, signal, sys
from pathlib import Path
from {package}.data.store import Store
from {package}.monitoring.outcomes import take_in
from {package}.monitoring.result import write_result
left = int(sys.argv[1])
def until_killed(write):
    def written(self, content, **options):
        global left
        left -= 1
        write(self, content if left else content[: len(content) // 2], **options)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
    return written
Path.write_bytes, Path.write_text = until_killed(Path.write_bytes), until_killed(Path.write_text)
if sys.argv[2] == "monitor":
    write_result(dict(version="2", rows=1, checks=[]), Path(sys.argv[3]))
take_in(sys.argv[2], Store(sys.argv[3]))
"""


def killed_half_way(*arguments: str) -> None:
    """Killed while it writes a file, which is half on disk then."""
    program = KILLED_HALF_WAY.format(package=problem.package)
    killed = subprocess.run([sys.executable, "-c", program, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL


def test_killed_outcomes_and_monitor_leave_nothing_half_written(tmp_path: Path) -> None:
    store, file = Store(str(tmp_path / "store")), tmp_path / "outcomes.csv"
    file.write_text(f"{ROW_ID},{OUTCOME},date\nid-1,1,2026-11-26\nid-2,0,2026-11-26\n,0,2026-11-26\n")
    killed_half_way("2", str(file), store.address)
    assert len(list(tmp_path.rglob(".store-*"))) == 1
    assert len(known_outcomes(store)) == 0  # the rejected row is written, the others are not
    for _ in range(2):
        assert take_in(str(file), store).rows == 2
        assert sorted(known_outcomes(store)[ROW_ID]) == ["id-1", "id-2"]
    result = {"version": "1", "rows": 1, "checks": []}
    write_result(result, tmp_path / "monitoring")
    killed_half_way("1", "monitor", str(tmp_path / "monitoring"))
    assert json.loads((tmp_path / "monitoring" / "result.json").read_text()) == result


def test_expected_auc() -> None:
    """0.2 and 0.6: of the expected positives 0.2 + 0.6, and negatives 0.8 + 0.4."""
    right = 0.6 * 0.8 + 0.5 * (0.2 * 0.8 + 0.6 * 0.4)
    assert expected_auc(np.array([0.2, 0.6])) == pytest.approx(right / (0.8 * 1.2))
    rng = np.random.default_rng(0)
    scores, labels = rng.random(200).round(1), rng.integers(0, 2, 200)
    assert expected_auc(scores, labels.astype(float)) == pytest.approx(roc_auc_score(labels, scores))


def test_estimates_of_calibrated_probabilities_cover_what_happens() -> None:
    rng = np.random.default_rng(1)
    covered: Counter[str] = Counter()
    for seed in range(30):
        scores = rng.beta(1, 5, 400)
        labels = (rng.random(400) < scores).astype(float)
        declined = scores > 0.3
        found = estimate(scores, declined, (5.0, 1.0), seed)
        happened = {
            "roc_auc": roc_auc_score(labels, scores),
            "positive_rate": labels.mean(),
            "cost": np.where(declined, 1 - labels, 5 * labels).mean(),
        }
        covered.update(name for name, value in happened.items() if found[name][1] <= value <= found[name][2])
    assert min(covered.values()) >= 25
    assert len(covered) == 3


def test_distributions_psi_and_tests() -> None:
    numbers = Distribution.of(np.array([1.0, 2.0, 3.0, 4.0, np.nan]), categorical=False)
    assert sum(numbers.counts) == 5
    assert numbers.counts[-1] == 1
    codes = Distribution.of(np.array([0.0, 0.0, 2.0]), categorical=True)
    assert codes.counts == (2, 1, 0)
    assert codes.count(np.array([2.0, 1.0, -2.0, 9.0])).tolist() == [0, 1, 3]
    assert comparison.psi(np.array([50, 50]), np.array([80, 20])) == pytest.approx(
        0.3 * np.log(1.6) - 0.3 * np.log(0.4)
    )
    assert comparison.same_distribution(np.array([500, 500]), np.array([50, 50])) == pytest.approx(1)
    assert comparison.same_distribution(np.array([500, 500]), np.array([80, 20])) < 1e-6
    assert comparison.same_distribution(np.array([1000]), np.array([10])) == 1


def test_p_values_are_corrected_together() -> None:
    """Holm: of four tests, 0.012 passes 0.05 / 4, 0.02 does not pass 0.05 / 3, and then neither does 0.03."""

    def check(p_value: float | None, *, beyond: bool = True) -> Check:
        return Check("psi", "", 1.0, 0.0, 0.1, beyond, p_value)

    checks = [check(0.03), check(0.012), check(0.02), check(0.9), check(None), check(None, beyond=False)]
    assert [each.alarm for each in corrected(checks, 0.05)] == [False, True, False, False, True, False]
    assert not corrected([check(0.0001, beyond=False)], 0.05)[0].alarm


def scored(count: int, seed: int) -> pd.DataFrame:
    """Predictions of random rows; probabilities are drawn alike each time, and the labels from them."""
    rng = np.random.default_rng(seed)
    frame = as_frame(valid_rows(count, seed))
    probabilities = rng.beta(1, 3, count)
    decisions = np.where(probabilities >= THRESHOLD, problem.decline, problem.accept)
    ids = [f"{seed}-{number}" for number in range(count)]
    extra: dict[str, Any] = {ROW_ID: ids, "time": range(count), "probability": probabilities, "decision": decisions}
    return frame.assign(**extra, label=(rng.random(count) < probabilities).astype(np.int8))


def window(frame: pd.DataFrame) -> Window:
    outcomes = frame.rename(columns={"label": OUTCOME})[[ROW_ID, OUTCOME]]
    return Window.of(frame.drop(columns=["label"]), outcomes)


@pytest.fixture(scope="module")
def reference() -> Reference:
    frame = scored(3_000, 0)
    fields = {name: frame[name] for name in CONTRACT.field_names}
    missing = {name: float(frame[name].isna().mean()) for name in CONTRACT.field_names}
    labels, probabilities = frame["label"].to_numpy(), frame["probability"].to_numpy()
    return make_reference(FEATURES.from_columns(fields), probabilities, labels, missing, THRESHOLD, (5.0, 1.0))


def alarms(reference: Reference, frame: pd.DataFrame, **options: Any) -> set[tuple[str, str]]:
    return {(check.kind, check.name) for check in compare(reference, window(frame), SECTION, **options) if check.alarm}


def test_a_window_alarms_if_and_only_if_it_has_moved(reference: Reference) -> None:
    same = scored(1_000, 1)
    assert alarms(reference, same) == set()
    for field in CONTRACT.fields:
        wrong: Any = field.maximum * 2 + 1 if isinstance(field, Number) else "?"
        assert ("invalid", field.name) in alarms(reference, same.assign(**{field.name: wrong}))
        lost = same.assign(**{field.name: np.nan if isinstance(field, Number) else None})
        assert ("missing", field.name) in alarms(reference, lost)
    first = CONTRACT.fields[0]
    lost = same.assign(**{first.name: np.nan if isinstance(first, Number) else None})
    ignoring = SECTION.model_copy(update={"ignored_fields": (first.name,)})
    assert not any(check.alarm for check in compare(reference, window(lost), ignoring))
    riskier = same.assign(probability=np.sqrt(same["probability"]), decision=problem.decline)
    assert {("psi", "probability"), ("decline_rate", "")} <= alarms(reference, riskier)
    assert ("event_rate", "") in alarms(reference, same.assign(label=1 - same["label"]))
    shuffled = same.assign(label=same["label"].sample(frac=1, random_state=0).to_numpy())
    assert alarms(reference, shuffled) == {("realised_auc", "")}
    flat = same.assign(probability=0.25 + 0.01 * same["probability"])
    assert ("estimated_auc", "") in alarms(reference, flat)
    assert ("volume", "") in alarms(reference, same.head(50))
    assert alarms(reference, same, traffic=(len(same), 3_000)) == {("volume", "")}
    assert not alarms(reference, same, traffic=(3_000, 3_000))  # most by the champion before


def test_a_field_that_the_version_did_not_know_is_not_compared(reference: Reference) -> None:
    new = CONTRACT.fields[-1].name
    older = replace(reference, missing={name: share for name, share in reference.missing.items() if name != new})
    assert new not in {check.name for check in comparison.shares(older, window(scored(100, 1)), SECTION)}


def test_figures_by_group(reference: Reference) -> None:
    frame = scored(1_000, 2)
    both = window(frame.assign(version=["1"] * 500 + ["2"] * 500))
    both.labels[:490] = np.nan
    one, two = comparison.by_group(reference, both, both.rows["version"])
    assert (one["group"], one["rows"], one["realised"]) == ("1", 500, None)  # ten outcomes are too few
    known = frame.iloc[500:]
    assert two["realised"]["rows"] == 500
    assert two["realised"]["roc_auc"][0] == pytest.approx(roc_auc_score(known["label"], known["probability"]))
    declined = known["decision"] == problem.decline
    cost = np.where(declined, 1 - known["label"], 5 * known["label"]).mean()
    assert two["realised"]["cost"] == pytest.approx(cost)
    assert two["realised"]["cost_of_accepting_all"] == pytest.approx(5 * known["label"].mean())
    assert two["estimated"]["cost"][1] <= cost <= two["estimated"]["cost"][2]


def shadowed(count: int, better: float) -> pd.DataFrame:
    """Shipped rows of version 1 with the scores of version 2: between the probability and the outcome."""
    frame = scored(count, 3).assign(version="1", shadow_version="2")
    frame["time"] = pd.Timestamp("2026-11-27", tz="UTC") + pd.to_timedelta(np.arange(count) % 3, unit="D")
    return frame.assign(shadow_probability=frame["probability"] * (1 - better) + frame["label"] * better)


def ship_frame(store: Store, frame: pd.DataFrame) -> None:
    table = pa.Table.from_pandas(frame.reindex(columns=SCHEMA.names).assign(request_id="r"), SCHEMA)
    store.write_table("predictions/day=2026-11-27/host-1-a.parquet", table)
    outcomes = frame.rename(columns={"label": OUTCOME}).assign(date=date(2026, 12, 1))[list(OUTCOMES_SCHEMA.names)]
    store.write_table("outcomes/a.parquet", pa.Table.from_pandas(outcomes, OUTCOMES_SCHEMA))


def test_a_shadow_model_is_compared_on_the_rows_that_both_have_scored(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    frame = shadowed(5, 0.0).assign(
        probability=[0.1, 0.2, 0.6, 0.7, 0.8],
        shadow_probability=[0.1, 0.6, 0.6, 0.3, np.nan],
        decision=[problem.accept] * 2 + [problem.decline] * 3,
        shadow_version=np.array(["2", "2", "2", "2", None], object),
        time=pd.to_datetime(["2026-11-27"] * 3 + ["2026-11-28", "2026-11-27"], utc=True),
    )
    again = frame.head(1).assign(time=pd.Timestamp("2026-11-26", tz="UTC"), shadow_probability=0.9)  # the same row id
    other = frame.assign(version="3")
    ship_frame(store, pd.concat([frame, again, other]))
    rows = ShadowRows.read(store, "1", "2", 0.5)
    found = shadow.compare(rows, (5.0, 1.0), 200, 0)
    assert (found["rows"], found["days"], found["from"], found["to"]) == (4, 2, "2026-11-27", "2026-11-28")
    assert found["scored_share"] == pytest.approx(5 / 6)
    assert [group["rows"] for group in found["decisions"]] == [1, 1, 1, 1]
    assert (found["changed_decisions"], found["decline_rate"]) == (0.5, [0.5, 0.5])
    assert found["mean_absolute_difference"] == pytest.approx((0 + 0.4 + 0 + 0.4) / 4)
    assert found["realised"] is None  # four outcomes are too few
    demands = ShadowDemands(days=3, rows=4, max_changed_decisions=0.4, max_psi=0.1)
    assert {check.name for check in shadow.checks(found, demands) if not check.passed} == {
        *("shadow_days", "shadow_decisions", "shadow_psi")
    }
    with pytest.raises(ProjectError, match="no row of version 2 with 4 in its shadow, but of 1 with 2, 3 with 2"):
        ShadowRows.read(store, "2", "4", 0.5)


@pytest.mark.parametrize("better", [0.1, -0.1])
def test_outcomes_decide_which_of_both_is_better(tmp_path: Path, better: float) -> None:
    store = Store(str(tmp_path))
    frame = shadowed(1_000, better)
    ship_frame(store, frame)
    rows = ShadowRows.read(store, "1", "2", THRESHOLD)
    real = shadow.compare(rows, (5.0, 1.0), 200, 0)["realised"]
    labels = frame["label"]
    auc = roc_auc_score(labels, frame["shadow_probability"]) - roc_auc_score(labels, frame["probability"])
    costs = [
        np.where(frame[name] >= THRESHOLD, 1 - labels, 5 * labels).mean()
        for name in ("probability", "shadow_probability")
    ]
    assert real["auc_difference"][0] == pytest.approx(auc)
    assert real["cost_difference"][0] == pytest.approx(costs[1] - costs[0])
    for name in ("auc_difference", "cost_difference"):
        difference, low, high = real[name]
        assert low < difference < high
    failed = [
        check.name
        for check in shadow.checks(shadow.compare(rows, (5.0, 1.0), 200, 0), ShadowDemands(days=3, rows=1_000))
        if not check.passed
    ]
    assert failed == ([] if better > 0 else ["shadow_auc", "shadow_cost"])


@pytest.mark.integration
def test_s3_that_is_away_for_a_while(tmp_path: Path, s3_server: "ThreadedMotoServer") -> None:
    boto3 = pytest.importorskip("boto3")
    host, port = s3_server.get_host_and_port()
    boto3.client("s3").create_bucket(Bucket="shipped")
    store, log = Store("s3://shipped/store"), tmp_path / "log"
    log_file(log, "host-1-a", line(1))
    assert ship(log, store).rows == 1
    log_file(log, "host-1-b", line(2))
    s3_server.stop()
    with pytest.raises(ProjectError, match="s3://shipped/store can't be read or written"):
        ship(log, store)
    server = type(s3_server)(host, port)  # with what it had: moto keeps it in this process
    server.start()
    assert ship(log, store).rows == 1
    assert read_predictions(store, *EVER)[ROW_ID].to_list() == ["id-1", "id-2"]
    server.stop()


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_from_the_log_to_the_page(
    project: Project,
    inside: Callable[[Project], None],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Held-out rows of the training period do not alarm; the same with a field lost do. Outcomes are shown beside."""
    inside(project)
    monkeypatch.setenv("PREDICTION_LOG", str(project.path("log")))
    today = datetime.now(UTC).date()
    holdout = read_holdout("test")
    scores = OnnxScorer.load(project.path("1.data", "5.model", "model.onnx")).score_many(holdout.features)
    records = as_records(holdout.rows)
    lines = [
        line(number, today.isoformat(), version="1", probability=float(score), fields=fields)
        for number, (score, fields) in enumerate(zip(scores, records, strict=True))
    ]
    log_file(project.path("log"), "host-1-a", *lines)
    outcomes = pd.DataFrame(
        {ROW_ID: [f"id-{n}" for n in range(len(lines))], OUTCOME: holdout.labels, "date": str(today)}
    )
    outcomes.to_csv(project.path("outcomes.csv"), index=False)
    project.set_params({"monitor.min_share_change": 1.0, "monitor.min_psi": 0.3, "monitor.min_rows": 10})

    def main(*arguments: str) -> str:
        code = run_script(project, "main.py", *arguments)
        return f"{code} {capfd.readouterr().out}"

    assert main("monitor").startswith("1 ")  # nothing is shipped yet
    assert f"{len(lines):,} predictions of 1 files" in main("log", "ship")
    assert f"{len(lines):,} outcomes" in main("outcomes", str(project.path("outcomes.csv")))
    assert main("monitor").startswith(f"0 {len(lines):,} rows of version 1, 0 alarms")
    written = project.path("6.production", "monitoring")
    result = json.loads((written / "result.json").read_text())
    (period,) = result["periods"]
    assert period["realised"]["roc_auc"][0] == pytest.approx(roc_auc_score(holdout.labels, scores), abs=1e-4)
    assert "monitor_alarm{" in (written / "metrics.prom").read_text()
    assert (written / "page.html").read_text().count("<svg") == 3

    field = CONTRACT.numbers[0]
    moved = [json.loads(text) for text in lines]
    for entry in moved:
        entry["fields"][field.name] = field.maximum
    log_file(project.path("log"), "host-1-b", *map(json.dumps, moved * 2))
    main("log", "ship")
    output = main("monitor")
    assert output.startswith("3 alarm: ")
    assert f"alarm: psi {field.name}" in output
