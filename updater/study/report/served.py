"""A replay's picture: what users would have had at each time, and the verdicts that led there.

Called by `updater.study.report.pictures`.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from updater.report import style
from updater.study.ratios import Curve, over_updates
from updater.study.report.drawing import name_lines, new_figure, period_ticks, tidy, within
from updater.study.report.looks import Mark, marks
from updater.study.tabulated import Table


def as_deployed(table: Table) -> Figure | None:
    """Mean accuracy that users had over all periods that had closed by then, learnt or not: each
    arm a step line, the mean over seeds. A hollow mark is an update of which not every seed's was
    deployed. Arms without updates to judge (frozen) are drawn beside them. None where nothing was
    replayed."""
    looks = marks(table)
    arms = [arm for arm in table.arms if arm.name in looks]
    if not (table.judged and arms):
        return None
    with style.styled():
        figure = new_figure(300)
        axes = figure.add_subplot()
        ends = {}
        for arm in arms:
            curve = over_updates(arm)
            flags = [[stage.deployed for stage in run.stages] for run in arm.finished]
            deployed = [all(column) for column in zip(*flags, strict=True)]
            _line(axes, curve, deployed, looks[arm.name])
            last = len(deployed) - 1
            if last in curve:
                ends[arm.name] = (last + 0.5, 100 * curve[last].mean)
        run = arms[0].finished[0]
        period_ticks(axes, ["first model", *(f"+ {stage.period}" for stage in run.stages[1:])])
        axes.set_ylabel("accuracy that users had, %")
        axes.set_xlim(-0.2, len(run.stages) - 0.5)
        within(axes)
        tidy(axes)
        name_lines(axes, ends, looks)
    return figure


def _line(axes: Axes, curve: Curve, deployed: Sequence[bool], look: Mark) -> None:
    xs, ys = list(curve), [100 * found.mean for found in curve.values()]
    line = axes.step([*xs, xs[-1] + 0.5], [*ys, ys[-1]], where="post", color=look.colour, lw=1.6)[0]
    line.set(ls=look.dash, clip_on=False)
    for x, y in zip(xs, ys, strict=True):
        fill = look.colour if deployed[x] else style.SURFACE
        axes.plot([x], [y], look.marker, ms=5, mfc=fill, mec=look.colour, clip_on=False)
