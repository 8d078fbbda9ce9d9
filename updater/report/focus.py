"""What the pictures show where there are too many periods or versions for one: those that matter.

Nothing is left out of the page: it says what is not drawn, and has every number in its tables.
Called by `page` and `figures`.
"""

import dataclasses

from updater.report.data import ReportData, Version

MOST_PERIODS = 24
MOST_VERSIONS = 24
# Of the places for periods: what is new comes first, then what lost most, the weakest, the newest.
NEWEST, WEAKEST = 6, 4


def focused(data: ReportData) -> ReportData:
    """`data` with at most `MOST_PERIODS` periods and the gate's comparisons on them; itself where
    it has no more. Versions stay, for a line of descent needs all of them."""
    if not is_cut(data):
        return data
    kept = set(_chosen(data))
    judgement = data.judgement
    if judgement is not None:
        comparisons = tuple(c for c in judgement.comparisons if c["period"] in kept)
        judgement = dataclasses.replace(judgement, comparisons=comparisons)
    periods = tuple(period for period in data.periods if period in kept)
    return dataclasses.replace(data, periods=periods, judgement=judgement)


def is_cut(data: ReportData) -> bool:
    """Whether there are more periods than the pictures show."""
    return len(data.periods) > MOST_PERIODS


def _chosen(data: ReportData) -> list[str]:
    """The periods that are drawn: new to the version, worst hit, weakest, and newest."""
    subject = data.subject
    past = [period for period in subject.learnt if period not in subject.new]
    new = list(subject.new if subject.base is not None else ())[-NEWEST:]
    weakest = sorted(past, key=lambda period: _accuracy(data, period))[:WEAKEST]
    newest = list(data.periods[-NEWEST:])
    hit = sorted(past, key=lambda period: _change(data, period))
    first = dict.fromkeys([*new, *weakest, *newest])
    every = list(dict.fromkeys([*first, *hit, *data.periods]))
    return every[:MOST_PERIODS]


def _accuracy(data: ReportData, period: str) -> float:
    found = data.accuracy(data.version, period)
    return -1.0 if found is None else found  # what was not measured is not passed over


def _change(data: ReportData, period: str) -> float:
    """What the version lost on the period since its base; without one, nothing."""
    base = data.subject.base
    before = None if base is None else data.accuracy(base, period)
    after = data.accuracy(data.version, period)
    return 0.0 if before is None or after is None else after - before


def rows(data: ReportData) -> tuple[Version, ...]:
    """The versions with a row of numbers: the report's, its base, what users have, and those around
    it, oldest first."""
    if len(data.versions) <= MOST_VERSIONS:
        return data.versions
    ids = [version.id for version in data.versions]
    here = ids.index(data.version)
    named = {data.version, data.subject.base, data.deployed}
    last = min(len(ids), here + MOST_VERSIONS // 4)
    window = ids[max(0, last - (MOST_VERSIONS - len(named))) : last]
    kept = named | set(window)
    return tuple(version for version in data.versions if version.id in kept)
