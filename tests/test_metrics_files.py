"""The files of the metrics: room is allocated at once, and deleted ones are made again, with their values."""

import os
import subprocess
import sys
from pathlib import Path

from credit_risk.serving import metrics_files

COUNTS = """
import os, re, shutil
from credit_risk.serving import prometheus
prometheus.REGISTRY_CHECKS.labels("failed").inc(3)
prometheus.IN_FLIGHT.set(5)
prometheus.PROBABILITIES.values().extend([0.3, 0.7])
prometheus.flush()

def shown():
    names = rb"^(?:registry_checks_total|http_requests_in_flight|prediction_probability).*"
    return sorted(re.findall(names, prometheus.render(), re.M))

before = shown()
assert b'registry_checks_total{result="failed"} 3.0' in before, before
assert b"prediction_probability_count 2.0" in before, before
"""


def run(code: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {metrics_files.DIRECTORY: str(folder)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_deleted_files_are_made_again_with_their_values(tmp_path: Path) -> None:
    code = (
        "shutil.rmtree(os.environ['PROMETHEUS_MULTIPROC_DIR'])\n"
        "assert shown() == before, shown()\n"
        "prometheus.REGISTRY_CHECKS.labels('failed').inc()\n"
        "assert b'registry_checks_total{result=\"failed\"} 4.0' in shown()\n"
    )
    done = run(COUNTS + code, tmp_path / "metrics")
    assert done.returncode == 0, done.stderr
    assert "the files of the metrics were deleted and are made again" in done.stderr
    sizes = {path.stat().st_blocks * 512 for path in (tmp_path / "metrics").iterdir()}
    assert min(sizes) >= metrics_files.BYTES  # no page of them is still to be allocated


def test_without_room_metrics_are_kept_in_memory() -> None:
    done = run(COUNTS, Path("/sys/metrics"))  # where nobody can make a file
    assert done.returncode == 0, done.stderr
    assert "metrics of this process are kept in memory" in done.stderr
