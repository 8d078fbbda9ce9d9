"""A period's examples on disk while it is ingested: what only all of them together can show.

An id used for two contents, exact duplicates, examples whose prompt stands on the other side, the
split by hash, the order by hash. DuckDB does it out of core: memory is bounded by a setting,
not by the number of rows. Not the reading of rows (`rows`) nor Parquet (`write`). Called by
`updater.ingest`.

The outcome depends on the set of rows, never on their order.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from updater.errors import InputError
from updater.ingest import queries
from updater.ingest.rows import Example, Quarantined
from updater.ingest.summary import FaultCount, Faults

# Chosen by measurement with bench/ingest.py: with 80 MB the peak at 10^6 rows is 1.2 times that at
# 10^5, with 128 MB 1.35 times. A second thread saves no time here (the rows are made by Python) and
# wants memory of its own: with 64 MB and two threads 10^6 rows fail.
MEMORY_LIMIT = "80MB"
THREADS = 1
# Rows that one query judges or sorts: more rows are taken in ranges of their hashes, each range out
# of the whole table. Chosen by measurement: 10^7 rows of 150 bytes can't be sorted at once within
# the limit; in these ranges they can, and 8 * 10^6 rows of which half are duplicates too.
RANGE_ROWS = 1_000_000
BATCH_ROWS = 8192
CONSEQUENCES = (queries.QUARANTINE_CONFLICTS, queries.DROP_CONFLICTS)

EXAMPLE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("subject", pa.string()),
        ("stratum", pa.string()),
        ("holdout", pa.bool_()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("messages", pa.string()),
    ]
)
QUARANTINE_SCHEMA = pa.schema(
    [
        ("file", pa.string()),
        ("line", pa.int64()),
        ("field", pa.string()),
        ("rule", pa.string()),
        ("value", pa.string()),
    ]
)


class Counts(NamedTuple):
    """Examples that were dropped, and those that stay."""

    num_duplicates: int
    num_leaked: int
    num_train: int
    num_holdout: int


class Spool:
    """Examples and quarantined rows in a database in `folder`, which is the caller's to remove.

    Args:
        folder: an empty folder, with room for the period's rows twice over.
        salt: of the hashes.
        holdout_fraction: of the prompts, where an example doesn't say its split.

    Raises:
        duckdb.Error: the disk is full or can't be written, from every method.
    """

    def __init__(self, folder: Path, *, salt: str, holdout_fraction: float) -> None:
        config: dict[str, Any] = {
            "memory_limit": MEMORY_LIMIT,
            "threads": THREADS,
            "temp_directory": str(folder / "spill"),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
        }
        self._parameters = {"salt": salt, "threshold": holdout_threshold(holdout_fraction)}
        self._connection = duckdb.connect(str(folder / "rows.duckdb"), config=config)
        self._connection.execute(queries.TABLES)

    def close(self) -> None:
        """The database is closed; its files remain."""
        self._connection.close()

    def add(self, examples: Sequence[Example], quarantined: Sequence[Quarantined]) -> None:
        """The examples are in the spool, the rest in the quarantine."""
        if examples:
            self._insert(queries.ADD, _table(examples, EXAMPLE_SCHEMA), self._parameters)
        if quarantined:
            table = _table(quarantined, QUARANTINE_SCHEMA.append(pa.field("", pa.bool_())))
            self._insert("insert into quarantine from incoming", table)

    def digest(self) -> str:
        """What the rows are, in whatever order and place: the examples with their keys and sides,
        and the period's own rows in the quarantine. Call it before `settle`."""
        [counts] = self._connection.execute(queries.DIGEST).fetchall()
        return hashlib.sha256(repr(counts).encode()).hexdigest()

    def compare(self, paths: Iterable[Path], *, holdout: bool) -> None:
        """No train example will have a prompt of these holdout.parquet files, or no holdout example
        one of these train.parquet files.

        Raises:
            InputError: one of them is gone or broken.
        """
        query = f"insert into elsewhere select md5_number(prompt), {holdout} from incoming"
        for path in paths:
            try:
                with pq.ParquetFile(path) as file:
                    for batch in file.iter_batches(BATCH_ROWS, columns=["prompt"]):
                        self._insert(query, pa.Table.from_batches([batch]))
            except (OSError, pa.ArrowInvalid, KeyError) as error:
                rule = "the examples of other periods must be whole"
                raise InputError(f"{path}: {error}", rule, "ingest that period again") from error

    def settle(self) -> Counts:
        """Conflicts are quarantined; duplicates and leaks are dropped. Call it once, last."""
        num_rows = self._count("rows")
        num_compared = max(num_rows, self._count("elsewhere"))
        dropped = [0]  # rows, after each step
        steps = (
            (num_rows, 64, (queries.SETTLE_IDS, *CONSEQUENCES)),
            (num_rows, 128, (queries.DROP_DUPLICATES,)),
            (num_compared, 128, (queries.DROP_TRAINED,)),
            (num_compared, 128, (queries.DROP_LEAKED,)),
        )
        for most, bits, (judge, *consequences) in steps:
            for limits in _ranges(most, bits):
                self._connection.execute(judge, limits)
                for consequence in consequences:
                    self._connection.execute(consequence)
            dropped.append(self._count("dropped"))
        num_holdout = self._count("rows where holdout") - self._count("dropped where holdout")
        return Counts(
            num_duplicates=dropped[2] - dropped[1],
            num_leaked=dropped[4] - dropped[2],
            num_train=num_rows - dropped[4] - num_holdout,
            num_holdout=num_holdout,
        )

    def examples(self, *, holdout: bool) -> Iterator[pa.RecordBatch]:
        """The examples that stay, sorted by (key, id)."""
        num_rows = self._count(f"rows where holdout = {holdout}")
        for limits in _ranges(num_rows, 64):
            yield from self._batches(queries.SORTED, {"holdout": holdout, **limits})

    def quarantined(self) -> Iterator[pa.RecordBatch]:
        """The quarantined rows, sorted by file, line and field."""
        return self._batches(queries.QUARANTINED)

    def unplaced(self) -> Iterator[pa.RecordBatch]:
        """The quarantined rows whose period can't be known, sorted likewise."""
        return self._batches(queries.UNPLACED)

    def num_quarantined(self) -> int:
        """Rows in the quarantine so far."""
        return self._count("quarantine")

    def num_unplaced(self) -> int:
        """Those of them whose period can't be known."""
        return self._count("quarantine where not is_placed")

    def faults(self) -> Faults:
        """What is wrong with the rows in the quarantine: five of the commonest."""
        found = self._connection.execute(queries.COMMONEST_FAULTS).fetchall()
        counts = [FaultCount(*values) for *values, _ in found]
        return Faults(counts, found[0][-1] if found else 0)

    def _batches(self, query: str, parameters: object = None) -> Iterator[pa.RecordBatch]:
        return iter(self._connection.sql(query, params=parameters).to_arrow_reader(BATCH_ROWS))

    def _count(self, what: str) -> int:
        # fetchall, not fetchone: the connection refuses other work until a result is at its end.
        [(count,)] = self._connection.execute(f"select count(*) from {what}").fetchall()
        return int(count)

    def _insert(self, query: str, incoming: pa.Table, parameters: object = None) -> None:
        self._connection.register("incoming", incoming)
        self._connection.execute(query, parameters)
        self._connection.unregister("incoming")


def key_of(salt: str, id_: str) -> int:
    """An example's key: the low 64 bits of MD5(salt + ":" + id), as DuckDB's md5_number_lower."""
    return _low_64(f"{salt}:{id_}")


def is_holdout(salt: str, prompt: str, fraction: float) -> bool:
    """Whether the split by hash holds this prompt out; equal prompts are on one side."""
    return _low_64(f"{salt}:holdout:{prompt}") < holdout_threshold(fraction)


def holdout_threshold(fraction: float) -> int:
    """The hashes below it are held out."""
    return min(int(fraction * 2**64), 2**64 - 1)


def _ranges(num_rows: int, bits: int) -> Iterator[dict[str, str]]:
    """The least and the greatest hash of each range that holds about `RANGE_ROWS` of the rows."""
    num_ranges = -(-num_rows // RANGE_ROWS)
    for number in range(num_ranges):
        first, after = ((n << bits) // num_ranges for n in (number, number + 1))
        yield {"first": str(first), "last": str(after - 1)}


def _low_64(text: str) -> int:
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[8:], "little")


def _table(rows: Sequence[tuple], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
