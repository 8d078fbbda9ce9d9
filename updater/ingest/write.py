"""Parquet files whose bytes depend on nothing but their rows. Called by `updater.ingest`."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# Rehearsal reads the row groups that a window touches: small ones waste less, large ones cost
# fewer seeks. Chosen by measurement with bench/sampling.py.
ROW_GROUP_ROWS = 16384

EXAMPLES = pa.schema(
    [
        pa.field("key", pa.uint64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("completion", pa.string(), nullable=False),
        pa.field("subject", pa.string()),
    ]
)
# Last columns where the settings say what they are.
STRATUM = pa.field("stratum", pa.string())
MESSAGES = pa.field("messages", pa.string())  # of a conversation, as JSON


def write_parquet(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> None:
    """`path` holds the rows, in their order, in row groups of `ROW_GROUP_ROWS`: the columns of
    `schema`.

    Raises:
        OSError: it can't be written.
    """
    with pq.ParquetWriter(path, schema, compression="zstd", write_page_index=False) as writer:
        for table in _regrouped(batches, schema):
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)


def _regrouped(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows in tables of one chunk and `ROW_GROUP_ROWS`: how they came must not show."""
    waiting: list[pa.Table] = []
    num_waiting = 0
    for batch in batches:
        table = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
        while num_waiting + len(table) >= ROW_GROUP_ROWS:
            taken = ROW_GROUP_ROWS - num_waiting
            yield pa.concat_tables([*waiting, table.slice(0, taken)]).combine_chunks()
            table, waiting, num_waiting = table.slice(taken), [], 0
        if len(table):
            waiting.append(table)
            num_waiting += len(table)
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()
