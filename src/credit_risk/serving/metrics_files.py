"""The files in which each process of a server keeps its metrics, so that any of them can show those of all.

prometheus_client maps the files into memory. A page that the disk has no room for ends the process with SIGBUS, without
a line in the log: so room is allocated when a file is made, and a process that gets none keeps its metrics in memory.
Files that a cleaner of temporary folders deletes are made again.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Counter, Gauge, values

from credit_risk.serving.structured_log import log

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
BYTES = 1 << 19  # of a file, for some 2,000 values
KINDS = ("counter", "gauge_livesum", "gauge_liveall")  # a file for each
_generation = 0
_problem = ""  # why the files could not be made again, as it was logged


def prepare() -> None:
    """Makes this process's files; called before the first metric is made."""
    if DIRECTORY not in os.environ:
        return
    try:
        _allocate()
        values.ValueClass = values.MultiProcessValue(_identifier)  # type: ignore[no-untyped-call]
    except OSError as error:
        log.warning("metrics of this process are kept in memory", reason=str(error))
        del os.environ[DIRECTORY]
        values.ValueClass = values.MutexValue


def restore(metrics: Iterable[Counter | Gauge]) -> None:
    """Makes this process's files again if they were deleted; the metrics keep their values."""
    global _generation, _problem  # noqa: PLW0603 (another generation makes prometheus_client open new files)
    if DIRECTORY not in os.environ or _file(KINDS[0]).exists():
        return
    counted = [
        (metric, sample.labels, sample.value)
        for metric in metrics
        for family in metric.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]
    try:
        _generation += 1
        _allocate()
    except OSError as error:
        _generation -= 1
        if _problem != str(error):
            log.warning("metrics can't be written", reason=str(error))
        _problem = str(error)
        return
    for metric, labels, value in counted:
        (metric.labels(**labels) if labels else metric).inc(value)
    _problem = ""
    log.warning("the files of the metrics were deleted and are made again", folder=os.environ[DIRECTORY])


def check_space(folder: Path) -> None:
    """Raises OSError if a folder has no room for the metrics of a process."""
    for kind in KINDS:
        _fill(folder / f"{kind}_0.probe")
        (folder / f"{kind}_0.probe").unlink()


def _identifier() -> str:
    """Identifies this process and its files to prometheus_client; the process id comes last."""
    return f"{_generation}.{os.getpid()}"


def _file(kind: str) -> Path:
    return Path(os.environ[DIRECTORY]) / f"{kind}_{_identifier()}.db"


def _allocate() -> None:
    Path(os.environ[DIRECTORY]).mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        _fill(_file(kind))


def _fill(path: Path) -> None:
    with path.open("xb") as file:
        file.write(bytes(BYTES))
