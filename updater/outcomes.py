"""Outcome files: what a version answered on a dataset version, right or wrong, by example.

Not their making (`updater.evaluate`) nor their judging (`updater.gate`).
"""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from store.ledger import Score
from updater.errors import UpdateError
from updater.workspace import Workspace


def outcomes(workspace: Workspace, score: Score) -> list[tuple[str, bool]]:
    """(example id, right or wrong) for every holdout example behind `score`.

    Raises:
        UpdateError: the file is missing or broken. A verdict never rests on half of it.
    """
    table = counted(workspace, score)
    if table is None:
        raise UpdateError(
            f"{workspace.root / score.outcomes} is missing or broken: it has not the "
            f"{score.num_examples} outcomes, {score.num_correct} of them right, that version "
            f"{score.version} was scored by; `updater evaluate {score.version}` measures it again"
        )
    return list(zip(table["id"].to_pylist(), table["correct"].to_pylist(), strict=True))


def counted(workspace: Workspace, score: Score) -> pa.Table | None:
    """The outcomes that `score` counts; None where the file is missing, broken or another's.

    Raises:
        OSError: the disk or its rights refuse.
    """
    try:
        table = pq.read_table(workspace.root / score.outcomes)
        counts = (table.num_rows, table["correct"].to_pylist().count(True))
    except FileNotFoundError:
        return None
    except (pa.ArrowException, KeyError, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the system's own: the contents are not at fault
        return None
    return table if counts == (score.num_examples, score.num_correct) else None


def holdout(workspace: Workspace, dataset_version: str) -> pa.Table:
    """The holdout examples of a dataset version."""
    return pq.read_table(workspace.datasets.path(dataset_version, "holdout.parquet"))


def scores_on(
    workspace: Workspace, dataset_versions: Mapping[str, str]
) -> dict[tuple[str, str], Score]:
    """(version, period) -> score on that period's dataset version, of the versions that have one.

    An old period's data may have been versioned again since: only scores on the same examples can
    be compared.
    """
    return {
        (score.version, score.period): score
        for score in workspace.ledger.scores()
        if dataset_versions.get(score.period) == score.dataset_version
    }
