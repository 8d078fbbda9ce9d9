"""Periods: they tile time in every zone; ids, ranges, what is due, what a partition key names."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from updater.calendars import CALENDARS, LAST_YEAR
from updater.errors import InputError
from updater.periods import Periods
from updater.settings import CALENDAR, PeriodSettings

# Zones whose clocks skip midnight (Sao Paulo, Cairo), show it twice (Havana), go back over it
# (St_Johns, at 00:01), skip a whole day (Apia), or change by half an hour (Lord_Howe).
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/Sao_Paulo",
    "Africa/Cairo",
    "America/Havana",
    "America/St_Johns",
    "Pacific/Apia",
    "Australia/Lord_Howe",
]
INSTANTS = st.datetimes(datetime(1980, 1, 1), datetime(2037, 12, 31), timezones=st.just(UTC))
DAYS = st.dates(date(1001, 1, 1), date(LAST_YEAR - 1, 12, 31))


def calendar(every: str, zone: str = "UTC") -> Periods:
    return Periods(PeriodSettings(every=every, time_zone=zone))


NAMED = Periods(PeriodSettings(order=("banking", "credit_cards", "kitchen", "home")))


def utc(periods: Periods, period: str) -> tuple[datetime, datetime]:
    bounds = periods.bounds(period)
    assert bounds is not None
    return bounds[0].astimezone(UTC), bounds[1].astimezone(UTC)


@given(st.sampled_from(CALENDAR), st.sampled_from(ZONES), INSTANTS)
@example("day", "America/St_Johns", datetime(2010, 11, 7, 3, 0, tzinfo=UTC))
@example("day", "Pacific/Apia", datetime(2011, 12, 30, 10, 0, tzinfo=UTC))
@example("day", "America/Sao_Paulo", datetime(2018, 11, 4, 3, 0, tzinfo=UTC))
def test_every_instant_lies_in_the_bounds_of_its_period_alone(
    every: str, zone: str, when: datetime
) -> None:
    periods = calendar(every, zone)
    period = periods.of(when)
    start, end = utc(periods, period)
    assert start <= when < end
    assert periods.of(start) == period
    assert periods.of(end) != period
    assert not periods.closed(period, end - timedelta(microseconds=1))
    assert periods.closed(period, end)


@given(st.sampled_from(CALENDAR), st.sampled_from(ZONES), DAYS)
def test_periods_follow_each_other_without_gap_or_overlap(every: str, zone: str, day: date) -> None:
    periods = calendar(every, zone)
    period = periods.of(day)
    following = periods.after(period)
    assert following is not None
    assert utc(periods, period)[1] == utc(periods, following)[0]
    assert periods.ordinal(period) < periods.ordinal(following)
    assert period < following, "the order of ids as texts is their order in time"
    assert periods.between(period, following) == [period, following]


@given(st.sampled_from(CALENDAR), DAYS)
def test_a_day_lies_in_the_period_that_it_names(every: str, day: date) -> None:
    periods = calendar(every)
    period = periods.check(periods.of(day))
    start, end = periods.bounds(period)  # type: ignore[misc]
    assert start.date() <= day < end.date()


def test_a_time_without_a_zone_is_in_the_configured_one() -> None:
    periods = calendar("day", "Asia/Tokyo")
    assert periods.of(datetime(2026, 1, 31, 23, 0)) == "2026-01-31"
    assert periods.of(datetime(2026, 1, 31, 23, 0, tzinfo=UTC)) == "2026-02-01"
    assert periods.bounds("2026-01-31") == (
        datetime(2026, 1, 31, tzinfo=ZoneInfo("Asia/Tokyo")),
        datetime(2026, 2, 1, tzinfo=ZoneInfo("Asia/Tokyo")),
    )


@pytest.mark.parametrize(
    ("every", "period", "ordinal", "following"),
    [
        ("day", "2026-01-31", 20260131, "2026-02-01"),
        ("week", "2026-W53", 202653, "2027-W01"),
        ("month", "2026-12", 202612, "2027-01"),
        ("quarter", "2018-Q4", 20184, "2019-Q1"),
        ("year", "2026", 2026, "2027"),
    ],
)
def test_ids_and_numbers(every: str, period: str, ordinal: int, following: str) -> None:
    periods = calendar(every)
    assert periods.check(period) == period
    assert periods.ordinal(period) == ordinal
    assert periods.after(period) == following
    assert periods.check(CALENDARS[every].example)


@pytest.mark.parametrize(
    ("every", "wrong"),
    [
        ("day", "2026-02-30"),
        ("day", "2026-2-3"),
        ("week", "2025-W53"),
        ("week", "2026-W00"),
        ("month", "2026-13"),
        ("month", "2026-1"),
        ("month", "2026-01-15"),
        ("month", "٢٠٢٦-01"),
        ("month", "0999-12"),
        ("month", "9999-01"),
        ("quarter", "2018-Q5"),
        ("quarter", "2018q2"),
        ("year", "26"),
        ("year", ""),
        ("year", "2026\n"),
    ],
)
def test_a_wrong_id_is_refused_with_the_pattern(every: str, wrong: str) -> None:
    with pytest.raises(InputError, match=CALENDARS[every].example):
        calendar(every).check(wrong)


def test_a_finer_date_is_answered_with_its_period() -> None:
    with pytest.raises(InputError, match="did you mean 2026-01"):
        calendar("month").check("2026-01-15")


def test_years_that_ids_can_not_hold_are_refused() -> None:
    periods = calendar("month", "Asia/Tokyo")
    for when in (date(999, 1, 1), datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23)):
        with pytest.raises(InputError):
            periods.of(when)
    assert periods.after("9998-12") is None
    assert periods.bounds("9998-12") is not None


def test_named_periods_are_those_of_the_order() -> None:
    assert NAMED.check("home") == "home"
    assert [NAMED.ordinal(p) for p in NAMED.order] == [1, 2, 3, 4]
    assert NAMED.bounds("home") is None
    assert NAMED.closed("home", datetime.now(UTC))
    assert (NAMED.after("kitchen"), NAMED.after("home")) == ("home", None)
    with pytest.raises(InputError, match="did you mean banking"):
        NAMED.check("bankin")
    with pytest.raises(InputError, match="add it to"):
        NAMED.check("xyzzy")
    with pytest.raises(InputError, match="have no dates"):
        NAMED.of(date(2026, 1, 1))


def test_ranges_expand_in_order_each_once() -> None:
    assert calendar("quarter").expand(["2018-Q3..2019-Q1", "2018-Q4", "2020-Q1"]) == [
        "2018-Q3",
        "2018-Q4",
        "2019-Q1",
        "2020-Q1",
    ]
    assert NAMED.expand(["credit_cards..home", "banking"]) == [
        "credit_cards",
        "kitchen",
        "home",
        "banking",
    ]
    assert NAMED.expand(["home..home"]) == ["home"]
    for wrong in ("home..banking", "..home", "home..", "nothing"):
        with pytest.raises(InputError):
            NAMED.expand([wrong])


def test_a_period_is_closed_from_its_end_on() -> None:
    months = calendar("month", "Europe/Berlin")
    end = datetime(2027, 3, 31, 22, 0, tzinfo=UTC)
    months.check_closed("2027-03", end)
    message = r"2027-03 has not closed yet \(it ends 2027-04-01 00:00 Europe/Berlin\)"
    with pytest.raises(InputError, match=message):
        months.check_closed("2027-03", end - timedelta(seconds=1))
    NAMED.check_closed("home", end)


def test_what_is_due() -> None:
    months, now = calendar("month"), datetime(2026, 5, 1, tzinfo=UTC)
    gap_and_rest = ["2025-12", "2026-02", "2026-03", "2026-04"]
    assert months.due(["2026-01", "2025-11"], now) == gap_and_rest
    assert months.due(["2026-04", "2026-01"], now) == ["2026-02", "2026-03"]
    assert months.due(["2026-04"], now) == []
    assert months.due([], now) == []
    assert NAMED.due(["kitchen", "banking"], now) == ["credit_cards", "home"]
    assert NAMED.due(["home", "credit_cards"], now) == ["banking", "kitchen"]
    assert NAMED.due(["long_gone", "kitchen"], now) == ["banking", "credit_cards", "home"]
    assert NAMED.due([], now) == list(NAMED.order)


@pytest.mark.parametrize(
    ("every", "zone", "key", "period"),
    [
        ("month", "UTC", "2026-09-01T03:00:00", "2026-08"),
        ("month", "UTC", "2026-09-01T00:00:00", "2026-08"),
        ("month", "UTC", "2026-08-31T23:59:59", "2026-07"),
        ("month", "America/New_York", "2026-09-01T03:00:00+00:00", "2026-07"),
        ("month", "UTC", "2026-08", "2026-08"),
        ("day", "UTC", "2026-09-01", "2026-09-01"),
        ("day", "UTC", "2026-09-01T03:00:00", "2026-08-31"),
        ("week", "UTC", "2026-01-05T03:00:00", "2026-W01"),
        ("quarter", "UTC", "2026-01-02", "2025-Q4"),
        ("year", "UTC", "2026-01-02", "2025"),
    ],
)
def test_a_partition_key_names_the_period_that_had_closed(
    every: str, zone: str, key: str, period: str
) -> None:
    assert calendar(every, zone).for_partition(key) == period


def test_a_partition_key_that_names_nothing_is_refused() -> None:
    assert NAMED.for_partition("home") == "home"
    with pytest.raises(InputError, match="ISO 8601"):
        calendar("month").for_partition("tomorrow")
    with pytest.raises(InputError):
        NAMED.for_partition("2026-09-01T03:00:00")
