"""One table of texts, as the page and the Markdown show it.

What stands in it: `updater.study.report.sheets`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

WORDS = frozenset(
    {"arm", "against", "worst period", "at the end", "final accuracy is", "choice", "outcome"}
)
"""The columns that hold no numbers."""


@dataclass(frozen=True)
class Sheet:
    """A table of texts: a heading and an explanation, the columns' names, rows. For each row, where
    they are given, `tones` has "good", "bad" or "", and `notes` what else is to say of it.
    `below`: what is to say of several, under the table."""

    title: str
    how: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    tones: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    below: str = ""


def aligned(sheet: Sheet) -> Sequence[bool]:
    """For each column, whether it holds numbers, which stand at the right."""
    return [column not in WORDS for column in sheet.columns]
