"""Accuracy over versions: a small panel for each period.

Called by `figures`.
"""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from updater import statistics
from updater.report import style
from updater.report.data import Cell, ReportData, Version


def accuracy_over_versions(data: ReportData) -> Figure:
    """A panel for each period: every version's accuracy with its 95 % interval (Wilson). The line
    follows the report's version and its bases from the one that learnt the period; hollow versions
    were never deployed; the shade ends where the period was learnt.

    The axis starts just below what this line reaches; what lies under it is drawn at its foot.
    """
    count = len(data.periods)
    columns = min(count, 2 if count <= 4 else 3 if count <= 9 else 5)
    rows = math.ceil(count / columns)
    height = 132.0 if columns < 5 else 104.0
    with style.styled():
        figure = style.new_figure(style.WIDTH, rows * height + 26)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        panels = list(grid.flat)
        floor = _floor(data)
        for axes, period in zip(panels, data.periods, strict=False):
            _period_panel(axes, data, period, floor)
        for axes in panels[count:]:
            axes.set_axis_off()
        for axes in panels[max(0, count - columns) : count]:
            axes.tick_params(labelbottom=True)
            _version_ticks(axes, [v.id for v in data.versions])
        figure.supxlabel("version", size=8.5, color=style.MUTED)
        figure.supylabel("accuracy, %", size=8.5, color=style.MUTED)
    return figure


def _floor(data: ReportData) -> float:
    """The lowest bound of this version and its bases on what they had learnt, as a round number in
    0..80, so that differences of a few points can be seen."""
    lows = [
        statistics.wilson(cell.num_correct, cell.num_examples).low
        for version in data.lineage()
        for period in version.learnt
        if (cell := data.scores.get((version.id, period))) is not None
    ]
    return min(80.0, 10.0 * math.floor(10 * min(lows, default=0.0)))


def _period_panel(axes: Axes, data: ReportData, period: str, floor: float) -> None:
    line = [row.id for row in data.lineage() if period in row.learnt]
    scored = [
        (x, version, cell)
        for x, version in enumerate(data.versions)
        if (cell := data.scores.get((version.id, period))) is not None
    ]
    above = [one for one in scored if 100 * one[2].accuracy >= floor]
    below = [x for x, _, cell in scored if 100 * cell.accuracy < floor]
    axes.plot(
        below,
        [floor] * len(below),
        "v",
        ms=4,
        mfc=style.SURFACE,
        mec=style.MUTED,
        clip_on=False,
        in_layout=False,
    )
    for colour, inside in ((style.MUTED, False), (style.BLUE, True)):
        part = [one for one in above if (one[1].id in line) is inside]
        axes.plot(*_bars(part), color=colour, lw=2.6, alpha=0.35)
        for deployed in (False, True):
            dots = [(x, 100 * cell.accuracy) for x, v, cell in part if v.was_deployed is deployed]
            fill = colour if deployed else style.SURFACE
            axes.plot(*_columns(dots), "o", ms=3.4, mfc=fill, mec=colour, mew=1.1)
    followed = [(x, 100 * cell.accuracy) for x, v, cell in above if v.id in line]
    axes.plot(*_columns(followed), color=style.BLUE, lw=1.1, zorder=1.5)
    subject = [(x, 100 * cell.accuracy) for x, v, cell in above if v.id == data.version]
    axes.plot(*_columns(subject), "o", ms=6, mfc="none", mec=style.BLUE, mew=1.2)
    _period_frame(axes, data, period, floor)


def _bars(part: Sequence[tuple[int, Version, Cell]]) -> tuple[list[float], list[float]]:
    """The 95 % intervals as one broken line: a hundred small paths would double the page."""
    xs: list[float] = []
    ys: list[float] = []
    for x, _, cell in part:
        bounds = statistics.wilson(cell.num_correct, cell.num_examples)
        xs += [x, x, math.nan]
        ys += [100 * bounds.low, 100 * bounds.high, math.nan]
    return xs, ys


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _period_frame(axes: Axes, data: ReportData, period: str, floor: float) -> None:
    learnt = next((x for x, v in enumerate(data.versions) if period in v.learnt), None)
    end = len(data.versions) - 0.5 if learnt is None else learnt - 0.5
    if end > 0:
        axes.axvspan(-0.6, end, color=style.MUTED, alpha=0.09, lw=0)
    axes.set_title(style.shortened(period, 26), color=style.INK)
    axes.set_ylim(floor, 101.5)
    axes.set_yticks([floor, (floor + 100) / 2, 100])
    axes.set_xlim(-0.6, len(data.versions) - 0.4)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)


def _version_ticks(axes: Axes, names: Sequence[str]) -> None:
    stride = math.ceil(len(names) / 8)
    shown = list(range(0, len(names), stride))
    axes.set_xticks(shown, [style.shortened(names[i], 8) for i in shown])
