"""A study's curves: accuracy over the stream, against cost, and against scratch on everything.

Each takes the table and returns a figure, or None where there is nothing to draw. Bands and bars
are 95 % intervals over seeds (Student's t), cut where an accuracy can't be, and absent with one
seed. Called by `updater.study.report.pictures`.
"""

import itertools
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from updater.report import style
from updater.study.comparison import Estimate
from updater.study.ratios import Curve, over_updates, ratios
from updater.study.report.drawing import name_lines, new_figure, period_ticks, tidy, within
from updater.study.report.looks import COSTS, Mark, costs, front, marks
from updater.study.report.point_names import name_points
from updater.study.tabulated import Arm, Table


def stream(table: Table) -> Figure | None:
    """Mean accuracy over the periods learnt by then, after the first model and each update. None
    where none is learnt, nor of a replay, of which `served.as_deployed` draws the same with what
    the gate said."""
    if table.judged or table.learns_nothing:
        return None
    looks = marks(table)
    curves = {
        arm.name: curve for arm in table.arms if arm.name in looks and (curve := over_updates(arm))
    }
    if not curves:
        return None
    with style.styled():
        figure = new_figure(300)
        axes = figure.add_subplot()
        _curves(axes, curves, looks, top=100.0)
        run = next(run for arm in table.arms for run in arm.finished)
        updates = [f"+ {stage.period}" for stage in run.stages[1:]]
        period_ticks(axes, ["first model", *updates])
        axes.set_ylabel("mean accuracy over periods so far, %")
        _name_ends(axes, curves, looks)
    return figure


def ratio(table: Table) -> Figure | None:
    """An update against training from scratch on everything, by the number of past periods: the
    accuracy over all periods learnt by then, and the optimizer steps, each in percent of it.

    None where there is no such arm, or no other; nor with one number of past periods, as with one
    update or `every = "last"`: a point makes no curve, and the table says as much.
    """
    looks = marks(table)
    found = ratios(table)
    drawn = [
        (label, target, curves)
        for name, label, target in _RATIOS
        if (curves := {arm: c for arm, c in found.get(name, {}).items() if arm in looks})
    ]
    xs = sorted({x for _, _, curves in drawn for curve in curves.values() for x in curve})
    if len(xs) < 2:
        return None
    with style.styled():
        figure = new_figure(20 + 215 * len(drawn))
        grid = figure.subplots(len(drawn), 1, squeeze=False, sharex=True)
        for axes, (label, target, curves) in zip(grid.flat, drawn, strict=True):
            _curves(axes, curves, looks, top=float("inf"))
            axes.axhline(100 * target, color=style.MUTED, lw=1, ls=":", zorder=0.5)
            axes.set_ylabel(label)
        grid[-1, 0].set_ylim(bottom=0)
        grid[-1, 0].set_xticks(xs, [str(x) for x in xs])
        grid[-1, 0].set_xlabel("past periods when the update began")
        for axes, (_, _, curves) in zip(grid.flat, drawn, strict=True):
            _name_ends(axes, curves, looks)
    return figure


_RATIOS = (
    ("accuracy", "accuracy, % of scratch", 0.97),
    ("steps", "optimizer steps, % of scratch", 0.2),
)
"""A quantity, its axis, and the dotted line: the targets that this project set itself."""


def _curves(
    axes: Axes, curves: Mapping[str, Curve], looks: Mapping[str, Mark], *, top: float
) -> None:
    """In percent, of which there are none below 0 or above `top`."""
    for name, curve in curves.items():
        look, xs = looks[name], list(curve)
        halves = [100 * (e.half_width or 0.0) for e in curve.values()]
        if any(halves):
            ends = [(100 * e.mean, half) for e, half in zip(curve.values(), halves, strict=True)]
            lows, highs = [max(0.0, y - h) for y, h in ends], [min(top, y + h) for y, h in ends]
            axes.fill_between(xs, lows, highs, color=look.colour, alpha=0.13, lw=0)
        ys = [100 * e.mean for e in curve.values()]
        line = axes.plot(xs, ys, color=look.colour, ls=look.dash, lw=1.6, clip_on=False)[0]
        line.set(marker=look.marker, ms=4, mew=0)
    tidy(axes)
    axes.margins(x=0.02)
    within(axes, top)


def _name_ends(axes: Axes, curves: Mapping[str, Curve], looks: dict[str, Mark]) -> None:
    ends: dict[str, tuple[float, float]] = {}
    for name, curve in curves.items():
        x = max(curve)
        ends[name] = (x, 100 * curve[x].mean)
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    name_lines(axes, ends, looks)


def cost(table: Table) -> Figure | None:
    """Final average accuracy against the wall seconds and the optimizer steps of all updates, with
    the Pareto front: of all arms whose costs compare, those that none beats in both. An arm that
    trained at the last update alone is hollow. None without a finished arm, or where no update is
    learnt."""
    looks = marks(table)
    arms = [arm for arm in table.arms if arm.name in looks]
    if not arms or table.learns_nothing:
        return None
    with style.styled():
        figure = new_figure(500)
        edges = [_edge(table, measure) for measure in COSTS]
        labels = ("wall seconds of all updates", "optimizer steps")
        figure.subplots(len(COSTS), 1)
        for axes, measure, edge, label in zip(figure.axes, COSTS, edges, labels, strict=True):
            _cost_panel(axes, arms, looks, measure, edge)
            axes.set_xlabel(label)
            axes.set_ylabel("final average accuracy, %")
        for axes, measure, edge in zip(figure.axes, COSTS, edges, strict=True):
            _name_costs(axes, arms, looks, measure, edge)
    return figure


def _edge(table: Table, measure: str) -> list[tuple[float, float]]:
    """The Pareto front's (cost, percent), by rising cost."""
    known = costs(table, measure)
    return [(known[name][0], 100 * known[name][1]) for name in front(known)]


def _point(arm: Arm, measure: str) -> tuple[float, Estimate]:
    across, up = arm.estimate(measure), arm.estimate("final_average_accuracy")
    assert across is not None, "only arms that finished are drawn"
    assert up is not None, "only arms that finished are drawn"
    return across.mean, up


def _cost_panel(
    axes: Axes,
    arms: Sequence[Arm],
    looks: Mapping[str, Mark],
    measure: str,
    edge: Sequence[tuple[float, float]],
) -> None:
    axes.step(
        [x for x, _ in edge],
        [y for _, y in edge],
        where="post",
        color=style.MUTED,
        lw=1.2,
        ls=(0, (3, 2)),
        zorder=1,
    )
    points = {arm.name: _point(arm, measure) for arm in arms}
    for arm in arms:
        look, (x, y) = looks[arm.name], points[arm.name]
        low, high = _bar(y)
        mean = 100 * y.mean
        drawn = axes.errorbar([x], [mean], [[mean - low], [high - mean]], color=look.colour)
        drawn[0].set(marker=look.marker, ms=6, clip_on=False)
        if arm.learnt_at_last_alone:
            drawn[0].set(mfc=style.SURFACE)
    _cost_axis(axes, [x for x, _ in points.values()])
    tidy(axes)
    axes.margins(y=0.12)
    within(axes)


def _bar(found: Estimate) -> tuple[float, float]:
    """The ends of the interval in percent, cut where an accuracy can't be."""
    mean, half = 100 * found.mean, 100 * (found.half_width or 0.0)
    return max(0.0, mean - half), min(100.0, mean + half)


def _cost_axis(axes: Axes, costs: Sequence[float]) -> None:
    """By decades where the dearest costs much more than the cheapest that costs anything."""
    some = [cost for cost in costs if cost > 0]
    if some and max(some) > 8 * min(some):
        axes.set_xscale("symlog", linthresh=min(some) / 2, linscale=0.3)
        low, high = (0.0 if 0 in costs else min(some) / 1.6), max(some) * 1.8
        axes.set_xlim(-0.15 * min(some) if 0 in costs else low, high)
        ticks = [0.0, *(m * 10.0**e for e in range(-3, 10) for m in (1, 2, 5))]
        axes.set_xticks([t for t in ticks if low <= t <= high and (t == 0 or t > min(some) / 2)])
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.6g}")
        axes.xaxis.set_minor_locator(NullLocator())
    elif some:
        axes.set_xlim(-0.03 * max(some), max(some) * 1.1)


def _name_costs(
    axes: Axes,
    arms: Sequence[Arm],
    looks: Mapping[str, Mark],
    measure: str,
    edge: Sequence[tuple[float, float]],
) -> None:
    points, lines = {}, []
    for arm in arms:
        x, y = _point(arm, measure)
        points[arm.name] = (x, 100 * y.mean)
        low, high = _bar(y)
        lines.append([(x, low), (x, high)])
    for one, other in itertools.pairwise(edge):
        corner = (other[0], one[1])
        lines += [[one, corner], [corner, other]]
    name_points(axes, points, looks, lines)
