"""The data of a study's stream: each period's train and holdout files, immutable.

What a workspace has versioned is read as it is; what it has not is ingested as `updater ingest`
does. For validation, train examples are held back in the holdout's place: the holdout itself is
never looked at. Called by `updater.study.conduct`.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from updater.errors import InputError
from updater.ingest.write import ROW_GROUP_ROWS
from updater.steps.ingest import version_period
from updater.study.plan import Span, Validation
from updater.workspace import Workspace


@dataclass(frozen=True)
class PeriodData:
    """One period's examples: `train` and `holdout` are Parquet files, `num_train` the rows of the
    first. `digest` decides what is in them."""

    period: str
    digest: str
    train: Path
    holdout: Path
    num_train: int


@dataclass(frozen=True)
class Stream:
    """The periods of `span` with their data."""

    span: Span
    data: Mapping[str, PeriodData]

    @property
    def digests(self) -> list[tuple[str, str]]:
        """(period, digest) of all periods in order: what decides what is learnt and scored."""
        return [(period, self.data[period].digest) for period in self.span.periods]

    def train(self, period: str) -> pa.Table:
        """The period's train examples."""
        return pq.read_table(self.data[period].train)

    def holdout(self, period: str) -> pa.Table:
        """The period's holdout examples."""
        return pq.read_table(self.data[period].holdout)


def of_workspace(workspace: Workspace, span: Span) -> Stream:
    """The stream with the newest dataset version of each period; those without are ingested.

    Raises:
        InputError: a period has not closed, has no train or no holdout examples, or as
            `version_period`.
        UpdateError: another command is at work in the workspace.
    """
    newest = {version.period: version for version in workspace.ledger.dataset_versions()}
    missing = [period for period in span.periods if period not in newest]
    for period in missing:  # before any of them is ingested
        workspace.periods.check_closed(period, workspace.ledger.now())
    if missing:
        with workspace.lock():
            newest |= {period: version_period(workspace, period) for period in missing}
    data = {}
    for period in span.periods:
        version = newest[period]
        if not (version.num_train and version.num_holdout):
            raise InputError(
                f"period {period} has {version.num_train} train and {version.num_holdout} holdout "
                f"examples ({version.id})",
                "a study learns the one and scores the other",
                "leave it out of the stream, or see periods.holdout_fraction",
            )
        train, holdout = (
            workspace.datasets.path(version.id, f"{name}.parquet") for name in ("train", "holdout")
        )
        data[period] = PeriodData(period, version.digest, train, holdout, version.num_train)
    return Stream(span, data)


def held_back(stream: Stream, validation: Validation, folder: Path) -> Stream:
    """The same periods, with `holdout_fraction` of each one's train examples as its holdout, and
    learnt without them. The files are in `folder`.

    An example's key is a uniform 64-bit hash of its id: those below the fraction are held back, the
    same ones whenever it is asked for.

    Raises:
        InputError: a period has too few train examples for both.
        OSError: the disk refuses.
    """
    fraction = validation.holdout_fraction
    data = {}
    for period in stream.span.periods:
        digest = f"{stream.data[period].digest}-{fraction!r}"
        target = folder / digest
        if not target.exists():
            _split(stream.train(period), fraction, target)
        paths = [target / f"{name}.parquet" for name in ("train", "holdout")]
        train, holdout = (pq.read_metadata(path).num_rows for path in paths)
        if not (train and holdout):
            raise InputError(
                f"of period {period} {train} train examples are left and {holdout} held back",
                "a validation stream needs some of both",
                "change validation.holdout_fraction, or the periods of [validation]",
            )
        data[period] = PeriodData(period, digest, paths[0], paths[1], train)
    return Stream(stream.span, data)


def _split(train: pa.Table, fraction: float, target: Path) -> None:
    """`target` holds both parts, or is not there."""
    is_held = pc.less(train["key"], pa.scalar(int(fraction * 2**64), pa.uint64()))
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        for name, rows in (("train", pc.invert(is_held)), ("holdout", is_held)):
            table = train.filter(rows)
            pq.write_table(table, partial / f"{name}.parquet", row_group_size=ROW_GROUP_ROWS)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
