"""Step ingest: a period's rows become one dataset version.

Called by `updater.pipeline` when it opens an update, and by `updater ingest PERIOD` alone. The
reading, checking and writing of rows is `updater.ingest`'s.
"""

import dataclasses
import shutil
from datetime import UTC, datetime
from pathlib import Path

from store.ledger import DatasetVersion
from updater.progress import Progress
from updater.workspace import Workspace


def version_period(workspace: Workspace, period: str) -> DatasetVersion:
    """The period's rows, pulled from the source now, are a dataset version in the ledger.

    The same rows as the newest version of the period give that version again.

    Raises:
        InputError: an unknown period, a source that is gone or empty, a changed schema.
        StoreError: the data repository can't be written.
    """
    from updater.ingest import ingest

    workspace.periods.check(period)
    staging = workspace.root / f".staging-{period}"
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir()
    try:
        with Progress(f"ingest {period}", None, unit="rows", shown=workspace.progress) as shown:
            summary = ingest(
                workspace.settings,
                workspace.root,
                period,
                staging,
                past_holdouts=_past_holdouts(workspace, period),
                expected_schema=_expected_schema(workspace, period),
                progress=shown.reach,
            )
        commit = workspace.datasets.commit(period, staging, f"Period {period}")
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    if workspace.settings.store.dvc_remote:
        workspace.datasets.push([commit.version])
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


def _earlier(workspace: Workspace, period: str) -> list[DatasetVersion]:
    """The newest dataset version of every period before this one, oldest period first.

    Only earlier periods bear on a period, so that ingesting it again later gives the same rows.
    """
    newest = {d.period: d for d in workspace.ledger.dataset_versions()}
    ordinal = workspace.periods.ordinal
    earlier = [p for p in newest if ordinal(p) < ordinal(period)]
    return [newest[p] for p in sorted(earlier, key=ordinal)]


def _past_holdouts(workspace: Workspace, period: str) -> list[Path]:
    datasets = workspace.datasets
    return [datasets.path(d.id, "holdout.parquet") for d in _earlier(workspace, period)]


def _expected_schema(workspace: Workspace, period: str) -> dict[str, str] | None:
    earlier = _earlier(workspace, period)
    return earlier[-1].schema if earlier else None
