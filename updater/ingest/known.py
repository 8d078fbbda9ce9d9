"""What is versioned already when a period is ingested. Made by `updater.steps.ingest`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Known:
    """By default nothing.

    Args:
        rows_digest: of the period's newest version.
        schema: of the period before this one.
        trains: train.parquet files of other periods; no holdout example will have their prompts.
        holdouts: holdout.parquet files of other periods; no train example will have their prompts.
    """

    rows_digest: str = ""
    schema: Mapping[str, str] = field(default_factory=dict)
    trains: Sequence[Path] = ()
    holdouts: Sequence[Path] = ()
