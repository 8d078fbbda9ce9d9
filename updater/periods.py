"""Periods: their ids, order and bounds in time, and which of them are due.

Not what a period holds (the dataset versions) nor what has been learnt (the ledger). Called by
the workspace's commands, the ingest and, through `updater due`, the DAG.

A named period stands in `periods.order`. A calendar period is a day (2026-01-31), an ISO week
(2026-W05), a month (2026-01), a quarter (2018-Q2) or a year (2026) of the configured time zone.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from updater.calendars import CALENDARS, FIRST_YEAR, LAST_YEAR
from updater.errors import InputError
from updater.settings import PeriodSettings

if TYPE_CHECKING:
    from store.ledger import Period

MOST_NAMED = 3  # of a ledger's periods, in an error


class Periods:
    """The periods of one workspace."""

    def __init__(self, settings: PeriodSettings) -> None:
        self.order = settings.order
        self.every = settings.every
        self.zone = ZoneInfo(settings.time_zone)
        self._calendar = CALENDARS.get(settings.every)

    def check(self, period: str) -> str:
        """`period`, when it is one.

        Raises:
            InputError: it is none; the nearest one or the way to write it is named.
        """
        if self._calendar is not None:
            self._first_day(period)
        elif period not in self.order:
            near = difflib.get_close_matches(period, self.order, n=1)
            raise InputError(
                f"{period!r} is no period",
                f"it must be one of periods.order: {', '.join(self.order)}",
                f"did you mean {near[0]}" if near else "add it to periods.order in updater.toml",
            )
        return period

    def check_kind(self, versioned: Sequence[Period]) -> None:
        """The periods that have been versioned so far are of the configured kind.

        A name that is no longer in the order is not looked at here: it is told where it is used.

        Raises:
            InputError: `periods.every` or `periods.order` was changed since.
        """
        others = [p.id for p in versioned if not self._is_of_kind(p)]
        if not others:
            return
        was = _calendar_of(others[0])
        listed = ", ".join(others[:MOST_NAMED])
        more = len(others) - MOST_NAMED
        shown = f"{listed} and {more} more" if more > 0 else listed
        before = f'every = "{was}"' if was else f"order = {json.dumps(others)}"
        now = f'every = "{self.every}"' if self.every else "order = [..]"
        raise InputError(
            f"the configuration says [periods] {now}, and the periods versioned so far are "
            f"{f'those of every {was}' if was else 'named'}: {shown}",
            "the data of a workspace is cut into periods of one kind for ever",
            f"put back {before}, or make another workspace with `updater init DIR`",
        )

    def _is_of_kind(self, period: Period) -> bool:
        if self._calendar is None:
            is_dated = period.start_at is not None and _calendar_of(period.id) is not None
            return not is_dated or period.id in self.order
        return re.fullmatch(self._calendar.pattern, period.id) is not None

    def ordinal(self, period: str) -> int:
        """The period's number, growing with time: 1 for the first named one; 202601, 20182.

        Raises:
            InputError: it is no period.
        """
        self.check(period)
        if self._calendar is None:
            return self.order.index(period) + 1
        return int("".join(re.findall("[0-9]+", period)))

    def bounds(self, period: str) -> tuple[datetime, datetime] | None:
        """When a calendar period begins and the next one does, at midnight in the time zone and
        aware of it; the end is not in it. None for a named period.

        Raises:
            InputError: it is no period.
        """
        self.check(period)
        if self._calendar is None:
            return None
        return self._midnight(self._first_day(period)), self._midnight(self._day_after(period))

    def of(self, when: date | datetime) -> str:
        """The calendar period in which `when` lies; a time without a zone is in the configured one.

        Raises:
            InputError: the periods are named, or the year is not in 1000 to 9998.
        """
        if self._calendar is None:
            raise InputError(
                f"{when} names no period",
                "named periods have no dates",
                f"name one of {', '.join(self.order)}",
            )
        day = self._local_day(when) if isinstance(when, datetime) else when
        period = self._calendar.spell(day)
        self._first_day(period)
        return period

    def closed(self, period: str, now: datetime) -> bool:
        """Whether the period is over at `now`. A named period has no end: it is closed.

        Raises:
            InputError: it is no period.
        """
        bounds = self.bounds(period)
        return bounds is None or bounds[1].astimezone(UTC) <= self._instant(now)

    def check_closed(self, period: str, now: datetime) -> None:
        """The period is over at `now`, so that all of its rows can be there.

        Raises:
            InputError: it is no period, or it ends after `now`.
        """
        if not self.closed(period, now):
            raise InputError(
                f"period {period} has not closed yet (it ends {self.end_shown(period)})",
                "a model learns a period when all of its rows can be there",
                f"wait until then, or name a closed one; `updater ingest {period}` versions the "
                "rows so far and trains nothing",
            )

    def end_shown(self, period: str) -> str:
        """When a calendar period ends, for people: the local time and its zone. Empty for a
        named one.

        Raises:
            InputError: it is no period.
        """
        bounds = self.bounds(period)
        return f"{bounds[1]:%Y-%m-%d %H:%M} {self.zone}" if bounds else ""

    def after(self, period: str) -> str | None:
        """The next period; None after the last.

        Raises:
            InputError: it is no period.
        """
        self.check(period)
        if self._calendar is None:
            return next(iter(self.order[self.ordinal(period) :]), None)
        following = self._day_after(period)
        return self._calendar.spell(following) if following.year <= LAST_YEAR else None

    def between(self, first: str, last: str) -> list[str]:
        """Every period from `first` to `last`, both among them, in order.

        Raises:
            InputError: one of them is no period, or `last` is before `first`.
        """
        if self.ordinal(last) < self.ordinal(first):
            raise InputError(
                f"{first}..{last} holds no period",
                "a range runs from the earlier period to the later",
                f"write {last}..{first}",
            )
        found = [first]
        while found[-1] != last:
            found.append(str(self.after(found[-1])))
        return found

    def expand(self, arguments: Sequence[str]) -> list[str]:
        """The periods that a command's arguments name, as given, each once; `a..b` is a range.

        Raises:
            InputError: an argument names no period.
        """
        found: list[str] = []
        for argument in arguments:
            first, dots, last = argument.partition("..")
            found += self.between(first, last) if dots else [self.check(argument)]
        return list(dict.fromkeys(found))

    def due(self, learnt: Sequence[str], now: datetime) -> list[str]:
        """The periods that have closed and are not yet learnt, in order, gaps included.

        Named periods: all of `periods.order` that are not learnt. Calendar periods: those after
        the first one learnt; none where none is, for nobody knows where to begin.

        Raises:
            InputError: a name in `learnt` is no calendar period.
        """
        if self._calendar is None:
            return [period for period in self.order if period not in learnt]
        if not learnt:
            return []
        first = min(learnt, key=self.ordinal)
        return [period for period in self._closed_after(first, now) if period not in learnt]

    def for_partition(self, key: str) -> str:
        """The period that an Airflow partition key stands for.

        A period's own id stands for itself. An instant, which a cron timetable gives, stands for
        the calendar period that was the last to close by then; without a zone it is in ours.

        Raises:
            InputError: it is neither.
        """
        if self._calendar is None:
            return self.check(key)
        try:
            return self.check(key)
        except InputError as error:
            if not (when := _parse(key)):
                raise InputError(
                    f"partition key {key!r} names no period", error.rule, "or give an ISO 8601 time"
                ) from None
        first = self._first_day(self.of(when))
        return self.check(self._calendar.spell(first - timedelta(days=1)))

    def _closed_after(self, period: str, now: datetime) -> list[str]:
        found: list[str] = []
        following = self.after(period)
        while following is not None and self.closed(following, now):
            found.append(following)
            following = self.after(following)
        return found

    def _first_day(self, period: str) -> date:
        """The first day of a calendar period.

        Raises:
            InputError: it is no calendar period of this kind.
        """
        calendar = CALENDARS[self.every]
        match = re.fullmatch(calendar.pattern, period)
        numbers = [int(group) for group in match.groups()] if match else [0]
        if FIRST_YEAR <= numbers[0] <= LAST_YEAR:
            try:
                return calendar.first_day(*numbers)
            except ValueError:
                pass
        when = _parse(period)
        is_near = when is not None and FIRST_YEAR < when.year < LAST_YEAR
        raise InputError(
            f"{period!r} is no period",
            f"periods.every is {self.every!r}: a period is written as {calendar.example}, in the "
            f"years {FIRST_YEAR} to {LAST_YEAR}",
            f"did you mean {calendar.spell(when)}" if when is not None and is_near else "",
        )

    def _day_after(self, period: str) -> date:
        """The first day of the period that follows a calendar one."""
        calendar = CALENDARS[self.every]
        inside = self._first_day(period) + timedelta(days=calendar.longest_days)
        match = re.fullmatch(calendar.pattern, calendar.spell(inside))
        assert match, "a calendar's pattern matches what it spells"
        return calendar.first_day(*map(int, match.groups()))

    def _midnight(self, day: date) -> datetime:
        """The first midnight of a day: where clocks skip it, the instant at which they do."""
        return datetime.combine(day, time(), self.zone)

    def _instant(self, when: datetime) -> datetime:
        """In UTC, as two times of one zone would be compared by their clocks' faces."""
        return (when if when.tzinfo else when.replace(tzinfo=self.zone)).astimezone(UTC)

    def _local_day(self, when: datetime) -> date:
        """The day in whose bounds an instant lies.

        That is the clock's date, but where clocks go back over midnight (Newfoundland until
        2011, at 00:01): there the day has begun although clocks show the day before again.
        """
        try:
            instant = self._instant(when)
            day = instant.astimezone(self.zone).date()
            following = self._midnight(day + timedelta(days=1))
            return following.date() if following.astimezone(UTC) <= instant else day
        except OverflowError:
            return when.date()


def _calendar_of(period: str) -> str | None:
    """The kind of calendar period that is written so; None where none is."""
    return next((e for e, c in CALENDARS.items() if re.fullmatch(c.pattern, period)), None)


def _parse(text: str) -> datetime | date | None:
    """A date or a time in ISO 8601; None if `text` is neither."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
