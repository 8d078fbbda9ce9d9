"""Where rows come from: files in JSONL, CSV or Parquet, or a database's query.

Not what a row must hold: that is `updater.ingest`'s, the one caller. Rows come in batches, so
that memory doesn't grow with the source. A row that can't be read is a `Fault` in its place; a
file that can't is an error.
"""

from collections.abc import Iterator
from pathlib import Path

from updater.periods import Periods
from updater.settings import SourceSettings
from updater.sources.batch import CONVERT_CURE, UTF_8_RULE, Batch, Fault, Wanted

__all__ = ["CONVERT_CURE", "UTF_8_RULE", "Batch", "Fault", "Wanted", "open_source"]


def open_source(
    source: SourceSettings, workspace: Path, *, periods: Periods, period: str
) -> Iterator[Batch]:
    """The source's rows, in its own order; rows of other periods may be left out or not.

    Args:
        source: `uri` is relative to `workspace` where it is a path or an SQLite file.
        workspace: a folder.
        periods: the workspace's periods.
        period: the one that is wanted.

    Raises:
        InputError: nothing is there, or it can't be read as what it is said to be.
        UpdateError: a remote place or a database can't be reached.
    """
    wanted = Wanted(source.fields, periods, period)
    if source.query:
        from updater.sources.database import read_query

        return read_query(source, workspace, wanted)
    from updater.sources.files import find_files, read_files

    return read_files(find_files(source, workspace), wanted)
