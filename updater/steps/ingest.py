"""Step ingest: a period's rows become one dataset version.

Called by `updater.pipeline` when it opens an update, and by `updater ingest PERIOD` alone. The
reading, checking and writing of rows is `updater.ingest`'s.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from store.errors import NotFoundError
from store.ledger import DatasetVersion
from updater.progress import bar
from updater.workspace import Workspace

if TYPE_CHECKING:
    from store.datasets import DatasetCommit
    from updater.ingest import Ingested, Summary

log = logging.getLogger("updater")


def version_period(workspace: Workspace, period: str) -> DatasetVersion:
    """The period's rows, pulled from the source now, are a dataset version in the ledger.

    The same rows as the newest version of the period give that version again, whatever rows of
    other periods, or of none that is known, have come to the source since.

    Raises:
        InputError: an unknown period, a source that is gone or empty, a changed schema.
        StoreError: the data repository can't be written.
    """
    workspace.periods.check(period)
    staging = workspace.root / f".staging-{period}"
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir()
    newest = _newest(workspace, period)
    try:
        done = _ingest(workspace, period, staging, newest[1].rows_digest if newest else "")
        if done.summary:
            commit = workspace.datasets.commit(period, staging, f"Period {period}")
            summary = done.summary
        else:
            assert newest, "only the rows of a version are known"
            commit, summary = newest
        _tell(workspace, commit.version, done, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if workspace.settings.store.dvc_remote:
        workspace.datasets.push([commit.version])
    return _recorded(workspace, commit, summary)


def _ingest(workspace: Workspace, period: str, staging: Path, rows_digest: str) -> Ingested:
    from updater.ingest import Known, ingest

    earlier = _earlier(workspace, period)
    known = Known(
        rows_digest=rows_digest,
        schema=earlier[-1].schema if earlier else {},
        holdouts=[workspace.datasets.path(d.id, "holdout.parquet") for d in earlier],
    )
    with bar(f"rows of {period}", None, shown=workspace.progress) as progress:
        return ingest(
            workspace.settings, workspace.root, period, staging, known=known, progress=progress
        )


def _newest(workspace: Workspace, period: str) -> tuple[DatasetCommit, Summary] | None:
    """The newest version of the period and its summary; None where there is none, or where some of
    it is lost or was written by another release: then it is made anew."""
    from updater.ingest import FILES, Summary

    commit = workspace.datasets.newest(period)
    if commit is None:
        return None
    try:
        paths = {name: workspace.datasets.path(commit.version, name) for name in FILES}
        return commit, Summary.read(paths["summary.json"])
    except (NotFoundError, ValueError, TypeError) as error:
        log.warning("%s is made anew: %s", commit.version, error)
        return None


def _tell(workspace: Workspace, version: str, done: Ingested, staging: Path) -> None:
    """What this ingest read is in the log; broken rows that no version holds are in a file."""
    reading = done.reading
    state = "new" if done.summary else "unchanged"
    log.info(
        "%s is %s: %d rows read, %d of other periods",
        *(version, state, reading.num_rows_read, reading.num_skipped),
    )
    if reading.num_unknown_periods:
        log.warning(
            "%d rows are of periods that are not in periods.order: %s",
            *(reading.num_unknown_periods, ", ".join(reading.unknown_periods)),
        )
    if reading.num_unplaced:
        log.warning(
            "%d broken rows may be of any period; they stand in %s",
            *(reading.num_unplaced, _unplaced(workspace, version, done, staging)),
        )


def _earlier(workspace: Workspace, period: str) -> list[DatasetVersion]:
    """The newest dataset version of every period before this one, oldest period first."""
    newest = {d.period: d for d in workspace.ledger.dataset_versions()}
    ordinal = workspace.periods.ordinal
    earlier = [p for p in newest if ordinal(p) < ordinal(period)]
    return [newest[p] for p in sorted(earlier, key=ordinal)]


def _unplaced(workspace: Workspace, version: str, done: Ingested, staging: Path) -> Path:
    """Where the broken rows that may be of any period can be read: a new version has them in its
    quarantine; an unchanged one may be older than they are."""
    if done.summary:
        return workspace.datasets.path(version, "quarantine.parquet")
    from updater.ingest import UNPLACED_FILE

    kept = workspace.root / "cache" / "unplaced" / f"{version}.parquet"
    kept.parent.mkdir(parents=True, exist_ok=True)
    return (staging / UNPLACED_FILE).replace(kept)


def _recorded(workspace: Workspace, commit: DatasetCommit, summary: Summary) -> DatasetVersion:
    """The dataset version is in the ledger."""
    period = summary.period
    start_at, end_at = workspace.periods.bounds(period) or (None, None)
    ledger = workspace.ledger
    ledger.record_period(period, workspace.periods.ordinal(period), start_at, end_at)
    known = {field.name for field in dataclasses.fields(DatasetVersion)}
    counts = {k: v for k, v in dataclasses.asdict(summary).items() if k in known}
    version = DatasetVersion(
        **counts,
        id=commit.version,
        commit=commit.commit,
        digest=commit.digest,
        created_at=datetime.now(UTC),
    )
    ledger.record_dataset_version(version)
    return ledger.dataset_version(commit.version)
