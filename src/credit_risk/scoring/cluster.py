"""The same job on a Dask cluster: a task for each piece, repeated elsewhere when its worker dies.

Workers need this project in the same place, its packages with the group `cluster`, and the input and output.
"""

from distributed import Client, as_completed

from credit_risk.core.errors import ProjectError
from credit_risk.scoring.inputs import Piece
from credit_risk.scoring.job import Job, Report, score_pieces

RETRIES = 3  # of a task that fails


def score_on_cluster(scheduler: str, job: Job, pieces: list[Piece], report: Report) -> None:
    """Scores all pieces on the cluster; `report` is called after each.

    Raises:
        ProjectError: the scheduler does not answer, or a task fails again and again.
    """
    try:
        client = Client(scheduler, timeout="10s")  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ProjectError(f"the Dask scheduler at {scheduler} does not answer: {error}") from error
    with client:
        futures = client.map(_score_piece, [job] * len(pieces), pieces, pure=False, retries=RETRIES)
        sizes = {future.key: piece.size for future, piece in zip(futures, pieces, strict=True)}
        for future in as_completed(futures):  # type: ignore[no-untyped-call]
            if future.status != "finished":
                raise ProjectError(f"a task of the cluster failed: {future.exception()}; run the command again")
            report(future.result(), sizes[future.key])


def _score_piece(job: Job, piece: Piece) -> int:
    """Scores a piece on a worker; returns the rows it scored."""
    rows = 0

    def count(scored: int, _: float) -> None:
        nonlocal rows
        rows += scored

    score_pieces(job, [piece], count, threads=1)
    return rows
