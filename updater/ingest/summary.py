"""What an ingest read and made: what it made is summary.json beside the data."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SUMMARY_FILE = "summary.json"


class FaultCount(NamedTuple):
    """What is wrong with so many rows, of which the first by file and line is named."""

    field: str
    rule: str
    num_rows: int
    file: str
    line: int


class Faults(NamedTuple):
    """The commonest, the commonest first, and how many there are in all."""

    commonest: Sequence[FaultCount]
    num_faults: int


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Rows that were read. What is about other periods stands here and in no file, so that new
    rows of others leave a period's dataset version as it is.

    Args:
        num_skipped: rows of other periods, with those in Parquet row groups left unread.
        num_unplaced: broken rows whose period can't be known.
        num_unknown_periods: those skipped rows whose period is not in `periods.order`.
        unknown_periods: the first of their names, in order; at most 20.
    """

    num_rows_read: int
    num_skipped: int
    num_unplaced: int
    num_unknown_periods: int
    unknown_periods: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Counts of rows, which add up: read = train + holdout + quarantined + duplicates + leaked +
    skipped.

    Args:
        num_quarantined: rows in quarantine.parquet.
        num_unplaced: those of them whose period could not be known.
        num_leaked: train examples whose prompt stands in a holdout, of this period or another,
            and holdout examples whose prompt another period trains on.
        rows_digest: of the period's own rows as the source had them, whatever their order.
        schema: column -> type, of the columns that the templates name, in the period's own rows.
    """

    period: str
    num_train: int
    num_holdout: int
    num_quarantined: int
    num_unplaced: int
    num_duplicates: int
    num_leaked: int
    rows_digest: str
    schema: dict[str, str]

    def write(self, folder: Path) -> None:
        """`folder` holds summary.json. The same counts are the same bytes."""
        text = json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=False)
        (folder / SUMMARY_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Summary":
        """The summary that `write` put into this file.

        Raises:
            OSError, ValueError, TypeError: it isn't there, not whole, or of another release.
        """
        return cls(**json.loads(path.read_text(encoding="utf-8")))
