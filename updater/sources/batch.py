"""What a source hands over, and what it may know of who asks. Called by the sources and ingest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from updater.periods import Periods
from updater.settings import FieldTemplates
from updater.templates import Template

# Rows in a batch, chosen by measurement: storing 16384 at a time was at most a tenth faster than
# 4096 and took 15 MB more.
BATCH_ROWS = 4096
UTF_8_RULE = "must be UTF-8"
CONVERT_CURE = "convert it, for example with `iconv -f {} -t utf-8 FILE > NEW`"


class Fault(NamedTuple):
    """Why a row can't be used: the field (empty for the whole row), the rule, what was found."""

    field: str
    rule: str
    value: str


@dataclass(frozen=True)
class Batch:
    """Rows of one file or query.

    Args:
        file: its name for people, without a password.
        rows: (line, 1-based; the columns' values or a fault).
        columns: all columns of the file; empty where each row has its own.
        num_pruned: rows that were left unread because they are of other periods.
    """

    file: str
    rows: Sequence[tuple[int, Mapping[str, Any] | Fault]] = ()
    columns: tuple[str, ...] = ()
    num_pruned: int = 0


@dataclass(frozen=True)
class Wanted:
    """Which columns and which period the ingest needs."""

    fields: FieldTemplates
    periods: Periods
    period: str

    @cached_property
    def columns(self) -> frozenset[str]:
        """The columns that the templates name, with those that hold a field of a column."""
        templates = [Template(text) for text in vars(self.fields).values()]
        named = [column for template in templates for column in template.columns]
        return frozenset(name for column in named for name in (column.name, column.root))

    @property
    def period_column(self) -> str:
        """The column that alone holds the period's id or the date; empty if there is none."""
        template = Template(self.fields.period or self.fields.date)
        is_plain = len(template.columns) == 1 and template.text == f"{{{template.columns[0].name}}}"
        return template.columns[0].name if is_plain else ""
