"""Schedules whose last tick is long ago, whatever day it is, and whose next one is far away.

Airflow gives a DAG that has had no run, and no start, one of its last tick where less than a tenth
of the time to the next has gone by since: a test that counts runs would have one more on some days.
"""

from datetime import UTC, datetime

NOW = datetime.now(UTC)
DAY = (NOW.day + 14) % 28 + 1
"""Of the month, two weeks away."""

MONTHLY = f"0 3 {DAY} * *"
YEARLY = f"0 3 1 {(NOW.month + 5) % 12 + 1} *"
"""Half a year away."""


def newest_ticks(number: int) -> list[datetime]:
    """The newest ticks of MONTHLY until now, oldest first."""
    months = range(NOW.year * 12 + NOW.month - 1 - number, NOW.year * 12 + NOW.month)
    ticks = [datetime(n // 12, n % 12 + 1, DAY, 3, tzinfo=UTC) for n in months]
    return [tick for tick in ticks if tick <= NOW][-number:]
