"""Outcome files: what a version answered on a dataset version, right or wrong, by example.

Not their making (`updater.evaluate`) nor their judging (`updater.gate`).
"""

import pyarrow as pa
import pyarrow.parquet as pq

from store.ledger import Score
from updater.workspace import Workspace


def outcomes(workspace: Workspace, score: Score) -> list[tuple[str, bool]]:
    """(example id, right or wrong) for every holdout example behind `score`."""
    table = pq.read_table(workspace.root / score.outcomes, columns=["id", "correct"])
    return list(zip(table["id"].to_pylist(), table["correct"].to_pylist(), strict=True))


def holdout(workspace: Workspace, dataset_version: str) -> pa.Table:
    """The holdout examples of a dataset version."""
    return pq.read_table(workspace.datasets.path(dataset_version, "holdout.parquet"))
