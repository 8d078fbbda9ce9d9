"""Reads what a manifest names: windows of a period's examples in hash order, or picked rows.

`train.parquet` is sorted by a hash of the example's id (docs/architecture.md), so any contiguous
window is a uniform sample without replacement, chosen before the file was seen. Only the row
groups that are touched are read: O(count) for a window; picked rows may touch all of them. Does not
choose: `manifest` and `choose` do.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rehearsal.choice import Choice, Picked
from rehearsal.manifest import Manifest
from rehearsal.policies import Past

Locate = Callable[[str], Path]
"""Dataset version -> its `train.parquet`."""

SCHEMA = pa.schema(
    [
        ("key", pa.uint64()),
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("subject", pa.string()),
    ]
)
"""The columns that every `train.parquet` has (docs/architecture.md)."""


def read(path: Path, start: int, count: int) -> pa.Table:
    """Rows `start`, `start + 1`, ... of the file, `count` of them, going on at row 0 at its end.

    Time and memory are those of the row groups touched, plus the footer's (a few hundred bytes a
    row group). The table is a copy of exactly its rows: it holds no row group alive.

    Args:
        path: a Parquet file.
        start: 0 .. rows - 1; any for a count of 0.
        count: 0 .. rows.

    Raises:
        ValueError: the window does not fit the file, or it is damaged.
        OSError: the file is not there or may not be read.
    """
    with _opened(path) as file:
        return _window(file, start, count)


def columns(one: Past, locate: Locate, names: Sequence[str], count: int | None = None) -> pa.Table:
    """These columns of the first `count` train examples of a period, in hash order (None: of all).
    A dataset version of before `stratum` was configured has only nulls there.

    Raises:
        ValueError: another number of rows than `one` says, no such column, or a damaged file.
        OSError: the file is not there or may not be read.
    """
    with _opened(Path(locate(one.dataset_version))) as file:
        _check_rows(file, one.period, one.dataset_version, one.num_train)
        missing = sorted(set(names) - set(file.schema_arrow.names))
        if set(missing) - {"stratum"}:
            raise ValueError(f"has no column {', '.join(missing)}")
        count = one.num_train if count is None else count
        table = _contiguous(file, 0, count, [name for name in names if name not in missing])
        if missing:
            table = table.append_column("stratum", pa.nulls(count, pa.string()))
        return table


def load(manifest: Manifest, locate: Locate) -> pa.Table:
    """All examples that the manifest names, in its order, with a column `period` at the end.

    Args:
        manifest: what to read.
        locate: dataset version -> its `train.parquet` (bit for bit the one that was planned on).

    Raises:
        ValueError: a file has another number of rows than the manifest says, or is damaged.
        OSError: a file is not there or may not be read.
    """
    tables = [
        _labelled(choice, Path(locate(choice.dataset_version))) for choice in manifest.choices
    ]
    empty = SCHEMA.append(pa.field("period", pa.string())).empty_table()
    return pa.concat_tables(tables, promote_options="default") if tables else empty


def _labelled(choice: Choice | Picked, path: Path) -> pa.Table:
    with _opened(path) as file:
        _check_rows(file, choice.period, choice.dataset_version, choice.num_train)
        if isinstance(choice, Picked):
            table = _scattered(file, choice.rows)
        else:
            table = _window(file, choice.start, choice.count)
    return table.append_column("period", pa.array([choice.period] * choice.count, pa.string()))


def _check_rows(file: pq.ParquetFile, period: str, version: str, num_train: int) -> None:
    num_rows = file.metadata.num_rows
    if num_rows != num_train:
        raise ValueError(
            f"has {num_rows} rows, the manifest says {num_train} for period {period!r}; it must be "
            f"version {version}"
        )


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """The file, and every ValueError from within (Arrow's are some) names it."""
    try:
        with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
            yield file
    except (pa.ArrowInvalid, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise  # the system's own (no such file, no right to read it), not the contents'
        raise ValueError(f"{path} is damaged: {error}; bring that version back") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _window(file: pq.ParquetFile, start: int, count: int) -> pa.Table:
    num_rows = file.metadata.num_rows
    if not (0 <= count <= num_rows and (count == 0 or 0 <= start < num_rows)):
        raise ValueError(f"a window of {count} rows at {start} does not fit its {num_rows} rows")
    first = min(count, num_rows - start)
    pieces = [_contiguous(file, start, first), _contiguous(file, 0, count - first)]
    return pa.concat_tables(pieces).combine_chunks()


def _contiguous(
    file: pq.ParquetFile, start: int, count: int, names: Sequence[str] | None = None
) -> pa.Table:
    groups = list(_touched(file.metadata, start, count))
    numbers = [group for group, _ in groups]
    table = file.read_row_groups(numbers, columns=names, use_threads=False)
    return table.slice(start - groups[0][1] if groups else 0, count)


def _scattered(file: pq.ParquetFile, rows: np.ndarray) -> pa.Table:
    """The rows (rising), one row group in memory at a time."""
    pieces = []
    for group, first_row in _touched(file.metadata, int(rows[0]), int(rows[-1] - rows[0]) + 1):
        num_rows = file.metadata.row_group(group).num_rows
        first, last = np.searchsorted(rows, [first_row, first_row + num_rows])
        if first < last:
            table = file.read_row_group(group, use_threads=False)
            pieces.append(table.take(rows[first:last] - first_row))
    return pa.concat_tables(pieces).combine_chunks()


def _touched(metadata: pq.FileMetaData, start: int, count: int) -> Iterator[tuple[int, int]]:
    """The row groups that hold rows start .. start + count - 1, each with its first row."""
    first_row = 0
    for group in range(metadata.num_row_groups):
        if first_row >= start + count:
            return
        num_rows = metadata.row_group(group).num_rows
        if first_row + num_rows > start and count:
            yield group, first_row
        first_row += num_rows
