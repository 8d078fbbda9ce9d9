"""The kinds of calendar period: how each is written and where it begins.

Not the periods of a workspace (`updater.periods`, the one caller).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

# Chosen: every id has a year of four digits, and its bounds, in any zone, fit Python's dates.
FIRST_YEAR, LAST_YEAR = 1000, 9998


@dataclass(frozen=True)
class Calendar:
    """How one kind of calendar period is written and where it begins."""

    pattern: str  # one group for each number that `first_day` takes
    example: str
    spell: Callable[[date], str]
    first_day: Callable[..., date]  # ValueError when there is no such period
    longest_days: int


def _spell_week(day: date) -> str:
    year, week, _ = day.isocalendar()
    return f"{year:04d}-W{week:02d}"


CALENDARS = {
    "day": Calendar(
        pattern="([0-9]{4})-([0-9]{2})-([0-9]{2})",
        example="2026-01-31",
        spell=lambda day: f"{day.year:04d}-{day.month:02d}-{day.day:02d}",
        first_day=date,
        longest_days=1,
    ),
    "week": Calendar(
        pattern="([0-9]{4})-W([0-9]{2})",
        example="2026-W05",
        spell=_spell_week,
        first_day=lambda year, week: date.fromisocalendar(year, week, 1),
        longest_days=7,
    ),
    "month": Calendar(
        pattern="([0-9]{4})-([0-9]{2})",
        example="2026-01",
        spell=lambda day: f"{day.year:04d}-{day.month:02d}",
        first_day=lambda year, month: date(year, month, 1),
        longest_days=31,
    ),
    "quarter": Calendar(
        pattern="([0-9]{4})-Q([1-4])",
        example="2018-Q2",
        spell=lambda day: f"{day.year:04d}-Q{(day.month + 2) // 3}",
        first_day=lambda year, quarter: date(year, 3 * quarter - 2, 1),
        longest_days=92,
    ),
    "year": Calendar(
        pattern="([0-9]{4})",
        example="2026",
        spell=lambda day: f"{day.year:04d}",
        first_day=lambda year: date(year, 1, 1),
        longest_days=366,
    ),
}
