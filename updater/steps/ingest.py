"""Step ingest: a period's rows become one dataset version.

Called by `updater.pipeline` when it opens an update, and by `updater ingest PERIOD` alone. The
reading, checking and writing of rows is `updater.ingest`'s.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from store.errors import NotFoundError
from store.ledger import DatasetVersion
from updater.progress import Progress
from updater.workspace import Workspace

if TYPE_CHECKING:
    from updater.ingest import Ingested, Summary

log = logging.getLogger("updater")


def version_period(workspace: Workspace, period: str) -> DatasetVersion:
    """The period's rows, pulled from the source now, are a dataset version in the ledger.

    The same rows as the newest version of the period give that version again, whatever rows of
    other periods, or of none that is known, have come to the source since.

    No prompt is trained on in the newest version of one period and held out in that of another:
    of two periods the one that is versioned later yields. A period that has not closed yet is
    versioned as it stands, with a warning.

    Raises:
        InputError: an unknown period, a source that is gone or empty, a changed schema.
        StoreError: the data repository can't be written.
    """
    if not workspace.periods.closed(period, workspace.ledger.now()):
        log.warning(
            "period %s has not closed yet (it ends %s): only its rows so far are read",
            *(period, workspace.periods.end_shown(period)),
        )
    staging = workspace.root / f".staging-{period}"
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir()
    newest = next(reversed(workspace.ledger.dataset_versions(period)), None)
    try:
        done = _ingest(workspace, period, staging, _rows_digest(workspace, newest))
        if done.summary:
            version = _versioned(workspace, done.summary, staging)
        else:
            assert newest, "only the rows of a version are known"
            version = newest
            _push(workspace, version.id)
        _tell(workspace, version, done, staging)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return version


def _ingest(workspace: Workspace, period: str, staging: Path, rows_digest: str) -> Ingested:
    from updater.ingest import Known, ingest

    earlier, later = _others(workspace, period)
    path = workspace.datasets.path
    others = [*earlier, *(other for other in later if _is_whole(workspace, other))]
    known = Known(
        rows_digest=rows_digest,
        schema=earlier[-1].schema if earlier else {},
        trains=[path(other.id, "train.parquet") for other in others],
        holdouts=[path(other.id, "holdout.parquet") for other in others],
    )
    with Progress(f"ingest {period}", None, unit="rows", shown=workspace.progress) as shown:
        return ingest(
            workspace.settings, workspace.root, period, staging, known=known, progress=shown.reach
        )


def _others(workspace: Workspace, period: str) -> tuple[list[DatasetVersion], list[DatasetVersion]]:
    """The newest dataset versions of the periods before this one, and of those after, in order."""
    ordinal = workspace.periods.ordinal
    newest = {d.period: d for d in workspace.ledger.dataset_versions() if d.period != period}
    others = sorted(newest.values(), key=lambda other: ordinal(other.period))
    num_earlier = sum(ordinal(other.period) < ordinal(period) for other in others)
    return others[:num_earlier], others[num_earlier:]


def _is_whole(workspace: Workspace, later: DatasetVersion) -> bool:
    """Whether a later period's examples are there. Where they are lost, an earlier period must be
    made anew without them; they have to be made anew too, and are compared then."""
    try:
        for name in ("train.parquet", "holdout.parquet"):
            workspace.datasets.path(later.id, name)
    except NotFoundError as error:
        log.warning("not compared with %s: %s", later.id, error)
        return False
    return True


def _rows_digest(workspace: Workspace, version: DatasetVersion | None) -> str:
    """Of the version's rows; empty where there is none, or where some of it is lost or was written
    by another release: then it is made anew."""
    from updater.ingest import FILES, Summary

    if version is None:
        return ""
    try:
        paths = {name: workspace.datasets.path(version.id, name) for name in FILES}
        return Summary.read(paths["summary.json"]).rows_digest
    except (NotFoundError, ValueError, TypeError) as error:
        log.warning("%s is made anew: %s", version.id, error)
        return ""


def _tell(workspace: Workspace, version: DatasetVersion, done: Ingested, staging: Path) -> None:
    """What this ingest read is in the log; broken rows that no version holds are in a file."""
    reading = done.reading
    state = "new" if done.summary else "unchanged"
    log.info(
        "%s is %s: %d rows read, %d of other periods",
        *(version.id, state, reading.num_rows_read, reading.num_skipped),
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


def _unplaced(workspace: Workspace, version: DatasetVersion, done: Ingested, staging: Path) -> Path:
    """Where the broken rows that may be of any period can be read: a new version has them in its
    quarantine; an unchanged one may be older than they are."""
    if done.summary:
        return workspace.quarantine(version)
    from updater.ingest import UNPLACED_FILE

    kept = workspace.root / "cache" / "unplaced" / f"{version.id}.parquet"
    kept.parent.mkdir(parents=True, exist_ok=True)
    return (staging / UNPLACED_FILE).replace(kept)


def _versioned(workspace: Workspace, summary: Summary, staging: Path) -> DatasetVersion:
    """What is in `staging` is a dataset version in the ledger."""
    period = summary.period
    commit = workspace.datasets.commit(period, staging, f"Period {period}")
    _push(workspace, commit.version)
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
        created_at=ledger.now(),
    )
    ledger.record_dataset_version(version)
    return ledger.dataset_version(commit.version)


def _push(workspace: Workspace, version: str) -> None:
    if workspace.settings.store.dvc_remote:
        workspace.datasets.push([version])
