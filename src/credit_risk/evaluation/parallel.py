"""Independent fits in parallel, one thread each.

Threads of one fit wait for each other at every step: on a busy machine that costs several times the work, and sums
depend on how rows are divided. Independent fits share nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

from joblib import Parallel, cpu_count, delayed

MAX_FITS = 4  # at a time: each has a copy of its rows in memory


def in_parallel(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results of all jobs in their order; as many run at a time as there are processors, at most MAX_FITS.

    They run as threads of this process, because scikit-learn's fits release the interpreter lock.
    """
    workers = min(len(jobs), cpu_count(), MAX_FITS)
    found: list[Any] = Parallel(workers, prefer="threads")(delayed(job)() for job in jobs)
    return found
