"""Parquet: only the columns that are wanted, only the row groups that may hold the period.

Called by `updater.sources.files`. The number of a row counts the file's rows from 1.
"""

from collections.abc import Iterator
from datetime import date
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from updater.errors import InputError
from updater.sources.batch import BATCH_ROWS, Batch, Wanted

BUFFER_BYTES = 1 << 20  # chosen: pages are read piece by piece, not a whole row group at once


def read_parquet(stream: BinaryIO, name: str, wanted: Wanted) -> Iterator[Batch]:
    """The rows of one file; a row group whose statistics rule the period out is only counted.

    Raises:
        pyarrow.ArrowInvalid, OSError: the file is broken.
    """
    file = pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False)
    names = file.schema_arrow.names
    columns = sorted(wanted.columns.intersection(names))
    line = 1
    for group in range(file.num_row_groups):
        num_rows = file.metadata.row_group(group).num_rows
        if _is_other(file.metadata.row_group(group), wanted):
            yield Batch(name, num_pruned=num_rows)
        else:
            at = line
            for rows in _rows(file, group, columns):
                yield Batch(name, list(enumerate(rows, at)), columns=tuple(names))
                at += len(rows)
        line += num_rows


def _rows(file: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[list[dict[str, Any]]]:
    if not columns:  # a batch without columns would have no rows
        num_rows = file.metadata.row_group(group).num_rows
        for start in range(0, num_rows, BATCH_ROWS):
            yield [{} for _ in range(min(BATCH_ROWS, num_rows - start))]
        return
    for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
        yield _without_nanoseconds(batch).to_pylist()


def _without_nanoseconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Times in microseconds, which Python's have."""
    for index, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            kind = pa.timestamp("us", field.type.tz)
            batch = batch.set_column(
                index, pa.field(field.name, kind), batch.column(index).cast(kind, safe=False)
            )
    return batch


def _is_other(group: Any, wanted: Wanted) -> bool:
    """Whether the statistics show that no row of the group is of the wanted period.

    A group with a null is read: those rows belong in the quarantine.
    """
    columns = [group.column(index) for index in range(group.num_columns)]
    found = [c for c in columns if c.path_in_schema == wanted.period_column]
    statistics = found[0].statistics if found and found[0].is_stats_set else None
    if statistics is None or not statistics.has_min_max or statistics.null_count != 0:
        return False
    low, high = statistics.min, statistics.max
    if wanted.fields.period:
        return isinstance(low, str) and not low <= wanted.period <= high
    if not isinstance(low, date):
        return False
    try:
        first, last = wanted.periods.of(low), wanted.periods.of(high)
    except InputError:
        return False
    ordinal = wanted.periods.ordinal
    return not ordinal(first) <= ordinal(wanted.period) <= ordinal(last)
