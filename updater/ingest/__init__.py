"""Step ingest: a period's rows become train.parquet, holdout.parquet and quarantine.parquet.

Not the versioning (`store.datasets`) nor the ledger: the caller, `updater.steps.ingest`, commits
what this leaves in a folder of its own. The parts: `rows` maps one row, `spool` judges all rows
together, `write` makes the files, `schema` notices that the source changed, and `usable` that the
rows are too few or too bad.
"""

import shutil
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import duckdb

from updater.errors import InputError, UpdateError
from updater.ingest.known import Known
from updater.ingest.rows import Mapper
from updater.ingest.schema import check_present, check_unchanged, schema_of
from updater.ingest.spool import QUARANTINE_SCHEMA, Spool, is_holdout, key_of
from updater.ingest.summary import SUMMARY_FILE, Reading, Summary
from updater.ingest.usable import check_usable
from updater.ingest.write import EXAMPLES, MESSAGES, STRATUM, write_parquet
from updater.periods import Periods
from updater.settings import Settings
from updater.sources import open_source

__all__ = [
    "FILES",
    "UNPLACED_FILE",
    "Ingested",
    "Known",
    "Reading",
    "Summary",
    "ingest",
    "is_holdout",
    "key_of",
]

SPOOL = ".spool"
QUARANTINE = "quarantine.parquet"
FILES = ("train.parquet", "holdout.parquet", QUARANTINE, SUMMARY_FILE)
UNPLACED_FILE = "unplaced.parquet"
UNWRITABLE = (OSError, duckdb.OperationalError, duckdb.FatalException)


class Ingested(NamedTuple):
    """`summary` is None where the period's rows are those of its newest version."""

    reading: Reading
    summary: Summary | None


def ingest(
    settings: Settings,
    workspace: Path,
    period: str,
    staging: Path,
    *,
    known: Known | None = None,
    progress: Callable[[int], None] | None = None,
) -> Ingested:
    """`staging` holds the period's data and, written last, its summary.json; or, where the rows
    are those of `known`, unplaced.parquet alone.

    The bytes of train.parquet and holdout.parquet depend on the rows, not on their order in the
    source. Rows that are broken beyond knowing their period are quarantined with this one's, but
    do not tell its rows from others.

    Args:
        settings: of the workspace.
        workspace: its folder, to which `source.uri` is relative.
        period: which one.
        staging: an empty folder; it is empty again after an error.
        known: what is versioned already.
        progress: called with the number of all rows read so far, now and then.

    Raises:
        InputError: an unknown period; a source that is gone, empty for this period, mostly bad,
            or changed since `known`.
        UpdateError: a database or remote place can't be reached, or the disk is full.
    """
    periods = Periods(settings.periods)
    periods.check(period)
    staging.mkdir(parents=True, exist_ok=True)
    if any(staging.iterdir()):
        raise InputError(f"{staging} is not empty", "ingest writes to an empty folder", "delete it")
    mapper = Mapper(settings, periods, period)
    try:
        with closing(_open_spool(settings, staging / SPOOL)) as spool:
            for batch in open_source(settings.source, workspace, periods=periods, period=period):
                spool.add(*mapper.map(batch))
                if progress:
                    progress(mapper.num_rows)
            is_split_given = bool(settings.source.fields.split)
            done = _made(
                *(mapper, spool, staging, known or Known()),
                is_split_given=is_split_given,
                report=workspace / "cache" / "refused" / f"{period}.parquet",
            )
        shutil.rmtree(staging / SPOOL)
        if done.summary:
            done.summary.write(staging)
    except BaseException as error:
        _empty(staging)
        if isinstance(error, UNWRITABLE):
            reason = str(error).splitlines()[0]
            raise UpdateError(f"period {period} can't be written to {staging}: {reason}") from error
        raise
    return done


def _open_spool(settings: Settings, folder: Path) -> Spool:
    folder.mkdir()
    by = settings.periods
    return Spool(folder, salt=by.salt, holdout_fraction=by.holdout_fraction)


def _made(
    mapper: Mapper,
    spool: Spool,
    staging: Path,
    known: Known,
    *,
    is_split_given: bool,
    report: Path,
) -> Ingested:
    """What all rows together are is in `staging`; or, where they are refused, the quarantined ones
    are in the file `report`."""
    reading = _reading(mapper, spool)
    rows_digest = spool.digest()
    if rows_digest == known.rows_digest:
        write_parquet(staging / UNPLACED_FILE, spool.unplaced(), QUARANTINE_SCHEMA)
        return Ingested(reading, None)
    schema = _checked_schema(mapper, known.schema)
    spool.compare(known.trains, holdout=False)
    spool.compare(known.holdouts, holdout=True)
    summary = _summary(mapper.period, spool, rows_digest, schema)
    write_parquet(staging / QUARANTINE, spool.quarantined(), QUARANTINE_SCHEMA)
    try:
        check_usable(reading, summary, spool.faults(), is_split_given=is_split_given)
    except InputError as error:
        if not summary.num_quarantined:
            raise
        report.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(staging / QUARANTINE, report)
        told = f"all {summary.num_quarantined} quarantined rows, as Parquet: {report}"
        raise InputError(error.what, error.rule, f"{error.cure}; {told}") from None
    examples = EXAMPLES.append(STRATUM) if mapper.has_strata else EXAMPLES
    examples = examples.append(MESSAGES) if mapper.has_messages else examples
    write_parquet(staging / "train.parquet", spool.examples(holdout=False), examples)
    write_parquet(staging / "holdout.parquet", spool.examples(holdout=True), examples)
    return Ingested(reading, summary)


def _reading(mapper: Mapper, spool: Spool) -> Reading:
    return Reading(
        num_rows_read=mapper.num_rows,
        num_skipped=mapper.num_skipped,
        num_unplaced=spool.num_unplaced(),
        num_unknown_periods=mapper.num_unknown_periods,
        unknown_periods=tuple(mapper.unknown_periods),
    )


def _checked_schema(mapper: Mapper, expected: Mapping[str, str]) -> dict[str, str]:
    check_present(mapper.types + mapper.other_types, mapper.existing, expected)
    schema = schema_of(mapper.types)
    check_unchanged(schema, expected)
    return schema


def _summary(period: str, spool: Spool, rows_digest: str, schema: dict[str, str]) -> Summary:
    counts = spool.settle()
    return Summary(
        period=period,
        **counts._asdict(),
        num_quarantined=spool.num_quarantined(),
        num_unplaced=spool.num_unplaced(),
        rows_digest=rows_digest,
        schema=schema,
    )


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
