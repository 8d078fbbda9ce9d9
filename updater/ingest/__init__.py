"""Step ingest: a period's rows become train.parquet, holdout.parquet and quarantine.parquet.

Not the versioning (`store.datasets`) nor the ledger: the caller, `updater.steps.ingest`, commits
what this leaves in a folder of its own. The parts: `rows` maps one row, `spool` judges all rows
together, `write` makes the files, `schema` notices that the source changed.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import duckdb

from updater.errors import InputError, UpdateError
from updater.ingest.rows import Mapper
from updater.ingest.schema import check_present, check_unchanged, schema_of
from updater.ingest.spool import QUARANTINE_SCHEMA, Counts, Spool, is_holdout, key_of
from updater.ingest.summary import Summary
from updater.ingest.write import EXAMPLES, write_parquet
from updater.periods import Periods
from updater.settings import Settings
from updater.sources import open_source

__all__ = ["Summary", "ingest", "is_holdout", "key_of"]

# Chosen, not measured: bad rows are an accident; where they are most, the mapping is wrong.
MAX_QUARANTINED_FRACTION = 0.5
SPOOL = ".spool"
UNWRITABLE = (OSError, duckdb.OperationalError, duckdb.FatalException)


def ingest(
    settings: Settings,
    workspace: Path,
    period: str,
    staging: Path,
    *,
    past_holdouts: Sequence[Path] = (),
    expected_schema: Mapping[str, str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Summary:
    """`staging` holds the period's data and, written last, its summary.json.

    The bytes of train.parquet, holdout.parquet and summary.json depend on the rows, not on their
    order in the source. Rows that are broken beyond knowing their period count as this one's.

    Args:
        settings: of the workspace.
        workspace: its folder, to which `source.uri` is relative.
        period: which one.
        staging: an empty folder; it is empty again after an error.
        past_holdouts: holdout.parquet files of past periods; no train example has their prompts.
        expected_schema: the schema of an earlier period's summary.
        progress: called with the number of rows read so far, now and then.

    Raises:
        InputError: an unknown period; a source that is gone, empty for this period, mostly bad,
            or changed since `expected_schema`.
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
            schema = _checked_schema(mapper, expected_schema or {})
            spool.hold(past_holdouts)
            summary = _summary(mapper, spool.settle(), spool.num_quarantined(), schema)
            _check_usable(summary, spool, is_split_given=bool(settings.source.fields.split))
            _write(spool, staging)
        shutil.rmtree(staging / SPOOL)
        summary.write(staging)
    except BaseException as error:
        _empty(staging)
        if isinstance(error, UNWRITABLE):
            reason = str(error).splitlines()[0]
            raise UpdateError(f"period {period} can't be written to {staging}: {reason}") from error
        raise
    return summary


def _open_spool(settings: Settings, folder: Path) -> Spool:
    folder.mkdir()
    by = settings.periods
    return Spool(folder, salt=by.salt, holdout_fraction=by.holdout_fraction)


def _checked_schema(mapper: Mapper, expected: Mapping[str, str]) -> dict[str, str]:
    check_present(mapper.types, mapper.existing, expected)
    schema = schema_of(mapper.types)
    check_unchanged(schema, expected)
    return schema


def _summary(
    mapper: Mapper, counts: Counts, num_quarantined: int, schema: dict[str, str]
) -> Summary:
    return Summary(
        period=mapper.period,
        num_train=counts.num_train,
        num_holdout=counts.num_holdout,
        num_quarantined=num_quarantined,
        num_duplicates=counts.num_duplicates,
        num_leaked=counts.num_leaked,
        num_rows_read=mapper.num_rows,
        num_skipped=mapper.num_skipped,
        num_unknown_periods=mapper.num_unknown_periods,
        unknown_periods=tuple(mapper.unknown_periods),
        schema=schema,
    )


def _check_usable(summary: Summary, spool: Spool, *, is_split_given: bool) -> None:
    """The period has good rows. Where the source says the split, it may say that none is held
    out: such a period can be looked at, and it is the update that refuses it.

    Raises:
        InputError: most rows are bad, or there is nothing to train on or to hold out.
    """
    found = _told(summary, spool.commonest_faults())
    num_ours = summary.num_rows_read - summary.num_skipped
    if summary.num_quarantined > MAX_QUARANTINED_FRACTION * num_ours:
        rule = "at least half of a period's rows must be good"
        raise InputError(found, rule, "mend source.fields in updater.toml, or the source")
    if not summary.num_train + summary.num_holdout:
        seen = ", ".join(summary.unknown_periods)
        cure = f"the source has rows of {seen}, not in periods.order" if seen else ""
        raise InputError(found, "a period must have rows", cure or "look for them in the source")
    if not summary.num_train:
        raise InputError(found, "a period must have train examples", "look at how rows are split")
    if not summary.num_holdout and not is_split_given:
        cure = "raise periods.holdout_fraction, or take longer periods"
        raise InputError(found, "a period must have holdout examples", cure)


def _told(summary: Summary, faults: Sequence[tuple[str, str, int]]) -> str:
    """What was read, in one line."""
    rules = "; ".join(f"{f'{field}: ' if field else ''}{rule} (x{n})" for field, rule, n in faults)
    return (
        f"period {summary.period}: {summary.num_rows_read} rows read, {summary.num_skipped} of "
        f"other periods, {summary.num_quarantined} quarantined{f' ({rules})' if rules else ''}, "
        f"{summary.num_duplicates} repeated, {summary.num_leaked} leaked, {summary.num_train} to "
        f"train on, {summary.num_holdout} held out"
    )


def _write(spool: Spool, staging: Path) -> None:
    write_parquet(staging / "train.parquet", spool.examples(holdout=False), EXAMPLES)
    write_parquet(staging / "holdout.parquet", spool.examples(holdout=True), EXAMPLES)
    write_parquet(staging / "quarantine.parquet", spool.quarantined(), QUARANTINE_SCHEMA)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
