"""Step evaluate: candidate, base and best versions have an outcome for every holdout example.

Outcomes are files, one per checkpoint and dataset version, so that no version is ever scored
twice on the same examples. Then the exported candidate is loaded in a clean process and must
answer alike (`updater.verify`): an event "verified" says that it did.
"""

import logging
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from store.errors import NotFoundError
from store.ledger import ModelVersion, Score, Update
from updater.outcomes import counted
from updater.steps.past import past_versions
from updater.steps.student import answers, checkpoint_of
from updater.steps.verification import verify_version
from updater.stopwatch import Stopwatch
from updater.workspace import Workspace

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger("updater")


def run(workspace: Workspace, update: Update) -> dict[str, Any]:
    """The candidate, its base and what it may be compared with as the best so far are scored."""
    candidate = workspace.ledger.model_version(_candidate(workspace, update))
    versions = candidate.dataset_versions
    watch = Stopwatch()
    if update.base is not None:
        score(workspace, workspace.ledger.model_version(update.base), versions, watch)
        _score_deployed(workspace, past_versions(workspace, update), watch)
    scores = score(workspace, candidate, versions, watch)
    num_verified = verify_version(workspace, candidate, watch)
    return {
        "accuracy": {s.period: s.accuracy for s in scores},
        "num_verified": num_verified,
        "compute_seconds": watch.seconds,
    }


def score(
    workspace: Workspace,
    version: ModelVersion,
    dataset_versions: dict[str, str],
    watch: Stopwatch | None = None,
) -> list[Score]:
    """`version` has a score on each of these dataset versions; what it has already is kept.

    `watch` is told how long the forward passes took, here and in `verify_version`.
    """
    missing = unscored(workspace, version, dataset_versions)
    if missing:
        workspace.ledger.record_scores(_measure(workspace, version, missing, watch or Stopwatch()))
    known = {s.dataset_version: s for s in workspace.ledger.scores(version=version.id)}
    return [known[d] for d in dataset_versions.values()]


def unscored(
    workspace: Workspace, version: ModelVersion, dataset_versions: dict[str, str]
) -> dict[str, str]:
    """Those of these dataset versions, with their periods, on which `version` has no score with
    its outcomes."""
    known = {s.dataset_version: s for s in workspace.ledger.scores(version=version.id)}
    wanted = {d: p for p, d in dataset_versions.items()}
    return {d: p for d, p in wanted.items() if not _whole(workspace, known.get(d))}


def _score_deployed(workspace: Workspace, past: dict[str, str], watch: Stopwatch) -> None:
    """What was ever deployed has a score on the past periods' present data where it had one on
    older: best so far is who answers the same examples best."""
    ledger = workspace.ledger
    for version in ledger.ever_deployed():
        known = ledger.scores(version=version)
        periods, datasets = {s.period for s in known}, {s.dataset_version for s in known}
        again = {p: d for p, d in past.items() if p in periods and d not in datasets}
        try:
            score(workspace, ledger.model_version(version), again, watch)
        except NotFoundError as gone:
            log.warning("version %s is compared with no longer: %s", version, gone)


def mend(workspace: Workspace, version: ModelVersion) -> None:
    """Behind every score of `version` stand the outcomes that it counts.

    What is missing or broken is measured again, with the same outcome on the same machine; with
    another one the score stays, and the ledger refuses.

    Raises:
        ConflictError: it is measured otherwise now.
    """
    scores = workspace.ledger.scores(version=version.id)
    broken = {s.dataset_version: s.period for s in scores if not _whole(workspace, s)}
    if broken:
        workspace.ledger.record_scores(_measure(workspace, version, broken, Stopwatch()))


def _candidate(workspace: Workspace, update: Update) -> str:
    step = workspace.ledger.step(update.id, "train")
    assert step is not None, "the pipeline runs train first"
    return str(step.result["version"])


def _whole(workspace: Workspace, known: Score | None) -> bool:
    if known is None:
        return False
    is_whole = counted(workspace, known) is not None
    if not is_whole:
        log.warning("%s is missing or broken; it is measured again", known.outcomes)
    return is_whole


def _measure(
    workspace: Workspace,
    version: ModelVersion,
    dataset_versions: dict[str, str],
    watch: Stopwatch,
) -> list[Score]:
    """The scores on `dataset_versions` (dataset version -> period), their outcomes written."""
    holdouts = {
        dataset_version: pq.read_table(workspace.datasets.path(dataset_version, "holdout.parquet"))
        for dataset_version in dataset_versions
    }
    who = checkpoint_of(workspace, version.id)
    said = answers(workspace, who, holdouts, watch, progress=workspace.progress)
    scores = []
    for dataset_version, period in dataset_versions.items():
        table = said[dataset_version]
        path = workspace.root / "outcomes" / f"{version.digest[:16]}-{dataset_version}.parquet"
        _write(path, table)
        scores.append(
            Score(
                version=version.id,
                period=period,
                dataset_version=dataset_version,
                num_correct=sum(table["correct"].to_pylist()),
                num_examples=table.num_rows,
                outcomes=str(path.relative_to(workspace.root)),
                created_at=workspace.ledger.now(),
            )
        )
    return scores


def _write(path: "Path", table: pa.Table) -> None:
    path.parent.mkdir(exist_ok=True)
    staged = path.with_name(f".{path.name}")
    pq.write_table(table, staged)
    staged.replace(path)
