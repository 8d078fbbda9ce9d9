"""Reads a window of a period's examples in hash order: a uniform sample at a cost of O(count).

`train.parquet` is sorted by a hash of the example's id (docs/architecture.md), so any contiguous
window is a uniform sample without replacement, chosen before the file was seen. Only the row
groups that the window touches are read. Does not choose windows: `manifest` does.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rehearsal.manifest import Choice, Manifest

SCHEMA = pa.schema(
    [
        ("key", pa.uint64()),
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("subject", pa.string()),
    ]
)
"""The columns of `train.parquet` (docs/architecture.md)."""


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


def load(manifest: Manifest, locate: Callable[[str], Path]) -> pa.Table:
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


def _labelled(choice: Choice, path: Path) -> pa.Table:
    with _opened(path) as file:
        num_rows = file.metadata.num_rows
        if num_rows != choice.num_train:
            raise ValueError(
                f"has {num_rows} rows, the manifest says {choice.num_train} for period "
                f"{choice.period!r}; it must be version {choice.dataset_version}"
            )
        table = _window(file, choice.start, choice.count)
    return table.append_column("period", pa.array([choice.period] * choice.count, pa.string()))


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


def _contiguous(file: pq.ParquetFile, start: int, count: int) -> pa.Table:
    groups = list(_touched(file.metadata, start, count))
    table = file.read_row_groups([group for group, _ in groups], use_threads=False)
    return table.slice(start - groups[0][1] if groups else 0, count)


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
