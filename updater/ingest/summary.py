"""What an ingest found and made. Written as summary.json beside the data."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

SUMMARY_FILE = "summary.json"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Counts of rows, which add up: read = train + holdout + quarantined + duplicates + leaked +
    skipped.

    Args:
        num_skipped: rows of other periods, with those in Parquet row groups left unread.
        num_unknown_periods: those skipped rows whose period is not in `periods.order`.
        unknown_periods: the first of their names, in order; at most 20.
        schema: column -> type, of the columns that the templates name.
    """

    period: str
    num_train: int
    num_holdout: int
    num_quarantined: int
    num_duplicates: int
    num_leaked: int
    num_rows_read: int
    num_skipped: int
    num_unknown_periods: int
    unknown_periods: tuple[str, ...]
    schema: dict[str, str]

    def write(self, folder: Path) -> None:
        """`folder` holds summary.json. The same counts are the same bytes."""
        text = json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=False)
        (folder / SUMMARY_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Summary":
        """The summary that `write` put there.

        Raises:
            OSError, ValueError, TypeError: it isn't there or not whole.
        """
        fields = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
        return cls(**{**fields, "unknown_periods": tuple(fields["unknown_periods"])})
