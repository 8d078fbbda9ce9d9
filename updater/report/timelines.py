"""Pictures along time: accuracy over versions, what users had, and the training curve.

Called by `figures`.
"""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from updater import statistics
from updater.report import style
from updater.report.data import Cell, ReportData, Version, known_at

_MOST_POINTS = 400  # of a training curve: more can't be seen at this width


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


def as_deployed(data: ReportData) -> Figure | None:
    """What users had after each promotion and rollback: the mean over all periods that had been
    served by then, and the weakest of them. None where nothing was ever deployed.

    A mean is over the periods that have a score; where one lacks, the point is hollow.
    """
    if not data.deployments:
        return None
    served = known_at(data.deployments, data)
    found = [
        [data.accuracy(d.version, p) for p in periods]
        for d, periods in zip(data.deployments, served, strict=True)
    ]
    scored = [[100 * s for s in row if s is not None] for row in found]
    with style.styled():
        figure = style.new_figure(style.WIDTH, 240)
        axes = figure.add_subplot()
        means = [sum(row) / len(row) if row else math.nan for row in scored]
        worsts = [min(row) if row else math.nan for row in scored]
        xs = range(len(scored) + 1)
        for values, colour, dash, name in (
            (means, style.BLUE, "-", "mean over the periods served so far"),
            (worsts, style.BAD, (0, (3, 1.5)), "weakest of them"),
        ):
            axes.step(
                xs, [*values, values[-1]], where="post", color=colour, lw=2, ls=dash, label=name
            )
            for x, value in enumerate(values):
                whole = None not in found[x]
                fill = colour if whole else style.SURFACE
                axes.plot([x], [value], "o", ms=5, mfc=fill, mec=colour)
        _mark_rollbacks(axes, data)
        axes.set_xlim(-0.25, len(scored) + 0.05)
        axes.set_ylim(-4, 104)
        axes.set_ylabel("accuracy, %")
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        _event_ticks(axes, data)
        figure.legend(loc="outside upper left", ncols=3)
    return figure


def _mark_rollbacks(axes: Axes, data: ReportData) -> None:
    back = [x for x, d in enumerate(data.deployments) if d.kind == "rolled_back"]
    for x in back:
        axes.axvline(x, color=style.UNSURE, lw=1.1, ls=":")
    if back:
        axes.plot([], [], color=style.UNSURE, lw=1.1, ls=":", label="rolled back")


def _event_ticks(axes: Axes, data: ReportData) -> None:
    crowded = len(data.deployments) > 9
    stride = math.ceil(len(data.deployments) / 30)
    shown = range(0, len(data.deployments), stride)
    names = []
    for x in shown:
        event = data.deployments[x]
        day, clock = event.at[:10], event.at[11:16]
        name = f"version {style.shortened(event.version, 10)}"
        names.append(
            f"v{style.shortened(event.version, 8)} {day}" if crowded else f"{name}\n{day}\n{clock}"
        )
    axes.set_xticks(list(shown), names, rotation=50 if crowded else 0)
    for label in axes.get_xticklabels():
        label.set(
            ha="right" if crowded else "left", rotation_mode="anchor" if crowded else "default"
        )
        label.set_fontsize(7.5)


def training_curve(data: ReportData) -> Figure | None:
    """Loss by optimizer step, and below it the penalty where there was one. None without points."""
    losses = {
        name: points
        for name, points in data.curve.items()
        if name.rpartition("/")[2].startswith("loss") and points
    }
    penalty = next((p for n, p in data.curve.items() if n.rpartition("/")[2] == "penalty"), ())
    has_penalty = any(value > 0 for _, value in penalty)
    if not losses:
        return None
    with style.styled():
        figure = style.new_figure(style.WIDTH, 310 if has_penalty else 210)
        grid = figure.subplots(
            1 + has_penalty, 1, squeeze=False, sharex=True, height_ratios=[2, 1][: 1 + has_penalty]
        )
        _losses(grid[0, 0], losses)
        if has_penalty:
            axes = grid[1, 0]
            axes.plot(*_thinned(penalty), color=style.UNSURE, lw=1.4)
            axes.set_ylabel("penalty")
            _plain(axes)
        grid[-1, 0].set_xlabel("optimizer step")
    return figure


_CURVES = {
    "loss": (style.BLUE, "-", "all examples"),
    "loss_new": (style.BAD, (0, (4, 1.5)), "new examples"),
    "loss_rehearsed": (style.GOOD, (0, (1.5, 1.2)), "rehearsed examples"),
}


def _losses(axes: Axes, losses: dict[str, tuple[tuple[int, float], ...]]) -> None:
    for name, points in losses.items():
        short = name.rpartition("/")[2]
        colour, dash, label = _CURVES.get(short, (style.MUTED, "-", short))
        marker = "o" if len(points) == 1 else ""
        axes.plot(*_thinned(points), color=colour, ls=dash, lw=1.4, marker=marker, label=label)
    axes.set_ylabel("loss, nats per token")
    if len(losses) > 1:
        axes.legend()
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)


def _thinned(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """Means of runs of points, at most `_MOST_POINTS` of them, at the runs' last steps."""
    run = math.ceil(len(points) / _MOST_POINTS)
    runs = [points[i : i + run] for i in range(0, len(points), run)]
    return [r[-1][0] for r in runs], [sum(v for _, v in r) / len(r) for r in runs]
